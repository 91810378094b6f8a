"""Processes of one training watch each other: where one dies or stops, all end, with the reason.

Without it a process waits for ever in the exchange of gradients with one that is gone. A thread of each process says
once a second, over a connection to process 0, that it is there. A stopped process is silent, a dead one's connection
closes, and one that fails says why. The thread beats while the main thread evaluates or writes a large checkpoint.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import secrets
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paddle

from ..utils.device import join_processes
from ..utils.distributed import largest_over_processes, processes, sum_over_processes
from ..utils.errors import UserError
from ..utils.rank import rank

logger = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two beats
SILENCE = 25.0  # seconds; gloo, which processes on CPUs talk through, gives up after 30 without saying on whom
GRACE = 2.0  # seconds for this process to end by itself after another one has failed; launchers kill after 3
STOP_GRACE = 10.0  # the same after a signal, which all processes have been told of
BEHIND_WARNING, BEHIND_LIMIT = 60.0, 600.0  # seconds that one process may let the others wait before a batch
CONNECT = 10.0  # seconds
LOST = 75  # exit code, EX_TEMPFAIL of sysexits.h: the same command may succeed when it is started again
ADVICE = "start again with Global.checkpoints=auto"


@contextmanager
def watched_processes(device: str) -> Iterator[ProcessWatch]:
    """Join the processes of the launcher and watch them while the block runs.

    If another process is lost, this one ends in the block, with one line and the exit code :data:`LOST`; with that of
    the other one if it has failed in an orderly way.

    Args:
        device: ``Global.device``.

    Raises:
        UserError: this Paddle or this machine does not have the device; the processes do not reach each other.
    """
    watch = ProcessWatch()
    if processes() == 1:
        yield watch
        return
    join_processes(device)
    watch.start()
    try:
        with watch.aborting_late():
            yield watch
    except (RuntimeError, OSError) as error:  # of a collective operation, perhaps, because another process is gone
        watch.wait_for_verdict()
        broken = watch.lost_connection(error)
        watch.leave(broken or error)
        if broken is None:
            raise
        raise broken from error
    except BaseException as error:
        watch.leave(error)
        raise
    watch.leave(None)


@dataclass
class Peer:
    """What is known of another process."""

    number: int
    host: str
    connection: socket.socket
    heard: float = field(default_factory=time.monotonic)  # when it was heard last
    buffer: bytes = b""
    closed: bool = False
    batches: int = 0  # that it has read
    moved: float = field(default_factory=time.monotonic)  # when that changed last
    place: str = ""  # where its main thread is
    left: dict[str, Any] | None = None  # its last words

    def send(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # receiving finds out why
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have come."""
        if self.closed or not select.select([self.connection], [], [], 0)[0]:
            return []
        try:
            data = self.connection.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return []
        self.heard = time.monotonic()
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]


class ProcessWatch:
    """The thread that watches. Process 0 watches all others and tells each of them what it finds; they watch it."""

    def __init__(self) -> None:
        self.own, self.count = rank(), processes()
        self.batches = 0
        self._peers: list[Peer] = []
        self._strangers: list[Peer] = []  # that have connected, and not yet said who they are
        self._listener: socket.socket | None = None
        self._token = 0
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._warned = False
        self._moved = time.monotonic()
        self._main = threading.main_thread().ident

    def batch_read(self) -> None:
        """Call when a batch of the training has been read: this process goes on."""
        self.batches += 1
        self._moved = time.monotonic()

    # ----------------------------------------------------------------------------------------------------
    # Begin and end, in the main thread

    def start(self) -> None:
        """Connect all processes. All of them must call this at the same moment."""
        host = paddle.distributed.ParallelEnv().trainer_endpoints[0].rpartition(":")[0]
        port = 0
        if self.own == 0:
            self._listener = _listen(host)
            port = self._listener.getsockname()[1]
            self._token = secrets.randbits(62)
        port, self._token = largest_over_processes(port), largest_over_processes(self._token)
        if self.own > 0:
            self._connect(host, port)
        threading.Thread(target=self._watch, name="process-watch", daemon=True).start()
        connected = sum_over_processes([float(self.own == 0 or bool(self._peers))])[0]
        if self.own == 0 and connected < self.count:
            logger.warning(
                "%d of %d processes cannot reach process 0 at %s: if one of them stops, the others wait for it",
                *(self.count - connected, self.count, host),
            )

    def _connect(self, host: str, port: int) -> None:
        try:
            connection = socket.create_connection((host, port), CONNECT)
        except OSError:
            return
        connection.settimeout(None)
        peer = Peer(0, host, connection)
        peer.send({"token": self._token, "number": self.own, "host": socket.gethostname()})
        self._peers.append(peer)

    def wait_for_verdict(self) -> None:
        """Wait a moment for the thread to find that another process is lost, which ends this one."""
        time.sleep(GRACE + 2 * INTERVAL)

    def lost_connection(self, error: Exception) -> UserError | None:
        """What gloo says where processes lose each other although all are alive, as one line."""
        text = " ".join(str(error).split())
        if "gloo/transport" not in text:
            return None
        return UserError(
            f"process {self.own} of {self.count} waited for another one in vain ({text[-120:]}); {self._places()}; on "
            f"CPUs no process may let the others wait for more than 30 s; {ADVICE}",
            code="training.lost-process",
        )

    def leave(self, error: BaseException | None) -> None:
        """Tell the others that this process goes, and why, and watch no longer."""
        words: dict[str, Any] = {"left": "", "code": 0}
        if isinstance(error, KeyboardInterrupt):
            words = {"left": "stopped by a signal", "code": LOST, "signal": True}
        elif isinstance(error, UserError):
            words = {"left": f"{error} [{error.code}]", "code": error.exit_code}
        elif isinstance(error, SystemExit):
            words = {"left": f"sys.exit({error.code!r})", "code": LOST}
        elif error is not None:
            words = {"left": " ".join(f"{type(error).__name__}: {error}".split())[:500], "code": LOST}
        with self._lock:
            self._left.set()
            for peer in self._peers:
                peer.send(words)
        if words["left"]:
            self._let_others_end(STOP_GRACE if "signal" in words else 3 * GRACE)

    def _let_others_end(self, seconds: float) -> None:
        """Wait for the others: they are to give the reason, not that the connection to this process is lost."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not all(peer.closed or peer.left for peer in self._peers):
            for peer in self._peers:
                for message in peer.receive():
                    peer.left = message if "left" in message else peer.left
            time.sleep(0.02)

    @contextmanager
    def aborting_late(self) -> Iterator[None]:
        """Give the thread time to say which process is lost, before C++ ends this one because it is.

        Gradients are exchanged in C++. There gloo's exception at a lost connection becomes no exception of Python, but
        the end of the process.
        """
        try:
            set_terminate = ctypes.CDLL("libstdc++.so.6")["_ZSt13set_terminatePFvvE"]
        except (OSError, AttributeError):  # another system
            yield
            return
        set_terminate.restype, set_terminate.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        function = ctypes.CFUNCTYPE(None)

        def terminate() -> None:
            self.wait_for_verdict()
            text = f"an exchange between processes has failed in C++; {self._places()}; {ADVICE}"
            os.write(2, f"error: process {self.own} of {self.count}: {text} [training.lost-process]\n".encode())
            self.leave(RuntimeError(text))
            function(before)()

        late = function(terminate)
        before = set_terminate(ctypes.cast(late, ctypes.c_void_p))
        try:
            yield
        finally:
            set_terminate(before)

    # ----------------------------------------------------------------------------------------------------
    # The thread

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._left.is_set():
            now = time.monotonic()
            if now - last > 5 * INTERVAL:  # this process has been stopped itself: what it knows is old
                for peer in self._peers:
                    peer.heard = peer.moved = now
            last = now
            with self._lock:
                if not self._left.is_set():
                    self._round()
            open_ones = [peer.connection for peer in [*self._peers, *self._strangers] if not peer.closed]
            select.select([*open_ones, *filter(None, [self._listener])], [], [], INTERVAL)

    def _round(self) -> None:
        if self._listener is not None:
            self._accept(self._listener)
        for peer in self._peers:
            for message in peer.receive():
                self._hear(peer, message)
            peer.send({"batches": self.batches, "place": self._place()})
        for peer in self._peers:
            self._check(peer)
        if self.own == 0:
            self._check_batches()

    def _accept(self, listener: socket.socket) -> None:
        """Take processes in that know the token."""
        with suppress(BlockingIOError):
            while True:
                self._strangers.append(Peer(-1, "", listener.accept()[0]))
        for stranger in list(self._strangers):
            try:
                messages = stranger.receive()
                if messages and messages[0]["token"] == self._token:
                    stranger.number, stranger.host = messages[0]["number"], messages[0]["host"]
                    self._peers.append(stranger)
                    for message in messages[1:]:
                        self._hear(stranger, message)
            except (ValueError, KeyError, TypeError):  # no process of ours
                stranger.closed = True
        self._strangers = [each for each in self._strangers if each.number < 0 and not each.closed]

    def _hear(self, peer: Peer, message: dict[str, Any]) -> None:
        if "lost" in message:
            self._end(message["lost"], message["code"])
        if "left" in message:
            peer.left = message
        elif message.get("batches", peer.batches) != peer.batches:
            peer.batches, peer.moved = message["batches"], time.monotonic()
        peer.place = message.get("place", peer.place)

    def _check(self, peer: Peer) -> None:
        silence = time.monotonic() - peer.heard
        name = f"process {peer.number} of {self.count} ({peer.host})"
        if peer.left is not None:
            grace = STOP_GRACE if peer.left.get("signal") else GRACE
            if peer.left["left"] and silence > grace:
                self._lost(f"{name} has ended: {peer.left['left']}", peer.left["code"])
        elif peer.closed:
            self._lost(f"{name} is gone without a word, killed or for lack of memory; its log may say more; {ADVICE}")
        elif silence > SILENCE:
            self._lost(
                f"{name} has been silent for {SILENCE:g} s: it is stopped, or its machine cannot be reached; make "
                f"sure that it has ended, then {ADVICE}"
            )

    def _check_batches(self) -> None:
        """Find the process that the others wait for."""
        present = [peer for peer in self._peers if peer.left is None]
        waiting = time.monotonic() - max([self._moved, *(peer.moved for peer in present)])
        batches = {self.own: self.batches, **{peer.number: peer.batches for peer in present}}
        behind = min(batches.values()) < max(batches.values())
        if not present or waiting < (BEHIND_WARNING if behind else BEHIND_LIMIT):
            self._warned = False
            return
        number = min(batches, key=batches.__getitem__)
        text = f"no process has begun another batch for {waiting:.0f} s"
        if behind:
            text = f"process {number} of {self.count} has kept the others waiting for {waiting:.0f} s"
        if behind and waiting > BEHIND_LIMIT:
            self._lost(f"{text}; {self._places()}; {ADVICE}")
        if not self._warned:
            self._warned = True
            logger.warning("%s; %s", text, self._places())

    def _places(self) -> str:
        """Where the main threads are that this process knows of."""
        places = {self.own: self._place(), **{peer.number: peer.place for peer in self._peers}}
        return ", ".join(f"process {number} is at {places[number]}" for number in sorted(places) if places[number])

    def _place(self) -> str:
        """Where the main thread is in this package."""
        frame = sys._current_frames().get(self._main or 0)
        while frame is not None:
            name = frame.f_globals.get("__name__", "")
            if name.partition(".")[0] == __name__.partition(".")[0] and name != __name__:
                return f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"
            frame = frame.f_back
        return "an unknown place"

    def _lost(self, text: str, code: int = LOST) -> None:
        for peer in self._peers:
            peer.send({"lost": text, "code": code})
        self._end(text, code)

    def _end(self, text: str, code: int) -> None:
        """End this process, whose main thread waits where nothing can wake it."""
        os.write(2, f"error: {text} [training.lost-process]\n".encode(errors="backslashreplace"))
        os._exit(code)


def _listen(host: str) -> socket.socket:
    listener = socket.socket()
    try:
        listener.bind((host, 0))
    except OSError:  # the address is another machine's, which passes connections on
        listener.bind(("", 0))
    listener.listen(1024)
    listener.setblocking(False)
    return listener
