"""Paths as people write them."""

from __future__ import annotations

import os
from typing import Annotated

from .errors import UserError

# the type of a parameter or a key that names a file or a folder; what fills it in calls user_path
FilePath = Annotated[str, "path"]
MAX_NAME, MAX_PATH = 255, 4095  # bytes of one name, and of a whole path, on Linux


def user_path(text: str) -> str:
    """A path with ``~`` and ``~NAME`` at its beginning replaced by the home folder.

    A shell does so itself, but not behind an equals sign, as in ``--output=~/x``, and not inside a YAML file.

    Raises:
        UserError: the path is empty, no file system can have it, or there is no such home folder.

    >>> user_path("output/digits")
    'output/digits'
    """
    if not text.strip():
        raise UserError(f"expected a path, got {text!r}", code="input.bad-path")
    try:
        names = os.fsencode(text).split(os.fsencode(os.sep))
    except UnicodeEncodeError:
        names = [b"\0"]
    if any(b"\0" in name for name in names):
        raise UserError(f"{text!r} has characters that no file name can have", code="input.bad-path")
    if max(map(len, names)) > MAX_NAME or len(text) > MAX_PATH:
        raise UserError(f"{text[:40]!r}... is longer than file systems allow", code="input.bad-path")
    if os.path.exists(text):  # ~ may begin the name of a file
        return text
    path = os.path.expanduser(text)
    if path.startswith("~"):
        owner = text.partition("/")[0]
        raise UserError(
            f"the home folder {owner} in {text!r} is not known; write the whole path, or ./{owner} if it is called so",
            code="input.bad-path",
        )
    return path
