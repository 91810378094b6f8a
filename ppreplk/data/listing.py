"""Which images there are: list files, class folders, and what to predict."""

from __future__ import annotations

import logging
import os
import re
from typing import NamedTuple

from ..utils.errors import UserError
from .lines import Files, Line, read_lines, split_last
from .scan import IMAGE_SUFFIXES, Scan, counted, entries, is_junk, named, scan

logger = logging.getLogger(__name__)

BUILTIN_HINT = "or run configs/digits.yaml, which brings its own images"


class Sample(NamedTuple):
    """One labelled image. ``origin`` is the list file's line, or the folder, that names it."""

    path: str
    label: int
    origin: str


class Listing(NamedTuple):
    """Labelled images, and the classes in the order of their numbers; None where a list has the numbers themselves."""

    samples: list[Sample]
    classes: list[str] | None


def read_folders(image_root: str, class_num: int) -> list[Sample]:
    """The images of :func:`read_folder_listing`, without the names of their classes."""
    return read_folder_listing(image_root, class_num).samples


def read_folder_listing(image_root: str, class_num: int) -> Listing:
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
    return Listing(samples, classes)


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
    """The images of :func:`read_listing`, without the names of their classes."""
    return read_listing(image_root, list_file, class_num, delimiter, relabel).samples


def read_listing(
    image_root: str, list_file: str, class_num: int, delimiter: str | None = None, relabel: bool = False
) -> Listing:
    """The images of a list file, one ``path label`` per line. Every line is checked; empty lines are skipped.

    Args:
        image_root: folder that the paths are relative to.
        list_file: the list.
        class_num: labels must be in [0, class_num).
        delimiter: between path and label; spaces and tabs unless given.
        relabel: number the labels that occur from 0, in ascending order.

    Raises:
        UserError: a missing file or folder, or a line that is wrong, by its number.
    """
    if not os.path.isfile(list_file) or not os.path.isdir(image_root):
        raise UserError(_missing_dataset(image_root, list_file), code="data.missing-dataset")
    lines = read_lines(list_file, "list file", names_files=True)
    entries = [_parse_line(line, list_file, delimiter) for line in lines]
    if not entries:
        raise UserError("holds no images", code="data.no-images", where=f"list file {list_file}")
    classes = None
    if relabel:
        labels = sorted({label for _, label, _ in entries})
        ranks = {label: rank for rank, label in enumerate(labels)}
        entries = [(name, ranks[label], number) for name, label, number in entries]
        if labels != list(range(len(labels))):
            classes = [str(label) for label in labels]
    files = Files(image_root)
    samples = []
    for name, label, number in entries:
        where = _line(list_file, number)
        if not 0 <= label < class_num:
            raise UserError(
                f"label {label} is outside 0 to {class_num - 1}; Arch.class_num is {class_num}",
                code="data.label-out-of-range",
                where=where,
            )
        path = files.find(name)
        if path is None:
            raise _missing_image(os.path.join(image_root, name), where)
        samples.append(Sample(path, label, where))
    number_of_classes = counted(len({sample.label for sample in samples}), "class", "classes")
    logger.info("%s: %s, %s", list_file, counted(len(samples), "image"), number_of_classes)
    return Listing(samples, classes)


def _line(list_file: str, number: int) -> str:
    return f"{list_file}, line {number}"


def _missing_image(path: str, where: str) -> UserError:
    advice = ""
    if "\\" in path:
        advice = "; on this system '/' separates folders, also where '\\' is replaced by it there is no such file"
    elif not path.isprintable() and any("\udc80" <= character <= "\udcff" for character in path):
        advice = "; the line is not UTF-8: save the list as UTF-8"
    return UserError(f"there is no image {path}{advice}", code="data.missing-image", where=where)


def _missing_dataset(image_root: str, list_file: str) -> str:
    missing = [f"list file {list_file}"] if not os.path.isfile(list_file) else []
    missing += [f"image folder {image_root}"] if not os.path.isdir(image_root) else []
    return (
        f"the data set is not there: no {' and no '.join(missing)} (looked in {os.getcwd()}); expected: a folder "
        f"of images, and a text file with one 'path label' per line, paths relative to that folder, labels from 0, "
        f"for example 'train/n01440764/n01440764_10026.JPEG 0'; set DataLoader.*.dataset.image_root and "
        f"cls_label_path, {BUILTIN_HINT}"
    )


def _parse_line(line: Line, list_file: str, delimiter: str | None) -> tuple[str, int, int]:
    parts = split_last(line.text, delimiter)
    if parts is None or not re.fullmatch("-?[0-9]+", parts[1]):
        key = "the key delimiter of the data set says what stands between them, a blank unless given"
        raise UserError(
            f"expected 'path{delimiter or ' '}label', got {line.text!r}; {key}",
            code="data.bad-line",
            where=_line(list_file, line.number),
        )
    return parts[0], int(parts[1]), line.number


def find_images(place: str | None, list_file: str | None = None, where: str = "Infer.infer_imgs") -> list[str]:
    """The images to predict: one file, a folder's images in order, or those that a text file lists.

    Args:
        place: an image; a folder, searched with its subfolders; or a ``.txt`` list of paths relative to its own
            folder. With ``list_file``, the folder that the paths of the list are relative to.
        list_file: one path per line. A label behind the path is ignored, after blanks or one of ``,;|``.
        where: what names the place, for messages.

    Raises:
        UserError: nothing there, or no image in it.
    """
    if list_file is None and place is not None and place.lower().endswith(".txt"):
        list_file, place = place, os.path.dirname(place) or "."
    if list_file is not None:
        return _listed_images(place or os.path.dirname(list_file) or ".", list_file)
    if place is None:
        raise UserError("no images given: use -o Infer.infer_imgs=IMAGE, FOLDER or LIST.txt", code="data.missing-image")
    if os.path.isfile(place):
        return [place]
    if not os.path.isdir(place):
        raise UserError(f"there is no image, folder or list {place}", code="data.missing-image", where=where)
    found = scan(place)
    if not found.images:
        raise UserError(
            f"the folder {place} holds no image ({', '.join(IMAGE_SUFFIXES)}){found.left_out()}",
            code="data.no-images",
            where=where,
        )
    logger.info("%s: %s%s", place, counted(len(found.images), "image"), found.left_out())
    return found.images


def _listed_images(root: str, list_file: str) -> list[str]:
    files, paths = Files(root), []
    for number, text in read_lines(list_file, "list file", names_files=True):
        names = [text, *(parts[0] for mark in (None, ",", ";", "|") if (parts := split_last(text, mark)))]
        found = next(filter(None, map(files.find, names)), None)
        if found is None:
            raise _missing_image(os.path.join(root, names[min(1, len(names) - 1)]), _line(list_file, number))
        paths.append(found)
    if not paths:
        raise UserError("holds no images", code="data.no-images", where=f"list file {list_file}")
    return paths
