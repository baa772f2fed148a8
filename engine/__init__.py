"""PromptScope's engine: medical images, vision-language backbones, learned prompt sets, maps.

    import engine
    backbone = engine.load_backbone("scope-mini")
    prompts = engine.PromptSet.load("btmri-description-ensemble-scope-mini")
    image = engine.read_image("study.dcm")
    prediction = engine.predict(image, backbone, prompts)

Research use only; not a medical device.
"""

from engine.backbones import BACKBONES, load_backbone
from engine.backbones.base import Backbone
from engine.burned_in import cover, find_text
from engine.data import SAMPLERS, base_and_novel, check_examples, hold_out, of_classes, read_examples, straddling
from engine.errors import BackboneError, DataError, EngineError, ExplainError, ImageError, PromptSetError, Stopped
from engine.evaluate import METRICS, Evaluation, evaluate, harmonic_means, paired_difference
from engine.explain import EXPLANATIONS, explain, explanations_for
from engine.features import check_files, features_of, views_of
from engine.importing import import_bank, import_checkpoint
from engine.limits import Limits, LimitsError, read_limits
from engine.methods import METHODS, carried, from_words, instant, method, prompt_set
from engine.methods.base import set_name
from engine.pooling import POOLS, Curve, pool, pooled_by
from engine.predict import bound, embed, predict, read_off
from engine.preprocess import Preprocess, place, prepare, smaller
from engine.prompts import PromptSet, library
from engine.readers import READERS, middle
from engine.render import is_flat, layer, overlay, picture
from engine.reproduce import PROTOCOLS, Asked, markdown, reproduce, summary
from engine.results import NOTICE, error_row, pooling_row, result_row, warnings_of
from engine.samples import Sample, samples
from engine.sandbox import Opened, Sandbox, frames_of, open_all, read, read_image, sandbox
from engine.scratch import PrivateFolder
from engine.store import erase
from engine.tasks import Task, descriptions, task, tasks
from engine.training import Watch
from engine.tune import EXACT, task_of, tune
from engine.types import About, Box, Example, Heatmap, Image, Input, Interval, Prediction, Series, VisualPrompt, Window
from engine.volumes import curves, pooled, scorer
from engine.windows import PRESETS, by_hand, inverted
from engine.windows import named as named_window
from engine.windows import offered as offered_windows

__version__ = "0.1.0"

__all__ = [
    "BACKBONES",
    "EXACT",
    "EXPLANATIONS",
    "METHODS",
    "METRICS",
    "NOTICE",
    "POOLS",
    "PRESETS",
    "PROTOCOLS",
    "READERS",
    "SAMPLERS",
    "About",
    "Asked",
    "Backbone",
    "BackboneError",
    "Box",
    "Curve",
    "DataError",
    "EngineError",
    "Evaluation",
    "Example",
    "ExplainError",
    "Heatmap",
    "Image",
    "ImageError",
    "Input",
    "Interval",
    "Limits",
    "LimitsError",
    "Opened",
    "Prediction",
    "Preprocess",
    "PrivateFolder",
    "PromptSet",
    "PromptSetError",
    "Sample",
    "Sandbox",
    "Series",
    "Stopped",
    "Task",
    "VisualPrompt",
    "Watch",
    "Window",
    "base_and_novel",
    "bound",
    "by_hand",
    "carried",
    "check_examples",
    "check_files",
    "cover",
    "curves",
    "descriptions",
    "embed",
    "erase",
    "error_row",
    "evaluate",
    "explain",
    "explanations_for",
    "features_of",
    "find_text",
    "frames_of",
    "from_words",
    "harmonic_means",
    "hold_out",
    "import_bank",
    "import_checkpoint",
    "instant",
    "inverted",
    "is_flat",
    "layer",
    "library",
    "load_backbone",
    "markdown",
    "method",
    "middle",
    "named_window",
    "of_classes",
    "offered_windows",
    "open_all",
    "overlay",
    "paired_difference",
    "picture",
    "place",
    "pool",
    "pooled",
    "pooled_by",
    "pooling_row",
    "predict",
    "prepare",
    "prompt_set",
    "read",
    "read_examples",
    "read_image",
    "read_limits",
    "read_off",
    "reproduce",
    "result_row",
    "samples",
    "sandbox",
    "scorer",
    "set_name",
    "smaller",
    "straddling",
    "summary",
    "task",
    "task_of",
    "tasks",
    "tune",
    "views_of",
    "warnings_of",
]
