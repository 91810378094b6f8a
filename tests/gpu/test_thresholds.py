"""The rule of ``auto`` from measured times, on tables made up for it."""

from ppreplk.gpu.layer_times import summary_table
from ppreplk.gpu.problems import Problem
from ppreplk.gpu.rivals import CHANNELS_LAST, CUDNN, CUFFT, OURS, PYTORCH
from ppreplk.gpu.thresholds import Rule, Time, best_rival, derive_rule

KERNELS = (3, 5, 13, 21, 31)


def times(contestant, costs, type_name="fp32", side=16, passes=(False, True)):
    """A time for each kernel, the same in every pass."""
    problems = [Problem(64, 384, side, side, kernel) for kernel in KERNELS]
    return [
        Time(problem, type_name, backward, contestant, cost)
        for problem, cost in zip(problems, costs)
        for backward in passes
        if cost is not None
    ]


def test_each_is_taken_from_where_it_wins():
    table = times(OURS, (2, 2, 2, 2, 2)) + times(PYTORCH, (1, 3, 9, 30, 90)) + times(CUFFT, (10, 10, 10, 10, 10))
    assert derive_rule(table) == Rule(cuda_from=5, fft_from=21)
    assert derive_rule(table).text() == 'CUDA_FROM = 5, FFT_FROM["gpu"] = 21'


def test_one_that_wins_nowhere_is_never_taken():
    table = times(OURS, (9, 9, 9, 9, 9)) + times(PYTORCH, (1, 1, 1, 1, 1)) + times(CUFFT, (5, 5, 5, 5, 5))
    assert derive_rule(table) == Rule(None, None)
    assert derive_rule([]) == Rule(None, None)


def test_it_must_win_for_all_larger_kernels():
    table = times(OURS, (1, 1, 1, 50, 1)) + times(PYTORCH, (2, 2, 2, 2, 2)) + times(CUFFT, (9, 9, 9, 9, 9))
    assert derive_rule(table).cuda_from == 31


def test_the_better_of_two_ways_to_be_native_counts():
    forward = (False,)
    table = times(OURS, (2, 2, 2, 2, 2)) + times(PYTORCH, (3, 3, 3, 3, 3)) + times(CUFFT, (9, 9, 9, 9, 9))
    assert derive_rule(table).cuda_from == 3
    assert derive_rule(table + times(CUDNN, (0.1, 1.5, 1.5, 1.5, 1.5), passes=forward)).cuda_from == 5
    assert derive_rule(table + times(CHANNELS_LAST, (0.1,) * 5)).cuda_from == 3, "Paddle's tensors are NCHW"


def test_shapes_and_types_are_averaged():
    slow_on_large = times(OURS, (4,) * 5, side=64) + times(PYTORCH, (2,) * 5, side=64)
    fast_on_small = times(OURS, (1,) * 5) + times(PYTORCH, (3,) * 5)
    assert derive_rule(slow_on_large).cuda_from is None
    assert derive_rule(slow_on_large + fast_on_small).cuda_from == 3, "2 times slower, 3 times faster"
    halves = times(OURS, (9,) * 5, "bf16") + times(PYTORCH, (1,) * 5, "bf16")
    assert derive_rule(slow_on_large + fast_on_small + halves).cuda_from is None


def test_what_was_not_measured_does_not_count():
    ours = times(OURS, (2, 2, 2, 2, 2))
    too_slow = times(PYTORCH, (1, 3, 9, None, None))
    assert derive_rule(ours + too_slow).cuda_from == 5
    assert derive_rule(ours + too_slow + times(CUFFT, (8, 8, 8, 1, 8))).cuda_from == 31
    assert derive_rule(ours + times(PYTORCH, (1, 3, 9, 30, 90), passes=(False,))) == Rule(None, None)


def test_the_best_other():
    table = times(OURS, (1,) * 5) + times(PYTORCH, (5,) * 5) + times(CHANNELS_LAST, (3,) * 5)
    problem = table[0].problem
    assert best_rival(table, problem, "fp32", True) == Time(problem, "fp32", True, CHANNELS_LAST, 3)
    assert best_rival(table, problem, "bf16", True) is None


def test_the_summary_is_of_the_kernels_that_count():
    table = times(OURS, (1, 1, 2, 1, 1)) + times(PYTORCH, (9, 9, 2, 3, 30)) + times(CUFFT, (1, 1, 4, 2, 2))
    problems = list(dict.fromkeys(each.problem for each in table))
    rows = summary_table(table, problems).rows
    assert rows == [
        ["fp32", "forward", "1.00 at 64x384x16x16, K 13", "2.00", "2.00", "2 of 3"],
        ["fp32", "backward", "1.00 at 64x384x16x16, K 13", "2.00", "2.00", "2 of 3"],
    ]
