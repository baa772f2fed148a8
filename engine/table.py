"""An archive to a table: every chunk of the plan (engine.archive) becomes one Parquet file, by worker processes or by Ray.

The table is a folder that pandas, pyarrow, DuckDB and polars read by its name: a part for each chunk, written whole or not at
all. A part that is there is done; so whoever is killed, this process, a worker or the machine, loses the chunks under way, and
the same call goes on. What runs where is the same function, predict_chunk. Columns: README, "A whole archive".
Left out: maps; locks between machines (one run at a time writes a table, which is checked on one machine).
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import secrets
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from engine.archive import Entry, check_plan, chunked, read_chunk, walk, write_plan
from engine.backbones import load_backbone
from engine.backbones.base import Backbone
from engine.batch import Look, predict_all
from engine.errors import DataError, EngineError, ImageError
from engine.prompts import PromptSet
from engine.readers import is_archive
from engine.results import NOTICE, error_row
from engine.sandbox import Opened, sandbox
from engine.types import Image, Input, Prediction
from engine.volumes import BATCH, Score, scorer

VERSION = 1  # of the columns
CHUNK = 1000  # files: some seconds' work, which is what a kill costs
TRIES = 3  # of a chunk whose worker is ended each time
PLAN, MANIFEST, LOCK = "_plan.parquet", "_manifest.json", "_lock"  # readers of a Parquet folder pass over what begins with _

Row = dict[str, Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Table:
    """A table and what is done for it with every chunk, by whichever process. folder : of its parts."""

    folder: Path
    backbone: str
    sets: tuple[PromptSet, ...]
    device: str = "cpu"
    precision: str = "float32"
    look: Look = field(default_factory=lambda: Look(pool="mean"))


@dataclass(frozen=True)
class Filled:
    """A table that is whole. statuses : how many files are ok, error, skipped."""

    folder: Path
    chunks: int
    files: int
    statuses: dict[str, int]


# --- a chunk to rows ---------------------------------------------------------------------------------------------------


def predict_chunk(
    chunk: Sequence[Entry], backbone: Backbone, sets: Sequence[PromptSet], look: Look, score: Score
) -> list[Row]:
    """A row for each file and prompt set, one for a file that failed or was passed over; in the order of the files.

    Files of one DICOM series within the chunk are one answer, which each of their rows gives.
    """
    began = time.monotonic()
    rows: list[list[Row]] = []  # of each entry
    plain = list(dict.fromkeys(each.path for each in chunk if not each.status and not is_archive(Path(each.path))))
    found: dict[str, list[Row]] = {path: [] for path in plain}
    if plain:
        opened = sandbox().open_all(plain, names=plain)
        for row in _told(opened, backbone, sets, look, score):
            found[row["path"]].append(row)
    for each in chunk:
        if each.status:
            rows.append([_failed(each.path, each.status, each.why, backbone)])
        elif each.path in found:
            rows.append(found[each.path] or [_failed(each.path, "error", "There is no image in the file.", backbone)])
        else:
            opened = sandbox().open_all([each.path], names=[each.path], inside=True)
            inside = sorted(_told(opened, backbone, sets, look, score), key=lambda row: row["path"])
            rows.append([row | {"path": each.path, "inside": _inside(row["path"], each.path)} for row in inside])
    share = (time.monotonic() - began) / len(chunk)
    known = {prompts.name: prompts.hash for prompts in sets}
    more = {"weights_hash": backbone.weights_hash, "seconds": share}
    return [row | more | {"prompt_set_hash": known.get(row["prompt_set"] or "")} for each in rows for row in each]


def _inside(name: str, archive: str) -> str | None:
    """What a row of a zip is about: a file in it, or (its name is the zip's own) the zip as a whole."""
    return None if name in (archive, os.path.basename(archive)) else name


def _told(opened: Opened, backbone: Backbone, sets: Sequence[PromptSet], look: Look, score: Score) -> Iterator[Row]:
    """Rows of `predict --json` as rows of the table, one a file."""
    looked: deque[Row] = deque()  # of each answer, what predict --json does not say

    def seen(image: Image, _: Input, __: Prediction, ___: PromptSet, frames: int) -> None:
        rows, columns = image.shape
        looked.append({"width": columns, "height": rows, "modality": image.modality or None, "frames": frames})

    for row in predict_all(opened, backbone, sets, look, score, seen, batch=BATCH):
        more = looked.popleft() if row["status"] == "ok" else {}
        for index, name in enumerate(row["files"]):
            yield _flat(row, name, index) | more


def _flat(row: Row, name: str, index: int) -> Row:
    """A row of `predict --json`, of several files perhaps, as the row of the file `index` among them."""
    files, pooling, window = row["files"], row["pooling"], row["window"]
    lost = {each["frame"] - 1: each["error"] for each in pooling["failed"]} if pooling and len(files) > 1 else {}
    short = os.path.basename(name)
    if row["status"] != "ok" or index in lost:
        error = lost.get(index) or row["error"]
        return {
            "path": name,
            "status": "error" if index in lost else row["status"],
            "error": error.replace(repr(name), repr(short)),  # as the sentence is for a file alone
            "backbone": row["backbone"],
            "prompt_set": row["prompt_set"],
        }
    p = row["probabilities"]
    label = max(p, key=p.__getitem__)
    return {
        "path": name,
        "status": "ok",
        **{key: row[key] for key in ("backbone", "prompt_set", "device", "calibrated", "frame", "notes", "warnings")},
        "label": label,
        "probability": p[label],
        **{f"p({each})": value for each, value in p.items()},
        "series": files[0] if len(files) > 1 else None,
        "pooling": pooling["words"] if pooling else None,
        "window_center": window["center"] if window else None,
        "window_width": window["width"] if window else None,
    }


def _failed(path: str, status: str, why: str, backbone: Backbone) -> Row:
    return _flat(error_row([path], backbone.id, ImageError(why)) | {"status": status}, path, 0)


# --- parts -------------------------------------------------------------------------------------------------------------


def part_of(folder: Path, number: int) -> Path:
    return folder / f"part-{number:07}.parquet"


def write_part(folder: Path, number: int, rows: Iterable[Row], labels: Sequence[str]) -> None:
    """Under its name only when it is whole and on the disk. labels : of all prompt sets, a column each."""
    import pyarrow
    import pyarrow.parquet

    texts, number_of = pyarrow.list_(pyarrow.string()), pyarrow.float64()
    text, count = pyarrow.string(), pyarrow.int32()
    kinds = {
        "path": text, "inside": text, "status": text, "error": text, "backbone": text, "prompt_set": text, "device": text,
        "label": text, "probability": number_of, **{f"p({label})": number_of for label in labels},
        "calibrated": pyarrow.bool_(), "frame": count, "frames": count, "pooling": text, "series": text,
        "width": count, "height": count, "modality": text, "window_center": number_of, "window_width": number_of,
        "notes": texts, "warnings": texts, "weights_hash": text, "prompt_set_hash": text, "seconds": number_of,
    }  # fmt: skip
    made = [row | {name: _text(row.get(name)) for name in ("path", "inside", "error", "series")} for row in rows]
    columns = pyarrow.Table.from_pylist(made, pyarrow.schema(kinds))
    unfinished = folder / f"_{secrets.token_hex(8)}.tmp"
    with unfinished.open("wb") as stream:
        pyarrow.parquet.write_table(columns, stream, compression="zstd")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(unfinished, part_of(folder, number))


def _text(value: str | None) -> str | None:
    """A name that is no UTF-8 with its bytes as \\xNN, for Parquet holds text alone."""
    return None if value is None else os.fsencode(value).decode("utf-8", "backslashreplace")


class Hand:
    """Whoever does chunks: a process that loads the model once."""

    def __init__(self, table: Table, threads: int):
        torch.set_num_threads(threads)
        sandbox().resize(2)  # one decodes while the other is asked
        self.table = table
        self.backbone = load_backbone(table.backbone, table.device, table.precision)
        self.score = scorer(self.backbone, table.sets)
        self.labels = list(dict.fromkeys(label for each in table.sets for label in each.labels))

    def do(self, number: int) -> None:
        """A part of the plan; nothing where it is there already."""
        folder = self.table.folder
        if part_of(folder, number).exists():
            return
        chunk = read_chunk(folder / PLAN, number)
        rows = predict_chunk(chunk, self.backbone, self.table.sets, self.table.look, self.score)
        write_part(folder, number, rows, self.labels)


# --- workers on this machine -------------------------------------------------------------------------------------------


def _serve(pipe: Connection, table: Table, threads: int) -> None:
    """A worker process: does the chunks that it is told, until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    try:
        hand = Hand(table, threads)
        while True:
            number = pipe.recv()
            hand.do(number)
            pipe.send(number)
    except EOFError:
        sandbox().close()
    except (EngineError, OSError) as error:
        pipe.send(error)


def work(table: Table, numbers: Iterable[int], workers: int) -> Iterator[int]:
    """Does the chunks; gives their numbers as they are done. A worker that is ended is replaced and its chunk done again.

    Raises what a worker raised, DataError where a chunk has ended TRIES workers.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    rest, again, ended = iter(numbers), deque[int](), Counter[int]()
    doing: dict[Connection, tuple[multiprocessing.process.BaseProcess, int]] = {}

    def tell(pipe: Connection, process: multiprocessing.process.BaseProcess, number: int) -> None:
        doing[pipe] = process, number
        try:
            pipe.send(number)
        except BrokenPipeError:
            pass  # it has been ended: that is what is read from it next

    def start(number: int) -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, table, threads), daemon=True)
        process.start()
        theirs.close()
        tell(ours, process, number)

    def upcoming() -> int | None:
        return again.popleft() if again else next(rest, None)

    try:
        while len(doing) < workers and (number := upcoming()) is not None:
            start(number)
        while doing:
            for pipe in wait(list(doing)):
                assert isinstance(pipe, Connection)
                process, number = doing[pipe]
                try:
                    said = pipe.recv()
                except (EOFError, OSError):
                    process.join()
                    ended[number] += 1
                    if ended[number] == TRIES:
                        raise DataError(
                            f"Chunk {number} has ended its worker process {TRIES} times (status {process.exitcode}).",
                            "Is there memory for so many --workers? The same command goes on.",
                        ) from None
                    again.append(number)
                else:
                    if isinstance(said, BaseException):
                        raise said
                    yield said
                    if (following := upcoming()) is not None:
                        tell(pipe, process, following)
                        continue
                pipe.close()  # whoever listens to it ends
                del doing[pipe]
                if (following := upcoming()) is not None:
                    start(following)
    finally:
        for pipe, (process, _) in doing.items():
            process.terminate()
            pipe.close()


# --- the whole ---------------------------------------------------------------------------------------------------------


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Raises DataError where another process of this machine writes the same table."""
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"The table {folder.name!r} is being written by another process.", "Wait for it.") from None
        yield


def predict_archive(
    paths: Sequence[str | Path],
    table: Table,
    lists: Sequence[str | Path] = (),
    chunk: int = CHUNK,
    workers: int = 0,
    ray: str = "",
    progress: Progress | None = None,
) -> Filled:
    """Every file in the files, folders, zips and lists to rows in table.folder; goes on where an earlier call of the same ended.

    workers : processes (0: one for two cores; with ray: what the cluster has); ray : address of a cluster, "local" for one of
    this machine's own; progress : chunks so far and in all
    Raises DataError where the archive, or what is asked, is not what the table was begun with.
    """
    if os.path.lexists(table.folder) and not table.folder.is_dir():
        raise DataError(f"{table.folder.name!r} is a file; the table is a folder of parts.", "Name another --out.")
    table.folder.mkdir(parents=True, exist_ok=True)
    with _alone(table.folder):
        asked = _asked(table, chunk)
        chunks, files = _planned(table.folder, lambda: chunked(walk(paths, lists, table.folder), chunk), asked)
        for left in table.folder.glob("_*.tmp"):  # of whoever was killed
            left.unlink(missing_ok=True)
        missing = [number for number in range(chunks) if not part_of(table.folder, number).exists()]
        done = chunks - len(missing)
        if progress:
            progress(done, chunks)
        if missing:
            for _ in _by_ray(table, missing, ray, workers) if ray else work(table, missing, workers or _cores()):
                done += 1
                if progress:
                    progress(done, chunks)
        return _whole(table.folder, chunks, files)


def _cores() -> int:
    return max(1, len(os.sched_getaffinity(0)) // 2)


def _by_ray(table: Table, missing: list[int], address: str, workers: int) -> Iterator[int]:
    from engine import _ray  # an extra (requirements-scale.txt)

    return _ray.work(table, missing, address, workers)


def _asked(table: Table, chunk: int) -> Row:
    """What must be the same for every part of one table."""
    return {
        "version": VERSION,
        "backbone": table.backbone,
        "weights": table.sets[0].card["backbone"]["weights_hash"],  # whoever does a chunk refuses others (PromptSet.check)
        "precision": table.precision,
        "prompt_sets": {prompts.name: prompts.hash for prompts in table.sets},
        "look": json.loads(json.dumps(asdict(table.look))),
        "chunk": chunk,
    }


def _planned(folder: Path, chunks: Callable[[], Iterator[list[Entry]]], asked: Row) -> tuple[int, int]:
    """The plan of a new table, or the check of an old one. How many chunks and files it has."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        if any(folder.glob("part-*.parquet")):
            raise DataError(f"The folder {folder.name!r} holds parts of a table, but no {MANIFEST}.", "Name another --out.")
        count, files = write_plan(chunks(), folder / PLAN)
        _write(manifest, {"schema": 1, "notice": NOTICE, "asked": asked, "chunks": count, "files": files, "statuses": None})
        return count, files
    known = json.loads(manifest.read_text(encoding="utf-8"))
    other = [name for name, value in asked.items() if known["asked"].get(name) != value]
    if other:
        raise DataError(
            f"The table {folder.name!r} was begun with another {other[0].replace('_', ' ')}.", "Name another --out."
        )
    check_plan(chunks(), folder / PLAN)
    return known["chunks"], known["files"]


def _whole(folder: Path, chunks: int, files: int) -> Filled:
    """Counts the files of all parts by status, a part at a time, and writes it to the manifest."""
    import pyarrow.parquet

    statuses: Counter[str] = Counter()
    for number in range(chunks):
        part = pyarrow.parquet.read_table(part_of(folder, number), columns=["path", "inside", "status"])
        pairs = zip(*(part[name].to_pylist() for name in ("path", "inside", "status")), strict=True)
        statuses.update(status for *_, status in dict.fromkeys(pairs))
    manifest = folder / MANIFEST
    _write(manifest, json.loads(manifest.read_text(encoding="utf-8")) | {"statuses": dict(statuses)})
    return Filled(folder, chunks, files, dict(statuses))


def _write(place: Path, words: Row) -> None:
    unfinished = place.with_name(place.name + ".tmp")
    unfinished.write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, place)
