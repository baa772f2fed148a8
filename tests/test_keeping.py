"""What leaves a workspace and how: backup and restore, erasing, retention, the check. On SQLite and on a real PostgreSQL server.

python -m pytest tests/test_keeping.py
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import sqlite3
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import make_dicom
from sqlalchemy import event, insert, select, text, update
from test_workspace import bring, finished, one_task, picture

import engine
from app.settings import Settings
from app.visits import Visits
from engine.__main__ import main
from engine.heads import CacheHead
from engine.store import digest_of
from engine.workspace import keeping
from engine.workspace.tables import AuditRow, CaseRow, LabelRow, PatientRow

KINDS = ("sqlite", "postgresql")


def address(kind: str, request) -> str:
    return request.getfixturevalue("postgres").database() if kind == "postgresql" else ""


@pytest.fixture(params=KINDS)
def workspace(request, tmp_path):
    made = engine.Workspace(tmp_path / "workspace", address(request.param, request))
    yield made
    made.close()


def filled(workspace: engine.Workspace) -> tuple[str, str]:
    """Two patients with three and one images, a stranger's, labels with a history, a training that is done and one that runs.
    Returns the task and the finished training."""
    task = workspace.adopt("busi").id
    table = "path,label,patient\n0.png,benign,A\n1.png,benign,A\n2.png,malignant,A\n3.png,normal,B\n4.png,normal,\n"
    bring(workspace, task, {f"{i}.png": picture(i) for i in range(5)} | {"t.csv": table.encode()})
    ids = [case.id for case in workspace.cases(task)]
    workspace.label(task, ids[:2], "malignant tumor")
    workspace.label(task, ids[3:4], "")
    workspace.undo(task)
    done = finished(workspace, task)
    assert workspace.claim(workspace.submit(task, "coop", "scope-mini").id, "me")
    return task, done


def without_place(cases: list[engine.Case]) -> list[engine.Case]:
    return [dataclasses.replace(case, path=Path(case.path).name) for case in cases]


# --- backup ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", KINDS)
def test_a_backup_makes_the_workspace_again_on_either_database(workspace, target, request, tmp_path):
    task, done = filled(workspace)
    workspace.keep(done)
    backup = engine.back_up(workspace, tmp_path / "b.zip")
    assert oct(backup.stat().st_mode & 0o777) == "0o600"
    again = engine.restore(backup, tmp_path / "again", address(target, request))
    assert without_place(again.cases(task)) == without_place(workspace.cases(task))
    for case in again.cases(task):
        assert Path(case.path).read_bytes() == workspace.place(Path(case.path).name).read_bytes()
    assert again.key == workspace.key and again.tasks() == workspace.tasks() and again.sets() == workspace.sets()
    assert again.result(done) == workspace.result(done)
    assert sorted(job.state for job in again.jobs()) == ["done", "stopped"]  # nobody carries it out here
    assert engine.check(again) == []
    # what comes next gets new numbers, and the same patient is known again
    table = b"path,label,patient\n9.png,normal,B\n8.png,normal,C\n"
    bring(again, task, {"9.png": picture(9), "8.png": picture(8), "t.csv": table})
    assert [(case.number, case.patient) for case in again.cases(task)][-2:] == [(6, "P2"), (7, "P3")]
    again.label(task, [again.cases(task)[-1].id], "")
    assert len(again.undo(task)) == 1
    again.close()


def test_a_backup_is_of_one_moment_while_others_write(workspace, tmp_path, monkeypatch):
    task, _ = filled(workspace)
    before = without_place(workspace.cases(task))
    pack = keeping._pack

    def slowly(archive, workspace, session):
        session.execute(select(CaseRow.id)).all()  # the moment
        workspace.label(task, [case.id for case in workspace.cases(task)], "normal scan")
        bring(workspace, task, {"later.png": picture(77)})
        pack(archive, workspace, session)

    monkeypatch.setattr(keeping, "_pack", slowly)
    backup = engine.back_up(workspace, tmp_path / "b.zip")
    again = engine.restore(backup, tmp_path / "again")
    assert without_place(again.cases(task)) == before and len(workspace.cases(task)) == 6
    assert engine.check(again) == []
    again.close()


def test_a_backup_goes_only_where_nothing_is(workspace, tmp_path):
    task, _ = filled(workspace)
    backup = engine.back_up(workspace, tmp_path / "b.zip")
    with pytest.raises(engine.DataError, match=r"something in this workspace already\. Restore into a new folder"):
        engine.restore(backup, workspace.folder, workspace.url)
    assert len(workspace.cases(task)) == 5


def rewritten(backup: Path, change) -> Path:
    """The backup with change(name, content) -> content or None for each entry."""
    made = backup.with_name("changed.zip")
    with zipfile.ZipFile(backup) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.namelist():
            content = change(entry, old.read(entry))
            if content is not None:
                new.writestr(entry, content)
    return made


def hostile(name: str):
    def change(backup: Path) -> Path:
        made = rewritten(backup, lambda entry, content: content)
        with zipfile.ZipFile(made, "a") as archive:
            archive.writestr(name, b"x")
        return made

    return change


def less_manifest(**changes):
    def change(entry: str, content: bytes) -> bytes:
        return json.dumps(json.loads(content) | changes).encode() if entry == "manifest.json" else content

    return lambda backup: rewritten(backup, change)


DAMAGED = {
    "no zip": (lambda b: b.with_name("t.zip").write_bytes(b"no") and b.with_name("t.zip"), "is no backup of a workspace"),
    "cut": (lambda b: b.with_name("t.zip").write_bytes(b.read_bytes()[:-200]) and b.with_name("t.zip"), "is no backup"),
    "no manifest": (lambda b: rewritten(b, lambda e, c: None if e == "manifest.json" else c), "no backup of a workspace"),
    "other format": (less_manifest(format=2), "the format 2; this PromptScope reads 1"),
    "newer": (less_manifest(tables="0099"), "made by a newer PromptScope"),
    "a changed image": (lambda b: rewritten(b, lambda e, c: c + b"x" if e.startswith("files/") else c), "not what it was"),
    "a missing image": (
        lambda b: rewritten(b, lambda e, c: None if e.startswith("files/") else c),
        "5 image files are missing",
    ),
    "a missing row": (
        lambda b: rewritten(b, lambda e, c: c[: c.index(b"\n") + 1] if e == "tables/label.jsonl" else c),
        "lacks rows of the table 'label'",
    ),
    "a strange row": (
        lambda b: rewritten(b, lambda e, c: c.replace(b'"pixels"', b'"pixel"') if e == "tables/case.jsonl" else c),
        "do not fit together",
    ),
    "no row": (lambda b: rewritten(b, lambda e, c: b"[\n" if e == "tables/case.jsonl" else c), "do not fit together"),
    "a way out": (hostile("prompts/../../../x"), "which belongs in none"),
    "a way out by a job": (hostile("jobs/0123456789abcdef/../../../x"), "which belongs in none"),
    "something else": (hostile("features.sqlite3"), "which belongs in none"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_backup_that_is_damaged_or_crafted_is_refused_and_leaves_nothing(tmp_path, kind):
    workspace = engine.Workspace(tmp_path / "w")
    filled(workspace)
    make, sentence = DAMAGED[kind]
    backup = make(engine.back_up(workspace, tmp_path / "b.zip"))
    with pytest.raises(engine.DataError, match=sentence):
        engine.restore(backup, tmp_path / "again")
    left = engine.Workspace(tmp_path / "again")
    assert left.holdings() | {"bytes": 0} == dict.fromkeys(left.holdings(), 0)
    files = [path.name for path in (tmp_path / "again").rglob("*") if path.is_file()]
    assert [name for name in files if "sqlite3" not in name] == ["key"]
    assert not (tmp_path / "x").exists() and not (tmp_path.parent / "x").exists()
    workspace.close()
    left.close()


# --- erasing --------------------------------------------------------------------------------------------------------------


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_patient_is_erased_from_everything(workspace):
    task, done = filled(workspace)
    other = workspace.add_task("Other", ["a", "b"]).id
    bring(workspace, other, {"1.png": picture(1), "t.csv": b"path,patient\n1.png,A\n"})
    theirs = [case for case in workspace.cases(task) if case.patient == "P1"]
    rest = [case for case in workspace.cases(task) if case.patient != "P1"]
    assert len(theirs) == 3
    files = [Path(case.path) for case in theirs]
    for case in workspace.cases(task):
        workspace.features.put({f"f{case.id}": np.full(4, case.id, np.float32)}, digest_of(case.path))
        workspace.thumbnail(case)
    pixels = [image.read_bytes()[-60:] for image in files]
    checkpoint = workspace.jobs_folder / done / "checkpoint.safetensors"
    checkpoint.write_bytes(pixels[0])
    running = workspace.jobs(active=True)[0]
    with workspace.reading() as session:
        person = session.scalar(select(PatientRow.person).where(PatientRow.id == 1))
    assert person.encode() in everything(workspace.folder) or workspace.url

    assert engine.erase_patient(workspace, task, "P1") == 4  # the one in the other task, too

    assert without_place(workspace.cases(task)) == without_place(rest) and workspace.cases(other) == []
    assert not any(path.exists() for path in files)
    assert not any(workspace.thumb(path.name).exists() for path in files)
    assert set(workspace.features.get([f"f{case.id}" for case in (*theirs, *rest)])) == {f"f{case.id}" for case in rest}
    assert [each["case"] for part in ("cases", "learned") for each in workspace.result(done)[part]] == [4, 4]
    assert not checkpoint.exists()
    left = everything(workspace.folder)
    for marker in (*pixels, *(path.name.encode() for path in files), person.encode()):
        assert marker not in left
    with workspace.reading() as session:
        assert set(session.scalars(select(LabelRow.case))) == {case.id for case in rest}
        assert list(session.scalars(select(PatientRow.id))) == [2]
        (line,) = session.scalars(select(AuditRow).where(AuditRow.what == "cases erased"))
        assert line.detail == {"cases": 4, "features": 3, "prompt_sets_kept": 1}
    assert workspace.advance(running.id, "me") == "" and workspace.job(running.id).state == "queued"  # it begins anew
    assert engine.check(workspace) == []
    with pytest.raises(engine.DataError, match="There is no patient 'P1' in this task"):
        engine.erase_patient(workspace, task, "P1")
    # the number of somebody who is gone is not given again, nor that of a case
    bring(workspace, task, {"9.png": picture(9), "t.csv": b"path,patient\n9.png,C\n"})
    assert [(case.number, case.patient) for case in workspace.cases(task)] == [(4, "P2"), (5, ""), (6, "P3")]


@pytest.mark.parametrize("patient", ["P2", "", "P", "Q1", "P1; DROP", "P99999999999999999999"])
def test_nobody_is_erased_by_a_name_that_is_none(tmp_path, patient):
    workspace = engine.Workspace(tmp_path)
    task = one_task(workspace)
    other = workspace.add_task("Other", ["a", "b"]).id
    bring(workspace, task, {"1.png": picture(1), "2.png": picture(2), "t.csv": b"path,patient\n1.png,A\n"})
    bring(workspace, other, {"1.png": picture(3), "t.csv": b"path,patient\n1.png,B\n"})  # P2 is of the other task
    with pytest.raises(engine.DataError, match="There is no patient"):
        engine.erase_patient(workspace, task, patient)
    assert len(workspace.cases(task)) == 2
    workspace.close()


def test_single_cases_are_erased_and_a_file_that_another_task_has_stays(workspace):
    task, other = one_task(workspace, 3), workspace.add_task("Other", ["a", "b"]).id
    bring(workspace, other, {"0.png": picture(0)})
    first, second, _ = workspace.cases(task)
    with pytest.raises(engine.DataError, match="1 of the chosen cases are not in this task"):
        engine.erase_cases(workspace, other, [first.id, workspace.cases(other)[0].id])
    assert engine.erase_cases(workspace, task, [first.id, second.id, second.id]) == 2
    assert [case.number for case in workspace.cases(task)] == [3]
    assert Path(first.path).exists() and not Path(second.path).exists()
    assert engine.check(workspace) == []


def test_sets_that_hold_features_of_the_images_go_and_others_stay(tmp_path):
    workspace = engine.Workspace(tmp_path)
    task, done = filled(workspace)
    plain = workspace.keep(done)
    card = engine.PromptSet.load(workspace.prompts / plain).card
    for _ in range(2):
        job = finished(workspace, task)
        eye = [np.eye(*shape, dtype=np.float32) for shape in ((3, 256), (5, 256), (5, 3))]
        head = CacheHead(eye[0], 100.0, eye[1], eye[2], 1.0, 1.0)
        engine.PromptSet(head, card | {"head": "cache"}).save(workspace.jobs_folder / job / "prompts")
        cache = workspace.keep(job, "cache")
    workspace.remove_set(cache)
    assert engine.learned_from(workspace, task) == workspace.sets() == [plain, "cache-scope-mini"]
    engine.erase_cases(workspace, task, [workspace.cases(task)[0].id])
    assert workspace.sets() == [plain] and not (workspace.folder / "removed" / cache).exists()
    assert engine.learned_from(workspace, task) == [plain]
    assert sorted(job.prompt_set for job in workspace.jobs()) == ["", "", "", plain]  # the names are free again
    workspace.close()


# --- what is due ----------------------------------------------------------------------------------------------------------


def test_cases_are_kept_for_as_long_as_the_variable_says(workspace, monkeypatch):
    task = one_task(workspace, 3)
    with workspace.writing() as session:
        session.execute(update(CaseRow).where(CaseRow.number == 2).values(added=time.time() - 11 * 86_400))
    assert engine.look_after(workspace) == 0
    monkeypatch.setenv("PROMPTSCOPE_KEEP_CASES_DAYS", "12")
    assert engine.look_after(workspace) == 0
    monkeypatch.setenv("PROMPTSCOPE_KEEP_CASES_DAYS", "10")
    assert engine.look_after(workspace) == 1
    assert [case.number for case in workspace.cases(task)] == [1, 3]
    for wrong in (-1, float("nan")):
        for asked in (engine.erase_older, engine.count_older):
            with pytest.raises(engine.DataError, match=rf"older than {wrong:g} days\. Name 0 days or more"):
                asked(workspace, wrong)
    assert engine.count_older(workspace, 0.5) == 0 and engine.count_older(workspace, 0) == 2
    assert engine.erase_older(workspace, 0.5) == 0 and engine.erase_older(workspace, 0) == 2
    for wrong in ("ten", "-1", "1.5", "999999"):
        monkeypatch.setenv("PROMPTSCOPE_KEEP_CASES_DAYS", wrong)
        with pytest.raises(engine.DataError, match=f"PROMPTSCOPE_KEEP_CASES_DAYS is '{wrong}'"):
            engine.look_after(workspace)


def test_what_was_removed_is_gone_a_day_later_and_so_is_what_an_interrupted_upload_left(workspace, monkeypatch):
    task, done = filled(workspace)
    stays = one_task(workspace, 1)
    name = workspace.keep(done)
    workspace.remove_set(name)
    workspace.remove_task(task)
    orphan, half = workspace.place("e" * 64), workspace.place("e" * 64).with_name(".0123456789abcdef")
    orphan.parent.mkdir(exist_ok=True)
    for path in (orphan, half):
        path.write_bytes(b"left")
        os.utime(path, (0, 0))
    assert engine.check(workspace) == ["2 image files belong to no case."]
    files = list(workspace.folder.glob("files/*/*"))
    assert engine.look_after(workspace) == 0  # nothing is a day old yet, but for the two
    assert set(files) - set(workspace.folder.glob("files/*/*")) == {orphan, half}
    later = time.time() + 86_401
    monkeypatch.setattr(time, "time", lambda: later)
    assert engine.look_after(workspace) == 5
    assert list(workspace.tasks()) == [stays] and len(workspace.jobs()) == 0
    assert list((workspace.folder / "removed").iterdir()) == [] and not (workspace.jobs_folder / done).exists()
    assert engine.check(workspace) == [] and len(workspace.cases(stays)) == 1
    with pytest.raises(engine.DataError):
        workspace.restore_task(task)


def test_nothing_is_deleted_that_others_put_into_the_folder(workspace, monkeypatch):
    """Bug: hidden files and unknown ones went after a day: of somebody who had named his home folder, all of it."""
    one_task(workspace, 1)
    (shelf := workspace.folder / "files" / "ab").mkdir(exist_ok=True)
    (workspace.folder / ".config").mkdir()
    theirs = [workspace.folder / ".bashrc", workspace.folder / ".config" / "x", shelf / "a.png", shelf / ".DS_Store"]
    theirs += [workspace.folder / "removed" / ".hidden", workspace.folder / "removed" / "letter"]
    ours = [workspace.folder / ".0123456789abcdef", shelf / ".0123456789abcdef", shelf / ("ab" * 32)]
    for path in (*theirs, *ours):
        path.write_bytes(b"x")
    later = time.time() + 86_401
    monkeypatch.setattr(time, "time", lambda: later)
    engine.look_after(workspace)
    assert [path.exists() for path in (*theirs, *ours)] == [True] * 6 + [False] * 3
    assert engine.check(workspace) == []


def test_the_name_of_a_set_that_is_gone_leads_to_no_training_of_old(workspace, monkeypatch):
    """Bug: the name was given again while the old training still held it, and the new set was shown as that one's."""
    task = workspace.adopt("busi").id
    old = finished(workspace, task)
    name = workspace.keep(old, "mine")
    workspace.remove_set(name)
    assert workspace.keep(finished(workspace, task), "mine") == "mine-2-scope-mini"  # it may be brought back
    later = time.time() + 86_401
    monkeypatch.setattr(time, "time", lambda: later)
    engine.look_after(workspace)
    assert workspace.job(old).prompt_set == ""
    new = finished(workspace, task)
    assert workspace.keep(new, "mine") == name and workspace.origin(name).id == new
    shutil.rmtree(workspace.prompts / name)  # by hand: its training still holds the name
    assert workspace.keep(finished(workspace, task), "mine") == "mine-3-scope-mini"
    assert workspace.origin(name).id == new


def test_patients_without_a_case_are_forgotten(workspace):
    one_task(workspace)
    with workspace.writing() as session:  # as an older version left them
        session.add(PatientRow(person="0123456789abcdef"))
    engine.look_after(workspace)
    assert workspace.holdings()["patients"] == 0


def test_what_was_erased_leaves_the_log_once_nobody_reads(tmp_path):
    """Bug: SQLite's log kept it when somebody was reading, for good, and the erasing waited half a minute for him."""
    workspace = engine.Workspace(tmp_path)
    task = one_task(workspace)
    bring(workspace, task, {"1.png": picture(1), "t.csv": b"path,patient\n1.png,A\n"})
    with workspace.reading() as session:
        person = session.scalar(select(PatientRow.person)).encode()
        begun = time.monotonic()
        assert engine.erase_patient(workspace, task, "P1") == 1
        assert time.monotonic() - begun < 10
        assert person in everything(tmp_path), "this reader does not hinder anything: the test shows nothing"
    engine.look_after(workspace)
    assert person not in everything(tmp_path) and (tmp_path / "workspace.sqlite3-wal").stat().st_size == 0
    workspace.close()


def test_more_cases_than_a_question_may_name_are_labelled_and_erased(tmp_path):
    """Bug: each was one variable of one question, and SQLite takes a limited number."""
    workspace = engine.Workspace(tmp_path)
    task, count = one_task(workspace), 7000

    def less(connection, _):
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 6000)  # as SQLAlchemy's own inserts need

    workspace.close()
    if sys.version_info >= (3, 11):
        event.listen(workspace._engine, "connect", less)
    with workspace.writing() as session:
        same = {"task": task, "files": [], "fingerprint": "0" * 64, "about": {}, "added": 0.0}
        session.execute(insert(CaseRow), [same | {"number": i, "pixels": str(i)} for i in range(count)])
        ids = list(session.scalars(select(CaseRow.id)))
    workspace.label(task, ids, "left")
    assert workspace.holdings()["labels"] == count and len(workspace.undo(task)) == count
    assert engine.erase_cases(workspace, task, ids) == count and workspace.holdings()["cases"] == 0
    workspace.close()


def test_the_check_says_what_is_missing_changed_or_forgotten(workspace):
    task, done = filled(workspace)
    name = workspace.keep(done)
    assert engine.check(workspace) == []
    first, second, third, *_ = workspace.cases(task)
    Path(first.path).unlink()
    for case in (second, third):
        Path(case.path).write_bytes(b"other")
    (workspace.prompts / name / "prompts.safetensors").unlink()
    (workspace.jobs_folder / done / "result.json").unlink()
    running = workspace.jobs(active=True)[0]
    with workspace.writing() as session:
        session.execute(text("UPDATE job SET beat = 0"))
    assert (
        engine.check(workspace)
        == [
            "1 image files are missing.",
            "2 image files are not what they were.",
            f"The training {done} is done, and its result is missing.",
            f"The training {running.id} is running, and nobody carries it out.",
            f"The prompt set {name!r} has no prompts.safetensors.",
        ]
        or len(engine.check(workspace)) == 5
    )


# --- the command line -----------------------------------------------------------------------------------------------------


def test_the_command_line_tells_backs_up_erases_and_restores(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("PROMPTSCOPE_DATABASE_URL", raising=False)
    workspace = engine.Workspace(tmp_path / "w")
    filled(workspace)
    workspace.close()

    def run(*words: object) -> dict | str:
        code = main(["workspace", *map(str, words)])
        said = capsys.readouterr()
        return json.loads(said.out) if code == 0 and "--json" in words else f"{code} {said.out}{said.err}".strip()

    here = ("--folder", tmp_path / "w")
    status = {"tasks": 1, "cases": 5, "patients": 2, "trainings": 2, "labels": 5, "prompt_sets": 0, "schema": 1}
    assert run("status", *here, "--json").items() >= status.items()
    assert run("check", *here) == "0 faults       none"
    assert run("backup", tmp_path / "b.zip", *here, "--json") == {"schema": 1, "written": str(tmp_path / "b.zip")}
    assert run("erase", *here, "--task", "busi", "--patient", "P1", "--json") == {
        "schema": 1, "cases erased": 3, "prompt sets that learned from the task": [],
    }  # fmt: skip
    for more in (("--task", "busi"), ("--patient", "P2")):
        assert run("erase", *here, "--older-than", 0, *more).startswith("2 error: --older-than is of all tasks and patients")
    assert run("erase", *here, "--older-than", -1).startswith("2 error: Cases cannot be older than -1 days.")
    assert run("erase", *here, "--older-than", 0, "--json")["cases erased"] == 2
    assert run("erase", *here).startswith("2 error: Nothing is named to erase.")
    assert run("restore", tmp_path / "b.zip", "--folder", tmp_path / "new", "--json")["cases"] == 5
    assert run("restore", tmp_path / "b.zip", "--folder", tmp_path / "new").startswith("2 error: There is something in")
    assert run("status", "--folder", tmp_path / "none").startswith("2 error: There is no workspace at")
    (tmp_path / "home" / "files").mkdir(parents=True)
    (tmp_path / "home" / ".profile").write_bytes(b"")
    for what in ("status", "check", ("backup", tmp_path / "c.zip"), ("erase", "--older-than", 0)):
        words = (what,) if isinstance(what, str) else what
        assert run(*words, "--folder", tmp_path / "home").startswith("2 error: There is no workspace at")
    assert run("restore", tmp_path / "b.zip", "--folder", tmp_path / "home").startswith("2 error: The folder")
    assert sorted(path.name for path in (tmp_path / "home").rglob("*")) == [".profile", "files"]
    (next((tmp_path / "new").glob("files/*/*"))).unlink()
    assert run("check", "--folder", tmp_path / "new") == "1 faults       1 image files are missing."


def test_a_dicom_file_leaves_nothing_of_its_patient(tmp_path):
    workspace = engine.Workspace(tmp_path / "w")
    task = one_task(workspace)
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    path = make_dicom(
        tmp_path / "a.dcm", pixels, PatientID="Marker-ID", PatientName="Marker^Name", PatientBirthDate="19010203"
    )
    added = bring(workspace, task, {"Marker.dcm": path.read_bytes()})
    assert dict(added.removed)["names and identifiers"] >= 2 and workspace.cases(task)[0].patient == "P1"
    stream = io.BytesIO(everything(workspace.folder)).getvalue()
    assert b"Marker" not in stream and b"19010203" not in stream and engine.erase_patient(workspace, task, "P1") == 1
    workspace.close()


def test_the_page_does_what_is_due_when_it_opens(tmp_path, monkeypatch):
    workspace = engine.Workspace(tmp_path)
    task = one_task(workspace, 2)
    with workspace.writing() as session:
        session.execute(update(CaseRow).where(CaseRow.number == 1).values(added=0.0))
    monkeypatch.setenv("PROMPTSCOPE_KEEP_CASES_DAYS", "10")
    queue = engine.Queue()
    page = Visits(Settings(workspace=tmp_path), queue)
    assert [case.number for case in workspace.cases(task)] == [2]
    queue.close()
    page.close()
    workspace.close()
    monkeypatch.setenv("PROMPTSCOPE_KEEP_CASES_DAYS", "soon")
    with pytest.raises(engine.DataError, match="PROMPTSCOPE_KEEP_CASES_DAYS is 'soon'"):
        Visits(Settings(workspace=tmp_path), engine.Queue())
