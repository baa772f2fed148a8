"""Attribute prompts, the search for words that help, and what an edit does. Run: python -m pytest tests/test_words.py"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch

import engine
from engine import words
from engine.__main__ import main
from engine.errors import BackboneError, DataError, PromptSetError, Stopped
from engine.evaluate import balanced_accuracy
from engine.methods.attribute_prompts import AttributePrompts, prompts_of
from engine.tasks import (
    ASSETS,
    ClassDescriptions,
    DescriptionBank,
    Label,
    bank_text,
    kind_of_image,
    made_bank,
    read_bank,
    tasks_with,
    with_bank,
)
from engine.templates import FAITHFUL, filled
from engine.words import candidates, edit_words, effect_of_words, propose_words

Config = AttributePrompts.Config


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def mini():
    return engine.load_backbone("scope-mini")


def bank(**classes: ClassDescriptions) -> DescriptionBank:
    return made_bank(DescriptionBank("busi", "made", "", classes))


POLYP = ClassDescriptions(
    {"medical": ("adenoma",), "lay": ("bump",)},
    {"colour": ("pink", "red"), "shape": ("round",), "location": ("the bowel", "the rectum", "the colon"), "texture": ()},
    ("One.",),
    (),
)
CLEAR = ClassDescriptions({}, {}, ("Two.",), ())
TASK = replace(
    engine.task("busi"), labels=(Label("polyp", "Polyp"), Label("clear", "Clear")), bank=bank(polyp=POLYP, clear=CLEAR)
)


# --- the prompts --------------------------------------------------------------------------------------------------------


def test_the_papers_template_puts_word_j_of_every_slot_into_prompt_j():
    """MIU-VL's example on its figure: "pink, round, polyp, in the bowl", as its generator writes it."""
    read = [prompts_of(TASK, Config(name="lay", faithful=True, rank=j))["polyp"] for j in (0, 1, 2, 3)]
    first = ("pink color, round shape bump in the bowel",)
    assert read == [first, first, ("red color, bump in the rectum",), ("bump in the colon",)]
    assert prompts_of(TASK, Config(name="lay", faithful=True))["clear"] == ("clear",)


def test_the_default_reads_as_english_and_says_no_more_than_there_is():
    read = prompts_of(TASK, Config())
    assert read["polyp"] == (
        "ultrasound image of the breast showing polyp: pink, round, the bowel.",
        "ultrasound image of the breast showing polyp: red, the rectum.",
        "ultrasound image of the breast showing polyp: the colon.",
    )
    assert read["clear"] == ("ultrasound image of the breast showing clear.",)
    turned = prompts_of(TASK, Config(slots="location,colour", ranks=1, name="medical"))
    assert turned["polyp"] == ("ultrasound image of the breast showing adenoma: the bowel, pink.",)
    assert prompts_of(TASK, Config(slots="", name="query"))["polyp"] == ("ultrasound image of the breast showing polyp.",)


def test_a_template_of_ones_own_takes_either_spelling_and_leaves_parts_out():
    template = "[{color} ]{name}[ with a {texture} surface][ in {organ}]"
    read = prompts_of(TASK, Config(template=template))
    assert read["polyp"] == ("pink polyp in breast", "red polyp in breast", "polyp in breast")
    assert read["clear"] == ("clear in breast",)
    anywhere = replace(TASK, modality="any", organ="any")
    assert kind_of_image(anywhere) == "medical image"
    assert prompts_of(anywhere, Config(template=template, ranks=1))["polyp"] == ("pink polyp",)


def test_words_with_brackets_are_put_in_as_they_are():
    held = dict.fromkeys(("name", "colour", "shape", "location"), "")
    assert filled(FAITHFUL, held | {"name": "{shape} [x]", "colour": "{name}", "shape": "[red]"}) == (
        "{name} color, [red] shape {shape} [x]"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "nick"}, r"has no name 'nick'\. Choose one of: class, medical, query, lay"),
        ({"slots": "colour, size"}, r"have no slot 'size'\. Choose of: colour, shape, location, texture"),
        ({"slots": "colour, colour"}, "no slot twice"),
        ({"ranks": 0}, r"^0 variants cannot be made\. ranks is from 1 to 50\.$"),
        ({"rank": -1}, r"^There is no variant -1\. rank is from 1 to 50, or 0 for the mean of all variants\.$"),
        ({"ranks": 10**9}, "^1000000000 variants cannot be made"),
        ({"template": "{image}"}, "no place for the class"),
        ({"template": "{name} {size}"}, r"unknown place \{size\}"),
        ({"template": "{name} [{colour}"}, "bracket without its other half"),
        ({"template": "[{name}, {colour}]"}, "the class in a part that may vanish"),
    ],
)
def test_options_that_cannot_be_are_refused(options, sentence):
    with pytest.raises(DataError, match=sentence):
        Config(**options)


# --- the method ---------------------------------------------------------------------------------------------------------


def test_the_ensemble_is_the_unit_mean_of_its_variants(mini):
    made = AttributePrompts().learn(mini, TASK)
    rows = torch.cat([mini.encode_texts([each]) for each in prompts_of(TASK, Config())["polyp"]]).double().numpy()
    mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).sum(axis=0)
    np.testing.assert_allclose(made.class_embeddings[0], mean / np.linalg.norm(mean), atol=2e-6)
    alone = mini.encode_texts(["ultrasound image of the breast showing clear."])[0].numpy()
    np.testing.assert_allclose(made.class_embeddings[1], alone, atol=2e-6)


def test_the_card_says_how_the_bank_was_read_and_who_made_it(mini, tmp_path):
    changed, _ = edit_words(TASK, "polyp", "texture", ["soft"])
    made = AttributePrompts(Config(name="medical", ranks=2)).learn(mini, changed)
    card = engine.PromptSet.load(made.save(tmp_path / "x")).card
    assert card["template"] == "{image} showing {name}[: {slots}]."
    assert card["words"] == {
        "name": "medical",
        "keep_own_name": ["clear"],
        "slots": ["colour", "shape", "location", "texture"],
        "name_alone": ["clear"],
        "variants": {"polyp": 2, "clear": 1},
    }
    assert card["descriptions"]["sha256"] == changed.bank.sha256
    (step,) = card["descriptions"]["provenance"]
    assert step["by"] == "a person" and step["changed"] == "texture of 'polyp'"


def test_a_prompt_that_the_text_tower_cannot_read_whole_is_refused(mini):
    long = replace(TASK, bank=bank(polyp=replace(POLYP, attributes={"colour": ("very " * 90 + "red",)}), clear=CLEAR))
    with pytest.raises(BackboneError, match=r"has \d+ tokens; 'scope-mini' reads at most 77"):
        AttributePrompts().learn(mini, long)


@pytest.mark.parametrize("task", engine.tasks())
def test_every_shipped_task_is_read_under_every_name(mini, task):
    of = engine.task(task)
    for name in ("class", *engine.NAMES):
        for faithful in (False, True):
            made = AttributePrompts(Config(name=name, faithful=faithful)).learn(mini, of)
            assert made.labels == of.names and made.card["words"]["keep_own_name"] == []
            norms = np.linalg.norm(made.class_embeddings, axis=1)
            np.testing.assert_allclose(norms, 1, atol=1e-5)


def test_the_set_is_made_on_the_spot_by_its_name(mini):
    assert "attribute-prompts" in engine.instant()
    assert engine.prompt_set("btmri-attribute-prompts", mini).name == "btmri-attribute-prompts-scope-mini"


# --- the search ---------------------------------------------------------------------------------------------------------


def cases(mini, task, informative: str, count: int = 60, noise: float = 0.03, seed: int = 0):
    """Features of a two-class task, three images a patient, that differ along what the words of one slot say of the classes
    beyond what the names say: with the plain names alone the answers are chance."""
    r = np.random.default_rng(seed)
    ends = [AttributePrompts(Config(slots=s, ranks=1)).learn(mini, task).class_embeddings for s in ("", informative)]
    plain, worded = (each[0] - each[1] for each in ends)
    along = worded - plain * (worded @ plain) / (plain @ plain)
    targets = np.arange(count) // 3 % 2
    made = np.where(targets == 0, 1, -1)[:, None] * along / np.linalg.norm(along)
    made = made + noise * r.normal(size=(count, len(along)))
    features = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    examples = [
        engine.Example(f"{i}.png", task.names[t], patient=f"p{i // 3}", split="train") for i, t in enumerate(targets)
    ]
    return examples, features


ALIKE = replace(
    engine.task("busi"),
    labels=(Label("lesion a", "A"), Label("lesion b", "B")),
    bank=bank(
        **{
            "lesion a": ClassDescriptions(
                {}, {"colour": ("dark gray",), "shape": ("oval",), "texture": ("smooth",)}, ("A.",), ()
            ),
            "lesion b": ClassDescriptions(
                {}, {"colour": ("white",), "shape": ("oval",), "texture": ("smooth",)}, ("B.",), ()
            ),
        }
    ),
)


def test_there_is_a_candidate_for_every_name_subset_and_count_and_the_plainest_is_first():
    found = candidates(TASK)  # names: class, medical, lay; slots with words: colour 2, shape 1, location 3
    assert found[0] == Config(slots="", ranks=1) and len({str(each) for each in found}) == len(found)
    counts = {"": 1, "colour": 2, "shape": 1, "location": 3, "colour, shape": 2, "colour, location": 3}
    counts |= {"shape, location": 3, "colour, shape, location": 3}
    assert {slots: sum(each.slots == slots for each in found) for slots in counts} == {k: 3 * v for k, v in counts.items()}
    assert len(found) == 3 * sum(counts.values())


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Config(slots=""), "the class's own name alone"),
        (Config("medical", "colour", 1), "its name in a textbook with colour, the best word of each"),
        (
            Config("query", "colour, shape", 2),
            "its name as one would search for it with colour and shape, the mean of 2 variants",
        ),
        (Config("lay", ""), "its everyday name alone"),
    ],
)
def test_a_way_is_told_in_words_for_people(config, said):
    assert words.Tried(config, 0.5).in_words() == said


def test_the_slot_that_tells_the_classes_apart_is_proposed_and_said_to_help(mini):
    examples, features = cases(mini, ALIKE, "colour")
    found = propose_words(mini, ALIKE, examples, features)
    assert "colour" in found.best.config.chosen and found.verdict == 1 and found.chosen.low > 0
    assert found.images == 60 and found.units == 20 and found.folds > 1
    assert "they help" in found.in_words()
    # by a second road: each candidate as a prompt set of its own
    truth = np.asarray([ALIKE.names.index(e.label) for e in examples])
    for each in found.tried:
        alone = AttributePrompts(each.config).learn(mini, ALIKE).probabilities(features)
        assert each.score == pytest.approx(balanced_accuracy(truth, alone), abs=1e-9)
    scores = [each.score for each in found.tried]
    assert scores == sorted(scores, reverse=True)
    assert [each.difference is not None for each in found.tried] == [i < words.TOLD for i in range(len(scores))]


def test_the_folds_judge_each_case_by_a_choice_without_its_patient(mini):
    """The cross-fitted difference by a plain loop over prompt sets."""
    examples, features = cases(mini, ALIKE, "colour", noise=0.1, seed=3)
    found = propose_words(mini, ALIKE, examples, features)
    truth = np.asarray([ALIKE.names.index(e.label) for e in examples])
    answers = [AttributePrompts(c).learn(mini, ALIKE).probabilities(features) for c in candidates(ALIKE)]
    told = np.zeros_like(answers[0])
    for learned, judged in words.grouped_folds(examples, words.FOLDS, 1):
        assert not {examples[i].patient for i in learned} & {examples[i].patient for i in judged}
        scores = [round(balanced_accuracy(truth[learned], each[learned]), 9) for each in answers]
        best = scores.index(max(scores))
        told[judged] = answers[best][judged]
    expected = balanced_accuracy(truth, told) - balanced_accuracy(truth, answers[0])
    assert found.chosen.value == pytest.approx(expected, abs=1e-9)


def test_noise_is_not_said_to_be_helped(mini):
    """The best of many looks better on the cases that it was chosen on, and is not said to be."""
    verdicts, looks = [], []
    for seed in range(6):
        r = np.random.default_rng(seed)
        made = r.normal(size=(60, mini.dim)).astype(np.float32)
        features = made / np.linalg.norm(made, axis=1, keepdims=True)
        names = engine.task("busi").names
        examples = [engine.Example(f"{i}.png", names[i // 3 % 3], patient=f"p{i // 3}") for i in range(60)]
        found = propose_words(mini, engine.task("busi"), examples, features, seed=seed)
        verdicts.append(found.verdict)
        looks.append(found.best.score - found.plain.value)
    assert np.mean(looks) > 0.05  # what a naive report would promise
    assert verdicts.count(1) == 0


def test_test_cases_other_labels_and_a_stop_are_refused(mini):
    examples, features = cases(mini, ALIKE, "colour")
    with pytest.raises(DataError, match=r"not chosen on a test split: .* Give train and val\."):
        propose_words(mini, ALIKE, [replace(examples[0], split="test"), *examples[1:]], features)
    with pytest.raises(DataError, match="'cyst' is no class of 'busi'"):
        propose_words(mini, ALIKE, [replace(examples[0], label="cyst"), *examples[1:]], features)
    with pytest.raises(DataError, match=r"shape \(3, 256\) do not fit 60 images"):
        propose_words(mini, ALIKE, examples, np.zeros((3, 256), np.float32))
    with pytest.raises(DataError, match="no metric called 'dice'"):
        propose_words(mini, ALIKE, examples, features, "dice")
    with pytest.raises(DataError, match=r"The metric 'ece' is better lower\. Choose one of: accuracy, "):
        propose_words(mini, ALIKE, examples, features, "ece")
    with pytest.raises(DataError, match="no labelled images"):
        propose_words(mini, ALIKE, [], features[:0])
    with pytest.raises(Stopped):
        propose_words(mini, ALIKE, examples, features, stop=lambda: True)


def test_too_few_cases_are_said_to_be_too_few(mini):
    examples, features = cases(mini, ALIKE, "colour", count=6)  # one patient a class
    found = propose_words(mini, ALIKE, examples, features)
    assert found.chosen is None and found.verdict == 0 and "too few cases" in found.in_words()


# --- what an edit does --------------------------------------------------------------------------------------------------


def test_an_edit_has_the_effect_that_two_evaluations_have(mini):
    examples, features = cases(mini, ALIKE, "colour")
    worse, _ = edit_words(edit_words(ALIKE, "lesion a", "colour", ["white"])[0], "lesion b", "colour", ["dark gray"])
    found = effect_of_words(mini, ALIKE, worse, examples, features)
    told = [engine.evaluate(examples, mini, AttributePrompts().learn(mini, each), features) for each in (ALIKE, worse)]
    for interval, evaluation in zip((found.before, found.after), told, strict=True):
        assert interval == evaluation.metrics["balanced_accuracy"]
    a, b = (each.probabilities for each in told)
    assert found.difference == engine.paired_difference(told[0].truth, a, b, told[0].unit_names, "balanced_accuracy")
    assert found.verdict == -1 and "worse" in found.in_words()  # each has the other's colour now
    same = effect_of_words(mini, ALIKE, ALIKE, examples, features)
    assert same.difference.value == 0 and same.verdict == 0
    was = f"{100 * same.before.value:.1f} %"
    assert (
        same.in_words()
        == f"Balanced accuracy on 60 cases (20 patients or groups): {was} before, {was} after: the score did not change."
    )


def test_a_score_that_does_not_move_is_no_matter_of_too_few_cases():
    """Bug: 54 cases whose answers stayed were "too few cases for a range"."""
    still, half = engine.Interval(0.0, 0.0, 0.0), engine.Interval(0.5, 0.5, 0.5)

    def told(difference: engine.Interval, units: int, changed: int) -> str:
        of = words.Effect("accuracy", half, half, difference, 0, 54, units, changed)
        return of.in_words().partition(" after")[2]

    assert told(still, 54, 0) == told(still, 1, 0) == ": the score did not change."
    assert told(still, 54, 1) == ": the score did not change, though 1 answer did."
    assert told(still, 1, 3) == ", +0.0 points (95 %: too few cases for a range): no clear difference."
    assert told(half, 1, 3) == ", +50.0 points (95 %: too few cases for a range): no clear difference."
    assert told(engine.Interval(0.0, -0.04, 0.05), 54, 9) == ", +0.0 points (95 %: -4 to 5): no clear difference."


def test_the_effect_of_sentences_is_by_the_method_that_reads_them(mini):
    examples, features = cases(mini, ALIKE, "colour")
    other = replace(
        ALIKE, bank=bank(**{k: replace(v, sentences=(f"{k} in white.",)) for k, v in ALIKE.bank.classes.items()})
    )
    ensemble = engine.METHODS["description-ensemble"]()
    found = effect_of_words(mini, ALIKE, other, examples, features, ensemble, "accuracy")
    expected = engine.evaluate(examples, mini, ensemble.learn(mini, other), features).metrics["accuracy"]
    assert found.after == expected
    with pytest.raises(DataError, match="takes more than words and a moment"):
        effect_of_words(mini, ALIKE, other, examples, features, engine.METHODS["coop"]())
    with pytest.raises(DataError, match="other classes"):
        effect_of_words(mini, ALIKE, engine.task("busi"), examples, features)


def test_edited_words_are_kept_with_who_wrote_them_and_come_back_from_the_file(tmp_path):
    own = replace(TASK, labels=engine.task("busi").labels, bank=engine.descriptions("busi"))
    changed, thoughts = edit_words(
        own, "normal scan", "colour", ["  grey   layers ", "grey layers", "", "like a benign tumor"]
    )
    assert changed.bank.classes["normal scan"].attributes["colour"] == ("grey layers", "like a benign tumor")
    assert thoughts == ["'like a benign tumor' names another class, 'Benign tumour': the model may read it as that one."]
    again, _ = edit_words(changed, "normal scan", "colour", ["grey"])
    assert len(again.bank.provenance) == 1  # the same step, on the same day
    again, _ = edit_words(again, "normal scan", "lay", [])
    assert [each["changed"] for each in again.bank.provenance] == ["colour of 'normal scan'", "lay of 'normal scan'"]
    (tmp_path / "bank.json").write_text(bank_text(again.bank), encoding="utf-8")
    read = read_bank(tmp_path / "bank.json", own)
    assert read.sha256 == again.bank.sha256 and read.classes["normal scan"].synonyms["lay"] == ()
    assert tasks_with(tmp_path / "bank.json")["busi"].bank == read
    assert (
        own.bank.classes["normal scan"].attributes["colour"][0] == "bright glandular tissue"
    )  # the shipped one is as it was


@pytest.mark.parametrize(
    ("label", "kind", "given", "sentence"),
    [
        ("cyst", "colour", ["red"], "'cyst' is no class of the task 'busi'"),
        (7, "colour", ["red"], "'7' is no class of the task 'busi'"),
        ("polyp", ["colour"], ["red"], r"no name \"\['colour'\]\""),
        (
            "polyp",
            "colour",
            "dark",
            r"^The colour of 'Polyp' cannot be 'dark'\. Give a list of texts, as in \[\"dark\", \"grey\"\]\.$",
        ),
        ("polyp", "colour", [1, 2], r"cannot be \[1, 2\]\. Give a list of texts"),
        ("polyp", "colour", ["red", None], r"cannot be \['red', None\]\. Give"),
        ("polyp", "colour", {"red": 1}, "cannot be {'red': 1}"),
        ("polyp", "colour", 5, "cannot be 5"),
        ("polyp", "size", ["red"], "no slot and no name 'size'"),
        ("polyp", "colour", [f"word {i}" for i in range(51)], "has 51 entries. Up to 50 are taken"),
        ("polyp", "colour", ["x" * 101], "is longer than a few words"),
        ("polyp", "colour", ["a\x00b"], "a sign that cannot be printed"),
    ],
)
def test_words_that_cannot_be_used_are_refused(label, kind, given, sentence):
    with pytest.raises(DataError, match=sentence):
        edit_words(TASK, label, kind, given)


def test_a_class_is_named_as_people_see_it_and_a_slot_as_they_spell_it():
    of = engine.task("busi")
    expected, _ = edit_words(of, "benign tumor", "colour", ["red"])
    for label, kind in (("Benign tumour", "color"), ("benign", "colour"), ("BENIGN_tumor", "color")):
        changed, _ = edit_words(of, label, kind, ["red"])
        assert changed.bank == expected.bank and changed.bank.classes["benign tumor"].attributes["colour"] == ("red",)
    assert Config(slots="color,shape").chosen == ("colour", "shape")


@pytest.mark.parametrize("given", ["a. b.", [1], ["a.", None], 7])
def test_sentences_that_are_no_list_of_texts_are_refused(mini, given):
    """Bug: a text was taken as a list of its letters."""
    with pytest.raises(DataError, match=r"^The sentences of 'Benign tumour' cannot be .*\. Give a list of texts"):
        engine.check_sentences(engine.task("busi"), "benign tumor", given, mini)


@pytest.fixture
def page(tmp_path):
    from app.page import Page
    from app.settings import Settings

    made = Page(Settings(device="cpu", workspace=tmp_path / "workspace"))
    made.build()
    yield made
    made.host.close()


@pytest.mark.parametrize("given", ["dark", [1, 2]])
def test_the_endpoints_refuse_what_is_no_list_of_texts_and_save_nothing(page, given):
    """Bug: "dark" was saved as d, a, r, k."""
    library = page.tabs["Library"]
    with pytest.raises(DataError, match=r"^The colour of 'Benign tumour' cannot be .*\. Give a list of texts"):
        library.words.edit_words(None, "busi", "benign tumor", "colour", given)
    with pytest.raises(DataError, match=r"^The sentences of 'Benign tumour' cannot be .*\. Give a list of texts"):
        library.edit_bank(None, "busi", "benign tumor", given)
    assert engine.descriptions(library.tasks(None)["busi"]) == engine.descriptions("busi")


def test_an_edit_leaves_the_banks_source_and_licence(page):
    """Bug: one edit made everybody's words "written in this workspace", without a licence."""
    library, shipped = page.tabs["Library"], engine.descriptions("busi")
    library.words.edit_words(None, "busi", "benign tumor", "colour", ["dark"])
    found = library.bank_of(None, "busi")
    assert found["source"] == f"{shipped.source} Edited in this workspace." and shipped.source.endswith("clinician.")
    assert found["licence"] == shipped.licence == "Apache-2.0"
    library.edit_bank(None, "busi", "benign tumor", ["It is dark."])
    assert library.bank_of(None, "busi")["source"] == found["source"]  # said once
    mine = with_bank(replace(TASK, id="mine", bank=None), {"polyp": ["A bump."]}).bank
    assert (mine.source, mine.licence) == ("written in this workspace", "")


# --- banks of the environment -------------------------------------------------------------------------------------------


def put(path, colour="purple") -> str:
    """A bank's file of busi, with another colour of the benign tumour."""
    bank = edit_words(engine.task("busi"), "benign tumor", "colour", [colour])[0].bank
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(bank_text(bank), encoding="utf-8")
    return str(path)


def colours(task="busi"):
    return next(iter(engine.descriptions(task).classes.values())).attributes["colour"]


def test_the_environment_names_a_file_or_a_folder(tmp_path, monkeypatch):
    """Bug: a file was passed over in silence."""
    others = colours("retina")
    for place in (put(tmp_path / "mine.json"), str(tmp_path / "folder")):
        put(tmp_path / "folder" / "busi.json")
        monkeypatch.setenv("PROMPTSCOPE_DESCRIPTIONS", place)
        assert colours() == ("purple",) and colours("retina") == others  # which it holds nothing of
        own, _ = edit_words(engine.task("busi"), "benign tumor", "colour", ["red"])
        assert colours(own) == ("red",)  # a task's own words come first


@pytest.mark.parametrize("place", ["empty", "other", "nowhere", "x.json"])
def test_a_place_of_the_environment_that_holds_no_bank_is_refused(tmp_path, monkeypatch, capsys, place):
    """Bug: a bank under another name than TASK.json was passed over, and the shipped words were shown."""
    (tmp_path / "empty").mkdir()
    put(tmp_path / "other" / "miu.json")
    (tmp_path / "x.json").write_text("{}")
    monkeypatch.setenv("PROMPTSCOPE_DESCRIPTIONS", str(tmp_path / place))
    sentence = {"nowhere": "There is no file", "x.json": "'x.json' cannot be read: it has no 'task'"}.get(
        place, f"The folder {place!r} holds no description bank"
    )
    for given in (("words", "show", "busi"), ("words", "show", "busi", "--descriptions", str(tmp_path / place))):
        code, out, err = run(capsys, *given)
        assert code == 2 and not out and err.count("\n") == 1 and sentence in err
    with pytest.raises(DataError, match=re.escape(sentence)):
        with_bank(replace(engine.task("busi"), bank=None), {})  # not as if there were no words


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1}', "it has no 'task'"),
        ("[1]", "a part of it has another form"),
        ('{"task": "busi", "source": "", "licence": "", "classes": []}', "a part of it has another form"),
        ('{"task": "busi", "source": 1, "licence": "", "classes": {}}', "has other classes than the task"),
        ("{", "cannot be read: Expecting property name"),
    ],
)
def test_what_is_no_bank_is_refused_in_words_for_people(tmp_path, text, why):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError) as said:
        tasks_with(tmp_path / "x.json")
    assert why in str(said.value) and "Error" not in str(said.value) and "Errno" not in str(said.value)


# --- the command line ---------------------------------------------------------------------------------------------------


def run(capsys, *given: str) -> tuple[int, str, str]:
    code = main(list(given))
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def folder(tmp_path):
    """Class folders with splits in a CSV: three patients a class and split."""
    rng, rows = np.random.default_rng(0), ["path,label,patient,split"]
    for label in ("benign tumor", "malignant tumor", "normal scan"):
        for i in range(6):
            name, split = f"{label[:3]}{i}.png", "test" if i > 3 else "val" if i > 2 else "train"
            PIL.Image.fromarray(rng.integers(0, 255, (40, 50), dtype=np.uint8)).save(tmp_path / name)
            rows.append(f"{name},{label},{label[0]}{i},{split}")
    (tmp_path / "data.csv").write_text("\n".join(rows))
    return tmp_path


def test_words_are_shown_and_set_on_the_command_line(capsys, tmp_path):
    file = str(tmp_path / "busi.json")
    given = ("words", "set", "busi", "--bank", file, "--class", "benign tumor", "--slot", "colour", "--words", "pink, red")
    assert run(capsys, *given)[0] == 0
    code, out, _ = run(capsys, "words", "show", "busi", "--descriptions", file, "--name", "lay", "--ranks", "2", "--json")
    found = json.loads(out)
    row = found["results"][0]
    assert code == 0 and row["class"] == "benign tumor" and row["slots"]["colour"] == ["pink", "red"]
    assert row["prompts"][0].startswith("ultrasound image of the breast showing harmless breast lump: pink, oval, ")
    assert len(row["prompts"]) == 2 and found["sha256"] == tasks_with(file)["busi"].bank.sha256
    code, out, _ = run(capsys, "words", "show", "busi", "--class", "normal scan", "--faithful")
    assert code == 0 and "bright glandular tissue color, layered shape normal scan in skin and subcutaneous fat" in out
    code, _, err = run(capsys, "words", "show", "busi", "--class", "cyst")
    assert code == 2 and err.startswith("error: 'cyst' is no class of the task 'busi'.") and err.count("\n") == 1
    code, _, err = run(capsys, "words", "set", "btmri", "--bank", file, "--class", "x", "--slot", "colour", "--words", "a")
    assert code == 2 and "'busi.json' holds no description bank of the task 'btmri'. It holds: busi." in err


def test_words_of_a_bank_are_shown_with_where_they_are_from(capsys, tmp_path):
    of, file = engine.descriptions("busi"), put(tmp_path / "my.json")
    code, out, _ = run(capsys, "words", "show", "busi", "--class", "benign", "--descriptions", file, "--slots", "color")
    head, step, label, *rows = out.splitlines()
    assert code == 0 and head == f"{of.source} Licence: Apache-2.0." and label == "benign tumor"
    assert re.fullmatch(r"  by a person, changed colour of 'benign tumor', at \d{4}-\d\d-\d\d", step)
    assert rows[-1] == "  read as    ultrasound image of the breast showing benign tumor: purple." and len(rows) == 8
    found = json.loads(run(capsys, "words", "show", "busi", "--json")[1])
    assert (found["source"], found["licence"], found["provenance"]) == (of.source, "Apache-2.0", [])
    assert [row["class"] for row in found["results"]] == list(engine.task("busi").names)


def test_words_are_set_in_a_folder_that_is_made(capsys, tmp_path):
    file = tmp_path / "new" / "folder" / "my.json"
    given = ("words", "set", "busi", "--class", "Benign tumour", "--slot", "color", "--words", "pink", "--bank", str(file))
    assert run(capsys, *given)[:2] == (0, f"{file}\n") and colours(tasks_with(file)["busi"]) == ("pink",)


SCAN = next(str(s.path) for s in engine.samples() if s.title == "Ultrasound")


def test_two_banks_have_two_names_and_two_maps(capsys, tmp_path, monkeypatch, mini):
    """Bug: the second map was written over the first, and the rows told nothing apart but by their numbers."""
    where = ("--frame", "1", "--out", str(tmp_path / "maps"))
    asked = ("predict", SCAN, "--prompts", "busi-attribute-prompts", *where, "--json")
    files = [put(tmp_path / f"{colour}.json", colour) for colour in ("purple", "white")]
    more = [(), *(("--descriptions", file) for file in files)]
    rows = [json.loads(run(capsys, *asked, *each)[1])["results"][0] for each in more]
    plain = "busi-attribute-prompts-scope-mini"
    names = [plain, *(f"{plain}-{tasks_with(file)['busi'].bank.sha256[:8]}" for file in files)]
    assert [row["prompt_set"] for row in rows] == names and len(set(names)) == 3
    assert len({row["map"] for row in rows}) == len(list((tmp_path / "maps").iterdir())) == 3
    assert all(f"-{name}-" in row["map"] for name, row in zip(names, rows, strict=True))
    assert engine.prompt_set("busi-zero-shot", mini, list(tasks_with(files[0]).values())).name == "busi-zero-shot-scope-mini"
    monkeypatch.setenv("PROMPTSCOPE_DESCRIPTIONS", files[1])
    assert engine.prompt_set("busi-attribute-prompts", mini).name == names[2]
    same = tmp_path / "same.json"
    same.write_bytes((ASSETS / "descriptions" / "busi.json").read_bytes())
    assert engine.prompt_set("busi-attribute-prompts", mini, list(tasks_with(same).values())).name == plain


def test_a_bank_without_words_for_a_class_is_said(capsys, tmp_path):
    bank = engine.descriptions("busi")
    bare = {label: replace(about, attributes={}) for label, about in bank.classes.items() if label != "normal scan"}
    (tmp_path / "x.json").write_text(bank_text(replace(bank, classes=bank.classes | bare)))
    asked = ("predict", SCAN, "--prompts", "busi-attribute-prompts", "--explain", "none", "--frame", "1", "--json")
    code, _, err = run(capsys, *asked, "--descriptions", str(tmp_path / "x.json"))
    assert code == 0
    assert ": the bank has no words for benign tumor, malignant tumor: their names alone are read." in err
    assert "their names alone" not in run(capsys, *asked)[2]


def test_a_phrase_is_looked_for_with_words_of_another_bank(capsys, tmp_path):
    asked = ("locate", SCAN, "benign", "--frame", "1", "--json")
    file = put(tmp_path / "my.json")
    code, out, err = run(capsys, *asked, "--task", "busi", "--descriptions", file)
    assert code == 0, err
    assert json.loads(out)["results"][1]["phrase"].startswith("purple, ")
    code, _, err = run(capsys, *asked, "--descriptions", file)
    assert code == 2 and err == "error: Descriptions are of a task. Name it with --task.\n"


def test_heat_is_drawn_only_where_something_is_found(capsys, tmp_path, monkeypatch):
    """Bug: a map is scaled to its own range, so that nothing glowed as much as a hit."""

    def locate(image, phrases, *_):
        heat = np.zeros((4, 4), np.float32)
        heat[0, 0] = 1
        boxes = np.asarray([[0, 0, 9, 9]] if phrases == ["hit"] else [], np.float32).reshape(-1, 4)
        over = engine.Heatmap(heat, engine.Box(0.0, 0.0, *map(float, image.shape)), "x", "x")
        return [engine.Located(engine.Phrase(phrases[0]), "x", "x", over, boxes, np.ones(len(boxes)), None)]

    monkeypatch.setattr(engine, "locate", locate)
    plain = engine.picture(engine.read_image(SCAN))
    for phrase, differs in (("hit", True), ("telephone", False)):
        out = tmp_path / "new" / f"{phrase}.png"
        code, _, err = run(capsys, "locate", SCAN, phrase, "--out", str(out))
        assert code == 0, err
        assert (np.asarray(PIL.Image.open(out)) != plain).any() == differs


def test_words_are_proposed_and_compared_without_the_test_split(capsys, folder):
    data = str(folder / "data.csv")
    code, out, err = run(capsys, "words", "propose", "busi", "--data", data, "--json")
    found = json.loads(out)
    assert code == 0 and found["images"] == 12 and "6 of a test split are left alone" in err
    assert len(found["results"]) == 10 and found["candidates"] == len(candidates(engine.task("busi")))
    assert found["verdict"] == 0 and found["chosen"]["low"] <= found["chosen"]["value"] <= found["chosen"]["high"]
    code, out, _ = run(capsys, "words", "propose", "busi", "--data", data, "--metric", "auroc")
    assert code == 0 and "these are optimistic" in out and "folds." in out
    first = out.splitlines()[0]
    assert re.fullmatch(r"auroc of 184 ways to write the prompts; the class's own name alone: \d+\.\d %", first)
    file = str(folder / "busi.json")
    run(capsys, "words", "set", "busi", "--bank", file, "--class", "benign tumor", "--slot", "lay", "--words", "")
    given = ("words", "effect", "busi", "--data", data, "--bank", file, "--json")
    row = json.loads(run(capsys, *given)[1])["results"][0]
    assert row["images"] == 12 and row["difference"]["value"] == 0  # the lay name is not read unless it is asked for
    assert row["changed"] == 0 and row["words"].endswith(" after: the score did not change.")
    row = json.loads(run(capsys, *given, "--name", "lay")[1])["results"][0]
    assert row["before"]["value"] + row["difference"]["value"] == pytest.approx(row["after"]["value"])
    (folder / "test.csv").write_text(
        "path,label,patient,split\nben4.png,benign tumor,b4,test\nmal4.png,malignant tumor,m4,test\n"
    )
    code, _, err = run(capsys, "words", "propose", "busi", "--data", str(folder / "test.csv"))
    assert code == 2 and "All these images are of a test split" in err


def test_sets_are_made_of_another_bank_where_one_is_named(capsys, folder, mini, tmp_path):
    file = str(folder / "busi.json")
    run(capsys, "words", "set", "busi", "--bank", file, "--class", "benign tumor", "--slot", "colour", "--words", "purple")
    asked = ("evaluate", "--data", str(folder / "data.csv"), "--prompts", "busi-attribute-prompts", "--precision", "float32")
    rows = [json.loads(run(capsys, *asked, "--json", *more)[1])["results"][0] for more in ((), ("--descriptions", file))]
    of = tasks_with(file)["busi"]
    examples = engine.read_examples(folder / "data.csv", of)
    features = engine.features_of(examples, mini)
    for row, task in zip(rows, (engine.task("busi"), of), strict=True):
        expected = engine.evaluate(examples, mini, AttributePrompts().learn(mini, task), features)
        assert row["confusion"] == expected.confusion.tolist()
        assert row["metrics"]["auroc"]["value"] == pytest.approx(expected.metrics["auroc"].value)
    assert run(capsys, "prompts", "--tasks", "busi", "--descriptions", file, "--out", str(tmp_path / "sets"))[0] == 0
    saved = engine.PromptSet.load(tmp_path / "sets" / "busi-attribute-prompts-scope-mini")
    assert saved.card["descriptions"]["sha256"] == of.bank.sha256
    code, _, err = run(capsys, *asked[:3], "--prompts", "busi-coop-scope-mini", "--descriptions", file)
    assert code == 2 and "is not made on the spot" in err
    with pytest.raises(
        PromptSetError, match="Name TASK-METHOD of: busi; zero-shot, description-ensemble, attribute-prompts"
    ):
        engine.prompt_set("busi-coop", mini, [of])
    (folder / "empty").mkdir()
    code, _, err = run(capsys, *asked, "--descriptions", str(folder / "empty"))
    assert code == 2 and "The folder 'empty' holds no description bank" in err


@pytest.mark.parametrize(
    "given",
    [
        ("predict", "x.png", "--prompts", "retina-attribute-prompts"),
        ("evaluate", "--data", "DATA", "--prompts", "retina-attribute-prompts"),
        ("evaluate", "--data", "DATA", "--prompts", "retina"),
        ("prompts", "--tasks", "retina", "--out", "out"),
        ("tune", "--method", "attribute-prompts", "--task", "retina", "--out", "out"),
        ("export", "bank:retina", "--format", "medpromptclip", "--out", "x.json"),
        ("words", "show", "retina"),
        ("words", "propose", "retina", "--data", "DATA"),
        ("words", "effect", "retina", "--data", "DATA", "--bank", "BANK"),
    ],
    ids=lambda given: "-".join(given[:2]),
)
def test_descriptions_of_another_task_are_refused_and_not_passed_over(capsys, tmp_path, monkeypatch, given):
    """The shipped words would be measured in place of the user's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text(bank_text(engine.descriptions("busi")), encoding="utf-8")
    (tmp_path / "retina.json").write_text(bank_text(engine.descriptions("retina")), encoding="utf-8")
    asked = [{"DATA": str(tmp_path), "BANK": "retina.json"}.get(each, each) for each in given]
    code, out, err = run(capsys, *asked, "--descriptions", "mine.json")
    assert code == 2 and not out and err.count("\n") == 1
    assert "from these descriptions. Name TASK-METHOD of: busi;" in err or "no description bank of the task 'retina'" in err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine.json", "retina.json"]


def test_a_location_that_says_how_it_lies_gets_no_second_in():
    about = replace(POLYP, attributes={"location": ("within the bowel", "behind the colon", "the rectum")})
    task = replace(TASK, bank=bank(polyp=about, clear=CLEAR))
    read = [prompts_of(task, Config(faithful=True, rank=j))["polyp"] for j in (1, 2, 3)]
    assert read == [("polyp within the bowel",), ("polyp behind the colon",), ("polyp in the rectum",)]
    assert prompts_of(task, Config(template="{name}[ {where}]", ranks=1))["clear"] == ("clear",)
    for of in engine.tasks().values():
        prompts = [
            each for j in range(1, 6) for rows in prompts_of(of, Config(faithful=True, rank=j)).values() for each in rows
        ]
        assert not re.search(
            r"\bin (in|within|behind|between|around|along|beside|inside|below|across|over) ", " ".join(prompts)
        )


# --- the table ----------------------------------------------------------------------------------------------------------


def test_a_backbones_section_is_replaced_and_anothers_stays(tmp_path):
    from scripts.words_table import put

    document = tmp_path / "results.md"
    document.write_text("# Results\n\nText.\n", encoding="utf-8")
    put("one", "a", document)
    put("two", "b", document)
    put("three", "a", document)
    parts = (
        "<!-- words_table.py: a -->\n\nthree\n\n<!-- end of words_table.py: a -->",
        "<!-- words_table.py: b -->\n\ntwo\n\n",
    )
    assert document.read_text(encoding="utf-8") == (
        f"# Results\n\nText.\n\n{parts[0]}\n\n{parts[1]}<!-- end of words_table.py: b -->\n"
    )


def test_the_table_has_a_column_for_a_bank_only_where_it_is_of_the_task(tmp_path):
    from scripts.words_table import columns

    (tmp_path / "busi.json").write_text(bank_text(engine.descriptions("busi")), encoding="utf-8")
    banks = {"masked-lm": tasks_with(tmp_path)}
    assert "attributes by masked-lm" not in columns(engine.task("retina"), banks)
    of, method, options = columns(engine.task("busi"), banks)["attributes by masked-lm"]
    assert (of.bank, method, options) == (banks["masked-lm"]["busi"].bank, "attribute-prompts", {})
