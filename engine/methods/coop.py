"""CoOp: a learned context in place of "a photo of a". Zhou et al., arXiv:2109.01134, eq. 2.

Upstream trains it without the text tower's dropout. Left out: class-specific contexts, other places of the class name.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.methods._context import ContextConfig, ContextMethod


class CoOp(ContextMethod):
    name = "coop"

    @dataclass(frozen=True)
    class Config(ContextConfig):
        batch: int = 32
        lr: float = 0.002
