"""The same images through everything that reads what ``ppreplk export`` writes: the same classes, and how fast."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Optional

import numpy as np
import paddle
import yaml

from ..checkpoints.pretrained import build_trained_network
from ..config import Config, load_config
from ..data import build_dataset, prepare_dataset
from ..deploy.export import export
from ..deploy.predictor import Predictor
from ..deploy.programs import LEGACY_FILE, ONNX_FILE, Program
from ..nn import fold
from ..utils.cores import default_threads
from ..utils.device import set_up_device
from ..utils.errors import UserError
from ..utils.tables import Table
from .environments import Environment
from .reader_process import Answers, Job, ask_all, in_order, load_answers
from .reader_servers import our_server, paddlex_server

logger = logging.getLogger(__name__)

ARRAY, IMAGE, HTTP = "array", "image file", "HTTP"  # what a reader is given
COLUMNS = ["reader", "what it reads", "given", "same class", "largest difference", "median ms", "least ms"]
# How the network is exported for this comparison: {folder: values of Global}
EXPORTS = {
    "paddle": {"export_format": "paddle"},
    "pdmodel": {"export_format": "pdmodel"},
    "onnx": {"export_format": "onnx"},
    "cpu": {"export_format": "paddle", "export_depthwise": "cpu"},
    "channels_last": {"export_format": "paddle", "export_runtime": "channels_last"},
}
CLI_RESULT = re.compile(r"'input_path': '([^']+)'.*?'class_ids': (\[.*?\]).*?'scores': (\[.*?\])", re.S)


class Skipped(Exception):
    """A reader is not installed. The message names what is missing."""


@dataclass(frozen=True)
class Pythons:
    """Interpreters of the environments with PaddleX, with PaddleClas, and with what the service needs."""

    paddlex: str = sys.executable
    paddleclas: str = sys.executable
    service: str = sys.executable


@dataclass
class Comparison:
    """What the readers share.

    Args:
        settings: the configuration with a file and overrides, as ``load_config`` takes them.
        folder: for everything that is written.
        pythons: see :class:`Pythons`.
        images: paths.
        classes: their number.
        threads: math threads of every reader.
    """

    settings: tuple[str, Sequence[str]]
    folder: Path
    pythons: Pythons
    images: list[str]
    classes: int
    threads: int
    arrays: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    _folders: dict[str, Path | UserError] = field(default_factory=dict)

    def config(self, **values: str) -> Config:
        """The configuration with other values of ``Global``; every class is shown, as a probability."""
        path, overrides = self.settings
        own = [f"Infer.PostProcess.topk={self.classes}", "Arch.infer_add_softmax=True"]
        return load_config(path, [*overrides, *own, *(f"Global.{key}={value}" for key, value in values.items())])

    def exported(self, name: str) -> Path:
        """The folder of an export, made when it is first asked for.

        Raises:
            Skipped: what it needs is not installed, a package or a compiler.
            UserError: it fails for another reason.
        """
        if name not in self._folders:
            folder = self.folder / name
            try:
                self._folders[name] = export(self.config(save_inference_dir=str(folder), **EXPORTS[name]))
            except UserError as error:
                if not (error.code == "deploy.missing-package" or error.code.startswith("ops.")):
                    raise
                self._folders[name] = error
        found = self._folders[name]
        if isinstance(found, UserError):
            raise Skipped(str(found))
        return found

    def environment(self, name: str, *packages: str) -> Environment:
        """The environment that has ``packages``.

        Args:
            name: a field of :class:`Pythons`.

        Raises:
            Skipped: they are missing there.
        """
        folder = self.folder / f"environment-{name}"
        folder.mkdir(exist_ok=True)
        environment = Environment(getattr(self.pythons, name), folder)
        missing = environment.missing(["paddle", *packages])
        if missing:
            raise Skipped(f"{', '.join(missing)} not installed (--{name}-python)")
        return environment


def compare_readers(path: str, overrides: Sequence[str], images: int, pythons: Pythons) -> tuple[Table, list[str]]:
    """Predict held-out images with a trained network and with everything that reads its exports, one at a time.

    Args:
        path, overrides: the configuration, as :func:`ppreplk.config.load_config` takes them; it names the weights in
            ``Global.pretrained_model``.
        images: of ``DataLoader.Eval``, at most.
        pythons: interpreters of other environments.

    Returns:
        The table, and the names of the readers that failed or gave another class for some image.

    Raises:
        UserError: no weights, no images, no such interpreter; or an export that differs from the network.
    """
    config = load_config(path, overrides)
    if config.Global.device != "cpu":
        raise UserError("readers are compared on cpu", code="benchmark.device", where="Global.device")
    pythons = Pythons(**{each.name: _interpreter(getattr(pythons, each.name), each.name) for each in fields(pythons)})
    logger.info("%s", set_up_device("cpu", config.Global.num_threads))
    config.require("Infer")
    threads = config.Global.num_threads or default_threads()
    with tempfile.TemporaryDirectory() as folder:
        shared = Comparison(
            (path, overrides), Path(folder), pythons, _held_out(config, images), config.Arch.class_num, threads
        )
        shared.arrays = _prepared(shared)
        reference: Optional[Answers] = None
        rows, bad = [], []
        for reader, file, given, ask in list_readers(shared):
            logger.info("%s, %s", reader, file)
            try:
                answers = ask()
            except Skipped as reason:
                rows.append([reader, file, given, f"skipped: {reason}", "-", "-", "-"])
                continue
            except UserError as error:
                logger.warning("%s, %s: %s", reader, file, error)
                rows.append([reader, file, given, f"failed: {error}", "-", "-", "-"])
                bad.append(reader)
                continue
            reference = reference or answers
            row, same = _row(answers, reference)
            rows.append([reader, file, given, *row])
            if not same:
                bad.append(reader)
    title = f"Readers: {config.Arch.name}, {len(shared.images)} images one at a time, {threads} threads"
    return Table(title, COLUMNS, [[cell.replace("|", "/") for cell in row] for row in rows]), bad


def _interpreter(python: str, environment: str) -> str:
    """Its absolute path: its processes run in another folder."""
    found = shutil.which(python)
    if found is None:
        raise UserError(
            f"no Python interpreter: {python}", code="benchmark.bad-python", where=f"--{environment}-python"
        )
    return os.path.abspath(found)  # a link is not followed: it says which environment this is


def _row(answers: Answers, reference: Answers) -> tuple[list[str], bool]:
    same = int((answers.probabilities.argmax(1) == reference.probabilities.argmax(1)).sum())
    count = len(reference.probabilities)
    difference = float(np.abs(answers.probabilities - reference.probabilities).max())
    times = (
        [f"{1000 * time:.2f}" for time in (np.median(answers.seconds), answers.seconds.min())]
        if len(answers.seconds)
        else ["-", "-"]
    )
    return [f"{same} of {count}", f"{difference:.1e}", *times], same == count


def _held_out(config: Config, images: int) -> list[str]:
    """Paths of evenly spaced images of ``DataLoader.Eval``."""
    if config.DataLoader.Eval is None:
        raise UserError("DataLoader.Eval is missing: there are no images", code="benchmark.no-input")
    prepare_dataset(config)
    samples = build_dataset(config.DataLoader.Eval.dataset, config.Arch.class_num, 0, config.Arch.in_channels).samples
    return [str(Path(sample.path).absolute()) for sample in samples[:: max(len(samples) // images, 1)][:images]]


def _prepared(shared: Comparison) -> np.ndarray:
    predictor = Predictor(shared.exported("paddle"), threads=shared.threads)
    arrays = np.stack([predictor.prepare(path) for path in shared.images])
    np.save(shared.folder / "images.npy", arrays)
    return arrays


def list_readers(shared: Comparison) -> list[tuple[str, str, str, Callable[[], Answers]]]:
    """(name, what it reads, what it is given, the function that asks it) of every reader, the network itself first."""
    json_file, ours = "inference.json", "inference.json, operators of ours"
    return [
        ("this package, train form", "checkpoint", ARRAY, lambda: _network(shared, folded=False)),
        ("this package, folded", "checkpoint", ARRAY, lambda: _network(shared, folded=True)),
        ("Paddle Inference, oneDNN", json_file, ARRAY, lambda: _program(shared, "paddle")),
        ("Paddle Inference, no oneDNN", json_file, ARRAY, lambda: _program(shared, "paddle", onednn=False)),
        ("Paddle Inference", f"{ours}: cpu", ARRAY, lambda: _program(shared, "cpu")),
        ("Paddle Inference", f"{ours}: channels_last", ARRAY, lambda: _program(shared, "channels_last")),
        ("Paddle Inference", LEGACY_FILE, ARRAY, lambda: _program(shared, "pdmodel")),
        (
            "OpenVINO",
            LEGACY_FILE,
            ARRAY,
            lambda: _elsewhere(shared, "openvino", shared.exported("pdmodel") / LEGACY_FILE),
        ),
        (
            "ONNX Runtime",
            ONNX_FILE,
            ARRAY,
            lambda: _elsewhere(shared, "onnxruntime", shared.exported("onnx") / ONNX_FILE),
        ),
        ("OpenVINO", ONNX_FILE, ARRAY, lambda: _elsewhere(shared, "openvino", shared.exported("onnx") / ONNX_FILE)),
        ("PaddleClas's predictor", LEGACY_FILE, IMAGE, lambda: _paddleclas(shared)),
        ("PaddleX, in Python", json_file, IMAGE, lambda: _paddlex(shared)),
        ("PaddleX, --pipeline", json_file, IMAGE, lambda: _paddlex_command(shared)),
        ("PaddleX, --serve", json_file, HTTP, lambda: _paddlex_server(shared)),
        ("ppreplk.Predictor", json_file, IMAGE, lambda: _predictor(shared)),
        ("ppreplk serve", json_file, HTTP, lambda: _service(shared)),
    ]


def _network(shared: Comparison, folded: bool) -> Answers:
    network = build_trained_network(shared.config())
    network.eval()
    form = fold(network) if folded else network

    @paddle.no_grad()
    def predict(number: int) -> np.ndarray:
        logits = form(paddle.to_tensor(shared.arrays[number : number + 1]))
        return paddle.nn.functional.softmax(logits).numpy()[0]

    return ask_all(predict, len(shared.images))


def _program(shared: Comparison, name: str, onednn: bool = True) -> Answers:
    program = Program(shared.exported(name), threads=shared.threads, onednn=onednn)
    return ask_all(lambda number: program(shared.arrays[number : number + 1])[0], len(shared.images))


def _predictor(shared: Comparison) -> Answers:
    predictor = Predictor(shared.exported("paddle"), threads=shared.threads)

    def predict(number: int) -> np.ndarray:
        (found,) = predictor(shared.images[number])
        return in_order(found.class_ids, found.scores, shared.classes)

    return ask_all(predict, len(shared.images))


def _elsewhere(shared: Comparison, package: str, file: Path) -> Answers:
    if importlib.util.find_spec(package) is None:
        raise Skipped(f"{package} not installed")
    folder = shared.folder / "environment-here"
    folder.mkdir(exist_ok=True)
    return _run_job(shared, package, file, Environment(sys.executable, folder))


def _run_job(shared: Comparison, reader: str, file: Path, environment: Environment, **variables: str) -> Answers:
    output, path = environment.folder / f"{reader}.npz", environment.folder / f"{reader}.json"
    arrays = str(shared.folder / "images.npy")
    Job(reader, str(file), shared.images, arrays, shared.classes, shared.threads, str(output)).save(path)
    environment.run("-m", "ppreplk.benchmark.reader_process", path, variables=variables)
    return load_answers(output)


def _paddleclas(shared: Comparison) -> Answers:
    environment = shared.environment("paddleclas", "paddleclas", "cv2")
    return _run_job(shared, "paddleclas", shared.exported("pdmodel"), environment, FLAGS_enable_pir_api="0")


def _paddlex(shared: Comparison) -> Answers:
    return _run_job(shared, "paddlex", shared.exported("paddle"), shared.environment("paddlex", "paddlex"))


def _pipeline(shared: Comparison, environment: Environment) -> Path:
    """PaddleX's own file for the program, with as many threads as the others have."""
    path = environment.folder / "pipeline.yaml"
    environment.run("-m", "ppreplk.plugins.paddlex", "pipeline", shared.exported("paddle"), path, "--batch-size", 1)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["SubModules"]["ImageClassification"]["engine_config"] = {"cpu_threads": shared.threads}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def _paddlex_command(shared: Comparison) -> Answers:
    """All images in one run of the command, which says nothing about the time of one."""
    environment = shared.environment("paddlex", "paddlex")
    folder = environment.folder / "images"
    folder.mkdir(exist_ok=True)
    names = [f"{number:06d}{Path(image).suffix}" for number, image in enumerate(shared.images)]
    for name, image in zip(names, shared.images):
        with contextlib.suppress(FileExistsError):
            (folder / name).symlink_to(image)
    pipeline = _pipeline(shared, environment)
    command = ["-m", "ppreplk.plugins.paddlex", "--pipeline", pipeline, "--input", folder, "--device", "cpu"]
    printed = environment.run(*command, both=True)
    found = {
        Path(path).name: in_order(json.loads(ids), json.loads(scores), shared.classes)
        for path, ids, scores in CLI_RESULT.findall(printed)
    }
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(
            f"PaddleX printed no result for {len(missing)} of {len(names)} images", code="benchmark.reader-failed"
        )
    return Answers(np.stack([found[name] for name in names]), np.zeros(0))


def _paddlex_server(shared: Comparison) -> Answers:
    environment = shared.environment("paddlex", "paddlex", "fastapi", "uvicorn")
    with paddlex_server(environment, _pipeline(shared, environment), shared.images, shared.classes) as predict:
        return ask_all(predict, len(shared.images))


def _service(shared: Comparison) -> Answers:
    environment = shared.environment("service", "starlette", "uvicorn", "python_multipart")
    folder = shared.exported("paddle")
    with our_server(environment, folder, shared.images, shared.classes, shared.threads) as predict:
        return ask_all(predict, len(shared.images))
