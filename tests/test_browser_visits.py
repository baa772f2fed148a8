"""A public page and a page with a password in a real browser: whose things a tab shows, and how one comes in.

Run: python -m pytest tests/test_browser_visits.py
"""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import expect
from test_browser import chromium, picture, pytestmark, running  # noqa: F401 - fixtures and marks
from test_browser_teach import make, teach

GRACE_S = 3  # in place of a minute


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """The address of a public page, and the folder for everything temporary."""
    folder = tmp_path_factory.mktemp("public")
    soon = f"from app import visits; visits.GRACE_S = {GRACE_S}"
    with running(folder, soon, PROMPTSCOPE_PUBLIC="1", TMPDIR=str(folder)) as (url, _):
        yield url, folder


def test_a_reload_and_a_second_tab_find_their_own_and_another_browser_does_not(chromium, public):  # noqa: F811
    url, _ = public
    mine, theirs = chromium.new_context(), chromium.new_context()
    tab = mine.new_page()
    tab.goto(url)
    teach(tab)
    make(tab, "only mine\nnobody's")
    tab.reload()
    teach(tab)
    expect(tab.locator("#ps-about-task")).to_contain_text("only mine", timeout=30_000)
    second, other = mine.new_page(), theirs.new_page()
    for page in (second, other):
        page.goto(url)
        teach(page)
    expect(second.locator("#ps-about-task")).to_contain_text("only mine", timeout=30_000)
    expect(other.locator("#ps-gallery")).to_contain_text("There is no question yet", timeout=30_000)
    for _ in range(3):  # visitors whose page comes while others work
        other.reload()
        teach(other)
        expect(other.locator("#ps-gallery")).to_contain_text("There is no question yet", timeout=30_000)
    mine.close()
    theirs.close()


def test_a_visit_that_was_closed_is_deleted(chromium, public):  # noqa: F811
    url, folder = public
    others = set(folder.glob("promptscope-*/workspace"))
    context = chromium.new_context()
    tab = context.new_page()
    tab.goto(url)
    teach(tab)
    make(tab)
    (kept,) = set(folder.glob("promptscope-*/workspace")) - others
    tab.wait_for_timeout(5000)  # what is still answered when a tab closes opens it again, until the idle limit
    context.close()
    left = time.monotonic() + GRACE_S + 15 + 30  # the browser's heartbeat, the sweep
    while kept.exists() and time.monotonic() < left:
        time.sleep(0.5)
    assert not kept.exists()


def test_the_password_is_asked_once(chromium, tmp_path):  # noqa: F811
    with running(tmp_path, PROMPTSCOPE_AUTH="ann:secret", PROMPTSCOPE_WORKSPACE=str(tmp_path / "kept")) as (url, _):
        context = chromium.new_context(viewport={"width": 1024, "height": 700})
        tab = context.new_page()
        outside: list[str] = []
        tab.on("request", lambda r: outside.append(r.url) if not r.url.startswith((url, "data:", "blob:")) else None)
        tab.goto(url)
        tab.get_by_label("User name").fill("ann")
        tab.get_by_label("Password").fill("wrong")
        tab.get_by_role("button", name="Sign in").click()
        expect(tab.get_by_role("alert")).to_have_text("User name or password is wrong. Try again.")
        picture(tab, "sign-in")
        tab.get_by_label("User name").fill("ann")
        tab.get_by_label("Password").fill("secret")
        tab.get_by_label("Password").press("Enter")
        teach(tab)
        make(tab)
        tab.reload()
        teach(tab)
        expect(tab.locator("#ps-about-task")).to_contain_text("dark", timeout=30_000)
        assert tab.url == url and outside == []
        context.close()
