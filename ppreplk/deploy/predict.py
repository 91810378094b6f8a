"""Prediction on images without labels. Running an exported program imports no network code."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional, TextIO

import numpy as np

from ..config import Config, construct, read_ops, read_yaml
from ..data import NORMALIZED_CHW, Pipeline, build_transforms, load_image
from ..utils.atomic import replacing
from ..utils.errors import Incomplete, UserError
from .programs import FP32, INFERENCE_YAML, Predictor, choose_precision, program_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image, likeliest first; ``label_names`` is empty where they are unknown."""

    file_name: str
    class_ids: list[int]
    scores: list[float]
    label_names: list[str]

    def __str__(self) -> str:
        names = self.label_names or [str(index) for index in self.class_ids]
        return f"{self.file_name}: " + ", ".join(f"{name} {score:.5f}" for name, score in zip(names, self.scores))


@dataclass
class Classifier:
    """What turns image files into predictions.

    Args:
        run: images (N, 3, H, W) float32 to logits or probabilities (N, class_num).
        transforms: of one image.
        topk: classes that are shown.
        class_names: in order, or None where they are unknown.
        add_softmax: whether ``run`` returns logits.
    """

    run: Callable[[np.ndarray], np.ndarray]
    transforms: Pipeline
    topk: int
    class_names: list[str] | None
    add_softmax: bool


@dataclass
class TopkSection:
    """``PostProcess.Topk`` of inference.yml."""

    topk: int
    add_softmax: bool
    label_list: Optional[list[str]]


def program_classifier(folder: str, config: Config, precision: str | None = None) -> Classifier:
    """Predict with an exported program and the pre- and post-processing saved beside it.

    Args:
        folder: what ``tools/export.py`` wrote.
        config: for the device and its threads.
        precision: ``"fp32"``, ``"bf16"``, or None for the one that was exported for, and float32 where the
            processor has no bfloat16 arithmetic.

    Raises:
        UserError: no such program, a broken one, or bfloat16 asked for where the processor has none.
    """
    program_files(folder, precision or FP32)
    path = Path(folder) / INFERENCE_YAML
    if not path.is_file():
        raise UserError(f"{path} missing, which tools/export.py writes; export again", code="deploy.no-program")
    content = read_yaml(path)
    try:
        ops, topk = content["PreProcess"]["transform_ops"], content["PostProcess"]["Topk"]
        exported = content.get("Global", {}).get("precision", FP32)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"not written by tools/export.py, {error} is missing; export again",
            code="deploy.bad-program",
            where=str(path),
        ) from error
    chosen = choose_precision(folder, config.Global.device, exported, precision)
    run = Predictor(folder, config.Global.device, config.Global.num_threads, chosen)
    transforms = build_transforms(read_ops(ops, f"{path}: PreProcess.transform_ops"), NORMALIZED_CHW)
    section = construct(TopkSection, topk, f"{path}: PostProcess.Topk")
    return Classifier(run, transforms, section.topk, section.label_list, section.add_softmax)


def predict(classifier: Classifier, paths: Sequence[str]) -> list[Prediction]:
    """Predictions for image files, as one batch.

    Raises:
        UserError: an image cannot be read, or they differ in shape after the transforms.
    """
    rng = np.random.default_rng(0)
    return classify(classifier, paths, [load_image(path, classifier.transforms, rng) for path in paths])


def classify(classifier: Classifier, paths: Sequence[str], images: Sequence[np.ndarray]) -> list[Prediction]:
    """Predictions for images after their transforms, each (3, H, W), as one batch. ``paths`` are their names.

    Raises:
        UserError: the images differ in shape.
    """
    for path, image in zip(paths, images):
        if image.shape != images[0].shape:
            raise UserError(
                f"shape {image.shape} after Infer.transforms, others {images[0].shape}; crop or resize to one size, "
                "or use -o Infer.batch_size=1",
                code="deploy.other-shape",
                where=path,
            )
    scores = classifier.run(np.stack(images)).astype(np.float64)
    if classifier.add_softmax:
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, : classifier.topk]
    names = classifier.class_names
    if names is not None and len(names) != scores.shape[1]:
        raise UserError(
            f"there are {len(names)} class names for {scores.shape[1]} classes; check class_id_map_file",
            code="deploy.bad-class-names",
        )
    return [
        Prediction(
            path,
            best.tolist(),
            [round(float(row[index]), 5) for index in best],
            [names[index] for index in best] if names is not None else [],
        )
        for path, row, best in zip(paths, scores, ranked)
    ]


def write_predictions(predictions: Iterable[Prediction], output: str) -> None:
    """Write predictions to a ``.json`` or ``.csv`` file, which appears when all are there.

    Raises:
        Incomplete: from ``predictions``, after those that there are have been written.
        UserError: another suffix, or the file cannot be written.
    """
    path = Path(output)
    if path.suffix not in (".json", ".csv"):
        raise UserError(
            f"expected a file ending in .json or .csv, got {output}", code="deploy.bad-output", where="--output"
        )
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(
            f"{output} is a folder, or the folder it is in does not exist", code="deploy.bad-output", where="--output"
        )
    received: list[Prediction] = []
    incomplete = None
    try:
        for prediction in predictions:
            received.append(prediction)
    except Incomplete as error:
        incomplete = error
    # names of files may hold bytes that are no text; JSON reads such a "\udcXX" as the same name again
    with replacing(path) as [partial], open(partial, "w", -1, "utf-8", "backslashreplace", newline="") as file:
        if path.suffix == ".json":
            json.dump([asdict(prediction) for prediction in received], file, ensure_ascii=False, indent=1)
        else:
            _write_csv(received, file)
    logger.info("wrote %d predictions to %s", len(received), path)
    if incomplete is not None:
        raise incomplete


def _write_csv(predictions: Sequence[Prediction], file: TextIO) -> None:
    writer = csv.writer(file)
    writer.writerow(["file_name", "rank", "class_id", "label_name", "score"])
    for prediction in predictions:
        names = prediction.label_names or [""] * len(prediction.class_ids)
        for rank, row in enumerate(zip(prediction.class_ids, names, prediction.scores), 1):
            writer.writerow([prediction.file_name, rank, *row])
