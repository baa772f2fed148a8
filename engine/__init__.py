"""PromptScope's engine: medical images, vision-language backbones, learned prompt sets, maps.

    import engine
    backbone = engine.load_backbone("scope-mini")
    prompts = engine.PromptSet.load("btmri-description-ensemble-scope-mini")
    image = engine.read_image("study.dcm")
    prediction = engine.predict(image, backbone, prompts)

Research use only; not a medical device.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine._public import *  # noqa: F403 - they are listed below

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
    "Chance",
    "ClassDescriptions",
    "Column",
    "Comparison",
    "Curve",
    "Curves",
    "DataError",
    "DescriptionBank",
    "EngineError",
    "Evaluation",
    "Example",
    "ExplainError",
    "Faithfulness",
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
    "Scored",
    "Seen",
    "Series",
    "Source",
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
    "against_chance",
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
    "deletion_insertion",
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
    "export_onnx",
    "exported",
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
    "randomised",
    "rank_correlation",
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
    "score_maps",
    "scorer",
    "seen_cells",
    "set_name",
    "shift_stability",
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
    "weights_matter",
    "workspace_folder",
]


class _Engine(ModuleType):
    """Imports engine._public when the first of its names is asked for: who imports one file below (engine.light) gets what that
    file needs, and no torch. A public name goes before a file of the same name: `engine.predict` is the function."""

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'engine' has no attribute {name!r}")
        found = getattr(importlib.import_module("engine._public"), name)
        self.__dict__[name] = found
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in __all__):  # Python would set each imported file
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Engine
