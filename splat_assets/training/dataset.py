"""The training views: cameras scaled to the training resolution, and their pixels on demand.

Decoded pictures are kept as uint8 within a byte budget and decoded again beyond it, so that a
thousand large photos train in bounded memory. Pictures with alpha are kept premultiplied and laid
over the background of each step; masks say which pixels count.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from splat_assets.errors import UserError
from splat_assets.poses.pose_model import CameraSet, PoseModel

if TYPE_CHECKING:
    import torch

DEFAULT_CACHE_BYTES = 2 * 2**30
_MIN_TRAIN_VIEWS = 3
_SMALL_CACHE_BYTES = 64 * 2**20  # kept without looking at the count of pixels


@dataclass(frozen=True)
class TrainingView:
    """One camera and its picture at training resolution (never larger than the picture)."""

    name: str
    image: Path
    mask: Path | None
    width: int
    height: int
    K: np.ndarray  # [3, 3] float64, for width × height
    viewmat: np.ndarray  # [4, 4] float64, world → camera
    is_test: bool
    has_alpha: bool = False


@dataclass(frozen=True)
class Sample:
    """What one training step sees. Tensors are on the device of training."""

    image: torch.Tensor  # [H, W, 3] float32 in 0..1, alpha laid over the background asked for
    mask: torch.Tensor | None  # [H, W] float32, 1 = counts, 0 = ignore
    K: torch.Tensor  # [1, 3, 3] float32
    viewmat: torch.Tensor  # [1, 4, 4] float32
    width: int
    height: int


class TrainingSet:
    """All views of a `PoseModel`, split into training and held-out ones."""

    def __init__(
        self, views: list[TrainingView], *, cache_bytes: int = DEFAULT_CACHE_BYTES
    ) -> None:
        self.views = views
        self.train = [i for i, view in enumerate(views) if not view.is_test]
        self.test = [i for i, view in enumerate(views) if view.is_test]
        self.has_alpha = any(view.has_alpha for view in views)
        self._store = _PixelStore(views, cache_bytes)

    def __len__(self) -> int:
        return len(self.views)

    def sample(
        self,
        index: int,
        *,
        factor: float = 1.0,
        background: torch.Tensor | None = None,
        device: str = "cpu",
    ) -> Sample:
        """View `index` reduced by `factor` (0..1] over `background` [3] (black when None)."""
        import torch

        view = self.views[index]
        width, height = scaled_size(view.width, view.height, factor)
        pixels, mask = self._store.get(index, (width, height))
        if device == "cpu":
            from splat_assets.training.cpu_kernels import over_background

            image = over_background(pixels, background)
        else:
            image = _over_background(torch.from_numpy(pixels).to(device), background)
        K = view.K.copy()
        K[0] *= width / view.width
        K[1] *= height / view.height
        return Sample(
            image=image,
            mask=None if mask is None else (torch.from_numpy(mask).to(device) > 127).float(),
            K=torch.from_numpy(K).float()[None].to(device),
            viewmat=torch.from_numpy(view.viewmat).float()[None].to(device),
            width=width,
            height=height,
        )

    def alpha(self, index: int) -> np.ndarray | None:
        """[H, W] uint8 opacity of the picture at training resolution, None without alpha."""
        view = self.views[index]
        pixels, _ = self._store.get(index, (view.width, view.height))
        return pixels[..., 3] if pixels.shape[2] == 4 else None

    @property
    def train_centers(self) -> np.ndarray:
        """[C, 3] float64, where the cameras of training stand."""
        viewmats = self.viewmats(self.train)
        return -np.einsum("cji,cj->ci", viewmats[:, :3, :3], viewmats[:, :3, 3])

    def viewmats(self, indices: list[int]) -> np.ndarray:
        """[len(indices), 4, 4] float64, world → camera."""
        return np.stack([self.views[index].viewmat for index in indices])

    def move(self, indices: list[int], viewmats: np.ndarray) -> None:
        """Replace the cameras of some views, `viewmats` [len(indices), 4, 4]."""
        for index, viewmat in zip(indices, viewmats, strict=True):
            self.views[index] = replace(self.views[index], viewmat=viewmat)

    def prefetch(self, index: int, factor: float) -> None:
        """Begin to decode a view that is needed next, when it is not in memory."""
        view = self.views[index]
        self._store.prefetch(index, scaled_size(view.width, view.height, factor))

    def close(self) -> None:
        """Stop the decoding thread and forget the pixels."""
        self._store.close()


def _over_background(pixels: torch.Tensor, background: torch.Tensor | None) -> torch.Tensor:
    """`cpu_kernels.over_background` on a device."""
    image = pixels.float().mul_(1.0 / 255.0)
    if image.shape[2] == 3:
        return image
    rgb, alpha = image[..., :3], image[..., 3:]
    image = rgb if background is None else rgb + (1.0 - alpha) * background
    return image.clamp(0.0, 1.0).contiguous()  # resizing overshoots a little


def load_training_set(
    poses: PoseModel,
    *,
    long_side: int,
    test_every: int,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> TrainingSet:
    """The views of `poses` at `long_side`, with the dataset's split or every n-th held out.

    Raises `UserError` when there are too few cameras or an image file is missing.
    """
    cameras = poses.cameras()
    if len(cameras) < 2:
        raise UserError(
            f"{poses.path} has {len(cameras)} registered cameras; training needs at least two."
        )
    is_test = choose_split(cameras, test_every)
    views = []
    for row, name in enumerate(cameras.names):
        image = poses.images / name
        if not image.is_file():
            raise UserError(f"{image} is missing; run the camera poses of this dataset again.")
        mask = poses.masks / f"{name}.png"
        source = int(cameras.widths[row]), int(cameras.heights[row])
        width, height = scaled_size(*source, min(1.0, long_side / max(source)))
        K = cameras.Ks[row].copy()
        K[0] *= width / source[0]
        K[1] *= height / source[1]
        has_alpha = _has_alpha(image)
        views.append(
            TrainingView(
                name=name,
                image=image,
                mask=mask if mask.is_file() and not has_alpha else None,  # else it is that alpha
                width=width,
                height=height,
                K=K,
                viewmat=cameras.viewmats[row],
                is_test=bool(is_test[row]),
                has_alpha=has_alpha,
            )
        )
    return TrainingSet(views, cache_bytes=cache_bytes)


def choose_split(cameras: CameraSet, test_every: int) -> np.ndarray:
    """[N] bool, held out: none for 0, else the dataset's own split, else every n-th by name.

    The first image is held out, then every n-th after it, as the 3DGS papers do. With so few images
    that fewer than three would remain for training, none is held out.
    """
    none = np.zeros(len(cameras), dtype=bool)
    if test_every == 0:
        return none
    if cameras.is_test.any():
        chosen = cameras.is_test.copy()
    else:
        order = np.argsort(np.array(cameras.names))
        chosen = none.copy()
        chosen[order[::test_every]] = True
    return chosen if (~chosen).sum() >= _MIN_TRAIN_VIEWS else none


def scaled_size(width: int, height: int, factor: float) -> tuple[int, int]:
    """Width and height times `factor`, rounded, at least one pixel."""
    return max(1, round(width * factor)), max(1, round(height * factor))


class _PixelStore:
    """Pixels by (view, size), within a byte budget.

    What was decoded first stays: with a random order of views that serves more hits than dropping
    the least recent. A smaller size is computed from the full one, and forgotten when another of
    that view is asked for (the resolution ramp does not come back) or when a full one needs its
    place: beyond some megabytes no more is kept than all views take at full size.
    """

    def __init__(self, views: list[TrainingView], budget: int) -> None:
        self._views = views
        channels = [3 + view.has_alpha + (view.mask is not None) for view in views]
        whole = sum(v.width * v.height * c for v, c in zip(views, channels, strict=True))
        self._budget = min(budget, max(whole, _SMALL_CACHE_BYTES))
        self._used = 0
        self._kept: dict[tuple[int, tuple[int, int]], tuple[np.ndarray, np.ndarray | None]] = {}
        self._reduced: dict[int, tuple[int, int]] = {}  # the reduced size kept of a view
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[int, Future[tuple[np.ndarray, np.ndarray | None]]] = {}

    def get(self, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Pixels [H, W, 3 or 4] uint8 (premultiplied with alpha) and mask [H, W] uint8 or None."""
        key = index, size
        found = self._kept.get(key)
        if found is not None:
            if self._reduced.get(index, size) != size:  # the full one, asked for by itself
                self._forget_reduced(index)
            return found
        view = self._views[index]
        full_size = view.width, view.height
        if size == full_size:
            coming = self._coming.pop(index, None)
            entry = coming.result() if coming else _decode(view)
        else:
            pixels, mask = self.get(index, full_size)
            entry = _reduce(pixels, size), None if mask is None else _reduce(mask, size)
        nbytes = sum(array.nbytes for array in entry if array is not None)
        self._forget_reduced(index)
        while size == full_size and self._reduced and self._used + nbytes > self._budget:
            self._forget_reduced(next(iter(self._reduced)))
        if self._used + nbytes <= self._budget:
            self._kept[key] = entry
            self._used += nbytes
            if size != full_size:
                self._reduced[index] = size
        return entry

    def prefetch(self, index: int, size: tuple[int, int]) -> None:
        view = self._views[index]
        full = index, (view.width, view.height)
        if (index, size) in self._kept or full in self._kept or index in self._coming:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._coming[index] = self._pool.submit(_decode, view)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._coming.clear()
        self._kept.clear()
        self._reduced.clear()
        self._used = 0

    def _forget_reduced(self, index: int) -> None:
        size = self._reduced.pop(index, None)
        if size is not None:
            arrays = self._kept.pop((index, size))
            self._used -= sum(array.nbytes for array in arrays if array is not None)


def _decode(view: TrainingView) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a picture (and its mask) at the view's size. `UserError` when it cannot be read."""
    size = view.width, view.height
    try:
        with Image.open(view.image) as image:
            image.draft("RGB", (2 * size[0], 2 * size[1]))  # JPEG: decode a reduced size
            if _mode_has_alpha(image):
                picture = image.convert("RGBA").convert("RGBa")  # premultiplied, safe to resize
            else:
                picture = image.convert("RGB")
            pixels = _resized(picture, size)
        mask = None
        if view.mask is not None:
            with Image.open(view.mask) as image:
                mask = _resized(image.convert("L"), size)
    except (OSError, ValueError) as error:
        raise UserError(f"{view.image} cannot be read for training: {error}.") from None
    return pixels, mask


def _resized(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.array(image)


def _reduce(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Area average, the right filter for a coarser pixel grid."""
    height, width = pixels.shape[:2]
    mode = "L" if pixels.ndim == 2 else "RGB" if pixels.shape[2] == 3 else "RGBa"
    image = Image.frombytes(mode, (width, height), np.ascontiguousarray(pixels).tobytes())
    return np.array(image.resize(size, Image.Resampling.BOX))


def _has_alpha(path: Path) -> bool:
    if path.suffix.lower() in (".jpg", ".jpeg"):
        return False
    try:
        with Image.open(path) as image:
            return _mode_has_alpha(image)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read for training: {error}.") from None


def _mode_has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
