"""Debian's chromium, through playwright, for tests of pages; where one of them is missing, those are skipped by name."""

from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'seqfault[browser]'")
    chromium = os.environ.get("SEQFAULT_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium: apt-get install chromium, or name one in SEQFAULT_CHROMIUM")
    with playwright.sync_playwright() as p:
        try:
            b = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        except playwright.Error as e:
            pytest.skip(f"chromium does not start: {str(e).splitlines()[0]}")
        yield b
        b.close()
