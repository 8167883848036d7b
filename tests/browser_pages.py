"""A browser for tests of pages: Chromium, in which nothing may be complained of or asked for.

`make browser` installs it where apt is. Without it these tests are skipped, and on continuous
integration they fail. A plugin, so that every folder of tests has its fixtures.
"""

from __future__ import annotations

import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update"),
)
#: Width and height of windows.
DESKTOP, PHONE = (1280, 800), (375, 812)


@pytest.fixture(scope="session")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop(f"pages are tested in Chromium, and there is none of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(OPTIONS))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens pages; at the end nothing may have been complained of or asked for."""
    contexts, visited, seen = [], [], []

    def visit(path, size=DESKTOP, script="", **options):
        viewport = {"width": size[0], "height": size[1]}
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.on("console", lambda message: seen.append((message.type, message.text)))
        page.on("pageerror", lambda error: seen.append(("error", str(error))))
        page.on("request", lambda request: seen.append(("request", request.url)))
        visited.append(path.as_uri())
        page.goto(path.as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    allowed = {("request", url) for url in visited}
    assert allowed <= {*seen}
    inside = ("request", "data:")
    assert [what for what in seen if what not in allowed and (what[0], what[1][:5]) != inside] == []
