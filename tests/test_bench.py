"""What `bench` compares computes the same thing, its floors are what a hand counts, and its output keeps its form.

Run: python -m pytest tests/test_bench.py
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess

import pytest
import torch
import torch.nn.functional as F

import engine
from engine import __main__ as cli
from engine import _floors, _tuning_bench, bench
from engine._floors import Part
from engine.backbones import _openclip, _random, biomedclip
from engine.training import Batch

# product.md, section 7, without those of ONNX
PROMISED = [
    "tune_step_speedup_c4", "tune_step_speedup_c8", "tune_step_speedup_bf16_c4", "tune_run_speedup_exact",
    "tune_run_speedup_cached", "tune_stacked_speedup", "tune_gpu_speedup", "predict_overhead",
    "precision_speedup", "precision_top1_agreement", "compare8_over_1", "legrad_over_forward",
    "legrad8_over_forward", "batch32_share", "mini_tower_ms", "ready_seconds",
]  # fmt: skip


@pytest.mark.parametrize("classes", [3, 8])
def test_upstreams_step_and_ours_have_the_same_loss_and_gradient(classes):
    """Without dropout; 77 padded positions and the image tower twice against trimmed prompts and cached features."""
    mini = engine.load_backbone("scope-mini")
    images, features, labels = _tuning_bench.material(mini, classes)
    upstream = _tuning_bench.UpstreamStep(mini, classes, length=77, dropout=False)
    ours = _tuning_bench.OurStep(mini, classes)
    theirs = upstream.loss(images, labels)
    theirs.backward()
    batch = Batch([0], features[None], labels[None], torch.full((1, 4), 0.25))
    terms = ours.learner.terms(batch)
    ours.learner.backward(terms, batch)
    assert sum(t.item() for t in terms.values()) == pytest.approx(theirs.item(), rel=1e-4)
    gradient = ours.learner.parameters[0]["context"].grad
    assert (gradient - upstream.context.grad).norm() < 1e-3 * upstream.context.grad.norm()


def test_a_stack_of_runs_steps_as_one_run_does():
    mini = engine.load_backbone("scope-mini")
    _, features, labels = _tuning_bench.material(mini, 3)
    one, three = _tuning_bench.OurStep(mini, 3), _tuning_bench.OurStep(mini, 3, runs=3)
    for step in (one, three):
        step(features, labels)
    for parameters in three.learner.parameters:
        torch.testing.assert_close(parameters["context"], one.learner.parameters[0]["context"], atol=1e-6, rtol=1e-5)


# --- floors -----------------------------------------------------------------------------------------------------------


def vit_operations(images, tokens, width, layers, patch, outputs):
    """By hand: a multiplication and an addition are two; patches, then in each block q, k, v and the projection (4 W W a token), the
    two products of attention (2 T W a token) and the MLP (8 W W a token), then the head on one token an image."""
    patches = 2 * (tokens - 1) * width * 3 * patch * patch
    blocks = layers * 2 * tokens * (4 * width * width + 2 * tokens * width + 8 * width * width)
    return images * (patches + blocks + 2 * width * outputs)


def test_operations_of_a_vision_transformer_are_what_the_formula_says():
    mini = engine.load_backbone("scope-mini")
    tower, size = mini._image, mini.preprocess.size
    tokens, patch = tower.grid[0] * tower.grid[1] + tower.prefix, size // tower.grid[0]
    counted = _floors.operations(bench.forward(mini, bench.inputs(mini, 3)).run)
    assert counted == vit_operations(3, tokens, tower.width, len(tower.blocks), patch, mini.dim)


def test_operations_of_biomedclips_tower_are_what_the_formula_says():
    """197 tokens of 768 numbers, 12 blocks: 35.1 GFLOP an image (17.58 GMACs are published). On "meta": counted, not computed."""
    with torch.device("meta"):
        visual = _openclip.built(_random.BIOMEDCLIP, biomedclip.TEXT_CONFIG).eval().visual
    counted = _floors.operations(lambda: visual(torch.zeros(1, 3, 224, 224, device="meta")))
    assert counted == vit_operations(1, 197, 768, 12, 16, 512)
    assert counted / 2e9 == pytest.approx(17.58, rel=0.005)


def test_a_backward_pass_and_bfloat16_count_as_what_they_multiply():
    a, b = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7, requires_grad=True)
    assert _floors.operations(lambda: a @ b) == 2 * 3 * 5 * 7
    assert (
        _floors.operations(lambda: (a @ b).sum().backward()) == 3 * 2 * 3 * 5 * 7
    )  # the product, and one for each gradient
    x, w = torch.ones(2, 4, dtype=torch.bfloat16), torch.ones(6, 4, dtype=torch.bfloat16)
    assert _floors.operations(lambda: F.linear(x, w)) == 2 * 2 * 4 * 6
    q = torch.ones(1, 2, 10, 8)
    assert _floors.operations(lambda: F.scaled_dot_product_attention(q, q, q)) == 2 * (2 * 10 * 10 * 8) * 2


@pytest.fixture()
def slow_machine(monkeypatch):
    """10 GFLOP/s in float32, 40 in bfloat16, 2 GB/s."""
    monkeypatch.setattr(
        _floors, "matrix_rate", lambda precision, device="cpu": {"float32": 1e10, "bfloat16": 4e10}[precision]
    )
    monkeypatch.setattr(_floors, "bandwidth", lambda device="cpu": 2e9)


def test_a_floor_is_the_larger_of_operations_and_bytes(slow_machine):
    found = _floors.told(0.5, 2e9, Part(lambda: None, reads=int(1e8)))  # 0.2 s of products, 0.05 s of reading
    assert found == {
        "ms": 500.0, "floor_ms": 200.0, "share": 0.4, "bound": "operations", "gflop": 2.0, "mb": 100.0, "precision": "float32",
    }  # fmt: skip
    found = _floors.told(0.5, 2e9, Part(lambda: None, "bfloat16", reads=int(2e8)))  # 0.05 s of products, 0.1 s of reading
    assert (found["floor_ms"], found["share"], found["bound"]) == (pytest.approx(100.0), pytest.approx(0.2), "bytes")


def test_weights_are_counted_in_the_bytes_that_they_take():
    layer = torch.nn.Linear(4, 6)
    assert _floors.weight_bytes(layer) == 4 * (24 + 6)
    assert _floors.weight_bytes(layer.bfloat16()) == 2 * (24 + 6)


def test_both_roads_to_a_product_give_it_and_the_rate_is_of_the_faster_one(monkeypatch):
    roads = _floors.products("float32", side=64)
    first, *others = [road() for road in roads]
    for other in others:  # oneDNN's takes the second matrix transposed, as a layer's weights
        assert other.to_dense().shape == first.shape
    monkeypatch.setattr(_floors, "medians", lambda *sides, **_: [0.5, 0.25][: len(sides)])
    _floors.matrix_rate.cache_clear()
    try:
        assert _floors.matrix_rate("float32") == 2 * 2048**3 / (0.25 if len(roads) == 2 else 0.5)
    finally:
        _floors.matrix_rate.cache_clear()


def test_a_precision_that_bench_does_not_know_is_said():
    with pytest.raises(engine.EngineError, match="bench knows no precision 'int3'"):
        _floors.products("int3")


# --- timing -----------------------------------------------------------------------------------------------------------


def clocked(monkeypatch, durations):
    """Sides whose runs last what `durations` says, by a clock that only they move. Returns the order in which they ran."""
    now, ran = [0.0], []
    monkeypatch.setattr(_floors.time, "perf_counter", lambda: now[0])

    def side(name, seconds):
        left = iter(seconds)

        def run():
            ran.append(name)
            now[0] += next(left)

        return run

    return [side(name, seconds) for name, seconds in durations.items()], ran


def test_sides_take_turns_and_the_first_round_does_not_count(monkeypatch):
    sides, ran = clocked(monkeypatch, {"a": [100, 1, 5, 3], "b": [100, 2, 2, 8]})
    assert _floors.medians(*sides, rounds=3) == [3, 2]
    assert "".join(ran) == "abababab"


def test_parts_are_told_with_the_operations_of_the_round_that_does_not_count(monkeypatch, slow_machine):
    (run,), ran = clocked(monkeypatch, {"a": [100, 1, 5, 3]})
    a = torch.ones(100, 100)

    def multiplies():
        run()
        return a @ a

    found = _floors.measure({"a": Part(multiplies)}, rounds=3)["a"]
    assert found["ms"] == 3000 and found["gflop"] == 2e6 / 1e9 and found["floor_ms"] == pytest.approx(0.2) and len(ran) == 4


def test_a_ratio_stands_beside_the_ratio_of_the_floors():
    parts = {"map": {"ms": 300.0, "floor_ms": 160.0}, "tower": {"ms": 200.0, "floor_ms": 80.0}}
    assert bench.ratio(parts, "map", "tower", "<= 3") == {"value": 1.5, "floor": 2.0, "goal": "<= 3", "parts": parts}


def test_a_whole_run_is_its_encoding_and_its_steps_in_the_faster_precision(monkeypatch):
    """64 images; 100 epochs of 16 steps. Upstream's step 2 s. float32: 32 images 3.2 s, a step 0.05 s; bfloat16: 1.6 s, 0.2 s."""
    monkeypatch.setattr(_tuning_bench, "upstream", lambda full, classes: {"ms": 2000.0, "floor_ms": 1000.0})
    image = {"float32": {"ms": 3200.0, "floor_ms": 1600.0}, "bfloat16": {"ms": 1600.0, "floor_ms": 800.0}}
    step = {"float32": {"ms": 50.0, "floor_ms": 25.0}, "bfloat16": {"ms": 200.0, "floor_ms": 10.0}}
    monkeypatch.setattr(_tuning_bench, "image", lambda full, precision: image[precision])
    monkeypatch.setattr(_tuning_bench, "ours", lambda full, classes, precision: step[precision])
    few = _tuning_bench.run_speedup(None, 8, ">= 25")  # 51.2 + 80 s against 25.6 + 320 s
    assert few["precision"] == "float32" and few["value"] == pytest.approx(3200 / 131.2)
    assert few["floor"] == pytest.approx(1600 / (25.6 + 40))
    assert few["parts"]["encode"]["ms"] == pytest.approx(51_200) and few["parts"]["learn"]["ms"] == pytest.approx(80_000)
    many = _tuning_bench.run_speedup(None, 100, ">= 8")  # 640 + 80 s against 320 + 320 s
    assert many["precision"] == "bfloat16" and many["value"] == pytest.approx(3200 / 640) and many["extrapolated"] is True


# --- what is printed and kept -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "goal", "met"),
    [(15.0, ">= 15", True), (14.9, ">= 15", False), (1.05, "<= 1.05", True), (1.06, "<= 1.05", False), (3, "report", None)],
)
def test_a_goal_is_met_or_missed(value, goal, met):
    assert bench.is_met(value, goal) is met
    assert bench.is_met(None, goal) is None


@pytest.fixture()
def quick(monkeypatch, tmp_path, slow_machine):
    """Two keys that measure nothing, and a history of its own."""

    def fast():
        part = {"ms": 2.0, "floor_ms": 1.0, "share": 0.5, "bound": "bytes", "peak_mb": 1e9}
        return {"value": 2.0, "floor": 1.5, "goal": "<= 1.9", "parts": {"tower": part}}

    monkeypatch.setattr(
        bench, "KEYS", {"fast": fast, "none": lambda: {"value": None, "floor": None, "goal": ">= 2", "why": "no GPU"}}
    )
    monkeypatch.setattr(bench, "HISTORY", tmp_path / "bench")
    return tmp_path / "bench"


def test_every_key_that_was_promised_is_there():
    assert set(PROMISED) <= set(bench.KEYS)
    assert all((bench.KEYS[key].__doc__ or key.startswith(("tune", "legrad", "compare8"))) for key in PROMISED)
    described = (bench.HISTORY / "README.md").read_text()
    for key in bench.KEYS:
        stem = re.sub(r"(_c8|_exact|_cached)$", "", key)
        assert f"`{stem}" in described, f"{key} is not described in docs/bench/README.md"


def test_the_object_that_json_prints(quick, capsys):
    assert cli.main(["bench", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["schema", "machine", "rates", "keys", "seconds"] and found["schema"] == 2
    assert found["rates"] == {"float32_gflop_per_s": 10.0, "bfloat16_gflop_per_s": 40.0, "copy_gb_per_s": 2.0}
    assert found["machine"]["threads"] == torch.get_num_threads() and found["machine"]["torch"] == torch.__version__
    fast, none = found["keys"]["fast"], found["keys"]["none"]
    assert (fast["value"], fast["floor"], fast["goal"], fast["met"], fast["peak_mb"]) == (2.0, 1.5, "<= 1.9", False, 1e9)
    assert (none["value"], none["met"], none["why"]) == (None, None, "no GPU") and none["peak_mb"] > 50
    assert not quick.exists()  # nothing is kept unless asked


def test_the_table_has_a_line_for_every_key_and_part(quick, capsys):
    assert cli.main(["bench", "--only", "fast", "none"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        re.match(r"fast +2\.000 +1\.500 +<= 1\.9 +missed", lines[1])
        and "tower" in lines[2]
        and "50% of it bytes" in lines[2]
    )
    assert re.match(r"none +none +none +>= 2", lines[3]) and lines[4].strip() == "no GPU"
    assert "float32_gflop_per_s 10" in lines[-1]


def test_a_recorded_run_is_a_line_of_its_machines_history(quick, capsys, monkeypatch):
    about = {"processor": "AMD EPYC 9R14 (Zen 4)", "cuda": None, "cores": 2, "threads": 2}
    monkeypatch.setattr(bench, "machine", lambda: about)
    for _ in range(2):
        assert cli.main(["bench", "--only", "fast", "--record"]) == 0
    (path,) = quick.iterdir()
    assert path.name == "amd-epyc-9r14-zen-4-2-cores.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", line["date"]) and line["machine"] == about
        assert line["keys"]["fast"]["value"] == 2.0 and line["commit"] == bench.commit()


def test_the_commit_is_said_with_whether_files_differ_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert bench.commit() is None

    def git(*words):
        own = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        return subprocess.run(["git", *own, *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "Begin")
    head = git("rev-parse", "--short", "HEAD")
    assert bench.commit() == head
    (tmp_path / "file").write_text("2")
    assert bench.commit() == head + "+"


def test_an_unknown_key_is_said_with_what_there_is(capsys):
    assert cli.main(["bench", "--only", "speed"]) == 2
    assert "bench has no key 'speed'. Choose among: tune_step_speedup_c4, " in capsys.readouterr().err


def test_a_gpu_key_without_a_gpu_has_no_value(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for key in ("gpu_batch_share", "tune_gpu_speedup"):
        found = bench.KEYS[key]()
        assert found["value"] is None and found["why"] == "torch finds no GPU"


# --- decisions --------------------------------------------------------------------------------------------------------


def test_agreement_without_images_or_with_float32_has_no_value(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "DATA", tmp_path)
    found = bench.precision_top1_agreement()
    assert found["value"] is None and found["why"] == "float32 is the default precision here"  # conftest.py sets it
    monkeypatch.setenv("PROMPTSCOPE_PRECISION", "bfloat16")
    found = bench.precision_top1_agreement()
    assert found["value"] is None and "there are no real images" in found["why"]


@pytest.mark.shared
def test_bfloat16_decides_as_float32_on_real_images(monkeypatch, shared):
    """By two roads: the key's, and image by image. Of 6 images a set; the whole of it is `bench`'s."""
    monkeypatch.setattr(bench, "IMAGES", 6)
    monkeypatch.setenv("PROMPTSCOPE_PRECISION", "bfloat16")
    monkeypatch.setattr(bench, "DATA", shared / "data" / "sets")
    found = bench.precision_top1_agreement()
    assert found["images"] > 50 and found["value"] >= 0.95 and found["by_set"].keys() >= {"BUSI", "BTMRI", "RETINA"}
    task, plain = engine.task("busi"), engine.load_backbone("scope-mini")
    half = engine.load_backbone("scope-mini", dtype="bfloat16")
    examples = engine.read_examples(shared / "data" / "sets" / "BUSI", task, "test")
    prompts = engine.PromptSet.load("busi-description-ensemble-scope-mini")
    step = -(-len(examples) // 6)
    pairs = [
        [engine.predict(engine.read_image(each.path), b, prompts).ranked()[0][0] for b in (plain, half)]
        for each in itertools.islice(examples, 0, None, step)
    ]
    assert found["by_set"]["BUSI"] == sum(a == b for a, b in pairs) / len(pairs)
