"""Where weights come from: a folder that an environment variable names, the hub's offline cache, the hub itself.

The first that is there is used, and said in `source`. A revision is pinned where it is known, because a prompt set
belongs to exact weights; no machine of this project reaches the hub, so the names rest on what was published about it.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
from torch import Tensor

from engine.backbones._openclip import CLIP_PREPROCESS, CONFIG, WEIGHTS, Files, OpenCLIP, load, local_dir, read_weights
from engine.errors import BackboneError

UNSTATED = "not known here; see its page on the hub"


@dataclass(frozen=True)
class Repository:
    """Files of one repository of the hub. revision : None takes the newest; kind : "model" or "dataset"."""

    name: str
    revision: str | None
    files: tuple[str, ...]
    kind: str = "model"

    def __str__(self) -> str:
        return f"{self.name} at {self.revision[:8]}" if self.revision else self.name

    def snapshot(self, offline: bool) -> Path:
        """The folder with the files. Raises what the hub's client raises; what it says of each try goes nowhere, for the
        command line says one sentence."""
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        folder = huggingface_hub.snapshot_download(
            self.name,
            repo_type=self.kind,
            revision=self.revision,
            allow_patterns=list(self.files),
            local_files_only=offline,
        )
        return Path(folder)

    def cached(self) -> Path | None:
        """The folder in the hub's offline cache, where all files are in it."""
        try:
            folder = self.snapshot(offline=True)
        except (huggingface_hub.errors.LocalEntryNotFoundError, OSError, ValueError):
            return None
        return folder if all((folder / name).is_file() for name in self.files) else None


def variable(id: str) -> str:
    """The environment variable that names a backbone's folder."""
    return "PROMPTSCOPE_" + id.upper().replace("-", "_")


def present(id: str, *repositories: Repository) -> Path | None:
    """The folder of the first repository's files where all are on this machine; never asks the network."""
    named = os.environ.get(variable(id))
    if named:
        return Path(named) if Path(named).is_dir() else None
    folders = [each.cached() for each in repositories]
    return folders[0] if all(folders) else None


def find(id: str, *repositories: Repository) -> tuple[list[Path], str]:
    """A folder for each repository (the same where the variable names one), and the source in words.

    Raises BackboneError, which says what to do, where no source can be reached.
    """
    named = os.environ.get(variable(id))
    if not named:
        return fetch(id, "", *repositories)
    if not Path(named).is_dir():
        raise BackboneError(f"{variable(id)} names {named!r}, which is no folder.")
    return [Path(named)] * len(repositories), f"local folder {named}"


def fetch(id: str, then: str, *repositories: Repository) -> tuple[list[Path], str]:
    """As `find`, from the offline cache or the hub. then : what to do with a folder of the files, "" to name it by its variable."""
    cached = [folder for folder in (each.cached() for each in repositories) if folder]
    if len(cached) == len(repositories):
        return cached, f"offline cache of {_named(repositories)}"
    try:
        return [each.snapshot(offline=False) for each in repositories], f"hub, {_named(repositories)}"
    except Exception as error:  # the hub's client raises a dozen kinds; each means that it was not reached
        raise unreached(id, repositories, type(error).__name__, then) from error


def unreached(id: str, repositories: tuple[Repository, ...], why: str, then: str = "") -> BackboneError:
    """then : what to do with a folder of the files"""
    then = then or f"set {variable(id)} to it"
    return BackboneError(
        f"{id!r} is not on this machine and the model hub cannot be reached ({why}).",
        f"Connect once, or copy {_named(repositories)} into a folder and {then}.",
    )


def _named(repositories: tuple[Repository, ...]) -> str:
    return " and ".join(map(str, repositories))


@dataclass(frozen=True)
class Published:
    """What is known of weights before they are here. dim : of the joint space; licence : as their publisher says it."""

    repositories: tuple[Repository, ...]
    dim: int
    licence: str


@dataclass(frozen=True)
class HubModel:
    """A backbone whose repository is an open_clip folder.

    architecture : the built-in open_clip model that the weights need, its QuickGELU included; None takes any
    text_config : BERT's configuration where the folder has none
    dim, licence : see Published
    """

    id: str
    repository: Repository
    architecture: str | None = None
    text_config: Path | None = None
    dim: int = 512
    licence: str = UNSTATED

    def published(self) -> Published:
        return Published((self.repository,), self.dim, self.licence)

    def present(self) -> Path | None:
        return present(self.id, self.repository)

    def load(self, device: str, dtype: str) -> OpenCLIP:
        """Raises BackboneError."""
        (folder,), source = find(self.id, self.repository)
        files = local_dir(folder, self.text_config)
        if self.architecture:
            check_architecture(files.config["model_cfg"], self.architecture, folder)
        return load(self.id, source, files, device, dtype)


def check_architecture(model_cfg: dict[str, Any], name: str, folder: Path) -> None:
    """Raises BackboneError where a folder's configuration is not that of open_clip's model `name`: with the wrong
    activation the same weights load and give wrong features."""
    expected = open_clip.get_model_config(name)
    differing = [key for key in expected if model_cfg.get(key) != expected[key]]
    if model_cfg.get("quick_gelu", False) != expected.get("quick_gelu", False):
        differing.append("quick_gelu")
    if differing:
        raise BackboneError(
            f"{CONFIG} in {str(folder)!r} describes another architecture than {name} ({', '.join(dict.fromkeys(differing))}).",
            "Choose the folder of this backbone, or load yours as local-dir:FOLDER.",
        )


def load_open_clip(name: str, device: str, dtype: str) -> OpenCLIP:
    """Any open_clip model: `MODEL/TAG` (a pretrained tag), `hf-hub:OWNER/NAME`, or `MODEL/hf-hub:OWNER/NAME`, where
    MODEL must be what the repository holds. Raises BackboneError."""
    id = f"open_clip:{name}"
    model, _, tag = ("", "", name) if name.startswith("hf-hub:") else name.partition("/")
    if model and model not in open_clip.list_models():
        raise BackboneError(f"open_clip has no model {model!r}.", "Names look like open_clip:ViT-B-16/laion2b_s34b_b88k.")
    if not tag.startswith("hf-hub:"):
        return load(id, f"open_clip, pretrained {tag}", _pretrained(id, model, tag), device, dtype)
    for weights in WEIGHTS:
        repository = Repository(tag.removeprefix("hf-hub:"), None, (CONFIG, weights))
        (folder,), source = fetch(id, "load it as local-dir:FOLDER", repository)
        if (folder / weights).is_file():
            break
    files = local_dir(folder)
    if model:
        check_architecture(files.config["model_cfg"], model, folder)
    return load(id, source, files, device, dtype)


def _pretrained(id: str, model: str, tag: str) -> Files:
    """open_clip's own table of pretrained weights: hub or address, preprocessing, activation. Raises BackboneError."""
    entry, config = open_clip.get_pretrained_cfg(model, tag), open_clip.get_model_config(model)
    if not entry:
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise BackboneError(f"open_clip has no weights {tag!r} for {model}.", f"Choose one of: {', '.join(tags) or 'none'}.")
    if config["text_cfg"].get("hf_model_name"):
        raise BackboneError(
            f"The text tower of {model} needs files of its own.", "Make an open_clip folder: local-dir:FOLDER."
        )
    if entry.get("quick_gelu", False) != config.get("quick_gelu", False):
        other = model.removesuffix("-quickgelu") if config.get("quick_gelu") else f"{model}-quickgelu"
        raise BackboneError(f"The weights {tag!r} were not trained with {model}'s activation.", f"Choose {other}/{tag}.")

    def weights() -> dict[str, Tensor]:
        try:
            file = Path(open_clip.download_pretrained(entry))
        except Exception as error:  # hub and web clients raise a dozen kinds; each means that they were not reached
            raise BackboneError(
                f"{id!r} is not on this machine and cannot be fetched ({type(error).__name__}).",
                "Connect once, or make an open_clip folder: local-dir:FOLDER.",
            ) from error
        return read_weights(file)

    preprocess = {key: entry[key] for key in CLIP_PREPROCESS}
    return Files({"model_cfg": config, "preprocess_cfg": preprocess}, weights)
