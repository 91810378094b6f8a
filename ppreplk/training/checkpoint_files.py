"""The files of a checkpoint, and whether they are whole.

A checkpoint ``NAME`` is several files:

- ``NAME.pdparams``: the weights to use, which are the averaged ones with EMA;
- ``NAME.pdema``: the raw weights, with EMA only;
- ``NAME.pdopt``: the optimizer;
- ``NAME.pdstates``: the :class:`Manifest` in JSON. It names the others by size and digest, and itself by a digest.

While a checkpoint changes, new files lie aside, with the further suffix ``.next``.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..utils.digests import blake2b_of
from .train_state import TrainState

WEIGHTS, RAW_WEIGHTS, OPTIMIZER, STATES = ".pdparams", ".pdema", ".pdopt", ".pdstates"
SUFFIXES = (WEIGHTS, RAW_WEIGHTS, OPTIMIZER, STATES)
ASIDE = ".next"
# what Windows and some network file systems say to the sync of a folder
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM, errno.EBADF)
SELF = "manifest_digest"  # key of the digest of all other keys


@dataclass(frozen=True)
class Manifest:
    """What ``NAME.pdstates`` holds.

    Args:
        state: where the training is.
        digests: {suffix: digest} of the other files.
        sizes: {suffix: bytes} of them. Empty in files of versions that did not write it, as are the next two.
        configuration: of the training, as nested mappings.
        versions: {package: version} that wrote it.
    """

    state: TrainState
    digests: dict[str, str]
    sizes: dict[str, int] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """The content of the file."""
        others = {name: getattr(self, name) for name in ("digests", "sizes", "configuration", "versions")}
        content = {**dataclasses.asdict(self.state), **others}
        # as it will be read: keys of mappings are text in JSON
        content = json.loads(json.dumps(content))
        return json.dumps({**content, SELF: _digest(content)}, indent=1) + "\n"


def read_manifest(prefix: str | Path) -> Manifest:
    """The manifest of the checkpoint ``prefix``, of this version or an earlier one.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or holds something else.
    """
    content = json.loads(place(prefix, STATES).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("digests"), dict):
        raise ValueError("no digests of the other files")
    if SELF in content and content.pop(SELF) != _digest(content):
        raise ValueError("its content is not what was saved")
    others = {name: content.pop(name) for name in ("digests", "sizes", "configuration", "versions") if name in content}
    digests = others["digests"]
    if not {WEIGHTS, OPTIMIZER} <= set(digests) <= set(SUFFIXES):
        raise ValueError(f"digests of {', '.join(digests)}")
    try:
        return Manifest(TrainState(**content), **others)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


# --------------------------------------------------------------------------------------------------------
# Files


def place(prefix: str | Path, suffix: str) -> Path:
    return Path(f"{prefix}{suffix}")


def aside(prefix: str | Path, suffix: str) -> Path:
    return Path(f"{prefix}{suffix}{ASIDE}")


def copies(prefix: str | Path, suffix: str) -> list[Path]:
    """The file in its place and the one aside, of those that exist."""
    return [path for path in (place(prefix, suffix), aside(prefix, suffix)) if path.is_file()]


def without_suffix(prefix: str) -> str:
    for suffix in SUFFIXES:
        if prefix.endswith(suffix):
            return prefix[: -len(suffix)]
    return prefix


def damage(prefix: str | Path, manifest: Manifest) -> tuple[dict[str, Path], list[str]]:
    """Look for each file that ``manifest`` names.

    Returns:
        {suffix: path} of those that are as they were saved, and what is wrong with the others, file by file.
    """
    found, problems = {}, []
    for suffix, digest in manifest.digests.items():
        paths = copies(prefix, suffix)
        whole = [path for path in paths if blake2b_of(path) == digest]
        if whole:
            found[suffix] = whole[0]
        elif not paths:
            problems.append(f"{place(prefix, suffix)} is missing")
        else:
            problems.append(_difference(paths[0], manifest.sizes.get(suffix)))
    return found, problems


def _difference(path: Path, size: int | None) -> str:
    received = path.stat().st_size
    if size is not None and received != size:
        return f"{path} has {received} bytes instead of {size}"
    return f"{path} is not what was saved with the others"


def sync(path: Path) -> None:
    """Let the content of a file, or the names in a folder where the system offers that, reach the disk.

    Raises:
        OSError: the disk is full, or fails.
    """
    is_folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in NO_FOLDER_SYNC:
            raise


def remove(prefix: str | Path, manifest: Manifest) -> None:
    """Remove a checkpoint, its manifest last. If a file of its names is not what was saved, all of them stay."""
    paths = {path: digest for suffix, digest in manifest.digests.items() for path in copies(prefix, suffix)}
    if all(blake2b_of(path) == digest for path, digest in paths.items()):
        for path in (*paths, place(prefix, STATES)):
            path.unlink()
