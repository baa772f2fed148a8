"""Image towers in ONNX Runtime beside the same towers in torch. Run: python -m pytest tests/test_onnx.py

Each kind of tower goes through one contract in each precision: scope-mini (timm ViT, its own weights), a small CLIP ViT and a
small CLIP ResNet with random ones. docs/onnx.md has the same at full size.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import engine
from engine.__main__ import main
from engine.backbones import _onnx, _onnx_export
from engine.backbones.base import Differentiable, LastAttention, PromptTunable, ValuePatches, WithoutTorch
from engine.exporting import compared_on
from engine.heads import ConditionalHead
from engine.methods._context import tunable
from engine.types import VisualPrompt

ROOT = Path(__file__).resolve().parent.parent
KINDS = ["scope-mini", "tiny-clip", "tiny-pmc"]
VITS = ["scope-mini", "tiny-clip"]
DTYPES = {short: name for name, short in _onnx.PRECISIONS.items()}
CT = next(each.path for each in engine.samples() if each.title == "CT")
# The least cosine: what is asked at export; eight bits are near, and how near is printed.
LEAST = {"fp32": 0.999999, "fp16": 0.9999, "int8": 0.99}


@dataclass(frozen=True)
class Pair:
    """A tower in torch, and its export in ONNX Runtime."""

    torch: Any
    onnx: Any
    export: _onnx.Export

    def images(self, count: int = 5, seed: int = 3) -> torch.Tensor:
        side = self.torch.preprocess.size
        return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def pairs(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Pair]]:
    """pairs(kind, precision="fp32"), each exported once into the folder that PROMPTSCOPE_ONNX names."""
    known: dict[tuple[str, str], Pair] = {}
    towers: dict[str, Any] = {}

    def pair(kind: str, precision: str = "fp32") -> Pair:
        if kind not in towers:
            towers[kind] = engine.load_backbone(f"local-dir:{tiny[kind]}" if kind in tiny else kind)
        if (kind, precision) not in known:
            images, on = compared_on(towers[kind].preprocess)
            made = _onnx_export.export(towers[kind], precision, images, on, "as its source's")
            running = engine.load_backbone(f"onnx:{towers[kind].id}", dtype=DTYPES[precision])
            known[kind, precision] = Pair(towers[kind], running, made)
        return known[kind, precision]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTSCOPE_ONNX", str(tmp_path_factory.mktemp("exports")))
        yield pair


# --- the contract ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", LEAST)
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_torch_for_any_number_of_images(pairs, kind, precision):
    pair = pairs(kind, precision)
    x = pair.images()
    with torch.no_grad():
        theirs = pair.torch.encode_images(x).numpy()  # the library's own forward
    ours = pair.onnx.encode_images(x).numpy()
    assert ours.dtype == np.float32 and np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    assert (ours * theirs).sum(axis=1).min() >= LEAST[precision]
    if precision != "int8":  # a dynamic scale is the whole batch's
        assert np.allclose(pair.onnx.encode_images(x[:1]).numpy(), ours[:1], atol=1e-5)  # another order of summation
    assert np.array_equal(pair.onnx.encode_arrays(x.numpy()), ours)


@pytest.mark.parametrize("precision", LEAST)
@pytest.mark.parametrize("kind", VITS)
def test_patches_and_attention_are_those_of_torch(pairs, kind, precision):
    pair = pairs(kind, precision)
    x = pair.images(2)
    patches, attention = pair.onnx.value_patches(x), pair.onnx.last_attention(x)
    theirs = pair.torch.value_patches(x)
    assert patches.shape == theirs.shape and attention.dtype == torch.float32
    assert torch.allclose(attention.sum(dim=-1), torch.ones(1), atol=1e-3)
    apart = (attention - pair.torch.last_attention(x)).abs().max().item()
    cosine = (patches * theirs).sum(dim=-1).min().item()
    least, most = {"fp32": (0.99999, 1e-4), "fp16": (0.9999, 0.01), "int8": (0.9, 0.3)}[precision]
    assert cosine >= least and apart <= most
    assert (pair.onnx.grid, pair.onnx.prefix_tokens, pair.onnx.pooled_tokens) == (
        pair.torch.grid,
        pair.torch.prefix_tokens,
        pair.torch.pooled_tokens,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_says_whose_it_is(pairs, kind):
    pair = pairs(kind)
    card = json.loads((pair.export.folder / "card.json").read_text())
    assert card["weights_hash"] == pair.onnx.weights_hash == pair.torch.weights_hash
    assert (card["precision"], card["quantization"], card["opset"]) == ("fp32", None, 18)
    assert card["parity"]["on"] == "4 sample images and 12 of noise" and card["parity"]["top1_agreement"] == 1
    assert min(card["parity"]["cosine"].values()) > 0.9999
    assert set(card["versions"]) == {"torch", "onnx", "onnxruntime"}
    assert (pair.onnx.preprocess, pair.onnx.dim) == (pair.torch.preprocess, pair.torch.dim)
    assert pair.onnx.logit_scale == pair.torch.logit_scale
    assert (pair.onnx.device, pair.onnx.dtype) == ("cpu", "float32 in ONNX Runtime")
    assert pair.export.folder.parent == _onnx.home() and pair.export.folder.name.endswith(
        f"-fp32-{card['weights_hash'][:8]}"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_the_capabilities_of_its_outputs_and_no_others(pairs, kind):
    onnx, is_vit = pairs(kind).onnx, kind in VITS
    assert isinstance(onnx, engine.Backbone) and isinstance(onnx, WithoutTorch)
    assert isinstance(onnx, ValuePatches) == isinstance(onnx, LastAttention) == is_vit
    assert not isinstance(onnx, PromptTunable) and not isinstance(onnx, Differentiable)
    assert engine.explanations_for(onnx) == (["patch-similarity", "attention", "occlusion"] if is_vit else ["occlusion"])


@pytest.mark.parametrize("method", ["patch-similarity", "attention", "occlusion"])
def test_maps_without_gradients_are_those_of_torch(pairs, method):
    pair, prompts = pairs("scope-mini"), engine.PromptSet.load("btmri-biomedcoop-scope-mini")
    prepared = engine.prepare(engine.read_image(CT), pair.torch.preprocess)
    ours, theirs = (
        engine.explain(prepared, each, prompts, list(prompts.labels[:2]), method, "rest") for each in (pair.onnx, pair.torch)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert np.allclose(a.values, b.values, atol=1e-4) and np.ptp(b.values) > 1e-3


# --- prompt sets --------------------------------------------------------------------------------------------------------


SHARED = ["modality-zero-shot", "btmri-biomedcoop", "busi-coop", "retina-medpromptclip"]


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_image_set_gives_the_probabilities_of_torch(pairs, name):
    pair, prompts = pairs("scope-mini"), engine.PromptSet.load(f"{name}-scope-mini")
    for sample in engine.samples():
        image = engine.read_image(sample.path)
        ours, theirs = (engine.predict(image, each, prompts) for each in (pair.onnx, pair.torch))
        assert np.allclose(ours.probabilities, theirs.probabilities, atol=1e-4)
        assert (ours.backbone, ours.device) == ("onnx:scope-mini", "cpu (float32 in ONNX Runtime)")


def test_a_task_or_a_question_means_the_stored_set_of_the_source(pairs):
    onnx = pairs("scope-mini").onnx
    assert engine.prompt_set("modality", onnx).name == "modality-description-ensemble-scope-mini"
    assert engine.prompt_set("btmri-coop", onnx).name == "btmri-coop-scope-mini"
    with pytest.raises(engine.PromptSetError, match="no prompt set 'lungcolon-coop'"):
        engine.prompt_set("lungcolon-coop", onnx)


def test_what_needs_more_than_an_image_tower_is_refused_with_a_sentence(pairs):
    pair, image = pairs("scope-mini"), engine.read_image(CT)
    with pytest.raises(engine.BackboneError, match="'onnx:scope-mini' is an image tower: it reads no text"):
        pair.onnx.encode_texts(["a brain"])
    with pytest.raises(engine.BackboneError, match=r"takes no visual prompt\. Use the prompt set with 'scope-mini'"):
        engine.predict(image, pair.onnx, engine.PromptSet.load("btmri-biomed-dpt-scope-mini"))
    for asked in (pair.onnx.value_patches, pair.onnx.last_attention):
        with pytest.raises(engine.BackboneError, match="takes no visual prompt"):
            asked(pair.images(1), VisualPrompt(np.zeros((1, 2, 192), np.float32)))
    with pytest.raises(engine.BackboneError, match="'onnx:scope-mini' cannot carry 'coop': it shows no text tower"):
        tunable(pair.onnx, "coop")
    shared = engine.PromptSet.load("btmri-coop-scope-mini")
    meta = (
        np.zeros((4, 256), np.float32),
        np.zeros(4, np.float32),
        np.zeros((192, 4), np.float32),
        np.zeros(192, np.float32),
    )
    conditional = ConditionalHead(np.zeros((4, 192), np.float32), meta, 1.0, len(shared.labels))
    with pytest.raises(engine.PromptSetError, match="needs the text tower of its backbone"):
        engine.predict(image, pair.onnx, replace(shared, head=conditional))
    with pytest.raises(engine.ExplainError, match="cannot carry the map 'legrad'"):
        prompts = engine.PromptSet.load("btmri-coop-scope-mini")
        engine.explain(engine.prepare(image, pair.onnx.preprocess), pair.onnx, prompts, [prompts.labels[0]], "legrad")


def test_a_set_of_other_weights_is_refused(pairs):
    prompts = engine.PromptSet.load("btmri-coop-scope-mini")
    other = replace(prompts, card=prompts.card | {"backbone": prompts.card["backbone"] | {"weights_hash": "0" * 64}})
    with pytest.raises(engine.PromptSetError, match="made for"):
        other.check(pairs("scope-mini").onnx)


def test_an_input_of_another_size_is_refused(pairs):
    with pytest.raises(engine.BackboneError, match=r"shape \(1, 3, 32, 32\); .* takes \(B, 3, 64, 64\)"):
        pairs("tiny-clip").onnx.encode_images(torch.zeros(1, 3, 32, 32))


WITHOUT = """
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "open_clip", "timm", "transformers", "torchvision"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Absent())
from engine.light import main
code = main(sys.argv[1:])
assert not {"torch", "open_clip", "timm"} & set(sys.modules)
sys.exit(code)
"""


def test_shared_image_sets_run_where_torch_cannot_be_imported(pairs, capsys):
    pairs("scope-mini")
    sets = ["modality", "btmri-biomedcoop-scope-mini"]
    asked = [str(CT), "--json", "--prompts", *sets]
    found = subprocess.run([sys.executable, "-c", WITHOUT, *asked], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert main(["predict", *asked, "--explain", "none"]) == 0
    ours, theirs = (json.loads(each)["results"] for each in (found.stdout, capsys.readouterr().out))
    assert [row["prompt_set"] for row in ours] == [row["prompt_set"] for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a["device"] == "cpu (float32 in ONNX Runtime)" and a["backbone"] == "onnx:scope-mini"
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-4)
        assert {k: v for k, v in a.items() if k not in ("device", "backbone", "probabilities")} == {
            k: v for k, v in b.items() if k not in ("device", "backbone", "probabilities")
        }


def test_the_light_program_says_errors_in_one_sentence(pairs, capsys, tmp_path):
    from engine.light import main as light

    pairs("scope-mini")
    assert light([str(CT), "--prompts", "btmri-biomed-dpt-scope-mini"]) == 2
    assert "takes no visual prompt" in capsys.readouterr().err
    (tmp_path / "a.dcm").write_bytes(b"nothing" * 50)
    assert light([str(tmp_path / "a.dcm"), str(CT)]) == 1
    said = capsys.readouterr()
    assert "error: " in said.err and "CT_small.dcm: modality-description-ensemble-scope-mini on onnx:scope-mini" in said.out
    assert light([str(CT), "--backbone", "biomedclip"]) == 2
    assert "'biomedclip' is not exported in fp32" in capsys.readouterr().err


# --- what is refused ----------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(pairs, tmp_path, monkeypatch) -> tuple[str, Path]:
    """The name of an export that a test may damage, and its folder."""
    pair = pairs("tiny-clip")
    folder = shutil.copytree(pair.export.folder, tmp_path / "exports" / pair.export.folder.name)
    monkeypatch.setenv("PROMPTSCOPE_ONNX", str(tmp_path / "exports"))
    return pair.onnx.id, folder


def rewrite(folder: Path, **fields: Any) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({k: v for k, v in (card | fields).items() if v is not ...}))


def test_a_model_that_is_not_its_cards_is_refused(copied):
    name, folder = copied
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(
        engine.BackboneError, match=r"model\.onnx in .* is not the one that its card is of\. Export it again"
    ):
        engine.load_backbone(name)
    (folder / "model.onnx").unlink()
    with pytest.raises(engine.BackboneError, match=r"has no model\.onnx"):
        engine.load_backbone(name)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schema_version": 2}, "format version 2; this PromptScope reads 1"),
        ({"weights_hash": ...}, "wrong at 'weights_hash'"),
        ({"dim": "24"}, "wrong at 'dim'"),
        ({"precision": "fp64"}, "wrong at 'precision'"),
        ({"preprocess": {"size": 64}}, "wrong at 'preprocess'"),
        ({"outputs": ["features", "attention"]}, r"gives features, patches, attention; its card says features, attention"),
    ],
)
def test_a_card_that_does_not_hold_together_is_refused(copied, fields, said):
    name, folder = copied
    rewrite(folder, **fields)
    with pytest.raises(engine.BackboneError, match=said):
        engine.load_backbone(name)


def test_what_is_not_exported_is_said_with_how_to_make_it(copied, tmp_path):
    name, folder = copied
    with pytest.raises(
        engine.BackboneError, match=r"not exported in int8 to .* \(only in fp32\)\. Make it with .*--precision int8"
    ):
        engine.load_backbone(name, dtype="int8")
    with pytest.raises(
        engine.BackboneError, match=r"'pmc-clip' is not exported in fp32.*export onnx:pmc-clip --precision fp32"
    ):
        engine.load_backbone("onnx:pmc-clip")
    with pytest.raises(
        engine.BackboneError, match=r"no export in the precision 'bfloat16'\. Choose one of: float32, float16, int8"
    ):
        engine.load_backbone(name, dtype="bfloat16")
    shutil.copytree(folder, folder.parent / "again")
    with pytest.raises(engine.BackboneError, match=r"There are 2 exports of .*: again, .*Name one by PROMPTSCOPE_ONNX"):
        engine.load_backbone(name)
    os.environ["PROMPTSCOPE_ONNX"] = str(folder.parent / "again")  # put back by the fixture
    assert engine.load_backbone(name).id == engine.load_backbone(name, dtype="auto").id == name


def test_an_export_that_does_not_agree_with_torch_is_not_written(pairs, tmp_path, monkeypatch):
    tower = pairs("tiny-pmc").torch
    images, on = compared_on(tower.preprocess)
    right = _onnx_export.Graph._pooled
    monkeypatch.setattr(_onnx_export.Graph, "_pooled", lambda self, x: right(self, x).flip(-1))
    with pytest.raises(
        engine.BackboneError, match=r"fp32 export of .* does not agree with torch: a cosine of -?0\.\d+ where 0\.9999"
    ):
        _onnx_export.export(tower, "fp32", images, on, out=tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_a_provider_that_does_not_run_is_said_and_nothing_falls_back(pairs):
    pair = pairs("tiny-clip")
    try:
        running = engine.load_backbone(pair.onnx.id, device="cuda")
    except engine.BackboneError as error:
        assert "cannot compute on 'cuda' (" in error.message and "Install onnxruntime-gpu" in error.hint
    else:  # a machine with a GPU that ONNX Runtime can use
        assert running.device == "cuda" and running._session.get_providers()[0] == "CUDAExecutionProvider"
    with pytest.raises(engine.BackboneError, match=r"not used on 'tpu' here\. Choose one of: cpu, cuda"):
        engine.load_backbone(pair.onnx.id, device="tpu")


# --- int8 with images, the command line, the lists -----------------------------------------------------------------------


def test_int8_takes_its_scales_from_images_where_there_are_some(tiny, tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(6):
        PIL.Image.fromarray(rng.integers(0, 256, (70, 70), dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")
    name, out = f"onnx:local-dir:{tiny['tiny-pmc']}", tmp_path / "out"
    command = ["export", name, "--precision", "int8", "--calibrate", str(tmp_path / "images"), "--out", str(out)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"{out}: int8 static, compared with torch on 4 sample images and 12 of noise" in said
    made, tower = _onnx.OnnxTower(_onnx.read_export(out), "cpu"), engine.load_backbone(name.removeprefix("onnx:"))
    assert made.dtype == "int8 static in ONNX Runtime"
    images, _ = compared_on(tower.preprocess)
    with torch.no_grad():
        cosines = (made.encode_arrays(images) * tower.encode_images(torch.from_numpy(images)).numpy()).sum(axis=1)
    assert f"features   least cosine {f'{cosines.min():.6f}'[:5]}" in said and "top-1" in said
    assert main(command) == 2
    assert "is not empty. Add --force" in capsys.readouterr().err


def test_the_command_line_says_what_does_not_go_together(capsys):
    assert main(["export", "btmri-coop-scope-mini", "--precision", "int8"]) == 2
    assert "--precision and --calibrate are of image towers" in capsys.readouterr().err
    assert main(["export", "onnx:nothing"]) == 2
    assert "no backbone called 'nothing'" in capsys.readouterr().err
    assert main(["export", "onnx:scope-mini", "--calibrate", "images"]) == 2
    assert "error: " in capsys.readouterr().err


def test_exports_are_listed_with_place_and_size(pairs, capsys):
    pair = pairs("scope-mini")
    assert "onnx:scope-mini" in engine.exported()
    about = engine.weights("onnx:scope-mini")
    assert (
        about.place.startswith("exported on this machine (fp32")
        and about.size >= (pair.export.folder / "model.onnx").stat().st_size
    )
    assert (about.dim, about.licence, about.fetched_from) == (256, "as its source's", ())
    assert main(["list", "--json"]) == 0
    assert {"id": "onnx:scope-mini", "present": True} in json.loads(capsys.readouterr().out)["backbones"]
    with pytest.raises(engine.BackboneError, match="'onnx:pmc-clip' is not on this machine"):
        engine.weights("onnx:pmc-clip")


def test_importing_the_engine_imports_no_torch_until_a_public_name_is_asked_for():
    program = (
        "import sys, engine, engine.predict, engine.tasks\n"
        "assert 'torch' not in sys.modules\n"
        "assert callable(engine.predict) and callable(engine.tasks), 'a file stands in the place of a function'\n"
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)
