"""The learning methods once more, slow and plain: a second road to compare engine/methods with.

Written from the papers' published formulas and loops as they are specified, one function per method and one
forward after the other, without the shortcuts of the programme: no cached classifier, no reduction per class, no
`torch.optim`. Nothing here imports the programme. Each function runs one training and returns everything a test
may want to compare: the loss terms of every step, the first gradient, the learned numbers, the learning rates.

A text tower is any object with

    tokenize(texts: list[str]) -> ids (N, L)
    words(ids) -> (N, L, W)                                      word embeddings, before positions
    encode(vectors (N, L, W), ids, deep=None) -> (N, D)          unit length, differentiable

where `deep` is a list of (n, W) tensors that replace rows 1..n before block 1, 2, ... of the tower. Dropout in the
tower is the tower's own business: the comparison with upstream was made without it.

The terms are those whose plain sum is the loss, so "sccm", "kdsp", "kg", "l1", "kl" and "mse" contain their weight;
only ProGrad's "kl" is not part of the total, because ProGrad never minimises it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

WARMUP_RATE = 1e-5  # the constant rate of the warm-up epochs


class Tower(Protocol):
    def tokenize(self, texts: list[str]) -> Tensor: ...

    def words(self, ids: Tensor) -> Tensor: ...

    def encode(self, vectors: Tensor, ids: Tensor, deep: list[Tensor] | None = None) -> Tensor: ...


Batches = list[tuple[Tensor, Tensor]]  # one entry a step: unit image features (B, D), labels (B,)


@dataclass
class Trace:
    terms: list[dict[str, float]] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    first_gradient: dict[str, Tensor] = field(default_factory=dict)  # what the optimiser gets at step 0, no decay in it
    learned: dict[str, Tensor] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    kept: list[list[bool]] = field(default_factory=list)  # BiomedCoOp: the sentences selected at every step


# ---- the few lines every loop needs ------------------------------------------------------------------------------


def rate(
    step: int, steps_per_epoch: int, epochs: int, lr: float, warmup: int = 1, warmup_rate: float = WARMUP_RATE
) -> float:
    """Constant in the warm-up epochs, then a cosine that counts its epochs from the end of the warm-up."""
    epoch = step // steps_per_epoch
    if epoch < warmup:
        return warmup_rate
    return lr / 2 * (1 + math.cos(math.pi * (epoch - warmup) / epochs))


def parameters(start: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: start[name].detach().clone().requires_grad_(True) for name in names}


def sgd(p: dict[str, Tensor], gradient: dict[str, Tensor], memory: dict[str, Tensor], lr: float) -> None:
    """Momentum 0.9, weight decay 5e-4 as part of the gradient, no dampening, no Nesterov."""
    for name in p:
        g = gradient[name] + 5e-4 * p[name].detach()
        memory[name] = g if name not in memory else 0.9 * memory[name] + g
        p[name].data = p[name].data - lr * memory[name]


def adamw(
    p: dict[str, Tensor],
    gradient: dict[str, Tensor],
    memory: dict[str, Tensor],
    lr: float,
    step: int,  # from 0
    betas: tuple[float, float],
    weight_decay: float,
    eps: float = 1e-8,
) -> None:
    for name in p:
        g = gradient[name]
        first = memory.get(name + ".m", torch.zeros_like(g))
        second = memory.get(name + ".v", torch.zeros_like(g))
        first = betas[0] * first + (1 - betas[0]) * g
        second = betas[1] * second + (1 - betas[1]) * g * g
        memory[name + ".m"], memory[name + ".v"] = first, second
        first_hat = first / (1 - betas[0] ** (step + 1))
        second_hat = second / (1 - betas[1] ** (step + 1))
        value = p[name].data
        value = value - lr * weight_decay * value
        value = value - lr * first_hat / (second_hat.sqrt() + eps)
        p[name].data = value


def gradients(loss: Tensor, p: dict[str, Tensor], keep_graph: bool = False) -> dict[str, Tensor]:
    values = torch.autograd.grad(loss, list(p.values()), retain_graph=keep_graph)
    return dict(zip(p, values, strict=True))


def note(trace: Trace, terms: dict[str, Tensor], total: Tensor, gradient: dict[str, Tensor], lr: float) -> None:
    trace.terms.append({name: float(value.detach()) for name, value in terms.items()})
    trace.total.append(float(total.detach()))
    trace.rates.append(lr)
    if not trace.first_gradient:
        trace.first_gradient = {name: value.detach().clone() for name, value in gradient.items()}


def finish(trace: Trace, p: dict[str, Tensor]) -> Trace:
    trace.learned = {name: value.detach().clone() for name, value in p.items()}
    return trace


def finite(total: Tensor) -> None:
    if not torch.isfinite(total).all():
        raise FloatingPointError("the loss is not finite")


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    log_p = logits - torch.logsumexp(logits, dim=1, keepdim=True)
    return -torch.stack([log_p[b, labels[b]] for b in range(len(labels))]).mean()


def teacher_to_student(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student), summed over the batch and the classes, divided by the number of logits."""
    log_s = student - torch.logsumexp(student, dim=1, keepdim=True)
    log_t = teacher - torch.logsumexp(teacher, dim=1, keepdim=True)
    return (log_t.exp() * (log_t - log_s)).sum() / student.numel()


def prompted(words: Tensor, context: Tensor) -> Tensor:
    """[CLS], the n learned rows, everything after the n rows they replace."""
    n = len(context)
    rows = []
    for c in range(len(words)):
        rows.append(torch.cat([words[c, :1], context, words[c, 1 + n :]], dim=0))
    return torch.stack(rows)


# ---- methods that learn from images ------------------------------------------------------------------------------


def coop(
    tower: Tower,
    prompts: list[str],
    start: dict[str, Tensor],
    scale: float,
    batches: Batches,
    steps_per_epoch: int,
    epochs: int,
    lr: float,
) -> Trace:
    """Cross-entropy of scale * v.t with one shared context."""
    ids = tower.tokenize(prompts)
    words = tower.words(ids).detach()
    p = parameters(start, "context")
    memory: dict[str, Tensor] = {}
    trace = Trace()
    for step, (v, y) in enumerate(batches):
        t = tower.encode(prompted(words, p["context"]), ids)
        z = scale * v @ t.t()
        ce = cross_entropy(z, y)
        finite(ce)
        g = gradients(ce, p)
        now = rate(step, steps_per_epoch, epochs, lr)
        note(trace, {"ce": ce}, ce, g, now)
        sgd(p, g, memory, now)
    return finish(trace, p)


def cocoop(
    tower: Tower,
    prompts: list[str],
    start: dict[str, Tensor],
    scale: float,
    batches: Batches,
    steps_per_epoch: int,
    epochs: int,
    lr: float,
) -> Trace:
    """A small network turns each unit image feature into one vector, added to every context row for that image."""
    ids = tower.tokenize(prompts)
    words = tower.words(ids).detach()
    p = parameters(start, "context", "meta.0.weight", "meta.0.bias", "meta.2.weight", "meta.2.bias")
    memory: dict[str, Tensor] = {}
    trace = Trace()
    for step, (v, y) in enumerate(batches):
        z = []
        for image in v:
            hidden = torch.clamp(p["meta.0.weight"] @ image + p["meta.0.bias"], min=0)
            bias = p["meta.2.weight"] @ hidden + p["meta.2.bias"]
            t = tower.encode(prompted(words, p["context"] + bias), ids)
            z.append(scale * t @ image)
        ce = cross_entropy(torch.stack(z), y)
        g = gradients(ce, p)
        now = rate(step, steps_per_epoch, epochs, lr)
        note(trace, {"ce": ce}, ce, g, now)
        sgd(p, g, memory, now)
    return finish(trace, p)


def kgcoop(
    tower: Tower,
    prompts: list[str],
    start: dict[str, Tensor],
    scale: float,
    batches: Batches,
    steps_per_epoch: int,
    epochs: int,
    lr: float,
    *,
    weight: float,
    teacher: Tensor,
) -> Trace:
    """CE + weight * (1 - mean over the classes of cos(t_c, teacher_c))."""
    ids = tower.tokenize(prompts)
    words = tower.words(ids).detach()
    teacher = unit(teacher)
    p = parameters(start, "context")
    memory: dict[str, Tensor] = {}
    trace = Trace()
    for step, (v, y) in enumerate(batches):
        t = tower.encode(prompted(words, p["context"]), ids)
        z = scale * v @ t.t()
        ce = cross_entropy(z, y)
        cosines = [(t[c] * teacher[c]).sum() / (t[c].norm() * teacher[c].norm()) for c in range(len(t))]
        kg = weight * (1 - torch.stack(cosines).mean())
        total = ce + kg
        finite(total)
        g = gradients(total, p)
        now = rate(step, steps_per_epoch, epochs, lr)
        note(trace, {"ce": ce, "kg": kg}, total, g, now)
        sgd(p, g, memory, now)
    return finish(trace, p)


def prograd(
    tower: Tower,
    prompts: list[str],
    start: dict[str, Tensor],
    scale: float,
    batches: Batches,
    steps_per_epoch: int,
    epochs: int,
    lr: float,
    *,
    teacher_logits_from: Tensor | None,
    T: float = 1.0,
    LAMBDA: float = 1.0,
) -> Trace:
    """The cross-entropy's gradient without its part that goes against the gradient towards the teacher.

    Without a teacher the student is its own, as BiomedCLIP's file has it: the second gradient is then only the noise
    of the arithmetic, and yet its direction decides. Where that noise is exactly zero its direction is not a number,
    no comparison with it holds, and the cross-entropy's gradient stays as it is.
    """
    ids = tower.tokenize(prompts)
    words = tower.words(ids).detach()
    p = parameters(start, "context")
    memory: dict[str, Tensor] = {}
    trace = Trace()
    for step, (v, y) in enumerate(batches):
        t = tower.encode(prompted(words, p["context"]), ids)
        z = scale * v @ t.t()
        with torch.no_grad():
            if teacher_logits_from is None:
                own = tower.encode(prompted(words, p["context"]), ids)
                teacher = scale * v @ own.t()
            else:
                teacher = scale * v @ unit(teacher_logits_from).t()
        ce = cross_entropy(z, y)
        wanted = torch.softmax(teacher / T, dim=-1)
        kl = (-wanted * torch.log_softmax(z / T, dim=-1) * T * T).sum(1).mean()
        finite(kl)
        finite(ce)
        h = gradients(kl, p, keep_graph=True)["context"]
        g = gradients(ce, p)["context"]
        direction = h / h.norm()
        if ((g / g.norm()) * direction).sum() < 0:
            g = g - LAMBDA * (g * direction).sum() * direction
        now = rate(step, steps_per_epoch, epochs, lr)
        note(trace, {"ce": ce, "kl": kl}, ce, {"context": g}, now)
        sgd(p, {"context": g}, memory, now)
    return finish(trace, p)


def select(scores: Tensor, tau: float, rule: str) -> Tensor:
    """Which of the n sentences stay: a mask (n,). A rule that gives no usable mask keeps all of them.

    coded      the median and the median deviation first, then standardised again (so they cancel: a plain z-score)
    folded     the same with the absolute deviation (PMC-CLIP's file): removes unusually typical sentences, too
    described  |r| <= tau with the median and the median deviation themselves
    """
    everything = torch.ones(len(scores), dtype=torch.bool)
    middle = scores.sort().values[(len(scores) - 1) // 2]  # the lower median
    distance = (scores - middle).abs()
    d = distance.sort().values[(len(scores) - 1) // 2]
    if rule == "described":
        if d == 0:
            return everything
        mask = ((scores - middle) / d).abs() <= tau
    elif rule in ("coded", "folded"):
        r = (scores - middle) / d if rule == "coded" else distance / d
        mean = r.sum() / len(r)
        std = (((r - mean) ** 2).sum() / (len(r) - 1)).sqrt() if len(r) > 1 else torch.tensor(math.nan)
        mask = ((r - mean) / std).abs() <= tau  # not a number compares as false
    else:
        raise ValueError(rule)
    return mask if mask.any() else everything


def biomedcoop(
    tower: Tower,
    prompts: list[str],
    start: dict[str, Tensor],
    scale: float,
    batches: Batches,
    steps_per_epoch: int,
    epochs: int,
    lr: float,
    *,
    bank: Tensor,
    lambda1: float,
    lambda2: float,
    tau: float,
    rule: str = "coded",
) -> Trace:
    """CE + lambda1 * mean (t - m)^2 + lambda2 * KL(teacher || student) / (B * C), teacher = the selected sentences.

    The selection is made anew for every batch, once for all classes, and does not look at the labels.
    """
    ids = tower.tokenize(prompts)
    words = tower.words(ids).detach()
    p = parameters(start, "context")
    memory: dict[str, Tensor] = {}
    trace = Trace()
    for step, (v, y) in enumerate(batches):
        t = tower.encode(prompted(words, p["context"]), ids)
        z = scale * v @ t.t()
        with torch.no_grad():
            e = unit(bank)
            scores = []
            for i in range(e.shape[1]):
                of_sentence = scale * v @ e[:, i].t()  # (B, C)
                scores.append(of_sentence.max(dim=1).values.mean())
            mask = select(torch.stack(scores), tau, rule)
            chosen = unit(torch.stack([e[:, i] for i in range(len(mask)) if mask[i]]).mean(dim=0))
            full = unit(e.mean(dim=1))
            teacher = scale * v @ chosen.t()
        trace.kept.append([bool(x) for x in mask])
        ce = cross_entropy(z, y)
        sccm = lambda1 * ((t - full) ** 2).sum() / (t.shape[0] * t.shape[1])
        kdsp = lambda2 * teacher_to_student(z, teacher)
        total = ce + sccm + kdsp
        finite(total)
        g = gradients(total, p)
        now = rate(step, steps_per_epoch, epochs, lr)
        note(trace, {"ce": ce, "sccm": sccm, "kdsp": kdsp}, total, g, now)
        sgd(p, g, memory, now)
    return finish(trace, p)


def biomed_dpt(
    tower: Tower,
    prompts: list[str],
    start: dict[str, Tensor],
    scale: float,
    batches: Batches,
    steps_per_epoch: int,
    epochs: int,
    lr: float,
    *,
    bank: Tensor,
    lambda1: float,
    lambda2: float,
    position: str = "end",
) -> Trace:
    """CE + lambda1 * mean |t - f| + lambda2 * KL(teacher || student) / (B * C), teacher = the mean of all sentences.

    The image features come from the caller: with or without the zero tokens. Position "middle" moves exactly one
    token, the first after the context, between the two halves of the context, however long the class name is; the
    attention mask stays that of the unmoved sentence.
    """
    ids = tower.tokenize(prompts)
    words = tower.words(ids).detach()
    p = parameters(start, "context")
    memory: dict[str, Tensor] = {}
    trace = Trace()
    n = len(p["context"])
    for step, (v, y) in enumerate(batches):
        if position == "end":
            rows = prompted(words, p["context"])
        elif position == "middle":
            first, second = p["context"][: n // 2], p["context"][n // 2 :]
            moved = []
            for w in words:
                moved.append(torch.cat([w[:1], first, w[1 + n : 2 + n], second, w[2 + n :]], dim=0))
            rows = torch.stack(moved)
        else:
            raise ValueError(position)
        t = tower.encode(rows, ids)
        f = unit(unit(bank).mean(dim=1))
        z = scale * v @ t.t()
        teacher = scale * v @ f.t()
        ce = cross_entropy(z, y)
        l1 = lambda1 * (t - f).abs().sum() / (t.shape[0] * t.shape[1])
        kl = lambda2 * teacher_to_student(z, teacher)
        total = ce + l1 + kl
        finite(total)
        g = gradients(total, p)
        now = rate(step, steps_per_epoch, epochs, lr)
        note(trace, {"ce": ce, "l1": l1, "kl": kl}, total, g, now)
        sgd(p, g, memory, now)
    return finish(trace, p)


# ---- the method that learns from sentences -----------------------------------------------------------------------


def medpromptclip(
    tower: Tower,
    prompts: list[str],
    start: dict[str, Tensor],
    scale: float,
    batches: list[Tensor],
    steps_per_epoch: int,
    epochs: int,
    lr: float,
    *,
    targets: Tensor,
    classes: Tensor,
    loss: str = "mse",
    weight: float = 1000.0,
    betas: tuple[float, float] = (0.9, 0.98),
    weight_decay: float = 0.1,
    warmup: int = 3,
    warmup_rate: float = WARMUP_RATE,
    half: bool = False,
) -> Trace:
    """Each sentence's class prompt through the prompted tower onto the sentence; no images, so `scale` is unused.

    `prompts` has one sentence per class, `batches` the indices of the target sentences, `warmup` epochs may be 0.
    `half` rounds the deep rows to half precision in each forward, as upstream's blocks do. `weight` belongs to "mse"
    alone.
    """
    ids = tower.tokenize(prompts)
    words = tower.words(ids).detach()
    p = parameters(start, "context", *(["deep"] if "deep" in start else []))
    memory: dict[str, Tensor] = {}
    trace = Trace()
    for step, batch in enumerate(batches):
        outputs = []
        for j in batch.tolist():
            c = int(classes[j])
            deep = None
            if "deep" in p:
                deep = [d.half().to(d.dtype) if half else d for d in p["deep"]]
            outputs.append(tower.encode(prompted(words[c : c + 1], p["context"]), ids[c : c + 1], deep=deep)[0])
        o = torch.stack(outputs)
        e = unit(targets[batch])
        if loss == "mse":
            total = weight * ((o - e) ** 2).sum() / o.numel()
        elif loss == "l1":
            total = (o - e).abs().sum() / o.numel()
        else:
            raise ValueError(loss)
        g = gradients(total, p)
        now = rate(step, steps_per_epoch, epochs, lr, warmup, warmup_rate)
        note(trace, {loss: total}, total, g, now)
        adamw(p, g, memory, now, step, betas, weight_decay)
    return finish(trace, p)
