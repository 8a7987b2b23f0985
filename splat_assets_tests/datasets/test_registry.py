"""The registry: files written by us and files dropped in by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import make_spec
from splat_assets.errors import UserError


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "datasets")


def test_add_get_remove(registry: Registry) -> None:
    spec = make_spec(name="garden", source="/photos", options={"train": {"steps": 9}})
    assert registry.names() == []
    assert registry.add(spec) is True
    assert registry.add(spec) is False
    assert registry.get("garden") == spec
    assert registry.names() == ["garden"]
    registry.remove("garden")
    assert registry.names() == []
    with pytest.raises(UserError, match="no dataset 'garden'"):
        registry.remove("garden")
    with pytest.raises(UserError, match="splat-assets add"):
        registry.get("garden")


def test_a_name_never_silently_changes_its_meaning(registry: Registry) -> None:
    registry.add(make_spec(name="garden", source="/photos"))
    with pytest.raises(UserError, match=r"stands for /photos.*--name"):
        registry.add(make_spec(name="garden", source="/other"))
    with pytest.raises(UserError, match="--replace"):
        registry.add(make_spec(name="garden", source="/photos", preset="high"))
    assert registry.get("garden").source == "/photos"
    assert registry.add(make_spec(name="garden", source="/other"), replace=True)
    assert registry.get("garden").source == "/other"


def test_of_many_claims_on_a_name_one_wins(registry: Registry) -> None:
    def claim(number: int) -> bool:
        try:
            return registry.add(make_spec(name="garden", source=f"/photos/{number}"))
        except UserError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(16))) == 1


def test_files_dropped_in_by_hand(registry: Registry) -> None:
    folder = registry.folder
    folder.mkdir()
    (folder / "short.yaml").write_text("source: /photos\n")
    (folder / "full.yaml").write_text("name: full\nsource: org/name\npreset: high\n")
    (folder / "other.yaml").write_text("name: garden\nsource: /photos\n")
    (folder / "My Photos.yaml").write_text("source: /photos\n")
    (folder / "broken.yaml").write_text("source: [\n")
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (folder / "folder.yaml").mkdir()
    (folder / "late.yml").write_text("source: /photos\n")
    (folder / ".hidden.yaml").write_text("source: /photos\n")
    (folder / "notes.txt").write_text("not a spec")
    specs, problems = registry.list()
    assert [spec.name for spec in specs] == ["full", "short"]
    assert set(problems) == {"other", "My Photos", "broken", "bytes", "folder", "late.yml"}
    assert "must agree" in problems["other"]
    assert "lower-case" in problems["My Photos"]
    assert "rename" in problems["late.yml"]
    assert all("\n" not in sentence for sentence in problems.values())


def test_a_damaged_file_is_only_replaced_when_asked(registry: Registry) -> None:
    registry.folder.mkdir()
    (registry.folder / "garden.yaml").write_text("source: [\n")
    spec = make_spec(name="garden", source="/photos")
    with pytest.raises(UserError, match="not valid YAML"):
        registry.add(spec)
    assert registry.add(spec, replace=True)
    assert registry.get("garden") == spec


def test_nothing_but_specs_is_left_behind(registry: Registry) -> None:
    registry.add(make_spec(name="garden", source="/photos"))
    visible = [p.name for p in registry.folder.iterdir() if p.name != ".lock"]
    assert visible == ["garden.yaml"]
