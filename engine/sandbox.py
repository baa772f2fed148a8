"""Files that nobody vouches for, read in processes of their own that may fail without harm.

A decoder that crashes, hangs or takes all memory ends its worker, never this process: the file is refused in a sentence and
the next one gets a new worker. Workers hold no torch and start in a third of a second; what crosses the border is described in
engine.readers._worker. Decoding runs beside whatever this process computes.

Left out: walls around the file system and the network (a container's task).
"""

from __future__ import annotations

import atexit
import json
import mmap
import os
import secrets
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ImageError
from engine.limits import MIB, Limits, read_limits
from engine.readers import files_below, is_archive, middle
from engine.readers._series import group
from engine.scratch import PrivateFolder
from engine.types import About, Image, Series, Slot, Window

# The package without its public names, which would bring torch along: readers need none (tests/test_architecture.py).
BOOT = (
    "import sys, types; sys.path[:] = filter(None, sys.path); "  # nothing from the folder that somebody happens to stand in
    "package = types.ModuleType('engine'); package.__path__ = [sys.argv[1]]; "
    "sys.modules['engine'] = package; from engine.readers._worker import serve; serve()"
)
STARTING_S = 60  # until a new worker says that it is ready: a cold disk
MAPPED = 1 << 16  # bytes of an answer
WORDS = 64 << 20  # bytes of an answer beside its pixels: an affine and notes take kilobytes, a zip's list some more
AHEAD = 2  # frames that are decoded while the model computes: of 100 megapixels they take 0.4 GB each
# What a worker may know of this process's environment: no password, no token.
KNOWN = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV",
         "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # fmt: skip


class _Worker:
    """One process. Used by one thread at a time."""

    def __init__(self, limits: Limits):
        self.limits, self.served = limits, 0
        command = [sys.executable, "-c", BOOT, str(Path(__file__).parent), json.dumps(asdict(limits))]
        # MALLOC_PERTURB_ has glibc hand out zeroed memory: a decoder that gives up half way leaves the rest of its buffer as it
        # was, and that may be the image of an earlier file.
        environment = {name: os.environ[name] for name in KNOWN if name in os.environ}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_PERTURB_": "255"}
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, bufsize=0
            )
        except OSError as error:
            raise ImageError(
                f"The process that reads files does not start ({error.strerror}).", "Try again later."
            ) from error

    def ask(self, asked: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
        """The answer and its pixels. Raises TimeoutError, or EOFError where the process ended."""
        if not self.served:
            self._begin()
        until = time.monotonic() + self.limits.seconds
        words = json.dumps(asked).encode()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(struct.pack("<I", len(words)) + words)
        except BrokenPipeError:
            raise EOFError from None
        size = struct.unpack("<I", self._read(4, until))[0]
        if size > WORDS:
            raise EOFError
        answer = self._read(size, until)
        self.served += 1
        try:
            said = json.loads(bytes(answer))
            shape = said.pop("shape")
            if shape is None:
                return said, None
            rows, columns, *colours = map(int, shape)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise EOFError from None  # not what a worker of ours says
        values = rows * columns * (3 if colours else 1)
        if colours not in ([], [3]) or min(rows, columns) < 1 or values > self.limits.values:
            raise EOFError
        return said, np.frombuffer(self._read(4 * values, until), dtype=np.float32).reshape(shape)

    def _begin(self) -> None:
        try:
            self._read(1, time.monotonic() + STARTING_S)
        except (TimeoutError, EOFError):
            raise ImageError(
                f"The process that reads files does not start (status {self.end()}).",
                "Is there memory left on this machine?",
            ) from None

    def _read(self, size: int, until: float) -> bytearray | mmap.mmap:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        # what is large is mapped: given back when it is dropped, where malloc would keep it for the thread that read it
        found: bytearray | mmap.mmap = mmap.mmap(-1, size) if size > MAPPED else bytearray(size)
        filled = 0
        view = memoryview(found)
        ready = select.poll()
        ready.register(pipe, select.POLLIN)
        while filled < size:
            left = until - time.monotonic()
            if left <= 0 or not ready.poll(1000 * left):
                raise TimeoutError
            part = os.readv(pipe, [view[filled:]])
            if part == 0:
                raise EOFError
            filled += part
        return found

    def end(self) -> int:
        """Ends the process and returns its exit status."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        return self._process.wait()

    def status(self) -> int:
        """How a process that has closed its pipe ended."""
        try:
            return self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return 0


@contextmanager
def _understood(name: str) -> Iterator[None]:
    """An answer that no worker of ours gives becomes a sentence: a file has taken the decoder over."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError):
        raise ImageError(f"The file {name!r} is damaged: its decoder failed on it.", "Export it again.") from None


@dataclass(frozen=True)
class Remote:
    """A series whose frames are decoded by a worker; see engine.types.Series."""

    sandbox: Sandbox
    path: Path
    part: int
    files: tuple[str, ...]
    frames: int
    affine: np.ndarray | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    about: About
    slots: tuple[Slot, ...]
    keeps: PrivateFolder | None = None  # where the file lies, if it was unpacked for this series

    def frame(self, index: int, window: Window | None = None) -> Image:
        asked = {"part": self.part, "index": index, "window": asdict(window) if window else None}
        said, pixels = self.sandbox.ask("frame", self.path, self.files[0], **asked)
        with _understood(self.files[0]):
            assert pixels is not None
            used = Window(**said["window"]) if said["window"] else None
            spacing, marks = said["spacing_mm"], said["marks"]
            return Image(
                pixels,
                spacing_mm=tuple(spacing) if spacing else None,
                notes=tuple(said["notes"]),
                warnings=tuple(said["warnings"]),
                window=used,
                modality=said["modality"],
                marks=tuple(marks) if marks else None,
            )


@dataclass(frozen=True)
class Opened:
    """What became of many files: each is part of a series, refused with its name and the error, or passed over (aside: names,
    and why)."""

    series: tuple[Series, ...]
    refused: tuple[tuple[str, ImageError], ...] = ()
    aside: tuple[tuple[tuple[str, ...], ImageError], ...] = ()


@dataclass(frozen=True)
class Admitted:
    """One file of an upload. file : its clean copy, or the error in its place; name : as whoever sent it knows it;
    removed : (what identified somebody, how many elements); done, total : files so far and in all; is_aside : passed over
    (hidden files and DICOMDIRs of the archive `name`), which nobody misses; inside : its name with the folders of the archive
    that held it; person : whom it is of (engine.readers._person), or ""."""

    file: Path | ImageError
    name: str
    removed: tuple[tuple[str, int], ...]
    done: int
    total: int
    is_aside: bool = False
    inside: str = ""
    person: str = ""


@dataclass
class Sandbox:
    """A few workers under one set of limits. Safe to use from many threads; workers start when they are needed."""

    limits: Limits = field(default_factory=Limits)
    workers: int = max(2, (os.cpu_count() or 2) // 2)

    def __post_init__(self) -> None:
        self._free = threading.Semaphore(self.workers)
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()

    def ask(self, what: str, path: Path, name: str, **more: Any) -> tuple[dict[str, Any], np.ndarray | None]:
        """One request to one worker. name : of the file, for sentences. Raises ImageError.

        A file is blamed for a crash or for memory only where a fresh worker fails on it, too.
        """
        with self._free:
            while True:
                with self._lock:
                    worker = self._idle.pop() if self._idle else None
                worker = worker or _Worker(self.limits)
                fresh = not worker.served
                try:
                    said, pixels = worker.ask({"ask": what, "path": os.path.abspath(path), **more})
                except TimeoutError:
                    worker.end()
                    raise ImageError(
                        f"The file {name!r} took longer than {self.limits.seconds} s to read and was stopped.",
                        "Save a smaller copy, or export it uncompressed.",
                    ) from None
                except EOFError:
                    status = worker.status()
                    worker.end()
                    if fresh:
                        how = f"crashed ({signal.Signals(-status).name})" if status < 0 else "failed"
                        raise ImageError(
                            f"The file {name!r} is damaged: its decoder {how} on it.", "Export it again, uncompressed."
                        ) from None
                    continue
                except BaseException:  # interrupted between question and answer: the pipe holds the rest of this one
                    worker.end()
                    raise
                if said.get("memory"):
                    worker.end()
                    if not fresh:
                        continue
                else:
                    with self._lock:
                        self._idle.append(worker)
                if "error" in said:
                    raise ImageError(*(said[k].replace(repr(path.name), repr(name)) for k in ("error", "hint")))
                return said, pixels

    def warm(self) -> None:
        """Starts the workers, so that the first file need not wait for one. Raises ImageError."""
        with self._lock:
            self._idle += [_Worker(self.limits) for _ in range(self.workers - len(self._idle))]

    def resize(self, workers: int) -> None:
        """For a process that is one of several side by side; while nobody asks."""
        self.close()
        self.workers, self._free = workers, threading.Semaphore(workers)

    def close(self) -> None:
        """Ends the workers. The next request starts new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.end()

    def forsake(self) -> None:
        """In a forked child: the workers and their pipes belong to the parent."""
        self._idle, self._lock = [], threading.Lock()
        self._free = threading.Semaphore(self.workers)

    def map(self, work: Callable[[Any], Any], items: Iterable[Any], ahead: int = 0) -> Iterator[Any]:
        """work(item) in order, done in threads; what an item raises is given in its place if it is an ImageError.

        ahead : how many are begun before they are asked for (0: twice the workers)
        """

        def kept(item: Any) -> Any:
            try:
                return work(item)
            except ImageError as error:
                return error

        waiting: list[Future[Any]] = []
        rest = iter(items)
        threads = ThreadPoolExecutor(self.workers)
        try:
            waiting += [threads.submit(kept, item) for item in islice(rest, ahead or 2 * self.workers)]
            while waiting:
                yield waiting.pop(0).result()
                waiting += [threads.submit(kept, item) for item in islice(rest, 1)]
        finally:  # whoever stops asking does not wait for what is being decoded
            threads.shutdown(wait=False, cancel_futures=True)

    # files

    def open_file(self, path: Path, name: str = "", keeps: PrivateFolder | None = None) -> list[Series]:
        """What one file holds, its frames not yet decoded. name : in place of the file's own. Raises ImageError."""
        name, path = name or path.name, path.absolute()  # frames are asked for later, from wherever one stands then
        said, _ = self.ask("describe", path, name)
        with _understood(name):
            return [_remote(self, path, i, name, keeps, each) for i, each in enumerate(said["series"])]

    def open_all(
        self,
        paths: Iterable[str | Path],
        progress: Callable[[int, int], None] | None = None,
        names: Sequence[str] = (),
        inside: bool = False,
    ) -> Opened:
        """Every image in the files, folders and zip archives, grouped to series (engine.readers._series).

        names : of the files, in place of their own; inside : files of a zip are named with its folders. A file that cannot be
        read is refused alone. What is unpacked is deleted when the series are no longer referred to. Raises ImageError where
        there is no file at all.
        """
        files, hidden = files_below(paths)
        named = list(zip(files, names or [f.name for f in files], strict=True))
        unpacked = PrivateFolder() if any(is_archive(path) for path in files) else None
        found, refused, left_out = self._unpacked(named, unpacked)
        if inside:
            found = [(place, whole, whole) for place, _, whole in found]
        series: list[Series] = []
        opened = self.map(lambda item: self.open_file(item[0], item[1], unpacked), found)
        for done, (result, (_, name, _)) in enumerate(zip(opened, found, strict=True), start=1):
            if isinstance(result, ImageError):
                refused.append((name, result))
            else:
                series += result
            if progress:
                progress(done, len(found))
        aside: list[tuple[tuple[str, ...], ImageError]] = [((name,), why) for name, why in left_out]
        if hidden:
            why = ImageError("Passed over in a folder: hidden, a DICOMDIR, or a link that leads out of it.")
            aside.append((tuple(path.name for path in hidden), why))
        return Opened(tuple(group(series)), tuple(refused), tuple(aside))

    def admit(self, paths: Sequence[tuple[Path, str]], folder: Path, key: bytes, tables: bool = False) -> Iterator[Admitted]:
        """Clean copies of the files (path, name), and of the files in zip archives, under random names in the folder, one
        after the other.

        key : behind the new UIDs, so that files of one series stay together. The originals stay where they are.
        tables : files called .csv are copied as they are
        """
        unclean = PrivateFolder()  # what zips hold; and a worker that was ended may leave half a copy
        over = time.monotonic() + self.limits.upload_seconds
        try:
            found, refused, left_out = self._unpacked(paths, unclean, over)

            def cleaned(item: tuple[Path, str, str]) -> tuple[Path, list[tuple[str, int]], str]:
                path, name, _ = item
                if time.monotonic() > over:
                    raise ImageError(
                        f"The file {name!r} was left out: the files before it took {self.limits.upload_seconds} s.",
                        "Upload fewer at once.",
                    )
                copy = unclean.path / secrets.token_hex(16)
                if tables and name.lower().endswith(".csv"):
                    return Path(shutil.copyfile(path, folder / copy.name)), [], ""
                said, _ = self.ask("clean", path, name, target=str(copy), key=key.hex())
                with _understood(name):
                    removed = [(str(what), int(count)) for what, count in said["removed"]]
                    whose = str(said["person"])
                return Path(shutil.move(copy, folder / copy.name)), removed, whose

            for name, error in left_out:
                yield Admitted(error, name, (), 0, len(found) + len(refused), is_aside=True)
            total = len(found) + len(refused)
            for done, (name, error) in enumerate(refused, start=1):
                yield Admitted(error, name, (), done, total)
            copies = zip(self.map(cleaned, found), found, strict=True)
            for done, (result, (_, name, inside)) in enumerate(copies, start=1 + len(refused)):
                if isinstance(result, ImageError):
                    yield Admitted(result, name, (), done, total, inside=inside)
                else:
                    yield Admitted(result[0], name, tuple(result[1]), done, total, inside=inside, person=result[2])
        finally:
            unclean.delete()

    def _unpacked(
        self, paths: Iterable[tuple[Path, str]], folder: PrivateFolder | None, over: float | None = None
    ) -> tuple[list[tuple[Path, str, str]], list[tuple[str, ImageError]], list[tuple[str, ImageError]]]:
        """The files, and in place of a zip archive the files in it; with their names, without and with the archive's folders;
        those that were refused; and what was passed over in which archive.

        over : of an upload, whose archives together may hold no more than one, and take no longer than this (monotonic)
        """
        found: list[tuple[Path, str, str]] = []
        refused: list[tuple[str, ImageError]] = []
        aside: list[tuple[str, ImageError]] = []
        entries = size = 0  # unpacked so far
        for path, name in paths:
            if folder is None or not is_archive(path):
                found.append((path, name, name))
                continue
            try:
                if over is not None and (
                    time.monotonic() > over or entries > self.limits.zip_entries or size > self.limits.unpacked_mb * MIB
                ):
                    raise ImageError(
                        f"The archive {name!r} was left out: those before it are enough.", "Upload fewer at once."
                    )
                said, _ = self.ask("unpack", path, name, folder=str(folder.path))
                with _understood(name):
                    files = [(Path(place), str(entry), str(whole)) for place, entry, whole in said["files"]]
                    inside = [(str(entry), ImageError(message, hint)) for entry, message, hint in said["refused"]]
            except ImageError as error:
                refused.append((name, error))
                continue
            entries, size = entries + len(files), size + sum(place.stat().st_size for place, *_ in files)
            # hidden files and DICOMDIRs are counted under no name: nobody misses them, unless there is nothing else
            only = not files and not any(entry for entry, _ in inside)
            found += files
            for entry, why in inside:
                (refused if entry or only else aside).append((entry or name, why))
        return found, refused, aside


def _remote(sandbox: Sandbox, path: Path, part: int, name: str, keeps: PrivateFolder | None, said: dict[str, Any]) -> Remote:
    about = said["about"]
    pairs = {k: tuple((a, b) for a, b in about[k]) for k in ("facts", "withheld")}
    windows = tuple(Window(**w) for w in about["windows"])
    tuples: list[dict[str, Any]] = [
        {k: tuple(v) if isinstance(v, list) else v for k, v in slot.items()}
        for slot in said["slots"]  # JSON has lists
    ]
    return Remote(
        sandbox,
        path,
        part,
        (name,),
        said["frames"],
        None if said["affine"] is None else np.asarray(said["affine"], dtype=float),
        tuple(said["notes"]),
        tuple(said["warnings"]),
        About(**(about | pairs | {"windows": windows, "burned_in": tuple(about["burned_in"])})),
        tuple(Slot(**each) for each in tuples),
        keeps,
    )


# --- the process's own -------------------------------------------------------------------------------------------------


@cache
def sandbox() -> Sandbox:
    """This process's, with the limits of PROMPTSCOPE_MAX_* variables. Raises LimitsError."""
    made = Sandbox(read_limits())
    atexit.register(made.close)
    os.register_at_fork(after_in_child=made.forsake)
    return made


def open_all(paths: Iterable[str | Path], progress: Callable[[int, int], None] | None = None) -> Opened:
    """Every image in files, folders and zip archives, as series; see Sandbox.open_all."""
    return sandbox().open_all(paths, progress)


def read(paths: Iterable[str | Path]) -> list[Series]:
    """As open_all, for files that are all meant to be read. Raises ImageError for the first that is not."""
    opened = open_all(paths)
    if opened.refused:
        raise opened.refused[0][1]
    return list(opened.series)


def read_image(path: str | Path) -> Image:
    """The one frame of a file; of several frames the middle one, with a note. Raises ImageError."""
    series = read([path])
    if not series:
        raise ImageError(f"There is no image in {Path(path).name!r}.")
    return series[0].frame(middle(series[0]))


def frames_of(
    series: Series, indices: Sequence[int], window: Window | None = None
) -> Iterator[tuple[int, Image | ImageError]]:
    """(index, image or the error in its place), in the order asked for; some are decoded ahead while the caller computes."""
    yield from zip(indices, sandbox().map(lambda i: series.frame(i, window), indices, AHEAD), strict=True)
