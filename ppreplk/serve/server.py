"""Listening: sockets, time limits of connections, signals, and how the service starts and stops."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, Optional

import numpy as np
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..config import RGB
from ..deploy.classifier import Classifier
from ..deploy.inference_yml import Description, read_description
from ..utils.errors import UserError
from ..utils.version import __version__
from .app import Service, build_app
from .limits import Limits, is_loopback
from .program_process import PATIENCE, Facts, ProgramProcess, ProgramSettings

logger = logging.getLogger(__name__)

PASSPORT = "export.json"
KEEP_ALIVE = 15  # seconds that an idle connection stays
CONNECTIONS = 4  # for each request that may be served at the same time: browsers keep some idle
NOISY = ("PIL", "python_multipart")  # loggers
STOPPING = ("SIGTERM", "SIGINT", "SIGHUP")


@dataclass
class Settings:
    """What ``ppreplk serve`` was asked for.

    Args:
        model_dir: folder of the program.
        host, port: to listen on; port 0 is any free one.
        threads, precision, device: of the program, see :class:`~ppreplk.Predictor`.
        max_batch: images in a batch.
        max_wait_ms: milliseconds that an image waits for others.
        weights: checkpoint for receptive fields; that of the passport, unless given.
        names: further names that the service may be called by.
        limits: of requests.
    """

    model_dir: str
    host: str = "127.0.0.1"
    port: int = 8000
    threads: Optional[int] = None
    precision: Optional[str] = None
    device: str = "cpu"
    max_batch: int = 16
    max_wait_ms: float = 5.0
    weights: Optional[str] = None
    names: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)


def serve(settings: Settings) -> None:
    """Serve until a signal comes, then finish what has been begun.

    Raises:
        UserError: no such program, weights that are not its own, or an address that cannot be listened on.
    """
    _silence()
    with listen(settings.host, settings.port) as listening:
        # its address, of which names of this machine, such as its host name, do not say whether it is loopback
        resolved = replace(settings, host=listening.getsockname()[0], names=[*settings.names, settings.host])
        with making_service(resolved) as service:
            make_server(service, listening, settings.limits).run(sockets=[listening])


def _silence() -> None:
    """Keep what libraries say about strangers' broken files and requests out of the log: strangers would fill it."""
    warnings.filterwarnings("ignore", module="PIL")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def making_service(settings: Settings) -> Iterator[Service]:
    """Load the program, and the weights if there are any. They are ended after the block, when all is answered.

    Raises:
        UserError: they cannot be loaded, or do not belong together.
    """
    asked = ProgramSettings(settings.model_dir, settings.device, settings.threads, settings.precision)
    patience = max(PATIENCE, 2 * settings.limits.timeout)  # long after the last client has been told to go
    with contextlib.closing(ProgramProcess(asked, patience)) as program:
        service = _service(settings, program)
        try:
            yield service
        finally:
            program.close()  # first, since the batches' thread would wait for a program that hangs
            service.close()


def _service(settings: Settings, program: ProgramProcess) -> Service:
    facts, description = program.facts, read_description(settings.model_dir)
    passport = _read_passport(settings.model_dir)
    channels = facts.image_shape[0] if facts.image_shape else RGB
    model = Classifier(
        *(program, description.transforms, description.topk, description.class_names, description.add_softmax),
        channels,
    )
    info = {
        "model": facts.model_name,
        "version": __version__,
        "precision": facts.precision,
        "image_shape": facts.image_shape,
        "classes": _classes(facts, description, program),
        "topk": description.topk,
        "class_names": description.class_names,
        "preprocessing": [{op.name: dict(op.arguments) or None} for op in description.transforms],
        "max_batch": settings.max_batch,
        "max_wait_ms": settings.max_wait_ms,
        "passport": _without_paths(passport),
    }
    return Service(
        model,
        info,
        settings.limits,
        settings.max_batch,
        settings.max_wait_ms / 1000,
        field=_field(settings.weights, passport, description, program),
        program_pid=lambda: program.pid,
        can_run=lambda: program.can_run,
        listening_on=settings.host,
        names=settings.names,
    )


def _read_passport(folder: str) -> Optional[dict[str, Any]]:
    path = Path(folder) / PASSPORT
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read and is left out of /info: %s", path, error)
        return None
    return content if isinstance(content, dict) else None


def _without_paths(passport: Optional[dict[str, Any]]) -> Optional[dict[str, Any]]:
    """The passport for strangers: of the weights it says the name alone."""
    if passport is None or not isinstance(passport.get("weights"), str):
        return passport
    return {**passport, "weights": PurePath(passport["weights"]).name}


def _classes(facts: Facts, description: Description, program: ProgramProcess) -> Optional[int]:
    if facts.image_shape is None:
        return None if description.class_names is None else len(description.class_names)
    return program(np.zeros((1, *facts.image_shape), np.float32)).shape[-1]


def _field(
    weights: Optional[str], passport: Optional[dict[str, Any]], description: Description, program: ProgramProcess
) -> Any:
    """What computes receptive fields; None without weights.

    Those that are asked for must fit. Those that the passport names are taken where they are there and fit.
    """
    path = weights or _weights_of(passport)
    shape = program.facts.image_shape
    if path is None or shape is None:
        return None
    from .field import ReceptiveField  # the networks are not needed to run a program

    try:
        found = ReceptiveField(path, description.transforms, shape[0])
        image = np.random.default_rng(0).standard_normal((1, *shape), np.float32)
        outputs = program(image)[0].astype(np.float64)
        if description.add_softmax:
            outputs = np.exp(outputs - outputs.max())
            outputs /= outputs.sum()
        found.check(image[0], outputs)
    except UserError as error:
        if weights is not None:
            raise
        logger.warning("no receptive fields are shown: %s [%s]", error, error.code)
        return None
    logger.info("receptive fields are shown with the weights %s", path)
    return found


def _weights_of(passport: Optional[dict[str, Any]]) -> Optional[str]:
    named = (passport or {}).get("weights")
    if not isinstance(named, str) or not named:
        return None
    return next((path for path in (named, f"{named}.pdparams") if Path(path).is_file()), None)


# ----------------------------------------------------------------------------------------------------------------------
# Sockets


@contextlib.contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens on an address.

    Raises:
        UserError: the address is not of this machine, or is taken.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.create_server(address[:2], family=family, backlog=1024)
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen on {host}, port {port} ({reason}); choose others with --host and --port",
            code="serve.address",
        ) from error
    with listening:
        yield listening


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class TimedProtocol(H11Protocol):
    """A connection with time limits that the server lacks.

    A client that does not finish the head of a request, or does not read its answer, is cut off. So is one connection
    too many.
    """

    seconds: float
    connections_allowed: int

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # Head and body of an answer are two packets: the second would wait 40 ms for the first one's acknowledgement.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._idle_since = self.loop.time()
        self._unsent = 0
        if len(self.connections) > self.connections_allowed:
            transport.abort()
        else:
            self._watch = self.loop.call_later(self.seconds / 2, self._check)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        if hasattr(self, "_watch"):
            self._watch.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def _check(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        is_idle = self.cycle is None or self.cycle.response_complete
        if (unsent and unsent == self._unsent) or (is_idle and self.loop.time() - self._idle_since > self.seconds):
            self.transport.abort()
            return
        self._unsent = unsent
        self._watch = self.loop.call_later(self.seconds / 2, self._check)


class _Server(uvicorn.Server):
    """Stops on SIGHUP as on SIGTERM, unless it is ignored, and says when it listens."""

    url: str
    should_exit: bool
    force_exit: bool

    async def startup(self, sockets: Optional[list[socket.socket]] = None) -> None:
        await super().startup(sockets)
        logger.info("serving on %s, stop with Ctrl-C", self.url)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [number for name in STOPPING if (number := getattr(signal, name, None)) is not None]
        before = {number: signal.getsignal(number) for number in numbers}
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, self._stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        for number in self._caught[:1]:
            signal.raise_signal(number)  # ends the command as it ends every other one

    def _stop(self, number: int, frame: Any) -> None:
        self._caught.append(number)
        self.force_exit = self.should_exit  # the second one does not wait
        self.should_exit = True

    @property
    def _caught(self) -> list[int]:
        return self.__dict__.setdefault("caught", [])


def make_server(service: Service, listening: socket.socket, limits: Limits) -> uvicorn.Server:
    """What answers on a socket, once it is told to ``run``."""
    protocol = type(
        "Protocol",
        (TimedProtocol,),
        {"seconds": limits.timeout, "connections_allowed": CONNECTIONS * limits.concurrency},
    )
    config = uvicorn.Config(
        build_app(service),
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(2 * limits.timeout) + 1,
    )
    host = listening.getsockname()[0]
    if not is_loopback(host):
        logger.warning("listening on %s: whoever reaches this machine can use the service", host)
    server = _Server(config)
    server.url = url_of(listening)
    return server
