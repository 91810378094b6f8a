"""Evaluation: raw and averaged weights, each under its own name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import paddle
import pytest
from helpers import refused, run_tool
from runs import config

from ppreplk.training import evaluate_config, train
from ppreplk.training.evaluate import evaluate_kept
from ppreplk.training.meters import PendingValues

AVERAGED = ("EMA={decay: 0.9}", "Global.epochs=1")


@pytest.fixture
def trained(project):
    """A training with averaged weights."""
    train(config(*AVERAGED))
    return project


def results(named: str, choice: str | None = None) -> dict[str, dict[str, float]]:
    return {
        each.weights.name: each.results for each in evaluate_kept(config(f"Global.pretrained_model={named}"), choice)
    }


def test_each_set_of_weights_is_evaluated_under_its_own_name(trained, caplog):
    both = results("output/latest", "both")
    assert list(both) == ["raw", "averaged"] and both["raw"] != both["averaged"]
    log = (trained / "output" / "train.log").read_text()
    for name in both:
        assert f"[Eval][{name}][Avg]" in caplog.text
        line = caplog.text.split(f"[Eval][{name}][Avg]")[1].splitlines()[0]
        assert f"[Eval][Epoch 1, {name}][Avg]{line}" in log
        for named in ("output/latest", "output/latest.pdparams", "output/latest.pdema"):
            assert results(named, name) == {name: both[name]}
    assert results("output/latest") == results("output/latest.pdparams") == {"averaged": both["averaged"]}
    assert results("output/latest.pdema") == {"raw": both["raw"]}
    assert evaluate_config(config("Global.checkpoints=output/latest"), "both") == both["averaged"]


def test_the_log_of_a_training_says_which_weights_decide(trained):
    states = json.loads(Path("output/latest.pdstates").read_text())
    best = f"[best metric: {states['best_metric']:.5f}, epoch 1, averaged weights]"
    assert best in (trained / "output" / "train.log").read_text()


def test_a_checkpoint_of_paddleclas_has_the_same_two_files(trained):
    both = results("output/latest", "both")
    Path("output/latest.pdstates").write_bytes(b"\x80\x02}q\x00.")  # a pickle
    assert results("output/latest", "both") == both


def test_the_only_weights_have_no_name(project, caplog):
    train(config("Global.epochs=1"))
    assert list(results("output/latest")) == [""]
    assert "[Eval][Avg]" in caplog.text and "[Epoch 1][Avg]" in caplog.text and "averaged" not in caplog.text
    with refused("checkpoints.no-averaged", "--weights both", "output/latest.pdema"):
        results("output/latest", "both")
    Path("output/latest.pdema").write_bytes(b"of another run")  # the checkpoint was saved without it
    assert list(results("output/latest")) == [""]


def test_the_fast_form_gives_the_metrics_of_the_train_form(trained, monkeypatch, caplog):
    (fast,) = results("output/latest", "averaged").values()
    assert "RepLKNet computes folded, " in caplog.text
    monkeypatch.setattr(sys.modules[evaluate_kept.__module__], "inference_form", lambda model: model)
    (plain,) = results("output/latest", "averaged").values()
    assert fast.keys() == plain.keys() and fast["top1"] == plain["top1"]
    assert fast["loss"] == pytest.approx(plain["loss"], rel=1e-5)


def test_the_command(trained):
    arguments = ("-c", "config.yaml", "-o", "Global.pretrained_model=output/latest", "--weights", "both")
    process = run_tool("eval", *arguments, cwd=trained)
    assert (
        process.returncode == 0 and "[Eval][raw][Avg]" in process.stderr and "[Eval][averaged][Avg]" in process.stderr
    )


def test_the_device_is_waited_for_when_a_log_line_is_due(trained, monkeypatch):
    """Six batches of one image, a line after every third, and the end."""
    waits = []
    read = PendingValues.read
    monkeypatch.setattr(PendingValues, "read", lambda self: waits.append("lines") or read(self))
    for name in ("__float__", "tolist", "item", "__bool__"):
        monkeypatch.setattr(paddle.Tensor, name, lambda *inputs, name=name: pytest.fail(f"{name} waits"))
    overrides = ["DataLoader.Eval.sampler.batch_size=1", "Global.print_batch_step=3"]
    evaluate_config(config("Global.pretrained_model=output/latest", *overrides))
    assert waits == ["lines"] * 3
