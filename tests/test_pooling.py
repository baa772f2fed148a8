"""Many frames to one answer. Run: python -m pytest tests/test_pooling.py"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import engine
from engine.errors import DataError, ImageError
from engine.pooling import order, peak, pool, pooled_by
from engine.volumes import curves

# three frames, two classes
P = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], dtype=np.float32)


@pytest.mark.parametrize(
    ("how", "k", "wanted"),
    [
        ("mean", 5, [1.7 / 3, 1.3 / 3]),
        ("max", 5, [0.9 / 1.7, 0.8 / 1.7]),
        ("top-k", 2, [0.75 / 1.35, 0.6 / 1.35]),  # (0.9 + 0.6) / 2 and (0.8 + 0.4) / 2
        ("top-k", 5, [1.7 / 3, 1.3 / 3]),  # more than there are: all of them
    ],
)
def test_pools_by_hand(how, k, wanted):
    np.testing.assert_allclose(pool(P, how, k), wanted, atol=1e-6)


def test_an_unknown_pool_is_named():
    with pytest.raises(DataError, match=r"no pooling 'median'\. Choose one of: mean, max, top-k"):
        pool(P, "median")


def test_how_frames_were_pooled_is_said():
    assert pooled_by("mean", 3) == "the mean over 3 frames"
    assert pooled_by("top-k", 3) == "the mean of each class's 3 highest of 3 frames, scaled to sum to 1"
    assert pooled_by("top-k", 40) == "the mean of each class's 5 highest of 40 frames, scaled to sum to 1"


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 40, 301])
def test_every_frame_comes_once_and_every_eighth_first(frames):
    found = order(frames)
    assert sorted(found) == list(range(frames))
    eighths, halfway = list(range(0, frames, 8)), list(range(4, frames, 8))
    assert found[: len(eighths) + len(halfway)] == eighths + halfway


def test_the_frame_that_speaks_most_for_a_class():
    assert [peak(P, 0), peak(P, 1)] == [0, 2]


def series(frames: int, bad: tuple[int, ...] = ()) -> SimpleNamespace:
    """Frame i is one pixel of value i / 100."""

    def frame(index: int, window=None) -> engine.Image:
        if index in bad:
            raise ImageError(f"Frame {index} is damaged.")
        return engine.Image(np.full((1, 1), index / 100, dtype=np.float32))

    return SimpleNamespace(frames=frames, frame=frame)


def prepared(image: engine.Image) -> engine.Input:
    return engine.Input(np.full((3, 1, 1), image.pixels[0, 0]), engine.Box(0, 0, 1, 1))


def score(inputs: list[engine.Input]) -> list[np.ndarray]:
    p = np.array([float(each.pixels[0, 0, 0]) for each in inputs])
    return [np.stack([p, 1 - p], axis=1), np.stack([1 - p, p], axis=1)]


def test_a_curve_grows_batch_by_batch_and_ends_complete_and_in_order():
    found = list(curves(series(20), prepared, score, batch=8))
    assert [c.done for c in found] == [8, 16, 20] and {c.total for c in found} == {20}
    assert found[0].frames.tolist() == sorted(order(20)[:8])
    np.testing.assert_array_equal(found[-1].frames, np.arange(20))
    np.testing.assert_allclose(found[-1].probabilities[0][:, 0], np.arange(20) / 100, atol=1e-6)
    np.testing.assert_allclose(found[-1].probabilities[1][:, 1], np.arange(20) / 100, atol=1e-6)


def test_a_frame_that_fails_is_left_out_and_told_and_where_all_fail_that_is_said():
    last = list(curves(series(5, bad=(1, 3)), prepared, score, batch=2))[-1]
    assert last.frames.tolist() == [0, 2, 4] and [i for i, _ in last.failed] == [1, 3] and last.done == 5
    assert str(last.failed[0][1]) == "Frame 1 is damaged."
    with pytest.raises(ImageError, match="Frame 0 is damaged"):
        list(curves(series(2, bad=(0, 1)), prepared, score))


def test_no_more_than_a_few_frames_are_held_at_once():
    """Bug: a whole batch of frames was kept, which for large ones is gigabytes."""
    alive: list[int] = []
    most = 0

    class Counted(np.ndarray):
        def __array_finalize__(self, _):
            pass

        def __del__(self):
            alive.pop()

    def frame(index: int, window=None) -> engine.Image:
        nonlocal most
        alive.append(index)
        most = max(most, len(alive))
        return engine.Image(np.full((1, 1), 0.5, dtype=np.float32).view(Counted))

    list(
        curves(
            SimpleNamespace(frames=64, frame=frame), lambda image: prepared(engine.Image(np.ones((1, 1)))), score, batch=16
        )
    )
    assert most <= 8  # decoded ahead, being decoded, and the one in hand
