"""The public names of the engine, each from its home. `import engine` gives them when the first is asked for."""

from engine.backbones import BACKBONES, Weights, exported, load_backbone, weights
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
from engine.detection import Pointing, baselines, few, point_at, read_coco
from engine.errors import BackboneError, DataError, EngineError, ExplainError, ImageError, PromptSetError, Stopped
from engine.evaluate import METRICS, RISING, Evaluation, evaluate, harmonic_means, in_points, paired_difference
from engine.exchange import FORMATS, export_bank, import_bank
from engine.explain import EXPLANATIONS, explain, explanations_for
from engine.exporting import export_onnx
from engine.faithful import (
    Chance,
    Curves,
    Faithfulness,
    Scored,
    Source,
    against_chance,
    deletion_insertion,
    randomised,
    rank_correlation,
    score_maps,
    seen_cells,
    shift_stability,
    weights_matter,
)
from engine.features import check_files, features_of, views_of
from engine.generators import GENERATORS, generator
from engine.generators.base import Generator
from engine.importing import checkpoint_methods, import_checkpoint
from engine.limits import Limits, LimitsError, read_limits
from engine.locate import LOCATORS, load_locator, locate, with_and_without
from engine.locate._tuning import DetectorRecipe, load_detector, save_detector, tune_detector
from engine.locate.base import Locator, described
from engine.methods import METHODS, carried, from_words, instant, method, prompt_set
from engine.methods.attribute_prompts import prompts_of
from engine.methods.base import set_name
from engine.pooling import POOLS, Curve, pool, pooled_by
from engine.predict import bound, embed, predict, read_off
from engine.preprocess import Preprocess, place, prepare, smaller
from engine.prompts import LIBRARY, PromptSet, library
from engine.readers import READERS, middle
from engine.render import is_flat, layer, outlined, overlay, picture
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
from engine.tasks import (
    NAMES,
    SLOTS,
    ClassDescriptions,
    DescriptionBank,
    Label,
    Task,
    bank_text,
    descriptions,
    task,
    tasks,
    tasks_with,
)
from engine.training import Watch
from engine.tune import EXACT, task_of, tune
from engine.types import (
    About,
    Box,
    Example,
    Heatmap,
    Image,
    Input,
    Interval,
    Located,
    Phrase,
    Prediction,
    Series,
    VisualPrompt,
    Window,
)
from engine.volumes import curves, pooled, scorer
from engine.windows import PRESETS, by_hand, inverted
from engine.windows import named as named_window
from engine.windows import offered as offered_windows
from engine.wording import check_sentences, check_words
from engine.words import Proposal, Tried, edit_words, effect_of_words, propose_words
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
