"""What can happen to a training's files, processes and machine, each with its message; what was saved stays whole."""

import errno
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import ROOT, refused
from runs import config, same_weights
from versions import Versions

from ppreplk.training import train
from ppreplk.training.checkpoint_files import SUFFIXES
from ppreplk.training.checkpoint_search import find_newest, find_whole
from ppreplk.training.stepping import Stepper
from ppreplk.utils.folder_lock import LOCK, only_process_in

EMA = {"decay": 0.5}
AUTO = "Global.checkpoints=auto"
INCOMPLETE = "training.incomplete-checkpoint"


def trained(epochs: int, *overrides: str):
    return train(config(f"Global.epochs={epochs}", "Global.save_interval=1", *overrides, EMA=EMA))


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


# --------------------------------------------------------------------------------------------------------
# Damaged checkpoints


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))


def missing(path: Path) -> None:
    path.unlink()


def swapped(path: Path) -> None:
    """The same file of another moment."""
    shutil.copyfile(path.with_name(f"epoch_1{path.suffix}"), path)


NAMED = {  # what is said of latest.pdopt, for example, and of latest.pdstates
    truncated: ("latest{} has ", "latest.pdstates: not a whole checkpoint"),
    flipped: ("latest{} is not what was saved", "latest.pdstates: not a whole checkpoint"),
    missing: ("latest{} is missing", "latest.pdstates missing"),
    swapped: ("latest{} ", "latest.pdparams is not what was saved with the others, output/latest.pdema"),
}


def test_every_damage_of_every_file_is_named_and_auto_takes_the_newest_good_one(project, caplog):
    trained(2)
    for path in [*Path("output").glob("best_model.*"), *Path("output").glob("epoch_2.*")]:
        path.unlink()  # they may be of the same moment as latest
    shutil.copytree("output", "good")
    for damage, said in NAMED.items():
        for suffix in SUFFIXES:
            shutil.rmtree("output")
            shutil.copytree("good", "output")
            damage(Path(f"output/latest{suffix}"))
            message = said[suffix == ".pdstates"].format(suffix)
            with refused(INCOMPLETE, f"output/{message}"):
                find_whole("output/latest", "AdamW", True)
            caplog.clear()
            found = find_newest("output", "AdamW", True)
            assert found is not None and found.prefix == "output/epoch_1", (damage, suffix)
            (line,) = warnings(caplog)
            assert "passed over" in line and f"output/{message}" in line
    caplog.clear()
    trained(2, AUTO)  # the states are those of the first epoch, with the files of the second
    assert any("passed over" in line for line in warnings(caplog))
    for suffix in (".pdparams", ".pdema"):
        assert same_weights(f"output/latest{suffix}", f"good/latest{suffix}")


def test_auto_does_not_begin_anew_over_damaged_checkpoints(project):
    trained(1)
    for path in Path("output").glob("*.pdopt"):
        truncated(path)
    with refused(INCOMPLETE, "no checkpoint in output is whole", "latest.pdopt", "epoch_1.pdopt", "best_model.pdopt"):
        trained(2, AUTO)


def test_auto_does_not_pass_over_another_training(project):
    trained(1)
    with refused("training.wrong-checkpoint", "averaged weights"):
        train(config(AUTO))


def test_a_clock_that_is_set_back_changes_nothing(project):
    trained(2)
    for age, name in ((10**9, "latest"), (10**9, "best_model"), (10**9, "epoch_2"), (0, "epoch_1")):
        for suffix in SUFFIXES:
            os.utime(f"output/{name}{suffix}", (2 * 10**9 - age,) * 2)
    found = find_newest("output", "AdamW", True)
    assert found is not None and (found.prefix, found.state.epoch) == ("output/latest", 2)


# --------------------------------------------------------------------------------------------------------
# Disks


@contextmanager
def disk(folder: Path, size: int):
    """A file system of ``size`` bytes of its own."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=30)


@contextmanager
def files_no_larger_than(size: int):
    """The system refuses to write more into one file. Needs no privileges."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_is_full_at_any_write_leaves_the_checkpoint_before(tmp_path):
    page, folder = 4096, tmp_path / "small"
    with disk(folder, 2 << 20):
        versions = Versions(folder, with_ema=True)
        versions.save(1)
        needed = sum(path.stat().st_size for path in folder.iterdir())
        filler, messages = folder / "filler", 0
        for pages in range(needed // page + 6):
            free = os.statvfs(folder).f_bavail * page
            filler.write_bytes(bytes(free - pages * page))
            try:
                versions.save(2)
            except ValueError as error:
                assert "latest.pdparams (No space left on device)" in str(error) and "\n" not in str(error)
                messages += 1
                assert versions.version() == 1
                assert {path.name for path in folder.iterdir()} == {"filler", *(f"latest{s}" for s in SUFFIXES)}
            else:
                assert versions.version() == 2
                break
            filler.unlink()
        else:
            raise AssertionError("it never fitted")
        assert messages >= needed // page


def test_a_file_that_may_not_grow_leaves_the_checkpoint_before(tmp_path):
    versions = Versions(tmp_path, with_ema=True)
    versions.save(1)
    sizes = sorted(path.stat().st_size for path in tmp_path.iterdir())
    for size in (0, *(size - 1 for size in sizes)):
        with files_no_larger_than(size):
            with refused("training.cannot-write", "latest.pdparams (File too large)"):
                versions.save(2)
        assert versions.version() == 1
        versions.assert_clean()


def test_a_full_disk_ends_a_training_with_one_line_and_it_goes_on_when_there_is_room(project, caplog):
    trained(2, "Global.output_dir=whole")
    with disk(project / "output", 2 << 20):
        trained(1)
        free = os.statvfs("output").f_bavail * 4096
        Path("output/filler").write_bytes(bytes(free - 8192))
        with refused("training.cannot-write", "cannot write output/", "(No space left on device)"):
            trained(2, AUTO)
        Path("output/filler").unlink()
        assert trained(2, AUTO).epoch == 2
        assert same_weights("output/latest", "whole/latest")


def test_a_folder_that_cannot_be_written_to(project):
    """Root may write everywhere but to a file system that is read-only."""
    with disk(project / "output", 2 << 20):
        trained(1)
        versions = Versions(project / "output", with_ema=True)
        versions.save(1)
        subprocess.run(["mount", "-o", "remount,ro", "output"], check=True, timeout=30)
        with refused("training.cannot-write", "latest.pdparams (Read-only file system)"):
            versions.save(2)
        assert versions.version() == 1
        with refused("training.cannot-write", "output cannot be written to", "Global.output_dir"):
            trained(2)


def test_a_folder_that_another_training_writes_to(project):
    trained(1)

    def others():
        return {path.name: path.read_bytes() for path in Path("output").iterdir() if path.name != LOCK}

    before = others()
    reading, writing = os.pipe()
    other = os.fork()
    if other == 0:
        with only_process_in(Path("output"), "another training", "Global.output_dir"):
            os.write(writing, b"locked")
            time.sleep(60)
        os._exit(0)
    try:
        assert os.read(reading, 6) == b"locked"
        with refused("utils.folder-in-use", f"another training writes to output (process {other})", "choose another"):
            trained(2, AUTO)
        assert others() == before
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    assert trained(2, AUTO).epoch == 2


def test_a_folder_where_files_cannot_be_locked(project, monkeypatch):
    """As on some file systems of a network: nobody is refused."""

    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    with only_process_in(Path("."), "another training", "Global.output_dir"):
        assert Path(LOCK).read_text() == str(os.getpid())


LOADING = """
import os, sys
import numpy as np
from ppreplk.data import ImageNetDataset, Loader

class Large(ImageNetDataset):
    def __init__(self):
        self.source, self.seed, self.epoch = "large", 0, 0
    def __len__(self):
        return 12
    def __getitem__(self, index):
        return np.full((3, 1024, 1024), index, np.float32), index, index

assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 64 << 20
for images, labels in Loader(Large(), 2, False, False, num_workers=2):  # four buffers of 24 MB
    assert (images[:, 0, 0, 0].numpy() == labels.numpy()).all()
print(os.listdir("/dev/shm"))
"""


def test_shared_memory_of_64_megabytes_as_containers_have_it(tmp_path):
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "sh", "-c", mount]).returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$0" -W ignore -c "$1"', sys.executable, LOADING]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert process.stdout == "[]\n"


# --------------------------------------------------------------------------------------------------------
# Processes


def test_a_training_whose_loader_process_is_killed_goes_on_from_its_last_checkpoint(project, monkeypatch):
    options = ["DataLoader.Train.loader.num_workers=2", "DataLoader.Train.sampler.batch_size=2", "Global.update_freq=3"]
    options += ["Global.save_step_interval=1", AUTO]
    trained(2, *options, "Global.output_dir=whole")
    step = Stepper.train_batch

    def killing(self, epoch, iteration, images, labels):
        if (epoch, iteration) == (2, 3):
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        return step(self, epoch, iteration, images, labels)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "train_batch", killing)
        with refused("data.worker-died", "SIGKILL", "loader.num_workers"):
            trained(2, *options)
    found = find_newest("output", "AdamW", True)
    assert found is not None and found.state.position in [(0, 1, 3), (0, 1, 6)]  # batches that were loaded are used
    trained(2, *options)
    assert same_weights("output/latest", "whole/latest") and same_weights("output/best_model", "whole/best_model")
