"""A closer look at one repository, before its first run and after its revision moved."""

from __future__ import annotations

from dataclasses import dataclass

from splat_assets.datasets.options import SourceOptions
from splat_assets.datasets.spec import DatasetSpec
from splat_assets.errors import UserError
from splat_assets.sources.media import human_bytes
from splat_assets.sources.uri import SourceRef, parse_source
from splat_assets.watching.decide import name_some, relevant_bytes, relevant_changes
from splat_assets.watching.hub_api import HubApi, RepoError
from splat_assets.watching.ledger import Entry
from splat_assets.watching.watch_list import HubWatch

MAX_PAGES = 30  # of a tree: more files than that are not compared here, the run does


@dataclass(frozen=True)
class Wish:
    """What a dataset's spec asks of its repository."""

    ref: SourceRef
    options: SourceOptions

    @classmethod
    def of(cls, spec: DatasetSpec) -> Wish:
        """Raises `UserError` when the spec is not of a dataset on the Hub."""
        ref = parse_source(spec.source)
        if ref.kind != "hub" or ref.repo_type != "dataset":
            raise UserError(f"Dataset {spec.name!r} is not made from the Hub any more.")
        return cls(ref, spec.resolve().source)

    @property
    def revision(self) -> str:
        """The branch, tag or commit asked for; "" for the default branch."""
        return self.ref.revision or self.options.revision or ""


def check_before_run(api: HubApi, entry: Entry, watch: HubWatch, wish: Wish) -> None:
    """Raise `RepoError` when a repository cannot be had, or is larger than the watch allows.

    Costs no request unless the repository is gated, or its storage (which counts all its history)
    is above the ceiling or unknown: only then the files that matter are added up.
    """
    if entry.restricted:
        api.check_access(entry.label)
    ceiling = watch.max_gb * 1e9
    if 0 < entry.used_bytes <= ceiling:
        return
    tree = api.tree(entry.label, wish.revision or entry.head, MAX_PAGES)
    if tree is None:
        raise RepoError("refused", f"{entry.label} has too many files to look through; left out.")
    size = relevant_bytes(tree, wish.options, wish.ref.folder)
    if size > ceiling:
        raise RepoError(
            "refused",
            f"{entry.label} has {human_bytes(size)}, above the {watch.max_gb:g} GB of the watch "
            f"{watch.name!r} (max_gb).",
        )


def changed_files(api: HubApi, entry: Entry, wish: Wish, known: str) -> str:
    """What changed since the revision `known` that matters to a dataset, in words; "" if nothing.

    Raises `RepoError` or `HubBusyError`.
    """
    head = entry.head
    if wish.revision:
        head = api.repo(entry.label, wish.revision).sha
    if head == known:
        return ""
    try:
        before = api.tree(entry.label, known, MAX_PAGES) if known else None
    except RepoError as error:
        if error.state != "no-revision":
            raise
        return "its history was rewritten"
    after = api.tree(entry.label, head, MAX_PAGES)
    if before is None or after is None:
        return "too many files to compare"
    changes = relevant_changes(before, after, wish.options, wish.ref.folder)
    return name_some(changes)
