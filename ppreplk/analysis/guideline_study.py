"""The paper's guidelines 2, 3 and 5 and its table 11 at small scale: MobileNetV2 on scenes of digits, with intervals.

The networks of tables 2, 3, 4 and 11 learn to tell which digit a noisy scene shows. Those of table 4, whose point is
segmentation, also learn to segment scenes with several digits. Runs of one seed see the same scenes in the same order,
so that networks are compared seed by seed. Every finished run is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from ..data.digit_scenes import CLASSES, NOISE, TRAIN, VAL, SceneMaker
from ..models import build_model
from ..utils.atomic import make_folder
from ..utils.errors import UserError
from .kept_runs import RESULTS, Result, finish, keep, read_kept
from .rows import ROWS, Row

WIDTH = 0.25
STRIDES = (2, 2, 1, 1, 2, 1, 1, 1)  # stride 8: scenes of 96 pixels become maps of 24, then of 12
WARMUP = 20  # steps, then cosine to zero


class Task(NamedTuple):
    """What is learned, and how.

    Args:
        measure: what is reported of it.
        optimizer: ``SGD``, which is the paper's (momentum 0.9, weight decay 4e-5), or ``AdamW``.
        rate: its peak learning rate.
        side: of the scenes, in pixels.
        most: digits of a scene at most; None for as many as there is room for.
        batch: scenes of a step.
        steps: of a training.
        evaluated: held-out scenes.
    """

    measure: str
    optimizer: str
    rate: float
    side: int
    most: int | None
    batch: int
    steps: int
    evaluated: int


TOP1, MIOU = "top-1", "mIoU"
CLASSIFICATION, SEGMENTATION = "classification", "segmentation"
TASKS = {
    CLASSIFICATION: Task(TOP1, "SGD", 0.01, 48, 1, 8, 600, 500),
    SEGMENTATION: Task(MIOU, "AdamW", 2e-3, 96, None, 4, 500, 100),
}
TASKS_OF = {  # tables of the paper
    2: (CLASSIFICATION,),
    3: (CLASSIFICATION,),
    4: (CLASSIFICATION, SEGMENTATION),
    11: (CLASSIFICATION,),
}
TABLES = tuple(TASKS_OF)


@dataclass(frozen=True)
class GuidelineRun:
    """One training: a row's network on a task with one seed, ``longer`` times as long as usual."""

    row: Row = field(hash=False)
    task: str
    seed: int
    longer: int = 1

    @property
    def name(self) -> str:
        return f"{Path(self.row.recipe).name}-{self.task}-seed{self.seed}"

    @property
    def steps(self) -> int:
        return TASKS[self.task].steps * self.longer

    @property
    def settings(self) -> dict[str, Any]:
        """All that the result depends on, as it looks when it is read back from JSON."""
        arguments = {key: [*value] if isinstance(value, tuple) else value for key, value in self.row.arguments.items()}
        network = {"name": self.row.model, "width": WIDTH, "strides": [*STRIDES], **arguments}
        task = {**TASKS[self.task]._asdict(), "steps": self.steps, "noise": NOISE, "warmup": WARMUP}
        return {"network": network, "task": task, "seed": self.seed}


def plan_guidelines(tables: Sequence[int], seeds: int, longer: int = 1) -> list[GuidelineRun]:
    """The trainings that ``tables`` need, ordered by seed. Rows with the same network share their trainings.

    Args:
        tables: of :data:`TABLES`.
        seeds: trainings per network and task.
        longer: multiplies the steps.
    """
    first: dict[tuple[str, str], Row] = {}
    for row in ROWS:  # of all tables, so that the names of the runs do not depend on the choice
        first.setdefault(row.network, row)
    wanted = {(row.network, task) for row in ROWS if row.table in tables for task in TASKS_OF[row.table]}
    return [
        GuidelineRun(row, task, seed, longer)
        for seed in range(seeds)
        for task in TASKS
        for network, row in first.items()
        if (network, task) in wanted
    ]


def guideline_study(tables: Sequence[int], seeds: int, longer: int, output: str) -> dict[GuidelineRun, float]:
    """Train what is not trained yet.

    Args:
        tables, seeds, longer: see :func:`plan_guidelines`.
        output: folder of the results.

    Returns:
        {run: percent}.

    Raises:
        UserError: scikit-learn is missing, a run that diverges, or results of other settings in ``output``.
    """
    runs = plan_guidelines(tables, seeds, longer)
    folder = Path(output) / RESULTS
    make_folder(folder)

    scenes = Scenes()

    def train(run: GuidelineRun) -> Result:
        start = time.monotonic()
        score = train_guideline(run, scenes)
        result = {"score": score, "seconds": round(time.monotonic() - start, 1), "config": run.settings}
        keep(result, folder / f"{run.name}.json")
        return result

    def kept(run: GuidelineRun) -> Result | None:
        return read_kept(folder / f"{run.name}.json", run.settings, "score")

    def said(result: Result) -> str:
        return f"{result['config']['task']['measure']} {100 * result['score']:.2f}%"

    results = finish(runs, kept, train, said, folder)
    return {run: round(100 * results[run.name]["score"], 2) for run in runs}


# ----------------------------------------------------------------------------------------------------------------------
# One training


def build_guideline(run: GuidelineRun) -> tuple[nn.Layer, Callable[[paddle.Tensor], paddle.Tensor]]:
    """The network of a run, and what makes logits of images with it.

    For top-1 they are (N, 10). For segmentation they are (N, 11, H, W): a 1x1 convolution at stride 8 instead
    of pooling and head, interpolated.
    """
    paddle.seed(run.seed)
    arguments = {"width": WIDTH, "strides": STRIDES, "in_channels": 1, **run.row.arguments}
    network = build_model(run.row.model, class_num=len(CLASSES) - 1, **arguments)
    if TASKS[run.task].measure == TOP1:
        return network, network
    classifier = nn.Conv2D(network.head.weight.shape[0], len(CLASSES), 1)

    def logits(images: paddle.Tensor) -> paddle.Tensor:
        return F.interpolate(classifier(network.forward_features(images)), size=images.shape[2:], mode="bilinear")

    return nn.LayerList([network, classifier]), logits


def train_guideline(run: GuidelineRun, scenes: Scenes) -> float:
    """Train, and return what :func:`evaluate_guideline` does.

    Raises:
        UserError: the loss is no number any more.
    """
    network, logits = build_guideline(run)
    task = TASKS[run.task]
    peak = paddle.optimizer.lr.CosineAnnealingDecay(task.rate, run.steps)
    schedule = paddle.optimizer.lr.LinearWarmup(peak, min(WARMUP, run.steps), 0.0, task.rate)
    used = [parameter for name, parameter in network.named_parameters() if task.measure == TOP1 or "head" not in name]
    optimizer: paddle.optimizer.Optimizer
    if task.optimizer == "SGD":
        optimizer = paddle.optimizer.Momentum(schedule, 0.9, parameters=used, weight_decay=4e-5)
    else:
        optimizer = paddle.optimizer.AdamW(schedule, parameters=used, weight_decay=0.05)
    network.train()
    for images, labels in scenes.batches(run.task, TRAIN, run.seed, run.steps * task.batch):
        loss = F.cross_entropy(logits(images), paddle.to_tensor(labels), axis=1)
        if not np.isfinite(loss.item()):
            raise UserError(f"{run.name}: the loss is {loss.item()}", code="analysis.diverged")
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
    network.eval()
    return evaluate_guideline(logits, run.task, scenes)


@paddle.no_grad()
def evaluate_guideline(logits: Callable[[paddle.Tensor], paddle.Tensor], task: str, scenes: Scenes) -> float:
    """The share on scenes of held-out digits, the same ones for every run: top-1, or mIoU over the classes."""
    counts = np.zeros((len(CLASSES), len(CLASSES)), np.int64)  # of (truth, prediction)
    for images, labels in scenes.batches(task, VAL, 0, TASKS[task].evaluated):
        np.add.at(counts, (labels, logits(images).argmax(axis=1).numpy()), 1)
    right = counts.diagonal()
    if TASKS[task].measure == TOP1:
        return float(right.sum() / counts.sum())
    union = counts.sum(axis=0) + counts.sum(axis=1) - right
    return float((right[union > 0] / union[union > 0]).mean())


class Scenes:
    """The scenes of runs. Those of a task and seed are made once, for all networks that follow each other."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[tuple[Any, ...], np.ndarray, np.ndarray]] = {}  # by split, the last ones

    def batches(self, task: str, split: str, seed: int, count: int) -> Iterator[tuple[paddle.Tensor, np.ndarray]]:
        """Grey images (N, 1, S, S) from -1 to 1, with digits (N,) or masks (N, S, S)."""
        settings = TASKS[task]
        key = (settings.side, settings.most, settings.measure, seed, count)
        if split not in self._kept or self._kept[split][0] != key:
            maker = SceneMaker(split, seed, settings.side, settings.most)
            images = np.zeros((count, 1, settings.side, settings.side), np.uint8)
            labels = np.zeros(count if settings.measure == TOP1 else (count, *images.shape[2:]), np.uint8)
            for index, scene in enumerate(maker.scenes(count)):
                images[index, 0] = scene.image[:, :, 0]
                labels[index] = scene.digits[0] if settings.measure == TOP1 else scene.mask
            self._kept[split] = key, images, labels
        _, images, labels = self._kept[split]
        for start in range(0, count, settings.batch):
            chosen = slice(start, start + settings.batch)
            inputs = paddle.to_tensor(images[chosen].astype(np.float32) / 127.5 - 1.0)
            yield inputs, labels[chosen].astype(np.int64)
