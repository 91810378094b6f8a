"""The program in a process of its own.

Paddle keeps Python's global lock while a program computes. In the process that answers requests, a batch of a large
network would let every other client wait, those that only ask for ``/health`` too. Images would not be decoded
meanwhile, either. So a second process runs the program; arrays go through a pipe.

Should that process die or hang, which takes a defect in Paddle or a lack of memory, the batch it was computing is lost,
and another process is started for the next one.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Optional

import numpy as np

from ..deploy.predictor import Predictor
from ..utils.errors import UserError
from .limits import Refused

logger = logging.getLogger(__name__)

ENDING_SECONDS = 5.0
PATIENCE = 60.0  # seconds that a batch may take
QUIET = ("SIGINT", "SIGHUP")  # a terminal sends them to every process; the service says when to stop


@dataclass(frozen=True)
class ProgramSettings:
    """The arguments of :class:`~ppreplk.Predictor`."""

    model_dir: str
    device: str = "cpu"
    threads: Optional[int] = None
    precision: Optional[str] = None


@dataclass(frozen=True)
class Facts:
    """What the predictor in the other process says of itself, see its attributes."""

    model_name: Optional[str]
    precision: str
    image_shape: Optional[list[int]]
    warm_up_seconds: float


class ProgramProcess:
    """A program as a function: images (N, C, H, W) float32 to outputs (N, class_num). One thread at a time computes.

    Args:
        settings: of the program.
        patience: seconds after which a process that does not answer is ended.

    Raises:
        UserError: it cannot be loaded, see :class:`~ppreplk.Predictor`; or no process can be started.
    """

    def __init__(self, settings: ProgramSettings, patience: float = PATIENCE):
        self._settings = settings
        self._patience = patience
        self._closed = False
        self.can_run = True  # until it cannot be started again
        self._running = threading.Lock()
        self._process: Any = None
        self._connection: Optional[Connection] = None
        self.facts = self._start()

    @property
    def pid(self) -> Optional[int]:
        return None if self._process is None else self._process.pid

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The program's outputs.

        Raises:
            UserError: images that it does not run on.
            Refused: the process died or hung, or cannot be started again.
        """
        with self._running:
            self._revive()
            assert self._connection is not None
            try:
                self._connection.send(np.ascontiguousarray(images, np.float32))
                if not self._connection.poll(self._patience):
                    logger.error("the program has not answered for %g seconds, its process is ended", self._patience)
                    self._process.kill()
                answer = self._connection.recv()
            except (EOFError, OSError) as error:
                code = self._end()
                if not self._closed:
                    logger.error("the process of the program has ended while it computed (exit code %s)", code)
                message = "the process of the program has ended while it computed; try again"
                raise Refused(503, message, "serve.program-ended") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process, also while it computes."""
        self._closed = True
        if self.pid is not None:
            self._process.kill()  # whoever waits for its answer holds the lock below
        with self._running:
            self._end()

    def _revive(self) -> None:
        """Start the process again if it has ended.

        Raises:
            Refused: it cannot be started.
        """
        if self._closed:
            raise Refused(503, "the service is being stopped", "serve.program-ended")
        if self._connection is not None and self._process.is_alive():
            return
        self._end()
        logger.info("the process of the program is started again")
        try:
            self._start()
        except Exception as error:
            self.can_run = False
            logger.error("the program cannot be started again: %s", error)
            message = "the program cannot be started again; the log of the service says why"
            raise Refused(503, message, "serve.program-ended") from error
        self.can_run = True

    def _start(self) -> Facts:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._settings), daemon=True)
        try:
            with _as_module():
                self._process.start()
            theirs.close()
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            code = self._end()
            raise UserError(
                f"the process of the program did not start (exit code {code}, {error or 'no answer'})",
                code="serve.no-process",
                where=self._settings.model_dir,
            ) from error
        except BaseException:  # Ctrl-C while it loads
            self._end()
            raise
        if isinstance(answer, Exception):
            self._end()
            raise answer
        return answer

    def _end(self) -> Optional[int]:
        """Close the pipe, which ends the process. Returns its exit code."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        if self._process is None or self._process.pid is None:
            return None
        self._process.join(ENDING_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        return self._process.exitcode


@contextmanager
def _as_module() -> Iterator[None]:
    """Let the new process import nothing of the script that this one runs: it needs this module alone."""
    names: dict[str, Any] = sys.modules["__main__"].__dict__
    kept: dict[str, Any] = {name: names[name] for name in ("__file__", "__spec__") if name in names}
    names.update({name: None for name in kept})
    try:
        yield
    finally:
        names.update(kept)


def _work(connection: Connection, settings: ProgramSettings) -> None:
    """What the other process does: load, then compute until the pipe closes."""
    for name in QUIET:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    try:
        answer, predictor = _load(settings)
        connection.send(answer)
        while predictor is not None:
            images = connection.recv()
            try:
                outputs: Any = predictor.run(images)
            except UserError as error:
                outputs = error
            except Exception as error:  # a defect, which is reported where the request is
                outputs = RuntimeError(f"{type(error).__name__}: {error}")
            connection.send(outputs)
    except (EOFError, OSError):
        pass
    sys.stdout.flush()
    os._exit(0)  # nothing here needs an orderly end, and Paddle's takes its time


def _load(settings: ProgramSettings) -> tuple[Any, Optional[Predictor]]:
    import paddle

    from ..utils.log import log_to_terminal

    paddle.disable_signal_handler()
    log_to_terminal()
    try:
        predictor = Predictor(settings.model_dir, settings.device, settings.threads, settings.precision)
    except UserError as error:
        return error, None
    except Exception as error:
        return RuntimeError(f"{type(error).__name__}: {error}"), None
    shape, seconds = predictor.image_shape, predictor.warm_up_seconds
    return Facts(predictor.model_name, predictor.precision, shape, seconds), predictor
