"""Lines of the text files that people write: lists of images, and class names.

Every editor's file is read: with a byte order mark, with Windows line ends, with blank lines, in UTF-8 or UTF-16.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..utils.errors import UserError

UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
BLANKS = " \t"  # no other white space: U+0085, U+2028 and U+3000 may be part of a name


class Line(NamedTuple):
    """One line: its number from 1, and its text without blanks at both ends."""

    number: int
    text: str


def read_lines(path: str | Path, what: str, names_files: bool = False) -> list[Line]:
    """The lines of :func:`each_line`, all at once."""
    return list(each_line(path, what, names_files))


def each_line(path: str | Path, what: str, names_files: bool = False) -> Iterator[Line]:
    """The lines of a text file that are not empty, one after the other: a list may have millions.

    Args:
        path: the file.
        what: it is, for messages.
        names_files: bytes that are not UTF-8 stay in the names, as they do in the names of files.

    Raises:
        UserError: the file cannot be read, or its text cannot.
    """
    where = f"{what} {path}"
    try:
        data = Path(path).read_bytes()
        encoding = "utf-16" if data.startswith(UTF_16_MARKS) else "utf-8-sig"
        errors = "surrogateescape" if names_files and encoding == "utf-8-sig" else "strict"
        # io.TextIOWrapper ends lines as every system does: at \n, \r\n and \r
        for number, line in enumerate(io.TextIOWrapper(io.BytesIO(data), encoding, errors), 1):
            if text := line.rstrip("\n").strip(BLANKS):
                yield Line(number, text)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", code="data.unreadable-text", where=where) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot be read as text ({error}); save it as UTF-8", code="data.unreadable-text", where=where
        ) from error


def split_first(text: str, delimiter: str | None) -> tuple[str, str] | None:
    """What stands before the first delimiter, and what behind it; None without a delimiter or one of the two.

    Args:
        text: a line.
        delimiter: any number of blanks, unless it is given.

    >>> split_first("0  polar bear", None)
    ('0', 'polar bear')
    """
    if _is_blank(delimiter):
        return _parts(re.fullmatch(r"([^ \t]+)[ \t]+(.*)", text, re.DOTALL))
    return _parts(re.fullmatch(f"(.*?){re.escape(delimiter or '')}(.*)", text, re.DOTALL))


def split_last(text: str, delimiter: str | None) -> tuple[str, str] | None:
    """As :func:`split_first`, at the last delimiter.

    >>> split_last("a cat.png  1", None)
    ('a cat.png', '1')
    """
    if _is_blank(delimiter):
        return _parts(re.fullmatch(r"(.*)[ \t]+([^ \t]+)", text, re.DOTALL))
    return _parts(re.fullmatch(f"(.*){re.escape(delimiter or '')}(.*?)", text, re.DOTALL))


def _is_blank(delimiter: str | None) -> bool:
    return delimiter is None or not delimiter.strip(" ")


def _parts(found: re.Match[str] | None) -> tuple[str, str] | None:
    first, last = (part.strip(BLANKS) for part in found.groups()) if found else ("", "")
    return (first, last) if first and last else None


def spellings(name: str) -> Iterator[str]:
    """How a path in a list may be spelled on disk: as it is, with slashes, and with accents as other systems store
    them.

    >>> list(spellings("train\\\\0.png"))
    ['train\\\\0.png', 'train/0.png']
    """
    yield name
    forms = [name.replace("\\", "/")]
    forms += [unicodedata.normalize(form, each) for each in (name, forms[0]) for form in ("NFC", "NFD")]
    for form in dict.fromkeys(forms):
        if form != name:
            yield form


class Files:
    """Which files exist. Each folder is listed once, since a list may name a million files in few folders."""

    def __init__(self, root: str):
        self.root = root
        self.listings: dict[str, set[str]] = {}

    def find(self, name: str) -> str | None:
        """The path of a file that a list names relative to ``root``; None if there is none."""
        for spelling in spellings(name):
            path = os.path.join(self.root, spelling)
            if self._exists(path):
                return path
        return None

    def _exists(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self.listings:
            try:
                self.listings[folder] = set(os.listdir(folder or "."))
            except (OSError, ValueError):
                self.listings[folder] = set()
        return name in self.listings[folder]
