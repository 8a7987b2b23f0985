"""Which images look alike, without matching them: VLAD descriptors (Jégou et al. 2010).

Used for loop closures in videos and for large unordered photo sets. COLMAP's own retrieval needs a
vocabulary file that would have to be downloaded; here a small vocabulary is learnt from the images
themselves.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
from scipy.cluster.vq import kmeans2, vq
from scipy.ndimage import maximum_filter1d

WORDS = 64
FEATURES_PER_IMAGE = 600  # the first ones COLMAP writes are those of the largest scale
SAMPLE = 20_000


def image_similarity(database: Path, image_ids: list[int], seed: int) -> np.ndarray:
    """Cosine similarity [N, N] float32 of the images' VLAD descriptors; 0 for featureless ones."""
    with pycolmap.Database.open(database) as source:
        per_image = [_root_sift(source.read_descriptors(number).data) for number in image_ids]
    rng = np.random.default_rng(seed)
    every = np.concatenate(per_image) if per_image else np.zeros((0, 128), np.float32)
    if len(every) < WORDS:
        return np.zeros((len(image_ids), len(image_ids)), np.float32)
    sample = every[rng.choice(len(every), min(SAMPLE, len(every)), replace=False)]
    words, _ = kmeans2(sample, WORDS, iter=10, minit="points", rng=rng)
    signatures = np.stack([_vlad(found, words) for found in per_image])
    # dimensions every image shares say nothing about which of them are alike
    signatures -= signatures.mean(axis=0)
    norms = np.linalg.norm(signatures, axis=1, keepdims=True)
    signatures /= np.maximum(norms, 1e-12)
    return signatures @ signatures.T


def nearest_pairs(similarity: np.ndarray, neighbours: int) -> set[tuple[int, int]]:
    """Pairs (i, j), i < j, of each image with its `neighbours` most similar ones."""
    pairs = set()
    for i, scores in enumerate(similarity):
        order = [int(j) for j in np.argsort(-scores, kind="stable") if j != i]
        pairs |= {(min(i, j), max(i, j)) for j in order[:neighbours]}
    return pairs


def loop_pairs(
    similarity: np.ndarray, sequences: np.ndarray, neighbours: int, *, gap: int, every: int
) -> set[tuple[int, int]]:
    """Pairs (i, j), i < j, of each `every`-th image with the moments most like it.

    A moment is a peak of the similarity along time, and the images next to it. Merely taking the
    most similar images would give the next ones in time again: a slow camera's tenth neighbour
    looks more alike than the same place seen on return.

    Args:
        sequences: [N] the video of each image, images being in video order.
        neighbours: how many per image, at most.
        gap: images up to this distance in time are not considered (they are matched anyway), and
            two peaks are farther apart than it.
    """
    crest = np.empty_like(similarity)
    for video in np.unique(sequences):
        of_video = sequences == video
        crest[:, of_video] = maximum_filter1d(
            similarity[:, of_video], 2 * gap + 1, axis=1, mode="nearest"
        )
    order = np.arange(len(similarity))
    pairs = set()
    for i in range(0, len(similarity), every):
        if similarity[i, i] <= 0:  # featureless: like none
            continue
        allowed = (sequences != sequences[i]) | (np.abs(order - i) > gap)
        ranked = order[np.argsort(-similarity[i], kind="stable")]
        ranked = ranked[allowed[ranked]]
        is_peak = similarity[i, ranked] >= crest[i, ranked]
        peaks = ranked[is_peak][:neighbours]
        beside = (np.abs(ranked[:, None] - peaks) <= gap // 2).any(axis=1) & ~is_peak
        chosen = [*peaks, *ranked[beside]][:neighbours]
        pairs |= {(min(i, int(j)), max(i, int(j))) for j in chosen}
    return pairs


def _root_sift(descriptors: np.ndarray) -> np.ndarray:
    """COLMAP's uint8 descriptors (already L1-root normalised) as unit vectors, float32."""
    found = descriptors[:FEATURES_PER_IMAGE].astype(np.float32).reshape(-1, 128)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def _vlad(found: np.ndarray, words: np.ndarray) -> np.ndarray:
    """[WORDS * 128] residuals to the nearest word, power- and L2-normalised."""
    signature = np.zeros_like(words)
    if len(found):
        nearest, _ = vq(found, words)
        np.add.at(signature, nearest, found - words[nearest])
    norms = np.linalg.norm(signature, axis=1, keepdims=True)
    flat = (signature / np.maximum(norms, 1e-12)).ravel()
    return flat / max(float(np.linalg.norm(flat)), 1e-12)
