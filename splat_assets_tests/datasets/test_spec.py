"""Names, specs and options: what is accepted, and the sentence when it is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splat_assets.datasets.presets import PRESETS
from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import RESERVED, check_slug, make_spec, parse_spec, slugify
from splat_assets.errors import UserError

ROOT = Path("/root-of-registry")


@given(st.text(max_size=300))
def test_a_slug_made_of_any_text_is_valid_and_stable(text: str) -> None:
    try:
        slug = slugify(text)
    except UserError:
        return
    assert check_slug(slug) == slug
    assert slugify(slug) == slug


@given(st.text(alphabet=st.sampled_from("abC0._-/\\ \n\0~é:*"), max_size=120))
def test_no_accepted_name_leaves_the_registry(name: str) -> None:
    try:
        path = Path(Registry(ROOT).path(name))
    except UserError:
        return
    assert path.parent == ROOT
    assert Path(path.name).name == path.name == f"{name}.yaml"
    assert not name.startswith(".")


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("lerobot/SVLA so101", "lerobot--svla-so101"),
        ("my garden", "my-garden"),
        ("Été à Paris", "ete-a-paris"),
        ("../../etc/passwd", "etc--passwd"),
        ("a..b", "a.b"),
        ("datasets", "datasets-1"),
        ("x" * 200, "x" * 96),
    ],
)
def test_slugs_are_readable(text: str, slug: str) -> None:
    assert slugify(text) == slug


@pytest.mark.parametrize("text", ["", "///", "照片", " . "])
def test_text_without_a_letter_needs_a_name(text: str) -> None:
    with pytest.raises(UserError, match="--name"):
        slugify(text)


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "..", "a..b", ".a", "-a", "A", "a b", "a" * 97, "a\n", "a\0", *RESERVED],
)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="the name"):
        make_spec(name=name, source="x")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"preset": "ultra"}, "'preset'.*'preview', 'standard' or 'high'"),
        ({"source": ""}, "'source'"),
        ({"sauce": "x"}, "no option 'sauce'"),
        ({"options": {"trian": {}}}, "no stage 'trian'; the stages are source"),
        ({"options": {"train": {"stepz": 5}}}, "no option 'train.stepz'"),
        ({"options": {"train": {"steps": "many"}}}, "'train.steps'.*'many'"),
        ({"options": {"train": {"steps": 0}}}, "'train.steps'.*greater than or equal to 1"),
        ({"options": {"train": 5}}, "'options.train'"),
        ({"options": {"frames": {"fps": float("inf")}}}, "'frames.fps'.*finite"),
        ({"options": {"frames": {"start_sec": 5, "end_sec": 2}}}, "end_sec 2.0 is not after"),
        ({"options": {"frames": {"max_frames": 3}}}, "max_frames 3 is below min_frames 4"),
        ({"options": {"compress": {"order": "zigzag"}}}, "'compress.order'"),
    ],
)
def test_a_bad_spec_is_one_clear_sentence(values: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        make_spec(**{"name": "garden", "source": "x", **values})
    assert "'garden'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "- a\n- b", "just text", "1: 2", "a: [", "a: *missing", "[" * 3000, "name: garden\n"],
)
def test_a_bad_file_is_one_sentence_that_names_it(text: str) -> None:
    with pytest.raises(UserError, match=re.escape("spec.yaml")) as caught:
        parse_spec(text, where="spec.yaml")
    assert "\n" not in str(caught.value)


def test_presets_grow_and_overrides_win() -> None:
    resolved = {name: make_spec(name="a", source="x", preset=name).resolve() for name in PRESETS}
    budgets = [resolved[name].train.max_gaussians for name in ("preview", "standard", "high")]
    assert budgets == sorted(budgets)
    assert len(set(budgets)) == 3
    spec = make_spec(name="a", source="x", options={"train": {"steps": 7}})
    assert spec.resolve().train.steps == 7
    assert spec.resolve().train.max_gaussians == budgets[0]


_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "train": st.fixed_dictionaries({}, optional={"steps": st.integers(1, 10**6)}),
        "frames": st.fixed_dictionaries({}, optional={"fps": st.floats(0.01, 100)}),
        "source": st.fixed_dictionaries(
            {}, optional={"include": st.lists(st.text("ab*/.é", min_size=1), max_size=3)}
        ),
    },
)
_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=50)


@settings(max_examples=60)
@given(
    source=_TEXT.filter(bool),
    preset=st.sampled_from(sorted(PRESETS)),
    options=_OPTIONS,
    description=_TEXT,
)
def test_yaml_round_trip(source: str, preset: str, options: dict, description: str) -> None:
    spec = make_spec(
        name="garden", source=source, preset=preset, options=options, description=description
    )
    assert parse_spec(spec.to_yaml(), where="spec.yaml") == spec


def test_long_values_stay_on_their_line() -> None:
    source = "/data/" + "My Photos/" * 40
    spec = make_spec(name="long", source=source)
    assert f"source: {source}\n" in spec.to_yaml()
