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
from engine.data import SAMPLERS, base_and_novel, check_examples, hold_out, of_classes, read_examples, straddling
from engine.errors import BackboneError, DataError, EngineError, ExplainError, ImageError, PromptSetError, Stopped
from engine.evaluate import METRICS, Evaluation, evaluate, harmonic_means, paired_difference
from engine.explain import EXPLANATIONS, explain, explanations_for
from engine.features import check_files, features_of, views_of
from engine.importing import import_bank, import_checkpoint
from engine.methods import METHODS, carried, from_words, instant, method, prompt_set
from engine.methods.base import set_name
from engine.predict import bound, embed, predict, read_off
from engine.preprocess import Preprocess, place, prepare
from engine.prompts import PromptSet, library
from engine.readers import READERS, middle, read, read_image
from engine.render import is_flat, layer, overlay, picture
from engine.reproduce import PROTOCOLS, Asked, markdown, reproduce, summary
from engine.results import NOTICE, error_row, result_row
from engine.samples import Sample, samples
from engine.tasks import Task, descriptions, task, tasks
from engine.training import Watch
from engine.tune import EXACT, task_of, tune
from engine.types import Box, Example, Heatmap, Image, Input, Interval, Prediction, Series, VisualPrompt, Window

__version__ = "0.1.0"

__all__ = [
    "BACKBONES",
    "EXACT",
    "EXPLANATIONS",
    "METHODS",
    "METRICS",
    "NOTICE",
    "PROTOCOLS",
    "READERS",
    "SAMPLERS",
    "Asked",
    "Backbone",
    "BackboneError",
    "Box",
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
    "Prediction",
    "Preprocess",
    "PromptSet",
    "PromptSetError",
    "Sample",
    "Series",
    "Stopped",
    "Task",
    "VisualPrompt",
    "Watch",
    "Window",
    "base_and_novel",
    "bound",
    "carried",
    "check_examples",
    "check_files",
    "descriptions",
    "embed",
    "error_row",
    "evaluate",
    "explain",
    "explanations_for",
    "features_of",
    "from_words",
    "harmonic_means",
    "hold_out",
    "import_bank",
    "import_checkpoint",
    "instant",
    "is_flat",
    "layer",
    "library",
    "load_backbone",
    "markdown",
    "method",
    "middle",
    "of_classes",
    "overlay",
    "paired_difference",
    "picture",
    "place",
    "predict",
    "prepare",
    "prompt_set",
    "read",
    "read_examples",
    "read_image",
    "read_off",
    "reproduce",
    "result_row",
    "samples",
    "set_name",
    "straddling",
    "summary",
    "task",
    "task_of",
    "tasks",
    "tune",
    "views_of",
]
