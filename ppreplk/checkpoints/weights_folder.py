"""The folder that published weights are downloaded to, once, and found in by name.

``PPREPLK_WEIGHTS`` names it; ``~/.cache/ppreplk/weights`` unless set. ``PPREPLK_MIRROR`` is an address that stands in
for the servers' own. With ``PPREPLK_OFFLINE=1`` nothing is downloaded. A download is a file under its published name,
and ``NAME.json`` beside it, which says where it came from and what it was when it was checked.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Optional
from urllib.parse import urlsplit

from ..utils.atomic import make_folder, replacing
from ..utils.digests import sha256_of
from ..utils.errors import UserError
from ..utils.paths import user_path
from ..utils.tables import Table
from .download import Expected, check_address, download
from .manifest import UNKNOWN, Published, default_weights, find_published, published_files

logger = logging.getLogger(__name__)

FOLDER, MIRROR, OFFLINE = "PPREPLK_WEIGHTS", "PPREPLK_MIRROR", "PPREPLK_OFFLINE"  # environment variables
NO = ("", "0", "false", "no", "off")


def weights_folder() -> Path:
    """The folder; it need not exist.

    Raises:
        UserError: no folder can be called so, or the home folder is not known.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(user_path(os.environ.get(FOLDER) or os.path.join(base, "ppreplk", "weights")))
    except UserError as error:
        raise error.at(FOLDER) from error


def is_offline() -> bool:
    """Whether downloads are switched off."""
    return os.environ.get(OFFLINE, "").strip().lower() not in NO


def address_of(entry: Published) -> Optional[str]:
    """Where a file is downloaded from: its own address, or the same path below that of the mirror.

    Raises:
        UserError: the mirror's address is none.
    """
    mirror = os.environ.get(MIRROR, "").strip()
    if entry.address is None or not mirror:
        return entry.address
    try:
        check_address(mirror)
    except UserError as error:
        raise error.at(MIRROR) from error
    return mirror.rstrip("/") + urlsplit(entry.address).path


def expected_of(entry: Published) -> Expected:
    """What is published of a file's bytes."""
    return Expected(entry.size, entry.sha256)


def kept(entry: Published) -> Optional[Path]:
    """The file of an entry in the folder, checked; None where it is not there.

    A file is read through once: later its size and its time are compared with those of that day.

    Raises:
        UserError: what lies there under its name is another file, or cannot be read.
    """
    if entry.file is None:
        return None
    path = weights_folder() / entry.file
    try:
        if not path.is_file():
            return None
        if _receipt(path) == _stamp(path):
            return path
        sha256 = sha256_of(path)
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror or error})", code="checkpoints.not-readable", where=str(path)
        ) from error
    problem = expected_of(entry).problem(path.stat().st_size, sha256)
    if problem is not None:
        raise UserError(
            f"not the published file: it {problem}; remove it", code="checkpoints.wrong-file", where=str(path)
        )
    with suppress(UserError):  # a folder that others have filled need not be ours to write to
        _write_receipt(path, entry, "this folder", sha256)
    return path


def get(name: str, variant: Optional[str] = None) -> Path:
    """The file of published weights, downloaded unless it is in the folder already.

    Args:
        name, variant: see :func:`~ppreplk.checkpoints.manifest.find_published`. Of several files that a name stands
            for, one that is there is taken, otherwise the first that can be downloaded.

    Raises:
        UserError: no such weights, a file that is on net disks only, a failed download, or none where offline.
    """
    entries = find_published(name, variant)
    for entry in entries:
        if (path := kept(entry)) is not None:
            return path
    direct = [entry for entry in entries if entry.address]
    if not direct:
        raise _only_on_net_disks(entries[0])
    entry = direct[0]
    if is_offline():
        raise UserError(
            f"{entry.file} is not in {weights_folder()}, and {OFFLINE} is set: put it there, or unset that",
            code="checkpoints.offline",
        )
    return _download(entry)


def published_table() -> Table:
    """Every published file, where it is and whether it is in the folder. Nothing is downloaded."""
    folder = weights_folder()
    rows = [
        [each.name, each.task, each.results or "-", each.place, each.licence, "here" if _is_here(each, folder) else ""]
        for each in published_files()
    ]
    columns = ["name", "task", "published, %", "from", "licence", "in the folder"]
    return Table(f"Published weights; the folder is {folder}", columns, rows)


def _is_here(entry: Published, folder: Path) -> bool:
    return entry.file is not None and os.path.isfile(folder / entry.file)


def find_pretrained(variant: str, asked: bool | str | os.PathLike[str]) -> Path:
    """The file that ``pretrained`` asks for: True, the name of published weights, or a file.

    Raises:
        UserError: as :func:`get`; or it is something else.
    """
    if asked is True:
        asked = default_weights(variant)
    if not isinstance(asked, (str, os.PathLike)):
        raise UserError(f"expected True, a name or a file, got {asked!r}", code="checkpoints.bad-pretrained")
    path = find_weights(os.fspath(asked), variant)
    logger.info("%s: the weights are %s", variant, path)
    return path


def find_weights(asked: str, variant: Optional[str] = None) -> Path:
    """A file, whose ``.pdparams`` may be left off; or where there is none, published weights of this name.

    Args:
        asked: path or name.
        variant: the network, see :func:`get`.

    Raises:
        UserError: as :func:`get`.
    """
    for path in map(os.path.expanduser, (asked, f"{asked}.pdparams")):
        if os.path.isfile(path):
            return Path(path)
    try:
        return get(asked, variant)
    except UserError as error:
        if error.code not in UNKNOWN:
            raise
        raise UserError(f"{error}; and there is no file {asked}", code=error.code) from error


def _download(entry: Published) -> Path:
    folder, address = weights_folder(), address_of(entry)
    assert entry.file is not None and address is not None
    make_folder(folder, FOLDER if os.environ.get(FOLDER) else None)
    path = folder / entry.file
    with _locked(path):
        if (there := kept(entry)) is not None:  # another process had the lock, and has done it
            return there
        logger.info("downloading %s to %s", address, folder)
        sha256 = download(address, path, expected_of(entry))
        _write_receipt(path, entry, address, sha256)
    if entry.sha256 is None:
        logger.warning("%s: no hash is published to compare it with; its SHA-256 is %s", path, sha256)
    return path


def _only_on_net_disks(entry: Published) -> UserError:
    where = ", ".join(f"{disk} {address}" for disk, address in entry.net_disks.items())
    by_name = f", or put it into {weights_folder()} as {entry.file}" if entry.file else ""
    return UserError(
        f"{entry.name} is on net disks alone, which only a browser downloads from: {where}; then check it with "
        f"ppreplk weights verify FILE and name it as Global.pretrained_model or pretrained{by_name}",
        code="checkpoints.net-disk",
    )


# ----------------------------------------------------------------------------------------------------------------------
# What is written beside a file


def _receipt_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _stamp(path: Path) -> dict[str, int]:
    found = path.stat()
    return {"size": found.st_size, "modified": found.st_mtime_ns}


def _receipt(path: Path) -> dict[str, int]:
    """Size and time of a file when it was checked; empty where nothing says so."""
    try:
        content = json.loads(_receipt_path(path).read_text(encoding="utf-8"))
        return {"size": content["size"], "modified": content["modified"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_receipt(path: Path, entry: Published, origin: str, sha256: str) -> None:
    content = {"name": entry.name, "from": origin, "sha256": sha256, "licence": entry.licence, **_stamp(path)}
    with replacing(_receipt_path(path)) as [partial]:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from downloading the same file; wait where one is at it."""
    try:
        file = open(path.with_name(f".{path.name}.lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"cannot write to {path.parent} ({error.strerror or error}); {FOLDER} names another folder",
            code="checkpoints.cannot-write",
        ) from error
    with file:
        _lock(file, path)
        yield


def _lock(file: IO[str], path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on every system
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.info("another process is downloading %s; waiting for it", path.name)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise UserError(
            f"cannot be locked ({error.strerror or error}); {FOLDER} names another folder",
            code="checkpoints.cannot-write",
            where=file.name,
        ) from error
