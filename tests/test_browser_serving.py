"""A page whose server is busy, in a real browser: who waits sees how many are before him, who cannot wait is told what to do.

Run: python -m pytest tests/test_browser_serving.py
"""

from __future__ import annotations

import re
import time
import urllib.request

from playwright.sync_api import expect
from test_browser import chromium, picture, pytestmark, running  # noqa: F401 - fixtures and marks

BUSY = """
def hold():
    with compute.turns.alone("test"):
        while not os.path.exists({free!r}):
            time.sleep(0.1)

import os, threading, time
from app import compute
threading.Thread(target=hold).start()
"""


def waits_for_a_turn(url: str, wanted: int) -> None:
    """Until so many requests wait for their turn to compute. A click that comes before the one before is that far would end it."""
    until = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(f"{url}metrics", timeout=30) as answer:
            found = re.search(r"^promptscope_turns_waiting (\d+)", answer.read().decode(), re.MULTILINE)
        assert found
        if int(found[1]) == wanted:
            return
        assert time.monotonic() < until, f"{found[1]} wait, not {wanted}"
        time.sleep(0.1)


def test_who_waits_sees_how_many_are_before_him_and_a_full_queue_says_what_to_do(chromium, tmp_path):  # noqa: F811
    free = tmp_path / "free"
    busy = f"exec({BUSY.format(free=str(free))!r})"
    with running(tmp_path, busy, PROMPTSCOPE_MAX_WAITING="3") as (url, _):
        tab = chromium.new_page()
        tab.goto(url)
        example, waits = tab.get_by_role("button", name="CT", exact=True), tab.locator("#ps-view .progress-text")
        for clicked in range(1, 5):  # are computed at once
            example.click(timeout=60_000)
            waits_for_a_turn(url, clicked)
        for said in ("you are next", "1 before you", "2 before you"):
            example.click()
            expect(waits).to_contain_text(said, timeout=60_000)
        expect(waits).not_to_contain_text("queue:")
        picture(tab, "waiting")
        example.click()
        sentence = "The queue is full (3 wait). Try again in 10 seconds"
        expect(tab.get_by_text(sentence).first).to_be_visible(timeout=30_000)
        picture(tab, "full")
        free.touch()
        expect(tab.locator(".ps-bars li")).to_have_count(8, timeout=60_000)
        tab.close()
