"""A checkpoint of several files changes as one, whatever stops the process that writes it."""

import os
import signal
from pathlib import Path

import paddle
import pytest
from helpers import refused, run_python
from runs import config
from versions import Versions

from ppreplk.training import train
from ppreplk.training.checkpoint_search import find_whole
from ppreplk.training.signals import stopping_put_off
from ppreplk.training.stepping import Stepper

KILLED_EVERYWHERE = """
import os, signal, sys
from pathlib import Path
from versions import Versions

root = Path(sys.argv[1])
versions = Versions(root, with_ema=sys.argv[2] == "ema")
seen, number = [], 0
while True:
    number += 1
    folder = root / str(number)
    folder.mkdir()
    versions.prefix = folder / "latest"
    versions.save(1)
    child = os.fork()
    if child == 0:
        count = 0

        def look(event, arguments):
            global count
            if event in ("open", "os.rename", "os.remove") and str(folder) in str(arguments[0]):
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(look)
        versions.save(2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    seen.append(versions.version())
    versions.save(3)
    assert versions.version() == 3
    versions.assert_clean()
    if status == 0:
        break
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
print(*seen)
"""


@pytest.mark.parametrize("with_ema", ["plain", "ema"])
def test_killed_at_any_access_to_a_file_it_is_the_old_or_the_new_checkpoint(tmp_path, monkeypatch, with_ema):
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    seen = [int(word) for word in run_python(KILLED_EVERYWHERE, tmp_path, with_ema).split()]
    files = 4 if with_ema == "ema" else 3
    assert len(seen) > 3 * files  # each file is written, read for its digest, renamed
    assert seen == sorted(seen) and set(seen) == {1, 2}
    assert seen.count(2) >= files  # killed at any rename but the first, it is the new one already


@pytest.mark.parametrize("with_ema", [False, True])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_at_any_rename_it_is_the_old_or_the_new_checkpoint(tmp_path, monkeypatch, with_ema, after, error):
    versions = Versions(tmp_path, with_ema)
    versions.save(1)
    replace, seen = os.replace, []
    for failing in range(1, 5 if with_ema else 4):
        calls = []

        def interrupted(source, target, failing=failing, calls=calls):
            calls.append(target)
            if len(calls) == failing and not after:
                raise error("interrupted")
            replace(source, target)
            if len(calls) == failing:
                raise error("interrupted")

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", interrupted)
            if error is OSError:
                with refused("training.cannot-write", "latest.pdparams", "interrupted"):
                    versions.save(2)
            else:
                with pytest.raises(KeyboardInterrupt):
                    versions.save(2)
        seen.append(versions.version())
        versions.assert_clean()
        versions.save(1)
    assert seen == [2 if after else 1] + [2] * (len(seen) - 1)


def test_interrupted_while_it_writes_the_old_checkpoint_stays(tmp_path, monkeypatch):
    versions = Versions(tmp_path, with_ema=True)
    versions.save(1)
    for failing in range(1, 4):
        save, calls = paddle.save, []

        def interrupted(content, path, failing=failing, calls=calls, save=save):
            calls.append(path)
            if len(calls) == failing:
                Path(path).write_bytes(b"half")
                raise KeyboardInterrupt
            save(content, path)

        with monkeypatch.context() as patch:
            patch.setattr(paddle, "save", interrupted)
            with pytest.raises(KeyboardInterrupt):
                versions.save(2)
        assert versions.version() == 1
        versions.assert_clean()


def test_averaged_weights_of_an_earlier_run_go(tmp_path):
    Versions(tmp_path, with_ema=True).save(1)
    versions = Versions(tmp_path, with_ema=False)
    versions.save(2)
    assert versions.version() == 2
    versions.assert_clean()


def test_it_is_found_with_any_suffix_and_not_as_a_folder(tmp_path):
    versions = Versions(tmp_path, with_ema=False)
    with refused("training.incomplete-checkpoint", f"{tmp_path} is a folder", "there is none"):
        find_whole(str(tmp_path), "AdamW", False)
    versions.save(1)
    for suffix in ("", ".pdparams", ".pdopt", ".pdstates"):
        assert find_whole(f"{versions.prefix}{suffix}", "AdamW", False).prefix == str(versions.prefix)
    with refused("training.incomplete-checkpoint", f"{tmp_path} is a folder", str(versions.prefix)):
        find_whole(str(tmp_path), "AdamW", False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_waits_for_the_end_of_the_block(number):
    def stop(received, frame):
        raise InterruptedError(received)

    handler, done = signal.signal(number, stop), []
    try:
        with pytest.raises(InterruptedError):
            with stopping_put_off():
                os.kill(os.getpid(), number)
                done.append("block")
            done.append("after")
        assert done == ["block"] and signal.getsignal(number) is stop
    finally:
        signal.signal(number, handler)


@pytest.mark.parametrize("first", ["best_model", "latest"])
def test_a_run_stopped_while_it_saves_names_what_it_has_saved(project, monkeypatch, caplog, first):
    """Ctrl-C between the renames: the save ends, and the advice works."""
    caplog.set_level("INFO", "ppreplk")
    replace, calls = os.replace, []

    def stopped(source, target):
        replace(source, target)
        if f"{first}." in str(target):
            calls.append(target)
            if len(calls) == 1:
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(config())
    assert len(calls) == 3
    assert "stopped; go on with -o Global.checkpoints=output/latest" in caplog.text
    assert train(config("Global.checkpoints=output/latest")).epoch == 3
    assert not list(Path("output").glob("*.next"))


def test_a_run_stopped_before_it_has_saved_names_what_it_began_with(project, monkeypatch, caplog):
    caplog.set_level("INFO", "ppreplk")
    train(config("Global.epochs=1", "Global.output_dir=first"))

    def stopped(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "train_batch", stopped)
        for advice, overrides in (
            ("stopped before anything was saved", []),
            ("stopped; go on with -o Global.checkpoints=first/latest", ["Global.checkpoints=first/latest"]),
        ):
            caplog.clear()
            with pytest.raises(KeyboardInterrupt):
                train(config("Global.output_dir=second", *overrides))
            assert advice in caplog.text and caplog.text.count("stopped") == 1
