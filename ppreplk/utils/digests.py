"""Digests of files, by which a file is known again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

PIECE = 1 << 20  # bytes read at once


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits: what others publish."""
    return _digest(path, hashlib.sha256())


def blake2b_of(path: str | Path) -> str:
    """A BLAKE2b of 16 bytes, in hexadecimal digits: faster, for files of our own."""
    return _digest(path, hashlib.blake2b(digest_size=16))


def _digest(path: str | Path, digest: Any) -> str:
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()
