"""The database behind a workspace: SQLite in its folder, or PostgreSQL; one writer at a time, readers of one moment on both."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from engine.errors import DataError

WRITING = 7_201_001  # the number of the lock that writers to PostgreSQL take in turn
HINDERED = re.compile("unable to open|disk|readonly|lock|memory")  # in what SQLite says where the question itself was right
# How a transaction begins that only reads.
READING: dict[str, dict[str, Any]] = {
    "sqlite": {"begin": "BEGIN"},  # a deferred one: of the moment of its first question
    "postgresql": {"begin": "", "isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}


@contextmanager
def understood() -> Iterator[None]:
    """What hinders the database becomes a sentence, without its address, which may hold a password. A question that it does not
    understand stays what it is."""
    try:
        yield
    except OperationalError as error:
        why = str(error.orig).strip().splitlines()[0].split("@")[-1][:120]
        state = getattr(error.orig, "sqlstate", None) or ""  # PostgreSQL's
        if state[:2] == "54" or (isinstance(error.orig, sqlite3.Error) and not HINDERED.search(why)):
            raise  # what was asked is wrong or too long: a fault of PromptScope
        is_busy = state[:2] in ("40", "55") or "locked" in why
        hint = "Something else is writing: try again." if is_busy else "Is it running, and the disk not full?"
        raise DataError(f"The workspace's database does not answer ({why}).", hint) from error
    except DatabaseError as error:
        if "not a database" not in str(error.orig) and "malformed" not in str(error.orig):
            raise
        raise DataError("The workspace's database is damaged.", "Restore a backup into a new folder.") from error


def connect(url: str) -> Engine:
    """url : sqlite:///FILE or postgresql://... Raises DataError."""
    try:
        address = make_url(url)
    except ArgumentError:
        raise DataError("The database's URL is not understood.", "Write postgresql://user:password@host/name.") from None
    if address.drivername in ("postgres", "postgresql"):
        address = address.set(drivername="postgresql+psycopg")
    if address.drivername not in ("sqlite", "postgresql+psycopg"):
        raise DataError(
            f"A database of the kind {address.drivername[:80]!r} is not used here.",
            "Write postgresql://user:password@host/name.",
        )
    made = create_engine(address, pool_pre_ping=address.drivername != "sqlite")

    @event.listens_for(made, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if made.dialect.name == "sqlite":
            connection.exec_driver_sql(options.get("begin", "BEGIN IMMEDIATE"))
        elif "begin" not in options:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({WRITING})"))

    if made.dialect.name == "sqlite":

        @event.listens_for(made, "connect")
        def _pragmas(connection: Any, _: Any) -> None:
            connection.isolation_level = None  # `_begin` begins
            # a reader never waits for the writer, what was committed survives kill -9, what is deleted is overwritten
            for line in (
                "busy_timeout=30000",
                "journal_mode=WAL",
                "synchronous=FULL",
                "foreign_keys=ON",
                "secure_delete=ON",
            ):
                connection.execute(f"PRAGMA {line}")

    return made
