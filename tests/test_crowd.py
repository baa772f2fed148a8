"""Twenty visitors of a public page at once, two of them teaching: nothing goes wrong, and nobody sees anybody else.

Run: python -m pytest tests/test_crowd.py (the long one, with times: python -m scripts.crowd)
"""

from __future__ import annotations

from scripts.crowd import crowd, percentiles, public_page


def test_twenty_visitors_at_once_get_their_own_answers_and_see_only_their_own(tmp_path):
    with public_page(tmp_path) as address:
        found = crowd(address, visitors=20, teaching=2, seconds=6, think_s=(0.2, 1.0))
    log = (tmp_path / "log").read_text()
    assert found["wrong"] == [] and found["across"] == [] and "Traceback" not in log, (found, log[-2000:])
    assert found["trainings"] >= 2 and found["ms"]["classify"]["count"] >= 20 and found["ms"]["label"]["count"] >= 20 * 6
    assert list(tmp_path.glob("promptscope-*/workspace")) == [], "a visit outlived the server"
    for name in ("visitor0", "Question of"):
        assert name not in log, "the log names what a visitor brought"


def test_percentiles_by_hand():
    assert percentiles([float(x) for x in range(101)]) == {"count": 101, "p50": 50, "p95": 95, "p99": 99, "max": 100}
