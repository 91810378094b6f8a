"""List files to train and to evaluate on, from a folder of class folders."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..config import construct
from ..utils.atomic import make_folder, replacing
from ..utils.errors import UserError
from .datasets import ImageFolderDataset
from .decoding import DecodeImage
from .digits import EVAL_LIST, TRAIN_LIST
from .lines import split_last
from .listing import class_folders
from .scan import counted, named
from .survey_comparisons import copies
from .survey_images import examine
from .transforms import Pipeline

logger = logging.getLogger(__name__)

NAMES_FILE = "labels.txt"


def split_folder(image_root: str, output: str, share: float, seed: int, workers: int) -> str:
    """Write ``train_list.txt``, ``val_list.txt`` and ``labels.txt`` from ``image_root/CLASS/...``.

    Each class is split by itself. One with two pictures or more is in both lists; one with a single picture is trained
    on. Every picture is in one list, once: further copies of it are left out, and so are pictures that several classes
    have and files that cannot be read. Log lines count them.

    Args:
        image_root: folder of the class folders.
        output: folder to write to; it may be ``image_root``.
        share: of each class, to train on, between 0 and 1.
        seed: of the draw. The same images, share and seed give the same lists.
        workers: processes that read the images.

    Returns:
        What was written, and the keys of a configuration that read it.

    Raises:
        UserError: there are no class folders or a class has no usable image, a list is there already, or a name
            cannot stand in a list.
    """
    paths = [Path(output, name) for name in (TRAIN_LIST, EVAL_LIST, NAMES_FILE)]
    refuse_existing(paths)
    classes = class_folders(image_root)
    if not classes:
        raise UserError("holds no class folder", code="data.no-images", where=image_root)
    pipeline = Pipeline([construct(DecodeImage, {"backend": "pil"}, "DecodeImage")])
    images = ImageFolderDataset(image_root, pipeline, len(classes), seed)
    kept = _kept(images, workers)
    lists: tuple[list[int], list[int]] = ([], [])
    labels = images.samples.labels
    for label, name in enumerate(classes):
        members = kept[labels[kept] == label]
        if not len(members):
            message = f"no image of class {name!r} can be used"
            raise UserError(message, code="data.no-images", where=os.path.join(image_root, name))
        for target, part in zip(lists, _drawn(members, share, np.random.default_rng([seed, label]))):
            target += part
    lines = [_lines(images, image_root, numbers) for numbers in lists]
    lines.append([f"{label} {_checked_class(name, image_root)}\n" for label, name in enumerate(classes)])
    make_folder(Path(output), "--output")
    with replacing(*paths) as partials:
        for partial, text in zip(partials, lines):
            partial.write_text("".join(text), encoding="utf-8", errors="surrogateescape")
    return _written(image_root, paths, [len(numbers) for numbers in lists], len(classes))


def refuse_existing(paths: Sequence[Path], where: str = "--output") -> None:
    """Check that no list is there already.

    Raises:
        UserError: one is.
    """
    existing = [str(path) for path in paths if os.path.lexists(path)]
    if existing:
        raise UserError(
            f"{named(existing)} is there already; move it away, or name another folder",
            code="data.list-exists",
            where=where,
        )


def _kept(images: ImageFolderDataset, workers: int) -> np.ndarray:
    """Numbers of the images to list."""
    [records], failures = examine([images], workers)
    keep, labels = records["usable"].copy(), images.samples.labels
    repeated = contradictory = 0
    for group in copies(records):
        alike = len(set(labels[group])) == 1
        keep[group[1:] if alike else group] = False
        repeated += len(group) - 1 if alike else 0
        contradictory += 0 if alike else len(group)
    for failure in failures:
        logger.warning("%s; left out", failure.message)
    if repeated:
        logger.warning("left out: %s of others of their class", counted(repeated, "copy", "copies"))
    if contradictory:
        logger.warning("left out: %s that several classes have", counted(contradictory, "image"))
    return np.flatnonzero(keep)


def _drawn(members: np.ndarray, share: float, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """The images of one class to train on, and those to evaluate on, in the order of their numbers."""
    count = int(np.clip(round(share * len(members)), 1, max(len(members) - 1, 1)))
    order = rng.permutation(members)
    return sorted(order[:count].tolist()), sorted(order[count:].tolist())


def _lines(images: ImageFolderDataset, image_root: str, numbers: Sequence[int]) -> list[str]:
    samples = (images.samples[number] for number in numbers)
    return [list_line(path, image_root, label) for path, label, _ in samples]


def list_line(path: str, image_root: str, label: int) -> str:
    """The line of a list that names the image ``path`` relative to ``image_root``.

    >>> list_line("dataset/train/cat/1.png", "dataset", 0)
    'train/cat/1.png 0\\n'

    Raises:
        UserError: the name cannot stand in a list.
    """
    name = os.path.relpath(path, image_root).replace(os.sep, "/")
    text = f"{name} {label}"
    if split_last(text, None) != (name, str(label)) or not {"\n", "\r"}.isdisjoint(name):
        raise UserError(
            "its name cannot stand in a list: it begins with a blank or holds a line end; rename it",
            code="data.unlistable-name",
            where=repr(path),
        )
    return f"{text}\n"


def _checked_class(name: str, image_root: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(
            "the name of this class folder is no valid text; rename it",
            code="data.unlistable-name",
            where=repr(os.path.join(image_root, name)),
        ) from None
    return name


def _written(image_root: str, paths: Sequence[Path], numbers: Sequence[int], classes: int) -> str:
    train, held_out, names = paths
    overrides = [f"Arch.class_num={classes}"]
    for part, path in (("Train", train), ("Eval", held_out)):
        place = f"DataLoader.{part}.dataset"
        overrides += [
            f"{place}.name=ImageNetDataset",
            f"{place}.image_root={image_root}",
            f"{place}.cls_label_path={path}",
        ]
    overrides.append(f"Infer.PostProcess.class_id_map_file={names}")
    return "\n".join(
        [
            f"wrote {train}: {counted(numbers[0], 'image')}",
            f"wrote {held_out}: {counted(numbers[1], 'image')}",
            f"wrote {names}: {counted(classes, 'class', 'classes')}",
            f"use them with {' '.join(f'-o {shlex.quote(text)}' for text in overrides)}",
        ]
    )
