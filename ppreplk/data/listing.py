"""Which images there are: list files, class folders, and what to predict."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

from ..utils.errors import UserError
from .scan import IMAGE_SUFFIXES, Scan, counted, entries, is_junk, named, scan

logger = logging.getLogger(__name__)

BUILTIN_HINT = "or run configs/digits.yaml, which brings its own images"


class Sample(NamedTuple):
    """One labelled image. ``origin`` is the list file's line, or the folder, that names it."""

    path: str
    label: int
    origin: str


def read_folders(image_root: str, class_num: int) -> list[Sample]:
    """The images of one folder per class, ``image_root/CLASS/...``, in the order of their paths.

    Classes are numbered in the order of their names. A log line counts images, classes and what is left out.

    Raises:
        UserError: no such folder, another number of classes than ``class_num``, or a class without images.
    """
    classes = class_folders(image_root)
    total, samples, empty = Scan(), [], []
    for label, name in enumerate(classes):
        folder = os.path.join(image_root, name)
        found = scan(folder)
        samples += [Sample(path, label, folder) for path in found.images]
        empty += [] if found.images else [name]
        total += found
    if len(classes) != class_num:
        raise UserError(
            f"holds {counted(len(classes), 'class folder')}, but Arch.class_num is {class_num}; they are "
            f"{named([repr(name) for name in classes])}" + (f"; no image is in {named(empty)}" if empty else ""),
            code="data.class-count",
            where=image_root,
        )
    if empty:
        raise UserError(
            f"the folder of class {empty[0]!r} holds no image ({', '.join(IMAGE_SUFFIXES)}){total.left_out()}",
            code="data.no-images",
            where=os.path.join(image_root, empty[0]),
        )
    beside = [entry.name for entry in entries(image_root) if not entry.is_dir() and not is_junk(entry.name)]
    stray = f"; beside the class folders: {named(beside)}" if beside else ""
    numbers = f"{counted(len(samples), 'image')}, {counted(len(classes), 'class', 'classes')}"
    logger.info("%s: %s%s%s", image_root, numbers, total.left_out(), stray)
    return samples


def class_folders(image_root: str) -> list[str]:
    """Names of the class folders, in order.

    Raises:
        UserError: no such folder.
    """
    if not os.path.isdir(image_root):
        raise UserError(
            f"the data set is not there: no image folder {image_root} (looked in {os.getcwd()}); expected: one folder "
            f"per class, named after it, with its images inside; {BUILTIN_HINT}",
            code="data.missing-dataset",
        )
    return [entry.name for entry in entries(image_root) if entry.is_dir() and not is_junk(entry.name)]


def read_list(
    image_root: str, list_file: str, class_num: int, delimiter: str | None = None, relabel: bool = False
) -> list[Sample]:
    """The images of a list file, one ``path label`` per line. Every line is checked; empty lines are skipped.

    Args:
        image_root: folder that the paths are relative to.
        list_file: the list.
        class_num: labels must be in [0, class_num).
        delimiter: between path and label; a space unless given.
        relabel: number the labels that occur from 0, in ascending order.

    Raises:
        UserError: a missing file or folder, or a line that is wrong, by its number.
    """
    if not os.path.isfile(list_file) or not os.path.isdir(image_root):
        raise UserError(_missing_dataset(image_root, list_file), code="data.missing-dataset")
    numbered = [(number, line) for number, line in enumerate(_read_lines(list_file), 1) if line.strip()]
    entries = [_parse_line(line, number, list_file, delimiter or " ") for number, line in numbered]
    if not entries:
        raise UserError("holds no images", code="data.no-images", where=f"list file {list_file}")
    if relabel:
        ranks = {label: rank for rank, label in enumerate(sorted({label for _, label, _ in entries}))}
        entries = [(name, ranks[label], number) for name, label, number in entries]
    listings: dict[str, set[str]] = {}
    samples = []
    for name, label, number in entries:
        where = _line(list_file, number)
        if not 0 <= label < class_num:
            raise UserError(
                f"label {label} is outside 0 to {class_num - 1}; Arch.class_num is {class_num}",
                code="data.label-out-of-range",
                where=where,
            )
        path = os.path.join(image_root, name)
        if not _exists(path, listings):
            raise UserError(f"there is no image {path}", code="data.missing-image", where=where)
        samples.append(Sample(path, label, where))
    classes = len({sample.label for sample in samples})
    logger.info("%s: %s, %s", list_file, counted(len(samples), "image"), counted(classes, "class", "classes"))
    return samples


def _line(list_file: str, number: int) -> str:
    return f"{list_file}, line {number}"


def _read_lines(list_file: str) -> list[str]:
    try:
        return Path(list_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot be read ({error})", code="data.unreadable-list", where=f"list file {list_file}"
        ) from error


def _missing_dataset(image_root: str, list_file: str) -> str:
    missing = [f"list file {list_file}"] if not os.path.isfile(list_file) else []
    missing += [f"image folder {image_root}"] if not os.path.isdir(image_root) else []
    return (
        f"the data set is not there: no {' and no '.join(missing)} (looked in {os.getcwd()}); expected: a folder "
        f"of images, and a text file with one 'path label' per line, paths relative to that folder, labels from 0, "
        f"for example 'train/n01440764/n01440764_10026.JPEG 0'; set DataLoader.*.dataset.image_root and "
        f"cls_label_path, {BUILTIN_HINT}"
    )


def _parse_line(line: str, number: int, list_file: str, delimiter: str) -> tuple[str, int, int]:
    name, found, label = line.strip().rpartition(delimiter)
    if not found or not name.strip() or not re.fullmatch("-?[0-9]+", label.strip()):
        raise UserError(
            f"expected 'path{delimiter}label', got {line.strip()!r}",
            code="data.bad-line",
            where=_line(list_file, number),
        )
    return name.strip(), int(label), number


def _exists(path: str, listings: dict[str, set[str]]) -> bool:
    """Whether a file exists. Each folder is listed once, since a list may name a million files in few folders."""
    folder, name = os.path.split(path)
    if folder not in listings:
        try:
            listings[folder] = set(os.listdir(folder))
        except OSError:
            listings[folder] = set()
    return name in listings[folder]


def find_images(place: str | None, list_file: str | None = None) -> list[str]:
    """The images to predict: one file, a folder's images in order, or those that a text file lists.

    Args:
        place: an image; a folder, searched with its subfolders; or a ``.txt`` list of paths relative to its own
            folder. With ``list_file``, the folder that the paths of the list are relative to.
        list_file: one path per line; a space and a label behind the path are ignored.

    Raises:
        UserError: nothing there, or no image in it.
    """
    if list_file is None and place is not None and place.endswith(".txt"):
        list_file, place = place, os.path.dirname(place) or "."
    if list_file is not None:
        return _listed_images(place or os.path.dirname(list_file) or ".", list_file)
    if place is None:
        raise UserError("no images given: use -o Infer.infer_imgs=IMAGE, FOLDER or LIST.txt", code="data.missing-image")
    if os.path.isfile(place):
        return [place]
    if not os.path.isdir(place):
        raise UserError(
            f"there is no image, folder or list {place}", code="data.missing-image", where="Infer.infer_imgs"
        )
    found = scan(place)
    if not found.images:
        raise UserError(
            f"the folder {place} holds no image ({', '.join(IMAGE_SUFFIXES)}){found.left_out()}",
            code="data.no-images",
            where="Infer.infer_imgs",
        )
    logger.info("%s: %s%s", place, counted(len(found.images), "image"), found.left_out())
    return found.images


def _listed_images(root: str, list_file: str) -> list[str]:
    paths = []
    for number, line in enumerate(_read_lines(list_file), 1):
        if not line.strip():
            continue
        candidates = [line.strip(), line.strip().rpartition(" ")[0]]
        found = [os.path.join(root, name) for name in candidates if name and os.path.isfile(os.path.join(root, name))]
        if not found:
            raise UserError(
                f"there is no image {os.path.join(root, candidates[-1] or line.strip())}",
                code="data.missing-image",
                where=_line(list_file, number),
            )
        paths.append(found[0])
    if not paths:
        raise UserError("holds no images", code="data.no-images", where=f"list file {list_file}")
    return paths
