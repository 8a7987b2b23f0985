"""The answers of the stand-in for the Hub, route by route."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from splat_assets_tests.hub_standin_repos import Blob, Commit, Repo, card

if TYPE_CHECKING:
    from splat_assets_tests.hub_standin import HubStandIn


class Server(ThreadingHTTPServer):
    """Of one stand-in; its threads end with it."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of ours; everything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def handler_for(hub: HubStandIn) -> type[BaseHTTPRequestHandler]:
    """What answers the requests to `hub`."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    return Handler


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_GET(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: tests read the counters."""

    def _route(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._body = self.rfile.read(length) if length else b""
        parts = urlsplit(self.path)
        self._query = parse_qs(parts.query)
        path = parts.path
        with self.hub.lock:
            self.hub.paths.append(f"{method} {self.path}")
        if path == "/api/datasets":
            return self._guarded("list", lambda: self._list())
        if path == "/api/whoami-v2":
            return self._guarded("whoami", lambda: self._json({"name": "stand-in"}))
        api = re.fullmatch(
            r"/api/datasets/([^/]+/[^/]+)"
            r"(?:/(revision|tree|paths-info|auth-check)(?:/([^/]+))?(?:/(.*))?)?",
            path,
        )
        if api:
            kind = api[2] if api[2] in ("tree", "paths-info", "auth-check") else "info"
            return self._guarded(kind, lambda: self._api(api[1], kind, api[3], api[4]))
        resolve = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if resolve and method in ("GET", "HEAD"):
            kind = method.lower()
            return self._guarded(kind, lambda: self._resolve(method, *resolve.groups()))
        return self._error(404, "EntryNotFound", "Not found")

    def _guarded(self, kind: str, answer: Any) -> None:
        with self.hub.lock:
            self.hub.requests[kind] += 1
        failure = self.hub.take_failure(kind)
        if failure is not None:
            return self._error(failure[0], "", "The stand-in fails on demand", failure[1])
        return answer()

    # --- answers ---

    def _list(self) -> None:
        """`/api/datasets?author=…&search=…&filter=…&sort=…&limit=…&cursor=…`, in pages.

        Sorted by a time, the latest comes first, as on the Hub since it dropped `direction`.
        """
        want = {key: values[0] for key, values in self._query.items()}
        found = []
        for repo in list(self.hub.repos.values()):
            if repo.token and not repo.gated and not self._may_read(repo):
                continue
            if want.get("author") not in (None, repo.repo_id.split("/")[0]):
                continue
            if want.get("search", "").lower() not in repo.repo_id.lower():
                continue
            if any(tag not in repo.tags for tag in self._query.get("filter", ())):
                continue
            found.append(repo)
        if want.get("sort") in ("lastModified", "last_modified"):
            found.sort(key=lambda repo: repo.commits[-1].modified, reverse=True)
        elif want.get("sort") in ("createdAt", "created_at"):
            found.sort(key=lambda repo: repo.commits[0].modified, reverse=True)
        limit = int(want.get("limit") or self.hub.page)
        start = int(want.get("cursor") or 0)
        page = found[start : start + min(limit, self.hub.page)]
        self._json([self._info(repo, repo.commits[-1]) for repo in page], self._next(start, found))

    def _api(self, repo_id: str, kind: str, revision: str | None, path: str | None) -> None:
        files = kind == "auth-check"  # a gated repository: may its files be read?
        found = self._find(repo_id, unquote(revision or "main"), for_files=files)
        if found is None:
            return
        repo, commit = found
        if kind == "info":
            self._json(self._info(repo, commit, siblings=True))
        elif kind == "auth-check":
            self._json("OK")
        elif kind == "paths-info":
            wanted = self._wanted_paths()
            self._json([e for e in self._entries(commit, "", True) if e["path"] in wanted])
        else:
            self._tree(commit, unquote(path or "").strip("/"))

    def _tree(self, commit: Commit, folder: str) -> None:
        recursive = self._query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = self._entries(commit, folder, recursive)
        if not entries and folder:
            self._error(404, "EntryNotFound", f"{folder} does not exist")
            return
        start = int(self._query.get("cursor", ["0"])[0])
        self._json(entries[start : start + self.hub.page], self._next(start, entries))

    def _resolve(self, method: str, repo_id: str, revision: str, name: str) -> None:
        found = self._find(repo_id, unquote(revision), for_files=True)
        if found is None:
            return
        blob = found[1].files.get(unquote(name))
        if blob is None:
            self._error(404, "EntryNotFound", f"{name} does not exist")
            return
        start, end = self._range(blob.size)
        if start >= blob.size > 0:
            self._head(416, {"Content-Range": f"bytes */{blob.size}", "Content-Length": "0"})
            return
        headers = {
            "Content-Length": str(end - start),
            "Content-Type": "application/octet-stream",
            "ETag": f'"{blob.etag}"',
            "X-Repo-Commit": found[1].sha,
            "X-Linked-Size": str(blob.size),
            "X-Linked-ETag": f'"{blob.etag}"',
            "Accept-Ranges": "bytes",
        }
        partial = "Range" in self.headers
        if partial:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{blob.size}"
        self._head(206 if partial else 200, headers)
        if method == "GET":
            self._send_body(blob, start, end)

    # --- parts ---

    def _find(
        self, repo_id: str, revision: str, *, for_files: bool = False
    ) -> tuple[Repo, Commit] | None:
        """The repository at a revision; answers with the Hub's own errors when there is none."""
        repo_id = unquote(repo_id)
        if repo_id in self.hub.renamed:
            new = quote(self.hub.renamed[repo_id])
            self._head(
                307,
                {
                    "Location": self.path.replace(quote(repo_id), new, 1),
                    "Content-Length": "0",
                },
            )
            return None
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.token and not repo.gated and not self._may_read(repo)):
            signed_in = "Authorization" in self.headers
            self._error(404 if signed_in else 401, "RepoNotFound", "Repository not found")
            return None
        if repo.disabled:
            self._error(403, "", "Access to this resource is disabled.")
            return None
        if repo.gated and for_files and not self._may_read(repo):
            self._error(
                403 if "Authorization" in self.headers else 401,
                "GatedRepo",
                f"Access to dataset {repo_id} is restricted.",
            )
            return None
        commit = repo.find(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repo, commit

    def _may_read(self, repo: Repo) -> bool:
        return self.headers.get("Authorization") == f"Bearer {repo.token}"

    def _info(self, repo: Repo, commit: Commit, *, siblings: bool = False) -> dict[str, Any]:
        info: dict[str, Any] = {
            "_id": repo.hub_id,
            "id": repo.repo_id,
            "author": repo.repo_id.split("/")[0],
            "sha": commit.sha,
            "lastModified": commit.modified,
            "createdAt": repo.commits[0].modified,
            "private": bool(repo.token) and not repo.gated,
            "gated": "auto" if repo.gated else False,
            "disabled": repo.disabled,
            "tags": list(repo.tags),
            "downloads": 0,
            "likes": 0,
            "cardData": card(commit),
        }
        expand = self._query.get("expand", self._query.get("expand[]", []))
        if expand:
            used = repo.used_storage
            info["usedStorage"] = used or sum(blob.size for blob in commit.files.values())
            return {key: value for key, value in info.items() if key in {"_id", "id", *expand}}
        if siblings:
            info["siblings"] = [{"rfilename": name} for name in commit.files]
        return info

    def _entries(self, commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = folder + "/" if folder else ""
        files, folders = [], set()
        for name, blob in commit.files.items():
            if not name.startswith(prefix):
                continue
            below = name.removeprefix(prefix).split("/")
            for depth in range(1, len(below) if recursive else min(len(below), 2)):
                folders.add(prefix + "/".join(below[:depth]))
            if recursive or len(below) == 1:
                files.append(self._entry(name, blob))
        folder_entries = [
            {"type": "directory", "path": p, "oid": hashlib.sha1(p.encode()).hexdigest(), "size": 0}
            for p in sorted(folders)
        ]
        return folder_entries + files

    def _entry(self, name: str, blob: Blob) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "type": "file",
            "path": name,
            "size": blob.size,
            "oid": blob.git_oid,
        }
        if blob.is_lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
        return entry

    def _wanted_paths(self) -> set[str]:
        if "json" in self.headers.get("Content-Type", ""):
            return set(json.loads(self._body)["paths"])
        return set(parse_qs(self._body.decode()).get("paths", ()))

    def _range(self, size: int) -> tuple[int, int]:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not found:
            return 0, size
        end = min(int(found[2]) + 1, size) if found[2] else size
        return int(found[1]), end

    def _send_body(self, blob: Blob, start: int, end: int) -> None:
        cut = self.hub.take_cut()
        left = end - start if cut is None else min(cut, end - start)
        with blob.path.open("rb") as stream:
            stream.seek(start)
            while left > 0 and (chunk := stream.read(min(left, 64 * 1024))):
                time.sleep(self.hub.pause_sec)
                self.wfile.write(chunk)
                left -= len(chunk)
                with self.hub.lock:
                    self.hub.sent_bytes += len(chunk)
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def _next(self, start: int, everything: list[Any]) -> dict[str, str]:
        stop = start + min(int(self._query.get("limit", [self.hub.page])[0]), self.hub.page)
        if stop >= len(everything):
            return {}
        parts = urlsplit(self.path)
        kept = "&".join(
            f"{quote(key)}={quote(value)}"
            for key, values in self._query.items()
            for value in values
            if key != "cursor"
        )
        return {"Link": f'<{self.hub.url}{parts.path}?{kept}&cursor={stop}>; rel="next"'}

    def _json(self, document: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        common = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self._head(200, {**common, **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(
        self, status: int, code: str, message: str, more: dict[str, str] | None = None
    ) -> None:
        body = json.dumps({"error": message}).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        headers |= more or {}
        if code:
            headers["X-Error-Code"] = code
        headers["X-Error-Message"] = message
        self._head(status, headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
