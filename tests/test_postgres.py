"""A workspace in PostgreSQL: what a real server does that SQLite does not. What both do alike: test_workspace, test_keeping.

python -m pytest tests/test_postgres.py
"""

from __future__ import annotations

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from postgres import running
from test_workspace import bring, one_task, picture

import engine
from engine.__main__ import main


@pytest.fixture
def own():
    """A server that a test may stop."""
    yield from running()


@pytest.mark.parametrize("prefix", ["postgresql://", "postgres://", "postgresql+psycopg://"])
def test_the_usual_forms_of_a_url_are_understood(postgres, tmp_path, prefix):
    url = postgres.database().replace("postgresql://", prefix)
    workspace = engine.Workspace(tmp_path, url)
    assert workspace.add_task("t", ["a", "b"]).id == "t"
    assert not (tmp_path / "workspace.sqlite3").exists()
    workspace.close()


def test_the_command_line_finds_the_database_by_its_variable(postgres, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PROMPTSCOPE_DATABASE_URL", postgres.database())
    workspace = engine.Workspace(tmp_path, os.environ["PROMPTSCOPE_DATABASE_URL"])
    one_task(workspace, 2)
    workspace.close()
    assert main(["workspace", "status", "--folder", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cases"] == 2


def test_a_server_that_is_gone_is_said_and_found_again_when_it_is_back(own, tmp_path):
    workspace = engine.Workspace(tmp_path, own.database())
    task = one_task(workspace, 2)
    own.stop()
    with pytest.raises(engine.DataError, match="The workspace's database does not answer") as caught:
        workspace.cases(task)
    assert "Is it running" in str(caught.value)
    own.start()
    assert len(workspace.cases(task)) == 2
    workspace.close()


def test_a_server_that_crashes_while_many_label_loses_no_label_that_was_given(own, tmp_path):
    workspace = engine.Workspace(tmp_path, own.database())
    task = one_task(workspace, 4)
    ids = [case.id for case in workspace.cases(task)]
    given = dict.fromkeys(ids, 0)  # acts that were said to be done
    enough = threading.Event()

    def work(case: int) -> None:
        while True:
            try:
                workspace.label(task, [case], ("left", "right")[given[case] % 2])
            except engine.DataError:  # it is gone
                return
            given[case] += 1
            if given[case] > 20:
                enough.set()

    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(work, case) for case in ids]
        assert enough.wait(60)
        own.stop(signal.SIGQUIT)  # no clean shutdown, recovery at the next start
        for each in done:
            each.result(timeout=60)
    own.start()
    with psycopg.connect(workspace.url) as connection:
        rows = dict(connection.execute('SELECT "case", count(*) FROM label GROUP BY "case"').fetchall())
    for case in workspace.cases(task):  # of the act whose answer was lost either is right
        assert rows.get(case.id, 0) in (given[case.id], given[case.id] + 1)
        assert case.label == ("left", "right")[(rows[case.id] - 1) % 2]
    assert engine.check(workspace) == []
    assert len(bring(workspace, task, {"new.png": picture(50)}).cases) == 1
    workspace.close()


def test_what_is_erased_leaves_the_servers_tables(postgres, tmp_path):
    url = postgres.database()
    workspace = engine.Workspace(tmp_path, url)
    task = one_task(workspace)
    bring(workspace, task, {"1.png": picture(1), "2.png": picture(2), "t.csv": b"path,patient\n1.png,A\n2.png,B\n"})
    assert engine.erase_patient(workspace, task, "P1") == 1
    with psycopg.connect(url) as connection:
        people = connection.execute("SELECT id FROM patient").fetchall()
        cases = connection.execute('SELECT number FROM "case"').fetchall()
        connection.execute("CREATE EXTENSION IF NOT EXISTS pageinspect")
        for table in ("patient", '"case"'):
            page = "heap_page_items(get_raw_page(%s, 0))"
            held = connection.execute(f"SELECT count(*) FROM {page} WHERE t_data IS NOT NULL", [table]).fetchone()
            assert held == (1,), table  # the old row is no longer in the table's page either
    assert (people, cases) == ([(2,)], [(2,)])
    workspace.close()
