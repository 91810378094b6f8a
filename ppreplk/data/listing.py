"""Which images there are: list files, class folders, and what to predict."""

from __future__ import annotations

import logging
import os
import re
from array import array
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..utils.errors import UserError
from .lines import Files, Line, each_line, read_lines, split_last
from .samples import Sample, Samples, Texts
from .scan import IMAGE_SUFFIXES, Scan, counted, entries, is_junk, named, scan

logger = logging.getLogger(__name__)

BUILTIN_HINT = "or run configs/digits.yaml, which brings its own images"


class Listing(NamedTuple):
    """Labelled images, and the classes in the order of their numbers; None where a list has the numbers themselves."""

    samples: Samples
    classes: list[str] | None


Report = Callable[[UserError], None]


def stop_at(error: UserError) -> None:
    """What is done with a mistake in the data, unless something else is asked for: stop at the first one."""
    raise error


def read_folders(image_root: str, class_num: int) -> list[Sample]:
    """The images of :func:`read_folder_listing`, without the names of their classes."""
    return list(read_folder_listing(image_root, class_num).samples)


def read_folder_listing(image_root: str, class_num: int, report: Report = stop_at) -> Listing:
    """The images of one folder per class, ``image_root/CLASS/...``, in the order of their paths.

    Classes are numbered in the order of their names. A log line counts images, classes and what is left out.

    Args:
        image_root: folder of the class folders.
        class_num: there must be this many.
        report: is given another number of classes and every class without images; where it returns, reading goes on.

    Raises:
        UserError: no such folder; and what ``report`` raises.
    """
    classes = class_folders(image_root)
    folders = [os.path.join(image_root, name) for name in classes]
    total, empty = Scan(), []
    samples = Samples(origin=folders.__getitem__)
    for label, name in enumerate(classes):
        found = scan(folders[label])
        for path in found.images:
            samples.append(path, label, label)
        empty += [] if found.images else [name]
        found.images.clear()  # they are kept in less memory now
        total += found
    if len(classes) != class_num:
        report(
            UserError(
                f"holds {counted(len(classes), 'class folder')}, but Arch.class_num is {class_num}; they are "
                f"{named([repr(name) for name in classes])}" + (f"; no image is in {named(empty)}" if empty else ""),
                code="data.class-count",
                where=image_root,
            )
        )
    for name in empty:
        report(
            UserError(
                f"the folder of class {name!r} holds no image ({', '.join(IMAGE_SUFFIXES)}){total.left_out()}",
                code="data.no-images",
                where=os.path.join(image_root, name),
            )
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
    return list(read_listing(image_root, list_file, class_num, delimiter, relabel).samples)


def read_listing(
    image_root: str,
    list_file: str,
    class_num: int,
    delimiter: str | None = None,
    relabel: bool = False,
    report: Report = stop_at,
) -> Listing:
    """The images of a list file, one ``path label`` per line. Every line is checked; empty lines are skipped.

    Args:
        image_root: folder that the paths are relative to.
        list_file: the list.
        class_num: labels must be in [0, class_num).
        delimiter: between path and label; spaces and tabs unless given.
        relabel: number the labels that occur from 0, in ascending order.
        report: is given every line that is wrong, by its number; where it returns, reading goes on with the next one.

    Raises:
        UserError: a missing file or folder, or an empty list; and what ``report`` raises.
    """
    if not os.path.isfile(list_file) or not os.path.isdir(image_root):
        raise UserError(_missing_dataset(image_root, list_file), code="data.missing-dataset")
    names, labels, numbers = Texts(), array("q"), array("q")
    is_empty = True
    for line in each_line(list_file, "list file", names_files=True):
        is_empty = False
        try:
            name, label = _parse_line(line, list_file, delimiter)
        except UserError as error:
            report(error)
            continue
        names.append(name)
        labels.append(label)
        numbers.append(line.number)
    if is_empty:
        raise UserError("holds no images", code="data.no-images", where=f"list file {list_file}")
    classes = _relabel(labels) if relabel else None
    files = Files(image_root)
    samples = Samples(origin=lambda number: _line(list_file, number))
    for index, number in enumerate(numbers):
        label = labels[index]
        if not 0 <= label < class_num:
            message = f"label {label} is outside 0 to {class_num - 1}; Arch.class_num is {class_num}"
            report(UserError(message, code="data.label-out-of-range", where=_line(list_file, number)))
            continue
        path = files.find(names[index])
        if path is None:
            report(_missing_image(os.path.join(image_root, names[index]), _line(list_file, number)))
            continue
        samples.append(path, label, number)
    number_of_classes = counted(len(np.unique(samples.labels)), "class", "classes")
    logger.info("%s: %s, %s", list_file, counted(len(samples), "image"), number_of_classes)
    return Listing(samples, classes)


def _relabel(labels: array) -> list[str] | None:
    """Number labels from 0 in ascending order, in place; what they were, where that differs."""
    found, ranks = np.unique(np.array(labels), return_inverse=True)
    labels[:] = array("q", ranks.astype(np.int64).tobytes())
    return None if (found == np.arange(len(found))).all() else [str(label) for label in found]


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


def _parse_line(line: Line, list_file: str, delimiter: str | None) -> tuple[str, int]:
    parts = split_last(line.text, delimiter)
    if parts is None or not re.fullmatch("-?[0-9]{1,18}", parts[1]):
        key = "the key delimiter of the data set says what stands between them, a blank unless given"
        raise UserError(
            f"expected 'path{delimiter or ' '}label', got {line.text!r}; {key}",
            code="data.bad-line",
            where=_line(list_file, line.number),
        )
    return parts[0], int(parts[1])


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
