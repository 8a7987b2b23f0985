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


def nearest_pairs(
    similarity: np.ndarray, neighbours: int, *, min_gap: int = 1, every: int = 1
) -> set[tuple[int, int]]:
    """Pairs (i, j), i < j, of each `every`-th image with its most similar ones.

    Args:
        neighbours: how many per image.
        min_gap: images nearer than this in order are not considered (they are matched anyway).
    """
    count = len(similarity)
    order = np.arange(count)
    pairs = set()
    for i in range(0, count, every):
        scores = np.where(np.abs(order - i) >= min_gap, similarity[i], -np.inf)
        for j in np.argsort(-scores, kind="stable")[:neighbours]:
            if np.isfinite(scores[j]) and i != j:
                pairs.add((min(i, int(j)), max(i, int(j))))
    return pairs


def _root_sift(descriptors: np.ndarray) -> np.ndarray:
    """COLMAP's uint8 descriptors (already L1-root normalised) as unit vectors, float32."""
    found = descriptors[:FEATURES_PER_IMAGE].astype(np.float32)
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
