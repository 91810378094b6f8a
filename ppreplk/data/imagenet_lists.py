"""List files of ImageNet: labels are the places of the class folders' names (wnids) in alphabetical order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..utils.atomic import replacing
from ..utils.errors import UserError, nearest
from .digits import EVAL_LIST, TRAIN_LIST
from .lines import read_lines
from .listing import class_folders
from .scan import counted, named, scan
from .splitting import NAMES_FILE, list_line, refuse_existing

TRAIN, VAL = "train", "val"
PUBLISHED_CLASSES = {1000: "ImageNet-1K", 21841: "ImageNet-22K"}


def write_imagenet_lists(folder: str, val_labels: str | None = None) -> str:
    """Write ``train_list.txt``, ``val_list.txt`` and ``labels.txt`` into ``folder``. No image is opened.

    Args:
        folder: with ``train/WNID/...``, and ``val/WNID/...`` or ``val/*.JPEG``. Without ``val`` there is no list of it.
        val_labels: a text file with the class of each image of a ``val`` without class folders: its name and its wnid
            behind a comma or blanks, what follows is ignored. ImageNet's ``LOC_val_solution.csv`` is such a file.

    Returns:
        What was written.

    Raises:
        UserError: a folder or file is missing, ``train`` and ``val`` have other classes, an image of ``val`` has no
            class, or a list is there already.
    """
    train, val = os.path.join(folder, TRAIN), os.path.join(folder, VAL)
    classes = class_folders(train)
    if not classes:
        raise UserError("holds no class folder", code="data.no-images", where=train)
    labels = {name: label for label, name in enumerate(classes)}
    has_val = os.path.isdir(val)
    if val_labels is not None and not has_val:
        raise UserError(f"there is no folder {val} to label", code="data.missing-dataset", where=val_labels)
    paths = [Path(folder, name) for name in (TRAIN_LIST, NAMES_FILE, *([EVAL_LIST] if has_val else []))]
    refuse_existing(paths, folder)
    sources = [_in_class_folders(train, labels)]
    if has_val:
        flat = not class_folders(val)
        if flat != (val_labels is not None):
            given = "has class folders, and needs no file of labels" if val_labels else "has no class folders: "
            advice = "" if val_labels else "--val-labels names a file with the class of each image"
            raise UserError(given + advice, code="data.val-labels", where=val)
        sources.append(_in_one_folder(val, val_labels, labels) if val_labels else _in_class_folders(val, labels))
    written = []
    with replacing(*paths) as [train_list, names, *val_list]:
        names.write_text("".join(f"{label} {name}\n" for name, label in labels.items()), encoding="utf-8")
        written.append(f"wrote {paths[1]}: {counted(len(classes), 'class', 'classes')}")
        for path, partial, images in zip((paths[0], *paths[2:]), (train_list, *val_list), sources):
            count = 0
            with partial.open("w", encoding="utf-8", errors="surrogateescape") as file:
                for image, label in images:
                    file.write(list_line(image, folder, label))
                    count += 1
            written.append(f"wrote {path}: {counted(count, 'image')}")
    if len(classes) not in PUBLISHED_CLASSES:
        known = " and ".join(f"{name} {count}" for count, name in PUBLISHED_CLASSES.items())
        written.append(f"note: {counted(len(classes), 'class', 'classes')}; {known}")
    return "\n".join(written)


def _in_class_folders(root: str, labels: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Path and label of every image, class by class."""
    for name in class_folders(root):
        place = os.path.join(root, name)
        if name not in labels:
            raise UserError(f"{TRAIN} has no such class{nearest(name, labels)}", code="data.other-classes", where=place)
        images = scan(place).images
        if not images:
            raise UserError("holds no image", code="data.no-images", where=place)
        for image in images:
            yield image, labels[name]


def _in_one_folder(root: str, labels_file: str, labels: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    wanted = _read_labels(labels_file, labels)
    images = scan(root).images
    unlabelled = [image for image in images if _stem(image) not in wanted]
    if unlabelled or not images:
        message = f"has no class for {named(unlabelled)}" if images else f"{root} holds no image"
        raise UserError(message, code="data.no-label", where=labels_file)
    for image in images:
        yield image, wanted[_stem(image)]


def _read_labels(labels_file: str, labels: Mapping[str, int]) -> dict[str, int]:
    """{name of an image without suffix: label}."""
    wanted = {}
    for number, text in read_lines(labels_file, "file of labels", names_files=True):
        parts = re.split(r"[,\s]+", text.strip())
        if number == 1 and parts[0] == "ImageId":
            continue
        where = f"{labels_file}, line {number}"
        if len(parts) < 2:
            message = "expected the name of an image and its class, such as 'ILSVRC2012_val_00000001 n01751748'"
            if parts[0].isdecimal():
                message += "; the devkit's numbers are in an order of its own, not in that of the class folders"
            raise UserError(message, code="data.bad-line", where=where)
        if parts[1] not in labels:
            raise UserError(f"{parts[1]!r} is no class of {TRAIN}", code="data.other-classes", where=where)
        wanted[_stem(parts[0])] = labels[parts[1]]
    return wanted


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]
