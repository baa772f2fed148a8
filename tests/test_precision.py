"""Precision by measuring, threads by what the machine lends, fused attention, weights mapped from their file.

Run: python -m pytest tests/test_precision.py
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import engine
from engine import processor
from engine.backbones import _openclip, _packed, _precision, _random, biomedclip, scope_mini

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30


@pytest.fixture()
def measuring(monkeypatch, tmp_path):
    """`auto` measures, into a cache folder of its own."""
    monkeypatch.setenv("PROMPTSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PROMPTSCOPE_PRECISION", raising=False)
    return tmp_path / "cache" / "precision.json"


def timer(*seconds):
    """A forward that takes these seconds, one after another."""
    left = iter(seconds)
    return lambda: next(left)


# --- the choice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("full", "half", "precision", "gain"),
    [
        ((9, 0.4, 0.8, 0.4), (1, 0.2, 0.2, 0.2), "bfloat16", 2.0),  # ratios 2, 4, 2; the first round does not count
        ((9, 0.4, 0.4, 0.4), (1, 1.2, 1.2, 1.2), "float32", 1 / 3),  # no units: three times slower
        ((1, 1.10, 1.10, 1.10), (1, 1, 1, 1), "float32", 1.10),  # not worth its rounding
        ((1, 1.15, 1.15, 1.15), (1, 1, 1, 1), "bfloat16", 1.15),
    ],
)
def test_bfloat16_is_taken_where_it_is_clearly_faster(full, half, precision, gain):
    found = _precision.decide(timer(*full), timer(*half))
    assert found["precision"] == precision and found["gain"] == pytest.approx(gain)


@pytest.mark.parametrize(("half", "precision"), [(0.5, "bfloat16"), (2.0, "float32")])
def test_auto_measures_once_and_remembers(measuring, monkeypatch, half, precision):
    timed = []

    def forward(tower, size, device, dtype):
        timed.append((dtype, size, device, next(tower.parameters()).dtype))
        return lambda: 1.0 if dtype == torch.float32 else half

    monkeypatch.setattr(_precision, "_forward", forward)
    first = engine.load_backbone("scope-mini", dtype="auto")
    second = engine.load_backbone("scope-mini", dtype="auto")
    assert first.dtype == second.dtype == precision
    assert timed == [(each, 224, "cpu", torch.float32) for each in (torch.float32, torch.bfloat16)]  # the first time only
    (kept,) = json.loads(measuring.read_text()).values()
    assert kept == {"precision": precision, "gain": 1 / half, "float32_ms": 1000.0, "bfloat16_ms": 1000.0 * half}
    x = torch.randn(1, 3, 224, 224)
    assert torch.equal(first.encode_images(x), engine.load_backbone("scope-mini", dtype=precision).encode_images(x))


def test_a_decision_belongs_to_the_machine_its_threads_torch_and_the_architecture(monkeypatch):
    mini, other = {"width": 384}, {"width": 768}
    one = _precision._key(mini, "cpu")
    assert processor.name() in one and f"{torch.get_num_threads()} threads" in one and f"torch {torch.__version__}" in one
    assert one == _precision._key(dict(mini), "cpu") != _precision._key(other, "cpu")
    for module, name, value in (
        (processor, "name", lambda: "another processor"),
        (processor, "units", lambda: ["amx_bf16"]),
        (torch, "get_num_threads", lambda: 97),
        (torch, "__version__", "9.9"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert _precision._key(mini, "cpu") != one
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    assert _precision._key(mini, "cuda").startswith("NVIDIA H100, torch ")


@pytest.mark.parametrize("content", ["not json", "[]", '{"a": 1}', '{"a": {"precision": "int3"}}', '{"a": {}}'])
def test_a_damaged_memory_is_measured_again(measuring, monkeypatch, content):
    measuring.parent.mkdir()
    measuring.write_text(content)
    monkeypatch.setattr(_precision, "_forward", lambda tower, size, device, dtype: lambda: 1.0)
    assert engine.load_backbone("scope-mini", dtype="auto").dtype == "float32"
    assert [each["precision"] for each in json.loads(measuring.read_text()).values()] == ["float32"]


def test_a_cache_that_cannot_be_written_costs_time_only(measuring, monkeypatch):
    measuring.parent.write_text("a file where the folder should be")
    monkeypatch.setattr(_precision, "_forward", lambda tower, size, device, dtype: lambda: 1.0)
    assert engine.load_backbone("scope-mini", dtype="auto").dtype == "float32"


def test_the_operators_word_stands_before_a_measurement(measuring, monkeypatch):
    monkeypatch.setenv("PROMPTSCOPE_PRECISION", "bfloat16")
    assert engine.load_backbone("scope-mini", dtype="auto").dtype == "bfloat16" and not measuring.exists()
    assert engine.load_backbone("scope-mini", dtype="float32").dtype == "float32"  # as asked


def test_a_word_of_the_operator_that_is_no_precision_is_said(monkeypatch):
    monkeypatch.setenv("PROMPTSCOPE_PRECISION", "half")
    with pytest.raises(engine.BackboneError, match=r"no precision 'half'"):
        engine.load_backbone("scope-mini", dtype="auto")


def test_where_a_gpu_is_lent_later_nothing_is_timed(measuring, monkeypatch):
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert _precision.chosen(torch.nn.Identity(), {}, 224, "cuda") == "bfloat16" and not measuring.exists()


def test_a_real_measurement_ends_in_one_of_the_two(measuring):
    found = engine.load_backbone("scope-mini", dtype="auto")
    (kept,) = json.loads(measuring.read_text()).values()
    assert found.dtype == kept["precision"] in ("float32", "bfloat16")
    assert kept["gain"] > 0 and kept["float32_ms"] > 0 and kept["bfloat16_ms"] > 0
    assert (kept["gain"] >= _precision.GAIN) == (found.dtype == "bfloat16")


# --- threads ----------------------------------------------------------------------------------------------------------


def groups(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


@pytest.mark.parametrize(
    ("files", "own", "cores"),
    [
        ({"cpuDOTmax": "200000 100000\n"}, "0::/\n", 2.0),  # docker run --cpus 2
        ({"cpuDOTmax": "max 100000\n"}, "0::/\n", None),
        ({"a__cpuDOTmax": "max 100000", "a__b__cpuDOTmax": "50000 100000"}, "0::/a/b\n", 0.5),
        ({"a__cpuDOTmax": "150000 100000", "a__b__cpuDOTmax": "400000 100000"}, "0::/a/b\n", 1.5),  # the smaller one binds
        ({"cpu__cpuDOTcfs_quota_us": "300000", "cpu__cpuDOTcfs_period_us": "100000"}, "4:cpu:/\n", 3.0),  # version 1
        ({"cpu__cpuDOTcfs_quota_us": "-1", "cpu__cpuDOTcfs_period_us": "100000"}, "4:cpu:/\n", None),
        ({"cpuDOTmax": "nonsense"}, "0::/\n", None),
        ({}, "", None),
    ],
)
def test_a_containers_quota_is_read_from_its_control_groups(tmp_path, files, own, cores):
    (tmp_path / "own").write_text(own)
    assert processor.quota(groups(tmp_path / "groups", **files), tmp_path / "own") == cores


@pytest.mark.parametrize(
    ("omp", "allowed", "threads"), [("", None, 8), ("", 2.5, 2), ("", 0.5, 1), ("", 64.0, 8), ("3", 1.0, 3), ("x", None, 8)]
)
def test_threads_are_the_fewest_of_cores_and_quota_unless_the_operator_says_how_many(monkeypatch, omp, allowed, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(processor, "quota", lambda: allowed)
    monkeypatch.setenv("OMP_NUM_THREADS", omp)
    assert processor.threads() == threads


def test_loading_lowers_torchs_threads_to_what_is_lent_and_never_raises_them(monkeypatch):
    before, set_to = torch.get_num_threads(), []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(processor, "threads", lambda: before + 7)
    engine.load_backbone("scope-mini")
    assert set_to == []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(processor, "threads", lambda: 2)
    engine.load_backbone("scope-mini")
    assert set_to == [2]


# --- kernels ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """scope-mini (timm's ViT, BERT), a small CLIP (ViT, causal text) and a small PMC-CLIP (ResNet, BERT)."""
    folder = tmp_path_factory.mktemp("towers")
    config = folder / "bert.json"
    config.write_text(json.dumps(_random.TINY_BERT))
    _random.write(folder / "clip", _random.TINY_CLIP)
    _random.write(folder / "pmc", _random.TINY_PMC, scope_mini.FOLDER / "tokenizer.json", config)
    return {
        "scope-mini": engine.load_backbone("scope-mini"),
        "clip": engine.load_backbone(f"local-dir:{folder / 'clip'}"),
        "pmc": engine.load_backbone(f"local-dir:{folder / 'pmc'}"),
    }


def fused(run):
    """How often torch's fused attention ran, and whether its unfused one did."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    counts = {each.key: each.count for each in seen.key_averages()}
    return counts.get("aten::scaled_dot_product_attention", 0), counts.get("aten::_native_multi_head_attention", 0)


@pytest.mark.parametrize(("name", "times"), [("scope-mini", None), ("clip", 3), ("pmc", 1)])  # pmc: its attention pool alone
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_image_tower_uses_fused_attention_in_every_block(towers, name, times, dtype):
    backbone = towers[name] if dtype == "float32" else engine.load_backbone(towers[name].id, dtype=dtype)
    x = torch.randn(2, 3, backbone.preprocess.size, backbone.preprocess.size)
    times = times or len(backbone._image.blocks)
    assert fused(lambda: backbone.encode_images(x)) == (times, 0)


@pytest.mark.parametrize("name", ["scope-mini", "clip", "pmc"])
def test_every_text_tower_uses_fused_attention_in_every_block(towers, name):
    backbone = towers[name]
    assert fused(lambda: backbone.encode_texts(["a scan", "a longer line of words"])) == (backbone.text_layers, 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_layers_compute_what_the_layers_of_torch_compute(dtype):
    mini = engine.load_backbone("scope-mini", dtype=dtype)
    tower = mini._model.visual
    layers = [each for each in tower.modules() if isinstance(each, torch.nn.Linear)]
    kinds = {type(each) for each in layers}
    if not _packed._is_possible(_openclip.DTYPES[dtype]):
        assert kinds == {torch.nn.Linear}  # this processor, or this torch, has no such operator
        return
    assert kinds == {_packed.PackedLinear} and len(layers) > 12
    x = torch.randn(2, 3, 224, 224, dtype=_openclip.DTYPES[dtype])
    with torch.no_grad():
        packed = tower(x)
    with torch.enable_grad():
        plain = tower(x)
    # another order of summation: eight bits in bfloat16
    torch.testing.assert_close(packed, plain, atol=1e-5 if dtype == "float32" else 0.02, rtol=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resnet_computes_channels_last_what_it_computes_channels_first(towers, dtype):
    tower = engine.load_backbone(towers["pmc"].id, dtype=dtype)._model.visual
    first = copy.deepcopy(tower).to(memory_format=torch.contiguous_format)
    x = torch.randn(2, 3, 64, 64, dtype=_openclip.DTYPES[dtype])
    strides = []
    tower.layer4.register_forward_hook(lambda _, inputs, output: strides.append(output.stride(1)))
    with torch.no_grad():
        torch.testing.assert_close(tower(x), first(x), atol=1e-5 if dtype == "float32" else 0.02, rtol=1e-2)
    assert strides == [1]  # to its end: one channel lies beside the next


def test_a_gradient_goes_through_packed_layers_and_their_inputs():
    layer = torch.nn.Linear(4, 3).requires_grad_(False)
    _packed.pack(torch.nn.Sequential(layer), "cpu", torch.float32)
    x = torch.ones(2, 4, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(dim=0).expand(2, -1))


def test_layers_stay_as_they_are_on_a_gpu_and_where_torch_has_no_such_operator(monkeypatch):
    layer = torch.nn.Linear(4, 3).requires_grad_(False)
    _packed.pack(layer, "cuda", torch.float32)
    _packed.pack(layer, "cpu", torch.float16)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    _packed.pack(layer, "cpu", torch.float32)
    assert type(layer) is torch.nn.Linear


# --- loading ----------------------------------------------------------------------------------------------------------

PROGRAM = """
import re, sys
from pathlib import Path
import torch, engine

def now(what):
    return int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024

engine.load_backbone("scope-mini")  # what any loading brings along
Path("/proc/self/clear_refs").write_text("5")
before = now("VmRSS")
backbone = engine.load_backbone("local-dir:" + sys.argv[1], dtype=sys.argv[2])
print(now("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1.1), ("bfloat16", 1.9)])
def test_loading_needs_no_second_copy_of_the_weights(random_biomedclip, dtype, most):
    """Peak over the file's 784 MB. float32: the image tower's pages, which stay the file's, and its packed layers; the text tower's are
    read when they are used. bfloat16: its own half, the pages that were read for it, and the packed layers. It was 2.0 times."""
    file = random_biomedclip.folder / "open_clip_model.safetensors"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(random_biomedclip.folder), dtype],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert int(done.stdout) < most * file.stat().st_size, f"{int(done.stdout) / GIB:.2f} GiB"


def test_what_an_architecture_computes_for_itself_is_what_the_library_computes(tmp_path):
    """Constants that no file holds: built on "meta", they would be missing."""
    for name, config, text in (("clip", _random.TINY_CLIP, None), ("bert", _random.BIOMEDCLIP, biomedclip.TEXT_CONFIG)):
        plain = _openclip.built(config, text)
        with torch.device("meta"):
            empty = _openclip.built(config, text)
        _openclip._fill_constants(empty)
        stored = plain.state_dict()
        constants = {n: b for n, b in plain.named_buffers() if n not in stored}
        assert constants, name
        for each, buffer in empty.named_buffers():
            if each in constants:
                assert torch.equal(buffer, constants[each]) and buffer.dtype == constants[each].dtype, each


def test_a_constant_that_is_not_known_is_said():
    module = torch.nn.Module()
    module.register_buffer("frequencies", torch.empty(3, device="meta"), persistent=False)
    with pytest.raises(engine.BackboneError, match="a constant 'frequencies' that is not known"):
        _openclip._fill_constants(module)
