"""What every generator keeps to. Run: python -m pytest tests/test_generators.py"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import small_models
import torch

import engine
from engine.generators import _pretrained
from engine.generators.llm import LLM
from engine.tasks import made_bank, read_bank

BUSI = engine.task("busi")
IMAGES = [
    (small_models.picture("red", "circle", "left", np.random.default_rng(i)), label) for i, label in enumerate(BUSI.names)
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A BERT and a BLIP with hardly trained weights: what a generator keeps to does not hang on how good the words are."""
    torch.set_num_threads(1)
    sentences = [(f"The typical color of {label} is {{mask}}.", "dark") for label in BUSI.names]
    bert = small_models.bert(tmp_path_factory.mktemp("bert"), sentences, steps=1, pieces=200)
    return str(bert), str(small_models.blip(tmp_path_factory.mktemp("blip"), steps=1))


@pytest.fixture(params=engine.GENERATORS)
def made(request, folders, monkeypatch):
    bert, blip = folders
    options = {
        "masked-lm": {"model": bert},
        "vqa": {"model": blip, "beams": 2},
        "hybrid": {"model": blip, "language_model": bert, "beams": 2},
        "llm": {"endpoint": "http://localhost:9/v1", "model": "m"},
    }
    monkeypatch.setattr("engine.generators.llm.Endpoint.ask", lambda self, question, watch: f"It says: {question}"[:200])
    return engine.generator(request.param, **options[request.param])


def test_a_generator_has_a_name_and_frozen_options(made):
    assert [name for name, kind in engine.GENERATORS.items() if type(made) is kind] == [made.name]
    assert (
        is_dataclass(made.Config) and made.Config.__dataclass_params__.frozen and made.writes in ("attributes", "sentences")
    )
    json.dumps({field.name: getattr(made.config, field.name) for field in fields(made.Config)})


def test_it_leaves_a_bank_that_is_read_back_the_same_and_says_how_it_came(made, tmp_path):
    before = engine.descriptions(BUSI)
    bank = made.fill(BUSI, IMAGES if made.needs_images else ())
    (tmp_path / "busi.json").write_text(engine.bank_text(bank))
    assert read_bank(tmp_path / "busi.json", BUSI) == bank and bank.sha256 == made_bank(bank).sha256 != before.sha256
    assert tuple(bank.classes) == BUSI.names
    for label, each in bank.classes.items():
        old = before.classes[label]
        assert each.synonyms == old.synonyms and each.negatives == old.negatives
        other = "attributes" if made.writes == "sentences" else "sentences"
        assert getattr(each, other) == getattr(old, other)
    for step in bank.provenance:
        assert step["by"] in engine.GENERATORS and step["model"] and len(step["at"]) == 10
    assert engine.descriptions(BUSI) == before  # the task's own is not touched


def test_it_adds_to_what_was_done_before_and_takes_a_task_without_a_bank(made):
    images = IMAGES if made.needs_images else ()
    first = replace(engine.descriptions(BUSI), provenance=({"by": "somebody"},))
    assert made.fill(replace(BUSI, bank=first), images).provenance[0] == {"by": "somebody"}
    own = replace(BUSI, id="mine", bank=None)
    bank = made.fill(own, images)
    assert bank.task == "mine" and tuple(bank.classes) == BUSI.names and bank.provenance


def test_it_says_how_far_it_is_and_can_be_stopped(made):
    images, said = IMAGES if made.needs_images else (), []
    made.fill(BUSI, images, engine.Watch(progress=lambda *each: said.append(each)))
    assert said and all(0 <= done <= of for done, of, _ in said)
    with pytest.raises(engine.Stopped):
        made.fill(BUSI, images, engine.Watch(stop=lambda: True))


def test_an_option_that_is_none_is_said(made):
    with pytest.raises(engine.DataError, match=f"The generator '{made.name}' has no option 'colour'"):
        engine.generator(made.name, colour=1)
    with pytest.raises(engine.DataError, match=f"The option 'model' of '{made.name}' cannot be 3"):
        engine.generator(made.name, model=3)
    with pytest.raises(engine.DataError, match="no generator called 'oracle'"):
        engine.generator("oracle")


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("masked-lm", {"top": 0}, "0 words a slot"),
        ("masked-lm", {"name": "latin"}, "no kind of name 'latin'"),
        ("vqa", {"beams": 0}, "by 0 beams"),
        ("llm", {"questions": "mine"}, "no questions 'mine'"),
        ("llm", {"per_minute": 0.0}, "numbers of the language model"),
        ("llm", {"answers": True}, "cannot be True"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(name, options, sentence):
    with pytest.raises(engine.DataError, match=sentence):
        engine.generator(name, **options)


def test_a_pinned_model_is_told_by_its_commit_and_a_folder_by_its_weights(tmp_path):
    commit = tmp_path / ("0123456789abcdef" * 3)[:40]
    for folder in (commit, tmp_path / "mine"):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"abc")
    assert _pretrained.Source("a/b", commit, "").identity() == {"model": "a/b", "revision": commit.name}
    sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", FIPS 180-4
    assert _pretrained.find(str(tmp_path / "mine")).identity() == {"model": "mine", "weights_sha256": sha}


def test_a_hub_model_in_the_offline_cache_is_found_at_its_pin(tmp_path, monkeypatch):
    from huggingface_hub import constants

    from engine.generators.masked_lm import MODEL, REVISION

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / f"models--{MODEL.replace('/', '--')}" / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"")
    found = _pretrained.find(MODEL, REVISION)
    assert found.folder == folder and not found.is_safe and found.words.startswith("offline cache of microsoft/")
    assert found.identity() == {"model": MODEL, "revision": REVISION}


def test_the_language_model_is_not_asked_without_its_name():
    with pytest.raises(engine.DataError, match="is not named"):
        LLM(LLM.Config(endpoint="http://localhost/v1")).fill(BUSI)
