"""The walls of the house: imports run downhill, files are short, names are unique (docs/architecture.md)."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from helpers import ROOT

from ppreplk.models.registry import architectures

PACKAGE = ROOT / "ppreplk"
# A room may import those before it in its line, and itself.
MAY_IMPORT = {
    "utils": [],
    "config": ["utils"],
    "ops": ["utils"],
    "gpu": ["utils", "ops"],
    "data": ["utils", "config"],
    "nn": ["utils", "ops"],
    "models": ["utils", "config", "ops", "nn"],
    "checkpoints": ["utils", "config", "nn", "models"],
    "training": ["utils", "config", "data", "nn", "models", "checkpoints"],
    "deploy": ["utils", "config", "ops", "data", "nn", "models", "checkpoints"],
    "analysis": ["utils", "config", "data", "nn", "models", "checkpoints", "training", "deploy"],
    "plugins": ["utils", "config", "data", "nn", "models", "checkpoints", "deploy"],
    "serve": ["utils", "config", "data", "models", "checkpoints", "deploy", "analysis"],
    "benchmark": ["utils", "config", "ops", "data", "nn", "models", "checkpoints", "deploy", "plugins"],
}
# The other modules of models/ are architectures.
SHARED_OF_MODELS = ["registry", "preprocessing", "arch", "inference_form", "training_form"]
FACADES = ["weights", "erf", "complexity", "optim"]  # public names, kept where they always were
FORMATS = [
    "arrays",
    "unpickle",
    "torch_file",
    "safetensors_file",
    "paddle_file",
    "pieces",
    "wrappers",
    "wrong_files",
    "files",
]
NO_NETWORKS = [
    "deploy.programs",
    "deploy.classifier",
    "deploy.inference_yml",
    "deploy.predict",
    "deploy.predictor",
    "deploy.infer",
    "deploy.class_names",
    "plugins",
    "serve.app",
    "serve.batching",
    "serve.program_process",
    "serve.server",
    "plugins.pictures",
    "plugins.suite_images",
    "plugins.suite_programs",
    "plugins.paddleseg",
    "plugins.paddleseg.seg_predictor",
    "plugins.paddleseg.seg_transforms",
    "plugins.paddledetection",
    "plugins.paddledetection.det_predictor",
    "plugins.paddledetection.det_transforms",
]
# What builds, checks and times the device kernels runs where Paddle and NumPy are not.
WITHOUT_PADDLE = [f"ops.{name}" for name in ("cache", "compiler", "nvcc", "cuda_kernels", "cuda_torch")]
MAX_LINES = 400
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_of(path): path for path in FILES}


def imported(module: str, inside_functions: bool = True) -> set[str]:
    """Modules of the package that a module imports, as names below ``ppreplk``."""
    path = MODULES[module]
    is_package = path.name == "__init__.py"
    here = module.split(".") if module else []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if inside_functions else tree.body
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            up = node.level - 1 if is_package else node.level
            base = here[: len(here) - up]
            target = [*base, *(node.module or "").split(".")] if node.module else base
            for alias in node.names:
                full = ".".join([*target, alias.name])
                found.add(full if full in MODULES else ".".join(target))
    return found


def room(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in MAY_IMPORT])
def test_imports_run_downhill(module):
    allowed = {room(module), *MAY_IMPORT[room(module)]}
    beyond = {target for target in imported(module) if room(target) not in allowed}
    assert not beyond, f"{module} imports {sorted(beyond)}"


def test_every_module_is_in_a_room():
    top = {room(name) for name in MODULES} - set(MAY_IMPORT)
    assert top <= {"", "__main__", "cli", *FACADES}


def test_no_circles():
    arrows = {name: imported(name, inside_functions=False) & set(MODULES) - {name} for name in MODULES}
    left = {name: {t for t in targets if t not in ("",)} for name, targets in arrows.items()}
    while left:
        ready = [name for name, targets in left.items() if not targets & set(left)]
        assert ready, f"these import each other in a circle: {sorted(left)}"
        for name in ready:
            del left[name]


@pytest.mark.parametrize("name", [name for name in FORMATS if f"checkpoints.{name}" in MODULES])
def test_file_formats_know_no_architecture(name):
    assert {room(target) for target in imported(f"checkpoints.{name}")} <= {"utils", "checkpoints"}
    inside = {target for target in imported(f"checkpoints.{name}") if room(target) == "checkpoints"}
    assert inside <= {f"checkpoints.{each}" for each in FORMATS}


@pytest.mark.parametrize("name", NO_NETWORKS)
def test_running_a_program_needs_no_network_code(name):
    rooms = {room(target) for target in imported(name, inside_functions=False)}
    assert not rooms & {"nn", "models", "checkpoints", "training"}


def test_device_kernels_are_checked_without_paddle():
    """Neither the room ``gpu`` nor what it stands on imports Paddle, NumPy, or a module that does."""
    names = {name for name in MODULES if room(name) == "gpu"} | set(WITHOUT_PADDLE)
    for name in names:
        nodes = list(ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))))
        outside = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        outside |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
        assert not {each.partition(".")[0] for each in outside} & {"paddle", "numpy"}, name
        inside = {target for target in imported(name) if room(target) != "utils"}
        assert inside <= names | {"ops", "gpu"}, f"{name} imports {sorted(inside - names)}"


def test_only_its_own_room_names_an_architecture():
    """What the rest of the program knows of an architecture, the registry tells it."""
    for name, path in MODULES.items():
        if room(name) == "models" or name == "":
            continue
        shared = {"models", *(f"models.{each}" for each in SHARED_OF_MODELS)}
        reaches_in = {t for t in imported(name) if room(t) == "models"} - shared
        assert not reaches_in, f"{name} imports {sorted(reaches_in)}"
        classes = "|".join(architecture.network.__name__ for architecture in architectures())
        assert not re.search(rf"isinstance\(.*\b({classes})\b", path.read_text(encoding="utf-8")), name


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "tools").glob("*.py"))], ids=lambda path: path.name)
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_one_module_downloads():
    """``checkpoints.download`` alone asks servers for files. What serves or uploads does not, and is not meant here.

    ``benchmark.reader_servers`` asks servers that it has started itself.
    """
    clients = {"urllib.request", "http.client", "ftplib", "requests", "httpx", "aiohttp", "urllib3"}
    for name, path in MODULES.items():
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        found |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
        assert name in ("checkpoints.download", "benchmark.reader_servers") or not found & clients, (
            f"{name} imports {sorted(found & clients)}"
        )


def test_no_two_modules_of_one_name():
    names = Counter(path.stem for path in FILES if path.stem not in ("__init__", "__main__"))
    rooms = {path.parent.name for path in PACKAGE.rglob("__init__.py")}
    assert [name for name, count in names.items() if count > 1] == []
    assert not rooms & set(names)


def raised_codes() -> list[tuple[str, str]]:
    """(room, code) of every error that is made with a code of its own."""
    found = []
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError":
                values = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
                assert values, f"{name}, line {node.lineno}: an error without a code"
                found += [(room(name), value.value) for value in values if isinstance(value, ast.Constant)]
    return found


def test_codes_are_named_for_their_room():
    codes = raised_codes()
    assert len(codes) > 200
    for place, code in codes:
        assert re.fullmatch(r"[a-z]+\.[a-z]+(-[a-z0-9]+)*", code), code
        if place not in ("cli", "utils", "plugins"):
            assert code.startswith(f"{place}."), f"{place} raises {code}"
