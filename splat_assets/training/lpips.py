"""LPIPS (Zhang et al. 2018, arXiv 1801.03924), where the `lpips` package and its weights are here.

Neither is a dependency (they bring torchvision), and nothing is ever downloaded: without them the
metric is absent and the report says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Metric = Callable[[Tensor, Tensor], float]

# the networks by preference (3DGS reports VGG), and their weights as torchvision names the files
_WEIGHTS = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}


def load_lpips(device: str = "cpu") -> tuple[Metric | None, str]:
    """The metric of two pictures [H, W, 3] in 0..1 and its network's name; or None and why not."""
    try:
        import lpips
    except ImportError:
        return None, "the package lpips is not installed"
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    net = next((name for name, file in _WEIGHTS.items() if (folder / file).is_file()), None)
    if net is None:
        files = " or ".join(_WEIGHTS.values())
        return None, f"there is no {files} in {folder} (nothing is downloaded)"
    try:
        with _no_download():
            model = lpips.LPIPS(net=net, verbose=False).to(device).eval()
    except Exception as error:  # another version, damaged weights: the metric is a luxury
        return None, f"lpips could not be loaded ({type(error).__name__}: {error})"
    for parameter in model.parameters():
        parameter.requires_grad_(False)

    @torch.no_grad()
    def metric(image: Tensor, photo: Tensor) -> float:
        pair = [picture.permute(2, 0, 1)[None].float() for picture in (image, photo)]
        return float(model(*pair, normalize=True))

    return metric, net


@contextmanager
def _no_download() -> Iterator[None]:
    def refuse(url: str, *_: Any, **__: Any) -> None:
        raise OSError(f"{url} would have to be downloaded")

    before = torch.hub.download_url_to_file
    torch.hub.download_url_to_file = refuse
    try:
        yield
    finally:
        torch.hub.download_url_to_file = before
