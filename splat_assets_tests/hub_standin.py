"""A stand-in for the Hugging Face Hub: its HTTP API over folders on disk, on the loopback.

It answers the real `huggingface_hub` client (set `HF_ENDPOINT` to `HubStandIn.url`): repository
info and lists, trees in pages, downloads with ETag, `X-Repo-Commit` and ranges, private, gated,
disabled and renamed repositories. It counts what was asked for, so that a test can prove that
nothing was downloaded, and can fail or cut answers on demand.

By hand: `python -m splat_assets_tests.hub_standin FOLDER --port N` serves each
`FOLDER/<org>/<name>` (or FOLDER's own subfolders as `local/<name>`) as a dataset.
"""

from __future__ import annotations

import argparse
import hashlib
import threading
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType

from splat_assets_tests.hub_standin_http import Server, handler_for
from splat_assets_tests.hub_standin_repos import Blob, Commit, Repo, read_blobs

PAGE = 1000


class HubStandIn:
    """A Hub on the loopback, as a context manager.

    `requests` counts by kind: "info", "tree", "list", "paths-info", "auth-check", "head", "get"
    (file bodies), and `sent_bytes` the bytes of file bodies. Every commit is a second later than
    the one before, in whatever repository.
    """

    def __init__(self, *, port: int = 0, page: int = PAGE) -> None:
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}
        self.requests: Counter[str] = Counter()
        self.paths: list[str] = []
        self.sent_bytes = 0
        self.page = page
        self.lock = threading.Lock()
        self._failures: list[tuple[int, str, dict[str, str]]] = []
        self._num_commits = 0
        self._cut_after: int | None = None
        self.pause_sec = 0.0  # before every 64 kB of a file body: a slow line
        self._server = Server(("127.0.0.1", port), handler_for(self))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HubStandIn:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def add(
        self,
        repo_id: str,
        folder: Path,
        *,
        token: str | None = None,
        gated: bool = False,
        disabled: bool = False,
        tags: tuple[str, ...] = (),
    ) -> Repo:
        """Serve `folder` as the first commit of a dataset repository."""
        self.repos[repo_id] = repo = self._new(repo_id, tags)
        repo.token, repo.gated, repo.disabled = token, gated, disabled
        self.commit(repo_id, folder)
        return repo

    def add_many(
        self, repo_ids: Iterable[str], folder: Path, *, tags: tuple[str, ...] = ()
    ) -> None:
        """As `add` for thousands of repositories with the same files; each has its own sha."""
        files = read_blobs(folder)
        for repo_id in repo_ids:
            repo = self._new(repo_id, tags)
            repo.commits.append(self._commit(repo_id, files))
            self.repos[repo_id] = repo

    def _new(self, repo_id: str, tags: tuple[str, ...]) -> Repo:
        serial = f"{len(self.repos)} {self._num_commits} {repo_id}"
        return Repo(repo_id, hashlib.sha1(serial.encode()).hexdigest()[:24], tags=tags)

    def _commit(self, parent: str, files: dict[str, Blob]) -> Commit:
        listed = "".join(f"{name}\0{blob.git_oid}\n" for name, blob in files.items())
        sha = hashlib.sha1(f"{parent}\n{listed}".encode()).hexdigest()
        self._num_commits += 1
        at = datetime(2025, 1, 1) + timedelta(seconds=self._num_commits)
        return Commit(sha, files, at.isoformat(timespec="milliseconds") + "Z")

    def commit(self, repo_id: str, folder: Path, *, tag: str | None = None) -> str:
        """Add a commit with the folder's present content; returns its sha.

        The folder must not change while a commit refers to it: use one folder a commit.
        """
        repo = self.repos[repo_id]
        parent = repo.commits[-1].sha if repo.commits else ""
        commit = self._commit(parent, read_blobs(folder))
        repo.commits.append(commit)
        if tag:
            repo.refs[tag] = commit.sha
        return commit.sha

    def remove(self, repo_id: str) -> None:
        """As after a deletion on the Hub."""
        del self.repos[repo_id]

    def rename(self, old: str, new: str) -> None:
        """As after a rename on the Hub: the old name redirects."""
        repo = self.repos.pop(old)
        repo.repo_id = new
        self.repos[new] = repo
        self.renamed[old] = new

    def fail_next(
        self, status: int, count: int = 1, *, kind: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Answer the next `count` requests (of one kind) with an HTTP error."""
        with self.lock:
            self._failures += [(status, kind, headers or {})] * count

    def cut_next(self, num_bytes: int) -> None:
        """Close the connection of the next file body after `num_bytes`."""
        with self.lock:
            self._cut_after = num_bytes

    def reset_counts(self) -> None:
        with self.lock:
            self.requests.clear()
            self.paths.clear()
            self.sent_bytes = 0

    def take_failure(self, kind: str) -> tuple[int, dict[str, str]] | None:
        with self.lock:
            for index, (status, wanted, headers) in enumerate(self._failures):
                if wanted in ("", kind):
                    del self._failures[index]
                    return status, headers
        return None

    def take_cut(self) -> int | None:
        with self.lock:
            cut, self._cut_after = self._cut_after, None
        return cut


def _serve() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="holds <org>/<name>/ folders, or plain <name>/")
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args()
    with HubStandIn(port=args.port) as hub:
        for first in sorted(p for p in args.folder.iterdir() if p.is_dir()):
            children = list(first.iterdir())
            if any(child.is_file() for child in children) or not children:
                hub.add(f"local/{first.name}", first)
                continue
            if first.name.startswith(("hf_",)) or (first / "data").is_dir():
                hub.add(f"local/{first.name}", first)
                continue
            for second in sorted(p for p in children if p.is_dir()):
                hub.add(f"{first.name}/{second.name}", second)
        print(f"HF_ENDPOINT={hub.url}", flush=True)
        for repo_id in hub.repos:
            print(f"  {repo_id}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    _serve()
