"""PromptScope's engine: medical images, vision-language backbones, learned prompt sets, maps.

    import engine
    backbone = engine.load_backbone("scope-mini")
    prompts = engine.PromptSet.load("btmri-description-ensemble-scope-mini")
    image = engine.read_image("study.dcm")
    prediction = engine.predict(image, backbone, prompts)

Research use only; not a medical device.
"""

from engine.backbones import BACKBONES, Weights, load_backbone, weights
from engine.backbones._fetch import Fetch
from engine.backbones.base import Backbone
from engine.batch import Look, Seen, predict_all
from engine.burned_in import cover, find_text
from engine.compare import (
    Answer,
    Candidate,
    Column,
    Comparison,
    agreement,
    candidate,
    compare_cases,
    compare_image,
    right_where,
    to_read,
)
from engine.compare import as_rows as comparison_rows
from engine.compare import care as comparison_care
from engine.compare import in_words as comparison_words
from engine.data import SAMPLERS, base_and_novel, check_examples, hold_out, of_classes, read_examples, straddling
from engine.errors import BackboneError, DataError, EngineError, ExplainError, ImageError, PromptSetError, Stopped
from engine.evaluate import METRICS, Evaluation, evaluate, harmonic_means, in_points, paired_difference
from engine.explain import EXPLANATIONS, explain, explanations_for
from engine.features import check_files, features_of, views_of
from engine.importing import checkpoint_methods, import_bank, import_checkpoint
from engine.limits import Limits, LimitsError, read_limits
from engine.methods import METHODS, carried, from_words, instant, method, prompt_set
from engine.methods.base import set_name
from engine.pooling import POOLS, Curve, pool, pooled_by
from engine.predict import bound, embed, predict, read_off
from engine.preprocess import Preprocess, place, prepare, smaller
from engine.prompts import LIBRARY, PromptSet, library
from engine.readers import READERS, middle
from engine.render import is_flat, layer, overlay, picture
from engine.report import plots as comparison_plots
from engine.report import report as comparison_report
from engine.report import table as comparison_table
from engine.reproduce import PROTOCOLS, Asked, markdown, reproduce, summary
from engine.results import NOTICE, as_csv, csv_cell, error_row, pooling_row, result_row, warnings_of
from engine.samples import Sample, samples
from engine.sandbox import Opened, Sandbox, frames_of, open_all, read, read_image, sandbox
from engine.scratch import PrivateFolder
from engine.store import Store, erase
from engine.study import BUDGETS, Plan, check_plan, study
from engine.table import Filled, Table, predict_archive
from engine.tasks import ClassDescriptions, DescriptionBank, Label, Task, descriptions, task, tasks
from engine.training import Watch
from engine.tune import EXACT, task_of, tune
from engine.types import About, Box, Example, Heatmap, Image, Input, Interval, Prediction, Series, VisualPrompt, Window
from engine.volumes import curves, pooled, scorer
from engine.windows import PRESETS, by_hand, inverted
from engine.windows import named as named_window
from engine.windows import offered as offered_windows
from engine.wording import check_sentences
from engine.workspace import (
    Added,
    Case,
    Intake,
    Job,
    Queue,
    Work,
    Workspace,
    back_up,
    carry_out,
    check,
    count_older,
    erase_cases,
    erase_older,
    erase_patient,
    keep_cases_days,
    learned_from,
    look_after,
    restore,
    take_in,
    workspace_folder,
)

__version__ = "0.1.0"

__all__ = [
    "BACKBONES",
    "BUDGETS",
    "EXACT",
    "EXPLANATIONS",
    "LIBRARY",
    "METHODS",
    "METRICS",
    "NOTICE",
    "POOLS",
    "PRESETS",
    "PROTOCOLS",
    "READERS",
    "SAMPLERS",
    "About",
    "Added",
    "Answer",
    "Asked",
    "Backbone",
    "BackboneError",
    "Box",
    "Candidate",
    "Case",
    "ClassDescriptions",
    "Column",
    "Comparison",
    "Curve",
    "DataError",
    "DescriptionBank",
    "EngineError",
    "Evaluation",
    "Example",
    "ExplainError",
    "Fetch",
    "Filled",
    "Heatmap",
    "Image",
    "ImageError",
    "Input",
    "Intake",
    "Interval",
    "Job",
    "Label",
    "Limits",
    "LimitsError",
    "Look",
    "Opened",
    "Plan",
    "Prediction",
    "Preprocess",
    "PrivateFolder",
    "PromptSet",
    "PromptSetError",
    "Queue",
    "Sample",
    "Sandbox",
    "Seen",
    "Series",
    "Stopped",
    "Store",
    "Table",
    "Task",
    "VisualPrompt",
    "Watch",
    "Weights",
    "Window",
    "Work",
    "Workspace",
    "agreement",
    "as_csv",
    "back_up",
    "base_and_novel",
    "bound",
    "by_hand",
    "candidate",
    "carried",
    "carry_out",
    "check",
    "check_examples",
    "check_files",
    "check_plan",
    "check_sentences",
    "checkpoint_methods",
    "compare_cases",
    "compare_image",
    "comparison_care",
    "comparison_plots",
    "comparison_report",
    "comparison_rows",
    "comparison_table",
    "comparison_words",
    "count_older",
    "cover",
    "csv_cell",
    "curves",
    "descriptions",
    "embed",
    "erase",
    "erase_cases",
    "erase_older",
    "erase_patient",
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
    "in_points",
    "instant",
    "inverted",
    "is_flat",
    "keep_cases_days",
    "layer",
    "learned_from",
    "library",
    "load_backbone",
    "look_after",
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
    "predict_all",
    "predict_archive",
    "prepare",
    "prompt_set",
    "read",
    "read_examples",
    "read_image",
    "read_limits",
    "read_off",
    "reproduce",
    "restore",
    "result_row",
    "right_where",
    "samples",
    "sandbox",
    "scorer",
    "set_name",
    "smaller",
    "straddling",
    "study",
    "summary",
    "take_in",
    "task",
    "task_of",
    "tasks",
    "to_read",
    "tune",
    "views_of",
    "warnings_of",
    "weights",
    "workspace_folder",
]
