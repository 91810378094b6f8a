"""Scenes of handwritten digits: for segmentation and detection what :mod:`.digits` is for classification.

Each scene is a square canvas of noise with a few digits of scikit-learn, enlarged to four or five times their size. The
training scenes and the validation scenes are made of different digits. What a scene shows depends on the seed, the
split and its index alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
from PIL import Image

from ..utils.errors import UserError
from .digits import GREY_LEVELS, NAMES, is_held_out, new_folder, read_digits

logger = logging.getLogger(__name__)

TRAIN, VAL = SPLITS = ("train", "val")
CLASSES = ("background", *NAMES)  # of the masks: 0, and 1 + digit
SIDE = 96  # pixels of a canvas
MIN_SIDE, MAX_SIDE = 48, 2048
MIN_DIGIT, MAX_DIGIT = 32, 40  # pixels of a digit's side; it has 8 in scikit-learn
INK = 0.35  # share of a pixel that must be ink to be part of the digit
NOISE = 0.6  # of full brightness
TRIES = 20  # to find a free place for a digit
SETTINGS = "digit_scenes.json"  # says what a folder was written with


class Scene(NamedTuple):
    """One image and all that is known about it.

    ``image`` is (S, S, 3) uint8. ``mask`` is (S, S) uint8: 0 is background, 1 + d is digit d. For each of N digits
    there is ``instances`` (N, S, S) bool, the pixels that it covers; ``boxes`` (N, 4) int, the left, top, right and
    bottom edge around them, right and bottom being the first pixel outside; and ``digits`` (N,) int, 0 to 9.
    """

    image: np.ndarray
    mask: np.ndarray
    instances: np.ndarray
    boxes: np.ndarray
    digits: np.ndarray


class SceneMaker:
    """Makes scenes of one split.

    Args:
        split: ``train`` or ``val``.
        seed: of everything that is drawn.
        side: height and width of a scene, in pixels.
        most: digits that a scene has at most; by default as many as there is room for, 4 at 96 pixels.

    Raises:
        UserError: scikit-learn is missing, or an argument is out of range.
    """

    def __init__(self, split: str, seed: int = 0, side: int = SIDE, most: Optional[int] = None):
        if split not in SPLITS:
            raise UserError(f"the splits are {' and '.join(SPLITS)}, got {split!r}", code="data.scene-argument")
        check_number("the side of a scene", side, MIN_SIDE, MAX_SIDE)
        check_number("the seed", seed, 0)
        self.most = (side // MIN_SIDE) ** 2 if most is None else most
        check_number("digits in a scene", self.most, 1)
        images, labels = read_digits()
        chosen = is_held_out(len(labels)) == (split == VAL)
        self.images, self.labels = images[chosen] / GREY_LEVELS, labels[chosen]
        self.key = [seed, SPLITS.index(split)]
        self.side = side

    def scene(self, index: int) -> Scene:
        """Scene number ``index``, counted from 0. There is no last one."""
        rng = np.random.default_rng([*self.key, index])
        side = self.side
        brightness = rng.uniform(0.0, NOISE, (side, side))
        instances, boxes, digits = [], [], []
        taken = np.zeros((side, side), bool)
        for _ in range(int(rng.integers(1, self.most + 1))):
            which, size = int(rng.integers(len(self.labels))), int(rng.integers(MIN_DIGIT, MAX_DIGIT + 1))
            place = _free_place(taken, size, rng)
            if place is None:
                continue
            taken[place] = True
            ink = np.zeros((side, side))
            ink[place] = _enlarged(self.images[which], size)
            brightness = brightness * (1 - ink) + ink
            covered = ink >= INK
            instances.append(covered)
            boxes.append(_box(covered))
            digits.append(int(self.labels[which]))
        mask = np.zeros((side, side), np.uint8)
        for covered, digit in zip(instances, digits):
            mask[covered] = 1 + digit
        grey = np.round(brightness * 255).astype(np.uint8)
        image = np.repeat(grey[..., None], 3, axis=2)
        return Scene(image, mask, np.stack(instances), np.array(boxes), np.array(digits))

    def scenes(self, count: int) -> Iterator[Scene]:
        """The first ``count`` scenes."""
        return (self.scene(index) for index in range(count))


def check_number(what: str, value: int, lowest: int, highest: Optional[int] = None) -> None:
    """Check a whole number.

    Raises:
        UserError: it is out of range.
    """
    if value < lowest or (highest is not None and value > highest):
        limits = f"at least {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise UserError(f"{what} must be {limits}, got {value}", code="data.scene-argument")


def _free_place(taken: np.ndarray, size: int, rng: np.random.Generator) -> Optional[tuple[slice, slice]]:
    """Rows and columns of a square on which nothing is yet, or None after some tries."""
    for _ in range(TRIES):
        top, left = (int(value) for value in rng.integers(0, len(taken) - size + 1, 2))
        place = slice(top, top + size), slice(left, left + size)
        if not taken[place].any():
            return place
    return None


def _enlarged(digit: np.ndarray, size: int) -> np.ndarray:
    """A digit (8, 8) of 0 to 1, enlarged to (size, size) and as bright as it was."""
    image = Image.fromarray(digit.astype(np.float32))
    return np.clip(np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), np.float64), 0.0, 1.0)


def _box(covered: np.ndarray) -> list[int]:
    rows, columns = (np.flatnonzero(covered.any(axis=axis)) for axis in (1, 0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


# ----------------------------------------------------------------------------------------------------------------------
# Data sets in files


def write_segmentation(folder: str | Path, train: int = 400, val: int = 100, seed: int = 0, side: int = SIDE) -> None:
    """Write scenes as PaddleSeg's ``Dataset`` reads them, unless they are there.

    The folder holds ``images/*.png``, ``labels/*.png`` (class masks, 11 classes), ``train.txt`` and ``val.txt`` (an
    image and its mask in each line, relative to the folder) and ``labels.txt`` (names of the classes). It appears
    complete or not at all.

    Args:
        folder: must not exist, or be empty.
        train, val: numbers of scenes.
        seed, side: see :class:`SceneMaker`.

    Raises:
        UserError: scikit-learn is missing, an argument is out of range, or the folder cannot be written or holds
            something else.
    """
    counts = {TRAIN: train, VAL: val}
    settings = {"for": "segmentation", **counts, "seed": seed, "side": side}

    def write(staging: Path) -> None:
        for name in ("images", "labels"):
            (staging / name).mkdir()
        for split, count in counts.items():
            lines = []
            for index, scene in enumerate(SceneMaker(split, seed, side).scenes(count)):
                names = [f"{place}/{split}_{index:05d}.png" for place in ("images", "labels")]
                Image.fromarray(scene.image).save(staging / names[0])
                Image.fromarray(scene.mask).save(staging / names[1])
                lines.append(" ".join(names) + "\n")
            (staging / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
        (staging / "labels.txt").write_text("".join(f"{name}\n" for name in CLASSES), encoding="utf-8")

    _write_data_set(Path(folder), settings, write)


def write_coco(folder: str | Path, train: int = 400, val: int = 100, seed: int = 0, side: int = SIDE) -> None:
    """Write scenes in COCO's format, unless they are there.

    The folder holds ``train/*.png``, ``val/*.png``, ``annotations/instances_train.json`` and
    ``annotations/instances_val.json``, with boxes and polygons. The category of digit d is d + 1. The folder appears
    complete or not at all.

    Args:
        folder, train, val, seed, side: see :func:`write_segmentation`.

    Raises:
        UserError: as there.
    """
    counts = {TRAIN: train, VAL: val}
    settings = {"for": "detection", **counts, "seed": seed, "side": side}

    def write(staging: Path) -> None:
        (staging / "annotations").mkdir()
        for split, count in counts.items():
            (staging / split).mkdir()
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for index, scene in enumerate(SceneMaker(split, seed, side).scenes(count)):
                name = f"{index:05d}.png"
                Image.fromarray(scene.image).save(staging / split / name)
                images.append({"id": index + 1, "file_name": name, "height": side, "width": side})
                for digit, box, covered in zip(scene.digits, scene.boxes, scene.instances):
                    left, top, right, bottom = (int(value) for value in box)
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": index + 1,
                            "category_id": int(digit) + 1,
                            "bbox": [left, top, right - left, bottom - top],
                            "area": int(covered.sum()),
                            "iscrowd": 0,
                            "segmentation": polygons(covered),
                        }
                    )
            categories = [{"id": index + 1, "name": name} for index, name in enumerate(NAMES)]
            content = {"images": images, "annotations": annotations, "categories": categories}
            path = staging / "annotations" / f"instances_{split}.json"
            path.write_text(json.dumps(content), encoding="utf-8")

    _write_data_set(Path(folder), settings, write)


def _write_data_set(folder: Path, settings: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Let ``write`` fill ``folder``, unless it was filled with the same settings before."""
    for split in SPLITS:
        check_number(f"the number of scenes to write to {split}", settings[split], 1)

    def complete() -> bool:
        try:
            return bool(json.loads((folder / SETTINGS).read_text(encoding="utf-8")) == settings)
        except (OSError, ValueError):
            return False

    if complete():
        logger.info("%s: the scenes are there", folder)
        return
    with new_folder(folder, "the scenes of digits", complete) as staging:
        write(staging)
        (staging / SETTINGS).write_text(json.dumps(settings) + "\n", encoding="utf-8")
    logger.info("wrote %d scenes to train on and %d to evaluate to %s", settings[TRAIN], settings[VAL], folder)


def polygons(covered: np.ndarray) -> list[list[int]]:
    """The pixels that are true as polygons [x, y, x, y, ...] that do not overlap, exactly.

    Each polygon is a stack of runs, one run a row, along which the shape neither splits nor merges. So holes need no
    polygon of their own.

    Args:
        covered: (H, W) bool.

    >>> polygons(np.array([[False, True, True], [False, True, False]]))
    [[1, 0, 1, 2, 2, 2, 2, 1, 3, 1, 3, 0]]
    """
    finished: list[list[tuple[int, int, int]]] = []  # stacks of (row, left, right)
    growing: list[list[tuple[int, int, int]]] = []
    for row, line in enumerate([*covered, np.zeros(covered.shape[1], bool)]):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(np.int8)))
        runs = [(row, int(left), int(right)) for left, right in edges.reshape(-1, 2)]
        touching = [[run for run in runs if _touch(stack[-1], run)] for stack in growing]
        following = []
        for stack, below in zip(growing, touching):
            above = [other for other in growing if below and _touch(other[-1], below[0])]
            if len(below) == 1 and len(above) == 1:
                following.append([*stack, below[0]])
            else:
                finished.append(stack)
        continued = {stack[-1] for stack in following}
        growing = [*following, *([run] for run in runs if run not in continued)]
    return [_outline(stack) for stack in finished]


def _touch(upper: tuple[int, int, int], lower: tuple[int, int, int]) -> bool:
    return upper[1] < lower[2] and lower[1] < upper[2]


def _outline(stack: list[tuple[int, int, int]]) -> list[int]:
    """Down the left side of a stack of runs, and up the right side."""
    left = [(x, y) for row, x, _ in stack for y in (row, row + 1)]
    right = [(x, y) for row, _, x in reversed(stack) for y in (row + 1, row)]
    corners: list[tuple[int, int]] = []
    for point in [*left, *right]:
        if len(corners) > 1 and corners[-1] == point:
            continue
        if len(corners) > 1 and corners[-2][0] == corners[-1][0] == point[0]:
            corners.pop()  # a point on a straight line
        corners.append(point)
    return [value for point in corners for value in point]
