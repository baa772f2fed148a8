"""Words by a masked language model, on a small BERT that is really trained here on facts of our own banks.

Run: python -m pytest tests/test_masked_lm.py
"""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import small_models
import torch
import transformers

import engine
from engine.generators import _pretrained
from engine.generators.masked_lm import SENTENCES, Filler, vocabulary
from engine.methods.attribute_prompts import AttributePrompts, prompts_of
from engine.tasks import read_bank

BUSI = engine.task("busi")
DARK = SENTENCES["colour"].replace("{c}", "benign tumor")


def corpus(facts: list[small_models.Fact], held: set[int]) -> list[tuple[str, str]]:
    """Every fact in three phrasings of our own; in the generator's own sentence only where it is not held out."""
    found = []
    for i, fact in enumerate(facts):
        phrases = small_models.PHRASES[fact.slot]
        found += [(p.replace("{c}", fact.label), fact.word) for p in (phrases[:-1] if i in held else phrases)]
    return found


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """(folder of the model, facts, numbers of the facts that it never saw in the generator's sentence)."""
    torch.set_num_threads(1)
    facts = small_models.facts()
    held = set(random.Random(0).sample(range(len(facts)), len(facts) // 2))
    return small_models.bert(tmp_path_factory.mktemp("bert"), corpus(facts, held), steps=300), facts, held


@pytest.fixture(scope="module")
def filler(learned):
    return Filler(_pretrained.find(str(learned[0])))


def test_the_first_word_is_the_banks_own_far_more_often_than_by_chance(learned, filler):
    """Measured 2026-11-26: 73 of 93 in a phrasing that was trained, 60 of 93 in one that was held out; chance 6.3 %. The margin is
    for other versions of torch."""
    _, facts, held = learned
    right: dict[bool, list[bool]] = {True: [], False: []}
    for i, fact in enumerate(facts):
        lists, _ = vocabulary(engine.task(fact.task))
        scores = filler.scores(SENTENCES[fact.slot].replace("{c}", fact.label), lists[fact.slot])
        right[i in held].append(max(scores, key=lambda word: scores[word]) == fact.word)
    chance = sum(1 / fact.choices for fact in facts) / len(facts)
    assert len(facts) == 186 and chance < 0.07
    assert sum(right[False]) / len(right[False]) > 0.65  # phrasing seen in training
    assert sum(right[True]) / len(right[True]) > 0.5  # never seen with this class
    assert any(len(filler.tokenizer(f" {f.word}", add_special_tokens=False).input_ids) > 1 for f in facts)


def test_a_score_equals_a_plain_loop(filler):
    """One word, one piece, one forward pass at a time, with ids put together by hand."""
    t, model = filler.tokenizer, filler.model
    words = ["white", "dark grey", "hyperechoic", "bright"]
    sums = []
    for word in words:
        pieces = t.convert_tokens_to_ids(t.tokenize(word))
        before = t.convert_tokens_to_ids(t.tokenize("The typical color of benign tumor is"))
        after = t.convert_tokens_to_ids(t.tokenize("."))
        total = 0.0
        for i, piece in enumerate(pieces):
            gap = pieces[:i] + [t.mask_token_id] * (len(pieces) - i)
            ids = torch.tensor([[t.cls_token_id, *before, *gap, *after, t.sep_token_id]])
            logits = model(input_ids=ids).logits[0, 1 + len(before) + i]
            total += float(torch.log(torch.exp(logits - logits.max()) / torch.exp(logits - logits.max()).sum())[piece])
        sums.append(total)
    assert max(len(t.tokenize(word)) for word in words) > 1
    found = filler.scores(DARK, words)
    expected = torch.tensor(sums) - torch.tensor(sums).exp().sum().log()
    # float32: the size of a batch changes the order of summation
    assert list(found.values()) == pytest.approx(expected.tolist(), abs=1e-4) and list(found) == words
    assert sum(torch.tensor(list(found.values())).exp()) == pytest.approx(1, abs=1e-5)


def test_one_mask_is_read_as_transformers_own_pipeline_reads_it(learned, filler):
    pipe = transformers.pipeline("fill-mask", model=str(learned[0]), tokenizer=str(learned[0]))
    theirs = [each["token_str"] for each in pipe(DARK.replace("{mask}", "[MASK]"), top_k=5)]
    assert [word.removeprefix("##") for word in filler.likeliest(DARK, 5, whole=False)] == [
        w.removeprefix("##") for w in theirs
    ]


def test_pieces_that_continue_a_word_are_dropped_but_faithfully_kept(filler):
    everything = filler.likeliest(DARK, len(filler.tokenizer), whole=False)
    assert any(piece.startswith("##") for piece in everything) and "[SEP]" in everything
    words = filler.likeliest(DARK, len(filler.tokenizer), whole=True)
    assert words == [w for w in everything if w.isalpha() and len(w) > 1]  # neither ## nor [SEP] is letters alone


def test_a_bank_is_filled_from_closed_lists_and_says_how(learned, filler):
    made = engine.generator("masked-lm", model=str(learned[0]), name="label")
    bank = made.fill(BUSI)
    lists, _ = vocabulary(BUSI)
    scores = filler.scores(DARK, lists["colour"])
    assert bank.classes["benign tumor"].attributes["colour"] == tuple(sorted(scores, key=scores.get, reverse=True)[:3])
    for each in bank.classes.values():
        for slot in engine.SLOTS:
            assert len(each.attributes[slot]) == 3 and set(each.attributes[slot]) <= set(lists[slot])
    old = engine.descriptions(BUSI)
    assert all(bank.classes[c].sentences == old.classes[c].sentences for c in BUSI.names)
    (step,) = bank.provenance
    assert (
        step["by"] == "masked-lm"
        and step["sentences"] == SENTENCES
        and step["top"] == 3
        and len(step["weights_sha256"]) == 64
    )
    assert str(learned[0].parent) not in engine.bank_text(bank)  # no path


def test_faithful_puts_the_word_of_rank_j_into_prompt_j(learned, filler):
    made = engine.generator("masked-lm", model=str(learned[0]), faithful=True)
    bank = made.fill(BUSI)
    name = "breast carcinoma"  # the bank's first medical name of "malignant tumor"
    raw = {
        slot: filler.likeliest(SENTENCES[slot].replace("{c}", name), 3, whole=False)
        for slot in ("colour", "shape", "location")
    }
    attributes = bank.classes["malignant tumor"].attributes
    assert {slot: list(attributes[slot]) for slot in raw} == raw
    assert attributes["texture"] == engine.descriptions(BUSI).classes["malignant tumor"].attributes["texture"]
    configs = [AttributePrompts.Config(name="lay", faithful=True, rank=j) for j in (1, 2, 3)]
    assert [prompts_of(replace(BUSI, bank=bank), each)["malignant tumor"] for each in configs] == [
        (f"{raw['colour'][j]} color, {raw['shape'][j]} shape breast cancer in {raw['location'][j]}",) for j in range(3)
    ]


def test_a_list_of_the_users_own_is_taken(learned, tmp_path):
    own = {"colour": ["teal", "dark"], "shape": ["oval"], "location": ["here"], "texture": ["soft", "smooth"]}
    (tmp_path / "own.json").write_text(json.dumps(own))
    bank = engine.generator("masked-lm", model=str(learned[0]), words=str(tmp_path / "own.json")).fill(BUSI)
    assert set(bank.classes["normal scan"].attributes["colour"]) == {"teal", "dark"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"colour": 3}', "cannot be read"),
        (json.dumps({slot: [1] for slot in engine.SLOTS}), "cannot be read"),
        (json.dumps({slot: [] for slot in engine.SLOTS}), "have 0 words for 'colour'"),
        (json.dumps({slot: ["x" * 61] for slot in engine.SLOTS}), "have the word"),
        (json.dumps({slot: [f"w{i}" for i in range(1001)] for slot in engine.SLOTS}), "have 1001 words"),
        (" " * (1 << 21), "cannot be read"),
    ],
)
def test_a_list_of_something_else_is_refused(text, sentence, tmp_path):
    (tmp_path / "own.json").write_text(text)
    with pytest.raises(engine.DataError, match=f"The words of 'own.json' {sentence}"):
        vocabulary(BUSI, str(tmp_path / "own.json"))


def test_a_class_whose_name_does_not_fit_is_said(learned):
    made = engine.generator("masked-lm", model=str(learned[0]), name="label")
    for name, sentence in (
        ("a [MASK] b", "does not have exactly one mask"),
        ("{mask}", "exactly one mask"),
        ("very " * 80, "is too long"),
    ):
        task = replace(BUSI, id="own", labels=(engine.Label(name, name),))
        with pytest.raises(engine.DataError, match=sentence):
            made.fill(task)


def test_a_model_without_a_fill_mask_head_is_refused(learned, tmp_path):
    bert = transformers.AutoModel.from_pretrained(learned[0])
    bert.save_pretrained(tmp_path / "headless")
    transformers.AutoTokenizer.from_pretrained(learned[0]).save_pretrained(tmp_path / "headless")
    with pytest.raises(engine.BackboneError, match="'headless' has no fill-mask head: it lacks"):
        Filler(_pretrained.find(str(tmp_path / "headless")))


def test_folders_and_names_that_are_no_models_are_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(engine.BackboneError, match="The folder 'empty' holds no model of transformers"):
        _pretrained.find(str(tmp_path / "empty"))
    with pytest.raises(engine.BackboneError, match="There is no model 'nothing'"):
        _pretrained.find("nothing")
    with pytest.raises(engine.BackboneError, match=r"copy nobody/nothing into a folder and give that folder as the model"):
        _pretrained.find("nobody/nothing")
    for config, sentence in (
        ("[]", "no readable config"),
        ("{", "no readable config"),
        ('{"model_type": "vit"}', "no masked language model"),
    ):
        (tmp_path / "empty" / "config.json").write_text(config)
        (tmp_path / "empty" / "model.safetensors").write_bytes(b"x")
        with pytest.raises(engine.BackboneError, match=sentence):
            Filler(_pretrained.find(str(tmp_path / "empty")))


def test_code_that_comes_with_a_model_is_not_run(learned, tmp_path):
    for file in learned[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    about = json.loads((tmp_path / "config.json").read_text()) | {
        "model_type": "evil",
        "auto_map": {"AutoModelForMaskedLM": "evil.M", "AutoConfig": "evil.C"},
    }
    (tmp_path / "config.json").write_text(json.dumps(about))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass M: pass\nclass C: pass\n")
    with pytest.raises(engine.BackboneError, match="no masked language model"):
        Filler(_pretrained.find(str(tmp_path)))
    assert not (tmp_path / "ran").exists()


def test_the_command_line_fills_a_bank(learned, tmp_path, capsys):
    from engine.__main__ import main

    out = tmp_path / "busi.json"
    words = ["words", "fill", "busi", "--with", "masked-lm", "--model", str(learned[0]), "--out", str(out)]
    assert main(words) == 0 and "colour" in capsys.readouterr().out
    assert read_bank(out, BUSI).provenance[-1]["by"] == "masked-lm"
    assert main(words) == 2 and "already" in capsys.readouterr().err
    assert (
        main([*words, "--images", "somewhere", "--force"]) == 2
        and "no images. Leave --images out." in capsys.readouterr().err
    )
    assert main(["list"]) == 0 and "masked-lm, vqa, hybrid, llm" in capsys.readouterr().out
