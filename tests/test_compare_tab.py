"""The Compare tab: its handlers, its HTML and its endpoints. Run: python -m pytest tests/test_compare_tab.py"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import PIL.Image
import pytest
from conftest import free_port
from gradio_client import Client, handle_file

import engine
from app import audit, cases, columns, page, text
from app.compare import Compare, Found, Going, _earlier, _method
from app.host import Host, Screen
from app.read import Read
from app.settings import Settings
from engine.heads import LinearHead
from engine.methods.base import made_set
from engine.workspace.values import FAILED

CT = next(s.path for s in engine.samples() if s.title == "CT")
CLASSES = ["dark spot", "bright spot"]
TASK = "spots"


def picture(path: Path, bright: bool, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 120, (64, 64), dtype=np.uint8)
    row, column = rng.integers(8, 40, 2)
    pixels[row : row + 16, column : column + 16] = 240 if bright else 5
    PIL.Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A workspace with twelve labelled images, each of another patient, and two without a class."""
    place = tmp_path_factory.mktemp("compare")
    workspace = engine.Workspace(place / "workspace")
    task = workspace.add_task("Spots", CLASSES)
    assert task.id == TASK
    files = []
    for i in range(14):
        bright = bool(i % 2)
        name = f"{CLASSES[bright]}/{i}.png" if i < 12 else f"{i}.png"
        files.append((picture(place / f"{i}.png", bright, i), name))
    *_, last = engine.take_in(workspace, TASK, files)
    assert last.added is not None and last.added.labelled == 12
    workspace.close()
    return place / "workspace"


class StillQueue:
    """Carries nothing out: the tests do."""

    def __init__(self, *_: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return lambda *_: 1


@pytest.fixture(scope="module")
def host(folder) -> Iterator[Host]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "Queue", StillQueue)
        made = Host(Settings(workspace=folder, device="cpu"))
    yield made
    made.close()


@pytest.fixture
def tab(host) -> Compare:
    with gr.Blocks():
        made = Compare(host, Read(host))
        made.read.lay_out()
        made.lay_out()
        made.wire()
    return made


WORDS = ["words:zero-shot", "words:description-ensemble"]


def run(tab: Compare, chosen: list[str]) -> dict[str, Any]:
    """What stands on the page after Compare was pressed, where nothing has to be trained; by name."""
    names = {component: name for name, component in vars(tab.ui).items() if hasattr(component, "_id")}
    found = tab.begin(None, TASK, "scope-mini", chosen)
    for updates in tab.compare(None, found.get(tab.ui.going)):
        found |= updates
    return {names[component]: value for component, value in found.items()}


def learned(host: Host, cases_: dict[int, list[float]], design: str = "cross-validated") -> str:
    """A training that is done, whose set says dark spot to everything; its folds said this of these cases."""
    workspace, backbone = host.workspace(None), host.backbone("scope-mini")
    rows = np.zeros((2, backbone.dim), np.float32)
    rows[:, 0] = 1
    data = {"images": 12, "shots": 6, "seed": 1, "sampler": None}
    made = made_set(
        engine.METHODS["coop"](), backbone, workspace.task(TASK), LinearHead(rows, 1.0, np.float32([9, 0])), data=data
    )
    job = workspace.submit(TASK, "coop", "scope-mini")
    assert workspace.claim(job.id, "me")
    place = workspace.jobs_folder / job.id
    made.save(place / "prompts")
    kept = [{"case": case, "truth": 0, "tuned": p} for case, p in cases_.items()]
    seen = [{"case": c.id, "file": c.files[0], "units": []} for c in workspace.cases(TASK) if c.label]
    result = {"design": design, "labels": CLASSES, "cases": kept, "learned": seen, "arms": {"tuned": {"metrics": {}}}}
    (place / "result.json").write_text(json.dumps(result))
    assert workspace.finish(job.id, "me", "done")
    return job.id


# one image


def look(tab: Compare, which: str, chosen: list[str], label: str = "", held: Any = None) -> dict[Any, Any]:
    view = (1, "", 40, 400, False, "")
    return tab.look(None, which, chosen, "scope-mini", label, 0.5, Screen(held=held or []), 0, *view)


def test_cards_show_what_each_set_says_alone(tab, host):
    found = look(tab, "CT", ["busi-zero-shot", "busi-coop"])[tab.ui.cards]
    image = engine.read_image(CT)
    backbone = host.backbone("scope-mini")
    for name in ("busi-zero-shot", "busi-coop-scope-mini"):
        prompts = engine.prompt_set(name, backbone)
        top, p = engine.predict(image, backbone, prompts).ranked()[0]
        assert f'<p class="ps-says"><b>{prompts.display(top)}</b> {p:.0%}</p>' in found
    assert found.count('<article class="ps-card">') == 2 and "<h4>Zero-shot</h4>" in found and "<h4>CoOp</h4>" in found
    assert found.count('class="ps-map"') == 2 and found.index("ps-answer") < found.index("ps-cards")


def test_the_open_image_is_compared_and_without_one_a_sentence_says_what_to_do(tab):
    assert "No image is open. Open one in the tab Read first." in look(tab, "", ["modality"])[tab.ui.cards]
    held = [cases.sample("CT")]
    found = look(tab, "", ["modality"], held=held)
    assert "ps-card" in found[tab.ui.cards] and found[tab.ui.seen] == held[0].key
    again = tab.arrive(None, Screen(held=held), 0, "modality", held[0].key, [], [], "", [], [], "scope-mini")
    assert tab.ui.cards not in again
    other = tab.arrive(None, Screen(held=[cases.sample("MR")]), 0, "modality", held[0].key, [], [], "", [], [], "scope-mini")
    assert "ps-card" not in other[tab.ui.cards] and other[tab.ui.seen] == ""


def test_each_answer_on_an_image_is_accounted_for(tab, tmp_path, monkeypatch):
    monkeypatch.setattr(tab, "settings", Settings(audit=tmp_path / "audit"))
    look(tab, "CT", ["busi-zero-shot", "busi-coop"])
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert [line["prompt_set"] for line in lines] == ["busi-zero-shot-scope-mini", "busi-coop-scope-mini"]
    assert {line["pixels"] for line in lines} == {audit.digest(engine.read_image(CT))}


def test_too_many_sets_and_none_are_sentences(tab):
    assert "9 are too many to compare at once." in look(tab, "CT", ["modality"] * 9)[tab.ui.cards]
    assert "Nothing was chosen to compare." in look(tab, "CT", [])[tab.ui.cards]
    assert "There is no prompt set &#x27;../x&#x27;" in look(tab, "CT", ["../x"])[tab.ui.cards]


def test_maps_share_one_scale():
    """The second map is half as strong as the first: its strongest place is drawn half as far up the colours."""
    prompts = SimpleNamespace(labels=("a", "b"), display=str.upper, card={"task": {"title": "T"}}, title="T", name="n")
    box, values = engine.Box(0, 0, 8, 8), np.zeros((2, 2), np.float32)
    values[0, 0] = 4.0
    answers = [
        engine.Answer(
            engine.Prediction(("a", "b"), np.float32([0.7, 0.3]), "", "", "cpu"), engine.Heatmap(v, box, "a", "legrad")
        )
        for v in (values, values / 2, values / 10)
    ]
    image = engine.Image(np.full((8, 8), 0.5, np.float32))
    made = columns.side_by_side(image, ["X", "Y", "Z"], [prompts] * 3, answers, 0.5)
    layers = re.findall(r'class="ps-map"[^>]*src="data:image/png;base64,([^"]+)"', made)
    strongest = [np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(x))))[..., 3].max() for x in layers]
    assert strongest == [255, round(255 * 0.5**2), round(255 * 0.1**2)]  # opacity is the square of the place on the scale
    assert made.count(text.MAP_OF.format(name="A") + "<") == 2
    assert made.count(text.MAP_PALE.format(name="A") + "<") == 1


def test_sets_of_the_question_in_read_are_proposed_until_somebody_chooses(tab):
    first = tab.arrive(None, Screen(), 0, "busi-coop", "", [], [], "", [], [], "scope-mini")
    proposed = first[tab.ui.proposed]
    assert proposed[0] == "busi-coop" and len(proposed) == 4 and all(each.startswith("busi-") for each in proposed)
    moved = tab.arrive(None, Screen(), 0, "ctkidney-coop", "", proposed, proposed, "", [], [], "scope-mini")
    assert all(each.startswith("ctkidney-") for each in moved[tab.ui.proposed])
    own = tab.arrive(None, Screen(), 0, "ctkidney-coop", "", proposed, ["modality-zero-shot"], "", [], [], "scope-mini")
    assert own[tab.ui.sets]["value"] == ["modality-zero-shot"]
    offered = [value for _, value in own[tab.ui.sets]["choices"]]
    assert offered[0].startswith("modality") and offered[1].startswith("modality")


# labelled images


def test_a_set_that_was_kept_meanwhile_is_proposed_until_somebody_chooses(tab, host):
    def opened(rivals: list[str], offered: list[str]) -> tuple[list[str], list[str]]:
        found = tab.arrive(None, Screen(), 0, "modality", "", [], [], TASK, rivals, offered, "scope-mini")
        return found[tab.ui.rivals]["value"], found.get(tab.ui.offered, offered)

    first, offered = opened([], [])
    assert first == offered and "words:zero-shot" in first
    job = learned(host, {})
    name = f"set:{host.workspace(None).keep(job, 'proposed')}"
    proposed, newly = opened(first, offered)
    assert proposed == newly and name in proposed and name not in first
    chosen, kept = opened(["words:zero-shot"], offered)
    assert chosen == ["words:zero-shot"] and kept == offered, "somebody has chosen"
    host.workspace(None).remove_set(name.removeprefix("set:"))


def test_the_answer_is_that_of_the_library_and_comes_first(tab, host):
    found = run(tab, WORDS)
    workspace, backbone = host.workspace(None), host.backbone("scope-mini")
    task = workspace.task(TASK)
    rivals = [
        engine.candidate(text.METHOD_TITLES[m], engine.METHODS[m]().learn(backbone, task), True)
        for m in ("zero-shot", "description-ensemble")
    ]
    expected = engine.compare_cases(workspace.examples(TASK), backbone, rivals)
    for made, wanted in zip(found["found"].comparison.columns, expected.columns, strict=True):
        np.testing.assert_allclose(made.probabilities, wanted.probabilities, atol=1e-5)
        assert made.name == wanted.name
    words = engine.comparison_words(expected)
    assert found["result"].index(words[0]) < found["result"].index("ps-numbers")
    assert found["result"].count("data:image/jpeg") == 12 and found["far"] == "" and found["saves"]["visible"]


def test_a_training_counts_by_what_its_folds_said(tab, host):
    """Its set is right in the six dark ones; its folds were right in every case but the first."""
    known = [case for case in host.workspace(None).cases(TASK) if case.label]
    said = {c.id: [0.9, 0.1] if (c.label == CLASSES[0]) != (c.id == known[0].id) else [0.1, 0.9] for c in known}
    job = learned(host, said)
    found = run(tab, ["words:zero-shot", f"training:{job}"])["found"].comparison
    assert found.columns[1].name == "CoOp, trained here"
    assert found.columns[1].metrics["accuracy"].value == pytest.approx(11 / 12)
    name = host.workspace(None).keep(job, "mine")
    for value in (f"training:{job}", f"set:{name}"):  # the same once it is saved
        column = run(tab, ["words:zero-shot", value])["found"].comparison.columns[1]
        assert column.metrics["accuracy"].value == pytest.approx(11 / 12) and column.name == "CoOp, yours"
    both = run(tab, [f"set:{name}", f"training:{job}"])["found"].comparison
    assert [c.name for c in both.columns] == ["CoOp, yours (1)", "CoOp, yours (2)"]
    offered = dict(tab._entries(host.workspace(None), host.workspace(None).task(TASK), "scope-mini"))
    assert f"set:{name}" in offered.values() and f"training:{job}" not in offered.values()


def test_a_real_training_is_judged_as_its_own_result_says(tab, host, tmp_path):
    """Two roads: the study's metrics of its folds, and the comparison's of the same folds read back from its result."""
    workspace, backbone = host.workspace(None), host.backbone("scope-mini")
    labelled = [case for case in workspace.cases(TASK) if case.label]
    examples, ids = workspace.examples(TASK), [case.id for case in labelled]
    known = dict(zip(ids, examples, strict=True))
    task, plan = workspace.task(TASK), engine.Plan("linear-probe", views=1)
    prompts, result = engine.study(backbone, task, examples, plan, tmp_path, workspace.features, ids=ids)
    rivals = [
        engine.candidate("zero", engine.METHODS["zero-shot"]().learn(backbone, task), True),
        engine.candidate("probe", prompts, False, known, result),
    ]
    found = engine.compare_cases(examples, backbone, rivals, workspace.features)
    for column, arm in zip(found.columns, ("zero-shot", "tuned"), strict=True):
        for metric in ("accuracy", "balanced_accuracy", "auroc"):
            assert column.metrics[metric].value == pytest.approx(result["arms"][arm]["metrics"][metric][0], abs=1e-5)
    difference = found.columns[1].differences["accuracy"]
    assert [difference.value, difference.low, difference.high] == pytest.approx(
        result["differences"]["zero-shot"]["accuracy"], abs=1e-5
    )


def test_a_set_whose_training_left_no_record_is_marked(tab, host):
    workspace = host.workspace(None)
    job = learned(host, {})
    name = workspace.keep(job, "no record")
    (workspace.jobs_folder / job / "result.json").unlink()
    found = run(tab, [f"set:{name}"])
    assert "May have seen these cases" in found["result"]
    workspace.remove_set(name)


def test_what_is_to_be_trained_is_waited_for_and_a_failed_one_is_said(tab, host, monkeypatch):
    ui, workspace = tab.ui, host.workspace(None)
    submitted: list[str] = []
    monkeypatch.setattr(workspace, "submit", lambda *a, s=workspace.submit, **k: (submitted.append(a[1]), s(*a, **k))[1])
    begun = tab.begin(None, TASK, "scope-mini", ["words:zero-shot", "train:linear-probe", "train:coop"])
    assert submitted == ["linear-probe", "coop"] and ui.turn not in begun
    going = begun[ui.going]
    assert going.entries == ("words:zero-shot", *(f"training:{job}" for job in going.jobs))
    assert begun[ui.timer]["active"] and begun[ui.far].count("ps-job") >= 2
    assert ui.turn not in tab.follow(None, going)
    probe, coop = going.jobs
    for job in going.jobs:
        assert workspace.claim(job, "me")
    workspace.finish(probe, "me", FAILED, "It did not work out.")
    workspace.stop(coop)
    workspace.finish(coop, "me", "stopped")
    ended = tab.follow(None, going)
    assert not ended[ui.timer]["active"] and ended[ui.turn]
    left = ended[ui.going]
    assert left.entries == ("words:zero-shot",)
    assert left.missed == ("Linear probe was not trained: It did not work out.", "CoOp was not trained: it was stopped.")
    *_, last = tab.compare(None, left)
    assert "Linear probe was not trained: It did not work out." in last[ui.result]


def test_stop_ends_the_trainings_of_this_comparison_alone(tab, host):
    workspace = host.workspace(None)
    other = workspace.submit(TASK, "coop", "scope-mini")
    mine = workspace.submit(TASK, "coop", "scope-mini")
    found = tab.stop(None, Going(TASK, "scope-mini", (), (mine.id,)))
    assert workspace.job(mine.id).state == "stopped" and not found[tab.ui.timer]["active"]
    assert workspace.job(other.id).state == "queued"
    workspace.stop(other.id)


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ([], "0 are chosen to compare. Choose one to 8"),
        (["words:zero-shot"] * 9, "9 are chosen to compare."),
        (["train:magic"], "&#x27;magic&#x27; cannot be trained here."),
        (["set:../../etc"], "is nothing that can be compared here."),
        (["library:../x"], "is nothing that can be compared here."),
        (["training:nobody"], "There is no training"),
        (["library:busi-coop-scope-mini", "words:zero-shot"], "Compare sets that answer one question."),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(tab, chosen, sentence):
    found = run(tab, chosen)
    assert sentence in found["far"] and "ps-error" in found["far"]


def test_a_question_without_labels_is_a_sentence(tab, host):
    empty = host.workspace(None).add_task("Nothing yet", ["a", "b"])
    found = tab.begin(None, empty.id, "scope-mini", WORDS)
    assert "No image of this question is labelled." in found[tab.ui.far]
    assert "No question is chosen." in tab.begin(None, "", "scope-mini", WORDS)[tab.ui.far]


class Words(HTMLParser):
    def __init__(self, made: str):
        super().__init__()
        self.tags: list[str] = []
        self.feed(made)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)


def test_hostile_names_are_text_on_the_page(tab):
    comparison = run(tab, WORDS)["found"].comparison
    hostile = '<script>alert("x")</script>'
    bad = replace(
        comparison,
        columns=tuple(replace(c, name=hostile + str(i)) for i, c in enumerate(comparison.columns)),
        display=(hostile, hostile),
        behind=dict.fromkeys([hostile], *comparison.behind.values()),
    )
    made = columns.compared(bad, [None] * len(bad.cases), lambda case: Path(), [hostile])
    assert "script" not in Words(made).tags and "&lt;script&gt;" in made


# taking along


def unpacked(parcel: str) -> tuple[str, bytes]:
    made = json.loads(parcel)
    return made["name"], base64.b64decode(made["data"])


def test_the_files_hold_the_numbers_and_images_only_when_asked(tab, host):
    found: Found = run(tab, WORDS)["found"]
    name, table = unpacked(tab.as_csv(found))
    assert name == "comparison-spots.csv"
    rows = list(csv.DictReader(io.StringIO(table.decode())))
    assert float(rows[0]["accuracy"]) == found.comparison.columns[0].metrics["accuracy"].value
    name, plots = unpacked(tab.as_png(found))
    assert name == "comparison-spots.png" and PIL.Image.open(io.BytesIO(plots)).format == "PNG"
    name, report = unpacked(tab.as_html(None, found, False))
    assert name == "comparison-spots.html" and b"data:image/jpeg" not in report
    _, report = unpacked(tab.as_html(None, found, True))
    assert report.count(b"data:image/jpeg") == 12
    assert tab.as_csv(None) == tab.as_png(None) == tab.as_html(None, None, True) == ""


# programs


@pytest.fixture(scope="module")
def client(folder, tmp_path_factory, host) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        settings = Settings(port=free_port(), device="cpu", workspace=folder)
        _, address, _ = page.launch(settings, prevent_thread_lock=True, quiet=True)
        yield Client(address, verbose=False)


def test_programs_compare_on_an_image(client, host):
    names = ["busi-zero-shot", "busi-coop"]
    answer = client.predict(handle_file(str(CT)), names, "scope-mini", api_name="/compare_image")
    backbone = host.backbone("scope-mini")
    assert "not a medical device" in answer["notice"].lower()
    for row, name in zip(answer["results"], ("busi-zero-shot", "busi-coop-scope-mini"), strict=True):
        expected = engine.predict(engine.read_image(CT), backbone, engine.prompt_set(name, backbone))
        np.testing.assert_allclose(row["probabilities"], expected.probabilities, atol=1e-5)
        assert row["top"] == expected.ranked()[0][0]
    assert len(answer["agreement"]) == 1


def test_programs_compare_on_labelled_images_and_take_a_report(client):
    offered = client.predict(TASK, "", api_name="/comparable")
    assert {"words:zero-shot", "train:biomedcoop"} <= {value for _, value in offered}
    answer = client.predict(TASK, WORDS, "", api_name="/compare_cases")
    assert answer["images"] == 12 and [each["name"] for each in answer["sets"]] == ["Zero-shot", "Description ensemble"]
    table = client.predict(TASK, WORDS, "", "csv", False, api_name="/comparison_report")
    (first, second) = csv.DictReader(io.StringIO(table))
    assert float(first["accuracy"]) == answer["sets"][0]["metrics"]["accuracy"][0]
    assert float(second["accuracy_difference"]) == answer["sets"][1]["differences"]["accuracy"][0]
    report = client.predict(TASK, WORDS, "", "html", False, api_name="/comparison_report")
    assert answer["words"][0] in report and "data:image/jpeg" not in report


def test_programs_are_told_what_is_wrong(client):
    with pytest.raises(Exception, match=r"'train:coop' has to be trained first\. The endpoint train does"):
        client.predict(TASK, ["train:coop"], "", api_name="/compare_cases")
    with pytest.raises(Exception, match=r"A report can be html or csv, not 'pdf'"):
        client.predict(TASK, WORDS, "", "pdf", False, api_name="/comparison_report")
    with pytest.raises(Exception, match=r"There is no task 'nowhere'"):
        client.predict("nowhere", WORDS, "", api_name="/compare_cases")


def test_a_set_of_words_says_which_words_it_was_made_of(host):
    """Bug: after an edit, the set of the old words and that of the new ones had the same name."""
    backbone, task, made = host.backbone("scope-mini"), engine.task("busi"), engine.METHODS["attribute-prompts"]
    plain = made().learn(backbone, task)
    assert (_method(plain), _earlier(plain, task)) == ("Attribute prompts", "")
    edited, _ = engine.edit_words(task, "benign tumor", "colour", ["pale"])
    assert _earlier(plain, edited) == ", with earlier words" and _earlier(made().learn(backbone, edited), edited) == ""
    told = made(made.Config(name="lay", slots="colour, shape")).learn(backbone, task)
    assert _method(told) == "Attribute prompts (its everyday name; colour, shape)"
    assert _method(made(made.Config(slots="")).learn(backbone, task)) == "Attribute prompts (the name alone)"
    zero = engine.METHODS["zero-shot"]().learn(backbone, task)
    assert (_method(zero), _earlier(zero, edited)) == ("Zero-shot", "")
