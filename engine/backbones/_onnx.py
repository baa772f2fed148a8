"""`onnx:<id>`: another backbone's image tower in ONNX Runtime. Nothing here imports torch until somebody passes its tensors.

An export is a folder of two files, made by _onnx_export.py: model.onnx, and card.json that says whose tower it is. Exports lie
in PROMPTSCOPE_ONNX (one export, or a folder of several), else in the cache folder of engine.store, below onnx/. The card has
the hash of its source's weights, so that shared-image prompt sets of the source fit; there is no text tower.

ONNX Runtime falls back to the processor with no more than a line in a log (microsoft/onnxruntime issue 23372), and
`get_available_providers` names what was compiled in, not what works: only what the session says of itself is believed here.

Legend as in base.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from engine.errors import BackboneError
from engine.preprocess import Preprocess
from engine.processor import threads
from engine.store import digest_of
from engine.store import folder as cache
from engine.types import VisualPrompt

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "onnx:"
MODEL, CARD = "model.onnx", "card.json"
SCHEMA_VERSION = 1
INPUT, FEATURES, PATCHES, ATTENTION = "image", "features", "patches", "attention"
# How the rest of the engine calls a precision, and how exports do; "auto", where torch may choose, is fp32.
PRECISIONS = {"float32": "fp32", "float16": "fp16", "int8": "int8"}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
NEEDED: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "weights_hash": str,
    "precision": str,
    "quantization": (str, type(None)),
    "sha256": str,
    "outputs": list,
    "dim": int,
    "logit_scale": float,
    "preprocess": dict,
    "licence": str,
    "grid": (list, type(None)),
    "prefix_tokens": int,
    "pooled_tokens": (list, type(None)),
    "parity": dict,
    "versions": dict,
}


@dataclass(frozen=True)
class Export:
    """A folder with model.onnx and card.json; the card has been checked, the model has not."""

    folder: Path
    card: dict[str, Any]

    @property
    def words(self) -> str:
        """Its precision as the page shows it: what differs in numbers is called differently."""
        how = self.card["quantization"]
        named = next(name for name, short in PRECISIONS.items() if short == self.card["precision"])
        return f"{named} {how}" if how else named

    @property
    def size(self) -> int:
        return (self.folder / MODEL).stat().st_size if (self.folder / MODEL).is_file() else 0


def home() -> Path:
    """Where exports are looked for, and made by default."""
    named = os.environ.get("PROMPTSCOPE_ONNX")
    return Path(named) if named else cache() / "onnx"


def folder_name(id: str, precision: str, weights_hash: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', id)}-{precision}-{weights_hash[:8]}"


def read_export(folder: Path) -> Export:
    """Raises BackboneError where the card is missing, damaged or of another version."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BackboneError(
            f"The folder {str(folder)!r} has no {CARD}.", "Make it with `python -m engine export onnx:ID`."
        ) from None
    except (OSError, ValueError) as error:
        raise BackboneError(f"{CARD} in {str(folder)!r} cannot be read: {error}.", "Export it again.") from error
    version = card.get("schema_version") if isinstance(card, dict) else None
    if version != SCHEMA_VERSION:
        raise BackboneError(
            f"{CARD} in {str(folder)!r} has the format version {version!r}; this PromptScope reads {SCHEMA_VERSION}.",
            "Export it again.",
        )
    wrong = [key for key, kind in NEEDED.items() if key not in card or not isinstance(card[key], kind)]
    if wrong or card["precision"] not in PRECISIONS.values():
        raise BackboneError(f"{CARD} in {str(folder)!r} is wrong at {[*wrong, 'precision'][0]!r}.", "Export it again.")
    return Export(folder, card)


def exports() -> tuple[list[Export], list[BackboneError]]:
    """Every export on this machine, by id and precision; and what is wrong with those whose card cannot be read."""
    place, found, wrong = home(), [], []
    folders = [place] if (place / CARD).is_file() else sorted(card.parent for card in place.glob(f"*/{CARD}"))
    for folder in folders:
        try:
            found.append(read_export(folder))
        except BackboneError as error:
            wrong.append(error)
    order = list(PRECISIONS.values())
    return sorted(found, key=lambda e: (e.card["id"], order.index(e.card["precision"]))), wrong


def find(id: str, dtype: str) -> Export:
    """The one export of a backbone in a precision ("float32" or "auto", "float16", "int8"). Raises BackboneError."""
    dtype = "float32" if dtype == "auto" else dtype
    if dtype not in PRECISIONS:
        raise BackboneError(f"There is no export in the precision {dtype!r}.", f"Choose one of: {', '.join(PRECISIONS)}.")
    precision = PRECISIONS[dtype]
    found, wrong = exports()
    of_it = [each for each in found if each.card["id"] == id]
    fitting = [each for each in of_it if each.card["precision"] == precision]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(each.folder.name for each in fitting)
        raise BackboneError(
            f"There are {len(fitting)} exports of {id!r} in {precision}: {names}.", "Name one by PROMPTSCOPE_ONNX."
        )
    if wrong:
        raise wrong[0]
    others = f" (only in {', '.join(each.card['precision'] for each in of_it)})" if of_it else ""
    raise BackboneError(
        f"{id!r} is not exported in {precision} to {str(home())!r}{others}.",
        f"Make it with `python -m engine export onnx:{id} --precision {precision}`.",
    )


def load(id: str, device: str, dtype: str) -> OnnxTower:
    """The image tower of backbone `id` (without the prefix). Raises BackboneError."""
    export = find(id, dtype)
    return (OnnxViT if ATTENTION in export.card["outputs"] else OnnxTower)(export, device)


def runtime() -> Any:
    """ONNX Runtime's module, which requirements.txt has where its packages are for. Raises BackboneError."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackboneError("ONNX Runtime is not installed here.", "Install onnxruntime-gpu, or onnxruntime.") from error
    return onnxruntime


def session(model: Path, device: str) -> Any:
    """An InferenceSession that runs on `device`, by its own report. Raises BackboneError."""
    onnxruntime = runtime()
    if device not in PROVIDERS:
        raise BackboneError(f"ONNX Runtime is not used on {device!r} here.", f"Choose one of: {', '.join(PROVIDERS)}.")
    wanted, options = PROVIDERS[device], onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = 4  # what matters is raised
    providers: list[Any] = [wanted]
    if device == "cuda":
        providers = [(wanted, {"use_tf32": "0"})]  # float32 is float32, as torch has it
        onnxruntime.set_default_logger_severity(4)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            onnxruntime.preload_dlls()  # CUDA's, from the packages that torch installs; it prints which it misses
    try:
        made = onnxruntime.InferenceSession(str(model), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        if device == "cuda":
            raise _no_cuda(str(error).splitlines()[0]) from error
        raise BackboneError(
            f"ONNX Runtime cannot read the model: {str(error).splitlines()[0]}.", "Export it again."
        ) from error
    made.disable_fallback()
    running = made.get_providers()[0]
    if running != wanted:
        raise _no_cuda(f"the session reports {running}")
    return made


def _no_cuda(why: str) -> BackboneError:
    return BackboneError(
        f"ONNX Runtime {runtime().__version__} cannot compute on 'cuda' ({why}).",
        "Install onnxruntime-gpu with the CUDA and cuDNN that it was built for, or choose 'cpu'.",
    )


class OnnxTower:
    """A Backbone and a WithoutTorch: images only. device : where the session says that it runs."""

    def __init__(self, export: Export, device: str):
        card, file = export.card, export.folder / MODEL
        self.of: str = card["id"]
        self.id, self.source = f"{PREFIX}{self.of}", f"exported, {export.folder}"
        self.weights_hash: str = card["weights_hash"]
        self.dim: int = card["dim"]
        self.logit_scale: float = card["logit_scale"]
        how = card["preprocess"]
        try:
            self.preprocess = Preprocess(**how | {"mean": tuple(how["mean"]), "std": tuple(how["std"])})
        except (KeyError, TypeError) as error:
            raise BackboneError(f"{CARD} in {str(export.folder)!r} is wrong at 'preprocess'.", "Export it again.") from error
        if not file.is_file():
            raise BackboneError(f"The folder {str(export.folder)!r} has no {MODEL}.", "Export it again.")
        if digest_of(file) != card["sha256"]:
            raise BackboneError(f"{MODEL} in {str(export.folder)!r} is not the one that its card is of.", "Export it again.")
        self._session = session(file, device)
        self._takes = self._session.get_inputs()[0].name
        self._alone = runtime().RunOptions()
        self._alone.only_execute_path_to_fetches = True
        given = [each.name for each in self._session.get_outputs()]
        if given != card["outputs"]:
            raise BackboneError(
                f"{MODEL} in {str(export.folder)!r} gives {', '.join(given)}; its card says {', '.join(card['outputs'])}.",
                "Export it again.",
            )
        running = self._session.get_providers()[0]
        self.device = next(name for name, provider in PROVIDERS.items() if provider == running)
        self.dtype = f"{export.words} in ONNX Runtime"

    def run(self, pixels: np.ndarray, output: str) -> np.ndarray:
        """pixels (B, 3, S, S) -> one output, float32; what only the others need is not computed. Raises BackboneError."""
        side = self.preprocess.size
        if pixels.ndim != 4 or pixels.shape[1:] != (3, side, side):
            raise BackboneError(f"The input has the shape {pixels.shape}; {self.id!r} takes (B, 3, {side}, {side}).")
        given = {self._takes: np.ascontiguousarray(pixels, dtype=np.float32)}
        return self._session.run([output], given, self._alone)[0]

    def encode_arrays(self, pixels: np.ndarray, visual_prompt: VisualPrompt | None = None) -> np.ndarray:
        self._refuse(visual_prompt)
        return self.run(pixels, FEATURES)

    def encode_images(self, x: Tensor, visual_prompt: VisualPrompt | None = None) -> Tensor:
        self._refuse(visual_prompt)
        return self._run(x, FEATURES)

    def encode_texts(self, texts: list[str]) -> NoReturn:
        raise BackboneError(
            f"{self.id!r} is an image tower: it reads no text.",
            f"Choose a stored prompt set of {self.of!r}, or load {self.of!r} itself.",
        )

    def _run(self, x: Tensor, output: str) -> Tensor:
        import torch

        return torch.from_numpy(self.run(x.detach().cpu().float().numpy(), output))

    def _refuse(self, visual_prompt: VisualPrompt | None) -> None:
        if visual_prompt is not None:
            raise BackboneError(f"{self.id!r} takes no visual prompt.", f"Use the prompt set with {self.of!r}.")


class OnnxViT(OnnxTower):
    """With a ViT as source also what maps need that go without gradients."""

    def __init__(self, export: Export, device: str):
        super().__init__(export, device)
        self.grid: tuple[int, int] = tuple(export.card["grid"])
        self.prefix_tokens: int = export.card["prefix_tokens"]
        self.pooled_tokens = slice(*export.card["pooled_tokens"])

    def value_patches(self, x: Tensor, visual_prompt: VisualPrompt | None = None) -> Tensor:
        self._refuse(visual_prompt)
        return self._run(x, PATCHES)

    def last_attention(self, x: Tensor, visual_prompt: VisualPrompt | None = None) -> Tensor:
        self._refuse(visual_prompt)
        return self._run(x, ATTENTION)
