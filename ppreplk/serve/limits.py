"""What the service accepts: sizes, names it is called by, pages that ask; and how it refuses the rest."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from ..utils.errors import UserError

LOCAL_NAMES = ("localhost", "ip6-localhost")


@dataclass(frozen=True)
class Limits:
    """Bounds of one request, and of all together.

    Args:
        bytes: of a request's body.
        pixels: of an image, as its header says.
        files: images of a request.
        concurrency: requests that are read and answered at the same time.
        queue: images that wait for the program.
        timeout: seconds that a client has for sending a request, and the service for answering it.
    """

    bytes: int = 32 << 20
    pixels: int = 50_000_000
    files: int = 16
    concurrency: int = 128
    queue: int = 256
    timeout: float = 30.0

    @property
    def bytes_together(self) -> int:
        """Of the bodies that are in memory at the same time."""
        return 8 * self.bytes


class Refused(UserError):
    """A request that is answered with an error.

    Args:
        status: of the answer.
        message, code: see :class:`~ppreplk.utils.errors.UserError`.
        index: of the image that is to blame.
    """

    def __init__(self, status: int, message: str, code: str, index: Optional[int] = None):
        super().__init__(message, code=code)
        self.status = status
        self.index = index

    def at(self, where: object) -> Refused:
        return Refused(self.status, f"{where}: {self}", self.code, self.index)


def busy(message: str) -> Refused:
    """Too much to do: the client may try again soon."""
    return Refused(503, f"{message}; try again in a second", "serve.busy")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on ``host``.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() in LOCAL_NAMES


def check_host(header: Optional[str], listening_on: str, names: Sequence[str]) -> None:
    """Check the name that a request calls the service by, where it listens on loopback alone.

    A page on the internet can give its own name the address 127.0.0.1 and then read our answers. Such a request names
    that page.

    Args:
        header: ``Host``.
        listening_on: the address.
        names: further names that are accepted, of ``--allow-host``.

    Raises:
        Refused: another name.
    """
    if not is_loopback(listening_on) or header is None:
        return
    host = header.strip()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if is_loopback(name) or name.lower() in map(str.lower, names):
        return
    raise Refused(421, f"this service is not called {name[:100]!r}; see --allow-host", "serve.wrong-host")


def check_site(site: Optional[str]) -> None:
    """Check that no page of another site lets a browser send images here. It could not read the answer, only cost time.

    Args:
        site: ``Sec-Fetch-Site``, which browsers send and pages cannot change.

    Raises:
        Refused: such a page.
    """
    if site == "cross-site":
        raise Refused(403, "pages of other sites are not served", "serve.cross-site")
