"""Headless Chromium for tests that look at a page; skips, with the reason, where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# WebGL in software: the tests run on machines without a GPU
_ARGUMENTS = (
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
)


@contextmanager
def open_page(
    url: str = "about:blank",
    *,
    width: int = 640,
    height: int = 480,
    webgl: bool = True,
    init_script: str = "",
) -> Iterator[Any]:
    """A playwright page at `url`; its `requests` attribute lists every URL it asked for, `errors`
    what went wrong in it. `$CHROMIUM` names another executable than the one on the PATH."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if executable is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    arguments = (
        list(_ARGUMENTS) if webgl else ["--no-sandbox", "--disable-gpu", "--disable-3d-apis"]
    )
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.requests, page.errors = [], []
            page.on("request", lambda request: page.requests.append(request.url))
            page.on("pageerror", lambda error: page.errors.append(str(error)))
            if init_script:
                page.add_init_script(init_script)
            page.goto(url)
            yield page
        finally:
            browser.close()


def wait_for_splat(page: Any, timeout_sec: float = 60.0) -> None:
    """Until the viewer has drawn its first frame, and a little longer for the sorting to settle.

    The page must have been opened with `init_script=FIRST_FRAME`.
    """
    page.wait_for_function("window.__firstFrame > 0", timeout=1000 * timeout_sec)
    page.wait_for_timeout(1500)


FIRST_FRAME = "window.firstFrame = () => { window.__firstFrame = performance.now(); };"
