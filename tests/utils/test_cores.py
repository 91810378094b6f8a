"""Cores and threads: affinity, quotas of control groups in made-up files, OMP_NUM_THREADS."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import run_python

from ppreplk.utils.cores import available_cores, cpu_quota, default_threads, omp_num_threads

V1, V2 = "cpu.cfs_quota_us", "cpu.max"


def root_with(folder: Path, groups: str, files: dict[str, str]) -> Path:
    """A file system with /proc/self/cgroup and files below /sys/fs/cgroup."""
    for path, text in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{path}": text for path, text in files.items()},
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def version_1(*folders: tuple[str, int]) -> dict[str, str]:
    quotas = {f"cpu/{folder}{V1}": f"{quota}\n" for folder, quota in folders}
    return {**quotas, **{f"cpu/{folder}cpu.cfs_period_us": "100000\n" for folder, _ in folders}}


@pytest.mark.parametrize(
    "groups, files, expected",
    [
        pytest.param("0::/\n", {V2: "150000 100000\n"}, 1.5, id="a container, version 2"),
        pytest.param("0::/\n", {V2: "max 100000\n"}, None, id="no quota, version 2"),
        pytest.param("0::/\n", {}, None, id="the root group, which has no such file"),
        pytest.param("0::/a/b\n", {f"a/{V2}": "100000 50000\n", f"a/b/{V2}": "max 100000\n"}, 2.0, id="a parent's"),
        pytest.param("0::/a\n", {V2: "300000 100000\n", f"a/{V2}": "400000 100000\n"}, 3.0, id="the smallest one"),
        pytest.param("0::/../host\n", {V2: "50000 100000\n"}, 0.5, id="a group above this namespace"),
        pytest.param("4:memory:/\n1:cpu:/\n0::/\n", version_1(("", 250000)), 2.5, id="a container, version 1"),
        pytest.param("1:cpu,cpuacct:/\n", version_1(("", -1)), None, id="no quota, version 1"),
        pytest.param(
            "3:cpu,cpuacct:/docker/0a1b\n", version_1(("", 100000)), 1.0, id="a container that reads its host's path"
        ),
        pytest.param(
            "1:cpu:/a/b\n", version_1(("", -1), ("a/", 200000), ("a/b/", -1)), 2.0, id="of a parent, version 1"
        ),
        pytest.param(
            "3:cpu,cpuacct:/\n",
            {f"cpu,cpuacct/{V1}": "70000", "cpu,cpuacct/cpu.cfs_period_us": "10000"},
            7.0,
            id="mounted under both names",
        ),
        pytest.param("2:cpuset:/\n", version_1(("", 100000)), None, id="another controller"),
        pytest.param("0::/\n", {V2: "what\n"}, None, id="not a quota"),
    ],
)
def test_quotas(tmp_path, groups, files, expected):
    assert cpu_quota(root_with(tmp_path, groups, files)) == expected


def test_no_control_groups(tmp_path):
    assert cpu_quota(tmp_path) is None
    assert available_cores(tmp_path) >= 1


@pytest.mark.parametrize(
    "affinity, quota, expected", [(8, "150000", 2), (8, "100000", 1), (8, "1000", 1), (2, "800000", 2), (8, "max", 8)]
)
def test_cores_are_the_affinity_or_the_quota_rounded_up(tmp_path, monkeypatch, affinity, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    root = root_with(tmp_path, "0::/\n", {V2: f"{quota} 100000\n"})
    assert available_cores(root) == default_threads(root=root) == expected
    assert default_threads(2, root) == max(expected // 2, 1)


def test_omp_num_threads_comes_before_the_cores(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    root = root_with(tmp_path, "0::/\n", {V2: "100000 100000\n"})
    assert default_threads(root=root) == default_threads(2, root) == 5
    for text in ("", "0", "-2", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert default_threads(root=root) == 1


@pytest.mark.parametrize(
    "at_start, now, expected",
    [
        ({"OMP_NUM_THREADS": "1"}, "1", 1),
        ({}, "1", None),
        ({"OMP_NUM_THREADS": "1", "CUSTOM_DEVICE_ROOT": ""}, "1", None),
        ({"OMP_NUM_THREADS": "4"}, "4", 4),
        ({"OMP_NUM_THREADS": "4,2"}, "4,2", 4),
    ],
    ids=["chosen", "by Paddle", "by Paddle in the parent process", "four", "nested"],
)
def test_a_one_that_importing_paddle_sets_does_not_count(tmp_path, at_start, now, expected):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/environ").write_bytes(
        "".join(f"{key}={value}\0" for key, value in at_start.items()).encode()
    )
    assert omp_num_threads({"OMP_NUM_THREADS": now}, tmp_path) == expected


SET_UP = "from ppreplk.utils.device import set_up_device; print(set_up_device('cpu'))"


@pytest.mark.parametrize("given, expected", [("1", "1 math thread\n"), ("3", "3 math threads\n")])
def test_the_device_follows_omp_num_threads(given, expected):
    environment = {key: value for key, value in os.environ.items() if key != "CUSTOM_DEVICE_ROOT"}
    environment |= {"OMP_NUM_THREADS": given, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", SET_UP]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.stdout.endswith(f"device cpu with {expected}"), process.stderr


def test_a_process_that_paddle_started_uses_all_cores():
    """This process has imported Paddle, so its children are started with OMP_NUM_THREADS=1."""
    if "OMP_NUM_THREADS" in os.environ and omp_num_threads(os.environ) is not None:
        pytest.skip("OMP_NUM_THREADS is set here")
    assert os.environ["OMP_NUM_THREADS"] == "1"
    cores = available_cores()
    assert run_python(SET_UP) == f"device cpu with {cores} math thread{'s' if cores > 1 else ''}\n"
