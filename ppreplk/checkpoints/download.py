"""One file from a web server: resumed where it was cut off, checked, and put in place whole or not at all.

Only functions that a person has asked for a download come here.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import shutil
import ssl
import string
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Optional
from urllib.parse import quote, urlsplit

from ..utils.atomic import partial_path
from ..utils.digests import sha256_of
from ..utils.errors import UserError
from ..utils.log import progress_of_bytes
from ..utils.version import __version__

logger = logging.getLogger(__name__)

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 4
PAUSE = 1.0  # seconds before the second attempt, twice as long before each further one
PIECE = 1 << 20  # bytes
RETRIED = (408, 425, 429, 500, 502, 503, 504)  # statuses of a server that may answer later
SCHEMES = ("http", "https")


@dataclass(frozen=True)
class Expected:
    """What a file must be.

    Args:
        size: in bytes; None where it is not known.
        sha256: its hash in hexadecimal digits, or the beginning of it; None where it is not known.
    """

    size: Optional[int] = None
    sha256: Optional[str] = None

    def problem(self, size: int, sha256: str) -> Optional[str]:
        """How a file differs from this, in words; None where it does not."""
        if self.size is not None and size != self.size:
            return f"has {size} bytes, expected {self.size}"
        if self.sha256 is not None and not sha256.startswith(self.sha256.lower()):
            return f"has the SHA-256 {sha256[: max(len(self.sha256), 8)]}..., expected {self.sha256}"
        return None


class _Again(Exception):
    """An attempt failed, and another one may not."""


def download(address: str, target: Path, expected: Expected, timeout: float = TIMEOUT) -> str:
    """Download a file, going on from what an earlier call left in ``NAME.partial`` beside it.

    Args:
        address: of the file, http or https. Redirections are followed, but not from https to anything else.
        target: where the file appears, complete and checked. Its folder exists.
        expected: what the file must be.
        timeout: seconds without a byte after which an attempt ends.

    Returns:
        The SHA-256 of the file.

    Raises:
        UserError: the server refuses, cannot be reached, or sends something else than is expected; or the file cannot
            be written. What was received of the right file stays and is gone on from.
    """
    check_address(address)
    transfer = _Transfer(address, target, expected, timeout)
    for attempt in range(ATTEMPTS):
        try:
            return transfer.run()
        except _Again as error:
            if attempt + 1 == ATTEMPTS:
                raise UserError(
                    f"{error}, after {ATTEMPTS} attempts; {transfer.left()}",
                    code="checkpoints.interrupted",
                    where=address,
                ) from error
            logger.info("%s: %s; trying again", address, error)
            time.sleep(PAUSE * 2**attempt)
        except OSError as error:
            raise UserError(
                f"cannot write {target} ({error.strerror or error}); {transfer.left()}", code="checkpoints.cannot-write"
            ) from error
    raise AssertionError("the last attempt returns or raises")


def check_address(address: str) -> None:
    """Check that an address is one of a web server: scheme, host in ASCII, no user.

    Raises:
        UserError: it is not.
    """
    try:
        parts = urlsplit(address)
        host, _ = (parts.hostname or ""), parts.port  # a port that is none raises ValueError
        host.encode("idna")  # and so does a name with a part that is empty or too long
        valid = parts.scheme in SCHEMES and host != "" and host.isascii() and parts.username is None
    except ValueError:
        valid = False
    if not valid or any(each.isspace() for each in address):
        raise UserError(
            f"expected an address such as https://HOST/PATH, got {address!r}", code="checkpoints.bad-address"
        )


class _Redirections(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request: Any, file: Any, code: int, message: str, headers: Any, address: str) -> Any:
        check_address(address)
        if urlsplit(request.full_url).scheme == "https" and urlsplit(address).scheme != "https":
            raise UserError(
                f"refused, the server leads to {address}, which is not encrypted",
                code="checkpoints.bad-address",
                where=request.full_url,
            )
        return super().redirect_request(request, file, code, message, headers, address)


class _Transfer:
    """A download with what there is of it: ``NAME.partial``, and ``NAME.partial.json`` that says of what."""

    def __init__(self, address: str, target: Path, expected: Expected, timeout: float):
        self.address, self.target, self.expected, self.timeout = address, target, expected, timeout
        self.quoted = quote(address, safe=string.punctuation)  # paths may be Chinese, for example
        self.partial = partial_path(target)
        self.record = self.partial.with_name(self.partial.name + ".json")
        self.opener = urllib.request.build_opener(_Redirections())

    def run(self) -> str:
        """One attempt.

        Raises:
            _Again: it was cut off.
            UserError: another attempt would end alike.
            OSError: the file cannot be written.
        """
        done, validator = self._what_is_there()
        if done and done == self.expected.size:
            return self._finish(resumed=True)
        request = urllib.request.Request(self.quoted, headers=_headers(done, validator))
        with self._answer(request) as answer:
            resumed = answer.status == 206
            if done and not resumed:
                logger.info("%s: the server does not go on where it stopped; starting again", self.address)
            start = done if resumed else 0
            total = self._total(answer, start)
            self._check_space(total, start)
            self._note(answer, resumed, validator)
            received = self._receive(answer, start, total)
        if total is not None and received < total:
            raise _Again(f"cut off after {received} of {total} bytes")
        return self._finish(resumed)

    def left(self) -> str:
        """What to do after a download that failed."""
        size = self.partial.stat().st_size if self.partial.is_file() else 0
        return f"{size} bytes are kept, the same command goes on from there" if size else "nothing was received"

    def _what_is_there(self) -> tuple[int, Optional[str]]:
        """Bytes to go on from, and what the server calls this version of the file.

        Without a hash to check the whole by, only bytes of this address and a named version are gone on from.
        """
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
            done = self.partial.stat().st_size
            same, validator = record["address"] == self.address, record["validator"]
        except (OSError, ValueError, KeyError, TypeError):
            return 0, None
        if same and isinstance(validator, str):
            return done, validator
        return (done, None) if self.expected.sha256 else (0, None)

    def _answer(self, request: urllib.request.Request) -> Any:
        try:
            answer = self.opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # it has fewer bytes than we: another file
                self._forget()
                raise _Again("the server has no such part of the file") from error
            if error.code in RETRIED:
                raise _Again(f"the server answers {error.code} {error.reason}") from error
            raise UserError(
                f"the server answers {error.code} {error.reason}",
                code="checkpoints.refused-download",
                where=self.address,
            ) from error
        except UserError:
            raise
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise UserError(
                    f"the server's certificate is not valid ({cause.verify_message})",
                    code="checkpoints.unreachable",
                    where=self.address,
                ) from error
            raise _Again(f"cannot be reached ({_words(cause)})") from error
        if answer.headers.get_content_type() == "text/html":
            answer.close()
            raise UserError(
                "a web page came in place of the file", code="checkpoints.wrong-download", where=self.address
            )
        return answer

    def _total(self, answer: Any, start: int) -> Optional[int]:
        """Bytes of the whole file, as the server says; None where it does not."""
        length = answer.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        if answer.status == 206:
            begin, _, whole = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            if begin.partition("-")[0] != str(start):
                self._forget()
                raise _Again("the server sent another part of the file than was asked for")
            total = int(whole) if whole.isdecimal() else total
        if total is not None and self.expected.size not in (None, total):
            raise UserError(
                f"the server's file has {total} bytes, expected {self.expected.size}",
                code="checkpoints.wrong-download",
                where=self.address,
            )
        return total if total is not None else self.expected.size

    def _check_space(self, total: Optional[int], start: int) -> None:
        free = shutil.disk_usage(self.target.parent).free
        if total is not None and total - start > free:
            raise UserError(
                f"{total - start} bytes are to come, and {self.target.parent} has room for {free}",
                code="checkpoints.no-space",
            )

    def _note(self, answer: Any, resumed: bool, validator: Optional[str]) -> None:
        """Write down of what the partial file is a part, before it is one."""
        if resumed and validator:
            return
        if not resumed:
            self._forget()
        tag = answer.headers.get("ETag", "")
        version = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")
        self.record.write_text(json.dumps({"address": self.address, "validator": version}), encoding="utf-8")

    def _receive(self, answer: Any, start: int, total: Optional[int]) -> int:
        received = start
        with open(self.partial, "ab") as file, progress_of_bytes(start, total, self.target.name) as bar:
            while received != total and (piece := _read(answer, f"cut off after {received} bytes")):
                file.write(piece)
                received += len(piece)
                bar.update(len(piece))
            _flush(file)
        return received

    def _finish(self, resumed: bool) -> str:
        sha256 = sha256_of(self.partial)
        problem = self.expected.problem(self.partial.stat().st_size, sha256)
        if problem is None:
            os.replace(self.partial, self.target)
            self._forget()
            return sha256
        self._forget()
        if resumed:
            raise _Again(f"what was put together {problem}")
        raise UserError(
            f"the server's file {problem}; it was not kept", code="checkpoints.wrong-download", where=self.address
        )

    def _forget(self) -> None:
        for path in (self.partial, self.record):
            with suppress(FileNotFoundError):
                path.unlink()


def _headers(done: int, validator: Optional[str]) -> dict[str, str]:
    headers = {"User-Agent": f"ppreplk/{__version__}", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if validator:
            headers["If-Range"] = validator
    return headers


def _read(answer: Any, otherwise: str) -> bytes:
    try:
        return answer.read1(PIECE)  # what has come, so that nothing is lost where it is cut off
    except (OSError, http.client.HTTPException) as error:
        raise _Again(f"{otherwise} ({_words(error)})") from error


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _words(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = str(getattr(error, "strerror", None) or error)
    return " ".join(text.split()) or type(error).__name__
