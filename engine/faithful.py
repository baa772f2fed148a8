"""Does a map tell the truth about its model? Deletion and insertion curves beside chance, and two sanity checks.

Curves: Petsiuk et al., RISE, BMVC 2018 (arXiv:1806.07421), section 4; regions in place of pixels as Samek et al., IEEE TNNLS
28(11), 2017 (arXiv:1509.06321), do it: one cell of the map at a time, at the model's own input.
Sanity checks: Adebayo et al., NeurIPS 2018 (arXiv:1810.03292), cascading randomisation; and small shifts of the input.

Other than RISE, both curves use one replacement (a blurred copy, or the preprocessing's mean). Insertion in one order then shows
the same inputs as deletion in the reverse order, so that a random order's insertion minus deletion is 0 on average, exactly.
Left out: retraining without what a map marks (ROAR), and masks that are no cells of the map.

Legend: S input size, h x w cells of the map, n cells that count, K steps, R random orders, N images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from engine.backbones.base import Backbone
from engine.data import grouped_few_shot, unit
from engine.errors import DataError, ExplainError
from engine.evaluate import mean_over_units
from engine.explain import DEFAULT, EXPLANATIONS, explain, explanations_for, target_vectors
from engine.explain._blur import blurred
from engine.features import check_files
from engine.predict import bound, embed
from engine.preprocess import prepare
from engine.prompts import PromptSet
from engine.sandbox import read_image
from engine.types import Box, Example, Input, Interval

BATCH = 32  # inputs of one forward pass
Score = Callable[[list[Input]], np.ndarray]
FILLS = ("blur", "mean")
ORDERS = 20  # random orders that one map is held against: being better than all but one of them is then 95 %
SURE = 0.95  # share of the random orders that a map must beat to be called better than chance
STILL = 0.02  # of the probability: where it moves less than this whatever is taken away, no order can be told from another
CHANCE = ("random", "centre")  # what every map is held against in the table


# --- curves -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curves:
    """The class's probability as cells of the map are taken away, or shown.

    shares (K + 1,) : of the n cells, from 0 to 1; deletion, insertion (K + 1,) : the probability after that share
    """

    shares: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray

    @property
    def deletion_auc(self) -> float:
        """Area under the deletion curve, trapezoids, in [0, 1]: low where what the map marks matters."""
        return _area(self.shares, self.deletion)

    @property
    def insertion_auc(self) -> float:
        """Area under the insertion curve: high where what the map marks suffices."""
        return _area(self.shares, self.insertion)

    @property
    def score(self) -> float:
        """Insertion minus deletion, in [-1, 1]: 0 on average for a random order, the negative for the reverse order."""
        return self.insertion_auc - self.deletion_auc


def _area(x: np.ndarray, y: np.ndarray) -> float:
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum())


def replaced(pixels: np.ndarray, grid: tuple[int, int], fill: str = "blur") -> np.ndarray:
    """pixels (3, S, S), normalised -> what stands where a cell is taken away, float32 (3, S, S).

    "blur": a Gaussian whose standard deviation is a cell's longer side, weights renormalised at the border, so that nothing of
    the size of a cell is left; "mean": the preprocessing's mean, which is 0 after it. Raises ExplainError.
    """
    if fill not in FILLS:
        raise ExplainError(f"There is no replacement called {fill!r}.", f"Choose one of: {', '.join(FILLS)}.")
    if fill == "mean":
        return np.zeros_like(pixels, dtype=np.float32)
    return blurred(torch.from_numpy(pixels), pixels.shape[-1] / min(grid)).numpy()


def seen_cells(box: Box, shape: tuple[int, int], grid: tuple[int, int], covered: Sequence[Box] = ()) -> np.ndarray:
    """bool (h, w): cells that show something of an image of this shape (H, W); not those of mere padding, and not those of
    which every pixel was covered (`engine.cover`, which takes in each pixel that a box touches)."""
    shown = np.ones(shape, dtype=bool)
    for each in covered:
        rows, columns = _span(each.top, each.height, shape[0]), _span(each.left, each.width, shape[1])
        shown[rows, columns] = False
    (h, w), cells = grid, np.zeros(grid, dtype=bool)
    for i in range(h):
        rows = _span(box.top + i * box.height / h, box.height / h, shape[0])
        for j in range(w):
            cells[i, j] = shown[rows, _span(box.left + j * box.width / w, box.width / w, shape[1])].any()
    return cells


def _span(start: float, length: float, side: int) -> slice:
    """The pixels that [start, start + length) touches; a millionth of a pixel is rounding, no touch."""
    first, last = np.floor(start + 1e-6), np.ceil(start + length - 1e-6)
    return slice(int(np.clip(first, 0, side)), int(np.clip(last, 0, side)))


def centred(grid: tuple[int, int]) -> np.ndarray:
    """float32 (h, w): a Gaussian around the middle of the input, where what an image is of tends to stand."""
    y, x = ((np.arange(side) + 0.5) / side - 0.5 for side in grid)
    return np.exp(-0.5 * (y[:, None] ** 2 + x**2) / 0.25**2).astype(np.float32).round(6)  # equal distance, equal value


def _order(values: np.ndarray, seen: np.ndarray, seed: int) -> np.ndarray:
    """Cells (n,) as indices into the flat map, the highest value first; equal ones in a random order, the seed's."""
    cells = np.random.default_rng(seed).permutation(np.flatnonzero(seen))
    return cells[np.argsort(-values.ravel()[cells], kind="stable")]


def _counted(values: np.ndarray, seen: np.ndarray | None) -> np.ndarray:
    """bool (h, w): the cells that take part. Raises ExplainError."""
    if values.ndim != 2:
        raise ExplainError(f"A map has rows and columns; this one has the shape {values.shape}.")
    if seen is not None and seen.shape != values.shape:
        raise ExplainError(f"The map has the shape {values.shape}, its seen cells {seen.shape}.", "Give both on one grid.")
    counted = np.isfinite(values) if seen is None else np.isfinite(values) & seen.astype(bool)
    if not counted.any():
        raise ExplainError("The map has no cell that the model saw, so that nothing can be taken away.")
    return counted


def _curves(
    prepared: Input,
    backbone: Backbone,
    prompts: PromptSet,
    label: str,
    orders: Sequence[np.ndarray],
    grid: tuple[int, int],
    steps: int,
    fill: str,
    batch: int = BATCH,
    score: Score | None = None,
) -> list[Curves]:
    """One Curves an order, which need not have as many cells as the others (a map may say nothing of some). Every input that
    several orders share is encoded once. Raises ExplainError."""
    if steps < 1:
        raise ExplainError(f"A curve of {steps} steps cannot be drawn.", "Ask for at least 1.")
    prompts = bound(prompts, backbone)
    if label not in prompts.labels:
        raise ExplainError(f"{label!r} is no class of the prompt set {prompts.name!r}.")
    wanted: dict[bytes, np.ndarray] = {}  # each set of cells that is taken away, once
    rows: list[tuple[np.ndarray, list[bytes], list[bytes]]] = []
    for order in orders:
        counts = np.unique(np.rint(np.linspace(0, len(order), steps + 1)).astype(int))
        deleted: list[bytes] = []
        inserted: list[bytes] = []
        for count in counts:
            for keys, cells in ((deleted, order[:count]), (inserted, order[count:])):
                gone = np.zeros(grid[0] * grid[1], dtype=bool)
                gone[cells] = True
                keys.append(gone.tobytes())
                wanted.setdefault(keys[-1], gone)
        rows.append((counts / counts[-1], deleted, inserted))
    score = score or (lambda inputs: prompts.probabilities(embed(inputs, backbone, prompts.visual_prompt)))
    found = _probabilities(prepared, score, np.stack(list(wanted.values())), grid, fill, batch)
    known = dict(zip(wanted, found[:, prompts.labels.index(label)].astype(float), strict=True))
    return [Curves(shares, np.array([known[k] for k in d]), np.array([known[k] for k in i])) for shares, d, i in rows]


def _probabilities(
    prepared: Input, score: Score, gone: np.ndarray, grid: tuple[int, int], fill: str, batch: int
) -> np.ndarray:
    """gone (M, h * w) bool -> (M, C): the classes' probabilities with these cells replaced."""
    size = prepared.pixels.shape[-1]
    row, column = (np.arange(size) * side // size for side in grid)  # the cell of each pixel
    other, found = replaced(prepared.pixels, grid, fill), []
    for start in range(0, len(gone), batch):
        part = gone[start : start + batch].reshape(-1, *grid)[:, row][:, :, column]
        inputs = [Input(np.where(each, other, prepared.pixels), prepared.box) for each in part]
        found.append(score(inputs))
    return np.concatenate(found)


def deletion_insertion(
    prepared: Input,
    backbone: Backbone,
    prompts: PromptSet,
    label: str,
    values: np.ndarray,
    steps: int = 20,
    fill: str = "blur",
    seen: np.ndarray | None = None,
    seed: int = 0,
    batch: int = BATCH,
) -> Curves:
    """How the probability of `label` falls as the cells of a map are replaced, its highest value first, and how it rises as they
    are put into an input that is replaced altogether.

    values (h, w) : any map of this input, on any grid; equal values are taken in a random order (the seed's)
    seen (h, w) : the cells that count, as `seen_cells` finds them; others, and those without a number, stay as they are
    fill : as `replaced` has it. Raises ExplainError, PromptSetError where the set belongs to another backbone.
    """
    counted = _counted(values, seen)
    order = _order(values, counted, seed)
    grid = (values.shape[0], values.shape[1])
    return _curves(prepared, backbone, prompts, label, [order], grid, steps, fill, batch)[0]


# --- against chance ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chance:
    """A map's curves beside those of R random orders and of one from the centre outwards. flat : the map marks nothing."""

    curves: Curves
    random: tuple[Curves, ...]
    centre: Curves
    flat: bool

    @property
    def beaten(self) -> int:
        """Random orders whose insertion minus deletion is lower than the map's."""
        return sum(each.score < self.curves.score for each in self.random)

    @property
    def moved(self) -> float:
        """Between the highest and the lowest probability on any of the curves."""
        every = [c for each in (self.curves, self.centre, *self.random) for c in (each.deletion, each.insertion)]
        return float(np.max(every) - np.min(every))

    @property
    def verdict(self) -> str:
        return verdict(
            self.curves.score, [each.score for each in self.random], self.centre.score, moved=self.moved, flat=self.flat
        )


def verdict(score: float, random: Sequence[float], centre: float, moved: float, flat: bool = False) -> str:
    """What the page says of a map. Scores are insertion minus deletion.

    flat: it marks nothing. moved below STILL: nothing can be said. Else the map is better than chance where its score is higher
    than at least SURE of the R random ones (R = 20: than 19; a map without meaning passes in 2 of 21 images), no better where it
    is higher than half of them or fewer, and may be better between. A centre-first order that scores as high is named.
    """
    beaten, orders = sum(each < score for each in random), len(random)
    than = f"better than {beaten} of {orders} random orders"
    if flat:
        return "This map marks nothing."
    if moved < STILL:
        return (
            "Whatever is taken away, the probability of this class hardly moves (by "
            f"{100 * moved:.1f} percentage points at most): on this image no map can be told from a random one."
        )
    if beaten <= orders / 2:
        return f"This map is no better than a random one ({than}): do not read anything into it."
    if beaten < SURE * orders:
        return f"This map may be no better than a random one ({than}): do not rely on it."
    words = (
        f"This map is better than a random one ({than}): taking away what it marks lowers the probability, and showing it raises "
        "it, on the whole sooner."
    )
    if centre >= score:
        words += " Going from the centre of the image outwards does it as fast, so that the map may say no more than that."
    return words


def against_chance(
    prepared: Input,
    backbone: Backbone,
    prompts: PromptSet,
    label: str,
    values: np.ndarray,
    steps: int = 20,
    orders: int = ORDERS,
    fill: str = "blur",
    seen: np.ndarray | None = None,
    seed: int = 0,
    score: Score | None = None,
) -> Chance:
    """`deletion_insertion` of a map, of random orders of the same cells (the seed's) and of a centre-first order.

    score : what gives the set's probabilities (B, C) of a batch, in place of this backbone: a caller who shares it with others
    sees by it how far the check is, and ends it by raising. At most 2 + 2 * (steps - 1) * (orders + 2) images pass. Raises as
    `deletion_insertion`.
    """
    if orders < 1:
        raise ExplainError(f"{orders} random orders are nothing to compare with.", "Ask for at least 1.")
    counted, grid = _counted(values, seen), (values.shape[0], values.shape[1])
    rng, cells = np.random.default_rng([seed, 1]), np.flatnonzero(counted)
    every = [
        _order(values, counted, seed),
        _order(centred(grid), counted, seed),
        *(rng.permutation(cells) for _ in range(orders)),
    ]
    own, centre, *random = _curves(prepared, backbone, prompts, label, every, grid, steps, fill, score=score)
    return Chance(own, tuple(random), centre, flat=bool(np.ptp(values[counted]) == 0))


# --- sanity -----------------------------------------------------------------------------------------------------------


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, of two maps of one shape; equal values share their mean rank. NaN where one is flat."""
    ranks = []
    for each in (a, b):
        _, where, counts = np.unique(each.ravel(), return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[where.ravel()])
    one, other = (rank - rank.mean() for rank in ranks)
    length = np.sqrt((one @ one) * (other @ other))
    return float(one @ other / length) if length else float("nan")


def randomised(backbone: Backbone, blocks: Sequence[int], seed: int = 0) -> dict[int, Backbone]:
    """{b: the backbone whose last b blocks of the image tower are as before any training}, for `weights_matter`; made once for
    many images. Raises BackboneError where its weights cannot be replaced."""
    from engine.backbones._random import untrained  # loads every architecture; nobody else needs it

    return {last: untrained(backbone, last, seed) for last in blocks}


def weights_matter(
    prepared: Input,
    backbone: Backbone,
    prompts: PromptSet,
    label: str,
    method: str,
    others: Mapping[int, Backbone],
    target: str = "rest",
) -> dict[int, float]:
    """{b: rank correlation of the map with the one that the tower makes once its last b blocks are random}.

    others : from `randomised`. What stays near 1 to the end depends on the image (its edges) and not on what was learned.
    The target is the trained backbone's. Raises ExplainError.
    """
    x, vectors = _asked(prepared, backbone, prompts, label, method, target)
    make, visual = EXPLANATIONS[method], prompts.visual_prompt
    own = make(backbone, x, vectors, visual).cpu().numpy()[0, 0]
    return {b: rank_correlation(own, make(each, x, vectors, visual).cpu().numpy()[0, 0]) for b, each in others.items()}


def shift_stability(
    prepared: Input,
    backbone: Backbone,
    prompts: PromptSet,
    label: str,
    method: str,
    shift: int = 4,
    target: str = "rest",
) -> float:
    """Mean rank correlation of the map with those of the input moved by `shift` pixels up, down, left and right, each moved back
    (bilinear between cells) and compared where both have cells. The border that comes in repeats the last row or column.

    NaN where a map is flat. Raises ExplainError.
    """
    size = prepared.pixels.shape[-1]
    if not 0 < shift < size:
        raise ExplainError(f"An input of {size} pixels cannot be moved by {shift}.", f"Give 1 to {size - 1} pixels.")
    x, vectors = _asked(prepared, backbone, prompts, label, method, target)
    ways = [(shift, 0), (-shift, 0), (0, shift), (0, -shift)]
    moved = torch.from_numpy(np.stack([_moved(prepared.pixels, down, right) for down, right in ways]))
    own, *others = EXPLANATIONS[method](backbone, torch.cat([x, moved]), vectors, prompts.visual_prompt).cpu().numpy()[:, 0]
    found = []
    for (down, right), values in zip(ways, others, strict=True):
        rows, back_rows = _back(own.shape[0], down / size * own.shape[0])
        columns, back_columns = _back(own.shape[1], right / size * own.shape[1])
        if not len(rows) or not len(columns):
            raise ExplainError(f"Moved by {shift} pixels the map has no cell left to compare.", "Give fewer pixels.")
        found.append(rank_correlation(own[np.ix_(rows, columns)], back_rows @ values @ back_columns.T))
    return float(np.mean(found))


def _asked(
    prepared: Input, backbone: Backbone, prompts: PromptSet, label: str, method: str, target: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The input (1, 3, S, S) and the target (1, D) of one map. Raises ExplainError."""
    prompts.check(backbone)
    if method in EXPLANATIONS and method not in explanations_for(backbone):
        raise ExplainError(f"The backbone {backbone.id!r} cannot carry the map {method!r}.")
    scores = np.empty(0)
    if target == "runner-up":
        scores = bound(prompts, backbone).scores(embed([prepared], backbone, prompts.visual_prompt))[0]
    return torch.from_numpy(prepared.pixels)[None], torch.from_numpy(target_vectors(prompts, [label], target, scores))


def _moved(pixels: np.ndarray, down: int, right: int) -> np.ndarray:
    """pixels (3, S, S) moved, the border repeated."""
    y, x = (np.clip(np.arange(pixels.shape[-1]) - by, 0, pixels.shape[-1] - 1) for by in (down, right))
    return pixels[:, y][:, :, x]


def _back(cells: int, by: float) -> tuple[np.ndarray, np.ndarray]:
    """Which cells (m,) still lie on a map that was moved by so many, and the weights (m, cells) that move it back. Cells into
    which the repeated border came are left out."""
    at, came_in = np.arange(cells) + by, np.ceil(abs(by))
    first, last = (came_in, cells - 1) if by > 0 else (0, cells - 1 - came_in) if by < 0 else (0, cells - 1)
    kept = np.flatnonzero((at >= first) & (at <= last))
    low = np.floor(at[kept]).astype(int)
    share = (at[kept] - low).astype(np.float32)
    weights = np.zeros((len(kept), cells), dtype=np.float32)
    weights[np.arange(len(kept)), low] = 1 - share
    weights[np.arange(len(kept)), np.minimum(low + 1, cells - 1)] += share
    return kept, weights


# --- over many images -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Labelled images and the prompt set that is asked about them."""

    examples: Sequence[Example]
    prompts: PromptSet


@dataclass(frozen=True)
class Scored:
    """One image. unit : what it belongs to, with its source, never shown; named_right : the class that was asked about is its label.

    deletion, insertion : areas by map, those of CHANCE among them; seconds : to make each map
    stability, by map; weights, by map and by randomised blocks : where they were asked for
    """

    source: int
    unit: str
    named_right: bool
    deletion: dict[str, float]
    insertion: dict[str, float]
    seconds: dict[str, float]
    stability: dict[str, float] = field(default_factory=dict)
    weights: dict[str, dict[int, float]] = field(default_factory=dict)


def balanced(sources: Sequence[Source], images: int, seed: int = 0) -> list[tuple[int, Example]]:
    """(source, example): as many of each source, and of each of its classes as far as they last, one of a unit while units last;
    in turns, so that a run that is stopped is balanced too. A source with fewer gives all. Raises DataError."""
    if images < 1:
        raise DataError(f"{images} images cannot be drawn.", "Ask for at least 1.")
    drawn: list[list[Example]] = []
    for s, source in enumerate(sources):
        share = images // len(sources) + (s < images % len(sources))
        rows = [replace(e, split="") for e in source.examples]
        if not share or not rows:
            drawn.append([])
            continue
        found = grouped_few_shot(rows, share, seed)[0]  # so many of each class, the best spread first
        of_class = [[e for e in found if e.label == label] for label in dict.fromkeys(e.label for e in found)]
        turns = [e for turn in range(share) for some in of_class for e in some[turn : turn + 1]]
        drawn.append(turns[:share])
    longest = max(map(len, drawn), default=0)
    return [(s, rows[turn]) for turn in range(longest) for s, rows in enumerate(drawn) if turn < len(rows)]


def score_maps(
    sources: Sequence[Source],
    backbone: Backbone,
    maps: Sequence[str],
    images: int = 200,
    steps: int = 10,
    orders: int = 4,
    fill: str = "blur",
    target: str = "rest",
    checks: Sequence[int] = (),
    seed: int = 0,
) -> Iterator[Scored]:
    """One image after the other of `balanced`: every map of the class that the set names first, random orders and the centre.

    orders : random ones an image, each with its reverse (an odd one without); their areas are averaged
    checks : blocks to randomise, as in (1, 6, 12); then shifts are tried too
    Raises DataError, ExplainError, ImageError where a file is missing or cannot be read.
    """
    for name in maps:
        _ = EXPLANATIONS[name]
        if name not in explanations_for(backbone):
            raise ExplainError(f"The backbone {backbone.id!r} cannot carry the map {name!r}.")
    if orders < 1:
        raise ExplainError(f"{orders} random orders are nothing to compare with.", "Ask for at least 1.")
    for source in sources:
        source.prompts.check(backbone)
        if source.prompts.class_embeddings is None and maps:
            raise ExplainError(
                f"The prompt set {source.prompts.name!r} has no class embeddings, so that no map can be made."
            )
    drawn = balanced(sources, images, seed)
    if not drawn:
        raise DataError("There are no labelled images to score maps on.")
    check_files([example for _, example in drawn])
    others = randomised(backbone, checks, seed) if checks else {}
    for turn, (s, example) in enumerate(drawn):
        image, prompts = read_image(example.path), sources[s].prompts
        prepared = prepare(image, backbone.preprocess)
        features = embed([prepared], backbone, prompts.visual_prompt)
        label = prompts.labels[int(bound(prompts, backbone).scores(features)[0].argmax())]
        made, seconds = {}, {}
        for name in maps:
            began = time.perf_counter()
            made[name] = explain(prepared, backbone, prompts, [label], name, target)[0].values
            seconds[name] = time.perf_counter() - began
        grids = {(v.shape[0], v.shape[1]) for v in made.values()} or {_grid(backbone)}
        deletion, insertion = {}, {}
        first = True
        for grid in sorted(grids, reverse=True):  # chance is measured once, on the finest grid
            here = {name: v for name, v in made.items() if v.shape == grid}
            seen = seen_cells(prepared.box, image.shape, grid)
            every = {name: [_order(v, _counted(v, seen), seed)] for name, v in here.items()}
            if first:
                every |= {"random": _pairs(seen, orders, [seed, turn]), "centre": [_order(centred(grid), seen, seed)]}
            flat = [order for some in every.values() for order in some]
            curves = iter(_curves(prepared, backbone, prompts, label, flat, grid, steps, fill))
            for name, some in every.items():
                each = [next(curves) for _ in some]
                deletion[name] = float(np.mean([c.deletion_auc for c in each]))
                insertion[name] = float(np.mean([c.insertion_auc for c in each]))
            first = False
        more: dict[str, Any] = {}
        if others:
            asked = (prepared, backbone, prompts, label)
            more["stability"] = {name: shift_stability(*asked, name, target=target) for name in maps}
            more["weights"] = {name: weights_matter(*asked, name, others, target) for name in maps}
        yield Scored(s, f"{s} {unit(example)}", label == example.label, deletion, insertion, seconds, **more)


def _grid(backbone: Backbone) -> tuple[int, int]:
    """Where no map is asked for, chance is measured on the backbone's patches, or on 14 x 14 cells where it names none."""
    return getattr(backbone, "grid", (14, 14))


def _pairs(seen: np.ndarray, orders: int, seed: list[int]) -> list[np.ndarray]:
    """Random orders of the seen cells, every second one the reverse of the one before: what both show is encoded once, and their
    insertion minus deletion is 0 together."""
    rng, cells = np.random.default_rng(seed), np.flatnonzero(seen)
    found: list[np.ndarray] = []
    for i in range(orders):
        found.append(found[-1][::-1] if i % 2 else rng.permutation(cells))
    return found


@dataclass(frozen=True)
class MapScores:
    """Means over the images of one map, or one of CHANCE, with intervals over groups.

    score : insertion minus deletion; over_random : the score less that of random orders on the same images
    seconds : the median to make one map, 0 for CHANCE; stability, weights : where they were asked for
    """

    name: str
    deletion: Interval
    insertion: Interval
    score: Interval
    over_random: Interval
    seconds: float
    stability: Interval | None = None
    weights: dict[int, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Faithfulness:
    """All maps on the same images, the best first. rows : one an image."""

    rows: tuple[Scored, ...]

    @property
    def units(self) -> tuple[str, ...]:
        return tuple(row.unit for row in self.rows)

    def _scores(self, name: str) -> np.ndarray:
        return np.array([row.insertion[name] - row.deletion[name] for row in self.rows])

    @cached_property
    def maps(self) -> list[MapScores]:
        """Every map, and CHANCE, by falling score."""
        found = []
        for name in self.rows[0].deletion:
            scores, made = self._scores(name), [row.seconds[name] for row in self.rows if name in row.seconds]
            first = self.rows[0]
            found.append(
                MapScores(
                    name,
                    self._mean([row.deletion[name] for row in self.rows]),
                    self._mean([row.insertion[name] for row in self.rows]),
                    self._mean(scores),
                    self._mean(scores - self._scores("random")),
                    float(np.median(made)) if made else 0.0,
                    self._mean([row.stability[name] for row in self.rows]) if name in first.stability else None,
                    {b: self._mean([row.weights[name][b] for row in self.rows]) for b in first.weights.get(name, {})},
                )
            )
        return sorted(found, key=lambda each: -each.score.value)

    def _mean(self, values: Sequence[float] | np.ndarray) -> Interval:
        """Without the images that have no number (a correlation with a flat map)."""
        numbers = np.asarray(values, dtype=float)
        there = ~np.isnan(numbers)
        if not there.any():
            return Interval(np.nan, np.nan, np.nan)
        return mean_over_units(numbers[there], [name for name, known in zip(self.units, there, strict=True) if known])

    def difference(self, a: str, b: str) -> Interval:
        """How much higher the score of b is than that of a, on the same images."""
        return self._mean(self._scores(b) - self._scores(a))

    def in_words(self) -> str:
        """Which map is best, and whether that may be chance; of the default where it is another one."""
        ranked = [each for each in self.maps if each.name not in CHANCE]
        if not ranked:
            return "No map was asked for."
        best, words = ranked[0], []
        words.append(f"Of the maps, {best.name} is best by insertion minus deletion ({_shown(best.score)}).")
        for name, what in (("random", "random orders"), ("centre", "going from the centre outwards")):
            words.append(_told(self.difference(name, best.name), f"It is {{}} than {what}"))
        if len(ranked) > 1:
            words.append(_told(self.difference(ranked[1].name, best.name), f"It is {{}} than the next, {ranked[1].name}"))
        if best.name != DEFAULT and DEFAULT in self.rows[0].deletion:
            words.append(_told(self.difference(DEFAULT, best.name), f"It is {{}} than the default, {DEFAULT}"))
        return " ".join(words)


def _shown(i: Interval) -> str:
    return f"{i.value:.3f}, 95 % {i.low:.3f} to {i.high:.3f}"


def _told(by: Interval, words: str) -> str:
    """A sentence from a difference: clear where its interval leaves out 0."""
    sure = by.low > 0 or by.high < 0
    how = ("better" if by.value > 0 else "worse") if sure else "not clearly better"
    return f"{words.format(how)} (difference {_shown(by)})."
