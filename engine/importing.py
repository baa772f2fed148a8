"""What upstream's checkpoints become here: prompt sets. (Files of sentences: exchange.)

Checkpoints of BiomedCoOp's repository (also its CoOp, CoCoOp, KgCoOp, ProGrad), Biomed-DPT and MedPromptCLIP hold the whole
model; what was learned is a context (n, W) and little else. A prompt set is made of it with this machine's backbone. Sources:
methods/biomedcoop.md 6, biomed_dpt.md 4, medpromptclip.md 4.
Left out: class-specific contexts, the tuned image tower of MedPromptCLIP's few-shot stage, statistics of PMC-CLIP's norms.

Legend: C classes, n context rows, K deep layers, L tokens, W token width, D joint embedding, H hidden units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.backbones.base import Backbone, PromptTunable
from engine.checkpoints import Checkpoint, Stored
from engine.context import HAND_WRITTEN, Prompts
from engine.errors import PromptSetError
from engine.methods import METHODS, papers
from engine.prompts import PromptSet
from engine.tasks import Task

LICENCE = "unknown: imported by the user"
TOLERANCE = 1e-3  # of an embedding's elements: half precision rounds them by less
# CoCoOp's parameters here: upstream's name, shape
META = {
    "meta.0.weight": ("meta_net.linear1.weight", ("H", "D")),
    "meta.0.bias": ("meta_net.linear1.bias", ("H",)),
    "meta.2.weight": ("meta_net.linear2.weight", ("W", "H")),
    "meta.2.bias": ("meta_net.linear2.bias", ("W",)),
}


def import_checkpoint(
    path: str | Path,
    backbone: Backbone,
    task: Task,
    method: str | None = None,
    template: str | None = None,
    position: str | None = None,
    trained_on: Sequence[str] | None = None,
) -> PromptSet:
    """The prompt set of an upstream checkpoint, for the classes of a task (its own, or others: a context carries).

    method : where the file could be of several; template : where it is not upstream's own
    position : "end" or "middle", of the class name in Biomed-DPT's prompt, which its file does not say: few_shot.sh and
        base2new.py leave upstream's default "middle", few_shot_coop.py sets "end"
    trained_on : the class names that the file was learned with, in their order; None for the task's, or the first of them
        where the file has fewer (base-to-novel); () leaves the words unchecked
    Raises PromptSetError where the file is damaged, is no such checkpoint or does not fit, and what the method raises.
    """
    with Checkpoint(path) as file:
        kind = _kind(file, method)
        prefix = "prompt_learner." if "prompt_learner.ctx" in file.tensors else ""
        context = _numbers(file, prefix + "ctx")
        if context.ndim != 2 or not context.size:
            what = "one for each class, which carries to no other" if context.ndim == 3 else "no context"
            raise PromptSetError(
                f"The context in {file.name!r} has the shape {context.shape}: {what}.", "Take one of the shape (n, W)."
            )
        if not isinstance(backbone, PromptTunable) or backbone.token_width != context.shape[1]:
            width = getattr(backbone, "token_width", 0)
            raise PromptSetError(
                f"The context in {file.name!r} is {context.shape[1]} wide; {backbone.id!r} takes {width}.",
                "Use the backbone that it was learned with.",
            )
        learned = {"context": context}
        options: dict[str, Any] = {"template": template or _template(kind, len(context), task), "tokens": len(context)}
        if kind == "cocoop":
            learned |= _meta(file, prefix, {"D": backbone.dim, "W": backbone.token_width})
        if kind == "medpromptclip":
            learned |= _deep(file, context.shape)
            options["depth"] = 1 + len(learned.get("deep", ()))
        if kind == "biomed-dpt":
            options |= _biomed_dpt(file, position)
        elif position not in (None, "end"):
            raise PromptSetError(f"{kind!r} has its class names at the end, not at {position!r}.", "Leave position out.")
        checked = _check_words(file, prefix, backbone, options, task, trained_on)
        epoch = file.epoch
    made = METHODS[kind](METHODS[kind].Config(**options)).of(learned, backbone, task)
    imported = {"kind": "checkpoint", "epoch": epoch, "words_checked": checked}
    imported["sha256"] = hashlib.sha256(context.tobytes()).hexdigest()
    about = {"method": {"name": kind, "options": options}, "descriptions": None, "licence": LICENCE, "imported": imported}
    return replace(made, card=made.card | about)


def checkpoint_methods(path: str | Path) -> tuple[str, ...]:
    """The methods that a file could be an upstream checkpoint of. Raises PromptSetError where it is none."""
    with Checkpoint(path) as file:
        return _candidates(file)


def candidates(names: Iterable[str]) -> tuple[str, ...]:
    """The methods whose upstream trainers leave these names in a state_dict; none where there is no context."""
    names = set(names)

    def has(part: str) -> bool:
        return any(part in name for name in names)

    if not names & {"ctx", "prompt_learner.ctx"}:
        return ()
    if has("VPT_shallow") or has("prompt_learner.clip_model_zs."):
        return ("medpromptclip",)
    if has("image_encoder.clipmodel.") or "image_encoder.prompt_embeddings" in names:
        return ("biomed-dpt",)
    if has("ZS_image_encoder."):
        return ("biomedcoop",)
    if has("meta_net.linear2."):
        return ("cocoop",)
    if has("bias_vectors") or has("meta_net.linear1."):
        return ("kgcoop",)
    return ("biomedcoop", "biomed-dpt") if has("image_encoder.") else ("coop", "prograd")


def _candidates(file: Checkpoint) -> tuple[str, ...]:
    found = candidates(file.tensors)
    if not found:
        raise PromptSetError(
            f"The checkpoint {file.name!r} has no learned context (ctx).",
            "It should be of BiomedCoOp, Biomed-DPT or MedPromptCLIP.",
        )
    return found


def _kind(file: Checkpoint, method: str | None) -> str:
    found = _candidates(file)
    if method == "medpromptclip-few-shot":
        raise PromptSetError(
            "MedPromptCLIP's few-shot stage also changed the image tower, which a prompt set cannot hold.",
            "Import a checkpoint of its text stage.",
        )
    if method is None and len(found) > 1:
        raise PromptSetError(f"The checkpoint {file.name!r} could be of {' or '.join(found)}.", "Say which: method.")
    if method is not None and method not in found:
        raise PromptSetError(f"The checkpoint {file.name!r} is of {' or '.join(found)}, not of {method!r}.")
    return method or found[0]


def _numbers(file: Checkpoint, name: str, stored: Stored | None = None) -> np.ndarray:
    """A tensor as float32; stored : a part of it."""
    if name not in file.tensors:
        raise PromptSetError(f"The checkpoint {file.name!r} lacks {name!r}.", "Fetch the file again.")
    made = file.read(stored or file.tensors[name]).astype(np.float32)
    if not np.isfinite(made).all():
        raise PromptSetError(f"{name!r} in {file.name!r} holds values that are no numbers.", "Train it again.")
    return made


def _template(kind: str, tokens: int, task: Task) -> str:
    """The sentence that upstream puts a context of so many rows into."""
    if kind != "biomed-dpt":
        words = tokens <= (5 if kind == "medpromptclip" else 4)
        return HAND_WRITTEN if words else "X " * tokens + "{}."
    known = papers()["options"]["biomed-dpt"]["few-shot"].get(task.id)  # a checkpoint does not say its sentence
    if known is None:
        raise PromptSetError(
            f"Biomed-DPT has no sentence for the task {task.id!r}.", "Say the one it was learned with: template."
        )
    return known["template"]


def _meta(file: Checkpoint, prefix: str, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """CoCoOp's network of the image feature."""
    made = {name: _numbers(file, prefix + upstream) for name, (upstream, _) in META.items()}
    sizes = sizes | {"H": len(made["meta.0.bias"])}
    for name, (upstream, letters) in META.items():
        wanted = tuple(sizes[letter] for letter in letters)
        if made[name].shape != wanted:
            raise PromptSetError(
                f"{upstream!r} in {file.name!r} has the shape {made[name].shape}; this backbone takes {wanted}.",
                "Use the backbone that it was learned with.",
            )
    return made


def _deep(file: Checkpoint, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """MedPromptCLIP's deep prompts (K, n, W), of blocks 1 to K; upstream rounds them to half precision at each use."""
    name = "text_encoder.transformer.resblocks.{}.VPT_shallow"
    found = sum(each.startswith("text_encoder.") and "VPT_shallow" in each for each in file.tensors)
    rows = [_numbers(file, name.format(k)) for k in range(1, 1 + found)]
    wrong = [k for k, row in enumerate(rows, start=1) if row.shape != shape]
    if wrong:
        raise PromptSetError(
            f"{name.format(wrong[0])!r} in {file.name!r} has the shape {rows[wrong[0] - 1].shape}; the context has {shape}.",
            "Fetch the file again.",
        )
    return {"deep": np.stack(rows).astype(np.float16).astype(np.float32)} if rows else {}


def _biomed_dpt(file: Checkpoint, position: str | None) -> dict[str, Any]:
    """Zero tokens over the first patches, four where the file does not say; `faithful` is upstream's "middle" on BERT."""
    name = "image_encoder.prompt_embeddings"  # (1, M, width), in its files for CLIP's towers
    if position not in ("end", "middle"):
        raise PromptSetError(
            f"Where the class stood in Biomed-DPT's prompt is not in {file.name!r}.",
            "Say position 'middle' (few_shot.sh, base2new.py) or 'end' (few_shot_coop.py).",
        )
    tokens = 4
    if name in file.tensors:
        if position == "middle":
            raise PromptSetError("Class names in the middle of CLIP's prompts are not read.", "Only 'end' is there.")
        zeros = _numbers(file, name)
        if zeros.ndim != 3 or zeros.any():
            raise PromptSetError(
                f"{name!r} in {file.name!r} should be zeros (1, M, width).", "It is not of upstream's code."
            )
        tokens = zeros.shape[1]
    return {"insert": False, "faithful": position == "middle", "zero_tokens": tokens}


def _check_words(
    file: Checkpoint,
    prefix: str,
    backbone: PromptTunable,
    options: dict[str, Any],
    task: Task,
    trained_on: Sequence[str] | None,
) -> bool:
    """Whether the file's class names were compared. Raises PromptSetError where its words are not this backbone's.

    token_prefix (C, 1, W) and token_suffix (C, L - 1 - n, W) are rows of the frozen word embedding around the context;
    MedPromptCLIP has the whole table in their place.
    """
    template, n = options["template"], options["tokens"]
    names = tuple(task.names if trained_on is None else trained_on)
    ours = Prompts(backbone, template, names or task.names, n)
    words = ours.words.vectors.float().cpu().numpy()  # (C, L, W)
    table = prefix + "clip_model_zs.token_embedding.weight"
    first = None
    shape = file.tensors[table].shape if table in file.tensors else ()
    if prefix + "token_prefix" in file.tensors:
        first = _numbers(file, prefix + "token_prefix").ravel()[: words.shape[-1]]
    elif len(shape) == 2 and int(ours.ids[0, 0]) < shape[0]:
        first = _numbers(file, table, file.tensors[table].row(int(ours.ids[0, 0])))
    if first is not None and (first.shape != words[0, 0].shape or np.abs(first - words[0, 0]).max() > TOLERANCE):
        raise PromptSetError(
            f"The word embeddings in {file.name!r} are not those of {backbone.id!r}.",
            "Use the backbone that it was learned with.",
        )
    if prefix + "token_suffix" not in file.tensors or not names:
        return False
    theirs = _numbers(file, prefix + "token_suffix")
    words = words[:, 1 + n :]
    if theirs.ndim != 3 or theirs.shape[1] < words.shape[1] or theirs.shape[2] != words.shape[2]:
        raise PromptSetError(
            f"'token_suffix' in {file.name!r} has the shape {theirs.shape}; {template!r} takes at least "
            f"{words.shape[1:]} a class.",
            "Say the template it was learned with.",
        )
    if len(theirs) > len(names) or (trained_on is not None and len(theirs) != len(names)):
        raise PromptSetError(
            f"The checkpoint {file.name!r} was learned with {len(theirs)} classes; {len(names)} are named.",
            "Name its own in their order: trained_on.",
        )
    for name, row, expected in zip(names, theirs, words, strict=False):
        if np.abs(row[: len(expected)] - expected).max() > TOLERANCE:
            raise PromptSetError(
                f"The checkpoint {file.name!r} was not learned with {template.replace('{}', name)!r} in the place of {name!r}.",
                "Name its classes in their order (trained_on), or its template.",
            )
    return True
