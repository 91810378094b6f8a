"""Which images there are: list files, class folders, and what to predict."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from ..utils.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")


class Sample(NamedTuple):
    """One labelled image; ``origin`` says where it was named."""

    path: str
    label: int
    origin: str


def read_folders(image_root: str, class_num: int) -> list[Sample]:
    """The images of :class:`ImageFolderDataset`, in the order of their paths."""
    if not os.path.isdir(image_root):
        raise UserError(
            f"the data set is not there: no image folder {image_root} (looked in {os.getcwd()}); expected: one folder "
            "per class, named after it, with its images inside; or run configs/digits.yaml, which brings its own images"
        )
    classes = sorted(entry.name for entry in os.scandir(image_root) if entry.is_dir() and entry.name[0] != ".")
    if len(classes) != class_num:
        raise UserError(f"{image_root}: holds {len(classes)} class folders, but Arch.class_num is {class_num}")
    samples = []
    for label, name in enumerate(classes):
        folder = os.path.join(image_root, name)
        paths = images_below(folder)
        if not paths:
            raise UserError(f"{folder}: the folder of class {name!r} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        samples += [Sample(path, label, folder) for path in paths]
    return samples


def images_below(folder: str) -> list[str]:
    """The image files in ``folder`` and its subfolders, in order."""
    return [
        os.path.join(parent, name)
        for parent, _, names in sorted(os.walk(folder))
        for name in sorted(names)
        if name.lower().endswith(IMAGE_SUFFIXES)
    ]


def read_list(
    image_root: str, list_file: str, class_num: int, delimiter: str | None = None, relabel: bool = False
) -> list[Sample]:
    """Parse and check a list file; empty lines are skipped.

    Raises:
        UserError: see :class:`ImageNetDataset`.
    """
    if not os.path.isfile(list_file) or not os.path.isdir(image_root):
        raise UserError(_missing_dataset(image_root, list_file))
    numbered = [(number, line) for number, line in enumerate(_read_lines(list_file), 1) if line.strip()]
    entries = [_parse_line(line, number, list_file, delimiter or " ") for number, line in numbered]
    if not entries:
        raise UserError(f"list file {list_file}: holds no images")
    if relabel:
        ranks = {label: rank for rank, label in enumerate(sorted({label for _, label, _ in entries}))}
        entries = [(name, ranks[label], number) for name, label, number in entries]
    folders: dict[str, set[str]] = {}
    samples = []
    for name, label, number in entries:
        if not 0 <= label < class_num:
            raise UserError(
                f"{list_file}, line {number}: label {label} is outside 0 to {class_num - 1}; "
                f"Arch.class_num is {class_num}"
            )
        path = os.path.join(image_root, name)
        if not _exists(path, folders):
            raise UserError(f"{list_file}, line {number}: there is no image {path}")
        samples.append(Sample(path, label, f"{list_file}, line {number}"))
    return samples


def _read_lines(list_file: str) -> list[str]:
    try:
        return Path(list_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"list file {list_file}: cannot be read ({error})") from error


def _missing_dataset(image_root: str, list_file: str) -> str:
    missing = [f"list file {list_file}"] if not os.path.isfile(list_file) else []
    missing += [f"image folder {image_root}"] if not os.path.isdir(image_root) else []
    return (
        f"the data set is not there: no {' and no '.join(missing)} (looked in {os.getcwd()}); expected: a folder "
        f"of images, and a text file with one 'path label' per line, paths relative to that folder, labels from 0, "
        f"for example 'train/n01440764/n01440764_10026.JPEG 0'; set DataLoader.*.dataset.image_root and "
        f"cls_label_path, or run configs/digits.yaml, which brings its own images"
    )


def _parse_line(line: str, number: int, list_file: str, delimiter: str) -> tuple[str, int, int]:
    name, found, label = line.strip().rpartition(delimiter)
    if not found or not name.strip() or not re.fullmatch("-?[0-9]+", label.strip()):
        raise UserError(f"{list_file}, line {number}: expected 'path{delimiter}label', got {line.strip()!r}")
    return name.strip(), int(label), number


def _exists(path: str, folders: dict[str, set[str]]) -> bool:
    """Whether a file exists, listing each folder once: a list names over a million files in few folders."""
    folder, name = os.path.split(path)
    if folder not in folders:
        try:
            folders[folder] = set(os.listdir(folder))
        except OSError:
            folders[folder] = set()
    return name in folders[folder]


def find_images(place: str | None, list_file: str | None = None) -> list[str]:
    """The images to predict: one file, a folder's images in order, or those a text file lists.

    Args:
        place: an image, a folder (searched with its subfolders), or a ``.txt`` list of paths relative to its own
            folder; with ``list_file``, the folder that list's paths are relative to.
        list_file: one path per line; anything behind a space and a label is ignored.

    Raises:
        UserError: nothing there, or no image in it.
    """
    if list_file is None and place is not None and place.endswith(".txt"):
        list_file, place = place, os.path.dirname(place) or "."
    if list_file is not None:
        return _listed_images(place or os.path.dirname(list_file) or ".", list_file)
    if place is None:
        raise UserError("no images given: use -o Infer.infer_imgs=IMAGE, FOLDER or LIST.txt")
    if os.path.isfile(place):
        return [place]
    if not os.path.isdir(place):
        raise UserError(f"Infer.infer_imgs: there is no image, folder or list {place}")
    found = images_below(place)
    if not found:
        raise UserError(f"Infer.infer_imgs: the folder {place} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return found


def _listed_images(root: str, list_file: str) -> list[str]:
    paths = []
    for number, line in enumerate(_read_lines(list_file), 1):
        if not line.strip():
            continue
        candidates = [line.strip(), line.strip().rpartition(" ")[0]]
        found = [os.path.join(root, name) for name in candidates if name and os.path.isfile(os.path.join(root, name))]
        if not found:
            raise UserError(
                f"{list_file}, line {number}: there is no image {os.path.join(root, candidates[-1] or line.strip())}"
            )
        paths.append(found[0])
    if not paths:
        raise UserError(f"list file {list_file}: holds no images")
    return paths
