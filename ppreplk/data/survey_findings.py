"""What a check of the data finds: every mistake counted, by its kind, and the first of each kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ..utils.errors import UserError

STOPS, DISTORTS, NOTE = "stops", "distorts", "note"
SEVERITIES = {
    STOPS: "stops a training",
    DISTORTS: "distorts a training or its numbers",
    NOTE: "good to know",
}
MAX_KEPT = 10_000  # of one kind, with their text: a wrong folder makes a million of them

# {code: (how bad it is, what it is)}; the codes that end a training have the words of its errors
KINDS: dict[str, tuple[str, str]] = {
    "data.bad-line": (STOPS, "lines that are not 'path label'"),
    "data.label-out-of-range": (STOPS, "labels outside the classes"),
    "data.missing-image": (STOPS, "images that are not there"),
    "data.class-count": (STOPS, "another number of classes"),
    "data.no-images": (STOPS, "classes without images"),
    "data.other-classes": (STOPS, "classes that differ between the sets"),
    "data.unreadable-image": (STOPS, "images that cannot be read"),
    "data.too-many-pixels": (STOPS, "images with too many pixels"),
    "data.unknown-range": (STOPS, "images whose white is not known"),
    "data.bad-array": (STOPS, "arrays that are no image"),
    "data.other-channels": (STOPS, "images of another number of channels"),
    "data.thin-image": (STOPS, "images too thin to be resized"),
    "data.crop-too-large": (STOPS, "images smaller than their crop"),
    "data.in-both-sets": (DISTORTS, "pictures that are trained on and evaluated on"),
    "data.contradiction": (DISTORTS, "pictures with several labels"),
    "data.class-not-trained": (DISTORTS, "classes without an image to train on"),
    "data.class-not-evaluated": (NOTE, "classes without an image to evaluate on"),
    "data.copies": (NOTE, "pictures that are in a set more than once"),
    "data.imbalance": (NOTE, "classes of very different sizes"),
    "data.odd-size": (NOTE, "images much smaller or larger than the others"),
    "data.odd-shape": (NOTE, "images much longer than wide, or wider than long"),
    "data.odd-mode": (NOTE, "images in another mode than nearly all"),
    "data.odd-suffix": (NOTE, "images in another format than their names say"),
}


class Finding(NamedTuple):
    """One mistake: a line that names it, and the paths of images to show with it."""

    text: str
    images: Sequence[str] = ()


class Findings:
    """Counts of all findings by code, and the first :data:`MAX_KEPT` of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.kept: dict[str, list[Finding]] = {}

    def add(self, code: str, text: str, images: Sequence[str] = ()) -> None:
        """Count a finding; keep it if there are not too many of its kind."""
        self.counts[code] += 1
        kept = self.kept.setdefault(code, [])
        if len(kept) < MAX_KEPT:
            kept.append(Finding(text, images))

    def add_error(self, error: UserError) -> None:
        """Count what would end a training."""
        self.add(error.code, str(error))

    def of(self, severity: str) -> list[str]:
        """The codes that were found of a severity, in the order of :data:`KINDS`."""
        codes = [*KINDS, *(code for code in self.counts if code not in KINDS)]
        return [code for code in codes if self.counts[code] and kind_of(code)[0] == severity]

    def total(self, severity: str) -> int:
        """How many findings of a severity there are."""
        return sum(self.counts[code] for code in self.of(severity))


def kind_of(code: str) -> tuple[str, str]:
    """Severity and title; what is not in :data:`KINDS` is an error of a training's."""
    return KINDS.get(code, (STOPS, code))
