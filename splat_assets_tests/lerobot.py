"""Robot datasets as LeRobot publishes them (v2.1 and v3.0), small and with frames that can be told
apart, and the conversion of any v2.1 dataset to v3.0 that copies the video streams.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from PIL import Image

WRIST, TOP, DEPTH = "observation.images.wrist", "observation.images.top", "observation.images.depth"
FPS = 10
SIZE = (96, 64)
_BITS = 12
_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
_DATA_V3 = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO_V3 = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_NUMBERS = {"frame_index", "episode_index", "index", "task_index"}


def picture(camera: int, episode: int, frame: int) -> np.ndarray:
    """[64, 96, 3] uint8: columns of black and white that spell (camera, episode, frame)."""
    code = camera << 10 | episode << 7 | frame
    bits = np.array([code >> bit & 1 for bit in range(_BITS)], np.uint8)
    row = np.repeat(np.where(bits == 1, 235, 20).astype(np.uint8), SIZE[0] // _BITS)
    image = np.broadcast_to(row[None, :, None], (SIZE[1], SIZE[0], 3)).copy()
    image[: SIZE[1] // 2] = (image[: SIZE[1] // 2].astype(int) // 2 + 60).astype(np.uint8)
    return image


def spell(image: Image.Image) -> tuple[int, int, int]:
    """(camera, episode, frame) of a decoded `picture`."""
    grey = np.asarray(image.convert("L"), float)[SIZE[1] // 2 :]
    bits = grey.mean(axis=0).reshape(_BITS, -1).mean(axis=1) > 128
    code = int(sum(1 << bit for bit in range(_BITS) if bits[bit]))
    return code >> 10, code >> 7 & 7, code & 127


def make_v21(
    folder: Path,
    lengths: Sequence[int] = (20, 13, 17),
    cameras: Sequence[str] = (TOP, WRIST),
    *,
    kind: str = "video",
    codec: str = "libx264",
    version: str = "v2.1",
    timestamps: Mapping[int, np.ndarray] | None = None,
) -> Path:
    """Write a dataset with an episode of each length; frame i of it is shown at i / FPS."""
    features = {key: _feature(key, kind) for key in cameras}
    start = 0
    for episode, length in enumerate(lengths):
        table = _rows(episode, length, start)
        if timestamps and episode in timestamps:
            table["timestamp"] = timestamps[episode].astype(np.float32)
        for number, key in enumerate(cameras):
            pictures = [picture(number, episode, i) for i in range(length)]
            if kind == "video":
                path = folder / _VIDEO.format(episode_chunk=0, video_key=key, episode_index=episode)
                encode(path, pictures, codec)
            else:
                table[key] = [
                    {"bytes": _png(p), "path": f"{i}.png"} for i, p in enumerate(pictures)
                ]
        path = folder / _DATA.format(episode_chunk=0, episode_index=episode)
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path)
        start += length
    meta = folder / "meta"
    meta.mkdir()
    _write_info(meta, version, features, len(lengths), start, _DATA, _VIDEO)
    _write_lines(
        meta / "episodes.jsonl",
        [{"episode_index": i, "tasks": ["pick"], "length": n} for i, n in enumerate(lengths)],
    )
    _write_lines(meta / "tasks.jsonl", [{"task_index": 0, "task": "pick"}])
    return folder


def to_v30(source: Path, target: Path, *, episodes_per_file: int = 2) -> Path:
    """The same dataset as v3.0: episodes concatenated into shards, the streams copied."""
    info = json.loads((source / "meta/info.json").read_text())
    fps = info["fps"]
    videos = [k for k, f in info["features"].items() if f["dtype"] == "video"]
    listed = pd.read_json(source / "meta/episodes.jsonl", lines=True)
    tables = {
        int(i): pd.read_parquet(source / _DATA.format(episode_chunk=0, episode_index=i))
        for i in listed["episode_index"]
    }
    rows: list[dict[str, Any]] = []
    for file, first in enumerate(range(0, len(listed), episodes_per_file)):
        numbers = [int(i) for i in listed["episode_index"][first : first + episodes_per_file]]
        path = target / _DATA_V3.format(chunk_index=0, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.concat([tables[n] for n in numbers], ignore_index=True).to_parquet(path)
        index = sum(row["length"] for row in rows)
        begin = 0
        for number in numbers:
            length = len(tables[number])
            row: dict[str, Any] = {
                "episode_index": number,
                "tasks": ["pick"],
                "length": length,
                "dataset_from_index": index,
                "dataset_to_index": index + length,
                "data/chunk_index": 0,
                "data/file_index": file,
                "stats/action/min": [0.0],
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
            for key in videos:
                row |= {
                    f"videos/{key}/chunk_index": 0,
                    f"videos/{key}/file_index": file,
                    f"videos/{key}/from_timestamp": begin / fps,
                    f"videos/{key}/to_timestamp": (begin + length) / fps,
                }
            rows.append(row)
            begin, index = begin + length, index + length
        for key in videos:
            parts = [
                source / _VIDEO.format(episode_chunk=0, video_key=key, episode_index=n)
                for n in numbers
            ]
            path = target / _VIDEO_V3.format(video_key=key, chunk_index=0, file_index=file)
            concatenate(parts, path, [len(tables[n]) for n in numbers], fps)
    meta = target / "meta"
    (meta / "episodes/chunk-000").mkdir(parents=True)
    write_episodes(target, pd.DataFrame(rows))
    pd.DataFrame({"task_index": [0]}, index=["pick"]).to_parquet(meta / "tasks.parquet")
    (meta / "stats.json").write_text("{}")
    total = sum(row["length"] for row in rows)
    _write_info(meta, "v3.0", info["features"], len(listed), total, _DATA_V3, _VIDEO_V3, fps)
    return target


def write_episodes(dataset: Path, table: pd.DataFrame) -> None:
    table.to_parquet(dataset / "meta/episodes/chunk-000/file-000.parquet")


def read_episodes(dataset: Path) -> pd.DataFrame:
    return pd.read_parquet(dataset / "meta/episodes/chunk-000/file-000.parquet")


def change_info(dataset: Path, **changes: Any) -> Path:
    """Replace entries of `info.json`; None removes one."""
    path = dataset / "meta/info.json"
    info = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in info.items() if v is not None}))
    return dataset


def encode(
    path: Path, pictures: Sequence[np.ndarray], codec: str = "libx264", fps: int = FPS
) -> None:
    """Constant frame rate, a keyframe every second frame, as LeRobot encodes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"libx264": {"crf": "10", "preset": "veryfast"}, "libsvtav1": {"preset": "12"}}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps, options=options.get(codec, {}))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 2
        for number, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def concatenate(parts: Sequence[Path], target: Path, lengths: Sequence[int], fps: float) -> None:
    """Join videos by copying their packets; part k begins after all frames before it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(target), "w") as output:
        stream: Any = None
        before = 0
        for part, length in zip(parts, lengths, strict=True):
            with av.open(str(part)) as source:
                video = source.streams.video[0]
                if stream is None:
                    stream = output.add_stream_from_template(video, opaque=True)
                assert video.time_base is not None
                offset = round(before / fps / video.time_base)
                for packet in _packets(source, video):
                    packet.pts += offset
                    packet.dts += offset
                    packet.stream = stream
                    output.mux(packet)
            before += length


def _packets(source: Any, video: Any) -> Iterator[Any]:
    for packet in source.demux(video):
        if packet.dts is not None:
            yield packet


def _rows(episode: int, length: int, start: int) -> pd.DataFrame:
    numbers = np.arange(length)
    return pd.DataFrame(
        {
            "action": [np.zeros(2, np.float32)] * length,
            "timestamp": (numbers / FPS).astype(np.float32),
            "frame_index": numbers,
            "episode_index": episode,
            "index": start + numbers,
            "task_index": 0,
        }
    )


def _feature(key: str, kind: str) -> dict[str, Any]:
    depth = key == DEPTH
    return {
        "dtype": kind,
        "shape": [SIZE[1], SIZE[0], 3],
        "names": ["height", "width", "channel" if kind == "video" else "channels"],
        "info": {"video.fps": FPS, "video.codec": "av1", "video.is_depth_map": depth},
    }


def _write_info(
    meta: Path,
    version: str,
    cameras: Mapping[str, Any],
    episodes: int,
    frames: int,
    data_path: str,
    video_path: str,
    fps: float = FPS,
) -> None:
    features = {
        **cameras,
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **{name: {"dtype": "int64", "shape": [1], "names": None} for name in sorted(_NUMBERS)},
    }
    info = {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": episodes,
        "total_frames": frames,
        "chunks_size": 1000,
        "fps": fps,
        "data_path": data_path,
        "video_path": video_path,
        "features": features,
    }
    (meta / "info.json").write_text(json.dumps(info, indent=4))


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
