"""Which pairs of images are compared.

Few images: every pair. Video: neighbours in time at growing distances, and loop closures found by
appearance. Many photos: neighbours by GPS, else by appearance.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from splat_assets.poses.retrieval import image_similarity, loop_pairs, nearest_pairs

EXHAUSTIVE_PHOTOS = 80  # up to so many photos every pair is cheap
EXHAUSTIVE_FRAMES = 24
OVERLAP = 8  # video: every neighbour up to this distance, then powers of two
MAX_GAP = 64
LOOP_EVERY = 3  # video: every so-many-th frame looks for loop closures
LOOP_NEIGHBOURS = 4
NEIGHBOURS = 20  # large photo sets: pairs an image is given

Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class Matching:
    """A choice of pairs (indices into the image list, i < j, sorted) and what it is called."""

    strategy: str  # exhaustive | sequential | spatial | retrieval
    pairs: Pairs


def choose_pairs(
    wanted: str,
    database: Path,
    image_ids: list[int],
    *,
    sequences: np.ndarray | None,
    positions: np.ndarray | None,
    seed: int,
) -> Matching:
    """Select the pairs to match.

    Args:
        wanted: `PoseOptions.matching`.
        sequences: [N] the video each image is of, images being in video order; None for photos.
        positions: [N, 3] metres, NaN rows where unknown; None when there is no GPS.
    """
    count = len(image_ids)
    strategy = wanted
    if wanted == "auto":
        limit = EXHAUSTIVE_PHOTOS if sequences is None else EXHAUSTIVE_FRAMES
        if count <= limit:
            strategy = "exhaustive"
        elif sequences is not None:
            strategy = "sequential"
        else:
            strategy = "spatial" if positions is not None else "retrieval"
    if strategy == "spatial" and positions is None:
        strategy = "exhaustive" if count <= EXHAUSTIVE_PHOTOS else "retrieval"
    if strategy == "exhaustive":
        return Matching(strategy, all_pairs(count))
    similarity = image_similarity(database, image_ids, seed)
    if strategy == "sequential":
        video = np.zeros(count, np.int64) if sequences is None else sequences
        pairs = sequential_pairs(video) | loop_pairs(
            similarity, video, LOOP_NEIGHBOURS, gap=OVERLAP, every=LOOP_EVERY
        )
    elif strategy == "spatial":
        assert positions is not None
        pairs = spatial_pairs(positions, NEIGHBOURS) | nearest_pairs(similarity, 4)
    else:
        pairs = nearest_pairs(similarity, NEIGHBOURS)
    return Matching(strategy, sorted(pairs))


def all_pairs(count: int) -> Pairs:
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def sequential_pairs(sequences: np.ndarray) -> set[tuple[int, int]]:
    """Neighbours in time within a video: every distance up to `OVERLAP`, then doubling."""
    gaps = list(range(1, OVERLAP + 1))
    while gaps[-1] * 2 <= MAX_GAP:
        gaps.append(gaps[-1] * 2)
    count = len(sequences)
    near = ((i, i + gap) for gap in gaps for i in range(count - gap))
    return {(i, j) for i, j in near if sequences[i] == sequences[j]}


def spatial_pairs(positions: np.ndarray, neighbours: int) -> set[tuple[int, int]]:
    """Each image with the nearest ones by position; rows with NaN get none."""
    known = np.flatnonzero(np.isfinite(positions).all(axis=1))
    pairs = set()
    for i in known:
        distance = np.linalg.norm(positions[known] - positions[i], axis=1)
        for j in known[np.argsort(distance, kind="stable")[: neighbours + 1]]:
            if i != j:
                pairs.add((int(min(i, j)), int(max(i, j))))
    return pairs


def largest_component(database: Path, image_ids: list[int], min_inliers: int) -> int:
    """How many images hang together by verified pairs: the most any mapper could register."""
    rows = {number: row for row, number in enumerate(image_ids)}
    edges = verified_pairs(database, min_inliers)
    if not edges:
        return 0
    i, j = np.array([(rows[a], rows[b]) for a, b in edges]).T
    graph = coo_matrix((np.ones(len(i)), (i, j)), shape=(len(rows), len(rows)))
    _, labels = connected_components(graph, directed=False)
    return int(np.bincount(labels).max())


def verified_pairs(database: Path, min_inliers: int) -> Pairs:
    """Image id pairs with at least `min_inliers` geometrically verified matches."""
    with pycolmap.Database.open(database) as source:
        pair_ids, inliers = source.read_two_view_geometry_num_inliers()
    chosen = [p for p, n in zip(pair_ids, inliers, strict=True) if n >= min_inliers]
    pairs = (pycolmap.pair_id_to_image_pair(p) for p in chosen)
    return [(first, second) for first, second in pairs]
