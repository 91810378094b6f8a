"""``tools/gpu_check.py``: what it refuses, and the whole check on a processor with kernels that compute there."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers import ROOT, assert_one_line_and_exit_2, refused, run_tool
from plain_kernels import STREAM, PlainKernels, plain_library

from ppreplk.cli import command_parser
from ppreplk.gpu import ceilings, gpu_check, layer_times, oracle, rivals, stopwatch
from ppreplk.gpu.composed_step import CLASSES, network, step_milliseconds
from ppreplk.gpu.layer_times import Group
from ppreplk.gpu.oracle import BOUNDS, Error, channel_error, errors_of, operands
from ppreplk.gpu.problems import Problem
from ppreplk.gpu.stopwatch import Budget, Stopwatch, calls_for
from ppreplk.models import RepLKNet
from ppreplk.ops import cuda_torch, nvcc
from ppreplk.utils.errors import Incomplete

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
SMALL = [Problem(2, 3, 7, 6, 3), Problem(2, 3, 7, 6, 13)]


def test_arguments():
    parsed = command_parser().parse_args(["gpu_check", "--seconds", "100", "--output", "x.md"])
    assert parsed.seconds == 100 and parsed.output == "x.md" and not parsed.needs_paddle
    assert command_parser().parse_args(["gpu_check"]).seconds < 300, "under five minutes"


HIDING = """
import sys

sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))  # as if they were not installed
from ppreplk.cli import main

sys.exit(main(["gpu_check", *sys.argv[2:]]))
"""


def check_without(hidden, folder, *arguments):
    """Run the command where these packages are missing, and what is in ``folder`` stands before what is installed."""
    command = [sys.executable, "-c", HIDING, hidden, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_what_is_refused_in_one_line(tmp_path):
    process = check_without("paddle,numpy,tqdm,yaml,torch", tmp_path)
    assert_one_line_and_exit_2(process, "torch is not installed", code="command.missing-package")
    blind = "from types import SimpleNamespace\n__version__ = '2.9'\ncuda = SimpleNamespace(is_available=lambda: False)"
    (tmp_path / "torch.py").write_text(blind)
    process = check_without("paddle,numpy,tqdm,yaml", tmp_path)
    assert_one_line_and_exit_2(process, "PyTorch 2.9 sees no GPU here", code="gpu.no-device")
    process = check_without("paddle", tmp_path, "--output", "report.txt")
    assert_one_line_and_exit_2(process, "written to a .md file", code="utils.output-path")
    process = run_tool("gpu_check", "--seconds", "0", cwd=tmp_path)
    assert_one_line_and_exit_2(process, "whole number", code="command.arguments")


def test_without_nvcc_a_gpu_is_refused_in_one_line(bench, monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(nvcc, "find_nvcc", lambda: None)
    monkeypatch.setattr(gpu_check, "open_gpu", lambda: bench)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    with refused("ops.no-nvcc", "no nvcc"):
        gpu_check.gpu_check(10)


IMPORTED = """
import sys

sys.modules["paddle"] = sys.modules["numpy"] = sys.modules["tqdm"] = None
from ppreplk.gpu import composed_step, gpu_check
from ppreplk.utils import log
"""


def test_it_imports_neither_paddle_nor_numpy():
    subprocess.run([sys.executable, "-c", IMPORTED], cwd=ROOT, check=True, timeout=60)


def test_the_budget_is_shared():
    budget = Budget(100)
    assert 24 < budget.part(0.25).left <= 25 and not budget.is_spent
    assert Budget(-1).is_spent and Budget(1).part(5).left <= 1
    assert calls_for(10.0) == 3


def test_the_plan_has_what_is_asked():
    plan = gpu_check.full_plan()
    assert {group.type_name for group in plan.groups} == {"fp32", "fp16", "bf16"}
    assert {problem.batch for group in plan.groups for problem in group.problems} == {1, 8, 64}
    assert len(plan.asked) == 30
    for group in plan.groups:
        kernels = {}
        for problem in group.problems:
            kernels.setdefault(problem[:4], []).append(problem.kernel)
        assert all(each == sorted(each) for each in kernels.values()), "one that is too slow ends its map"
    large = {problem.kernel: count for problem, count in plan.step_layers.items() if problem.kernel > 5}
    assert large == {31: 2, 29: 2, 27: 18, 13: 2} and set(plan.step_layers) <= set(plan.groups[0].problems)


def test_steps_are_added_up():
    layers = {SMALL[0]: 2, SMALL[1]: 1}
    times = [
        gpu_check.Time(problem, "fp32", backward, "ours", cost)
        for problem, cost in zip(SMALL, (1.0, 10.0))
        for backward in (False, True)
    ]
    assert gpu_check.layers_milliseconds(layers, times, "fp32", "ours") == 2 * 2.0 + 20.0
    assert gpu_check.layers_milliseconds(layers, times[1:], "fp32", "ours") is None
    assert gpu_check.layers_milliseconds(layers, times, "bf16", "ours") is None
    assert gpu_check.composition(None, {"ours": 1.0, "cuFFT": 2.0}) == ["-", "-", "-"]


def test_errors_that_are_wrong():
    for value in (float("nan"), float("inf"), 1.01 * BOUNDS["fp32"]):
        assert Error(SMALL[0], "fp32", "output", value).is_wrong
    assert not Error(SMALL[0], "fp32", "output", BOUNDS["fp32"]).is_wrong
    assert not Error(SMALL[0], "bf16", "output", 1e-3).is_wrong


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """The processor as the GPU, and plain sums as the device kernels."""
    if torch is None:
        pytest.skip("PyTorch is not installed")
    from contextlib import contextmanager

    @contextmanager
    def current(device):
        yield STREAM

    kernels = PlainKernels(plain_library())
    kernels.path = tmp_path / "sm_90" / nvcc.LIBRARY
    monkeypatch.setattr(cuda_torch, "DEVICE", "cpu")
    monkeypatch.setattr(cuda_torch, "kernels_on", lambda device: kernels)
    monkeypatch.setattr(cuda_torch, "_device", current)
    monkeypatch.setattr(ceilings, "MATRIX", 64)
    monkeypatch.setattr(stopwatch, "calls_for", lambda milliseconds: 1)
    monkeypatch.setattr(gpu_check, "step_milliseconds", lambda convolve, *_: 5.0 if convolve else 4.0)
    torch.set_num_threads(1)
    return gpu_check.Bench("cpu", "a processor, two cores", 2**22, Stopwatch("cpu"))


def small_plan():
    layers = {SMALL[1]: 2, SMALL[0]: 2}
    groups = [Group("Layers", SMALL, "fp32"), Group("Layers", SMALL, "bf16")]
    return gpu_check.Plan(SMALL, groups, layers, SMALL, 32)


def test_a_whole_check(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "SMALL_KERNEL", 3)
    shown = []
    report = gpu_check.Report(tmp_path / "report.md", shown.append)
    gpu_check.run_plan(small_plan(), bench, Budget(300), report, 300)
    text = (tmp_path / "report.md").read_text()
    assert text == "\n".join(shown), "what is shown is kept"
    assert len(shown) == 7 and text.count("| none |") == 21, "seven results in three types, all right"
    for part in (
        "copy of memory",
        "| 2x3x7x6, K 13 | backward |",
        "cuDNN NCHW failed: Could not run 'aten::cudnn_convolution'",
        "backend (2x3x7x6, K 3, forward; 2x3x7x6, K 13, forward)",
        "spectral |",
        "A training step of RepLKNet-31B, batch 2, ms: the 2 large layers",
        "CUDA_FROM = ",
    ):
        assert part in text
    steps = [line for line in text.splitlines() if line.startswith("| fp32 | 4.000 |")]
    assert len(steps) == 1 and steps[0].endswith("| 5.000 |")


WHOLE = """
import sys
from contextlib import nullcontext
from pathlib import Path

sys.modules.update(dict.fromkeys(["paddle", "numpy", "tqdm", "yaml"]))  # as if they were not installed
from plain_kernels import STREAM, PlainKernels, plain_library
from ppreplk.gpu import ceilings, composed_step, gpu_check, stopwatch
from ppreplk.gpu.layer_times import Group
from ppreplk.gpu.problems import Problem
from ppreplk.ops import cuda_torch

kernels = PlainKernels(plain_library())
kernels.path = Path("sm_90/library")
cuda_torch.DEVICE = "cpu"
cuda_torch.kernels_on = lambda device: kernels
cuda_torch._device = lambda device: nullcontext(STREAM)
ceilings.MATRIX = 64
stopwatch.calls_for = lambda milliseconds: 1
composed_step.STAGES = ((4, 8, 9, 1), (6, 4, 7, 2))
bench = gpu_check.Bench("cpu", "a processor, two cores", 2**22, stopwatch.Stopwatch("cpu"))
problems = [Problem(2, 3, 7, 6, 13)]
plan = gpu_check.Plan(problems, [Group("Layers", problems, "fp32")], {problems[0]: 2}, problems, 32)
gpu_check.run_plan(plan, bench, stopwatch.Budget(300), gpu_check.Report(Path(sys.argv[1])), 300)
assert not any(sys.modules.get(name) for name in ("paddle", "numpy"))
"""


@needs_torch
def test_a_whole_check_without_paddle_and_numpy(tmp_path):
    """From the numbers to the rule, with training steps, where neither can be imported."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", WHOLE, str(tmp_path / "report.md")]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert process.returncode == 0, process.stderr[-2000:]
    assert "The rule for `auto`" in process.stdout == (tmp_path / "report.md").read_text() + "\n"


def test_a_spent_budget_names_what_is_missing(bench):
    shown = []
    gpu_check.run_plan(small_plan(), bench, Budget(0), gpu_check.Report(show=shown.append), 0)
    text = "\n".join(shown)
    assert "2 shapes were not checked" in text and "for want of time, 2 of 2 layers were not measured" in text
    assert "CUDA_FROM = None" in text


class Countdown:
    """A budget that is spent after so many looks at it."""

    left = 1.0

    def __init__(self, looks):
        self._looks = looks

    @property
    def is_spent(self):
        self._looks -= 1
        return self._looks < 0


def test_a_layer_is_timed_with_all_contestants_or_not_at_all(bench):
    """The best of those that were in time would not be the best."""
    measured = layer_times.measure_group(Group("Layers", SMALL, "fp32"), "cpu", bench.watch, Countdown(1))
    assert {(each.problem, each.contestant) for each in measured.times} == {
        (SMALL[0], name) for name in set(rivals.CONTESTANTS) - {rivals.CUDNN}
    }
    assert measured.notes[-1] == "for want of time, 1 of 2 layers were not measured"


class SimulatedGpu:
    """Seconds of a processor, and of a GPU that does one thing after the other."""

    def __init__(self):
        self.host = self.device = 0.0
        self.cuda = SimpleNamespace(Event=self.event, get_device_properties=lambda _: SimpleNamespace(L2_cache_size=9))
        self.uint8 = None

    def launch(self, on_host, on_device):
        self.host += on_host
        self.device = max(self.device, self.host) + on_device

    def empty(self, *_, **__):
        return SimpleNamespace(zero_=lambda: self.launch(5e-6, 80e-6))

    def event(self, enable_timing):
        event = SimpleNamespace()

        def record():
            event.at = self.device = max(self.device, self.host)

        def synchronize():
            self.host = max(self.host, event.at)

        event.record, event.synchronize = record, synchronize
        event.elapsed_time = lambda end: 1e3 * (end.at - event.at)
        return event


@pytest.mark.parametrize("on_host,on_device", [(2e-6, 9e-6), (20e-6, 2e-6), (200e-6, 1e-6), (5e-6, 50e-3)])
def test_the_gpu_does_not_wait_for_the_processor_while_it_is_timed(monkeypatch, on_host, on_device):
    simulated = SimulatedGpu()
    monkeypatch.setitem(sys.modules, "torch", simulated)
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: simulated.host))
    watch = Stopwatch("cuda")

    def call():
        for _ in range(12):
            simulated.launch(on_host, on_device)

    assert watch.milliseconds(call) == pytest.approx(12e3 * on_device)


def test_wrong_numbers_are_named_and_the_rest_is_done(bench, monkeypatch):
    right = cuda_torch.gradients
    monkeypatch.setattr(
        cuda_torch, "gradients", lambda *tensors: [each if each is None else 1.001 * each for each in right(*tensors)]
    )
    shown = []
    named = "results are wrong; the first is gradient of x of 2x3x7x6, K 3 in fp32: "
    with pytest.raises(Incomplete, match=named) as caught:
        gpu_check.run_plan(small_plan(), bench, Budget(300), gpu_check.Report(show=shown.append), 300)
    assert caught.value.code == "gpu.wrong-numbers" and "CUDA_FROM = " in shown[-1]


def test_a_kernel_that_cannot_be_launched_is_named_and_the_rest_is_done(bench, monkeypatch):
    def fail(*tensors):
        raise RuntimeError("ppreplk: too many resources requested for launch")

    monkeypatch.setattr(cuda_torch, "gradients", fail)
    shown = []
    with pytest.raises(Incomplete, match="6 results are wrong; the first is 2x3x7x6, K 3 in fp32: ppreplk: too many"):
        gpu_check.run_plan(small_plan(), bench, Budget(300), gpu_check.Report(show=shown.append), 300)
    assert "ours failed: ppreplk: too many resources requested for launch (2x3x7x6, K 3, backward" in "\n".join(shown)


@needs_torch
@pytest.mark.parametrize("problem", [Problem(2, 3, 9, 8, 5), Problem(1, 2, 6, 1, 31), Problem(2, 4, 7, 7, 13)])
def test_the_oracle_is_right(problem):
    """Against PyTorch's own convolution in float64."""
    x, weight, _, dy = (each.double() for each in operands(problem, "fp32", "cpu"))
    x.requires_grad_(), weight.requires_grad_()
    y = torch.conv2d(x, weight, padding=problem.kernel // 2, groups=problem.channels)
    y.backward(dy)
    exact = oracle.Spectral(problem)
    received = exact.output(x, weight), *exact.gradients(x.detach(), weight.detach(), dy)
    for ours, theirs in zip(received, (y, x.grad, weight.grad)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@needs_torch
def test_unwritten_and_misshapen_results_are_wrong():
    ones = torch.ones(1, 2, 3, 3)
    assert channel_error(ones, ones.double(), ones.double(), 1) == 0
    assert channel_error(ones.clone().fill_(float("nan")), ones.double(), ones.double(), 1) == float("inf")
    assert channel_error(ones[..., :2], ones.double(), ones.double(), 1) == float("inf")
    off = ones.clone()
    off[0, 1, 0, 0] = 3
    assert channel_error(off, ones.double(), 4 * ones.double(), 1) == 0.5


def test_results_of_every_type_are_checked(bench):
    for type_name in BOUNDS:
        assert [each.what for each in errors_of(SMALL[1], type_name, "cpu")] == list(oracle.WHATS)
        assert not any(each.is_wrong for each in errors_of(SMALL[1], type_name, "cpu"))


@pytest.mark.parametrize("backward", [False, True])
def test_contestants_agree(bench, backward):
    for problem in SMALL:
        results = {}
        for name in set(rivals.CONTESTANTS) - {rivals.CUDNN}:
            found = rivals.contestant(name, problem, "fp32", backward, "cpu")()
            results[name] = found if backward else [found]
        for name, found in results.items():
            for one, other in zip(found, results[rivals.PYTORCH]):
                torch.testing.assert_close(one, other.contiguous(), rtol=0, atol=1e-4, msg=name)


STAGES = ((4, 8, 9, 1), (6, 4, 7, 2))


@needs_torch
def test_the_network_around_the_layers_is_ours(monkeypatch):
    """As many parameters as the network in train form."""
    monkeypatch.setattr("ppreplk.gpu.composed_step.STAGES", STAGES)
    channels, _, kernels, layers = zip(*STAGES)
    model = RepLKNet(kernels, layers, channels, small_kernel=5, class_num=CLASSES)
    expected = sum(parameter.size for parameter in model.parameters() if not parameter.stop_gradient)
    assert sum(parameter.numel() for parameter in network(cuda_torch.depthwise_conv2d).parameters()) == expected


def test_a_step_runs(bench, monkeypatch):
    monkeypatch.setattr("ppreplk.gpu.composed_step.STAGES", STAGES)
    for convolve in (None, cuda_torch.depthwise_conv2d):
        for type_name in ("fp32", "bf16"):
            assert step_milliseconds(convolve, 2, type_name, "cpu", bench.watch, side=32) > 0
