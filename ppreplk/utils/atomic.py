"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UserError


def partial_path(path: Path) -> Path:
    """Where the content of ``path`` is written before it takes its place."""
    return path.with_name(path.name + ".partial")


@contextmanager
def replacing(*paths: Path) -> Iterator[list[Path]]:
    """Yield a partial path for each path; when the block succeeds they replace the paths, in order.

    Nothing is replaced before everything is written, and nothing partial stays behind.

    Raises:
        UserError: the files cannot be written.
    """
    partials = [partial_path(path) for path in paths]
    try:
        yield partials
        for partial, path in zip(partials, paths):
            os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {paths[0]} ({error.strerror or error})") from error
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)


def make_folder(folder: Path, setting: str | None = None) -> None:
    """Create a folder and those it lies in, unless they exist.

    Args:
        setting: where the user named it, for the message.

    Raises:
        UserError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        where = "" if setting is None else f"{setting}: "
        raise UserError(f"{where}cannot create {folder} ({error.strerror or error})") from error


@contextmanager
def creating(folder: Path, setting: str | None = None) -> Iterator[None]:
    """:func:`make_folder` before the work that fills it; where the block fails, what is empty of it goes again.

    Raises:
        UserError: it cannot be created.
    """
    missing = [each for each in (folder, *folder.parents) if not os.path.exists(each)]
    try:
        make_folder(folder, setting)
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):
                each.rmdir()
        raise


def replace_files(staging: Path, target: Path, stale: Sequence[str]) -> None:
    """Put the files in ``staging`` into ``target`` and remove the stale ones there: all of that, or nothing.

    Args:
        staging: a folder on the same file system, used up by this.
        target: the folder.
        stale: names of files that belong to what is replaced.

    Raises:
        UserError: there is a folder of such a name.
        OSError: a file cannot be moved; those before it have been put back.
    """
    names = sorted(path.name for path in staging.iterdir())
    for name in (*names, *stale):
        if (target / name).is_dir():
            raise UserError(f"{target / name} is a folder, in the place of a file to write; remove it")
    kept = staging / "kept"
    kept.mkdir()
    there = [name for name in (*names, *stale) if (target / name).exists()]
    for name in there:
        _link(target / name, kept / name)
    try:
        for name in stale:
            (target / name).unlink(missing_ok=True)
        for name in names:
            os.replace(staging / name, target / name)
    except OSError:
        for name in names:
            if name not in there:
                (target / name).unlink(missing_ok=True)
        for name in there:
            _link(kept / name, target / name)
        raise


def _link(source: Path, path: Path) -> None:
    """A second name for a file, or a copy where the file system has no such thing."""
    path.unlink(missing_ok=True)
    try:
        os.link(source, path)
    except OSError:
        shutil.copy2(source, path)
