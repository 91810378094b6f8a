"""The whole check of a GPU: build, numbers, times, and the rule that follows. What is known is printed at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from ..ops import cuda_torch, nvcc
from ..ops.cuda_kernels import STATE
from ..utils.atomic import replacing
from ..utils.errors import Incomplete, UserError
from ..utils.tables import Table
from .ceilings import Ceilings, describe, measure_ceilings
from .composed_step import step_milliseconds
from .layer_times import Group, first_sentence, measure_group, milliseconds, summary_table, time_table
from .oracle import Error, error_table, errors_of, repeats_itself
from .problems import (
    BATCHES,
    SMALL_KERNEL,
    STAGES,
    TYPES,
    Problem,
    checked_problems,
    network_layers,
    table_1,
)
from .rivals import CONTESTANTS, OURS
from .stopwatch import Budget, Stopwatch
from .thresholds import Time, derive_rule

logger = logging.getLogger(__name__)

DEVICE = "cuda"
CHECK_SHARE = 0.25  # of the time, at most, for the numbers
STEP_SHARE = 0.15  # is kept for whole training steps
MOST_NAMED = 20  # wrong results, below the table
STEP_TYPES = ("fp32", "bf16")


class Plan(NamedTuple):
    """What is checked and timed.

    Args:
        checked: shapes whose numbers are checked, in every type.
        groups: of layers to time, the most important first.
        step_layers: {layer: how many of them RepLKNet-31B has}, of one batch.
        asked: layers whose large kernels count in the summary.
        side: of the images in a training step.
    """

    checked: Sequence[Problem]
    groups: Sequence[Group]
    step_layers: dict[Problem, int]
    asked: Sequence[Problem]
    side: int = 224


class Bench(NamedTuple):
    """Where it runs.

    Args:
        device: of PyTorch.
        card: what describes it in titles.
        memory: bytes that may be used.
        watch: the clock.
    """

    device: str
    card: str
    memory: int
    watch: Stopwatch

    @property
    def short(self) -> str:
        """The name of the card alone."""
        return self.card.partition(",")[0]


def show_at_once(text: str) -> None:
    """Print, also where the output is a file or a pipe."""
    print(text, flush=True)


class Report:
    """Text that is shown as it comes, and kept in a file that is whole after each part.

    Args:
        path: of the file, or None.
        show: what shows a part.
    """

    def __init__(self, path: Optional[Path] = None, show: Callable[[str], None] = show_at_once):
        self._path, self._show = path, show
        self._parts: list[str] = []

    def add(self, part: str | Table) -> None:
        text = part.markdown() if isinstance(part, Table) else f"{part}\n"
        self._parts.append(text)
        self._show(text)
        if self._path is not None:
            with replacing(self._path) as [partial]:
                partial.write_text("\n".join(self._parts), encoding="utf-8")


def full_plan() -> Plan:
    """What a lent GPU is asked: table 1 of the paper and the layers of RepLKNet-31B, in three types."""
    first = BATCHES[0]
    layers = {problem: count for problem, (*_, count) in zip(network_layers(first), STAGES)}
    small = {problem._replace(kernel=SMALL_KERNEL): count for problem, count in layers.items()}
    groups = []
    for type_name in ("fp32", "bf16", "fp16"):
        groups.append(Group(f"Layers of RepLKNet-31B, batch {first}", [*small, *layers], type_name))
        groups.append(Group("Layers of the paper's table 1", table_1(), type_name))
    for batch in BATCHES[1:]:
        groups += [Group(f"Layers of RepLKNet-31B, batch {batch}", network_layers(batch), name) for name in TYPES]
    return Plan(list(checked_problems()), groups, {**layers, **small}, table_1())


def open_gpu() -> Bench:
    """The GPU at hand, with PyTorch set to choose the fastest of cuDNN's algorithms, in float32 as such.

    Raises:
        UserError: PyTorch sees no GPU.
        ModuleNotFoundError: there is no PyTorch.
    """
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            f"PyTorch {torch.__version__} sees no GPU here; this check needs one, of NVIDIA's", code="gpu.no-device"
        )
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    memory = torch.cuda.mem_get_info()[0]
    return Bench(DEVICE, describe(DEVICE), memory, Stopwatch(DEVICE))


def gpu_check(seconds: float, output: Optional[Path] = None) -> None:
    """Build the device kernels for the GPU at hand, check their numbers, time them beside others, print Markdown.

    Args:
        seconds: to spend in all; what is not measured by then is named.
        output: a ``.md`` file that gets what is printed.

    Raises:
        UserError: no GPU, no nvcc, or the kernels cannot be built or loaded.
        Incomplete: numbers are wrong, or differ from run to run.
    """
    budget = Budget(seconds)
    bench = open_gpu()
    start = time.monotonic()
    kernels = cuda_torch.kernels_on(DEVICE)
    report = Report(output)
    report.add(f"# Depthwise convolution on a GPU\n\n{bench.card}. The kernels are {STATE} before this check.")
    built = nvcc.names(nvcc.architectures_of(kernels.path))
    report.add(f"Kernels for {built}, built and loaded in {time.monotonic() - start:.0f} s.")
    run_plan(full_plan(), bench, budget, report, seconds)


def run_plan(plan: Plan, bench: Bench, budget: Budget, report: Report, seconds: float) -> None:
    """Numbers, ceilings, times, training steps, rule.

    Raises:
        Incomplete: numbers are wrong, or differ from run to run; all the rest has been done.
    """
    wrong = check_numbers(plan.checked, bench, budget.part(CHECK_SHARE), report)
    ceilings = measure_ceilings(bench.device, bench.card, bench.memory, bench.watch)
    report.add(ceilings.table())
    times = time_groups(plan.groups, bench, ceilings, budget, STEP_SHARE * seconds, report)
    compose_steps(plan, times, bench, budget, report)
    report.add(summary_table(times, plan.asked))
    report.add(f"The rule for `auto` on GPUs that these times give: `{derive_rule(times).text()}`.")
    if wrong:
        counted = f"{len(wrong)} results are wrong" if len(wrong) > 1 else "a result is wrong"
        raise Incomplete(f"{counted}; the first is {wrong[0]}", code="gpu.wrong-numbers")


def check_numbers(problems: Iterable[Problem], bench: Bench, budget: Budget, report: Report) -> list[str]:
    """Check outputs and gradients against float64, and that two runs give the same bits; what is wrong, as texts."""
    errors: list[Error] = []
    wrong: list[str] = []
    skipped = 0
    for seed, problem in enumerate(problems):
        if budget.is_spent:
            skipped += 1
            continue
        for type_name in TYPES:
            try:
                errors += errors_of(problem, type_name, bench.device, seed)
                if not repeats_itself(problem, type_name, bench.device):
                    wrong.append(f"two runs of {problem} in {type_name} differ")
            except RuntimeError as error:  # a kernel that cannot be launched; the others are still worth knowing
                wrong.append(f"{problem} in {type_name}: {first_sentence(error)}")
    beyond = [each for each in errors if each.is_wrong]
    wrong += [f"{each.what} of {each.problem} in {each.type_name}: {each.value:.1e}" for each in beyond]
    table = error_table(errors, f"Errors against float64, relative to each channel's largest value; {bench.short}")
    notes = [*wrong[:MOST_NAMED], *([f"for want of time, {skipped} shapes were not checked"] if skipped else [])]
    notes.append("The output with a bias and both gradients were computed twice, and the bits were compared.")
    report.add(table._replace(notes=notes))
    return wrong


def time_groups(
    groups: Sequence[Group], bench: Bench, ceilings: Ceilings, budget: Budget, kept: float, report: Report
) -> list[Time]:
    """Time the groups one after the other, until only ``kept`` seconds are left; a table for each."""
    times: list[Time] = []
    for group in groups:
        measured = measure_group(group, bench.device, bench.watch, Budget(budget.left - kept))
        times += measured.times
        kernels = cuda_torch.kernels_on(bench.device)
        report.add(time_table(group, measured, ceilings, kernels.algorithm))
    return times


def compose_steps(plan: Plan, times: Sequence[Time], bench: Bench, budget: Budget, report: Report) -> None:
    """A training step of RepLKNet-31B: what is around the large layers, measured, and those layers, added up."""
    layers = sum(count for problem, count in plan.step_layers.items() if problem.kernel != SMALL_KERNEL)
    batch = next(iter(plan.step_layers)).batch
    columns = ["dtype", "around them", *(f"layers, {name}" for name in CONTESTANTS), "step with ours, added up"]
    columns += ["step with the best other", "times as fast", "step with ours, measured"]
    rows, notes = [], []
    for type_name in STEP_TYPES:
        totals = {name: layers_milliseconds(plan.step_layers, times, type_name, name) for name in CONTESTANTS}
        whole: dict[bool, Optional[float]] = {}
        for ours in (False, True):
            whole[ours] = None
            if not budget.is_spent:
                convolve = cuda_torch.depthwise_conv2d if ours else None
                try:
                    whole[ours] = step_milliseconds(convolve, batch, type_name, bench.device, bench.watch, plan.side)
                except RuntimeError as error:  # out of memory
                    notes.append(f"{type_name}: {first_sentence(error)}")
        rows.append([type_name, milliseconds(whole[False]), *map(milliseconds, totals.values())])
        rows[-1] += composition(whole[False], totals)
        rows[-1].append(milliseconds(whole[True]))
    notes.append("The layers are forward and both gradients of each large kernel and of the 5x5 beside it.")
    title = f"A training step of RepLKNet-31B, batch {batch}, ms: the {layers} large layers and what is around them"
    report.add(Table(f"{title}; {bench.short}", columns, rows, notes))


def layers_milliseconds(
    layers: dict[Problem, int], times: Iterable[Time], type_name: str, contestant: str
) -> Optional[float]:
    """Forward and backward of all layers with one contestant; None where a time is missing."""
    found = {
        (each.problem, each.backward): each.milliseconds
        for each in times
        if (each.type_name, each.contestant) == (type_name, contestant)
    }
    cases = [(problem, backward) for problem in layers for backward in (False, True)]
    if any(case not in found for case in cases):
        return None
    return sum(layers[problem] * found[problem, backward] for problem, backward in cases)


def composition(around: Optional[float], totals: dict[str, Optional[float]]) -> list[str]:
    """The step with ours, with the best other, and how many times as fast: texts, with dashes for what is missing.

    >>> composition(100.0, {"ours": 50.0, "cuFFT": 200.0, "cuDNN": None})
    ['150.0', '300.0', '2.00']
    """
    ours = totals[OURS]
    others = [value for name, value in totals.items() if name != OURS and value is not None]
    step = None if around is None or ours is None else around + ours
    best = None if around is None or not others else around + min(others)
    return [milliseconds(step), milliseconds(best), f"{best / step:.2f}" if step and best else "-"]
