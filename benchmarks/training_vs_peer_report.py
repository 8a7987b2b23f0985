"""The Markdown report of `training_vs_peer`, from the runs kept in its work folder."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

from splat_assets.compute import available_threads

RESULTS = Path(__file__).resolve().parent / "results" / "training_vs_peer.md"
# share of the peer's CPU seconds, lead in dB that is promised there
GOALS = {"1/10": 0.0, "1/4": 1.0, "1/1": 2.0}
PACE_GOAL = 6.0


def write_report(work: Path, peer_version: str, notes: list[str]) -> str:
    """Write and return the report, with `notes` on the circumstances at its end."""
    scenes = sorted(p for p in work.iterdir() if (p / "poses" / "manifest.json").is_file())
    lines = [
        "# CPU training against OpenSplat",
        "",
        f"`python -m benchmarks.training_vs_peer`, {time.strftime('%Y-%m-%d')}, "
        f"{platform.machine()}, {available_threads()} cores; OpenSplat {peer_version} built for "
        "the CPU. How it is made fair is told in the benchmark's docstring. Figures are medians "
        "over seeds (one run of the peer, which has no seed option); CPU seconds are those of "
        "whole processes on one core, start-up included. Split A was looked at while settings were "
        "chosen, split B was not. Measured on a shared machine: ratios count, not seconds.",
        "",
        *_pace_lines(scenes),
        *_quality_lines(scenes),
        "",
        *(f"- {note}" for note in [*_missing(scenes), *notes]),
    ]
    text = "\n".join(lines) + "\n"
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    return text


def _pace_lines(scenes: list[Path]) -> list[str]:
    rows, ratios = [], []
    for scene in scenes:
        pace = _read(scene / "A" / "pace" / "run.json")
        if pace is None:
            continue
        ratio, late = pace["peer"] / pace["ours"], pace["peer_late"] / pace["ours"]
        ratios.append(ratio)
        rows.append(
            f"| {scene.name} | {pace['num_gaussians']:,} | {1e3 * pace['peer']:.0f} | "
            f"{1e3 * pace['peer_late']:.0f} | {1e3 * pace['ours']:.0f} | 1/{ratio:.1f} | "
            f"1/{late:.1f} |"
        )
    if not rows:
        return []
    return [
        "## CPU milliseconds a step, equal Gaussians and pixels",
        "",
        "Both sides go on from the same trained splat, with all SH bands and nothing refined. The "
        "peer steps its optimiser at each iteration while it densifies (as ours always does), and "
        "at every 64th at the end of a run (late).",
        "",
        "| scene | Gaussians | OpenSplat | OpenSplat, late | ours | ours / OpenSplat | late |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"Goal: 1/{PACE_GOAL:.0f} at most. Worst scene: 1/{min(ratios):.1f}"
        f" ({_verdict(min(ratios) >= PACE_GOAL)}).",
        "",
    ]


def _quality_lines(scenes: list[Path]) -> list[str]:
    rows: list[str] = []
    leads: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for scene in scenes:
        for split in ("A", "B"):
            peer = _best_peer(scene / split)
            if peer is None:
                continue
            rows.append(
                f"| {scene.name} | {split} | OpenSplat ({peer['setting']}) | {peer['steps']} | "
                f"{peer['num_gaussians']:,} | {peer['cpu_seconds']:.0f} | 1 | "
                f"{peer['psnr_db']:.2f} | {peer['ssim']:.3f} | | |"
            )
            for share in GOALS:
                kept = _read(scene / f"ours_{share.replace('/', 'of')}.json")
                runs = [r for r in (kept or {"runs": []})["runs"] if r["split"] == split]
                if not runs:
                    continue
                mid = {
                    name: median(r[name] for r in runs)
                    for name in ("cpu_seconds", "psnr_db", "ssim", "num_gaussians")
                }
                ratio = mid["cpu_seconds"] / peer["cpu_seconds"]
                psnr = mid["psnr_db"] - peer["psnr_db"]
                ssim = mid["ssim"] - peer["ssim"]
                leads.setdefault((share, split), []).append((psnr, ssim, ratio))
                rows.append(
                    f"| {scene.name} | {split} | ours, {share} ({len(runs)} seeds) | "
                    f"{runs[0]['steps']} | {mid['num_gaussians']:,.0f} | "
                    f"{mid['cpu_seconds']:.0f} | {ratio:.3f} | {mid['psnr_db']:.2f} | "
                    f"{mid['ssim']:.3f} | {psnr:+.2f} | {ssim:+.3f} |"
                )
    return [
        "## Held-out quality for CPU seconds",
        "",
        "| scene | split | trainer | steps | Gaussians | CPU s | of the peer's | PSNR dB | SSIM | "
        "dB more | SSIM more |",
        "|" + "---|" * 11,
        *rows,
        "",
        *_summary_lines(leads),
    ]


def _summary_lines(leads: dict[tuple[str, str], list[tuple[float, float, float]]]) -> list[str]:
    lines = [
        "## Means over scenes, and the goals",
        "",
        "| share of CPU | split | scenes | mean CPU share | mean dB more | worst scene | "
        "mean SSIM more | goal | |",
        "|" + "---|" * 9,
    ]
    for (share, split), values in sorted(leads.items(), key=lambda kv: (kv[0][1], kv[1][0][2])):
        psnr, ssim, ratio = (list(column) for column in zip(*values, strict=True))
        goal = GOALS[share]
        reached = fmean(psnr) >= goal and (goal > 0 or fmean(ssim) >= 0)
        text = f"≥ {goal:+.0f} dB" if goal else "no lower in PSNR and SSIM"
        lines.append(
            f"| {share} | {split} | {len(values)} | {fmean(ratio):.3f} | {fmean(psnr):+.2f} | "
            f"{min(psnr):+.2f} | {fmean(ssim):+.3f} | {text} | {_verdict(reached)} |"
        )
    return lines


def _missing(scenes: list[Path]) -> list[str]:
    """What was not measured, in sentences."""
    runs = [path for scene in scenes for path in scene.glob("?/peer_*/run.json")]
    tried = sorted({path.parent.name.removeprefix("peer_") for path in runs})
    names = [
        f"{scene.name} at {share}"
        for scene in scenes
        for share in GOALS
        if not (scene / f"ours_{share.replace('/', 'of')}.json").is_file()
    ]
    names += [f"steps of {s.name}" for s in scenes if not (s / "A" / "pace" / "run.json").is_file()]
    lines = [f"Settings of OpenSplat that were run: {', '.join(tried)}."] if tried else []
    return [*lines, *([f"Not measured yet: {', '.join(names)}."] if names else [])]


def _best_peer(folder: Path) -> dict[str, Any] | None:
    """The peer's run with its chosen setting: the one that every split has."""
    found = [_read(p / "run.json") for p in sorted(folder.glob("peer_*")) if p.name != "peer_input"]
    runs = [run for run in found if run is not None]
    return max(runs, key=lambda run: run["psnr_db"]) if runs else None


def _verdict(reached: bool) -> str:
    return "reached" if reached else "**not reached**"


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
