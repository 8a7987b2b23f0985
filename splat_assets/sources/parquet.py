"""Pictures inside parquet shards, as the Hub stores image datasets.

An image column is a struct of `bytes` and `path` (huggingface.co/docs/datasets/image_load), plain
binary, or a list of either. Only those columns and the wanted rows are read; the bytes are written
out exactly as they are in the shard, one file a picture, under names that keep the row order.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from splat_assets.datasets.options import SourceOptions
from splat_assets.errors import SourceError
from splat_assets.progress import Progress
from splat_assets.sources import media
from splat_assets.sources.job import check_bytes, need_space

BATCH_ROWS = 8
READ_BYTES = 2**20
Opener = Callable[[str], IO[bytes]]


def unpack_parquet(
    shards: tuple[str, ...],
    open_shard: Opener,
    target: Path,
    options: SourceOptions,
    progress: Progress,
    name: str,
) -> int:
    """Write the pictures of `shards` below `target`, a folder per shard; returns their number.

    A shard whose folder exists was finished by an earlier, interrupted call and is not read again.

    Raises `SourceError` when a shard is damaged, or none holds pictures.
    """
    taken = num_bytes = 0
    for index, shard in enumerate(shards):
        if taken >= options.max_rows:
            left = len(shards) - index
            progress.warn(
                f"{name}: took {taken} pictures, as source.max_rows says; {left} parquet "
                "files were not read."
            )
            break
        folder = target / shard.removesuffix(".parquet")
        step = progress.span(index / len(shards), (index + 1) / len(shards))
        if not folder.is_dir():
            half = folder.with_name(folder.name + ".part")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(parents=True)
            limit = options.max_rows - taken
            _unpack_shard(shard, open_shard, half, limit, num_bytes, options, step, name)
            half.replace(folder)
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        taken += len(sizes)
        num_bytes += sum(sizes)
    if not taken:
        raise SourceError(f"{name}: its parquet files hold no pictures.")
    return taken


def unpack_in_place(
    folder: Path, shards: tuple[str, ...], options: SourceOptions, progress: Progress, name: str
) -> None:
    """Replace the shards below `folder` by folders with their pictures."""

    def open_shard(shard: str) -> IO[bytes]:
        return (folder / shard).open("rb")

    unpack_parquet(shards, open_shard, folder, options, progress, name)
    for shard in shards:
        (folder / shard).unlink()


def _unpack_shard(
    shard: str,
    open_shard: Opener,
    folder: Path,
    limit: int,
    num_bytes: int,
    options: SourceOptions,
    progress: Progress,
    name: str,
) -> None:
    """Write at most `limit` pictures of one shard; `num_bytes` were written before."""
    count = 0
    try:
        with open_shard(shard) as stream:
            file = pq.ParquetFile(stream, buffer_size=READ_BYTES, pre_buffer=False)
            columns = _picture_columns(file)
            rows = max(min(file.metadata.num_rows, limit), 1)
            for row, column, number, data, path in _cells(file, columns):
                suffix = media.image_suffix(data) or media.video_suffix(data)
                if not suffix:
                    continue
                if count == limit:
                    progress.warn(
                        f"{name}: {shard} holds more than source.max_rows pictures; the "
                        f"first {limit} were taken."
                    )
                    break
                num_bytes += len(data)
                check_bytes(name, num_bytes, options)
                need_space(folder, len(data))
                below = folder / _plain(column) if len(columns) > 1 else folder
                below.mkdir(exist_ok=True)
                stem = f"{row:06d}" if number is None else f"{row:06d}_{number:03d}"
                (below / f"{stem}{_tail(path, suffix)}").write_bytes(data)
                count += 1
                progress.update(count / rows, f"unpacking {shard}", pictures=float(count))
    except (pa.ArrowException, UnicodeError) as error:
        raise _damaged(name, shard, error) from None
    except OSError as error:
        if type(error) is OSError and error.errno is None:  # how pyarrow reports a broken file
            raise _damaged(name, shard, error) from None
        raise


def _cells(
    file: pq.ParquetFile, columns: list[str]
) -> Iterator[tuple[int, str, int | None, bytes, str]]:
    """(row, column, number in the row's list, bytes, path) of every picture cell, in row order."""
    if not columns:
        return
    row = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False):
        values = {column: batch.column(column) for column in columns}
        for index in range(batch.num_rows):
            for column, array in values.items():
                cell = array[index].as_py()
                items = list(enumerate(cell)) if isinstance(cell, list) else [(None, cell)]
                for number, item in items:
                    data = item.get("bytes") if isinstance(item, dict) else item
                    path = item.get("path") if isinstance(item, dict) else ""
                    if data and isinstance(data, bytes):
                        yield row, column, number, data, path if isinstance(path, str) else ""
            row += 1


def _picture_columns(file: pq.ParquetFile) -> list[str]:
    """Columns that hold pictures: as the Hub's metadata says, else by a look at the first rows."""
    schema = file.schema_arrow
    fitting = [field.name for field in schema if _fits(field.type)]
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        is_picture = re.compile(r'"(Image|Video)"')
        named = [name for name in fitting if is_picture.search(json.dumps(features.get(name)))]
    except (KeyError, ValueError, TypeError):
        named = []
    if named or len(fitting) < 2:
        return named or fitting
    found = set()
    for row, column, _, data, _ in _cells(file, fitting):
        if media.sniff(data) in ("image", "video"):
            found.add(column)
        if row >= BATCH_ROWS:
            break
    return [name for name in fitting if name in found]


def _fits(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _fits(kind.value_type)
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _fits(kind.field(index).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _tail(path: str, suffix: str) -> str:
    """What follows the row number in a file's name: its own name where it has one."""
    own = PurePosixPath(path.replace("\\", "/")).name
    if not own:
        return suffix
    plain = _plain(own)
    keeps = media.is_image(plain) or media.is_video(plain)
    return "_" + (plain if keeps else plain + suffix)


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)[-100:]


def _damaged(name: str, shard: str, error: Any) -> SourceError:
    detail = str(error).strip().splitlines()[0].rstrip(".")
    return SourceError(f"{name}: {shard} is not a whole parquet file ({detail}).")
