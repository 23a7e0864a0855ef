"""Clusters of channel weights."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

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


def test_they_are_those_of_the_kernels_rows(weight):
    weight = np.random.default_rng(1).normal(size=weight.shape).astype(np.float32)
    kernel = weight.astype(float) @ weight.T
    expected = fcluster(linkage(kernel, "ward"), 6, "maxclust")
    found = channels.channel_clusters(weight, 6)
    assert len(set(zip(expected, found, strict=True))) == len(set(expected)) == 6


@pytest.mark.filterwarnings("ignore:One of the clusters is empty")
def test_many_vertices_are_joined_by_way_of_centres(weight, monkeypatch):
    monkeypatch.setattr(channels, "CENTRES", 12)
    found = channels.channel_clusters(weight, 3)
    np.testing.assert_array_equal(found, np.repeat([0, 1, 2], [30, 20, 10]))
    np.testing.assert_array_equal(found, channels.channel_clusters(weight, 3))
