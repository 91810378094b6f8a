"""Processes that load batches, for as long as one pass over the data takes.

Worker ``i`` of ``n`` makes the batches ``i``, ``i + n``, ``i + 2n``, ... Images come back in buffers of shared memory,
everything else through a pipe per worker.

Nothing is left behind, however a process ends. The buffers are anonymous: they are mapped before the worker is forked,
have no name in ``/dev/shm``, are not limited by its size, and go when the last process that maps them does. A worker
ignores Ctrl-C, which a terminal sends to it too, and the SIGTERM and SIGHUP that a system sends to all processes of a
job: the main process decides what becomes of them. It ends when the main process has died. The main process notices
a worker that dies.
"""

from __future__ import annotations

import _thread
import atexit
import mmap
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import numpy as np

from ..utils.errors import UserError

FORK_IS_SAFE = sys.platform.startswith("linux")  # macOS does not allow it in a process with threads; Windows has none
PREFETCH_FACTOR = 2  # batches that a worker makes ahead
CHECK_INTERVAL = 1.0  # seconds between two looks at whether the process at the other end is alive
POSTPONEMENT = 0.05  # seconds
IGNORED_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
RESET_SIGNALS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT")

Load = Callable[[Sequence[int]], Sequence[Any]]  # the first is an array


class WorkerPool:
    """Worker processes that load ``batches``. Leave its ``with`` block, early or not, and they are gone.

    Args:
        load: indices of samples to images (N, C, H, W) and whatever goes with them; runs in the workers.
        batches: the indices of every batch.
        num_workers: how many processes.
        buffer_size: bytes of shared memory for the images of one batch. Larger batches go through the pipe; 0 sends
            all of them that way.
    """

    def __init__(self, load: Load, batches: Sequence[Sequence[int]], num_workers: int, buffer_size: int):
        self.count = len(batches)
        self.workers: list[_Worker] = []
        atexit.register(self.close)  # before multiprocessing's own end, which waits for workers that ignore SIGTERM
        try:
            with _interrupts_postponed():
                for number in range(min(num_workers, len(batches))):
                    share = batches[number::num_workers]
                    others = [worker.connection for worker in self.workers]
                    self.workers.append(_Worker(load, share, buffer_size, others))
        except OSError as error:
            self.close()
            raise UserError(
                f"cannot start {num_workers} loader processes ({error.strerror or error}); lower loader.num_workers "
                "or sampler.batch_size",
                code="data.no-worker",
            ) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def batches(self, convert: Callable[..., Any]) -> Iterator[Any]:
        """``convert(images, ...)`` of every batch, in order. ``convert`` must copy: buffers are used again.

        Raises:
            UserError: one that ``load`` raised, or a worker died, even if it has made all its batches.
            RuntimeError: ``load`` raised anything else; the message is its traceback.
        """
        for number in range(self.count):
            worker = self.workers[number % len(self.workers)]
            batch = convert(*worker.receive())
            worker.release()
            for other in self.workers:
                other.check()
            yield batch

    def close(self) -> None:
        """End the workers at once. They hold nothing that needs an orderly end."""
        if sys.is_finalizing():  # an iterator lives until modules are taken apart; the workers ended before, at exit
            return
        with _interrupts_postponed():
            for worker in self.workers:
                worker.process.kill()
            for worker in self.workers:
                worker.process.join()
                worker.process.close()
                worker.connection.close()
                worker.buffers.clear()
            self.workers.clear()
        atexit.unregister(self.close)


class _Worker:
    """One process, seen from the main process."""

    def __init__(self, load: Load, batches: Sequence[Sequence[int]], buffer_size: int, others: list[Connection]):
        self.buffers = [mmap.mmap(-1, buffer_size) for _ in range(PREFETCH_FACTOR)] if buffer_size else []
        self.turn = 0
        self.connection, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        arguments = (load, batches, self.buffers, theirs, [*others, self.connection], os.getpid())
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        try:
            with _signals_held():
                self.process.start()
        except BaseException:
            self.connection.close()
            self.buffers.clear()
            raise
        finally:
            theirs.close()

    def receive(self) -> tuple[Any, ...]:
        """What ``load`` made of the next batch. The images, which are the first of it, may lie in a buffer."""
        try:
            while not self.connection.poll(CHECK_INTERVAL):
                if not self.process.is_alive() and not self.connection.poll():
                    raise EOFError
            received = self.connection.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if isinstance(received, Exception):
            raise received
        images, *others = received
        if isinstance(images, _InBuffer):
            images = _view(self.buffers[self.turn % PREFETCH_FACTOR], images.shape, images.dtype)
        return images, *others

    def release(self) -> None:
        """Let the worker use the buffer of the batch received last."""
        self.turn += 1
        try:
            self.connection.send_bytes(b"")
        except OSError:
            raise self._died() from None

    def check(self) -> None:
        """Raise a :class:`UserError` if the worker has died."""
        if not self.process.is_alive():
            raise self._died()

    def _died(self) -> UserError:
        self.process.join()
        code = self.process.exitcode or 0
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if code == -signal.SIGKILL:
            advice = "which the system sends when memory runs out; lower loader.num_workers or sampler.batch_size"
        else:
            advice = "from outside or by a crash; set loader.num_workers to 0 to see an error of its own"
        return UserError(f"a loader process was {how}, {advice}", code="data.worker-died")


class _InBuffer:
    """Stands for an array that lies in the buffer whose turn it is."""

    def __init__(self, array: np.ndarray):
        self.shape = array.shape
        self.dtype = array.dtype


def _view(buffer: mmap.mmap, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.frombuffer(buffer, dtype, int(np.prod(shape))).reshape(shape)


def _serve(
    load: Load,
    batches: Sequence[Sequence[int]],
    buffers: list[mmap.mmap],
    connection: Connection,
    inherited: list[Connection],
    main_process: int,
) -> None:
    """What a worker does."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED_SIGNALS)
    for name in RESET_SIGNALS:  # the main process's handlers, among them Paddle's, are not for a worker
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(main_process,), daemon=True).start()
    for other in inherited:  # held open here, the main process's ends would hide its death from the other workers
        other.close()
    try:
        for turn, indices in enumerate(batches):
            if turn >= PREFETCH_FACTOR:
                connection.recv_bytes()  # the buffer is free again
            connection.send(_load_into(load, indices, buffers[turn % PREFETCH_FACTOR] if buffers else None))
        while True:
            connection.recv_bytes()
    except (EOFError, OSError):  # the main process has died
        pass


def _end_with(main_process: int) -> None:
    """End this worker soon after the main process, even while it loads."""
    while os.getppid() == main_process:
        time.sleep(CHECK_INTERVAL)
    os._exit(1)


def _load_into(load: Load, indices: Sequence[int], buffer: mmap.mmap | None) -> Any:
    """A batch, ready to be sent: (array or :class:`_InBuffer`, ...), or the exception to raise."""
    try:
        images, *others = load(indices)
    except UserError as error:
        return error
    except Exception as error:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return RuntimeError(f"a loader process failed:\n{text}")
    if buffer is None or images.nbytes > len(buffer):
        return images, *others
    np.copyto(_view(buffer, images.shape, images.dtype), images)
    return _InBuffer(images), *others


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold the signals that workers ignore. A worker that is forked meanwhile lets them in once it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _interrupts_postponed() -> Iterator[None]:
    """Ctrl-C takes effect shortly after the block.

    Inside, it could hit a process that does not ignore it yet, or be lost: Python drops exceptions while it disposes of
    an iterator that nobody wants any more.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield  # Python's handlers run in the main thread alone; None is a handler that is not Python's
        return
    received: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if received:
            threading.Timer(POSTPONEMENT, _thread.interrupt_main).start()
