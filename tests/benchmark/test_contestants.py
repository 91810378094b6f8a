"""Who takes part, and in which order."""

from ppreplk.benchmark import contestants
from ppreplk.benchmark.contestants import needed_packages, usable_implementations
from ppreplk.benchmark.timing import take_turns
from ppreplk.utils.errors import UserError


def test_contestants_take_turns():
    order = []
    times = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, calls=2)
    assert order == ["a", "a", "a", "b", "b", "b"] * 2 and set(times) == {"a", "b"}
    assert all(0 <= minimum <= median for minimum, median in times.values())


def test_packages_of_contestants():
    assert needed_packages("torch channels-last") == ("torch",)
    assert needed_packages("OpenVINO bf16") == ("openvino",)
    assert needed_packages("Paddle Inference, native") == ("paddle",)
    assert needed_packages("something else") == ()


def test_implementations_that_cannot_run_are_logged(monkeypatch, caplog):
    def refuse():
        raise UserError("there is no compiler", code="ops.no-compiler")

    implementation = contestants.IMPLEMENTATIONS["cpu"]._replace(check_available=refuse)
    monkeypatch.setitem(contestants.IMPLEMENTATIONS, "cpu", implementation)
    with caplog.at_level("INFO"):
        assert usable_implementations() == ["native", "fft"]
    assert caplog.messages == ["there is no compiler"]  # and nothing about kernels for GPUs
