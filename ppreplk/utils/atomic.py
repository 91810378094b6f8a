"""Files that appear whole or not at all, and the folders they go to."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UserError


def check_output(path: str | Path, what: str, suffixes: Sequence[str]) -> Path:
    """Check, before the work is done, that its result can go to ``path``.

    Args:
        path: of the file to write.
        what: kind of file, for the message.
        suffixes: that such a file can have.

    Raises:
        UserError: another suffix, or the folder does not exist.
    """
    checked = Path(path)
    if checked.suffix not in suffixes:
        raise UserError(f"a {what} is written to a {' or '.join(suffixes)} file, got {path}", code="utils.output-path")
    if not checked.absolute().parent.is_dir():
        raise UserError(f"the folder of {path} does not exist", code="utils.output-path")
    return checked


def partial_path(path: Path) -> Path:
    """Where the content of ``path`` is written before it takes its place."""
    return path.with_name(path.name + ".partial")


@contextmanager
def replacing(*paths: Path) -> Iterator[list[Path]]:
    """Write files under other names, and give them their own when all are complete.

    Yields a partial path for each path. When the block succeeds, they replace the paths, in order. When it fails,
    the paths are as they were, and the partial files are removed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "scores.csv") as [partial]:
    ...         _ = partial.write_text("name,score")
    ...     [path.name for path in Path(folder).iterdir()]
    ['scores.csv']

    Raises:
        UserError: the files cannot be written.
    """
    partials = [partial_path(path) for path in paths]
    try:
        yield partials
        for partial, path in zip(partials, paths):
            os.replace(partial, path)
    except OSError as error:
        message = f"cannot write {paths[0]} ({error.strerror or error})"
        raise UserError(message, code="utils.cannot-write") from error
    finally:
        for partial in partials:
            with suppress(OSError):  # not there; or nothing can be removed there either
                partial.unlink()


def make_folder(folder: Path, setting: str | None = None) -> None:
    """Create a folder and its parents, unless they exist.

    Args:
        folder: to create.
        setting: key of the configuration that names it, for the message.

    Raises:
        UserError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot create {folder} ({error.strerror or error})"
        raise UserError(message, code="utils.cannot-write", where=setting) from error


@contextmanager
def creating(folder: Path, setting: str | None = None) -> Iterator[None]:
    """Create a folder for the block to fill. If the block fails, remove it again, unless it holds something.

    Parents that had to be created are removed in the same way. A folder that existed before stays.

    Args:
        folder, setting: see :func:`make_folder`.

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


@contextmanager
def replacing_folder(folder: Path, check: Callable[[], None]) -> Iterator[Path]:
    """Fill another folder, which takes the place of ``folder`` when the block succeeds. Otherwise that stays as it is.

    Args:
        folder: to create or to replace.
        check: refuses to replace a folder that must stay, by raising an error. It is called before and after the block.

    Raises:
        UserError: the folder cannot be written.
    """
    check()
    place = folder.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    except OSError as error:
        raise _cannot_write(folder, error) from error
    new, old = staging / "new", staging / "old"
    try:
        new.mkdir()
        yield new
        check()
        if place.exists():
            os.replace(place, old)
        os.replace(new, place)
    except BaseException as error:
        if old.exists() and not place.exists():
            os.replace(old, place)
        if isinstance(error, OSError):
            raise _cannot_write(folder, error) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _cannot_write(folder: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {folder} ({error.strerror or error})", code="utils.cannot-write")


def replace_files(staging: Path, target: Path, stale: Sequence[str]) -> None:
    """Move the files in ``staging`` to ``target`` and remove the stale ones there: all of that, or nothing.

    Args:
        staging: a folder on the same file system. What is left of it is of no use afterwards.
        target: an existing folder.
        stale: names of files in ``target`` that belong to what is replaced.

    Raises:
        UserError: ``target`` has a folder with one of the names.
        OSError: a file cannot be moved. Those that were moved before it have been put back.
    """
    names = sorted(path.name for path in staging.iterdir())
    for name in (*names, *stale):
        if (target / name).is_dir():
            message = f"{target / name} is a folder, in the place of a file to write; remove it"
            raise UserError(message, code="utils.folder-in-place")
    kept = staging / "kept"
    kept.mkdir()
    existing = [name for name in (*names, *stale) if (target / name).exists()]
    for name in existing:
        _link(target / name, kept / name)
    try:
        for name in stale:
            (target / name).unlink(missing_ok=True)
        for name in names:
            os.replace(staging / name, target / name)
    except OSError:
        for name in names:
            if name not in existing:
                (target / name).unlink(missing_ok=True)
        for name in existing:
            _link(kept / name, target / name)
        raise


def _link(source: Path, path: Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links."""
    path.unlink(missing_ok=True)
    try:
        os.link(source, path)
    except OSError:
        shutil.copy2(source, path)
