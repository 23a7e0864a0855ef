"""Which vertices read a network through the same channels.

group = channel_clusters(fit.model.weight.numpy())
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.cluster.vq import kmeans2

CLUSTERS = 20  # as in Fig. 8
CENTRES = 1000  # of the k-means before; fewer vertices are joined directly


def channel_clusters(
    weight: Float[np.ndarray, "vertex channel"], n: int = CLUSTERS, seed: int = 0
) -> Int[np.ndarray, " vertex"]:
    """The cluster of each vertex by its channel weights, from 0, the largest cluster first.

    Vertices are compared by the rows of the kernel W Wᵀ, which say how alike each vertex is to all
    others (Sec. 4.5). Their distances are those of W (WᵀW)^½, so the kernel is never made. k-means
    to 1000 centres, then Ward's joining to n.
    """
    values, vectors = np.linalg.eigh(weight.T.astype(np.float64) @ weight)
    rows = weight @ (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    member = np.arange(len(rows))
    if len(rows) > CENTRES:
        rows, member = kmeans2(rows, CENTRES, minit="points", seed=seed, missing="warn")
    used, member = np.unique(member, return_inverse=True)
    joined = fcluster(linkage(rows[used], "ward"), n, "maxclust")[member]
    _, group, size = np.unique(joined, return_inverse=True, return_counts=True)
    rank = np.empty(len(size), int)
    rank[np.argsort(-size, kind="stable")] = np.arange(len(size))
    return rank[group]
