"""Our learners beside an independent plain transcription of the papers' formulas (tests/transcription.py), which was itself
run beside upstream's code (LOG.md): loss terms of 20 steps, the first gradient, and what was learned, to 1e-4.

Same backbone on both sides, its text tower's dropout probability set to 0; dropout's presence is tested in test_backbones.py.
Run: python -m pytest tests/test_parity.py
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import transcription

import engine
from engine.backbones.base import Embedded
from engine.backbones.scope_mini import FOLDER
from engine.methods import METHODS
from engine.methods._descriptions import description_features, sentence_features
from engine.methods.base import LabelledFeatures
from engine.training import Run, train

STEPS = 20
TASK = engine.task("busi")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """scope-mini's weights, without dropout."""
    folder = tmp_path_factory.mktemp("parity") / "mini"
    shutil.copytree(FOLDER, folder)
    config = json.loads((folder / "text_config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "text_config.json").write_text(json.dumps(config))
    return engine.load_backbone(f"local-dir:{folder}")


class Tower:
    """The backbone as the transcription asks for it."""

    def __init__(self, backbone):
        self.backbone = backbone

    def tokenize(self, texts):
        return self.backbone.tokenize(texts)

    def words(self, ids):
        return self.backbone.embed_tokens(ids).vectors.detach()

    def encode(self, vectors, ids, deep=None):
        rows = None if not deep else torch.stack(list(deep))[:, None]
        return self.backbone.encode_embedded(Embedded(vectors, ids), deep=rows)


class Watched:
    """A learner that keeps what it computed."""

    def __init__(self, learner):
        self.learner, self.parameters, self.terms_seen, self.first = learner, learner.parameters, [], None

    def terms(self, batch):
        found = self.learner.terms(batch)
        self.terms_seen.append({k: v.item() for k, v in found.items()})
        return found

    def backward(self, terms, batch):
        self.learner.backward(terms, batch)
        if self.first is None:
            self.first = {k: v.grad.clone() for k, v in self.parameters[0].items()}


def images(count: int = 9) -> LabelledFeatures:
    rng = np.random.default_rng(3)
    views = rng.normal(size=(2, count, 256)).astype(np.float32)
    return LabelledFeatures(views / np.linalg.norm(views, axis=2, keepdims=True), np.arange(count) % 3)


def ours(method, backbone, data, moved: float = 0.0):
    """(watched learner, the batches it drew, its start)."""
    learner = Watched(method.learner(backbone, TASK, [method], [data], [1]))
    generator = torch.Generator().manual_seed(5)
    for parameter in learner.parameters[0].values():
        parameter.data += moved * torch.randn(parameter.shape, generator=generator)
    start = {k: v.detach().clone() for k, v in learner.parameters[0].items()}
    run = Run(torch.from_numpy(data.views), torch.from_numpy(data.targets), method.recipe, 1)
    train(learner, [run], steps=STEPS)
    items, views = run.order()
    batches = [(run.views[v, i], run.targets[i]) for i, v in zip(items[:STEPS], views[:STEPS], strict=True)]
    return learner, batches, start, run


def agree(learner, trace, names=None, rel=1e-4):
    assert len(learner.terms_seen) == len(trace.terms) == STEPS
    for mine, theirs in zip(learner.terms_seen, trace.terms, strict=True):
        for name, value in theirs.items():
            assert mine[(names or {}).get(name, name)] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    for name, value in trace.first_gradient.items():
        difference = (learner.first[name] - value).norm() / value.norm().clamp_min(1e-12)
        assert difference < rel, (name, float(difference))
    for name, value in trace.learned.items():
        mine = learner.parameters[0][name].detach()
        assert (mine - value).norm() / value.norm() < rel, name


def arguments(method, backbone, batches, start, run):
    prompts = [method.template(TASK).replace("{}", name) for name in TASK.names]
    shared = {"tower": Tower(backbone), "prompts": prompts, "start": start, "scale": backbone.logit_scale}
    recipe = method.recipe
    return shared | {"batches": batches, "steps_per_epoch": run.steps_per_epoch, "epochs": recipe.epochs, "lr": recipe.lr}


def hand_written(backbone):
    return backbone.encode_texts([f"a photo of a {name}." for name in TASK.names])


@pytest.mark.parametrize("faithful", [False, True])
def test_coop(backbone, faithful):
    method = METHODS["coop"](METHODS["coop"].Config(batch=4, faithful=faithful))
    learner, *rest = ours(method, backbone, images())
    agree(learner, transcription.coop(**arguments(method, backbone, *rest)))


def test_cocoop(backbone):
    method = METHODS["cocoop"](METHODS["cocoop"].Config(batch=2))
    learner, *rest = ours(method, backbone, images())
    agree(learner, transcription.cocoop(**arguments(method, backbone, *rest)))


@pytest.mark.parametrize("weight", [1.0, 8.0])
def test_kgcoop(backbone, weight):
    method = METHODS["kgcoop"](METHODS["kgcoop"].Config(batch=4, weight=weight))
    learner, *rest = ours(method, backbone, images())
    agree(learner, transcription.kgcoop(**arguments(method, backbone, *rest), weight=weight, teacher=hand_written(backbone)))


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 1.0), (2.0, 0.8)])
def test_prograd(backbone, temperature, share):
    """From a moved start: at the teacher's own words the divergence's gradient is rounding noise (LOG.md)."""
    config = METHODS["prograd"].Config(batch=4, temperature=temperature, share=share)
    method = METHODS["prograd"](config)
    learner, *rest = ours(method, backbone, images(), moved=0.02)
    extra = {"teacher_logits_from": hand_written(backbone), "T": temperature, "LAMBDA": share}
    agree(learner, transcription.prograd(**arguments(method, backbone, *rest), **extra))


def test_prograd_that_teaches_itself_projects_on_noise(backbone):
    """The faithful quirk: the divergence's gradient is rounding noise, thousands of times below the cross-entropy's."""
    method = METHODS["prograd"](METHODS["prograd"].Config(batch=4, faithful=True))
    learner = method.learner(backbone, TASK, [method], [images()], [1])
    data = images(4)
    run = Run(torch.from_numpy(data.views), torch.from_numpy(data.targets), method.recipe, 1)
    from engine.training import Batch

    terms = learner.terms(Batch([0], run.views[0][None], run.targets[None], torch.full((1, 4), 0.25)))
    context = learner.parameters[0]["context"]
    g, h = (torch.autograd.grad(terms[name].sum(), context, retain_graph=True)[0] for name in ("ce", "kl"))
    assert h.norm() < 1e-4 * g.norm()


@pytest.mark.parametrize(
    ("options", "rule"),
    [({}, "described"), ({"faithful": True}, "coded"), ({"selection": "folded"}, "folded"), ({"tau": 1.25}, "described")],
)
def test_biomedcoop(backbone, options, rule):
    config = METHODS["biomedcoop"].Config(**({"sccm_weight": 5.0, "kdsp_weight": 2.0} | options))
    method = METHODS["biomedcoop"](config)
    learner, *rest = ours(method, backbone, images())
    bank = description_features(backbone, TASK, 50)
    extra = {"bank": bank, "lambda1": 5.0, "lambda2": 2.0, "tau": config.tau, "rule": rule}
    agree(learner, transcription.biomedcoop(**arguments(method, backbone, *rest), **extra))


@pytest.mark.parametrize(("faithful", "position"), [(False, "end"), (True, "middle")])
def test_biomed_dpt(backbone, faithful, position):
    options = {"template": "a ultrasound photo of a {} in the breast.", "tokens": 5, "l1_weight": 18.75, "kl_weight": 1.0}
    method = METHODS["biomed-dpt"](METHODS["biomed-dpt"].Config(**options, faithful=faithful))
    learner, *rest = ours(method, backbone, images())
    extra = {"bank": description_features(backbone, TASK, 50), "lambda1": 18.75, "lambda2": 1.0, "position": position}
    agree(learner, transcription.biomed_dpt(**arguments(method, backbone, *rest), **extra))


@pytest.mark.parametrize(("loss", "faithful"), [("mse", False), ("l1", False), ("mse", True)])
def test_medpromptclip(backbone, loss, faithful):
    """Ours encodes a prompt a class, the transcription one a sentence."""
    config = METHODS["medpromptclip"].Config(batch=32, depth=3, loss=loss, faithful=faithful)
    method = METHODS["medpromptclip"](config)
    data = method.items(backbone, TASK, None)
    data = replace(data, views=data.views[:, ::3], targets=data.targets[::3])
    learner, _, start, run = ours(method, backbone, data)
    items, _ = run.order()
    names = [name.replace(" ", "_") for name in TASK.names] if faithful else list(TASK.names)
    arguments_ = arguments(method, backbone, list(items[:STEPS]), start, run)
    arguments_["prompts"] = [config.template.replace("{}", name) for name in names]
    targets, classes = torch.from_numpy(data.views[0]), torch.from_numpy(data.targets)
    recipe = method.recipe
    optimiser = {"weight_decay": recipe.weight_decay, "warmup": recipe.warmup_epochs, "warmup_rate": recipe.warmup_lr}
    trace = transcription.medpromptclip(
        **arguments_, targets=targets, classes=classes, loss=loss, weight=1000.0, half=faithful, **optimiser
    )
    # faithful: upstream rounds each sentence's gradient of the deep prompts to half precision, ours each class's sum
    agree(learner, trace, {loss: "text"}, rel=1e-3 if faithful else 1e-4)


def test_the_teachers_features_are_the_towers(backbone):
    """From the store or not, a sentence's feature is what the text tower says of it."""
    sentences = list(engine.descriptions("busi").classes["benign tumor"].sentences[:5])
    for _ in range(2):
        torch.testing.assert_close(
            sentence_features(backbone, sentences), backbone.encode_texts(sentences), atol=2e-6, rtol=0
        )
