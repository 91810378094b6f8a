"""The report of an evaluation: a folder with numbers, tables, pictures and a page that shows all of it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config import Config
from ..data import prepare_dataset
from ..deploy.class_names import names_of_file
from ..deploy.network_names import class_names
from ..training.evaluate import Evaluated, evaluate_kept
from ..utils.atomic import replacing_folder
from ..utils.distributed import processes, rank
from ..utils.errors import UserError
from ..utils.figures import matplotlib_problem
from ..utils.version import __version__
from . import eval_numbers as numbers
from .eval_page import page
from .eval_pictures import Labels, Mistake, draw_confusions, draw_errors, draw_reliability
from .eval_tables import write_classes, write_confusions, write_images

logger = logging.getLogger(__name__)

KIND = "ppreplk evaluation report"
REPORT, PAGE = "report.json", "report.html"
SHOWN_CLASSES = 40  # of more, the picture of the confusion matrix shows the most confused ones
SHOWN_PAIRS = 20  # pairs of classes that the report lists
SHOWN_ERRORS = 24  # images on the sheet of errors


class Measured(NamedTuple):
    """One set of weights: what it says about each image, the bins of its confidence, and the part of the report.

    Args:
        answers: for each image.
        before, after: bins without and with the fitted temperature.
        summary: numbers for ``report.json``.
    """

    answers: numbers.Answers
    before: numbers.Bins
    after: numbers.Bins
    summary: dict[str, Any]


def write_report(config: Config, folder: str, choice: str | None = None) -> None:
    """Evaluate as :func:`~ppreplk.training.evaluate.evaluate_kept` does, and write what there is to say to a folder.

    It is written whole or not at all, by process 0. An earlier report is replaced.

    Args:
        config: the configuration.
        folder: to create or to replace.
        choice: raw weights, averaged ones or both.

    Raises:
        UserError: the folder holds something else or cannot be written, outputs are not finite, and see
            :func:`~ppreplk.training.evaluate.evaluate_config`.
    """
    target = Path(folder)
    check_folder(target)
    prepare_dataset(config)  # it may bring the names of the classes
    if config.Infer is not None:
        names_of_file(config)  # refused before the work, if they do not fit
    measured: list[Measured] = []
    paths: list[str] = []
    names: list[str] | None = None
    for evaluated in evaluate_kept(config, choice, keep_outputs=True):
        if not measured:
            paths = [sample.path for sample in evaluated.dataset.samples]
            names = class_names(config) if config.Infer is not None else evaluated.dataset.classes
        measured.append(_measure(evaluated, paths, names))
    if rank() > 0:
        return
    summary = _head(config, len(paths), names)
    with replacing_folder(target, lambda: check_folder(target)) as staging:
        for part in measured:
            place = staging / part.summary["weights"] if len(measured) > 1 else staging
            place.mkdir(exist_ok=True)
            _write(place, staging, part, paths, names, summary["pictures_left_out"])
        summary["evaluations"] = [part.summary for part in measured]
        (staging / PAGE).write_text(page(summary), encoding="utf-8")
        summary["files"] = sorted([REPORT, *_files_in(staging)])
        (staging / REPORT).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    if summary["pictures_left_out"]:
        logger.warning("the report has no pictures: %s", summary["pictures_left_out"])
    logger.info("wrote the report %s", target / PAGE)


def check_folder(folder: Path) -> None:
    """Check that a report can go to a folder.

    Raises:
        UserError: it holds anything but an earlier report, or it cannot be written.
    """
    where = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not where.is_dir() or not os.access(where, os.W_OK):
        message = f"cannot write a report there: {where} is a file or cannot be written to"
        raise UserError(message, code="analysis.cannot-write", where=str(folder))
    if folder.exists() and (os.path.ismount(folder) or not os.access(folder.resolve().parent, os.W_OK)):
        message = "is replaced as a whole, which is not possible for a mounted folder or in a parent that is read-only"
        raise UserError(f"{message}; name a folder inside it", code="analysis.cannot-write", where=str(folder))
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        summary = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        known = summary["files"] if summary["kind"] == KIND else []
    except (OSError, ValueError, LookupError, TypeError):
        known = []
    further = sorted(set(_files_in(folder)) - set(known)) if known else ["files that are no report of an evaluation"]
    if further:
        raise UserError(
            f"cannot be replaced by a report, since it holds {further[0]}; name another folder",
            code="analysis.occupied-folder",
            where=str(folder),
        )


def _files_in(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]


def _head(config: Config, images: int, names: Sequence[str] | None) -> dict[str, Any]:
    """What holds for all sets of weights."""
    split = config.require("DataLoader.Eval")
    return {
        "kind": KIND,
        "format": 1,
        "ppreplk": __version__,
        "configuration": config.source,
        "data_set": str(split.dataset.arguments.get("cls_label_path") or split.dataset.arguments.get("image_root")),
        "images": images,
        "classes": config.Arch.class_num,
        "classes_have_names": names is not None,
        "device": config.Global.device,
        "processes": processes(),
        "batch_size": split.sampler.batch_size,
        "num_workers": split.loader.num_workers,
        "pictures_left_out": matplotlib_problem(),
    }


# ----------------------------------------------------------------------------------------------------------------------
# Numbers


def _measure(evaluated: Evaluated, paths: Sequence[str], names: Sequence[str] | None) -> Measured:
    """Everything that needs the logits of an evaluation, which are then forgotten. All processes must call this."""
    assert evaluated.outputs is not None  # asked for by the caller
    logits, labels = evaluated.outputs.over_processes()
    throughput = evaluated.outputs.throughput()
    bad = numbers.not_finite(logits)
    if len(bad):
        raise UserError(
            f"the network's outputs are not finite for {len(bad)} of {len(logits)} images; the first is "
            f"{paths[bad[0]]}; there is nothing to report",
            code="analysis.not-finite",
            where=evaluated.weights.path,
        )
    answers = numbers.read_answers(logits, labels)
    before, after, calibration = _calibrate(logits, answers)
    classes = numbers.per_class(answers)
    pairs = numbers.confusions(answers).wrong()
    summary = {
        "weights": evaluated.weights.name,
        "file": evaluated.weights.path,
        "results": evaluated.results,
        "accuracy": {f"top{k}": numbers.top_k(answers, k) for k in _ks(evaluated.results)},
        "balanced_accuracy": numbers.balanced_accuracy(classes),
        "averages": numbers.averages(classes),
        "classes_without_images": int((classes.support == 0).sum()),
        "classes_without_predictions": int((classes.predictions == 0).sum()),
        "negative_log_likelihood": numbers.negative_log_likelihood(logits, labels),
        "calibration": calibration,
        "throughput": throughput._asdict(),
        "per_class": [
            {"class": number, "name": _name(names, number), **dict(zip(classes._fields, _plain(values)))}
            for number, values in enumerate(zip(*classes))
        ],
        "pairs_confused": len(pairs.images),
        "most_confused_pairs": [
            {
                "true": true,
                "true_name": _name(names, true),
                "predicted": predicted,
                "predicted_name": _name(names, predicted),
                "images": images,
            }
            for true, predicted, images in zip(*(values[:SHOWN_PAIRS].tolist() for values in pairs))
        ],
        "errors": int((~answers.right).sum()),
        "worst_errors": [
            {
                "path": paths[index],
                "true": int(labels[index]),
                "true_name": _name(names, int(labels[index])),
                "predicted": int(answers.predicted[index]),
                "predicted_name": _name(names, int(answers.predicted[index])),
                "probability": float(answers.confidence[index]),
                "probability_of_true": float(answers.true_probability[index]),
            }
            for index in numbers.worst_errors(answers, SHOWN_ERRORS)
        ],
    }
    return Measured(answers, before, after, summary)


def _ks(results: dict[str, float]) -> list[int]:
    """1, 5, and what the configuration's metric counts."""
    asked = {int(name[3:]) for name in results if name.startswith("top") and name[3:].isdecimal()}
    return sorted(asked | {1, numbers.RANKED})


def _name(names: Sequence[str] | None, number: int) -> str:
    return str(number) if names is None else names[number]


def _plain(values: Sequence[Any]) -> list[Any]:
    return [value.item() for value in values]


def _calibrate(logits: np.ndarray, answers: numbers.Answers) -> tuple[numbers.Bins, numbers.Bins, dict[str, Any]]:
    """Bins before and after a temperature was fitted to the images, and the numbers about it."""
    labels = answers.labels
    before = numbers.reliability(answers.confidence, answers.right)
    fit = numbers.fit_temperature(logits, labels)
    after = numbers.reliability(numbers.confidences(logits, fit.temperature), answers.right)
    calibration = {
        "bins": numbers.BINS,
        "ece": before.error(),
        "temperature": fit.temperature,
        "temperature_is_a_minimum": fit.inside,
        "ece_after": after.error(),
        "ece_after_held_out": _held_out_error(logits, answers),
        "negative_log_likelihood_after": numbers.negative_log_likelihood(logits, labels, fit.temperature),
        "reliability": {
            "before": [dict(zip(before._fields, _plain(values))) for values in zip(*before)],
            "after": [dict(zip(after._fields, _plain(values))) for values in zip(*after)],
        },
    }
    return before, after, calibration


def _held_out_error(logits: np.ndarray, answers: numbers.Answers) -> float | None:
    """The calibration error where every second image is scaled by the temperature of the others; None for one image."""
    if len(logits) < 2:
        return None
    scaled = np.empty(len(logits))
    for half, other in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        temperature = numbers.fit_temperature(logits[other], answers.labels[other]).temperature
        scaled[half] = numbers.confidences(logits[half], temperature)
    return numbers.reliability(scaled, answers.right).error()


# ----------------------------------------------------------------------------------------------------------------------
# Files


def _write(
    folder: Path,
    root: Path,
    part: Measured,
    paths: Sequence[str],
    names: Sequence[str] | None,
    pictures_left_out: str | None,
) -> None:
    """Write the tables and pictures of one set of weights, and name them in its summary."""
    answers, summary = part.answers, part.summary
    every_name = [_name(names, number) for number in range(answers.classes)]
    found = numbers.confusions(answers)
    write_classes(folder / "classes.csv", summary["per_class"])
    write_images(folder / "images.csv", answers, paths, every_name)
    is_matrix = write_confusions(folder / "confusion.csv", found, every_name)
    shown = numbers.most_confused(found, answers.classes, SHOWN_CLASSES)
    summary["confusion"] = {"csv_is_a_matrix": is_matrix, "classes_in_picture": len(shown)}
    written = ["classes.csv", "images.csv", "confusion.csv"]
    if pictures_left_out is None:
        _draw(folder, part, found, shown, Labels(every_name))
        written += ["confusion.png", "reliability.png", *(["errors.png"] if summary["errors"] else [])]
    summary["files"] = {name: (folder / name).relative_to(root).as_posix() for name in written}


def _draw(folder: Path, part: Measured, found: numbers.Confusions, shown: np.ndarray, labels: Labels) -> None:
    classes, summary, calibration = part.answers.classes, part.summary, part.summary["calibration"]
    whose = f"{summary['weights']} weights, " if summary["weights"] else ""
    what = "all classes" if len(shown) == classes else f"the {len(shown)} of {classes} classes with the most errors"
    draw_confusions(found.matrix(shown), shown, labels, f"{whose}{what}", folder / "confusion.png")
    scaled = f"temperature {calibration['temperature']:.3g}: ECE {calibration['ece_after']:.4f}"
    panels = [(f"as it is: ECE {calibration['ece']:.4f}", part.before), (scaled, part.after)]
    draw_reliability(panels, folder / "reliability.png")
    worst = [
        Mistake(error["path"], error["true"], error["predicted"], error["probability"])
        for error in summary["worst_errors"]
    ]
    if worst:
        count = f"{len(worst)} of " if len(worst) < summary["errors"] else ""
        title = f"{whose}{count}{summary['errors']} errors, the surest first"
        draw_errors(worst, labels, title, folder / "errors.png")
