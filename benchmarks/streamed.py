"""A large scene as streamed SOG: bytes, seconds, memory, and what each level of detail is worth.

    python -m benchmarks.streamed FILE... [--copies 12] [--chunk 131072] [--json FILE]
    python -m benchmarks.streamed --gaussians 5000000 [--sh-degree 0]

The scene is made of copies of splat files (turned about the vertical and set on a square grid), or
of random Gaussians, written as a PLY, which is then encoded in a process of its own straight from
the file. "One palette" is the same scene as a single SOG of the same precision; dB is the picture
of a level against the uncompressed scene from around it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--copies", type=int, default=12, help="of all files together")
    parser.add_argument("--gaussians", type=int, help="random ones instead of files")
    parser.add_argument("--sh-degree", type=int, default=0)
    parser.add_argument("--chunk", type=int, default=1 << 17)
    parser.add_argument("--no-single", action="store_true", help="leave the single SOG out")
    parser.add_argument("--no-pictures", action="store_true", help="leave dB out")
    parser.add_argument("--out", type=Path, help="keep the scene and what is made of it here")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_CHILDREN[arguments.child](arguments.files, arguments.chunk)))
        return
    with tempfile.TemporaryDirectory(prefix="splat-assets-streamed-") as scratch:
        folder = arguments.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        result = measure(arguments, folder)
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    ply, streamed, single = folder / "scene.ply", folder / "streamed", folder / "scene.sog"
    _run("make", [*arguments.files, ply], arguments)
    result: dict[str, Any] = {
        "files": [path.name for path in arguments.files],
        "ply_bytes": ply.stat().st_size,
        "streamed": _run("stream", [ply, streamed / "lod-meta.json"], arguments),
        "read_streamed": _run("read", [streamed], arguments),
    }
    if not arguments.no_single:
        result["single"] = _run("single", [ply, single], arguments)
        result["read_single"] = _run("read", [single], arguments)
    if not arguments.no_pictures:
        result["db_by_level"] = _run("pictures", [ply, streamed], arguments)["db"]
    return result


def _run(child: str, paths: list[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """One step in a process of its own, so that its memory is its own."""
    command = [sys.executable, "-m", "benchmarks.streamed", *map(str, paths), "--child", child]
    command += ["--chunk", str(arguments.chunk)]
    if child == "make":
        command[-4:-4] = []
        _CONFIG.update(
            copies=arguments.copies, gaussians=arguments.gaussians, degree=arguments.sh_degree
        )
        make(paths, arguments.chunk)
        return {}
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(child, {k: v for k, v in answer.items() if not isinstance(v, list)}, flush=True)
    return answer


_CONFIG: dict[str, Any] = {}


def make(paths: list[Path], chunk: int) -> None:
    """Write the scene as a PLY."""
    from splat_assets.formats.edit import euler_matrix
    from splat_assets.formats.merge import merge
    from splat_assets.formats.registry import read_splat
    from splat_assets.gaussians.cleanup import clean
    from splat_assets.gaussians.gaussians import SH_REST, Gaussians
    from splat_assets.gaussians.ply import write_ply
    from splat_assets.gaussians.transform import rotate, scale, translate

    *sources, target = paths
    rng = np.random.default_rng(0)
    n = _CONFIG["gaussians"]
    if n:
        rest = SH_REST[_CONFIG["degree"]]
        means = rng.uniform(-1, 1, (n, 3)).astype(np.float32)
        means[:, 1] *= 0.1
        waves = np.sin(np.float32(7) * means)
        g = Gaussians(
            means=means,
            quats=rng.normal(size=(n, 4)).astype(np.float32),
            scales=(waves - 6).astype(np.float32),
            opacities=rng.normal(1, 2, n).astype(np.float32),
            sh0=waves[:, None, ::-1].astype(np.float32),
            shN=np.repeat(waves[:, :1, None], rest, 1).repeat(3, 2) * np.float32(0.1),
        )
        write_ply(target, g)
        return
    splats = []
    for path in sources:
        g, _ = clean(read_splat(path))
        low, high = np.quantile(g.means, (0.02, 0.98), axis=0)
        g = translate(g, -(low + high) / 2)
        splats.append(scale(g, 1 / float(np.abs(high - low).max())))
    side = int(np.ceil(np.sqrt(_CONFIG["copies"])))
    placed = []
    for i in range(_CONFIG["copies"]):
        turned = rotate(splats[i % len(splats)], euler_matrix((0.0, 360 * rng.random(), 0.0)))
        placed.append(translate(turned, 1.1 * np.array([i % side, 0, i // side])))
    write_ply(target, merge(placed))


def _stream(paths: list[Path], chunk: int) -> dict[str, Any]:
    from splat_assets.compression.streamed import StreamOptions, write_streamed
    from splat_assets.gaussians.ply import PlyRows

    began = time.perf_counter()
    rows = PlyRows(paths[0])
    written = write_streamed(paths[1], rows, StreamOptions(chunk=chunk))
    return {**written.to_dict(), **_cost(began)}


def _single(paths: list[Path], chunk: int) -> dict[str, Any]:
    from splat_assets.compression.files import compress_file
    from splat_assets.datasets.options import CompressOptions

    began = time.perf_counter()
    figures = compress_file(paths[0], paths[1], CompressOptions())
    kept = ("num_gaussians", "sog_bytes", "palette_size", "field_bytes")
    return {**{name: figures[name] for name in kept}, **_cost(began)}


def _read(paths: list[Path], chunk: int) -> dict[str, Any]:
    from splat_assets.formats.registry import read_splat

    began = time.perf_counter()
    return {"num_gaussians": len(read_splat(paths[0])), **_cost(began)}


def _pictures(paths: list[Path], chunk: int) -> dict[str, Any]:
    from splat_assets.compression.quality import draw_views, psnr
    from splat_assets.compression.streamed_reader import read_lod_meta, read_streamed
    from splat_assets.compute import select_compute
    from splat_assets.gaussians.gaussians import Gaussians
    from splat_assets.gaussians.ply import read_ply
    from splat_assets.viewing.camera import frame_points, orbit_views

    whole, compute = read_ply(paths[0]), select_compute("cpu")
    views = orbit_views(*frame_points(whole.means), count=8, size=400)[::4]

    def draw(g: Gaussians) -> list[np.ndarray]:
        return list(draw_views(g, views, background=(0, 0, 0), compute=compute))

    exact = draw(whole)
    found = []
    for level in range(read_lod_meta(paths[1]).levels):
        drawn = draw(replace(read_streamed(paths[1], level)))
        found.append(
            round(float(np.mean([psnr(a, b) for a, b in zip(drawn, exact, strict=True)])), 2)
        )
    return {"db": found}


def _cost(began: float) -> dict[str, float]:
    from splat_assets.compute import peak_memory_bytes

    return {
        "wall_seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time(), 1),
        "peak_mb": round(peak_memory_bytes() / (1 << 20)),
    }


_CHILDREN = {"stream": _stream, "single": _single, "read": _read, "pictures": _pictures}


if __name__ == "__main__":
    main()
