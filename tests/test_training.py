"""The training loop and the store of features, against loops and schedulers written elsewhere.

Run: python -m pytest tests/test_training.py
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.errors import DataError, EngineError, Stopped
from engine.store import Store
from engine.training import Recipe, Run, Watch, rate, train

HERE = Path(__file__).resolve().parent


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These matrices are small: threads that wait for each other on a busy machine cost fifty times the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPTSCOPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def slow_clock(monkeypatch):
    """A second passes between any two looks at the clock, so that every epoch is reported and may be stopped."""
    monkeypatch.setattr("engine.training.time", SimpleNamespace(monotonic=itertools.count(1.0).__next__))


# --- toys --------------------------------------------------------------------------------------------------------------


class Toy:
    """Each run's point p, drawn to its items: (1 + y) / 2 |p - v|^2 over the batch, and 0.05 |p|^2.

    noisy : the pull is multiplied by a random number, as dropout would; seen : the batches
    """

    def __init__(self, starts: list[np.ndarray], noisy: bool = False, seconds: float = 0.0):
        self.parameters = [{"p": nn.Parameter(torch.tensor(start, dtype=torch.float32))} for start in starts]
        self.noisy, self.seconds = noisy, seconds
        self.seen: list = []

    def terms(self, batch) -> dict[str, Tensor]:
        time.sleep(self.seconds)
        self.seen.append(batch)
        p = torch.stack([self.parameters[r]["p"] for r in batch.runs])
        each = 0.5 * (p[:, None] - batch.v).square().sum(dim=-1) * (1 + batch.y)
        chance = torch.rand(()) if self.noisy else 1.0
        return {"pull": chance * (each * batch.w).sum(dim=1), "small": 0.05 * p.square().sum(dim=1)}

    def backward(self, terms, batch) -> None:
        sum(value.sum() for value in terms.values()).backward()


class Slope:
    """The gradient is 1 at every step, so that p falls by the learning rate alone; `at` : p before each step."""

    def __init__(self) -> None:
        self.parameters, self.at = [{"p": nn.Parameter(torch.zeros(1, dtype=torch.float64))}], []

    def terms(self, batch) -> dict[str, Tensor]:
        self.at.append(self.parameters[0]["p"].item())
        return {"slope": self.parameters[0]["p"]}

    def backward(self, terms, batch) -> None:
        terms["slope"].sum().backward()


def run(items: int, recipe: Recipe, seed: int = 1, views: int = 1, dim: int = 3) -> Run:
    drawn = np.random.default_rng(items)
    made = torch.tensor(drawn.normal(size=(views, items, dim)), dtype=torch.float32)
    return Run(made, torch.tensor(drawn.integers(0, 2, items)), recipe, seed)


def start(seed: int = 0, dim: int = 3) -> np.ndarray:
    return np.random.default_rng(1000 + seed).normal(size=dim)


def points(toy: Toy) -> list[np.ndarray]:
    return [each["p"].detach().numpy() for each in toy.parameters]


SGD = Recipe(epochs=6, batch=4, lr=0.05)
ADAMW = Recipe(epochs=6, batch=4, lr=0.05, optimiser="adamw", weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6)
RECIPES = {"sgd": SGD, "adamw": ADAMW}


@pytest.fixture(params=RECIPES)
def recipe(request) -> Recipe:
    return RECIPES[request.param]


# --- the schedule -------------------------------------------------------------------------------------------------------


class Warmup(torch.optim.lr_scheduler.LRScheduler):
    """Dassl's ConstantWarmupScheduler, WARMUP_RECOUNT True: constant, then its successor from its own beginning."""

    def __init__(self, optimiser, successor, epochs, constant):
        self.successor, self.epochs, self.constant = successor, epochs, constant
        super().__init__(optimiser)

    def get_lr(self):
        return self.successor.get_last_lr() if self.last_epoch >= self.epochs else [self.constant for _ in self.base_lrs]

    def step(self, epoch=None):
        if self.last_epoch >= self.epochs:
            self.successor.step()
            self._last_lr = self.successor.get_last_lr()
        else:
            super().step()


@pytest.mark.parametrize("warmup", [0, 1, 3])
@pytest.mark.parametrize("epochs", [4, 50, 100])
def test_the_rate_equals_torchs_own_schedulers_stepped_once_an_epoch(warmup, epochs):
    recipe = Recipe(epochs, 4, 0.0025, warmup_epochs=warmup, warmup_lr=1e-5)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, float(epochs))
    if warmup:
        scheduler = Warmup(optimiser, scheduler, warmup, 1e-5)
    for epoch in range(epochs):
        assert rate(recipe, epoch) == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-12), epoch
        optimiser.step()
        scheduler.step()


def test_the_rate_has_the_numbers_that_upstream_printed():
    """methods/biomedcoop.md 1.0: E = 100, g = .0025."""
    recipe = Recipe(100, 4, 0.0025)
    assert rate(recipe, 0) == 1e-5 and rate(recipe, 1) == 0.0025
    assert rate(recipe, 2) == pytest.approx(0.00249938, abs=5e-9)
    assert rate(recipe, 50) == pytest.approx(0.00128926, abs=5e-9)
    assert rate(recipe, 99) == pytest.approx(2.4666e-6, abs=5e-11)


def test_three_warm_up_epochs_delay_the_cosine():
    recipe = Recipe(72, 256, 0.005, warmup_epochs=3)
    assert [rate(recipe, e) for e in range(4)] == [1e-5, 1e-5, 1e-5, 0.005]
    assert rate(recipe, 39) == pytest.approx(0.0025)  # half of the cosine's 72 epochs after the third


@pytest.mark.parametrize("per_step", [False, True])
def test_each_step_is_as_long_as_its_rate(per_step):
    """2 batches an epoch, 3 epochs; by the step upstream's CLIP-Adapter goes through the cosine twice as fast."""
    recipe = Recipe(3, 4, 0.01, momentum=0.0, weight_decay=0.0, per_step=per_step)
    learner = Slope()
    train(learner, [run(9, recipe)])
    falls = -np.diff([*learner.at, learner.parameters[0]["p"].item()])
    c = [0.01 / 2 * (1 + math.cos(math.pi * k / 3)) for k in range(5)]  # .01 .0075 .0025 0 .0025
    expected = [1e-5, c[0], c[1], c[2], c[3], c[4]] if per_step else [1e-5, 1e-5, c[0], c[0], c[1], c[1]]
    np.testing.assert_allclose(falls, expected, atol=1e-12)


@pytest.mark.parametrize("change", [{"epochs": 0}, {"batch": 0}, {"lr": 0.0}, {"lr": -1.0}, {"lr": float("nan")}])
def test_a_recipe_that_cannot_be_trained_is_refused(change):
    with pytest.raises(DataError, match="cannot be trained"):
        replace(SGD, **change)


# --- the order ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("items", "shape"), [(8, (2, 4)), (9, (2, 4)), (11, (2, 4)), (4, (1, 4)), (3, (1, 3)), (1, (1, 1))])
def test_each_item_is_drawn_once_an_epoch_and_an_incomplete_batch_is_dropped_where_there_is_a_whole_one(items, shape):
    made = run(items, replace(SGD, epochs=40), views=2)
    drawn, views = made.order()
    steps, size = shape
    assert drawn.shape == views.shape == (40 * steps, size) and made.steps == 40 * steps
    for epoch in drawn.view(40, steps * size).tolist():
        assert len(set(epoch)) == len(epoch)
    assert set(drawn.flatten().tolist()) == set(range(items))  # nobody is left out for ever
    assert set(views.flatten().tolist()) == {0, 1}


def test_with_a_view_for_each_epoch_epoch_e_sees_view_e():
    _, views = replace(run(9, SGD, views=SGD.epochs), own_views=True).order()
    assert views.view(SGD.epochs, -1).tolist() == [[e] * 8 for e in range(SGD.epochs)]


def test_the_order_is_the_seeds_own():
    first, same, other = (run(9, SGD, seed, views=2).order() for seed in (5, 5, 6))
    assert torch.equal(first[0], same[0]) and torch.equal(first[1], same[1])
    assert not torch.equal(first[0], other[0])


def test_epochs_do_not_repeat_each_other():
    drawn, _ = run(32, replace(SGD, epochs=4)).order()
    assert len({tuple(epoch) for epoch in drawn.view(4, -1).tolist()}) == 4


# --- the path by hand -----------------------------------------------------------------------------------------------------


def by_hand(made: Run, p: np.ndarray) -> tuple[np.ndarray, dict[str, list[float]]]:
    """The same toy in numpy, float64: gradient sum_b w (1 + y)(p - v) + 0.1 p; SGD and AdamW from their papers."""
    r, p = made.recipe, p.astype(np.float64)
    views, targets = made.views.numpy().astype(np.float64), made.targets.numpy()
    items, drawn = (each.numpy() for each in made.order())
    momentum = first = second = 0.0
    terms: dict[str, list[float]] = {"pull": [], "small": []}
    for step, (i, v) in enumerate(zip(items, drawn, strict=True)):
        epoch = step // made.steps_per_epoch
        lr = 1e-5 if epoch < 1 else r.lr / 2 * (1 + math.cos(math.pi * (epoch - 1) / r.epochs))
        x, factor = views[v, i], 1.0 + targets[i]
        terms["pull"].append(float((0.5 * factor * ((p - x) ** 2).sum(axis=1)).mean()))
        terms["small"].append(float(0.05 * (p**2).sum()))
        g = (factor[:, None] * (p - x)).mean(axis=0) + 0.1 * p
        if r.optimiser == "sgd":
            momentum = 0.9 * momentum + (g + 5e-4 * p)
            p = p - lr * momentum
        else:
            p = p * (1 - lr * 0.1)
            first, second = 0.8 * first + 0.2 * g, 0.95 * second + 0.05 * g**2
            p = p - lr * (first / (1 - 0.8 ** (step + 1))) / (np.sqrt(second / (1 - 0.95 ** (step + 1))) + 1e-6)
    means = {name: list(np.reshape(each, (r.epochs, -1)).mean(axis=1)) for name, each in terms.items()}
    return p, means


@pytest.mark.parametrize(("items", "views"), [(3, 1), (9, 1), (8, 2), (9, 6)])
def test_a_training_takes_the_steps_of_its_optimiser(recipe, items, views):
    made, toy = run(items, recipe, views=views), Toy([start()])
    history = train(toy, [made])
    p, means = by_hand(made, start())
    np.testing.assert_allclose(points(toy)[0], p, atol=2e-6)  # float32 against float64
    for name, each in means.items():
        np.testing.assert_allclose(history.terms[name][0], each, rtol=1e-5)


def test_steps_end_a_training_early():
    made = run(9, SGD)
    whole, cut = Toy([start()]), Toy([start()])
    train(whole, [replace(made, recipe=replace(SGD, epochs=6))])
    history = train(cut, [made], steps=4)
    assert len(cut.seen) == 4 and len(history.terms["pull"][0]) == 2
    assert all(torch.equal(a.v, b.v) for a, b in zip(cut.seen, whole.seen, strict=False))


def test_the_same_seed_gives_the_same_numbers_and_another_gives_others(recipe):
    found = []
    for seed in (1, 1, 2):
        toy = Toy([start()], noisy=True)
        train(toy, [run(9, recipe, seed)])
        found.append(points(toy)[0])
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


def test_a_training_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(Toy([start()], noisy=True), [run(9, SGD)])
    assert torch.equal(torch.rand(3), expected)


# --- stacked --------------------------------------------------------------------------------------------------------------


def stacked_runs(recipe: Recipe) -> list[Run]:
    """Items above, at and below a batch; other seeds, rates, and epochs."""
    return [
        run(13, recipe, 1),
        run(3, replace(recipe, lr=0.01), 2),
        run(8, replace(recipe, lr=0.1), 3, views=2),
        run(4, replace(recipe, epochs=3), 4),
    ]


def test_stacked_runs_learn_what_each_learns_alone(recipe):
    runs, together = stacked_runs(recipe), Toy([start(i) for i in range(4)])
    train(together, runs)
    for i, each in enumerate(runs):
        alone = Toy([start(i)])
        train(alone, [each])
        np.testing.assert_allclose(points(together)[i], points(alone)[0], atol=1e-6, err_msg=f"run {i}")
        np.testing.assert_allclose(points(together)[i], by_hand(each, start(i))[0], atol=2e-6, err_msg=f"run {i}")


def test_stacked_runs_have_the_history_that_each_has_alone():
    """`History.terms`: one list for each run with the mean of each epoch, of its own epochs."""
    runs, together = stacked_runs(SGD), Toy([start(i) for i in range(4)])
    history = train(together, runs)
    for i, each in enumerate(runs):
        alone = train(Toy([start(i)]), [each])
        assert history.terms["pull"][i] == pytest.approx(alone.terms["pull"][0], rel=1e-5), f"run {i}"


def test_a_short_batch_is_padded_with_weight_zero():
    runs, toy = stacked_runs(SGD), Toy([start(i) for i in range(4)])
    train(toy, runs)
    batch = toy.seen[0]
    assert batch.runs == [0, 1, 2, 3] and batch.v.shape == (4, 4, 3)
    assert batch.w.tolist() == [[0.25] * 4, pytest.approx([1 / 3, 1 / 3, 1 / 3, 0]), [0.25] * 4, [0.25] * 4]
    assert batch.v[1, 3].tolist() == [0, 0, 0]
    assert all(torch.allclose(each.w.sum(dim=1), torch.ones(len(each.runs))) for each in toy.seen)
    # steps an epoch: 3, 1, 2, 1; epochs 6, 6, 6, 3
    active = [[r for r, steps in enumerate((18, 6, 12, 3)) if step < steps] for step in range(18)]
    assert [each.runs for each in toy.seen] == active
    assert toy.seen[3].v.shape == (3, 4, 3) and toy.seen[7].v.shape == (2, 4, 3)


def test_a_run_that_breaks_in_a_stack_is_noticed_also_where_it_ends_before_the_others_epoch():
    short = run(4, replace(SGD, epochs=2, lr=1.0), 1)  # 2 steps; the other has 3 an epoch, so it ends within its first
    short.views[0, 0, 0] = math.inf
    with pytest.raises(DataError, match="no longer a number"):
        train(Toy([start(), start(1)]), [short, run(13, SGD)])


# --- going on after a stop ------------------------------------------------------------------------------------------------


def stopped_after(epoch: int, toy: Toy, runs: list[Run], checkpoint: Path) -> None:
    asked = itertools.count(1)
    with pytest.raises(Stopped, match=f"stopped after epoch {epoch} of"):
        train(toy, runs, Watch(stop=lambda: next(asked) == epoch, checkpoint=checkpoint))
    assert checkpoint.is_file()


@pytest.mark.parametrize("epoch", [1, 3, 5])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_a_stopped_training_goes_on_as_if_nothing_had_been(recipe, epoch, momentum, slow_clock, tmp_path):
    runs = [run(9, replace(recipe, momentum=momentum)), run(3, replace(recipe, momentum=momentum), 2)]
    whole = Toy([start(), start(1)], noisy=True)
    expected = train(whole, runs)
    checkpoint = tmp_path / "deep" / "er" / "run.checkpoint"
    stopped_after(epoch, Toy([start(), start(1)], noisy=True), runs, checkpoint)
    again = Toy([start(), start(1)], noisy=True)
    history = train(again, runs, Watch(checkpoint=checkpoint))
    assert len(again.seen) == 12 - 2 * epoch  # 2 steps an epoch: what was done is not done again
    assert all(np.array_equal(a, b) for a, b in zip(points(again), points(whole), strict=True))
    assert history.terms == expected.terms
    assert not list(checkpoint.parent.iterdir())


def test_a_training_may_be_stopped_again_and_again(slow_clock, tmp_path):
    whole, checkpoint = Toy([start()], noisy=True), tmp_path / "c"
    expected = train(whole, [run(9, SGD)])
    for epoch in (1, 2, 3, 4):
        toy = Toy([start()], noisy=True)
        with pytest.raises(Stopped, match=f"epoch {epoch} of 6"):
            train(toy, [run(9, SGD)], Watch(stop=lambda: True, checkpoint=checkpoint))
        assert len(toy.seen) == 2
    last = Toy([start()], noisy=True)
    assert train(last, [run(9, SGD)], Watch(checkpoint=checkpoint)).terms == expected.terms
    assert np.array_equal(points(last)[0], points(whole)[0])


def other_data(made: Run) -> Run:
    views = made.views.clone()
    views[0, 0, 0] += 1e-3
    return replace(made, views=views)


OTHERS = {
    "data": lambda made: other_data(made),
    "targets": lambda made: replace(made, targets=1 - made.targets),
    "seed": lambda made: replace(made, seed=9),
    "lr": lambda made: replace(made, recipe=replace(made.recipe, lr=0.04)),
    "epochs": lambda made: replace(made, recipe=replace(made.recipe, epochs=7)),
    "optimiser": lambda made: replace(made, recipe=replace(made.recipe, optimiser="adamw")),
}


def refused(toy: Toy, made: Run, checkpoint: Path) -> None:
    """In a sentence, and the file is left as it was."""
    before = checkpoint.read_bytes()
    with pytest.raises(DataError, match=r"'c' is no checkpoint of this training .* Remove it, or name another file\."):
        train(toy, [made], Watch(checkpoint=checkpoint))
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize("what", OTHERS)
def test_a_checkpoint_of_another_training_is_refused_and_kept(what, slow_clock, tmp_path):
    stopped_after(3, Toy([start()]), [run(9, SGD)], tmp_path / "c")
    refused(Toy([start()]), OTHERS[what](run(9, SGD)), tmp_path / "c")


def test_a_checkpoint_from_another_start_is_refused_and_kept(slow_clock, tmp_path):
    stopped_after(3, Toy([start()]), [run(9, SGD)], tmp_path / "c")
    refused(Toy([start(5)]), run(9, SGD), tmp_path / "c")


DAMAGES = {
    "empty": lambda raw: b"",
    "cut": lambda raw: raw[: len(raw) - 5],
    "cut header": lambda raw: raw[:40],
    "random": lambda raw: bytes(range(256)) * 4,
    "text": lambda raw: b"not a checkpoint",
    "huge header": lambda raw: b"\xff" * 8 + raw[8:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_kept(damage, slow_clock, tmp_path):
    checkpoint = tmp_path / "c"
    stopped_after(3, Toy([start()]), [run(9, SGD)], checkpoint)
    checkpoint.write_bytes(DAMAGES[damage](checkpoint.read_bytes()))
    refused(Toy([start()]), run(9, SGD), checkpoint)


VICTIM = """
import sys, types
package = types.ModuleType("engine"); package.__path__ = [sys.argv[1] + "/engine"]; sys.modules["engine"] = package
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
from pathlib import Path
from test_training import SGD, Toy, Watch, replace, run, start, train
recipe = replace(SGD, epochs=40)
train(Toy([start()], noisy=True, seconds=0.01), [run(9, recipe)], Watch(checkpoint=Path(sys.argv[2])))
print("ended")
"""


def test_a_killed_training_goes_on_as_if_nothing_had_been(tmp_path):
    recipe, checkpoint = replace(SGD, epochs=40), tmp_path / "run.checkpoint"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(HERE.parent), str(checkpoint)], env=environment, stdout=subprocess.PIPE
    )
    try:
        end = time.monotonic() + 120
        while not checkpoint.is_file() and victim.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(0.15)  # some epochs of 20 ms more
    finally:
        victim.send_signal(signal.SIGKILL)
        said, _ = victim.communicate(timeout=30)
    assert victim.returncode == -signal.SIGKILL and said == b"" and checkpoint.is_file()
    whole, again = Toy([start()], noisy=True), Toy([start()], noisy=True)
    expected = train(whole, [run(9, recipe)])
    history = train(again, [run(9, recipe)], Watch(checkpoint=checkpoint))
    assert 0 < len(again.seen) < 80
    assert history.terms == expected.terms and np.array_equal(points(again)[0], points(whole)[0])


def test_two_checkpoints_side_by_side_do_not_share_a_file_while_they_are_written(tmp_path, monkeypatch):
    written = []
    plain = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda self, data: (written.append(self), plain(self, data))[1])
    for name in ("coop.seed1", "coop.seed2"):
        train(Toy([start()]), [run(9, replace(SGD, epochs=2))], Watch(checkpoint=tmp_path / name))
    assert len(set(written)) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_stopped_training_goes_on_on_the_gpu_too(slow_clock, tmp_path):
    """Dropout draws from the device's own random numbers."""

    class OnGPU(Toy):
        def __init__(self) -> None:
            super().__init__([start()])
            self.parameters = [{"p": nn.Parameter(self.parameters[0]["p"].detach().cuda())}]

        def terms(self, batch):
            return {name: torch.rand((), device="cuda") * each for name, each in super().terms(batch).items()}

    whole, again = OnGPU(), OnGPU()
    train(whole, [run(9, ADAMW)])
    stopped_after(3, OnGPU(), [run(9, ADAMW)], tmp_path / "c")
    train(again, [run(9, ADAMW)], Watch(checkpoint=tmp_path / "c"))
    assert torch.equal(again.parameters[0]["p"], whole.parameters[0]["p"])


# --- what is said ---------------------------------------------------------------------------------------------------------


def test_progress_rises_epoch_by_epoch_with_the_mean_loss(slow_clock):
    told, toy = [], Toy([start()])
    history = train(toy, [run(9, SGD)], Watch(progress=lambda *said: told.append(said)))
    assert [(epoch, epochs) for epoch, epochs, _ in told] == [(e, 6) for e in range(1, 7)]
    expected = [a + b for a, b in zip(history.terms["pull"][0], history.terms["small"][0], strict=True)]
    assert [loss for *_, loss in told] == pytest.approx(expected)


def test_progress_is_told_at_most_five_times_a_second_and_at_the_end(monkeypatch):
    moments = iter(np.arange(10, 40) * 0.1)
    monkeypatch.setattr("engine.training.time", SimpleNamespace(monotonic=lambda: next(moments)))
    told = []
    train(Toy([start()]), [run(9, replace(SGD, epochs=7))], Watch(progress=lambda epoch, *_: told.append(epoch)))
    assert told[-1] == 7 and told == sorted(set(told)) and len(told) < 7


def test_progress_of_a_training_that_goes_on_begins_where_it_was(slow_clock, tmp_path):
    stopped_after(2, Toy([start()]), [run(9, SGD)], tmp_path / "c")
    told = []
    train(Toy([start()]), [run(9, SGD)], Watch(lambda epoch, *_: told.append(epoch), checkpoint=tmp_path / "c"))
    assert told == [3, 4, 5, 6]


def test_a_stop_at_the_last_epoch_is_too_late(slow_clock):
    asked = itertools.count(1)
    train(Toy([start()]), [run(9, SGD)], Watch(stop=lambda: next(asked) == 6))


def test_stopped_is_for_the_person_in_front_of_the_screen():
    assert issubclass(Stopped, EngineError)
    with pytest.raises(EngineError, match="The training was stopped after epoch 1 of 6"):
        train(Toy([start()]), [run(9, SGD)], Watch(stop=lambda: True))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_training_in_a_sentence(value):
    made = run(9, SGD)
    made.views[0, :, 1] = value
    with pytest.raises(DataError, match=r"no longer a number after epoch 1 of 6\. Lower the learning rate"):
        train(Toy([start()]), [made])


def test_a_loss_that_is_no_number_leaves_the_last_good_checkpoint(tmp_path):
    toy, steps = Toy([start()]), itertools.count()
    plain = toy.terms
    toy.terms = lambda batch: {k: v * (math.nan if next(steps) > 9 else 1.0) for k, v in plain(batch).items()}
    with pytest.raises(DataError, match="epoch 3 of 6"):
        train(toy, [run(9, SGD)], Watch(checkpoint=tmp_path / "c"))
    assert (tmp_path / "c").is_file()


# --- the store ------------------------------------------------------------------------------------------------------------


def vectors(count: int, name: str = "a sentence of a patient") -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(count)
    return {f"{name} {i}": drawn.normal(size=5).astype(np.float32) for i in range(count)}


def test_the_store_gives_back_what_it_was_given_and_only_what_was_asked_for():
    store, kept = Store(), vectors(1200)
    store.put(kept)
    assert store.path == Path(os.environ["PROMPTSCOPE_CACHE"]) / "features.sqlite3"
    found = Store().get([*kept, "unknown"])  # more than one chunk
    assert found.keys() == kept.keys() and all(np.array_equal(found[k], kept[k]) for k in kept)
    assert found["a sentence of a patient 3"].flags.writeable
    assert Store().get(["unknown"]) == {} and Store().get([]) == {}


def test_a_later_vector_replaces_an_earlier_one():
    Store().put({"k": np.zeros(3, np.float32)})
    Store().put({"k": np.arange(3, dtype=np.float64)})
    assert Store().get(["k"])["k"].tolist() == [0, 1, 2] and Store().get(["k"])["k"].dtype == np.float32


def test_nothing_in_the_store_can_be_read():
    store = Store()
    store.put(vectors(20))
    for path in store.path.parent.iterdir():
        raw = path.read_bytes().lower()
        assert b"patient" not in raw and b"sentence" not in raw


def damaged_row(path: Path) -> None:
    with sqlite3.connect(path) as table:
        table.execute("UPDATE vector SET value = ?", (b"abc",))
    table.close()


BROKEN = {
    "no database": lambda path: path.write_bytes(b"no database at all" * 99),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:1500]),
    "empty": lambda path: path.write_bytes(b""),
    "zeroes inside": lambda path: path.write_bytes(path.read_bytes()[:4096] + bytes(len(path.read_bytes()) - 4096)),
    "another table": lambda path: (path.unlink(), sqlite3.connect(path).execute("CREATE TABLE vector (x)"))[0],
    "a folder": lambda path: (path.unlink(), path.mkdir())[0],
    "damaged rows": damaged_row,
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_damaged_store_is_an_empty_one(damage):
    store = Store()
    store.put(vectors(20))
    BROKEN[damage](store.path)
    assert store.get(list(vectors(20))) == {}
    store.put(vectors(3))  # does not fail either


def test_a_folder_that_cannot_be_written_costs_time_only(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PROMPTSCOPE_CACHE", str(tmp_path / "file"))
    Store().put(vectors(2))
    assert Store().get(list(vectors(2))) == {}


WRITER = """
import sys, types
package = types.ModuleType("engine"); package.__path__ = [sys.argv[1] + "/engine"]; sys.modules["engine"] = package
sys.path.insert(0, sys.argv[1])
import numpy as np
from engine.store import Store
for i in range(40):
    Store().put({f"{sys.argv[2]} {i}": np.full(4, i, np.float32), "both": np.ones(2, np.float32)})
"""


def test_two_processes_may_write_at_once():
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(HERE.parent), name]) for name in ("a", "b")]
    assert [each.wait(timeout=120) for each in writers] == [0, 0]
    found = Store().get([f"{name} {i}" for name in "ab" for i in range(40)])
    assert len(found) == 80 and all(np.array_equal(v, np.full(4, int(k.split()[1]))) for k, v in found.items())
