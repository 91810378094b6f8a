"""The paper's fourth guideline at small scale: large kernels help a dense task more than they help classification.

A RepLKNet of one stage is trained on scenes of digits, once to segment them, and once, as the control, to say which
digit a scene with one digit shows. Between the kernel sizes nothing else differs. Every finished run is kept, so that a
study that was stopped goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from ..data.digit_scenes import CLASSES, NOISE, SIDE, TRAIN, VAL, Scene, SceneMaker
from ..models import build_model
from ..utils.atomic import make_folder, replacing
from ..utils.errors import UserError
from ..utils.tables import Table, write_table
from .intervals import interval, paired
from .kept_runs import RESULTS, Result, finish, keep, read_kept

SEGMENTATION, CONTROL = TASKS = ("segmentation", "control")
MODEL = "RepLKNet13T"  # of which everything that matters here is replaced
ARCH: dict[str, Any] = {"layers": (3,), "channels": (48,), "small_kernel": None, "drop_path_rate": 0.0}
BATCH = 8
EVALUATED = 200  # scenes, the same ones for every run
LEARNING_RATE, WARMUP, WEIGHT_DECAY = 6e-3, 20, 0.05  # at 2e-3 the control hardly learns in so few steps


@dataclass(frozen=True)
class DenseRun:
    """One training."""

    task: str
    kernel: int
    seed: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.task}_{self.kernel}x{self.kernel}-seed{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """All that the result depends on, as it looks when it is read back from JSON."""
        arch = {**ARCH, "layers": [*ARCH["layers"]], "channels": [*ARCH["channels"]], "kernel": self.kernel}
        optimizer = {"learning_rate": LEARNING_RATE, "warmup": WARMUP, "weight_decay": WEIGHT_DECAY}
        scenes = {"side": SIDE, "noise": NOISE, "batch": BATCH, "evaluated": EVALUATED}
        return {"task": self.task, "seed": self.seed, "steps": self.steps, **arch, **optimizer, **scenes}


def plan_dense(kernels: Sequence[int], seeds: int, steps: int) -> list[DenseRun]:
    """The trainings, ordered by seed."""
    return [
        DenseRun(task, kernel, seed, steps) for seed in range(seeds) for kernel in sorted({*kernels}) for task in TASKS
    ]


def dense_study(kernels: Sequence[int], seeds: int, steps: int, output: str) -> Table:
    """Train what is not trained yet, then write ``dense.csv`` and ``dense.md``.

    Args:
        kernels: sizes to compare; differences are to the smallest.
        seeds: trainings per kernel size and task.
        steps: of each training.
        output: folder of the results.

    Returns:
        The table: a row for each kernel size.

    Raises:
        UserError: a kernel size that is none, scikit-learn is missing, a run that diverges, or results of other
            settings in ``output``.
    """
    runs = plan_dense(kernels, seeds, steps)
    for run in runs[: len(runs) // seeds]:
        build_dense(run)  # all are checked before the first is trained
    folder = Path(output) / RESULTS
    make_folder(folder)

    def train(run: DenseRun) -> Result:
        start = time.monotonic()
        score = train_dense(run)
        result = {"score": score, "seconds": round(time.monotonic() - start, 1), "config": run.settings}
        keep(result, folder / f"{run.name}.json")
        return result

    def said(result: Result) -> str:
        measure = "top-1" if result["config"]["task"] == CONTROL else "mIoU"
        return f"{measure} {100 * result['score']:.2f}%"

    def kept(run: DenseRun) -> Result | None:
        return read_kept(folder / f"{run.name}.json", run.settings, "score")

    results = finish(runs, kept, train, said, folder)
    scores = {run: round(100 * results[run.name]["score"], 2) for run in runs}
    table = dense_table(scores)
    lines = [[run.name, run.task, str(run.kernel), str(run.seed), f"{score:.2f}"] for run, score in scores.items()]
    write_table(Table("", ["run", "task", "kernel", "seed", "score"], lines), Path(output) / "dense.csv")
    with replacing(Path(output) / "dense.md") as [partial]:
        partial.write_text(table.markdown(), encoding="utf-8")
    return table


def dense_table(scores: dict[DenseRun, float]) -> Table:
    """Means over the seeds, and the differences to the smallest kernel with the same seed, with 95% intervals.

    Args:
        scores: {run: percent}.
    """
    kernels = sorted({run.kernel for run in scores})
    values = {
        (task, kernel): [score for run, score in scores.items() if (run.task, run.kernel) == (task, kernel)]
        for task in TASKS
        for kernel in kernels
    }
    lines = []
    for kernel in kernels:
        line = [f"{kernel}x{kernel}"]
        for task in TASKS:
            mine, base = values[task, kernel], values[task, kernels[0]]
            line.append(interval(mine).text(""))
            line.append("" if kernel == kernels[0] else paired(mine, base).text())
        lines.append(line)
    seeds = len(values[SEGMENTATION, kernels[0]])
    steps = next(iter(scores)).steps
    title = (
        f"Scenes of digits, {steps} steps of {BATCH} scenes, {seeds} seed{'s' if seeds > 1 else ''}; mIoU and top-1 in "
        "%, ± is half the 95% interval of the mean, differences are between runs of one seed"
    )
    against = f"against {kernels[0]}x{kernels[0]}"
    columns = ["kernel", "segmentation, mIoU", against, "classification, top-1", against]
    return Table(title, columns, lines)


# ----------------------------------------------------------------------------------------------------------------------
# One training


def build_dense(run: DenseRun) -> tuple[nn.Layer, Callable[[paddle.Tensor], paddle.Tensor]]:
    """The network of a run, and what makes logits of images with it.

    For the control, logits are (N, 10). For segmentation they are (N, 11, H, W): a 1x1 convolution at stride 4,
    interpolated.

    Raises:
        UserError: a kernel size that is none.
    """
    paddle.seed(run.seed)
    arch = {**ARCH, "large_kernel_sizes": (run.kernel,)}
    if run.task == CONTROL:
        network = build_model(MODEL, class_num=len(CLASSES) - 1, **arch)
        return network, network
    backbone = build_model(MODEL, out_indices=[0], **arch)
    classifier = nn.Conv2D(ARCH["channels"][0], len(CLASSES), 1)

    def logits(images: paddle.Tensor) -> paddle.Tensor:
        return F.interpolate(classifier(backbone(images)[0]), size=images.shape[2:], mode="bilinear")

    return nn.LayerList([backbone, classifier]), logits


def train_dense(run: DenseRun) -> float:
    """Train, and return what :func:`evaluate_dense` does.

    Raises:
        UserError: the loss is no number any more.
    """
    network, logits = build_dense(run)
    fit_dense(run, network, logits)
    return evaluate_dense(logits, run.task)


def fit_dense(run: DenseRun, network: nn.Layer, logits: Callable[[paddle.Tensor], paddle.Tensor]) -> None:
    """Train what :func:`build_dense` returned; the network is in eval mode then.

    Raises:
        UserError: the loss is no number any more.
    """
    peak = paddle.optimizer.lr.CosineAnnealingDecay(LEARNING_RATE, run.steps)
    schedule = paddle.optimizer.lr.LinearWarmup(peak, min(WARMUP, run.steps), 0.0, LEARNING_RATE)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=network.parameters(), weight_decay=WEIGHT_DECAY)
    network.train()
    for images, labels in batches(SceneMaker(TRAIN, run.seed, most=_most(run.task)), run.steps * BATCH, run.task):
        loss = F.cross_entropy(logits(images), paddle.to_tensor(labels), axis=1)
        if not np.isfinite(loss.item()):
            raise UserError(f"{run.name}: the loss is {loss.item()}", code="analysis.diverged")
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
    network.eval()


def evaluate_dense(logits: Callable[[paddle.Tensor], paddle.Tensor], task: str) -> float:
    """The share on scenes of held-out digits: mIoU over the classes that occur, or top-1 of the control."""
    counts = np.zeros((len(CLASSES), len(CLASSES)), np.int64)  # of (truth, prediction)
    with paddle.no_grad():
        for images, labels in batches(SceneMaker(VAL, most=_most(task)), EVALUATED, task):
            np.add.at(counts, (labels, logits(images).argmax(axis=1).numpy()), 1)
    right = counts.diagonal()
    if task == CONTROL:
        return float(right.sum() / counts.sum())
    union = counts.sum(axis=0) + counts.sum(axis=1) - right
    return float((right[union > 0] / union[union > 0]).mean())


def _most(task: str) -> int | None:
    return 1 if task == CONTROL else None


def batches(maker: SceneMaker, count: int, task: str) -> Iterator[tuple[paddle.Tensor, np.ndarray]]:
    """Images (N, 3, S, S), and masks (N, S, S) or, for the control, digits (N,)."""
    for start in range(0, count, BATCH):
        scenes = [maker.scene(index) for index in range(start, min(start + BATCH, count))]
        yield (
            to_input(scenes),
            np.stack([each.digits[0] if task == CONTROL else each.mask for each in scenes]).astype(np.int64),
        )


def to_input(scenes: Sequence[Scene]) -> paddle.Tensor:
    """(N, 3, S, S) float32 from -1 to 1."""
    images = np.stack([scene.image for scene in scenes]).astype(np.float32)
    return paddle.to_tensor((images / 127.5 - 1.0).transpose(0, 3, 1, 2))
