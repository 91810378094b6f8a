"""Trainings of two processes in which one fails, started without a launcher by a process that has Paddle imported.

    python faulty_processes.py FOLDER NAME...

FOLDER holds the colour project; NAMES are those of :data:`FAULTS`. Every start is a fork of this process. Prints a JSON
object with what the processes of each training left: exit codes, seconds, standard error, processes that stay.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from ppreplk.cli import main
from ppreplk.training import process_watch
from ppreplk.training.saving import Saver
from ppreplk.training.stepping import Stepper
from ppreplk.training.trainer import Trainer
from ppreplk.utils.errors import UserError

SHORT = {"INTERVAL": 0.2, "GRACE": 1.0, "SILENCE": 2.0, "BEHIND_WARNING": 1.0, "BEHIND_LIMIT": 2.0}
OPTIONS = ["Global.epochs=3", "DataLoader.Train.sampler.batch_size=3", "Global.num_threads=1"]


def at_batch(number: int, fault: Callable[[], None]) -> None:
    """Let process ``number`` fail before its second batch."""
    step = Stepper.train_batch

    def train_batch(self, epoch, iteration, images, labels):
        if (process_watch.rank(), epoch, iteration) == (number, 1, 1):
            fault()
        return step(self, epoch, iteration, images, labels)

    Stepper.train_batch = train_batch


def fail(error: BaseException) -> None:
    raise error


def kill(number: int) -> None:
    os.kill(os.getpid(), number)


def spin() -> None:
    while True:
        pass


def never_loaded() -> None:
    step = process_watch.ProcessWatch.batch_read

    def batch_read(self):
        if self.own == 1 and self.batches == 1:
            spin()
        step(self)

    process_watch.ProcessWatch.batch_read = batch_read


def spoilt_weights() -> None:
    """Weights of process 1 alone become NaN where no loss shows it."""
    save = Trainer._save_inside

    def save_inside(self, iteration, averages):
        if process_watch.rank() == 1 and iteration == 2:
            self.model.head.bias.set_value(self.model.head.bias * float("nan"))
            self.watch.check_weights(self.model)
        save(self, iteration, averages)

    Trainer._save_inside = save_inside


def other_list() -> None:
    """Process 1 does not find the images."""
    if process_watch.rank() == 1:
        OPTIONS.append("DataLoader.Train.dataset.cls_label_path=./missing.txt")


def two_loaders() -> None:
    OPTIONS.append("DataLoader.Train.loader.num_workers=1")


def nan_loss() -> None:
    """The loss of the second batch of process 1 is not finite."""
    step = Stepper.train_batch

    def train_batch(self, epoch, iteration, images, labels):
        if (process_watch.rank(), epoch, iteration) == (1, 1, 1):
            self.model.head.bias.set_value(self.model.head.bias * float("nan"))
        return step(self, epoch, iteration, images, labels)

    Stepper.train_batch = train_batch
    OPTIONS.append("Global.print_batch_step=2")


def undisturbed() -> None:
    """Process 0 alone takes longer over something than a process may be silent; process 1 must write nothing.

    The training ends by patience.
    """
    finish = Saver.remove_old

    def slow(self, run):
        if not self.folder.joinpath("epoch_2.pdparams").exists():
            time.sleep(1.5 * SHORT["SILENCE"])
        finish(self, run)

    Saver.remove_old = slow
    process_watch.BEHIND_LIMIT = 60.0
    OPTIONS.extend(["EMA={decay: 0.9}", "Global.save_interval=1", "Global.keep_checkpoints=1", "Global.patience=1"])
    OPTIONS.extend(["Global.save_step_interval=1", "Optimizer.lr.learning_rate=0.0"])
    if process_watch.rank() == 1:
        sys.addaudithook(say_what_is_written)


def say_what_is_written(event: str, arguments: tuple) -> None:
    if event in ("os.mkdir", "os.rename", "os.remove", "os.truncate"):
        os.write(2, f"WRITES {event} {arguments}\n".encode())
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        os.write(2, f"WRITES {arguments}\n".encode())


def other_folder() -> None:
    """Process 1 does not see the checkpoints of the undisturbed training."""
    OPTIONS.append("Global.checkpoints=auto")
    OPTIONS.append("EMA={decay: 0.9}")
    if process_watch.rank() == 0:
        OPTIONS.append("Global.output_dir=output-undisturbed")


def other_weights() -> None:
    """Both go on from the same moment, but process 1 sees other weights."""
    other_folder()
    find = Saver.find_start

    def find_start(self, optimizer):
        found = find(self, optimizer)
        if self.settings.output_dir != "output-undisturbed":
            found.manifest.digests[".pdparams"] = "0" * 32
        return found

    Saver.find_start = find_start
    OPTIONS.append("Global.checkpoints=output-undisturbed/latest")


FAULTS: dict[str, Callable[[], None]] = {
    "undisturbed": undisturbed,
    "killed": lambda: at_batch(1, lambda: kill(signal.SIGKILL)),
    "killed-with-loaders": lambda: (two_loaders(), at_batch(1, lambda: kill(signal.SIGKILL)))[1],
    "first-killed": lambda: at_batch(0, lambda: kill(signal.SIGKILL)),
    "stopped": lambda: at_batch(1, lambda: kill(signal.SIGSTOP)),
    "first-stopped": lambda: at_batch(0, lambda: kill(signal.SIGSTOP)),
    "exception": lambda: at_batch(1, lambda: fail(ZeroDivisionError("no reason"))),
    "runtime-error": lambda: at_batch(1, lambda: fail(RuntimeError("no reason"))),
    "user-error": lambda: at_batch(1, lambda: fail(UserError("no reason", code="data.no-reason"))),
    "sys-exit": lambda: at_batch(1, lambda: sys.exit(0)),
    "endless-loop": never_loaded,
    "endless-loop-in-batch": lambda: at_batch(1, spin),
    "other-list": other_list,
    "spoilt-weights": spoilt_weights,
    "nan-loss": nan_loss,
    "other-folder": other_folder,
    "other-weights": other_weights,
}


def start(number: int, port: int, fault: str) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        os.dup2(os.open(f"{fault}.{number}.txt", os.O_WRONLY | os.O_CREAT, 0o644), 2)
        endpoints = [f"127.0.0.1:{port + each}" for each in range(2)]
        os.environ.update(
            PADDLE_TRAINER_ID=str(number),
            PADDLE_TRAINERS_NUM="2",
            PADDLE_TRAINER_ENDPOINTS=",".join(endpoints),
            PADDLE_CURRENT_ENDPOINT=endpoints[number],
            PADDLE_MASTER=endpoints[0],
            PADDLE_DISTRI_BACKEND="gloo",
        )
        for name, value in SHORT.items():
            setattr(process_watch, name, value)
        FAULTS[fault]()
        options = [f"Global.output_dir=output-{fault}", *OPTIONS]  # the last of a key counts
        code = main(["train", "-c", "config.yaml", *(part for text in options for part in ("-o", text))])
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def run(fault: str) -> dict:
    """Start both processes, and wait for their ends; the one that stays stopped is let go on then."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begin = time.monotonic()
    left = {start(number, port, fault): number for number in range(2)}
    first = dict(left)
    codes, seconds = [None, None], [0.0, 0.0]
    while left and time.monotonic() < begin + 60:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child in left:
            number = left.pop(child)
            codes[number], seconds[number] = os.waitstatus_to_exitcode(status), time.monotonic() - begin
            for other in left:
                os.kill(other, signal.SIGCONT)
        time.sleep(0.02)
    for child in left:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    remaining = time.monotonic() + 10
    while any(session(pid) in first for pid in os.listdir("/proc") if pid.isdigit()) and time.monotonic() < remaining:
        time.sleep(0.05)
    return {
        "codes": codes,
        "seconds": seconds,
        "errors": [Path(f"{fault}.{number}.txt").read_text() for number in range(2)],
        "left": sum(session(pid) in first for pid in os.listdir("/proc") if pid.isdigit()),
    }


def session(pid: str) -> int:
    try:
        return os.getsid(int(pid))
    except ProcessLookupError:
        return -1


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    print(json.dumps({name: run(name) for name in sys.argv[2:]}))
