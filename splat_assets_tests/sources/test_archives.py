"""Archives: unpacked when honest, refused in one sentence when damaged or hostile."""

from __future__ import annotations

import io
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from splat_assets.errors import SourceError, UserError
from splat_assets_tests.sources.samples import (
    Fetcher,
    colmap_model,
    jpeg,
    names,
    photos,
    splat_ply,
    write,
)

Files = dict[str, bytes | str]
TAR_MODES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}


def pack(path: Path, files: Files) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    mode = next(m for s, m in sorted(TAR_MODES.items(), reverse=True) if path.name.endswith(s))
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            content = data.encode() if isinstance(data, str) else data
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("suffix", [".zip", *TAR_MODES])
def test_photos_in_every_kind_of_archive(suffix: str, tmp_path: Path, fetch: Fetcher) -> None:
    files = {
        **photos(3, "My Garden/"),
        "My Garden/.p00.jpg": b"x",
        "__MACOSX/My Garden/._p00.jpg": b"x",
        "My Garden/run.exe": b"MZ",
        "My Garden/LICENSE": "CC0 1.0",
    }
    archive = pack(tmp_path / f"my garden{suffix}", files)
    raw = fetch(archive)
    assert raw.content == "photos"
    assert names(raw) == [f"My Garden/p0{i}.jpg" for i in range(3)]
    assert (raw.files / "My Garden/p01.jpg").read_bytes() == jpeg(1)
    assert raw.summary["license"] == "CC0 1.0"

    again = fetch(archive, raw)
    assert again.summary["unchanged"] and again.summary["downloaded_bytes"] == 0
    archive.touch()  # a new time, the same bytes
    assert fetch(archive, again).summary["unchanged"]
    pack(archive, photos(4))
    assert fetch(archive, again).summary["num_files"] == 4


def test_other_contents(tmp_path: Path, fetch: Fetcher) -> None:
    model = {
        f"scan/{k}": v for k, v in {**photos(2, "images/"), **colmap_model(["p00.jpg"])}.items()
    }
    colmap = fetch(pack(tmp_path / "a.zip", model))
    assert (colmap.content, colmap.summary["layout"]["root"]) == ("colmap", "scan")
    assert "scan/images/p01.jpg" not in names(colmap)
    assert fetch(pack(tmp_path / "b.tar", {"x/s.ply": splat_ply()})).content == "ply"


def test_archives_in_a_folder_are_unpacked(tmp_path: Path, fetch: Fetcher) -> None:
    source = tmp_path / "s"
    source.mkdir()
    pack(source / "one.zip", photos(2))
    pack(source / "two.tar.gz", photos(2))
    assert names(fetch(source)) == [f"{d}/p0{i}.jpg" for d in ("one", "two") for i in range(2)]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize(
    "name",
    ["../evil.jpg", "a/../../evil.jpg", "/evil.jpg", "..\\evil.jpg", "C:\\evil.jpg", "a/.."],
)
def test_paths_that_escape(suffix: str, name: str, tmp_path: Path, fetch: Fetcher) -> None:
    archive = pack(tmp_path / f"a{suffix}", {**photos(3), name: jpeg(9)})
    with pytest.raises(SourceError, match=r"unsafe: .* outside of its folder") as caught:
        fetch(archive)
    assert "\n" not in str(caught.value)
    assert list(fetch.out.iterdir()) == []
    assert not list(tmp_path.rglob("evil.jpg"))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_tars(kind: bytes, tmp_path: Path, fetch: Fetcher) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("p.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(SourceError, match="link or a device"):
        fetch(path)


def test_links_and_passwords_in_zips(tmp_path: Path, fetch: Fetcher) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("p.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(SourceError, match="is a link"):
        fetch(tmp_path / "a.zip")
    data = bytearray(pack(tmp_path / "b.zip", photos(1)).read_bytes())
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(data)
    with pytest.raises(SourceError, match="encrypted"):
        fetch(tmp_path / "b.zip")


def test_bombs(tmp_path: Path, fetch: Fetcher) -> None:
    zeros = bytes(66 * 2**20)
    for suffix in (".zip", ".tar.gz"):
        archive = pack(tmp_path / f"bomb{suffix}", {"a.jpg": zeros})
        assert archive.stat().st_size < 2**20
        with pytest.raises(SourceError, match="which no picture does"):
            fetch(archive)
        hidden = pack(tmp_path / f"hidden{suffix}", {"ignored.bin": zeros, **photos(3)})
        if suffix != ".zip":  # a zip's unwanted members are never read
            with pytest.raises(SourceError, match="which no picture does"):
                fetch(hidden)
    many = pack(tmp_path / "many.zip", {f"{i}.jpg": b"" for i in range(200)})
    with pytest.raises(SourceError, match="limit of 100 files"):
        fetch(many, max_files=100)
    for suffix in (".zip", ".tar"):
        with pytest.raises(SourceError, match=r"limit of 1.5 kB"):
            fetch(pack(tmp_path / f"big{suffix}", photos(3)), max_bytes=1500)


def test_a_tar_header_of_any_size_is_not_read_into_memory(tmp_path: Path, fetch: Fetcher) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 8 * 2**30
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(2048))
    with pytest.raises(SourceError, match="damaged or cut short"):
        fetch(tmp_path / "a.tar")


def test_a_member_larger_than_it_says(tmp_path: Path, fetch: Fetcher) -> None:
    path = pack(tmp_path / "a.zip", {"p.jpg": bytes(5000)})
    data = path.read_bytes().replace((5000).to_bytes(4, "little"), (50).to_bytes(4, "little"))
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"damaged|unsafe"):
        fetch(path)


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_truncated(suffix: str, tmp_path: Path, fetch: Fetcher) -> None:
    path = pack(tmp_path / f"a{suffix}", {f"p{i}.jpg": jpeg(i, (160, 120)) for i in range(6)})
    whole = path.read_bytes()
    for keep in (0.3, 0.5, 0.7):
        path.write_bytes(whole[: int(len(whole) * keep)])
        with pytest.raises(SourceError, match=r"damaged or cut short .*again") as caught:
            fetch(path)
        assert "\n" not in str(caught.value)
        assert list(fetch.out.iterdir()) == []


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_mutated_archives_never_surprise(suffix: str, tmp_path: Path, fetch: Fetcher) -> None:
    """Any damage ends in a dataset or in one of our sentences, and nothing lands outside."""
    whole = pack(tmp_path / f"a{suffix}", photos(3)).read_bytes()
    generator = random.Random(0)
    outside = {p for p in tmp_path.iterdir() if p.name != "runs"}
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(generator.randint(1, 8)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        path = tmp_path / f"a{suffix}"
        path.write_bytes(data)
        try:
            fetch(path)
        except UserError as error:
            assert "\n" not in str(error)
            assert list(fetch.out.iterdir()) == []
    assert {p for p in tmp_path.iterdir() if p.name != "runs"} == outside


def test_not_an_archive(tmp_path: Path, fetch: Fetcher) -> None:
    write(tmp_path, {"a.zip": b"<html>not found</html>", "b.tar.gz": b"garbage" * 500})
    pack(tmp_path / "c.zip", {"readme.docx": b"x"})
    for name, says in (("a.zip", "damaged"), ("b.tar.gz", "damaged"), ("c.zip", "no photos")):
        with pytest.raises(SourceError, match=says):
            fetch(tmp_path / name)


def test_a_file_and_folder_of_one_name(tmp_path: Path, fetch: Fetcher) -> None:
    archive = pack(tmp_path / "a.tar", {"x.jpg": jpeg(0), "x.jpg/y.jpg": jpeg(1)})
    with pytest.raises(SourceError, match="both a file and a folder"):
        fetch(archive)
