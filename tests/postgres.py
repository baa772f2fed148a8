"""A PostgreSQL server for the tests: of Debian's package, in a folder of its own, on a socket that nobody else sees.

scripts/setup.sh installs it and PROMPTSCOPE_POSTGRES names its programs' folder.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest


def programs() -> Path | None:
    """The folder of initdb and postgres, or None."""
    named = os.environ.get("PROMPTSCOPE_POSTGRES")
    places = [Path(named)] if named else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists()), None)


def running() -> Iterator[Server]:
    """A server, deleted afterwards. Skips loudly where there is none."""
    place = programs()
    if place is None:
        pytest.skip("NO POSTGRESQL: scripts/setup.sh could not install it, so nothing was checked against a real server.")
    server = Server(place)
    yield server
    server.delete()


class Server:
    """Running from its making until `stop`; `start` starts it again."""

    def __init__(self, place: Path):
        self.place = place
        self.folder = Path(tempfile.mkdtemp(prefix="promptscope-pg-"))  # a socket's path must be short
        self.user = "postgres" if os.geteuid() == 0 else getpass.getuser()  # PostgreSQL refuses to run as root
        if os.geteuid() == 0:
            shutil.chown(self.folder, self.user)
        self._run("initdb", "-D", self.folder / "data", "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8")
        self._made = 0
        self.start()

    def _as(self) -> dict[str, str]:
        return {"user": self.user} if os.geteuid() == 0 else {}

    def _run(self, name: str, *words: object) -> None:
        command = [str(self.place / name), *map(str, words)]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, timeout=60, **self._as())

    def start(self) -> None:
        command = [self.place / "postgres", "-D", self.folder / "data", "-k", self.folder, "-h", "", "-F"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdout=quiet, stderr=quiet, cwd=self.folder, **self._as())
        until = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.address).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > until or self.process.poll() is not None:
                    raise
                time.sleep(0.05)

    def stop(self, how: int = signal.SIGINT) -> None:
        """SIGINT ends it in order, SIGQUIT at once."""
        self.process.send_signal(how)
        self.process.wait(timeout=30)

    def delete(self) -> None:
        if self.process.poll() is None:
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def address(self) -> str:
        return f"host={self.folder} user=postgres dbname=postgres"

    def database(self) -> str:
        """The URL of a new, empty place for tables: a schema, which is made and deleted faster than a database."""
        self._made += 1
        name = f"t{self._made}"
        with psycopg.connect(self.address) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"postgresql://postgres@/postgres?host={self.folder}&options=-csearch_path%3D{name}"
