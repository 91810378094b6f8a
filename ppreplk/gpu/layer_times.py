"""Times of layers: ours beside the others, and beside what the card can do."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Optional

from ..utils.tables import Table
from .ceilings import Ceilings
from .problems import Problem, least_bytes, multiply_adds
from .rivals import CONTESTANTS, NOTES, OURS, RIVALS, contestant
from .stopwatch import Budget, Stopwatch
from .thresholds import Time, best_rival

logger = logging.getLogger(__name__)

TOO_SLOW_MS = 1000.0  # a contestant slower than this is not timed on larger kernels of the same map
PASSES = {False: "forward", True: "backward"}
ASKED_FROM, ASKED_RATIO = 13, 1.5  # what ours is to reach: at so large kernels, so many times the best other


class Group(NamedTuple):
    """Layers that share a table. Kernels of one map stand in increasing order."""

    title: str
    problems: Sequence[Problem]
    type_name: str


class Measured(NamedTuple):
    """Times of a group, and what could not be measured."""

    times: list[Time]
    notes: list[str]


def measure_group(group: Group, device: str, watch: Stopwatch, budget: Budget) -> Measured:
    """Time all contestants on a group, as far as the budget lasts.

    A layer is begun in both passes with all of them, or not at all: the best of some would not be the best.
    """
    times: list[Time] = []
    late = 0
    skipped: dict[str, int] = {}
    failed: dict[str, list[str]] = {}
    slow: set[tuple[str, bool, Problem]] = set()
    for problem in group.problems:
        if budget.is_spent:
            late += 1
            continue
        for backward, what in PASSES.items():
            for name in CONTESTANTS:
                case = name, backward, problem._replace(kernel=1)
                if case in slow:
                    skipped[name] = skipped.get(name, 0) + 1
                    continue
                try:
                    call = contestant(name, problem, group.type_name, backward, device)
                    found = None if call is None else watch.milliseconds(call)
                except RuntimeError as error:  # out of memory, or a case that a library does not take
                    failed.setdefault(f"{name} failed: {first_sentence(error)}", []).append(f"{problem}, {what}")
                    continue
                if found is not None:
                    times.append(Time(problem, group.type_name, backward, name, found))
                    if found > TOO_SLOW_MS:
                        slow.add(case)
        logger.info("%s, %s: %s is done, %.0f s are left", group.title, group.type_name, problem, max(budget.left, 0))
    notes = [f"{text} ({'; '.join(cases)})" for text, cases in failed.items()]
    if skipped:
        counts = ", ".join(f"{name} {count}" for name, count in skipped.items())
        notes.append(f"not measured, since it took more than {TOO_SLOW_MS:.0f} ms on a smaller kernel: {counts}")
    if late:
        notes.append(f"for want of time, {late} of {len(group.problems)} layers were not measured")
    for note in notes:
        logger.warning("%s, %s: %s", group.title, group.type_name, note)
    return Measured(times, notes)


def first_sentence(error: Exception) -> str:
    """What an error says, without what follows its first sentence or line.

    >>> first_sentence(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\\nMore."))
    'CUDA out of memory'
    """
    return str(error).strip().partition("\n")[0].partition(". ")[0]


def time_table(group: Group, measured: Measured, ceilings: Ceilings, algorithm: Callable[[Problem], str]) -> Table:
    """Milliseconds of a group, one line for each layer and pass.

    Args:
        algorithm: how ours solves a problem.
    """
    names = [name for name in CONTESTANTS if any(each.contestant == name for each in measured.times)]
    columns = ["layer", "pass", *(f"{name} ms" for name in names), "faster than the best other by"]
    columns += ["GB/s of ours", "of a copy", "TFLOP/s of a direct sum", "algorithm"]
    by_case = {(each.problem, each.backward, each.contestant): each.milliseconds for each in measured.times}
    rows = []
    for problem in group.problems:
        for backward, what in PASSES.items():
            found = [by_case.get((problem, backward, name)) for name in names]
            if any(found):
                ours = by_case.get((problem, backward, OURS))
                cells = [str(problem), what, *map(milliseconds, found)]
                rows.append([*cells, *_rating(group, measured, problem, backward, ours, ceilings), algorithm(problem)])
    notes = [*measured.notes, *(NOTES if rows else [])]
    return Table(f"{group.title}, {group.type_name}", columns, rows, notes)


def _rating(
    group: Group, measured: Measured, problem: Problem, backward: bool, ours: Optional[float], ceilings: Ceilings
) -> list[str]:
    """Ratio to the best other; least traffic per second, and its share of a copy; direct multiply-adds per second."""
    if ours is None:
        return ["-"] * 4
    best = best_rival(measured.times, problem, group.type_name, backward)
    ratio = "-" if best is None else f"{best.milliseconds / ours:.2f} ({best.contestant})"
    bandwidth = least_bytes(problem, group.type_name, backward) / (1e-3 * ours)
    rate = 2 * multiply_adds(problem, backward) / (1e-3 * ours)
    return [ratio, f"{bandwidth / 1e9:.0f}", f"{100 * bandwidth / ceilings.bandwidth:.0f}%", f"{rate / 1e12:.1f}"]


def milliseconds(value: Optional[float]) -> str:
    """Three digits behind the point below 10, one above 100, a dash without a time.

    >>> milliseconds(0.01234), milliseconds(12.345), milliseconds(1234.5), milliseconds(None)
    ('0.012', '12.35', '1234.5', '-')
    """
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def summary_table(times: Iterable[Time], problems: Sequence[Problem]) -> Table:
    """How many times as fast as the best other ours is at the kernels that count: least, median and most.

    Args:
        problems: of the paper's table 1; kernels from :data:`ASKED_FROM` on are taken.
    """
    times = list(times)
    large = [problem for problem in problems if problem.kernel >= ASKED_FROM]
    ours = {each[:3]: each.milliseconds for each in times if each.contestant == OURS}
    rows = []
    for type_name in dict.fromkeys(each.type_name for each in times):
        for backward, what in PASSES.items():
            ratios = {}
            for problem in large:
                best = best_rival(times, problem, type_name, backward)
                if best is not None and (problem, type_name, backward) in ours:
                    ratios[problem] = best.milliseconds / ours[problem, type_name, backward]
            if ratios:
                least = min(ratios, key=lambda problem: ratios[problem])
                reached = sum(ratio >= ASKED_RATIO for ratio in ratios.values())
                cells = [f"{ratios[least]:.2f} at {least}", f"{statistics.median(ratios.values()):.2f}"]
                rows.append([type_name, what, *cells, f"{max(ratios.values()):.2f}", f"{reached} of {len(large)}"])
    columns = ["dtype", "pass", "least", "median", "most", f"at least {ASKED_RATIO}"]
    title = f"Times as fast as the best of {', '.join(RIVALS)}: table 1, K from {ASKED_FROM} on"
    return Table(title, columns, rows)
