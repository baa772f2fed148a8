"""Tasks, labels, trainings and prompt sets of a workspace: the same on SQLite and on a real PostgreSQL server.

python -m pytest tests/test_workspace.py
"""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, select, text
from sqlalchemy.exc import OperationalError

import engine
from engine.tasks import with_bank
from engine.workspace import migrations
from engine.workspace.database import connect
from engine.workspace.tables import AuditRow, CaseRow, LabelRow, Table

KINDS = ("sqlite", "postgresql")


@pytest.fixture(params=KINDS)
def url(request) -> str:
    """Of an empty database; "" for SQLite in the folder."""
    return request.getfixturevalue("postgres").database() if request.param == "postgresql" else ""


@pytest.fixture
def workspace(url, tmp_path):
    made = engine.Workspace(tmp_path / "workspace", url)
    yield made
    made.close()


def picture(seed: int, side: int = 32) -> bytes:
    """A PNG of noise: no two look alike."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def bring(workspace: engine.Workspace, task: str, files: dict[str, bytes]) -> engine.Added:
    """Takes in files by name, from a folder that is deleted afterwards."""
    folder = engine.PrivateFolder()
    here = []
    for i, (name, content) in enumerate(files.items()):
        (folder.path / str(i)).write_bytes(content)
        here.append((folder.path / str(i), name))
    *_, last = engine.take_in(workspace, task, here)
    folder.delete()
    assert last.added is not None and last.done == last.total
    return last.added


def one_task(workspace: engine.Workspace, cases: int = 0) -> str:
    name = workspace.add_task("Which way?", ["left", "right"]).id
    bring(workspace, name, {f"{i}.png": picture(i) for i in range(cases)})
    return name


# --- tasks ----------------------------------------------------------------------------------------------------------------


def test_a_task_is_named_by_its_title_and_never_like_another_or_a_known_one(workspace):
    assert workspace.add_task("Kidney: stone?", ["stone", "none"]).id == "kidney_stone"
    assert workspace.add_task("Kidney stone", ["stone", "none"]).id == "kidney_stone_2"
    assert workspace.add_task("BUSI", ["a", "b"]).id == "busi_2"
    assert set(workspace.tasks()) == {"busi_2", "kidney_stone_2", "kidney_stone"}


@pytest.mark.parametrize(
    ("title", "labels", "sentence"),
    [
        (" ", ["a", "b"], "has no title"),
        ("t", ["a"], "a cannot be told apart. Name two or more"),
        ("t", ["a", " "], "cannot be told apart"),
        ("t", ["big cyst", "Big_Cyst"], "big cyst, Big_Cyst cannot be told apart"),
        ("t", ["a", "b" * 81], "Use up to 80 characters"),
        ("t", ["a", "b\nc"], "Use up to 80 characters"),
    ],
)
def test_a_task_that_does_not_hold_together_is_refused_and_nothing_is_left(workspace, title, labels, sentence):
    with pytest.raises(engine.DataError, match=sentence):
        workspace.add_task(title, labels)
    assert workspace.tasks() == {}


def test_a_template_is_made_of_what_is_known(workspace):
    assert workspace.add_task("t", ["a", "b"]).template == "a photo of {}."
    assert workspace.add_task("t", ["a", "b"], "CT", "kidney").template == "a photo of {}, CT of the kidney."
    assert workspace.add_task("t", ["a", "b"], organ="hip").template == "a photo of {}, medical image of the hip."
    with pytest.raises(engine.DataError, match="no one place for the class"):
        workspace.add_task("t", ["a", "b"], template="a picture")


def test_a_known_task_that_is_taken_in_keeps_its_words_and_a_class_that_is_added_gets_plain_ones(workspace):
    shipped = engine.descriptions("busi").classes
    task = workspace.adopt("busi")
    assert (task.id, task.names, task.bank) == ("busi", engine.task("busi").names, None)
    task = workspace.add_label("busi", "Abscess")
    classes = engine.descriptions(task).classes
    assert [each.sentences for each in classes.values()][:3] == [each.sentences for each in shipped.values()]
    assert classes["Abscess"].sentences[:3] == (
        "Ultrasound image of the breast showing abscess.",
        "Abscess seen on ultrasound image of the breast.",
        "The appearance is that of abscess.",
    )
    assert len(set(classes["Abscess"].sentences)) == 12
    assert workspace.adopt("busi").names == task.names  # as it is
    with pytest.raises(engine.DataError, match="no known task 'bus'"):
        workspace.adopt("bus")


def test_words_of_the_users_own_come_first_and_a_new_name_leaves_labels_as_they_are(workspace):
    name = one_task(workspace, 1)
    workspace.label(name, [workspace.cases(name)[0].id], "left")
    task = workspace.edit_task(name, "Side", {"left": "Left kidney"}, {"left": ["Liver is near.", " ", "Liver is near."]})
    assert (task.title, [label.display for label in task.labels]) == ("Side", ["Left kidney", "right"])
    words = engine.descriptions(task).classes["left"].sentences
    assert words[:2] == ("Liver is near.", "Medical image showing left kidney.") and len(words) == 12
    assert engine.descriptions(task).classes["right"].sentences[0] == "Medical image showing right."
    assert workspace.cases(name)[0].label == "left"
    many = [f"Sentence {i}." for i in range(12)]
    assert engine.descriptions(workspace.edit_task(name, sentences={"left": many})).classes["left"].sentences == tuple(many)
    with pytest.raises(engine.DataError, match="'up' is no class of this task"):
        workspace.edit_task(name, display={"up": "Up"})
    with pytest.raises(engine.DataError, match="cannot be told apart"):
        workspace.edit_task(name, display={"right": "left"})
    with pytest.raises(engine.DataError, match="cannot be told apart"):
        workspace.add_label(name, "LEFT kidney")
    assert workspace.task(name).names == ("left", "right")


def test_a_plain_bank_fits_the_text_tower():
    label = engine.Label("a", "invasive ductal carcinoma with lymphovascular invasion of the upper outer quadrant")
    task = engine.Task("t", "t", "contrast enhanced mammography", "left breast", (label, engine.Label("b", "B")), "{}")
    words = engine.descriptions(with_bank(task, {})).classes["a"].sentences
    assert words[0] == f"Contrast enhanced mammography image of the left breast showing {label.display}."
    assert engine.load_backbone("scope-mini").tokenize(list(words)).shape[0] == 12  # refuses a text that is too long


def test_words_of_a_class_are_kept_beside_what_was_written(workspace):
    task = workspace.adopt("busi")
    written = engine.descriptions("busi").classes
    changed = workspace.edit_task("busi", words={"benign tumor": {"colour": ["dark", "grey"], "lay": []}})
    assert changed == workspace.task("busi") and task != changed
    mine = engine.descriptions(changed).classes
    assert mine["benign tumor"].attributes == written["benign tumor"].attributes | {"colour": ("dark", "grey")}
    assert mine["benign tumor"].synonyms == written["benign tumor"].synonyms | {"lay": ()}
    assert mine["benign tumor"].sentences == written["benign tumor"].sentences
    assert mine["malignant tumor"] == written["malignant tumor"]
    workspace.edit_task("busi", words={"benign tumor": {"shape": ["oval"]}})
    kept = engine.descriptions(workspace.task("busi")).classes["benign tumor"].attributes
    assert kept["colour"] == ("dark", "grey") and kept["shape"] == ("oval",)
    with pytest.raises(engine.DataError, match="'cyst' is no class of this task"):
        workspace.edit_task("busi", words={"cyst": {"shape": ["oval"]}})


def test_a_text_is_not_taken_for_a_list_of_letters(workspace):
    """Bug: `change_task` saved "dark" as four sentences and as four classes."""
    task = workspace.adopt("busi")
    wrong = [
        ({"sentences": {"benign tumor": "dark"}}, "The sentences of 'benign tumor' cannot be 'dark'"),
        ({"sentences": {"benign tumor": [1]}}, r"The sentences of 'benign tumor' cannot be \[1\]"),
        ({"new_labels": "dark"}, "New classes cannot be 'dark'"),
        ({"display": {"benign tumor": 7}}, r"Names of classes cannot be \[7\]"),
    ]
    for given, sentence in wrong:
        with pytest.raises(engine.DataError, match=f"^{sentence}. Give a list of texts"):
            workspace.edit_task("busi", **given)
    assert workspace.task("busi") == task


def test_a_task_that_is_removed_comes_back_with_its_cases_and_its_trainings_are_stopped(workspace):
    name = one_task(workspace, 2)
    waits, runs = (workspace.submit(name, "coop", "scope-mini").id for _ in range(2))
    assert workspace.claim(runs, "me")
    workspace.remove_task(name)
    assert workspace.tasks() == {}
    assert (workspace.job(waits).state, workspace.advance(runs, "me")) == ("stopped", "stopping")
    for refused in (
        lambda: workspace.task(name),
        lambda: workspace.remove_task(name),
        lambda: workspace.submit(name, "coop", "scope-mini"),
        lambda: workspace.resume(waits),
        lambda: workspace.label(name, [1], "left"),
        lambda: bring(workspace, name, {"a.png": picture(9)}),
    ):
        with pytest.raises(engine.DataError, match="There is no task 'which_way'"):
            refused()
    assert workspace.restore_task(name).names == ("left", "right")
    assert len(workspace.cases(name)) == 2
    with pytest.raises(engine.DataError, match="no task"):
        workspace.restore_task(name)


# --- labels ---------------------------------------------------------------------------------------------------------------


def test_labels_are_undone_act_by_act_and_their_history_is_kept(workspace):
    name = one_task(workspace)
    bring(workspace, name, {"left/1.png": picture(1), "2.png": picture(2), "3.png": picture(3)})
    ids = [case.id for case in workspace.cases(name)]

    def labels() -> list[str]:
        return [case.label for case in workspace.cases(name)]

    assert labels() == ["left", "", ""]
    workspace.label(name, ids, "right")
    workspace.label(name, ids[:1], "")
    assert labels() == ["", "right", "right"]
    assert len(workspace.undo(name)) == 1
    assert labels() == ["right", "right", "right"]
    workspace.label(name, [ids[2], ids[2]], "left")
    assert labels() == ["right", "right", "left"]
    assert [len(workspace.undo(name)) for _ in range(3)] == [1, 3, 0]  # the label that came with the image is no act
    assert labels() == ["left", "", ""]
    with workspace.reading() as session:
        assert session.scalar(select(func.count()).select_from(LabelRow)) == 1 + 3 + 1 + 1


def test_a_label_or_a_case_of_another_task_is_refused_and_nothing_is_labelled(workspace):
    name, other = one_task(workspace, 2), workspace.add_task("Other", ["left", "b"]).id
    ids = [case.id for case in workspace.cases(name)]
    with pytest.raises(engine.DataError, match=r"'b' is no class of this task\. Its classes are: left, right"):
        workspace.label(name, ids, "b")
    with pytest.raises(engine.DataError, match="2 of 2 chosen cases are not in this task"):
        workspace.label(other, ids, "left")
    with pytest.raises(engine.DataError, match="1 of 3 chosen cases"):
        workspace.label(name, [*ids, 10_000], "left")
    assert [case.label for case in workspace.cases(name)] == ["", ""]


def test_the_balance_counts_images_and_known_patients(workspace):
    name = one_task(workspace)
    table = "path,label,patient\n0.png,left,A\n1.png,left,A\n2.png,left,\n3.png,right,B\n4.png,,A\n"
    bring(workspace, name, {f"{i}.png": picture(i) for i in range(5)} | {"t.csv": table.encode()})
    assert workspace.balance(name) == {"left": (3, 1), "right": (1, 1), "": (1, 1)}
    assert [case.patient for case in workspace.cases(name)] == ["P1", "P1", "", "P2", "P1"]
    assert workspace.case(name, 4).label == "right"
    with pytest.raises(engine.DataError, match="no case 6"):
        workspace.case(name, 6)


# --- trainings ------------------------------------------------------------------------------------------------------------


def test_a_training_is_claimed_by_one_and_what_another_writes_does_not_count(workspace):
    name = workspace.submit(one_task(workspace), "coop", "scope-mini", "quick", shots=4).id
    assert workspace.job(name).asked == {
        "method": "coop", "backbone": "scope-mini", "budget": "quick", "options": {"shots": 4},
    }  # fmt: skip
    assert workspace.advance(name, "a") == ""
    assert (workspace.claim(name, "a"), workspace.claim(name, "b")) == (True, False)
    assert workspace.advance(name, "a", {"stage": "learning"}, [[1, 0.5, None]]) == "running"
    assert workspace.advance(name, "b", {"stage": "wrong"}) == ""
    assert workspace.advance(name, "a", curve=[[1, 0.5, None], [2, 0.25, 0.75]]) == "running"
    job = workspace.job(name)
    assert (job.progress, job.curve) == ({"stage": "learning"}, [[1, 0.5, None], [2, 0.25, 0.75]])
    assert not workspace.finish(name, "b", "failed", "no")
    assert workspace.finish(name, "a", "done") and not workspace.finish(name, "a", "failed")
    assert (workspace.job(name).state, workspace.job(name).error, workspace.jobs(active=True)) == ("done", "", [])


def test_stop_and_resume_take_a_training_through_its_states(workspace):
    name = workspace.submit(one_task(workspace), "coop", "scope-mini").id
    workspace.stop(name)
    assert workspace.job(name).state == "stopped" and workspace.job(name).ended > 0
    workspace.stop(name)
    workspace.resume(name)
    workspace.resume(name)  # twice is once
    assert workspace.job(name).state == "queued" and workspace.job(name).ended == 0
    assert workspace.claim(name, "a")
    workspace.stop(name)
    assert workspace.advance(name, "a") == "stopping"
    workspace.resume(name)  # too early: it has not stopped yet
    assert workspace.job(name).state == "stopping"
    assert workspace.finish(name, "a", "queued") and workspace.job(name).state == "stopped"  # given back, and not to go on
    workspace.resume(name)
    assert workspace.claim(name, "a") and workspace.finish(name, "a", "queued") and workspace.job(name).state == "queued"
    assert workspace.claim(name, "b") and workspace.finish(name, "b", "failed", "It broke.")
    assert workspace.job(name).error == "It broke."
    workspace.resume(name)
    assert (workspace.job(name).state, workspace.job(name).error) == ("queued", "")
    assert workspace.claim(name, "c") and workspace.finish(name, "c", "done")
    workspace.stop(name)
    assert workspace.job(name).state == "done"
    with pytest.raises(engine.DataError, match="This training is finished"):
        workspace.resume(name)
    with pytest.raises(engine.DataError, match="There is no training 'x'"):
        workspace.stop("x")


def test_trainings_of_a_process_that_is_no_more_wait_again_or_are_stopped(workspace):
    task = one_task(workspace)
    jobs = [workspace.submit(task, "coop", "scope-mini").id for _ in range(4)]
    for job, owner in zip(jobs, ("dead", "dead", "alive", "dead"), strict=True):
        assert workspace.claim(job, owner)
    workspace.stop(jobs[1])
    assert workspace.finish(jobs[3], "dead", "done")
    assert set(workspace.beats()) == {"dead", "alive"}
    assert workspace.requeue(lambda owner: owner == "alive") == 2
    assert [workspace.job(job).state for job in jobs] == ["queued", "stopped", "running", "done"]
    assert workspace.advance(jobs[0], "dead") == ""
    assert workspace.requeue(lambda owner: owner == "alive") == 0


# --- at once --------------------------------------------------------------------------------------------------------------


def test_many_at_once_lose_nothing(workspace):
    task = one_task(workspace, 4)
    ids = [case.id for case in workspace.cases(task)]
    job = workspace.submit(task, "coop", "scope-mini").id

    def work(who: int) -> tuple[tuple[int, ...], list[str], bool]:
        for i in range(10):
            workspace.label(task, [ids[who]], ("left", "right")[i % 2])
            workspace.submit(task, "coop", "scope-mini", seed=i)
        return workspace.undo(task), [workspace.add_task("Same", ["a", "b"]).id], workspace.claim(job, str(who))

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(work, range(4)))
    assert sorted(name for _, names, _ in found for name in names) == ["same", "same_2", "same_3", "same_4"]
    assert sum(won for *_, won in found) == 1
    assert sum(len(undone) for undone, *_ in found) == 4  # each took one act back, and no act was taken back twice
    assert len(workspace.jobs(task)) == 41
    with workspace.reading() as session:
        assert session.scalar(select(func.count()).select_from(LabelRow)) == 40
        assert session.scalar(select(func.count()).select_from(LabelRow).where(LabelRow.undone)) == 4


def test_the_same_images_brought_at_once_are_there_once_each_with_a_number_of_its_own(workspace):
    task = one_task(workspace)
    files = {f"{i}.png": picture(i) for i in range(6)}
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: bring(workspace, task, files), range(3)))
    assert sum(len(each.cases) for each in found) == 6 and sum(each.again for each in found) == 12
    assert [case.number for case in workspace.cases(task)] == [1, 2, 3, 4, 5, 6]
    assert engine.check(workspace) == []


def test_two_processes_may_open_a_new_folder_at_once(url, tmp_path):
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda _: engine.Workspace(tmp_path / "w", url), range(6)))
    assert len({each.key for each in found}) == 1
    found[0].add_task("t", ["a", "b"])
    assert [len(each.tasks()) for each in found] == [1] * 6
    for each in found:
        each.close()


def test_whoever_reads_does_not_wait_for_whoever_writes(workspace):
    task = one_task(workspace, 1)
    with workspace.writing() as session:
        session.add(AuditRow(at=0.0, what="slow", detail={}))
        session.flush()
        assert len(workspace.cases(task)) == 1  # from another connection, while this transaction is open
        assert workspace.holdings()["cases"] == 1


# --- prompt sets ----------------------------------------------------------------------------------------------------------

LEARNED = "busi-description-ensemble-scope-mini"


def finished(workspace: engine.Workspace, task: str) -> str:
    """A training that is done, with a set and a result as engine.study leaves them."""
    job = workspace.submit(task, "biomedcoop", "scope-mini").id
    folder = workspace.jobs_folder / job
    shutil.copytree(engine.LIBRARY / LEARNED, folder / "prompts")
    cases = [{"case": i, "truth": 0, "tuned": [1.0, 0.0, 0.0]} for i in (1, 2, 3, 4)]
    learned = [{"case": i, "file": f"{i:064x}", "units": ["P1"]} for i in (1, 2, 3, 4)]
    result = {"schema": 1, "cases": cases, "learned": learned}
    (folder / "result.json").write_text(json.dumps(result))
    assert workspace.claim(job, "me") and workspace.finish(job, "me", "done")
    return job


def test_a_set_is_kept_once_under_a_name_of_its_own(workspace):
    task = workspace.adopt("busi").id
    job = finished(workspace, task)
    second = "busi-description-ensemble-2-scope-mini"  # the shipped one of that name would be hidden
    assert workspace.keep(job) == workspace.keep(job, "other") == second
    kept = engine.PromptSet.load(workspace.prompts / second)
    shipped, seen = engine.PromptSet.load(LEARNED), np.eye(3, 256, dtype=np.float32)
    assert kept.card == shipped.card | {"name": second} and (kept.scores(seen) == shipped.scores(seen)).all()
    named = workspace.keep(finished(workspace, task), "Büsi, 2nd try!")
    assert named == "busi-2nd-try-scope-mini" and workspace.origin(named).task == "busi"
    third = "busi-description-ensemble-3-scope-mini"
    assert workspace.keep(finished(workspace, task)) == third
    assert workspace.sets() == [named, second, third]
    assert workspace.origin("elsewhere") is None
    with pytest.raises(engine.DataError, match="cannot be a name"):
        workspace.keep(finished(workspace, task), "???")
    waits = workspace.submit(task, "coop", "scope-mini").id
    for asked in (workspace.result, workspace.keep):
        with pytest.raises(engine.DataError, match=r"This training (has no result|left no prompt set)"):
            asked(waits)


def test_a_set_that_is_removed_comes_back_and_nobody_reaches_beyond_his_own(workspace):
    task = workspace.adopt("busi").id
    name = workspace.keep(finished(workspace, task))
    workspace.remove_set(name)
    assert workspace.sets() == []
    assert name == "busi-description-ensemble-2-scope-mini"
    # the name waits for its undo
    assert workspace.keep(finished(workspace, task)) == "busi-description-ensemble-3-scope-mini"
    workspace.restore_set(name)
    assert name in workspace.sets() and workspace.origin(name).state == "done"
    for wrong in ("../prompts", "..", "", "busi-zero-shot-scope-mini"):
        with pytest.raises(engine.PromptSetError, match="no prompt set"):
            workspace.remove_set(wrong)
        with pytest.raises(engine.PromptSetError, match="cannot be brought back"):
            workspace.restore_set(wrong)


def test_a_set_is_removed_and_brought_back_in_the_writers_turn(workspace):
    """Bug: it was looked for before, and moved beside the lock: of two who removed it one fell over a missing folder."""
    name = workspace.keep(finished(workspace, workspace.adopt("busi").id))
    here, there = workspace.prompts / name, workspace.folder / "removed" / name
    for act, place, gone in ((workspace.remove_set, here, there), (workspace.restore_set, there, here)):
        with ThreadPoolExecutor(1) as threads:
            with workspace.writing():
                late = threads.submit(act, name)
                assert not wait([late], timeout=0.3).done
                assert place.is_dir() and not gone.exists()
                place.rename(workspace.folder / ".elsewhere")  # somebody was faster
            with pytest.raises(engine.PromptSetError, match="Look at the list again"):
                late.result(timeout=60)
        (workspace.folder / ".elsewhere").rename(place)
        act(name)
        assert gone.is_dir() and not place.exists()


# --- the tables -----------------------------------------------------------------------------------------------------------


def test_the_migrations_make_the_tables_that_the_code_expects(workspace):
    with workspace._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


NEXT = '''
"""A version to come."""
import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade():
    with op.batch_alter_table("case") as batch:
        batch.add_column(sa.Column("note", sa.String(20), nullable=False, server_default="none"))
'''


@pytest.fixture
def newer(tmp_path, monkeypatch):
    """A PromptScope with one more migration, while the fixture's function was called."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrations.FOLDER, folder)
    (folder / "versions" / "0002_note.py").write_text(NEXT)

    def switch() -> None:
        monkeypatch.setattr(migrations, "FOLDER", folder)
        monkeypatch.setattr(migrations, "HEAD", "0002")

    yield switch


def notes(workspace: engine.Workspace) -> list[str]:
    with workspace.reading() as session:
        return list(session.scalars(text('SELECT note FROM "case" ORDER BY id')))


def test_a_database_of_an_older_version_is_brought_up_to_date_with_everything_in_it(url, tmp_path, newer):
    old = engine.Workspace(tmp_path / "w", url)
    task = one_task(old, 3)
    old.label(task, [old.cases(task)[1].id], "left")
    backup = engine.back_up(old, tmp_path / "old.zip")
    old.close()
    newer()
    opened = engine.Workspace(tmp_path / "w", url)
    assert [case.label for case in opened.cases(task)] == ["", "left", ""] and notes(opened) == ["none"] * 3
    assert engine.check(opened) == []
    opened.close()
    restored = engine.restore(backup, tmp_path / "r")
    assert [case.label for case in restored.cases(task)] == ["", "left", ""] and notes(restored) == ["none"] * 3
    restored.close()


def test_a_database_of_version_0001_opens(tmp_path):
    """Rows as that version wrote them, by hand."""
    (tmp_path / "w").mkdir()
    made = connect(f"sqlite:///{tmp_path / 'w' / 'workspace.sqlite3'}")
    with made.begin() as connection:
        migrations.advance(connection, "0001")
        for line in (
            """INSERT INTO task VALUES ('t', '{"title": "T", "modality": "CT", "organ": "any", "template": "a {}.", "labels":
            [{"name": "a", "display": "A", "aliases": ["x"]}, {"name": "b", "display": "B", "aliases": []}], "sentences": {},
            "shortcuts": []}', 1.5, 7, 0.0)""",
            "INSERT INTO patient VALUES (4, '0123456789abcdef')",
            f"""INSERT INTO "case" VALUES (9, 't', 7, '["{"a" * 64}", "{"b" * 64}"]', '{"c" * 64}', '{"d" * 64}', 4, '', 'val',
            '{{"frames": 2}}', 2.5)""",
            "INSERT INTO label VALUES (1, 9, 'a', '', 3.5, 0), (2, 9, 'b', 'ff', 4.5, 1)",
            """INSERT INTO job VALUES ('j', 't', 'done', '{"method": "coop"}', '{}', '[[1, 0.5, null]]', '', '', 1, 2, 3, '', 0)""",
        ):
            connection.execute(text(line.replace(":", r"\:")))
    made.dispose()
    opened = engine.Workspace(tmp_path / "w")
    (case,) = opened.cases("t")
    assert (case.id, case.number, case.patient, case.label, case.split) == (9, 7, "P4", "a", "val")
    assert (Path(case.path).name, case.about) == ("b" * 64, {"frames": 2})
    assert opened.task("t").label_of("X") == "a" and opened.job("j").curve == [[1, 0.5, None]]
    opened.close()


def test_tables_of_a_newer_version_are_left_alone_and_it_is_said(url, tmp_path, newer):
    with pytest.MonkeyPatch.context() as patch:
        newer()
        engine.Workspace(tmp_path / "w", url).close()
        patch.setattr(migrations, "HEAD", "0001")
        patch.setattr(migrations, "FOLDER", Path(migrations.__file__).parent)
        with pytest.raises(
            engine.DataError, match=r"made by a newer PromptScope \(its tables have the version '0002', here 0001\)"
        ):
            engine.Workspace(tmp_path / "w", url)


def test_a_folder_of_other_things_does_not_become_a_workspace(url, tmp_path):
    """Bug: somebody's home folder did, and what it held was deleted as what nothing refers to."""
    (tmp_path / "photographs").mkdir()
    with pytest.raises(engine.DataError, match=r"holds other things and is no workspace\. Name another, or an empty one"):
        engine.Workspace(tmp_path, url)
    assert [path.name for path in tmp_path.iterdir()] == ["photographs"]
    (tmp_path / "photographs").rmdir()
    for name in (".snapshots", "lost+found"):  # a new volume's
        (tmp_path / name).mkdir()
    (tmp_path / "features.sqlite3").touch()  # PROMPTSCOPE_CACHE names the same folder
    engine.Workspace(tmp_path, url).close()
    (tmp_path / "notes.txt").touch()
    engine.Workspace(tmp_path, url).close()  # by its key


def test_what_hinders_the_database_is_said_and_a_fault_of_ours_is_not_blamed_on_it(tmp_path):
    """Bug: "Is it running, and the disk not full?" was asked for every question that SQLite could not answer."""
    workspace = engine.Workspace(tmp_path)
    with pytest.raises(OperationalError, match="no such table"), workspace.reading() as session:
        session.execute(text("SELECT * FROM nowhere"))
    with workspace.writing(), pytest.raises(engine.DataError) as caught, workspace.reading() as session:
        session.execute(text("PRAGMA busy_timeout=10"))
        session.execute(text("UPDATE task SET removed = 0"))
    assert str(caught.value).endswith("(database is locked). Something else is writing: try again.")
    workspace.close()
    (tmp_path / "workspace.sqlite3").unlink()
    (tmp_path / "workspace.sqlite3").mkdir()
    with pytest.raises(engine.DataError, match=r"\(unable to open database file\)\. Is it running, and the disk not full"):
        workspace.tasks()


def test_a_file_that_is_no_database_is_said(tmp_path):
    (tmp_path / "workspace.sqlite3").write_bytes(b"not SQLite" * 500)
    with pytest.raises(engine.DataError, match=r"database is damaged\. Restore a backup"):
        engine.Workspace(tmp_path)


@pytest.mark.parametrize("url", ["mysql://me:secret@host/db", "postgresql://me:secret@localhost:1/db", "secret"])
def test_a_url_that_leads_nowhere_is_said_without_its_password(tmp_path, url):
    with pytest.raises(engine.DataError) as caught:
        engine.Workspace(tmp_path, url)
    assert "secret" not in str(caught.value) and "database" in str(caught.value)


def test_a_disk_that_takes_no_more_is_said_and_nothing_is_half_done(tmp_path):
    workspace = engine.Workspace(tmp_path)
    task = one_task(workspace, 1)
    with workspace.writing() as session:
        session.execute(text("PRAGMA max_page_count = 1"))  # of this connection: SQLite takes the size that it has
        with pytest.raises(Exception, match="full"):
            session.add_all([AuditRow(at=0.0, what="x" * 40, detail={"words": "y" * 5000}) for _ in range(50)])
            session.flush()
        session.rollback()
    assert len(workspace.cases(task)) == 1
    workspace.close()


# --- what is never kept ---------------------------------------------------------------------------------------------------


def test_only_its_owner_reads_the_folder_and_no_name_is_in_it(workspace, tmp_path, request):
    task = one_task(workspace)
    table = b"path,label,patient,group\nMarker^Anna.png,left,Marker-4711,Marker-family\n"
    bring(workspace, task, {"Marker-study/Marker^Anna.png": picture(1), "Marker.csv": table})
    folder = workspace.folder
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    for path in folder.rglob("*"):
        assert "arker" not in str(path.relative_to(folder))
        if path.is_file():
            assert b"arker" not in path.read_bytes(), path.name
    for path in (folder / "key", Path(workspace.cases(task)[0].path)):
        assert oct(path.stat().st_mode & 0o777) == "0o600"
    with workspace.reading() as session:
        rows = [str(vars(row)) for kind in (CaseRow, LabelRow, AuditRow) for row in session.scalars(select(kind))]
    assert rows and not any("arker" in row for row in rows)


def test_sqlite_keeps_what_was_committed_through_a_kill(tmp_path):
    workspace = engine.Workspace(tmp_path)
    with workspace.writing() as session:
        found = {name: session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")}
        assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
        assert session.scalar(text("PRAGMA secure_delete")) == 1
    workspace.close()
    assert sqlite3.connect(tmp_path / "workspace.sqlite3").execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(engine.DataError, match=r"cannot be used \(Not a directory\)\. Name another: PROMPTSCOPE_WORKSPACE"):
        engine.Workspace(tmp_path / "file" / "w")


def test_nothing_of_a_patient_is_open_to_others_in_a_folder_that_is(tmp_path):
    tmp_path.chmod(0o755)
    workspace = engine.Workspace(tmp_path)
    task = one_task(workspace, 1)
    workspace.features.put({"a": np.zeros(2, np.float32)}, "b")
    workspace.thumbnail(workspace.cases(task)[0])
    reached = [path for path in tmp_path.iterdir() if path.stat().st_mode & 0o077]
    assert reached == []
    workspace.close()
