"""The tables as they were in every version, and the way from each to the next (alembic).

A change of engine.workspace.tables is one new file in versions/ and a new HEAD; databases are brought up to it when they are
opened, in one transaction. Backups of older versions are read by the same road.
"""

from __future__ import annotations

import threading
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from engine.errors import DataError

HEAD = "0001"
FOLDER = Path(__file__).parent
_one = threading.Lock()  # alembic keeps what it is doing in module variables


def upgrade(engine: Engine) -> None:
    """Makes the tables, or brings those of an older version up to date. Raises DataError for those of a newer one."""
    with engine.execution_options(begin="BEGIN").connect() as connection:  # only to look: it waits for no writer
        if version(connection) == HEAD:
            return
    with engine.begin() as connection:  # two processes may open a new database at once: the second finds it done
        advance(connection)


def version(connection: Connection) -> str:
    """Of the tables that are there, or "" for none."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return str(connection.scalar(text("SELECT version_num FROM alembic_version")) or "")


def advance(connection: Connection, target: str = "") -> None:
    """To the target, "" for HEAD, within the connection's transaction. Raises DataError where the version that is there, or the
    target, is not known."""
    import alembic.command  # takes a third of a second, and is needed once in a database's life
    import alembic.config

    here, target = version(connection), target or HEAD
    known = {path.name[:4] for path in (FOLDER / "versions").glob("[0-9]*.py")}
    for each in filter(None, (here, target)):
        if each not in known:
            raise DataError(
                f"The workspace was made by a newer PromptScope (its tables have the version {each[:20]!r}, here {HEAD}).",
                "Use that version, or another folder.",
            )
    if here != target:
        config = alembic.config.Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
        with _one:
            alembic.command.upgrade(config, target)
