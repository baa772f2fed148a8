"""Who may import whom, one third-party package one home, every registry entry imports.

Run: python -m pytest tests/test_architecture.py
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import engine

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(p for folder in ("engine", "app") for p in (ROOT / folder).rglob("*.py"))

# Third-party packages and the only places that may import them.
HOMES = {
    "gradio": ["app/"],
    "gradio_client": ["app/programs.py"],
    "starlette": ["app/guard.py"],
    "prometheus_client": ["app/metrics.py"],
    "spaces": ["app/compute.py"],
    "pydicom": ["engine/readers/"],
    "imagecodecs": ["engine/readers/_decoders.py"],
    "SimpleITK": ["engine/readers/volume.py"],
    "scipy": ["engine/burned_in.py", "engine/locate/base.py"],
    "torchvision": ["engine/locate/base.py"],
    "pycocotools": ["engine/detection.py"],
    "open_clip": ["engine/backbones/"],
    "timm": ["engine/backbones/"],
    "transformers": ["engine/backbones/", "engine/generators/", "engine/locate/"],
    "tokenizers": ["engine/backbones/"],
    "huggingface_hub": ["engine/backbones/"],
    "onnxruntime": ["engine/backbones/"],
    "onnx": ["engine/backbones/_onnx_export.py"],
    "safetensors": ["engine/prompts.py", "engine/training.py", "engine/locate/_tuning.py", "engine/backbones/"],
    "jsonschema": ["engine/prompts.py"],
    "matplotlib": ["engine/report.py"],
    "sklearn": ["engine/methods/linear_probe.py", "engine/study.py"],
    "PIL": ["engine/preprocess.py", "engine/readers/", "engine/workspace/", "engine/__main__.py", "app/render.py"],
    "sqlalchemy": ["engine/workspace/"],
    "alembic": ["engine/workspace/migrations/"],
    "imagehash": ["engine/workspace/twins.py"],
    "pyarrow": ["engine/archive.py", "engine/table.py"],
    "ray": ["engine/_ray.py"],
    "httpx": ["engine/generators/llm.py"],
    "psycopg": [],  # SQLAlchemy imports it
}
# A part of the engine and what it may import of the engine; a folder stands for its files.
ALLOWED = {
    "types": [],
    "errors": [],
    "registry": ["errors"],
    "limits": ["errors"],
    "pooling": ["errors"],
    "windows": ["errors", "types"],
    "burned_in": ["types"],
    "preprocess": ["errors", "types"],
    "tasks": ["errors"],
    "data": ["errors", "tasks", "types"],
    "heads": ["errors"],
    "samples": [],
    "render": ["types"],
    "readers": ["readers", "errors", "limits", "registry", "types"],
    "scratch": [],
    "sandbox": ["readers", "errors", "limits", "scratch", "types"],
    "store": ["errors", "readers"],
    "checkpoints": ["errors"],
    "processor": [],
    "backbones": ["backbones", "errors", "processor", "registry", "preprocess", "store", "tasks", "types"],
    "exporting": ["backbones", "errors", "preprocess", "readers", "samples", "sandbox"],
    "light": ["backbones", "batch", "errors", "methods", "pooling", "prompts", "results", "sandbox", "windows"],
    "prompts": ["errors", "heads", "tasks", "types", "backbones.base"],
    "context": ["backbones.base", "errors"],
    "training": ["errors"],
    "methods": [
        "methods",
        "backbones.base",
        "context",
        "errors",
        "heads",
        "prompts",
        "registry",
        "store",
        "tasks",
        "templates",
        "training",
        "types",
    ],
    "predict": ["backbones.base", "context", "errors", "heads", "preprocess", "prompts", "types"],
    "features": ["backbones.base", "errors", "preprocess", "sandbox", "store", "types"],
    "volumes": [
        "backbones.base",
        "errors",
        "pooling",
        "predict",
        "prompts",
        "sandbox",
        "types",
    ],
    "tune": ["backbones.base", "data", "errors", "features", "methods", "prompts", "store", "tasks", "training", "types"],
    "importing": ["backbones.base", "checkpoints", "context", "errors", "methods", "prompts", "tasks"],
    "reproduce": [
        "backbones.base",
        "data",
        "errors",
        "evaluate",
        "features",
        "methods",
        "prompts",
        "store",
        "tasks",
        "training",
        "tune",
        "types",
    ],
    "explain": ["explain", "backbones.base", "errors", "prompts", "registry", "types"],
    "faithful": [
        "backbones.base",
        "backbones._random",
        "data",
        "errors",
        "evaluate",
        "explain",
        "features",
        "predict",
        "preprocess",
        "prompts",
        "sandbox",
        "types",
    ],
    "locate": [
        "locate",
        "backbones._hub",
        "backbones.base",
        "errors",
        "predict",
        "preprocess",
        "registry",
        "render",
        "tasks",
        "templates",
        "types",
    ],
    "detection": ["errors", "evaluate", "faithful", "locate", "preprocess", "sandbox", "types"],
    "evaluate": ["backbones.base", "data", "errors", "features", "predict", "prompts", "types"],
    "batch": [
        "backbones.base",
        "burned_in",
        "errors",
        "pooling",
        "predict",
        "preprocess",
        "prompts",
        "readers",
        "results",
        "sandbox",
        "types",
        "volumes",
    ],
    "archive": ["errors"],
    "table": [
        "_ray",
        "archive",
        "backbones",
        "batch",
        "errors",
        "prompts",
        "readers",
        "results",
        "sandbox",
        "types",
        "volumes",
    ],
    "_ray": ["errors", "table"],
    "compare": [
        "backbones.base",
        "data",
        "errors",
        "evaluate",
        "explain",
        "features",
        "heads",
        "predict",
        "preprocess",
        "prompts",
        "sandbox",
        "store",
        "types",
    ],
    "report": ["compare", "evaluate", "results", "types"],
    "wording": ["backbones.base", "errors", "tasks"],
    "words": ["backbones.base", "data", "errors", "evaluate", "methods", "study", "tasks", "types", "wording"],
    "templates": ["errors", "tasks"],
    "exchange": ["errors", "tasks", "templates"],
    "generators": [
        "generators",
        "backbones._hub",
        "backbones.base",
        "errors",
        "registry",
        "tasks",
        "training",
        "types",
        "wording",
    ],
    "results": ["burned_in", "errors", "pooling", "prompts", "types"],
    "study": [
        "backbones.base",
        "data",
        "errors",
        "evaluate",
        "features",
        "heads",
        "methods",
        "predict",
        "prompts",
        "store",
        "tasks",
        "training",
        "tune",
        "types",
    ],
    "workspace": [
        "workspace",
        "backbones",
        "data",
        "errors",
        "features",
        "methods",
        "preprocess",
        "prompts",
        "readers._person",
        "sandbox",
        "scratch",
        "store",
        "study",
        "tasks",
        "training",
        "types",
    ],
}
NO_TORCH = ["types", "errors", "registry", "preprocess", "tasks", "data", "heads", "samples", "render", "readers", "results"]
NO_TORCH += [
    "store",
    "checkpoints",
    "limits",
    "pooling",
    "windows",
    "burned_in",
    "sandbox",
    "scratch",
    "exporting",
    "light",
    "archive",
]
NO_TORCH += ["processor", "exchange", "templates"]


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def part(path: Path) -> str:
    return path.relative_to(ROOT / "engine").parts[0].removesuffix(".py")


@pytest.mark.parametrize("package", HOMES)
def test_a_third_party_package_has_one_home(package):
    for path in SOURCES:
        where = path.relative_to(ROOT).as_posix()
        if any(name.split(".")[0] == package for name in imports(path)):
            assert any(where.startswith(home) for home in HOMES[package]), f"{where} imports {package}"


def test_the_app_imports_only_the_engines_public_names():
    for path in (ROOT / "app").glob("*.py"):
        for name in imports(path):
            if name.split(".")[0] == "engine":
                assert name == "engine" or name.removeprefix("engine.") in engine.__all__, f"{path.name} imports {name}"


def test_the_engine_does_not_know_the_app():
    for path in (ROOT / "engine").rglob("*.py"):
        assert not any(name.split(".")[0] == "app" for name in imports(path)), path


@pytest.mark.parametrize("path", sorted((ROOT / "engine").rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_part_of_the_engine_imports_only_what_lies_below_it(path):
    name = part(path)
    if name in (
        "__init__",
        "_public",
        "__main__",
        "bench",
        "_tuning_bench",
        "_onnx_bench",
        "_words_cli",
        "_floors",
        "_words_generate",
    ):  # the public names, programs
        return
    allowed = [f"engine.{each}" for each in ALLOWED[name]]
    for found in imports(path):
        if found.startswith("engine."):
            inside = any(found == a or found.startswith(a + ".") for a in allowed)
            assert inside, f"engine/{name} imports {found}"
        assert not (name in NO_TORCH and found.split(".")[0] == "torch"), f"engine/{name} imports torch"


def test_readers_prompts_and_tasks_work_without_torch_in_the_process():
    """A shared-image set is read and scored by an ONNX build that has no torch."""
    program = (
        "import sys, engine\n"
        "import engine.readers, engine.prompts, engine.tasks, engine.render, engine.preprocess, engine.light, engine.exporting\n"
        "assert 'torch' not in sys.modules, [m for m in sys.modules if m.startswith('engine')]"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(
    ("registry", "folder"),
    [
        (engine.READERS, "readers"),
        (engine.BACKBONES, "backbones"),
        (engine.METHODS, "methods"),
        (engine.EXPLANATIONS, "explain"),
        (engine.LOCATORS, "locate"),
        (engine.GENERATORS, "generators"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_every_registry_entry_imports_and_every_file_is_registered(registry, folder):
    modules = set()
    for name in registry:
        assert registry[name] is not None
        modules.add(registry.entries[name].split(":")[0])
    here = ROOT / "engine" / folder
    variants = {f"engine.{folder}.{p.stem}" for p in here.glob("*.py") if not p.stem.startswith("_") and p.stem != "base"}
    assert modules == variants


def test_an_unknown_name_is_said_with_what_there_is():
    with pytest.raises(engine.ImageError, match=r"no image format called 'xml'\. Choose one of: dicom, raster, volume"):
        engine.READERS["xml"]


def test_every_public_name_is_there_and_listed_once():
    assert len(engine.__all__) == len(set(engine.__all__))
    for name in engine.__all__:
        assert hasattr(engine, name), name


def test_every_package_that_is_imported_is_in_requirements():
    files = ("requirements.txt", "requirements-scale.txt")
    named = "".join((ROOT / each).read_text() for each in files).lower().replace("-", "_")
    known = {"PIL": "pillow", "sklearn": "scikit_learn", "open_clip": "open_clip_torch"}
    for path in SOURCES:
        for found in imports(path):
            package = found.split(".")[0]
            if package in sys.stdlib_module_names or package in ("engine", "app", "spaces", ""):
                continue
            assert known.get(package, package).lower() in named, f"{path.name} imports {package}"
