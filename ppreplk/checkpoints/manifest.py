"""Every published file of weights: what it is, where it is, and what is said of it (``published.json``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any, Optional
from urllib.parse import urlsplit

from ..utils.errors import UserError, nearest

MANIFEST = "published.json"
UNKNOWN = ("checkpoints.unknown-weights", "checkpoints.none-published")  # codes of errors about a name
TASKS = ("classification", "segmentation", "detection")


@dataclass(frozen=True)
class Published:
    """One published file. What its page does not say is None or empty.

    Args:
        name: of the entry, ``VARIANT-WEIGHTS-SOURCE`` in small letters.
        variant: the network, or the backbone, by its name in the registry.
        weights: what it was trained on, and at which side in pixels, for example ``imagenet1k-224``.
        source: who publishes it.
        task: one of ``TASKS``.
        licence: of the repository that publishes it.
        page: where the file and its accuracy stand.
        file: its name.
        address: where it can be downloaded from directly.
        net_disks: {name: address} of disks that a person downloads it from in a browser.
        size: in bytes.
        sha256: the hash in hexadecimal digits, or its beginning.
        classes: of the head.
        preprocessing: ``mean`` and ``std`` of pixels between 0 and 1, and ``size``, the side in pixels.
        published: {metric: value in percent}.
        note: what else there is to know.
    """

    name: str
    variant: str
    weights: str
    source: str
    task: str
    licence: str
    page: str
    file: Optional[str] = None
    address: Optional[str] = None
    net_disks: Mapping[str, str] = field(default_factory=dict)
    size: Optional[int] = None
    sha256: Optional[str] = None
    classes: Optional[int] = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    note: Optional[str] = None

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return urlsplit(self.address).netloc if self.address else " or ".join(self.net_disks)

    @property
    def results(self) -> str:
        """What was published of it, in words."""
        return ", ".join(f"{metric} {value}" for metric, value in self.published.items())

    def names(self, variant: Optional[str] = None) -> set[str]:
        """What it can be asked for by, in small letters; for a known network also without the network's name."""
        full = {self.name, self.name.removesuffix(f"-{self.source}")}
        if variant == self.variant:
            full |= {name.removeprefix(f"{variant.lower()}-") for name in full}
        return full | ({self.file.lower()} if self.file else set())


@lru_cache(maxsize=1)
def published_files() -> tuple[Published, ...]:
    """All entries. Of files with the same weights, the preferred one is first.

    >>> len({each.name for each in published_files()}) == len(published_files())
    True
    """
    text = resources.files(__package__).joinpath(MANIFEST).read_text(encoding="utf-8")
    return tuple(Published(**entry) for entry in json.loads(text)["files"])


def find_published(name: str, variant: Optional[str] = None) -> list[Published]:
    """The files that a name stands for, the preferred one first.

    Args:
        name: of an entry, with or without its source, or of its file. Capitals do not matter.
        variant: the network that is wanted. Only files for it are found then, and its name may be left out.

    Raises:
        UserError: there is none; the nearest names are listed.

    >>> [each.source for each in find_published("imagenet1k-224", "RepLKNet31B")]
    ['mmpretrain', 'official', 'megengine', 'paddlevit']
    """
    entries = [each for each in published_files() if variant in (None, each.variant)]
    found = [each for each in entries if name.lower() in each.names(variant)]
    if found:
        return found
    if not entries:
        raise UserError(f"no published weights of {variant} are known here", code=UNKNOWN[1])
    known = sorted({each.weights if variant else each.name.removesuffix(f"-{each.source}") for each in entries})
    subject = f" of {variant}" if variant else ""
    raise UserError(f"no published weights{subject} are called {name!r}{nearest(name, known)}", code=UNKNOWN[0])


def default_weights(variant: str) -> str:
    """The weights that ``pretrained=True`` means: of the variant's classifiers of ImageNet-1K, the first one listed.

    Raises:
        UserError: none are published.

    >>> default_weights("RepLKNet31L")
    'imagenet22k-1k-384'
    """
    for each in published_files():
        if each.variant == variant and each.task == "classification" and each.classes == 1000:
            return each.weights
    known = sorted({each.variant for each in published_files()})
    raise UserError(
        f"no published weights of {variant} are known here, only of {', '.join(known)}; name a file in their place",
        code=UNKNOWN[1],
    )
