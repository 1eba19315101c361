"""Connected components of an undirected graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


def components(left: NDArray[np.int64], right: NDArray[np.int64], count: int) -> NDArray[np.int32]:
    """Label of the component of each of `count` nodes, int32 (count,); the edges join `left` and `right`, (P,) each."""
    graph = coo_matrix((np.ones(len(left), np.bool_), (left, right)), shape=(count, count))
    labels: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return labels
