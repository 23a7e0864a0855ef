"""Which vertices read a network through the same channels, and how far two groupings agree.

    groups = {name: channel_clusters(reads) for name, reads in weights.items()}
    groups = same_colours(groups)
    agreement(groups["CLIP"], groups["SAM"], patches_of(subject.coordinates))

Sec. 4.5 and E.2: the kernel W Wᵀ, whose row i says how alike vertex i is to every vertex; k-means
of its rows to 1000 centres; Ward's joining of those to 20 clusters. Ours end with k-means from
there, and are of what vertices read (`readings.what_is_read`): of both, two seeds of a fit agree
better. The paper's kernel is that of `kernel_factor(W)`.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.metrics.cluster import contingency_matrix

CLUSTERS = 20  # as in Fig. 8
CENTRES = 1000  # of the k-means before
DIRECT = 5000  # vertices that are joined without it: where its centres fall moves the groups


def kernel_factor(weight: Float[np.ndarray, "vertex channel"]) -> Float[np.ndarray, "vertex d"]:
    """Rows that lie as far apart as those of the kernel K = W Wᵀ, without K: W (WᵀW)^½.

    |k_i - k_j|² = (w_i - w_j)ᵀ WᵀW (w_i - w_j), and means of rows go along, so k-means and Ward's
    method do the same on N x D numbers as on N x N.
    """
    values, vectors = np.linalg.eigh(weight.T.astype(np.float64) @ weight)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return weight @ root


def responding(
    weight: Float[np.ndarray, "vertex channel"], spread: Float[np.ndarray, "channel channel"]
) -> Float[np.ndarray, "vertex channel"]:
    """Weights W C^½, whose inner products are covariances of what vertices read: w_iᵀ C w_j.

    C: covariance of the channels over pictures. W itself says little where training is short: each
    vertex starts at weights drawn for it, and directions in which channels hardly vary keep them.
    Nor does it stay as it is if channels are mixed and the weights with them, which changes no
    response; this does.
    """
    values, vectors = np.linalg.eigh(spread.astype(np.float64))
    return weight @ ((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)


def clusters(
    rows: Float[np.ndarray, "vertex d"], n: int, centres: int, seed: int = 0
) -> Int[np.ndarray, " vertex"]:
    """k-means of more than `DIRECT` rows to `centres`, Ward's joining to n, and k-means from there;
    clusters from 0, the largest first.

    The last step is not in E.2. Ward's joining can't undo what it has joined, so that a little
    noise moves whole groups; k-means from its means does.
    """
    joined, member = rows, np.arange(len(rows))
    if len(rows) > max(centres, DIRECT):
        near = KMeans(centres, n_init=1, random_state=seed).fit(rows)
        joined, member = near.cluster_centers_, near.labels_
    ward = AgglomerativeClustering(min(n, len(joined)), linkage="ward").fit_predict(joined)[member]
    means = np.stack([rows[ward == i].mean(0) for i in range(ward.max() + 1)])
    moved = KMeans(len(means), init=means, n_init=1).fit_predict(rows)
    _, group, size = np.unique(moved, return_inverse=True, return_counts=True)
    rank = np.empty(len(size), int)
    rank[np.argsort(-size, kind="stable")] = np.arange(len(size))
    return rank[group]


def channel_clusters(
    rows: Float[np.ndarray, "vertex channel"], n: int = CLUSTERS, seed: int = 0
) -> Int[np.ndarray, " vertex"]:
    """The cluster of each vertex by the channels that it reads, from 0, the largest first."""
    return clusters(rows, n, CENTRES, seed)


def same_colours(
    groups: Mapping[str, Int[np.ndarray, " vertex"]], reference: str | None = None
) -> dict[str, Int[np.ndarray, " vertex"]]:
    """Groupings of the same vertices, each one's clusters numbered as those of the reference (the
    first) that they share most vertices with, one to one; what is left over gets further numbers.
    """
    first = groups[next(iter(groups)) if reference is None else reference]
    numbered = {}
    for name, group in groups.items():
        shared = contingency_matrix(first, group)
        ours, theirs = linear_sum_assignment(shared, maximize=True)
        own, known = np.unique(group), np.unique(first)
        number = dict(zip(own[theirs], known[ours], strict=True))
        left = (cluster for cluster in own if cluster not in number)
        number |= {cluster: known.max() + 1 + i for i, cluster in enumerate(left)}
        numbered[name] = np.array([number[cluster] for cluster in group])
    return numbered


def agreement(
    one: Int[np.ndarray, " vertex"],
    other: Int[np.ndarray, " vertex"],
    patches: Int[np.ndarray, " vertex"],
    samples: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, " draw"]:
    """The adjusted Rand index of two groupings: as they are first, then of drawn patches of cortex.

    A patch drawn twice is two patches; a vertex and its own copy are no pair.
    """
    a, b, patch = (np.unique(x, return_inverse=True)[1] for x in (one, other, patches))
    n_a, n_b, n = a.max() + 1, b.max() + 1, patch.max() + 1
    table = np.zeros((n, n_a, n_b))
    np.add.at(table, (patch, a, b), 1)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples)
    draws = np.concatenate([np.ones((1, n)), drawn])

    def pairs(counts: Float[np.ndarray, "patch cell"]) -> Float[np.ndarray, " draw"]:
        """Pairs of vertices that share a cell, a patch and its copies not paired."""
        across = np.square(draws @ counts) - np.square(draws) @ np.square(counts)
        within = draws @ (np.square(counts) - counts)
        return (across + within).sum(1) / 2

    both = pairs(table.reshape(n, -1))
    in_a, in_b = pairs(table.sum(2)), pairs(table.sum(1))
    chance = in_a * in_b / pairs(table.sum((1, 2))[:, None])
    return (both - chance) / ((in_a + in_b) / 2 - chance)
