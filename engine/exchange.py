"""Description banks in the forms of other projects, in and out; a table, FORMATS, of what each form holds.

miu-vl: MIU-VL's prompt files (arXiv:2209.15517), image to prefix, name and suffix of each class, a file for each variant.
    Its invariant: caption == ". ".join(prefix + name + suffix). Colour, shape and location pass; texture and sentences do not.
medpromptclip: MedPromptCLIP's JSON, class to sentences.
biomedcoop: prompt_templates.py of BiomedCoOp (arXiv:2411.15232), a Python source whose literals are parsed here, never run.
Sentences pass through the last two as they are, on one line each. Sources: methods/miu_vl.md 1.5, medpromptclip.md 1.4, biomedcoop.md 3.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import DataError
from engine.tasks import ClassDescriptions, DescriptionBank, Task, made_bank
from engine.templates import FAITHFUL, location_of, put_in

LICENCE = "unknown: imported by the user"
BANKS = ("BIOMEDCOOP_TEMPLATES", "BIOMEDDPT_TEMPLATES")
BANK_BYTES = 4 * 2**20  # upstream's largest has 1 MB
PYTHON_PARTS = (
    400_000  # words and signs of a Python source, of which its tree takes up to a kilobyte each; upstream's has 75,000
)
KEYS = 20_000  # classes or images of a file; MIU-VL's largest has 380
RANKS = 3  # files that upstream makes of a data set: ..._top1.json to ..._top3.json
ALL_IMAGES = "all images"  # the key of a file's one entry where no images are named
TEMPLATE = "a photo of a {}."  # what upstream's CUSTOM_TEMPLATES hold for every data set

Found = dict[str, ClassDescriptions]


@dataclass(frozen=True)
class Format:
    """title : where it is from; suffix : of its files; read(paths, task, name) : classes and what they are from; write(bank,
    task, out, images) : the files that were written."""

    title: str
    suffix: str
    read: Callable[[Path, Task, str | None], tuple[Found, str]]
    write: Callable[[DescriptionBank, Task, Path, Sequence[str]], list[Path]]


def import_bank(path: str | Path, task: Task, name: str | None = None) -> DescriptionBank:
    """Upstream's sentences as a bank for the classes of a task; the form is seen by the file.

    A prompt_templates.py (name : which of BANKS, else the first there), a JSON file of MedPromptCLIP, or one of MIU-VL, of which
    "..._top1.json" brings its neighbours "..._top2.json" and so on. Raises DataError with every class that is missing.
    """
    path = Path(path)
    form = "biomedcoop" if path.suffix == ".py" else "miu-vl" if _is_miu_vl(_loaded(path)) else "medpromptclip"
    classes, source = FORMATS[form].read(path, task, name)
    silent = [label for label, about in classes.items() if not about.sentences]
    if silent:
        raise DataError(f"The bank {path.name!r} has no sentences for: {', '.join(silent)}.", "Its lists are empty.")
    step = {"by": "import", "form": form}
    return made_bank(DescriptionBank(task.id, source, LICENCE, classes, provenance=(step,)))


def export_bank(bank: DescriptionBank, task: Task, form: str, out: str | Path, images: Sequence[str] = ()) -> list[Path]:
    """Writes a bank in one of FORMATS and returns the files: one, but of MIU-VL one for each variant.

    images : keys of MIU-VL's file, as upstream's data set has them, without "./"; none gives one entry for all
    Raises DataError where the form is unknown or the bank has nothing that it could hold.
    """
    if form not in FORMATS:
        raise DataError(f"There is no form {form!r} of a bank.", f"Choose one of: {', '.join(FORMATS)}.")
    out = Path(out)
    if out.suffix != FORMATS[form].suffix:
        raise DataError(f"The file {out.name!r} has another ending than {FORMATS[form].suffix!r}.", f"{form} files end so.")
    if form != "miu-vl" and not all(bank.classes[label].sentences for label in task.names):
        raise DataError(f"The bank of {task.id!r} lacks sentences of some class.", "Write some, or export it as miu-vl.")
    out.parent.mkdir(parents=True, exist_ok=True)
    return FORMATS[form].write(bank, task, out, images)


# --- sentences ----------------------------------------------------------------------------------------------------------


def _read_json(path: Path, task: Task, name: str | None) -> tuple[Found, str]:
    return _sentences(_loaded(path), task, path.name, "a prompt bank of MedPromptCLIP")


def _write_json(bank: DescriptionBank, task: Task, out: Path, images: Sequence[str]) -> list[Path]:
    out.write_text(json.dumps(_lists(bank, task), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [out]


def _read_python(path: Path, task: Task, name: str | None) -> tuple[Found, str]:
    target, found = _literal(_text(path), path.name, name)
    return _sentences(found, task, path.name, f"{target} of prompt_templates.py")


def _write_python(bank: DescriptionBank, task: Task, out: Path, images: Sequence[str]) -> list[Path]:
    """Plain ASCII, whatever the sentences hold, so that Python reads it on any machine."""
    lines = ['"""Sentences for BiomedCoOp, by its class names: exported from PromptScope."""', ""]
    lines += [f"CUSTOM_TEMPLATES = {{{task.benchmark or task.id.upper()!a}: {TEMPLATE!r}}}", "", f"{BANKS[0]} = {{"]
    for label, sentences in _lists(bank, task).items():
        lines += [f"    {label!a}: [", *(f"        {each!a}," for each in sentences), "    ],"]
    out.write_text("\n".join([*lines, "}"]) + "\n", encoding="ascii")
    return [out]


def _lists(bank: DescriptionBank, task: Task) -> dict[str, list[str]]:
    return {label: list(bank.classes[label].sentences) for label in task.names}


def _sentences(found: Any, task: Task, name: str, form: str) -> tuple[Found, str]:
    """Class to sentences -> the task's classes, by their names, displayed names or aliases."""
    named = isinstance(found, dict) and found and all(isinstance(key, str) for key in found)
    if not named or not all(map(_is_texts, found.values())):
        raise DataError(
            f"The bank {name!r} has another form than class to list of sentences.",
            "It should be a prompt_templates.py, or JSON of MedPromptCLIP or MIU-VL.",
        )
    keys = {_plain(key): key for key in found}
    given = {label.name: [*label.aliases, label.display, label.name] for label in task.labels}
    of = {label: [keys[_plain(known)] for known in names if _plain(known) in keys][-1:] for label, names in given.items()}
    missing = [label for label, key in of.items() if not key]
    if missing:
        held = ", ".join(key[:40] for key in list(found)[:12]) + (f" and {len(found) - 12} more" if len(found) > 12 else "")
        raise DataError(f"The bank {name!r} has no sentences for: {', '.join(missing)}.", f"It holds: {held}.")
    classes = {
        label: ClassDescriptions({}, {}, tuple(_sentence(each) for each in found[key] if each.strip()), ())
        for label, (key,) in of.items()
    }
    repeated = sum(len(each.sentences) - len(set(each.sentences)) for each in classes.values())
    return (
        classes,
        f"Imported from {form}; {repeated} sentences are repeats, which are kept: they weigh in upstream's means.",
    )


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


def _sentence(text: str) -> str:
    """On one line, with one full stop where MedPromptCLIP's generator added a second."""
    line = " ".join(text.split())
    return line.rstrip(".") + "." if line.endswith("..") else line


# --- MIU-VL -------------------------------------------------------------------------------------------------------------


def _is_miu_vl(found: Any) -> bool:
    return isinstance(found, dict) and bool(found) and all(isinstance(each, dict) for each in found.values())


def _read_miu_vl(path: Path, task: Task, name: str | None) -> tuple[Found, str]:
    """Each class's distinct phrases, its words (the most frequent first within a file) and its names, as "query" names.

    The i-th entry is the task's i-th class. Colour and shape are in newer files only; a location is what follows " in ", or
    begins with another preposition. Image paths are forgotten.
    """
    phrases: dict[str, dict[str, None]] = {label: {} for label in task.names}
    ranked: dict[str, dict[str, list[str]]] = {label: {} for label in task.names}
    files = _ranks_of(path)
    for file in files:
        counts: dict[str, dict[str, Counter[str]]] = {label: {} for label in task.names}
        for about in _images(_loaded(file), file.name):
            for label, entry in zip(task.names, _entries(about, task, file.name), strict=True):
                phrases[label][entry.pop("phrase")] = None
                for kind, word in entry.items():
                    counts[label].setdefault(kind, Counter())[word] += bool(word)
        for label, kinds in counts.items():
            for kind, counted in kinds.items():
                words = ranked[label].setdefault(kind, [])
                words += [word for word, count in counted.most_common() if count and word not in words]
    classes = {}
    for label, held in ranked.items():
        slots = {kind: tuple(words) for kind, words in held.items() if words}
        names = {"query": slots.pop("query", ())}
        classes[label] = ClassDescriptions(names, slots, tuple(each for each in phrases[label] if each.strip()), ())
    which = f"{len(files)} prompt files" if len(files) > 1 else "a prompt file"
    return classes, f"Imported from {which} of MIU-VL; 0 sentences are repeats."


def _ranks_of(path: Path) -> list[Path]:
    """ "x_top1.json" with its neighbours, in the order of their ranks; any other file alone."""
    if not path.stem.endswith("_top1"):
        return [path]
    at = [path.with_name(f"{path.stem[:-1]}{rank}{path.suffix}") for rank in range(1, RANKS + 1)]
    return [each for each in at if each.is_file()]


def _images(found: Any, name: str) -> list[dict[str, Any]]:
    if not _is_miu_vl(found):
        raise DataError(f"The file {name!r} is no prompt file of MIU-VL as its neighbour is.", "Make the files again.")
    return list(found.values())


def _entries(about: dict[str, Any], task: Task, name: str) -> list[dict[str, str]]:
    """phrase, query, colour, shape and location of each class. Raises DataError."""

    def column(key: str) -> list[str]:
        return about.get(key) if _is_texts(about.get(key)) else []  # type: ignore[return-value]

    prefix, names, suffix = (column(key) for key in ("prefix", "name", "suffix"))
    if not names or not len(prefix) == len(names) == len(suffix):
        raise DataError(f"An image in {name!r} lacks prefix, name or suffix of each class.", "Make the file again.")
    texts = ["".join(parts) for parts in zip(prefix, names, suffix, strict=True)]
    if about.get("caption") != ". ".join(texts):
        raise DataError(f"A caption in {name!r} is not its prefixes, names and suffixes.", "Make the file again.")
    if len(texts) != len(task.names):
        raise DataError(
            f"The bank {name!r} has {len(texts)} classes; the task {task.id!r} has {len(task.names)}: {', '.join(task.names)}."
        )
    given = {key: column(key) for key in ("color", "shape", "cls")}
    held = {key: [each.strip() for each in found] for key, found in given.items() if len(found) == len(texts)}
    none = [""] * len(texts)
    made = []
    for c, text in enumerate(texts):
        colour, shape = (held.get(key, none)[c] for key in ("color", "shape"))
        bare = names[c].strip()
        for word in (colour, shape):  # older files hold them in the name
            bare = bare.removeprefix(word).strip() or bare
        location = location_of(suffix[c].strip()) if suffix[c].startswith(" ") else ""
        query = held.get("cls", none)[c] or bare
        made.append({"phrase": text, "query": query, "colour": colour, "shape": shape, "location": location})
    return made


def _write_miu_vl(bank: DescriptionBank, task: Task, out: Path, images: Sequence[str]) -> list[Path]:
    """The file of rank j has word j of every slot at once; there are as many as the longest slot of any class has words, up to
    RANKS, and a class that has no word j says less. Files of further ranks that were there are removed: they are of another bank."""
    classes = [bank.classes[label] for label in task.names]
    kinds = ("colour", "shape", "location")
    most = max(len(each.attributes.get(kind, ())) for each in classes for kind in kinds)
    if not most:
        raise DataError(
            f"The bank of {task.id!r} has no colour, shape or location of any class.", "Write or fill some slots."
        )
    keys = [each.removeprefix("./") for each in images] or [ALL_IMAGES]
    names = [next(iter(about.synonyms.get("query", ())), label) for label, about in zip(task.names, classes, strict=True)]
    written = []
    for rank in range(1, RANKS + 1):
        file = out.with_name(f"{out.stem}_top{rank}{out.suffix}")
        if rank > most:
            file.unlink(missing_ok=True)
            continue
        words = [{kind: "".join(about.attributes.get(kind, ())[rank - 1 : rank]) for kind in kinds} for about in classes]
        prefix, suffix = ([put_in(part, each) for each in words] for part in FAITHFUL.split("{name}"))
        caption = ". ".join("".join(parts) for parts in zip(prefix, names, suffix, strict=True))
        entry = {"caption": caption, "prefix": prefix, "name": names, "suffix": suffix}
        entry |= {"color": [each["colour"] for each in words], "shape": [each["shape"] for each in words], "cls": names}
        text = json.dumps(dict.fromkeys(keys, entry), ensure_ascii=False, indent=1)
        file.write_text(text + "\n", encoding="utf-8")
        written.append(file)
    return written


# --- files of strangers -------------------------------------------------------------------------------------------------


def _is_texts(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(each, str) for each in found)


def _text(path: Path) -> str:
    """Raises DataError where it is too large, or no text."""
    try:
        if path.stat().st_size > BANK_BYTES:
            raise DataError(f"The bank {path.name!r} is larger than {BANK_BYTES // 2**20} MB.", "It is no file of prompts.")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"There is no file {str(path)!r}.", "Take a prompt_templates.py or a JSON file.") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path.name, error) from error


def _loaded(path: Path) -> Any:
    """JSON without a key twice, and without text that could not be written again. Raises DataError."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > KEYS:
            raise ValueError(f"it has {len(pairs)} entries in one place; up to {KEYS} are read")
        made = dict(pairs)
        if len(made) < len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise ValueError(f"the key {twice[:40]!r} is in it twice")
        return made

    text = _text(path)
    try:
        found = json.loads(text, object_pairs_hook=once)
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair cannot be written: ValueError
        return found
    except (ValueError, RecursionError, MemoryError) as error:
        raise _unreadable(path.name, error) from error


def _literal(text: str, file: str, name: str | None) -> tuple[str, Any]:
    """The first of BANKS (or the named one) in a Python source, by its literal. Raises DataError."""
    try:
        if len(text.split()) + sum(map(text.count, ",([{+-*/~.;:|&^@")) > PYTHON_PARTS:  # before a tree of it is made
            raise ValueError("it holds more than a file of prompts does")
        for node in ast.parse(text).body:
            targets = (
                [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
            )
            for target in targets:
                if isinstance(target, ast.Name) and target.id in ([name] if name else BANKS):
                    found = ast.literal_eval(node.value)  # type: ignore[attr-defined]
                    json.dumps(found, ensure_ascii=False, default=str).encode()
                    return target.id, found
        raise ValueError(f"it has no {name or ' or '.join(BANKS)}")
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise _unreadable(file, error) from error


def _unreadable(name: str, error: Exception) -> DataError:
    why = error.strerror if isinstance(error, OSError) else None
    why = why or " ".join(str(error).split())[:160] or type(error).__name__
    return DataError(f"The bank {name!r} cannot be read ({why}).", "Take a prompt_templates.py or a JSON file.")


FORMATS = {
    "miu-vl": Format("MIU-VL's prompt files", ".json", _read_miu_vl, _write_miu_vl),
    "medpromptclip": Format("MedPromptCLIP's JSON of sentences", ".json", _read_json, _write_json),
    "biomedcoop": Format("BiomedCoOp's prompt_templates.py", ".py", _read_python, _write_python),
}
