"""Whether a file is the published one, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..models.registry import Recognised, recognise
from ..utils.digests import sha256_of
from ..utils.errors import Incomplete, UserError
from .convert import load_checkpoint
from .files import find_checkpoint
from .manifest import Published, find_published, published_files
from .weights_folder import expected_of


@dataclass(frozen=True)
class Verified:
    """A file that was read whole.

    Args:
        path: the file.
        size: in bytes.
        sha256: its hash.
        network: which one it holds.
        entry: the published file that it is taken for; None where nothing says which.
    """

    path: Path
    size: int
    sha256: str
    network: Recognised
    entry: Optional[Published]

    @property
    def compared(self) -> str:
        """What of its bytes could be compared, in words."""
        if self.entry is None:
            return "no published file has this name or this hash"
        expected = expected_of(self.entry)
        parts = [
            *(["size"] if expected.size is not None else []),
            *([f"SHA-256 (its first {len(expected.sha256)} digits)"] if expected.sha256 else []),
        ]
        return f"the same {' and '.join(parts)}" if parts else "neither size nor hash is published to compare with"

    def __str__(self) -> str:
        entry = self.entry
        taken = [f"published as: {entry.name}, {entry.results or 'without a result'}"] if entry else []
        page = [f"licence: {entry.licence} (of {entry.page})"] if entry else []
        return "\n".join(
            [
                f"file: {self.path}, {self.size} bytes",
                f"SHA-256: {self.sha256}",
                *taken,
                f"compared: {self.compared}",
                f"holds: {self.network}, {self.network.form} form",
                *page,
            ]
        )


def verify(path: str | Path, name: Optional[str] = None) -> Verified:
    """Compare a file with what is published of it, and read it.

    Args:
        path: the file; nothing in it is executed.
        name: of the published weights it should be; without it, the file's name or its hash says which.

    Raises:
        UserError: it cannot be read, or it is not what it should be.
        Incomplete: it can be read, and nothing says which published file it should be.
    """
    path = find_checkpoint(path)
    try:
        size, sha256 = path.stat().st_size, sha256_of(path)
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror or error})", code="checkpoints.not-readable", where=str(path)
        ) from error
    candidates = find_published(name) if name else _named_as(path) or _with_hash(sha256)
    entry = _likeliest(candidates, path.name, size, sha256)
    if entry is not None and (problem := expected_of(entry).problem(size, sha256)) is not None:
        raise UserError(
            f"not the file that is published as {entry.name}: it {problem}; download it again",
            code="checkpoints.wrong-file",
            where=str(path),
        )
    verified = Verified(path, size, sha256, recognise(load_checkpoint(path), str(path)), entry)
    if entry is None:
        found = verified.network
        raise Incomplete(
            f"reads as {found}, {found.form} form, SHA-256 {sha256}; {verified.compared}, so nothing is compared: "
            "say which it should be with --name",
            code="checkpoints.not-published",
            where=str(path),
        )
    _check_network(verified, entry)
    return verified


def _likeliest(candidates: list[Published], file: str, size: int, sha256: str) -> Optional[Published]:
    """Of files that a name stands for, the one that is called so; else the first that these bytes can be."""
    called_so = [each for each in candidates if each.file == file]
    possible = [each for each in candidates if expected_of(each).problem(size, sha256) is None]
    return next(iter([*called_so, *possible, *candidates]), None)


def _named_as(path: Path) -> list[Published]:
    return [each for each in published_files() if each.file == path.name]


def _with_hash(sha256: str) -> list[Published]:
    return [each for each in published_files() if each.sha256 and sha256.startswith(each.sha256)]


def _check_network(verified: Verified, entry: Published) -> None:
    network = verified.network
    classes = entry.classes if entry.task == "classification" else None
    if network.variant != entry.variant or (classes is not None and network.class_num != classes):
        wanted = f"{entry.variant}, {classes} classes" if classes else entry.variant
        raise UserError(
            f"holds {network}, where {entry.name} is {wanted}", code="checkpoints.wrong-file", where=str(verified.path)
        )
