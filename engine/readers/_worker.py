"""The process that reads files which nobody vouches for: started, limited and stopped by engine.sandbox.

Requests and answers are a length, a JSON object, and for an image its pixels as bytes: never pickle, so that a decoder that a
crafted file has taken over can send numbers and words, and nothing that runs. Messages of unforeseen exceptions stay here,
since they may quote the file.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from engine.errors import EngineError, ImageError
from engine.limits import MIB, Limits
from engine.readers import open_file
from engine.types import Image, Series, Window

KEPT = 8  # files that stay open, so that the next frame finds its header read

_open: OrderedDict[tuple[str, int, int], list[Series]] = OrderedDict()


def opened(path: Path, limits: Limits) -> list[Series]:
    """The series of a file, kept for the next request as long as the file stays as it is."""
    for each in [key for key in _open if not os.path.exists(key[0])]:
        del _open[each]  # whoever brought it has taken it away
    try:
        about = path.stat()
        key = (str(path), about.st_mtime_ns, about.st_size)
    except (OSError, ValueError):
        return open_file(path, limits)  # says what is wrong with it
    if key not in _open:
        _open[key] = open_file(path, limits)
        while len(_open) > KEPT:
            _open.popitem(last=False)
    _open.move_to_end(key)
    return _open[key]


# --- what can be asked: (request, limits) -> answer, and an image or None ----------------------------------------------


def describe(asked: dict[str, Any], limits: Limits) -> tuple[dict[str, Any], Image | None]:
    """What a file holds, without its pixels."""
    found = [
        {
            "frames": s.frames,
            "affine": None if s.affine is None else np.asarray(s.affine, dtype=float).tolist(),
            "notes": s.notes,
            "warnings": s.warnings,
            "about": asdict(s.about),
            "slots": [asdict(slot) for slot in s.slots],
        }
        for s in opened(Path(asked["path"]), limits)
    ]
    return {"series": found}, None


def frame(asked: dict[str, Any], limits: Limits) -> tuple[dict[str, Any], Image | None]:
    """One frame."""
    window = Window(**asked["window"]) if asked["window"] else None
    image = opened(Path(asked["path"]), limits)[asked["part"]].frame(asked["index"], window)
    words = {k: v for k, v in vars(image).items() if k not in ("pixels", "window")}
    return words | {"window": asdict(image.window) if image.window else None}, image


def clean(asked: dict[str, Any], limits: Limits) -> tuple[dict[str, Any], Image | None]:
    """A copy of a file that identifies nobody."""
    from engine.readers._clean import clean as cleaned

    made = cleaned(Path(asked["path"]), Path(asked["target"]), limits, bytes.fromhex(asked["key"]))
    return {"removed": made.removed, "person": made.person}, None


def unpack(asked: dict[str, Any], limits: Limits) -> tuple[dict[str, Any], Image | None]:
    """The entries of a zip archive, as files of a folder."""
    from engine.readers._archive import unpack as unpacked

    done, refused = unpacked(Path(asked["path"]), Path(asked["folder"]), limits)
    return {
        "files": [(str(e.path), e.name, e.inside) for e in done],
        "refused": [(e.name, e.message, e.hint) for e in refused],
    }, None


ANSWERS: dict[str, Callable[[dict[str, Any], Limits], tuple[dict[str, Any], Image | None]]] = {
    "describe": describe,
    "frame": frame,
    "clean": clean,
    "unpack": unpack,
}


def answer(asked: dict[str, Any], limits: Limits) -> tuple[dict[str, Any], Image | None]:
    name = Path(asked["path"]).name
    try:
        return ANSWERS[asked["ask"]](asked, limits)
    except EngineError as error:
        return {"error": error.message, "hint": error.hint}, None
    except MemoryError:
        _open.clear()
        words = ImageError(
            f"The file {name!r} needs more than {limits.memory_mb} MiB of memory to be read.", "Save a smaller copy."
        )
        return {"error": words.message, "hint": words.hint, "memory": True}, None
    except RecursionError:
        return {"error": f"The file {name!r} nests its parts too deeply to be read.", "hint": "Export it again."}, None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # decoders raise anything on damaged files, and Rust's panic outside of Exception
        return {
            "error": f"The file {name!r} is damaged or not valid ({type(error).__name__}).",
            "hint": "Export it again.",
        }, None


# --- the process -------------------------------------------------------------------------------------------------------


def confine(limits: Limits) -> None:
    """Bounds on this process that no file can lift: memory beyond today's, no core dump, no file larger than an archive."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if os.path.exists("/proc") else 0
    for kind, most in (
        (resource.RLIMIT_AS, held + limits.memory_mb * MIB),
        (resource.RLIMIT_CORE, 0),  # a core dump would hold the image
        (resource.RLIMIT_FSIZE, limits.unpacked_mb * MIB),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def send(stream: BinaryIO, said: dict[str, Any], image: Image | None) -> None:
    pixels = None if image is None else np.ascontiguousarray(image.pixels, dtype=np.float32)
    words = json.dumps(said | {"shape": None if pixels is None else pixels.shape}).encode()
    stream.write(struct.pack("<I", len(words)) + words)
    if pixels is not None:
        stream.write(pixels.data.cast("B"))
    stream.flush()


def serve() -> None:
    """Answers until its standard input ends. argv: the limits, as JSON."""
    limits = Limits(**json.loads(sys.argv[-1]))
    asked_by, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # what libraries print may quote a file
        os.dup2(nothing, stream)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    confine(limits)
    answers.write(b"!")  # ready
    answers.flush()
    while len(size := asked_by.read(4)) == 4:
        asked = json.loads(asked_by.read(struct.unpack("<I", size)[0]))
        signal.alarm(limits.seconds + 5)  # ends this process if its parent is no longer there to do it
        said, image = answer(asked, limits)
        signal.alarm(0)
        send(answers, said, image)
