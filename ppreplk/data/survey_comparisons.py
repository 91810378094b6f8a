"""What images of a data set show side by side: copies, classes, and images unlike the others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from .classes import Classes
from .datasets import ImageDataset
from .scan import counted, named
from .survey_findings import Findings

IMBALANCE = 10  # times as many images
ODD_SIDE = 4  # times as long or as short as the median
ODD_RATIO = 4  # of the longer to the shorter side
ODD_SHARE = 0.05  # of the images; a mode that is more frequent is no exception
SHOWN = 4  # pictures of a group
FORMATS = {
    ".jpg": ("JPEG", "MPO"),
    ".jpeg": ("JPEG", "MPO"),
    ".png": ("PNG",),
    ".bmp": ("BMP", "DIB"),
    ".webp": ("WEBP",),
    ".gif": ("GIF",),
    ".tif": ("TIFF",),
    ".tiff": ("TIFF",),
}  # what Pillow calls the formats of a suffix


class Part:
    """One set of a training, ``Train`` or ``Eval``.

    Args:
        name: the set.
        images: what it lists.
        class_num: number of classes.
        records: (N,) of :data:`~ppreplk.data.survey_images.RECORD`, once the images have been examined.
    """

    def __init__(self, name: str, images: ImageDataset, records: np.ndarray, class_num: int):
        self.name = name
        self.images = images
        self.records = records
        self.labels = images.samples.labels
        self.counts = images.class_counts(class_num).numbers
        self.usable = records[records["usable"]]

    def path(self, number: int) -> str:
        return self.images.samples.path(int(number))

    def described(self, number: int) -> str:
        """An image with the place that names it."""
        sample = self.images.samples[int(number)]
        return f"{sample.origin}: {sample.path}"


def class_name(label: int, classes: Classes | None) -> str:
    """A class by its number, and its name where it has one.

    >>> class_name(1, ["ant", "bee"]), class_name(1, None)
    ('1 (bee)', '1')
    """
    return f"{label} ({classes[label]})" if classes is not None and label < len(classes) else str(label)


def compare_classes(parts: Sequence[Part], findings: Findings) -> None:
    """Find classes without images, and classes much larger than others."""
    for part in parts:
        classes = part.images.classes
        code = "data.class-not-trained" if part.name == "Train" else "data.class-not-evaluated"
        for label in np.flatnonzero(part.counts == 0):
            # a folder with too many classes has more counts than the others
            others = [f"{each.counts[label]} in {each.name}" for each in parts if each.counts[label : label + 1].any()]
            hint = f", but {', '.join(others)}" if others else ""
            findings.add(code, f"{part.name}: class {class_name(label, classes)} has no image{hint}")
        if imbalance(part.counts) >= IMBALANCE:
            least, most = _extremes(part.counts)
            findings.add(
                "data.imbalance",
                f"{part.name}: class {class_name(most, classes)} has {counted(part.counts[most], 'image')}, class "
                f"{class_name(least, classes)} {part.counts[least]}",
            )


def imbalance(counts: np.ndarray) -> float:
    """How many times as many images the largest class has as the smallest that has some.

    >>> imbalance(np.array([30, 0, 3]))
    10.0
    """
    return float(counts.max() / counts[counts > 0].min()) if counts.any() else 1.0


def _extremes(counts: np.ndarray) -> tuple[int, int]:
    return int(np.where(counts > 0, counts, counts.max() + 1).argmin()), int(counts.argmax())


def compare_pictures(parts: Sequence[Part], findings: Findings) -> None:
    """Find pictures that are there more than once: in both sets, under several labels, in one set."""
    records = np.concatenate([part.records for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    starts = np.cumsum([0, *(len(part.records) for part in parts)])
    for group in copies(records):
        places = np.searchsorted(starts, group, side="right") - 1
        codes = ["data.in-both-sets"] if len(set(places)) > 1 else []
        codes += ["data.contradiction"] if len(set(labels[group])) > 1 else []
        first = [(parts[place], number - starts[place]) for number, place in _one_of_each(group, places, labels)]
        texts = [
            f"{part.described(number)}, class {class_name(int(part.labels[number]), part.images.classes)}"
            for part, number in first
        ]
        more = f" and {len(group) - len(texts)} more" if len(group) > len(texts) else ""
        for code in codes or ["data.copies"]:
            text = f"{counted(len(group), 'image')} show the same: {'; '.join(texts)}{more}"
            findings.add(code, text, [part.path(number) for part, number in first])


def copies(records: np.ndarray) -> Iterator[np.ndarray]:
    """Groups of images that show the same, as numbers in ascending order, and so are the first ones of the groups.

    Files of the same bytes do, and so do files whose decoded pixels are the same.
    """
    usable = np.flatnonzero(records["usable"])
    _, first, same_file = np.unique(records["file_digest"][usable], return_index=True, return_inverse=True)
    pictures = records["digest"][usable][first[same_file]]  # sets may decode with different programs
    order = np.argsort(pictures, kind="stable")
    starts = np.flatnonzero(np.diff(pictures[order], prepend=pictures[order][:1] + np.uint64(1)))
    lengths = np.diff(starts, append=len(order))
    starts, lengths = starts[lengths > 1], lengths[lengths > 1]
    for place in np.argsort(order[starts]):
        yield usable[order[starts[place] : starts[place] + lengths[place]]]


def _one_of_each(group: np.ndarray, places: np.ndarray, labels: np.ndarray) -> list[tuple[int, int]]:
    """A few of a group, (number, set) each, those of different sets and labels first."""
    pairs = list(zip(group.tolist(), places.tolist()))
    firsts = {(place, int(labels[number])): (number, place) for number, place in reversed(pairs)}
    kept = sorted(firsts.values())[:SHOWN]
    return kept + [pair for pair in pairs[:SHOWN] if pair not in kept][: SHOWN - len(kept)]


def compare_forms(part: Part, findings: Findings) -> None:
    """Find images of another size, shape, mode or format than one expects."""
    records = part.records
    if not len(part.usable):
        return
    longer, shorter = (choose(records["width"], records["height"]).astype(float) for choose in (np.maximum, np.minimum))
    side = np.sqrt(longer * shorter)
    median = np.median(side[records["usable"]])
    odd = (side > ODD_SIDE * median) | (side * ODD_SIDE < median)
    _add_forms("data.odd-size", part, odd, findings, f"; half of the images are smaller than {median:.0f} squared")
    _add_forms("data.odd-shape", part, longer > ODD_RATIO * shorter, findings)
    modes, counts = np.unique(records["mode"][records["usable"]], return_counts=True)
    rare = modes[counts < ODD_SHARE * counts.sum()]
    usual = f"; most are {modes[counts.argmax()].decode()}"
    _add_forms("data.odd-mode", part, np.isin(records["mode"], rare), findings, usual)
    for number in np.flatnonzero(records["usable"] & (records["format"] != b"")):
        name, path = records["format"][number].decode(), part.path(number)
        suffix = os.path.splitext(path)[1].lower()
        if suffix in FORMATS and name not in FORMATS[suffix]:
            findings.add("data.odd-suffix", f"{part.described(number)} is a {name} file", [path])


def _add_forms(code: str, part: Part, odd: np.ndarray, findings: Findings, end: str = "") -> None:
    for number in np.flatnonzero(odd & part.records["usable"]):
        record = part.records[number]
        size = f"{record['width']}x{record['height']}"
        text = f"{part.described(number)}, {size} {record['mode'].decode()}{end}"
        findings.add(code, text, [part.path(number)])


def list_of_classes(counts: np.ndarray, classes: Classes | None) -> str:
    """The first few classes without images."""
    return named([class_name(label, classes) for label in np.flatnonzero(counts == 0)])
