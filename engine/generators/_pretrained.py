"""A model of transformers from a local folder, the hub's offline cache or the hub, loaded so that nothing of it is executed.

Weights are safetensors, or pytorch_model.bin where a repository has nothing else (BiomedBERT's has not), which torch then reads
as tensors only (weights_only). Code of a repository is never run. A revision is pinned where it is known.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import transformers

from engine.backbones._hub import Repository, unreached
from engine.errors import BackboneError

BESIDE = ("*.json", "*.txt", "*.model", "*.jinja")  # configuration, tokenizer, chat template
SAFE, OTHER = "model*.safetensors", "pytorch_model*.bin"
COMMIT = 40  # hexadecimal digits of a revision


@dataclass(frozen=True)
class Source:
    """A model's folder. id : as it was asked for, for a local folder its last name; words : where it came from."""

    id: str
    folder: Path
    words: str

    @property
    def is_safe(self) -> bool:
        return any(self.folder.glob(SAFE))

    def identity(self) -> dict[str, str]:
        """What a bank says of it: the hub's commit, or for a folder of one's own the hash of its weights; no path."""
        name = self.folder.resolve().name
        if len(name) == COMMIT and all(c in "0123456789abcdef" for c in name):
            return {"model": self.id, "revision": name}
        sha = hashlib.sha256()
        for file in sorted(self.folder.glob(SAFE if self.is_safe else OTHER)):
            with file.open("rb") as data:
                while block := data.read(1 << 20):
                    sha.update(block)
        return {"model": self.id, "weights_sha256": sha.hexdigest()}

    def config(self) -> dict[str, Any]:
        """config.json. Raises BackboneError."""
        try:
            found = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("no object")
            return found
        except (OSError, ValueError, RecursionError) as error:
            raise BackboneError(f"The model {self.id!r} has no readable config.json ({type(error).__name__}).") from error


def find(id: str, revision: str = "") -> Source:
    """A folder on this machine, else OWNER/NAME in the offline cache, else on the hub. Raises BackboneError."""
    place = Path(id).expanduser()
    if place.is_dir():
        source = Source(place.resolve().name, place, "local folder")
        if not _whole(place):
            raise BackboneError(
                f"The folder {source.id!r} holds no model of transformers.",
                "It should have config.json, a tokenizer and model.safetensors.",
            )
        return source
    if id.count("/") != 1 or id.startswith((".", "/", "~")):
        raise BackboneError(f"There is no model {id!r}.", "Give a folder, or a name of the hub as in OWNER/NAME.")
    for weights in (SAFE, OTHER):
        repository = Repository(id, revision or None, (*BESIDE, weights))
        folder = _tried(partial(repository.snapshot, offline=True))
        if folder and _whole(folder):
            return Source(id, folder, f"offline cache of {repository}")
    why = "nothing of it is there"
    for weights in (SAFE, OTHER):
        repository = Repository(id, revision or None, (*BESIDE, weights))
        try:
            folder = repository.snapshot(offline=False)
        except Exception as error:  # the hub's client raises a dozen kinds; each means that it was not reached
            why = type(error).__name__
            break
        if _whole(folder):
            return Source(id, folder, f"hub, {repository}")
    raise unreached(id, (repository,), why, "give that folder as the model")


def _tried(load: Callable[[], Path]) -> Path | None:
    try:
        return load()
    except Exception:  # as above: it is not in the cache
        return None


def _whole(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (any(folder.glob(SAFE)) or any(folder.glob(OTHER)))


def load(kind: Any, source: Source, what: str) -> Any:
    """The model, frozen, on the processor, in float32. kind : a class of transformers; what : which head it must have, in words.
    Raises BackboneError, also where weights of that head are missing (transformers would make them at random)."""
    model, info = guarded(
        source,
        lambda: kind.from_pretrained(
            source.folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=source.is_safe,
            weights_only=True,
            dtype="float32",
            output_loading_info=True,
        ),
    )
    missing = sorted(info["missing_keys"]) + sorted(str(each) for each in info.get("mismatched_keys", ()))
    if missing:
        raise BackboneError(
            f"The model {source.id!r} has no {what}: it lacks {len(missing)} weights, the first is {missing[0]!r}.",
            "Choose a model that was trained for this.",
        )
    return model.eval().requires_grad_(False)


def guarded(source: Source, make: Callable[[], Any]) -> Any:
    """What `make` loads. Raises BackboneError for whatever transformers says of it, and keeps its bars and remarks off the screen."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        return make()
    except Exception as error:  # configuration, tokenizer and weights are somebody's; each kind means that they do not fit
        words = " ".join(str(error).split())[:160]
        raise BackboneError(
            f"The model {source.id!r} cannot be loaded ({type(error).__name__}: {words}).",
            "Fetch it again, or choose another one; models that bring code of their own are not run.",
        ) from error


def tokenizer(source: Source) -> Any:
    """Raises BackboneError."""
    return guarded(
        source,
        lambda: transformers.AutoTokenizer.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False),
    )


def processor(source: Source) -> Any:
    """What prepares images and questions. Raises BackboneError."""
    return guarded(
        source,
        lambda: transformers.AutoProcessor.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False),
    )
