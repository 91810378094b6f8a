"""Names and colours of the classes of a data set, where they are known."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

# The 19 classes that Cityscapes evaluates, in the order of its train ids, in its own colours.
CITYSCAPES: dict[str, tuple[int, int, int]] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
LISTS = ("labels.txt", "classes.txt")  # a name in each line
ADE_LIST = "objectInfo150.txt"  # comes with ADE20K: a table whose last column has the names


def class_names(dataset: Mapping[str, Any], classes: int) -> list[str]:
    """Names of the classes, from the data set's kind or from a file in its folder; none where they are not known.

    Args:
        dataset: the section of the configuration.
        classes: how many there are. A list of another length is left aside, with a warning.
    """
    if dataset.get("type") == "Cityscapes":
        return list(CITYSCAPES)[:classes]
    root = Path(str(dataset.get("dataset_root") or ""))
    for name in (*LISTS, ADE_LIST):
        path = root / name
        if not path.is_file():
            continue
        lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        names = [line for line in lines if line]
        if name == ADE_LIST:
            names = [line.split("\t")[-1].split(",")[0].strip() for line in names[1:]]
        if len(names) == classes:
            return names
        logger.warning("%s names %d classes, the network has %d; they are left aside", path, len(names), classes)
    return []


def class_colours(dataset: Mapping[str, Any]) -> list[list[int]]:
    """Their colours, where the data set defines some."""
    return [list(colour) for colour in CITYSCAPES.values()] if dataset.get("type") == "Cityscapes" else []
