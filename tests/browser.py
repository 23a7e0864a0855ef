"""The browser in which pages are tested: the chromium that is installed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# software rendering: a machine that tests has no screen
FLAGS = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


def executable() -> str:
    """Where the browser is; without one the test fails in CI, and is skipped elsewhere."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("no chromium: install it, as by `apt-get install chromium`")
    return found


@contextmanager
def chromium() -> Iterator:
    """A running browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=[*FLAGS])
        yield browser
        browser.close()
