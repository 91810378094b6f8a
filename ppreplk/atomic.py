"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
