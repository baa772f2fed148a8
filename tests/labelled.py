"""A workspace of made images with labels, for tests that train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image

import engine


def labelled(place: Path, *tasks: str, images: int = 4) -> engine.Workspace:
    """Each task has so many images of random blocks a class, brighter from class to class. place : an empty folder."""
    workspace, rng = engine.Workspace(place / "workspace"), np.random.default_rng(0)
    for task in map(workspace.adopt, tasks):
        files = []
        for c, name in enumerate(task.names):
            for i in range(images):
                blocks = rng.integers(0, 60, (8, 8)).astype(np.uint8) + 60 * c
                file = place / f"{task.id}{c}{i}.png"
                PIL.Image.fromarray(np.kron(blocks, np.ones((8, 8), np.uint8))).save(file)
                files.append((file, f"{name}/{i}.png"))
        *_, last = engine.take_in(workspace, task.id, files)
        assert last.added.labelled == len(files)
    return workspace
