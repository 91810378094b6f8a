"""Channels-last programs for long: several predictors and threads, forks, batches of 1 to 64, over and over."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest
from helpers import random_images, randomise_batch_norms, require_channels_last_operators

from ppreplk.benchmark.turn_process import memory
from ppreplk.deploy.lowering import lower
from ppreplk.deploy.program_file import save_network
from ppreplk.deploy.programs import Program
from ppreplk.models import build_model
from ppreplk.ops import onednn

SIZE = 96
KEPT = (512 << 20) / 1e6  # MB of outputs, at most, as kept_bytes says
NETWORK = {"layers": [1, 1, 1, 1], "class_num": 10}  # the maps of RepLKNet-31B, a block in each stage
FLAT = 1.05  # of the memory after a fifth of the rounds, without the kept outputs: those depend on which calls overlap


def in_a_fork(call, *arguments) -> np.ndarray:
    """The logits that a call returns in a child process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with os.fdopen(writing, "wb") as stream:
                stream.write(call(*arguments).tobytes())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        data = stream.read()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return np.frombuffer(data, "float32").reshape(-1, NETWORK["class_num"])


@pytest.mark.slow
@pytest.mark.parametrize("sizes, rounds", [(range(1, 65), 5), ((1, 64, 7), 20)], ids=["every batch", "three batches"])
def test_predictors_threads_and_forks(tmp_path, sizes, rounds):
    """python -m pytest -s -m slow tests/deploy/test_soak.py"""
    require_channels_last_operators()
    paddle.seed(0)
    model = build_model("RepLKNet31B", **NETWORK)
    randomise_batch_norms(model)
    model.eval()
    (form,) = lower(model, "channels_last").values()
    for precision, saved in lower(model, "channels_last", ["fp32", "bf16"]).items():
        save_network(saved, [3, SIZE, SIZE], tmp_path / precision / "inference")
    images = random_images(max(sizes), 3, SIZE, SIZE).numpy()
    predictors = [Program(tmp_path / precision, threads=2) for precision in ("fp32", "fp32", "bf16")]

    @paddle.no_grad()
    def eager(batch):
        return form(paddle.to_tensor(batch)).numpy()

    calls = [*predictors, eager]
    expected: dict[tuple[int, int], np.ndarray] = {}
    used, kept = [], []
    with ThreadPoolExecutor(len(calls)) as pool:
        for turn in range(rounds):
            for size in sizes:
                done = [pool.submit(call, images[:size]) for call in calls]
                for number, future in enumerate(done):
                    received = future.result(timeout=300)
                    first = expected.setdefault((number, size), received)
                    assert np.array_equal(received, first), f"round {turn}, {size} images, contestant {number}"
            for call, number in ((predictors[0], 0), (eager, 3)):
                size = sizes[turn % len(sizes)]
                received = in_a_fork(call, images[:size])
                assert np.abs(received - expected[number, size]).max() < 1e-5 * np.abs(received).max()
            kept.append(onednn.kept_bytes() / 1e6)
            used.append(memory("VmRSS") / 1e6 - kept[-1])
    print("\nMB after each round:", ", ".join(f"{each:.0f} + {outputs:.0f} kept" for each, outputs in zip(used, kept)))
    assert max(used) < FLAT * used[rounds // 5 - 1]
    assert max(kept) <= KEPT
