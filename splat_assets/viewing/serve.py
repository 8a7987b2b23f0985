"""A small web server on this machine's loopback address, for looking at an artifact folder."""

from __future__ import annotations

import threading
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from splat_assets.errors import UserError

HOST = "127.0.0.1"


class FolderServer:
    """Serves the files of one folder to this machine only, until closed.

    `with FolderServer(folder) as server:` serves in the background; `server.url` is its page.
    """

    def __init__(self, folder: Path | str, port: int = 0, page: str = "viewer.html") -> None:
        """`port` 0 takes a free one. Raises `UserError` when the page or the port is not there."""
        self.folder = Path(folder).resolve()
        if not (self.folder / page).is_file():
            raise UserError(f"{self.folder} holds no {page} to show.")
        handler = partial(_Handler, directory=str(self.folder))
        try:
            self._server = ThreadingHTTPServer((HOST, port), handler)
        except OSError as error:
            raise UserError(
                f"Port {port} cannot be used ({error.strerror}); choose another, or 0 for any."
            ) from None
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://{HOST}:{self.port}/{quote(page)}"
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self) -> None:
        """Block until interrupted with Ctrl-C."""
        try:
            while self._thread is not None and self._thread.is_alive():
                self._thread.join(0.5)
        except KeyboardInterrupt:
            return


def serve(
    folder: Path | str, port: int = 0, *, page: str = "viewer.html", open_browser: bool = False
) -> None:
    """Serve `folder`, print the address of `page`, and block until Ctrl-C."""
    import webbrowser

    with FolderServer(folder, port, page) as server:
        print(f"Serving {server.folder} at {server.url} (Ctrl-C to stop)", flush=True)
        if open_browser:
            webbrowser.open(server.url)
        server.wait()


class _Handler(SimpleHTTPRequestHandler):
    """Files only, for pages of this address only."""

    extensions_map = {  # noqa: RUF012 (the base class's attribute)
        **SimpleHTTPRequestHandler.extensions_map,
        ".sog": "application/octet-stream",
        ".webp": "image/webp",
        ".js": "text/javascript",
    }

    def send_head(self) -> Any:
        # another name in the Host header means some web page made its own name point here
        host = (self.headers.get("Host") or "").partition(":")[0]
        if host.lower() not in (HOST, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN, "Only for this machine")
            return None
        try:
            path = Path(self.translate_path(self.path)).resolve()
        except ValueError:  # a null byte
            path = Path()
        if not path.is_file() or not path.is_relative_to(self.directory):
            self.send_error(HTTPStatus.NOT_FOUND, "Not found")
            return None
        return super().send_head()

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal belongs to the user."""
