"""All of a training's data checked before its first step."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Config
from ..utils.errors import UserError
from .classes import check_same_classes
from .datasets import build_dataset
from .digits import prepare_dataset
from .survey_comparisons import Part, compare_classes, compare_forms, compare_pictures
from .survey_findings import Findings
from .survey_images import examine

PARTS = ("Train", "Eval")


@dataclass(frozen=True)
class Survey:
    """What a check has seen, and what it has found."""

    parts: list[Part]
    findings: Findings


def survey(config: Config, workers: int) -> Survey:
    """Check the data sets of ``DataLoader.Train`` and ``DataLoader.Eval``. Mistakes are collected, all of them.

    Args:
        config: the configuration of the training.
        workers: processes that read the images.

    Raises:
        UserError: the configuration is wrong, or a list file, an image folder or all of its images are not there.
    """
    names = [name for name in PARTS if getattr(config.DataLoader, name) is not None] or PARTS[:1]
    splits = [config.require(f"DataLoader.{name}") for name in names]
    prepare_dataset(config)
    findings, class_num = Findings(), config.Arch.class_num
    datasets = [
        build_dataset(split.dataset, class_num, 0, config.Arch.in_channels, findings.add_error) for split in splits
    ]
    for images in datasets[1:]:
        try:
            check_same_classes(images.classes, images.source, datasets[0].classes, datasets[0].source)
        except UserError as error:
            findings.add_error(error)
    records, failures = examine(datasets, workers)
    parts = [Part(*each, class_num) for each in zip(names, datasets, records)]
    for number, code, message in failures:
        part, inside = (parts[0], number) if number < len(datasets[0]) else (parts[1], number - len(datasets[0]))
        findings.add(code, message, [part.path(inside)])
    compare_classes(parts, findings)
    compare_pictures(parts, findings)
    for part in parts:
        compare_forms(part, findings)
    return Survey(parts, findings)
