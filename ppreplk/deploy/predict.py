"""What is predicted of an image, and writing it down. No network code is needed."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from ..utils.atomic import replacing
from ..utils.errors import Incomplete, UserError

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
