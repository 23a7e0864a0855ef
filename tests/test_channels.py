"""Clusters of channel weights."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import cdist, pdist
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.metrics import adjusted_rand_score

from analysis import channels


@pytest.fixture
def weight():
    """Weights of vertices of three kinds, of 30, 20 and 10."""
    generator = np.random.default_rng(0)
    kinds = generator.normal(size=(3, 16))
    noise = 0.1 * generator.normal(size=(60, 16))
    return (np.repeat(kinds, [30, 20, 10], axis=0) + noise).astype(np.float32)


def test_kinds_are_found_and_numbered_by_their_size(weight):
    found = channels.channel_clusters(weight, 3)
    np.testing.assert_array_equal(found, np.repeat([0, 1, 2], [30, 20, 10]))


def test_rows_of_the_factor_lie_as_far_apart_as_those_of_the_kernel():
    for shape in ((200, 16), (10, 32)):  # fewer vertices than channels, too
        weight = np.random.default_rng(1).normal(size=shape)
        kernel = weight @ weight.T
        factor = channels.kernel_factor(weight)
        assert factor.shape == weight.shape
        np.testing.assert_allclose(pdist(factor), pdist(kernel), rtol=1e-9)
        assert np.abs(pdist(weight) - pdist(kernel)).max() > 1  # not those of the weights


def test_kmeans_and_ward_do_the_same_on_the_factor_as_on_the_kernel():
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(300, 12))
    first = rng.choice(300, 40, replace=False)
    found = {}
    for name, rows in (
        ("factor", channels.kernel_factor(weight)),
        ("kernel", weight @ weight.T),
    ):
        near = KMeans(40, init=rows[first], n_init=1).fit(rows)
        joined = AgglomerativeClustering(6, linkage="ward").fit_predict(near.cluster_centers_)
        found[name] = near.labels_, joined[near.labels_], near.inertia_
    assert len(set(found["kernel"][0])) == 40
    np.testing.assert_array_equal(found["factor"][0], found["kernel"][0])
    np.testing.assert_array_equal(found["factor"][1], found["kernel"][1])
    assert found["factor"][2] == pytest.approx(found["kernel"][2])


def test_few_vertices_are_joined_as_scipy_joins_the_kernels_rows_then_moved_to_the_nearest_mean(
    weight,
):
    weight = np.random.default_rng(1).normal(size=weight.shape).astype(np.float32)
    kernel = weight.astype(float) @ weight.T
    group = fcluster(linkage(kernel, "ward"), 6, "maxclust")
    for _ in range(20):  # Lloyd's steps
        means = np.stack([kernel[group == i].mean(0) for i in np.unique(group)])
        group = cdist(kernel, means).argmin(1)
    found = channels.channel_clusters(channels.kernel_factor(weight), 6)
    assert adjusted_rand_score(group, found) == 1


def test_many_vertices_are_joined_by_way_of_centres(weight, monkeypatch):
    monkeypatch.setattr(channels, "CENTRES", 12)
    found = channels.channel_clusters(weight, 3)
    np.testing.assert_array_equal(found, np.repeat([0, 1, 2], [30, 20, 10]))
    np.testing.assert_array_equal(found, channels.channel_clusters(weight, 3))


def test_what_is_read_stays_where_channels_are_mixed_and_weights_with_them(weight):
    rng = np.random.default_rng(3)
    tokens = rng.normal(size=(500, 16)) * np.geomspace(0.1, 3, 16)
    mix = rng.normal(size=(16, 16))
    one = channels.responding(weight, np.cov(tokens.T))
    # tokens M and weights W M^-T give the same responses
    other = channels.responding(
        weight @ np.linalg.inv(mix).T.astype(np.float32), np.cov((tokens @ mix).T)
    )
    responses = tokens @ weight.T
    np.testing.assert_allclose(one @ one.T, np.cov(responses.T), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(other @ other.T, one @ one.T, rtol=1e-3, atol=1e-3)


def test_colours_follow_the_cluster_that_shares_most_vertices():
    first = np.repeat([0, 1, 2], [30, 20, 10])
    other = np.repeat([2, 0, 1, 3], [29, 21, 6, 4])  # 2 is the first's 0, 0 its 1, 1 its 2, 3 new
    found = channels.same_colours({"a": first, "b": other})
    np.testing.assert_array_equal(found["a"], first)
    np.testing.assert_array_equal(found["b"], np.repeat([0, 1, 2, 3], [29, 21, 6, 4]))
    by_other = channels.same_colours({"a": first, "b": other}, reference="b")
    np.testing.assert_array_equal(by_other["b"], other)
    np.testing.assert_array_equal(by_other["a"], np.repeat([2, 0, 1], [30, 20, 10]))


def test_agreement_is_the_adjusted_rand_index():
    rng = np.random.default_rng(4)
    one = rng.integers(0, 4, 300)
    other = np.where(rng.random(300) < 0.5, one, rng.integers(0, 6, 300))
    draws = channels.agreement(one, other, rng.integers(0, 30, 300), samples=200)
    assert draws[0] == pytest.approx(adjusted_rand_score(one, other))
    assert draws[1:].std() > 0.01 and abs(draws[1:].mean() - draws[0]) < 0.02


def test_patches_that_are_drawn_twice_do_not_agree_with_themselves():
    rng = np.random.default_rng(5)
    n, patches = 60, np.repeat(np.arange(6), 10)  # so few that copies would matter
    one, other = rng.integers(0, 5, n), rng.integers(0, 5, n)
    draws = channels.agreement(one, other, patches, samples=2000)
    assert abs(draws[1:].mean() - draws[0]) < 0.01
    # by hand: a patch three times, its copies not paired
    count = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=2000)[0]
    vertex = np.concatenate(
        [np.flatnonzero(patches == p) for p in range(6) for _ in range(count[p])]
    )
    copy = np.repeat(np.arange(len(vertex) // 10), 10)
    pair = np.triu_indices(len(vertex), 1)
    left, right = vertex[pair[0]], vertex[pair[1]]
    allowed = (patches[left] != patches[right]) | (copy[pair[0]] == copy[pair[1]])
    a, b = (x[left] == x[right] for x in (one, other))
    both, in_a, in_b, total = ((x & allowed).sum() for x in (a & b, a, b, np.ones_like(a)))
    chance = in_a * in_b / total
    assert draws[1] == pytest.approx((both - chance) / ((in_a + in_b) / 2 - chance))
