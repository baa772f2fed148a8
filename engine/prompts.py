"""Prompt sets: what is left after a method has learned. A folder with `prompts.safetensors` and `card.json`.

Never pickle, never the backbone's weights, never file names or paths of the data. The card's form is
assets/schemas/card.json; fields that it does not know are kept.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import safetensors
import safetensors.numpy

from engine.errors import PromptSetError
from engine.heads import HEADS, Head
from engine.tasks import ASSETS
from engine.types import VisualPrompt

if TYPE_CHECKING:
    from engine.backbones.base import Backbone

SCHEMA_VERSION = 1
LIBRARY = ASSETS.parent / "learned_prompts"
INTENDED_USE = "Research and demonstration only; not a medical device, not for diagnosis."


@dataclass(frozen=True)
class PromptSet:
    """Labels and a head over one exact backbone.

    card : everything that is written beside the numbers, as in card.json
    visual_prompt : for `encode_images`, or None: then this is a shared-image set
    learned : what the method learned, by name ("context" (n, W), ...), so that the set carries to other class names
    """

    head: Head
    card: dict[str, Any]
    visual_prompt: VisualPrompt | None = None
    learned: dict[str, np.ndarray] = field(default_factory=dict)
    labels: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        check_card(self.card)
        object.__setattr__(self, "labels", tuple(self.card["labels"]))
        if len(self.labels) != self.head.classes:
            raise PromptSetError(
                f"The prompt set {self.name!r} names {len(self.labels)} labels for {self.head.classes} classes.",
                "Restore the card.json that was saved with it.",
            )

    @property
    def name(self) -> str:
        return self.card["name"]

    @property
    def title(self) -> str:
        return f"{self.card['task']['title']} ({self.card['method']['name']})"

    @property
    def temperature(self) -> float | None:
        return self.card["temperature"]

    @property
    def activation(self) -> str:
        return self.card["activation"]

    @property
    def class_embeddings(self) -> np.ndarray | None:
        return self.head.class_embeddings

    @property
    def is_shared_image(self) -> bool:
        """Any number of such sets score one image from one image forward."""
        return self.visual_prompt is None

    def display(self, label: str) -> str:
        """The label as people read it."""
        names = self.card.get("display", self.labels)
        return names[self.labels.index(label)]

    def scores(self, features: np.ndarray) -> np.ndarray:
        """features (B, D) float32, unit length -> (B, C) float32 logits."""
        return self.head.scores(features)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(B, C) float32: softmax of the scores over the fitted temperature (1 where none was), or the sigmoid."""
        scores = self.scores(features) / (self.temperature or 1.0)
        if self.activation == "sigmoid":
            return 1 / (1 + np.exp(-scores))
        exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
        return exponents / exponents.sum(axis=1, keepdims=True)

    def check(self, backbone: Backbone) -> None:
        """Raises PromptSetError where the backbone is not the one that the set was made for."""
        made_for = self.card["backbone"]
        if made_for["weights_hash"] == backbone.weights_hash:
            return
        if made_for["id"] != backbone.id:
            raise PromptSetError(
                f"The prompt set {self.name!r} was made for the backbone {made_for['id']!r}, not {backbone.id!r}.",
                f"Choose {made_for['id']!r}, or a set made for {backbone.id!r}.",
            )
        raise PromptSetError(
            f"The prompt set {self.name!r} was made for other weights of {backbone.id!r} "
            f"({made_for['weights_hash'][:12]}, here {backbone.weights_hash[:12]}).",
            "Make it again with these weights.",
        )

    def is_same(self, other: PromptSet) -> bool:
        """The same in all but the name."""
        if self.card | {"name": other.name} != other.card:
            return False
        how = [(p.insert, p.literal) if p else None for p in (self.visual_prompt, other.visual_prompt)]
        mine, theirs = (safetensors.numpy.load(each._packed({})) for each in (self, other))
        equal = mine.keys() == theirs.keys() and all(np.array_equal(mine[k], theirs[k]) for k in mine)
        return equal and how[0] == how[1]

    def save(self, folder: str | Path) -> Path:
        """Writes prompts.safetensors and card.json; returns the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prompts.safetensors").write_bytes(self._packed({"labels": json.dumps(self.labels)}))
        text = json.dumps(self.card, indent=1, ensure_ascii=False, sort_keys=True)
        (folder / "card.json").write_text(text + "\n", encoding="utf-8")
        return folder

    def export(self, path: str | Path) -> Path:
        """One file to send: the tensors, with the card in their header. `load` reads it too."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._exported())
        return path

    @property
    def size(self) -> int:
        """Bytes of the exported file."""
        return len(self._exported())

    @property
    def hash(self) -> str:
        """sha256 of the card and of all numbers, 64 hexadecimal digits."""
        prompt = self.visual_prompt
        how = [self.card, [prompt.insert, prompt.literal] if prompt else None]
        made = hashlib.sha256(json.dumps(how, sort_keys=True).encode())
        for name, value in sorted(safetensors.numpy.load(self._packed({})).items()):
            made.update(f"{name} {value.shape}".encode() + value.tobytes())
        return made.hexdigest()

    def _exported(self) -> bytes:
        return self._packed({"labels": json.dumps(self.labels), "card": json.dumps(self.card, sort_keys=True)})

    def _packed(self, metadata: dict[str, str]) -> bytes:
        tensors = self.head.tensors() | {f"learned.{name}": value for name, value in self.learned.items()}
        if self.visual_prompt is not None:
            tensors["visual_prompt"] = self.visual_prompt.tokens
            how = {"insert": self.visual_prompt.insert, "literal": self.visual_prompt.literal}
            metadata = metadata | {"visual_prompt": json.dumps(how)}
        made = {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in tensors.items()}
        return safetensors.numpy.save(made, {"format": "promptscope"} | metadata)

    @classmethod
    def load(cls, folder: str | Path) -> PromptSet:
        """A saved folder, an exported file, or a set of the library by its name. Raises PromptSetError for anything that
        is not whole."""
        place = Path(folder)
        if not place.exists() and (LIBRARY / place.name).is_dir() and place.name == str(folder):
            place = LIBRARY / place.name
        if not place.exists():
            raise PromptSetError(f"There is no prompt set {str(folder)!r}.", "`python -m engine list` shows what is there.")
        tensors, metadata = _read_tensors(place if place.is_file() else place / "prompts.safetensors", place.name)
        card = _card_inside(metadata, place.name) if place.is_file() else _read_card(place / "card.json")
        labels = json.loads(metadata["labels"])
        if labels != card["labels"]:
            raise PromptSetError(
                f"The labels of the prompt set {place.name!r} are not those that it was saved with: "
                f"{', '.join(card['labels'])} in card.json, {', '.join(labels)} in prompts.safetensors.",
                "Restore the card.json that was saved with it.",
            )
        learned = {k.removeprefix("learned."): tensors.pop(k) for k in list(tensors) if k.startswith("learned.")}
        try:
            visual_prompt = _visual_prompt(tensors.pop("visual_prompt", None), metadata)
            if not all(np.isfinite(each).all() for each in learned.values()):
                raise PromptSetError("What it learned holds values that are no finite numbers.")
            head = HEADS[card["head"]].from_tensors(tensors)
        except PromptSetError as error:
            raise PromptSetError(f"The prompt set {place.name!r} is damaged. {error.message}", "Import it again.") from error
        return cls(head, card, visual_prompt, learned)


def _visual_prompt(tokens: np.ndarray | None, metadata: dict[str, str]) -> VisualPrompt | None:
    if tokens is None:
        return None
    if tokens.ndim != 3 or tokens.dtype != np.float32 or not np.isfinite(tokens).all():
        raise PromptSetError(f"Its visual prompt of the shape {tokens.shape} is no finite float32 (layers, M, width).")
    try:
        how = json.loads(metadata.get("visual_prompt", "{}"))
        return VisualPrompt(tokens, **how)
    except (ValueError, TypeError):
        raise PromptSetError("What its visual prompt is for cannot be read.") from None


def check_card(card: dict[str, Any]) -> None:
    """Raises PromptSetError with the first thing in a card that is not as assets/schemas/card.json asks."""
    name = card.get("name", "without a name")
    version = card.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise PromptSetError(
            f"The prompt set {name!r} has the format version {version}; this PromptScope reads {SCHEMA_VERSION}.",
            "Use a newer PromptScope.",
        )
    schema = json.loads((ASSETS / "schemas" / "card.json").read_text(encoding="utf-8"))
    fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(card))
    if fault is not None:
        where = "/".join(str(p) for p in fault.absolute_path) or "card.json"
        raise PromptSetError(f"The card of the prompt set {name!r} is not valid at {where}: {fault.message[:200]}.")
    if card["head"] not in HEADS:
        raise PromptSetError(
            f"The prompt set {name!r} has a head of the kind {card['head']!r}, which this PromptScope does not know.",
            "Use a newer PromptScope.",
        )
    if "display" in card and len(card["display"]) != len(card["labels"]):
        raise PromptSetError(
            f"The card of the prompt set {name!r} has {len(card['display'])} display names for {len(card['labels'])} labels."
        )


def _read_card(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PromptSetError(f"The prompt set {path.parent.name!r} has no card.json.") from None
    except (OSError, ValueError) as error:
        raise PromptSetError(f"The card of the prompt set {path.parent.name!r} cannot be read: {error}.") from error
    return _parsed(text, path.parent.name)


def _card_inside(metadata: dict[str, str], name: str) -> dict[str, Any]:
    if "card" not in metadata:
        raise PromptSetError(f"The file {name!r} has no card in it.", "Make it with `python -m engine export`.")
    return _parsed(metadata["card"], name)


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        card = json.loads(text)
    except ValueError as error:
        raise PromptSetError(f"The card of the prompt set {name!r} cannot be read: {error}.") from error
    if not isinstance(card, dict):
        raise PromptSetError(f"The card of the prompt set {name!r} is no JSON object.")
    check_card(card)
    return card


def _read_tensors(path: Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="numpy") as stored:
            metadata = stored.metadata() or {}
            json.loads(metadata["labels"])
            return {name: stored.get_tensor(name) for name in stored.keys()}, metadata  # noqa: SIM118 (no mapping)
    except FileNotFoundError:
        raise PromptSetError(f"The prompt set {name!r} has no prompts.safetensors.") from None
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise PromptSetError(
            f"The tensors of the prompt set {name!r} cannot be read: the file is damaged, or is no prompt set.",
            "Import it again.",
        ) from error


def library(folder: Path = LIBRARY) -> list[str]:
    """Names of the prompt sets in the library, in alphabetical order."""
    return sorted(p.parent.name for p in folder.glob("*/card.json")) if folder.is_dir() else []
