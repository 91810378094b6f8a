"""The tables of an evaluation's report, as CSV files in UTF-8."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .eval_numbers import Answers, Confusions

MATRIX_CLASSES = 2000  # of more, a confusion matrix is written as the pairs that occur


def write_classes(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A line for each class: number, name, precision, recall, F1, support, predictions."""
    _write(path, list(rows[0]), (row.values() for row in rows))


def write_images(path: Path, answers: Answers, paths: Sequence[str], names: Sequence[str]) -> None:
    """A line for each image: its path, the true class, the likeliest classes with their probabilities."""
    columns = ["path", "true", "true_name", "predicted", "predicted_name", "probability", "right"]
    columns += ["probability_of_true", "rank_of_true"]
    count = answers.ranked.shape[1]
    for place in range(1, count + 1):
        columns += [f"top{place}", f"top{place}_name", f"top{place}_probability"]

    def row(index: int) -> list[Any]:
        true, predicted = int(answers.labels[index]), int(answers.predicted[index])
        cells = [paths[index], true, names[true], predicted, names[predicted], answers.confidence[index]]
        cells += [int(true == predicted), answers.true_probability[index], answers.rank[index]]
        for number, probability in zip(answers.ranked[index], answers.probabilities[index]):
            cells += [number, names[number], probability]
        return cells

    _write(path, columns, (row(index) for index in range(len(answers.labels))))


def write_confusions(path: Path, found: Confusions, names: Sequence[str]) -> bool:
    """The confusion matrix with a row for each true and a column for each predicted class; whether it is that.

    Of more than :data:`MATRIX_CLASSES` classes, it is a line for each pair that occurs instead.
    """
    if len(names) > MATRIX_CLASSES:
        pairs = zip(*(values.tolist() for values in found))
        rows = ([true, names[true], predicted, names[predicted], images] for true, predicted, images in pairs)
        _write(path, ["true", "true_name", "predicted", "predicted_name", "images"], rows)
        return False
    matrix = found.matrix(np.arange(len(names)))
    _write(path, ["true \\ predicted", *names], ([name, *row] for name, row in zip(names, matrix.tolist())))
    return True


def _write(path: Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    # names of files may hold bytes that are no text
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
