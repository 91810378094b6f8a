"""Contestants in processes of their own: in which order they run, and what becomes of those that fail."""

import os
from pathlib import Path

import numpy as np
import pytest

from ppreplk.benchmark import turn_process, turns
from ppreplk.benchmark.processor import processor
from ppreplk.benchmark.turns import Contest, Entry, Taken


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Make entries of the toys. What they note is in the file ``log``."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    (tmp_path / "log").touch()

    def entry(name, builder="plain", **arguments):
        return Entry(name, f"toys:{builder}", {"log": str(tmp_path / "log"), "name": name, **arguments})

    return entry


def calls(tmp_path) -> list[str]:
    return [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]


def test_contestants_take_turns_in_processes_of_their_own(toy, tmp_path):
    with Contest() as contest:
        first = contest.measure([toy("a"), toy("b")], rounds=2, calls=2, pause=0.0)
        assert calls(tmp_path) == ["a", "b"] + ["a", "a", "a", "b", "b", "b"] * 2
        contest.measure([toy("a")], rounds=1, calls=1, pause=0.0)
        pids = {line.split()[1] for line in (tmp_path / "log").read_text().splitlines()}
        assert len(pids) == 2 and str(os.getpid()) not in pids
    assert list(first) == ["a", "b"] and contest.notes == []
    for taken in first.values():
        assert [len(turn) for turn in taken.turns] == [2, 2] and 0 < taken.minimum <= taken.median
        assert taken.load_seconds > 0 and not taken.bfloat16
    with pytest.raises(ProcessLookupError):
        os.kill(int(min(pids)), 0)


def test_what_fails_is_one_line_and_the_others_go_on(toy, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("raise AttributeError('_ARRAY_API\\nnot found')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    missing = [Entry(name, "toys:plain", {}, (name,)) for name in ("no_such_package", "broken")]
    ending = [toy(how, "ends", how=how) for how in ("signal", "exit")]
    with Contest() as contest:
        entries = [*missing, toy("a"), toy("f", "fails"), *ending, toy("b")]
        taken = contest.measure(entries, rounds=2, calls=1, label="here", pause=0.0)
        assert list(taken) == ["a", "b"] and all(len(each.turns) == 2 for each in taken.values())
        assert contest.notes == [
            "without no_such_package: No module named 'no_such_package' (here)",
            "without broken: AttributeError: _ARRAY_API not found (here)",
            "without f: ValueError: two lines (here)",
            "without signal: its process was ended by SIGSEGV (here)",
            "without exit: last words (here)",
        ]
        again = contest.measure([*missing, toy("signal")], rounds=1, calls=1, label="there", pause=0.0)
        assert list(again) == ["signal"] and len(contest.notes) == 5  # a new process, and no note twice


def test_one_that_does_not_answer_is_given_up(toy, monkeypatch):
    with Contest() as contest:
        contest.measure([toy("a", "ends", how="sleep")], rounds=0, calls=1, pause=0.0)
        monkeypatch.setattr(turns, "SECONDS", 0.2)
        assert contest._ask("a", "", {"do": "turn", "calls": 1}) is None
    assert contest.notes == ["without a: no answer after 0.2 s"]


def test_ratios_are_medians_over_the_rounds():
    """The machine is half as fast in the second round, and nothing changes."""
    slow = Taken(0.0, 0, False, None, [[2.0, 2.2], [4.0, 4.4], [2.0, 9.0]])
    fast = Taken(0.0, 0, False, None, [[1.0, 1.1], [2.0, 2.2], [1.0, 1.1]])
    assert slow.times(fast) == pytest.approx(2.0) and fast.times(slow) == pytest.approx(0.5)
    assert slow.times(slow) == 1.0 and slow.times(None) is None
    assert (slow.minimum, slow.median) == (2.0, 3.1)


def test_other_frameworks_run_without_paddle(toy, tmp_path):
    output = str(tmp_path / "modules.npy")
    with Contest() as contest:
        contest.measure([Entry("peers", "toys:peers_modules", {}, (), output)], rounds=0, calls=1)
    assert contest.notes == [] and np.load(output).tolist() == ["end"]


def test_memory_is_what_building_adds(toy, tmp_path, monkeypatch):
    """128 MB, and not the 512 MB that an import took for a moment."""
    (tmp_path / "heavy.py").write_text("import numpy\nnumpy.ones(2**26)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak cannot be forgotten here")
    with Contest() as contest:
        taken = contest.measure([Entry("large", "toys:large", {}, ("heavy",))], rounds=0, calls=1)
    assert 2**27 < taken["large"].load_bytes + 2**20 < 2**28


def test_memory_without_linux(monkeypatch):
    monkeypatch.setattr(turn_process, "Path", lambda name: Path("/nonexistent"))
    assert turn_process.memory("VmRSS") == 0


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD  EPYC\nflags\t\t: fpu avx2 fma sse2\n\n"
            "processor\t: 1\nflags\t: avx512_bf16\n",
            "AMD EPYC, family 25 model 1 (AVX2)",
        ),
        ("model name : X\nflags : avx2 fma avx512f avx512bw avx512dq avx512vl amx_tile amx_bf16\n", None),
        ("model name : Y\nFeatures : asimd\n", "Y"),
    ],
)
def test_the_processor_has_a_name(tmp_path, monkeypatch, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr("ppreplk.benchmark.processor.CPUINFO", tmp_path / "cpuinfo")
    assert processor() == (expected or "X (AVX2, AVX-512, AMX BF16)")
    monkeypatch.setattr("ppreplk.benchmark.processor.CPUINFO", tmp_path / "none")
    assert processor()
