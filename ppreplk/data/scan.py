"""The images in a folder and its subfolders, and what else is there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..utils.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
JUNK_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
MAX_NAMED = 5  # in a message


@dataclass
class Scan:
    """What was found.

    Args:
        images: paths of the images, in order.
        junk: files and folders that programs leave beside images: hidden ones, and :data:`JUNK_FOLDERS`.
        others: {suffix: number of further files}.
    """

    images: list[str] = field(default_factory=list)
    junk: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def left_out(self) -> str:
        """What is no image, as the end of a line; empty if there is nothing."""
        parts = []
        if self.others:
            suffixes = named([f"{suffix or 'none'} {count}" for suffix, count in sorted(self.others.items())])
            parts.append(f"{counted(sum(self.others.values()), 'file')} with other suffixes ({suffixes})")
        if self.junk:
            parts.append(f"{self.junk} hidden or of the system")
        return f"; left out: {', '.join(parts)}" if parts else ""

    def __iadd__(self, other: Scan) -> Scan:
        self.images += other.images
        self.junk += other.junk
        self.others += other.others
        return self


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is no data: ``.ipynb_checkpoints``, ``._cat.jpg``, ``__MACOSX``."""
    return name.startswith(".") or name in JUNK_FOLDERS


def entries(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder, in the order of names.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"the folder cannot be read ({error.strerror or error})", code="data.unreadable-folder", where=folder
        ) from error


def scan(folder: str) -> Scan:
    """The images in ``folder`` and its subfolders, linked ones too. A folder that several links lead to counts once.

    Raises:
        UserError: a folder cannot be read.
    """
    result = Scan()
    names: list[tuple[str, list[str]]] = []
    folders, links = [folder], list[str]()
    seen = set()
    while folders or links:
        parent = folders.pop() if folders else links.pop(0)  # links last, so that folders keep their own paths
        real = os.path.realpath(parent)
        if real in seen:
            continue
        seen.add(real)
        names.append((parent, []))
        for entry in entries(parent):
            if is_junk(entry.name):
                result.junk += 1
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry.path)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                names[-1][1].append(entry.path)
            else:
                result.others[os.path.splitext(entry.name)[1].lower()] += 1
    result.images = [path for _, paths in sorted(names) for path in paths]
    return result


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun.

    >>> counted(1, "class", "classes"), counted(3, "image")
    ('1 class', '3 images')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def named(names: Sequence[str]) -> str:
    """The first few names.

    >>> named("abcdefgh")
    'a, b, c, d, e and 3 more'
    """
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
