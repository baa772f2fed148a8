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
from engine.data import read_examples
from engine.errors import BackboneError, DataError, EngineError, ExplainError, ImageError, PromptSetError
from engine.evaluate import Evaluation, evaluate, features_of
from engine.explain import EXPLANATIONS, explain, explanations_for
from engine.methods import METHODS, from_words, prompt_set
from engine.predict import embed, predict, read_off
from engine.preprocess import Preprocess, place, prepare
from engine.prompts import PromptSet, library
from engine.readers import READERS, middle, read, read_image
from engine.render import is_flat, layer, overlay, picture
from engine.results import NOTICE, error_row, result_row
from engine.samples import Sample, samples
from engine.tasks import Task, descriptions, task, tasks
from engine.types import Box, Example, Heatmap, Image, Input, Prediction, Series, Window

__version__ = "0.1.0"

__all__ = [
    "BACKBONES",
    "EXPLANATIONS",
    "METHODS",
    "NOTICE",
    "READERS",
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
    "Prediction",
    "Preprocess",
    "PromptSet",
    "PromptSetError",
    "Sample",
    "Series",
    "Task",
    "Window",
    "descriptions",
    "embed",
    "error_row",
    "evaluate",
    "explain",
    "explanations_for",
    "features_of",
    "from_words",
    "is_flat",
    "layer",
    "library",
    "load_backbone",
    "middle",
    "overlay",
    "picture",
    "place",
    "predict",
    "prepare",
    "prompt_set",
    "read",
    "read_examples",
    "read_image",
    "read_off",
    "result_row",
    "samples",
    "task",
    "tasks",
]
