"""The recipe of scope-mini: its losses against plain loops, what its captions may say, and the whole way on small made images.

Run: python -m pytest tests/test_mini.py
"""

import json
import math
import random
import sys

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F

import engine
from engine.backbones import _openclip, scope_mini
from scripts import pretrain_mini, train_mini
from scripts.measure_maps import scored
from scripts.measure_mini import probed
from scripts.mini_data import Item, Sampler, class_index, some_patches
from scripts.mini_words import UNREAD_DENIALS, UNREAD_SENTENCES, absent, caption

TASKS = [name for name, task in engine.tasks().items() if task.data]


def log_softmax(values, at, among):
    return values[at] - math.log(sum(math.exp(values[j]) for j in among))


def test_the_loss_is_what_its_docstring_says():
    """Two tasks of three and two classes, and one whose classes are not told apart; in float64, by plain loops."""
    torch.manual_seed(3)
    task_of, labels, kinds = [0, 0, 0, 1, 1, 2], [0, 2, 3, 3, 5], [0, 0, 1, 1, 0]
    allowed = torch.ones(6, 6, dtype=torch.bool)
    allowed[0, 3] = allowed[3, 0] = False  # both may be true of one image
    same = torch.tensor([[a == b for b in task_of] for a in task_of])
    v = F.normalize(torch.randn(5, 7, dtype=torch.float64), dim=1)
    t = F.normalize(torch.randn(6 + 2 + 6, 7, dtype=torch.float64), dim=1)
    scale = torch.tensor(5.0, dtype=torch.float64)
    logits = (5 * v @ t.T).tolist()
    within = over = kind = denial = 0.0
    for row, y, m in zip(logits, labels, kinds, strict=True):
        mine, modality, denied = row[:6], row[6:8], row[8:]
        siblings = [j for j in range(6) if task_of[j] == task_of[y]]
        with_denial = [*(mine[j] for j in siblings), denied[y]]
        within -= log_softmax(with_denial, siblings.index(y), range(len(with_denial))) / 5
        over -= log_softmax(mine, y, [j for j in range(6) if allowed[y, j]]) / 5
        kind -= log_softmax(modality, m, range(2)) / 5
        if len(siblings) > 1:
            denial -= log_softmax([-d for d in denied], y, siblings) / 5
    back = 0.0
    for c in set(labels):
        column = {i: logits[i][c] for i, y in enumerate(labels) if allowed[y, c]}
        own = sum(math.exp(value) for i, value in column.items() if labels[i] == c)
        back -= math.log(own / sum(math.exp(value) for value in column.values())) / len(set(labels))
    expected = within + 0.5 * over + 0.5 * kind + 0.25 * back + 0.25 * denial
    found = train_mini.losses(v, t, scale, torch.tensor(labels), torch.tensor(kinds), allowed, same)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_classes_that_may_both_be_true_are_no_rivals():
    classes = [("covid_cxr", "normal lungs"), ("pneumonia_cxr", "normal chest"), ("busi", "normal scan")]
    assert train_mini.rivals(classes).tolist() == [[True, False, True], [False, True, True], [True, True, True]]


@pytest.mark.parametrize("name", TASKS)
def test_captions_leave_the_last_sentences_unread(name):
    rng = random.Random(0)
    for label, words in engine.descriptions(name).classes.items():
        said = {caption(name, label, rng) for _ in range(600)} | {absent(name, label, rng) for _ in range(200)}
        assert not said & set(words.sentences[-UNREAD_SENTENCES:]), label
        assert not said & set(words.negatives[-UNREAD_DENIALS:]), label
        assert said & set(words.sentences), label


@pytest.mark.parametrize("name", ["busi", "retina", "lc25000_lung"])
def test_captions_without_a_class_name_none(name):
    """What scope-mini-heldout reads of a left-out set holds no class, no synonym and no attribute of one."""
    rng = random.Random(0)
    said = " ".join({caption(name, "", rng) for _ in range(300)} | {absent(name, "", rng) for _ in range(300)}).lower()
    for label, words in engine.descriptions(name).classes.items():
        told = [label, *(w for group in (words.synonyms, words.attributes) for found in group.values() for w in found)]
        kinds = {"ultrasound", "breast", "retina", "lung", engine.task(name).organ.lower()}
        assert not [w for w in told if w.lower() not in kinds and f" {w.lower()} " in f" {said} "], label


def test_left_out_classes_are_no_class():
    every = class_index(["busi", "retina"], ["retina"], ["busi:normal scan"])
    assert every == [("busi", "benign tumor"), ("busi", "malignant tumor"), ("retina", "")]


@pytest.mark.parametrize(("power", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 0.9)])
def test_the_sampler_draws_classes_by_a_power_of_their_counts(power, share):
    """Nine images to one: a half, three quarters (3 : 1), nine tenths of what is drawn."""
    items = [Item("busi", int(i == 0), 0, np.zeros((1, 1), np.uint8)) for i in range(10)]
    drawn = Sampler(items, random.Random(0), power)(4000)
    assert np.mean([item.label == 0 for item in drawn]) == pytest.approx(share, abs=0.03)


def test_patches_that_are_kept_are_those_of_the_image():
    """Each image of one grey per patch: what is drawn has its place's grey, up to the image's own alteration."""
    greys = torch.arange(196).reshape(14, 14).to(torch.uint8)
    pixels = greys.repeat_interleave(16, 0).repeat_interleave(16, 1)[None, :, :, None].expand(2, -1, -1, 3)
    x, kept = some_patches(pixels, 0.25, torch.Generator().manual_seed(0), "cpu")
    assert x.shape == (2, 49, 3, 16, 16)
    for image, places in zip(x.mean(dim=(2, 3, 4)), kept, strict=True):
        assert len(set(places.tolist())) == 49
        assert torch.corrcoef(torch.stack([image, places.float()]))[0, 1] > 0.95


def test_tokens_and_values_are_the_engines():
    """All patches, in order: the class token is what encode_images projects, the values what patch similarity looks at."""
    backbone, folder = engine.load_backbone("scope-mini"), scope_mini.FOLDER
    model = _openclip.build_model(folder)
    weights = _openclip.read_weights(_openclip.weights_file(folder))
    model.load_state_dict({k: w.float() for k, w in weights.items()}, strict=False)
    student = pretrain_mini.Student(model.eval().visual)
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    patches = x.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).reshape(2, 196, 3, 16, 16)
    with torch.no_grad():
        tokens, values = student.tokens_and_values(patches, torch.arange(196).expand(2, -1))
        found = [F.normalize(model.visual.head(each), dim=-1) for each in (tokens[:, 0], values[:, 1:])]
        torch.testing.assert_close(tokens, student.tokens(patches, torch.arange(196).expand(2, -1)))
        torch.testing.assert_close(found[0], backbone.encode_images(x), atol=1e-5, rtol=0)
        torch.testing.assert_close(found[1], backbone.value_patches(x).reshape(2, 196, -1), atol=1e-5, rtol=0)


def test_the_mimetic_beginning_is_the_papers():
    """arXiv:2305.09828, equation 5: the values' way through their projection is -0.4 of what goes in, with noise of 0.4."""
    torch.manual_seed(0)
    trunk = _openclip.build_model(scope_mini.FOLDER).visual.trunk
    pretrain_mini.mimetic(trunk)
    for block in trunk.blocks:
        values = block.attn.qkv.weight[2 * trunk.embed_dim :]
        way = block.attn.proj.weight @ values
        assert way.diagonal().mean().item() == pytest.approx(-0.4, abs=0.01)
        noise = way[~torch.eye(len(way), dtype=torch.bool)]
        assert noise.std().item() == pytest.approx(0.4 / math.sqrt(len(way)), rel=0.05)


def test_probes_find_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    labels = {"train": ["a"] * 30 + ["b"] * 30, "test": ["a"] * 40 + ["b"] * 40}
    noise = {split: rng.normal(size=(len(each), 8)) for split, each in labels.items()}
    told = {split: noise[split] + 9 * np.array([[c == "b"] for c in each]) for split, each in labels.items()}
    assert probed(told, labels, 16, 3) == [100, 100, 100]
    assert np.mean(probed(noise, labels, 16, 20)) == pytest.approx(50, abs=8)


def test_pointing_and_energy_by_hand():
    inside = np.array([[True, False], [False, False]])
    assert scored(np.array([[3.0, 1.0], [-5.0, 0.0]]), inside) == (1.0, 0.75)
    assert scored(np.array([[1.0, 2.0], [1.0, 0.0]]), inside) == (0.0, 0.25)
    assert scored(np.zeros((2, 2)), ~inside) == (0.0, 0.0)
    assert scored(np.full((2, 2), -1.0), inside) == (0.0, 0.0)


@pytest.fixture
def made_data(tmp_path, monkeypatch):
    """Every set with small images of noise, enough for the probe of one of them: folder with sets/."""
    monkeypatch.setattr(pretrain_mini, "PROBED", ("pneumonia_cxr",))
    root, rng = tmp_path / "made", np.random.default_rng(0)
    for name in TASKS:
        for folder in engine.task(name).data:
            place, rows = root / "sets" / folder, ["path,class,split,group"]
            place.mkdir(parents=True)
            for label in engine.task(name).names:
                for i in range(18 if name in pretrain_mini.PROBED else 3):
                    split = "val" if i == 1 else "test" if i == 2 and name not in pretrain_mini.PROBED else "train"
                    file = f"{len(rows)}.png"
                    PIL.Image.fromarray(rng.integers(0, 256, (40, 40), np.uint8)).save(place / file)
                    rows.append(f"{file},{label},{split},g{len(rows)}")
            (place / "split.csv").write_text("\n".join(rows))
    return root


def run(module, *words):
    before, sys.argv = sys.argv, [module.__name__, *map(str, words)]
    try:
        module.main()
    finally:
        sys.argv = before


def test_the_whole_recipe_ends_in_a_backbone_and_goes_on_where_it_stopped(made_data, shared, tmp_path):
    """Both trainings on made images, each stopped and called again; one class left out, one set unnamed."""
    common = ("--data", made_data, "--views", tmp_path / "views", "--count", 1, "--batch", 8)
    (made_data / "teacher").symlink_to(shared / "data" / "teacher")
    first, second = tmp_path / "first", tmp_path / "second"
    run(pretrain_mini, *common, "--work", first, "--steps", 2, "--cool", 0)
    run(pretrain_mini, *common, "--work", first, "--steps", 2, "--cool", 2)
    lines = [json.loads(line) for line in (first / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert [line["share"] for line in lines] == [round(2 / 300, 4), round(4 / 300 * 0.5, 4)]
    assert set(lines[-1]["probe"]) == set(pretrain_mini.PROBED)
    more = (*common, "--pretrained", first, "--work", second, "--text-steps", 2, "--bank", 2)
    more = (*more, "--unnamed", "busi", "--left-out", "btmri:normal brain")
    run(train_mini, *more, "--steps", 2)
    run(train_mini, *more, "--steps", 3)
    lines = [json.loads(line) for line in (second / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3]
    assert "busi" not in lines[-1]["val"]
    about = json.loads((second / "model" / "training.json").read_text())
    assert (about["pretrained_steps"], about["unnamed"], about["left_out"]) == (4, ["busi"], ["btmri:normal brain"])
    backbone = engine.load_backbone(f"local-dir:{second / 'model'}")
    features = backbone.encode_images(torch.zeros(1, 3, 224, 224))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(1))
    assert (second / "model" / "open_clip_model.safetensors").stat().st_size < 30e6
