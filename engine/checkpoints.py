"""PyTorch checkpoints without PyTorch: the tensors of a `torch.save` file by name, each read when asked for; nothing runs.

Such a file is a zip (torch 1.6 and later): data.pkl, a pickle that says what there is, and one record of raw bytes a
storage. An upstream checkpoint has a gigabyte of records, of which an import needs a few kilobytes, and pickled objects
(a scheduler with its optimiser), for which a pickle may call any function.

Here the pickle's steps are followed, but by an interpreter that has nothing to call: it puts together dicts, lists, tuples,
text and numbers. A class or function is only its name; some names mean a tensor or a dict, every other one makes a NOTHING.
Left out: files of torch before 1.6 and of big-endian machines, and types that are not in DTYPES.
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from engine.errors import PromptSetError

PICKLE_BYTES = 64 * 2**20
PICKLE_STEPS = 2_000_000  # 25 a tensor or so; upstream's files have fewer than 100,000
LARGEST = 2**48  # of an offset, size or stride
DTYPES = {
    "torch FloatStorage": "<f4",
    "torch DoubleStorage": "<f8",
    "torch HalfStorage": "<f2",
    "torch BFloat16Storage": "bfloat16",
    "torch LongStorage": "<i8",
}
NOTHING = object()
AGAIN = "Fetch the file again."
# What zipfile raises for damaged files, as found by damaging them
ZIP_FAULTS = (zipfile.BadZipFile, OSError, EOFError, ValueError, struct.error, RuntimeError)  # RuntimeError: encrypted
# What a step of a pickle leaves on the stack, where that is its own argument or a constant.
_PUSHED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "EMPTY_SET": NOTHING, "PERSID": NOTHING}
_ARGUMENT = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE"}
_ARGUMENT |= {"SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"}
_ARGUMENT |= {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies. kind : its storage's class ("torch FloatStorage"); offset and stride count elements."""

    kind: str
    record: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def row(self, index: int) -> Stored:
        """The index-th along the first axis."""
        return replace(self, offset=self.offset + index * self.stride[0], shape=self.shape[1:], stride=self.stride[1:])


@dataclass(frozen=True)
class _Name:
    text: str


@dataclass(frozen=True)
class _Storage:
    kind: str
    record: str


class Checkpoint:
    """An open file. tensors : of its state_dict, or of a file that is one; epoch : None where it has none.

    Raises PromptSetError for what is no such file, damaged, or past the limits above.
    """

    def __init__(self, source: str | Path | BinaryIO):
        self.name = Path(source).name if isinstance(source, (str, Path)) else "checkpoint"
        try:
            self._file: BinaryIO = open(source, "rb") if isinstance(source, (str, Path)) else source  # noqa: SIM115
            start = self._file.read(4)
            self._size = self._file.seek(0, 2)
        except OSError as error:
            raise self._fault(f"cannot be opened ({error.strerror})", "Check the path.") from error
        try:
            self._read_index(start)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def _fault(self, what: str, hint: str = AGAIN) -> PromptSetError:
        return PromptSetError(f"The checkpoint {self.name!r} {what}.", hint)

    def _read_index(self, start: bytes) -> None:
        if start != b"PK\x03\x04":
            raise self._fault(
                "is not in PyTorch's zip format", "Take a file that torch 1.6 or later wrote; older ones are not read."
            )
        try:
            self._zip = zipfile.ZipFile(self._file)
            indices = [name for name in self._zip.namelist() if name.split("/")[-1] == "data.pkl"]
        except ZIP_FAULTS as error:
            raise self._fault(f"is cut short or damaged ({error})") from error
        if len(indices) != 1:
            raise self._fault(f"has {len(indices)} data.pkl inside, not 1", "It should be a file of torch.save.")
        self._folder = indices[0].removesuffix("data.pkl")
        if self._zip.getinfo(indices[0]).file_size > PICKLE_BYTES:
            raise self._fault(f"has a data.pkl of more than {PICKLE_BYTES // 2**20} MB", "It is no prompt checkpoint.")
        try:
            found = _follow(self._bytes(indices[0]))
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
            raise self._fault(f"has a data.pkl that cannot be followed ({str(error)[:120]})") from error
        top = found if isinstance(found, dict) else {}
        epoch = top.get("epoch")
        self.epoch = epoch if type(epoch) is int else None
        state = top.get("state_dict", top)
        named = state.items() if isinstance(state, dict) else ()
        self.tensors: dict[str, Stored] = {k: v for k, v in named if isinstance(v, Stored)}
        if not self.tensors:
            raise self._fault("holds no tensors by name", "It should hold a state_dict.")

    def read(self, stored: Stored) -> np.ndarray:
        """The tensor; bfloat16 as float32. Raises PromptSetError."""
        if stored.kind not in DTYPES:
            raise self._fault(f"has a tensor of a type that is not read ({stored.kind})", "Save it as float32.")
        half = DTYPES[stored.kind] == "bfloat16"
        dtype = np.dtype("<u2" if half else DTYPES[stored.kind])
        if 0 in stored.shape:
            return np.empty(stored.shape, np.float32 if half else dtype)
        extent = 1 + sum((n - 1) * step for n, step in zip(stored.shape, stored.stride, strict=True))
        if math.prod(stored.shape) > extent:
            raise self._fault(f"has a tensor of the shape {stored.shape} in {extent} elements", "Save it again, as a copy.")
        record = f"{self._folder}data/{stored.record}"
        flat = np.frombuffer(self._bytes(record, stored.offset * dtype.itemsize, extent * dtype.itemsize), dtype)
        if half:
            flat = (flat.astype("<u4") << 16).view("<f4")
        strides = [step * flat.itemsize for step in stored.stride]
        return np.lib.stride_tricks.as_strided(flat, stored.shape, strides).copy()

    def _bytes(self, record: str, start: int = 0, length: int | None = None) -> bytes:
        """A part of a record, which torch never compresses; the whole with its checksum looked at."""
        if record not in self._zip.NameToInfo:
            raise self._fault(f"lacks the record {record!r}")
        info = self._zip.getinfo(record)
        length = info.file_size if length is None else length
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise self._fault(f"has a compressed or encrypted record {record!r}", "torch.save writes none: do not trust it.")
        if info.file_size > self._size or start + length > info.file_size:
            raise self._fault(f"has {info.file_size} bytes in the record {record!r}, where {start + length} are needed")
        try:
            if length == info.file_size:
                return self._zip.read(info)
            self._file.seek(info.header_offset + 26)  # of the local header: the lengths of its name and extra field
            skipped = sum(struct.unpack("<HH", self._file.read(4)))
            self._file.seek(info.header_offset + 30 + skipped + start)
            raw = self._file.read(length)
        except ZIP_FAULTS as error:
            raise self._fault(f"is cut short or damaged ({error})") from error
        if len(raw) != length:
            raise self._fault(f"is cut short: the record {record!r} is not whole")
        return raw


def read_records(source: str | Path | BinaryIO, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """The tensors whose names are wanted; no other record is read. Raises PromptSetError."""
    with Checkpoint(source) as file:
        return {name: file.read(stored) for name, stored in file.tensors.items() if wanted(name)}


def _follow(raw: bytes) -> Any:
    """What a pickle's steps leave, with Stored for tensors. Raises ValueError and its like for what is no such pickle.

    Keys other than text are dropped: to hash a nested one may cost anything.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def taken(count: int) -> list[Any]:
        if count > len(stack):
            raise ValueError("its stack is empty")
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return items

    argument: Any
    for step, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
        if step > PICKLE_STEPS:
            raise ValueError(f"it has more than {PICKLE_STEPS} steps")
        name = opcode.name
        if name in ("PROTO", "FRAME", "STOP"):
            pass
        elif name in _PUSHED:
            stack.append(_PUSHED[name])
        elif name in _ARGUMENT:
            stack.append(argument)
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name in _TAKES:
            stack.append(tuple(taken(_TAKES[name])))
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name == "LIST":
            stack.append(since_mark())
        elif name in ("DICT", "SETITEM", "SETITEMS"):
            items = taken(2) if name == "SETITEM" else since_mark()
            if name == "DICT":
                stack.append({})
            if isinstance(stack[-1], dict):
                pairs = zip(items[::2], items[1::2], strict=True)
                stack[-1].update((k, v) for k, v in pairs if isinstance(k, str))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = taken(1) if name == "APPEND" else since_mark()
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        elif name == "GLOBAL":
            stack.append(_Name(argument))
        elif name == "STACK_GLOBAL":
            module, attribute = taken(2)
            stack.append(_Name(f"{module} {attribute}" if isinstance(module, str) and isinstance(attribute, str) else ""))
        elif name == "REDUCE":
            stack.append(_made(*taken(2)))
        elif name in ("NEWOBJ", "NEWOBJ_EX"):
            taken(2 if name == "NEWOBJ" else 3)
            stack.append(NOTHING)
        elif name in ("OBJ", "INST"):
            since_mark()
            stack.append(NOTHING)
        elif name == "BUILD":  # an object's state: there is no object
            taken(1)
        elif name == "BINPERSID":
            stack.append(_storage(*taken(1)))
        elif name == "POP":
            taken(1)
        elif name == "POP_MARK":
            since_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            raise ValueError(f"the step {name} is not known")
    return stack[-1]


def _made(function: Any, arguments: Any) -> Any:
    """What a call would have made. torch/_utils.py: _rebuild_tensor_v2(storage, offset, size, stride, ...)."""
    name = function.text if isinstance(function, _Name) else ""
    if name in ("collections OrderedDict", "collections defaultdict"):
        return {}
    if name in ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state"):
        return arguments[0]
    if name != "torch._utils _rebuild_tensor_v2":
        return NOTHING
    storage, offset, shape, stride = arguments[:4]
    numbers = [offset, *shape, *stride]
    if not isinstance(storage, _Storage) or any(type(x) is not int or not 0 <= x < LARGEST for x in numbers):
        raise ValueError("a tensor in it has no place")
    if len(shape) != len(stride) or len(shape) > 8:
        raise ValueError("a tensor in it has a wrong shape")
    return Stored(storage.kind, storage.record, offset, tuple(shape), tuple(stride))


def _storage(about: Any) -> Any:
    """about : ("storage", class, record, device, elements), as torch/serialization.py writes; the device does not matter."""
    if isinstance(about, tuple) and len(about) == 5 and isinstance(about[1], _Name) and isinstance(about[2], str):
        return _Storage(about[1].text, about[2])
    return NOTHING
