"""Who takes part, and in which order."""

import sys

import pytest

from ppreplk.benchmark import contestants
from ppreplk.benchmark.contestants import build_contestants, needed_packages, usable_implementations
from ppreplk.benchmark.timing import take_turns
from ppreplk.utils.errors import UserError


def test_contestants_take_turns():
    order = []
    times = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, calls=2)
    assert order == ["a", "a", "a", "b", "b", "b"] * 2 and set(times) == {"a", "b"}
    assert all(0 <= minimum <= median for minimum, median in times.values())


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "import of onnxruntime halted"),
        ("raise AttributeError('_ARRAY_API\\nnot found')", "AttributeError: _ARRAY_API not found"),
        ("from json import nothing", "cannot import name 'nothing' from 'json'"),
        ("0 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_framework_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, caplog, content, reason):
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    if content is None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    else:
        (tmp_path / "onnxruntime.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level("INFO"):
        built = build_contestants({"ONNX Runtime": pytest.fail, "Paddle, fft": lambda: "a function"})
    assert built == {"Paddle, fft": "a function"}
    (message,) = caplog.messages
    assert message.startswith(f"without ONNX Runtime: {reason}") and "\n" not in message


def test_a_contestant_that_cannot_be_built_is_no_missing_framework():
    with pytest.raises(ImportError):
        build_contestants({"Paddle, fft": lambda: exec("import no_such_package")})


def test_packages_of_contestants():
    assert needed_packages("torch channels-last") == ("torch",)
    assert needed_packages("OpenVINO bf16") == ("openvino", "onnx")
    assert needed_packages("Paddle Inference, native") == ()


def test_implementations_that_cannot_run_are_logged(monkeypatch, caplog):
    def refuse():
        raise UserError("there is no compiler", code="ops.no-compiler")

    implementation = contestants.IMPLEMENTATIONS["cpu"]._replace(check_available=refuse)
    monkeypatch.setitem(contestants.IMPLEMENTATIONS, "cpu", implementation)
    with caplog.at_level("INFO"):
        assert usable_implementations() == ["native", "fft"]
    assert caplog.messages == ["there is no compiler"]
