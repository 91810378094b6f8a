"""Pictures: the drawing says what the network computes, and a merged kernel is what the network merges."""

import re
from xml.etree import ElementTree

import numpy as np
import paddle
import pytest
from helpers import ROOT, randomise_batch_norms, refused, small_network

import ppreplk
from ppreplk.analysis.counting import count_by_kind, output_shapes
from ppreplk.analysis.drawing import branches_of, draw_merge, draw_network
from ppreplk.cli import main
from ppreplk.complexity import count


def texts(path) -> list[str]:
    return [element.text for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("size", [100, 64])
def test_shapes_in_the_drawing_are_those_of_a_forward_pass(tmp_path, size):
    name = "RepLKNet13T"
    drawn = texts(draw_network(name, size, str(tmp_path / "net.svg")))
    model = ppreplk.build_model(name)
    shapes = {part: " x ".join(map(str, shape[1:])) for part, shape in output_shapes(model, (1, 3, size, size)).items()}
    expected = [shapes["stem"]]
    for index in range(4):
        expected.append(shapes[f"stages.{index}"])
        expected += [shapes[f"transitions.{index}"]] if index < 3 else []
    assert [text for text in drawn if re.fullmatch(r"\d+ x \d+ x \d+", text)] == expected
    kernels = [f"RepLK block {stage.blocks[0].large_kernel.kernel_size}x" for stage in model.stages]
    assert [text[: len(kernel)] for kernel, text in zip(kernels, (t for t in drawn if "RepLK block " in t))] == kernels
    assert [text for text in drawn if re.fullmatch(r"x \d+", text)] == [f"x {pairs}" for pairs in model.layers]


def test_the_committed_drawing_is_that_of_the_command(tmp_path):
    """If this fails: python tools/draw.py network RepLKNet31B --output docs/architecture-of-replknet/replknet31b.svg"""
    drawn = draw_network("RepLKNet31B", 224, str(tmp_path / "net.svg"))
    committed = ROOT / "docs" / "architecture-of-replknet" / "replknet31b.svg"
    assert drawn.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8")


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with refused("analysis.no-drawing", "MobileNetV2LK"):
        draw_network("MobileNetV2LK", 224, str(tmp_path / "net.svg"))
    with refused("utils.output-path"):
        draw_network("RepLKNet13T", 32, str(tmp_path / "net.png"))


def trained_state(folder, merged: bool = False) -> str:
    """Weights of a small network whose every batch normalization has statistics of its own."""
    model = small_network()
    randomise_batch_norms(model)
    paddle.save((ppreplk.reparameterize(model) if merged else model).state_dict(), str(folder / "net.pdparams"))
    return str(folder / "net.pdparams")


def test_the_sum_is_the_kernel_of_the_merged_network(tmp_path):
    weights = ppreplk.weights.load_checkpoint(trained_state(tmp_path))
    branches = branches_of(weights, None, "net")
    merged = ppreplk.weights.load_checkpoint(trained_state(tmp_path, merged=True))
    np.testing.assert_allclose(branches.merged, merged[f"{branches.layer}.lkb_reparam.weight"][:, 0], rtol=1e-5)
    assert (branches.small[:, 0] == 0).all() and branches.small.any()


def test_the_picture_and_what_it_refuses(tmp_path):
    pytest.importorskip("matplotlib")
    path = trained_state(tmp_path)
    table = draw_merge(path, None, 2, str(tmp_path / "merge.svg"))
    strengths = [float(line[2]) for line in table.rows]
    assert len(strengths) == 2 and strengths[0] >= strengths[1] > 0
    assert (tmp_path / "merge.svg").stat().st_size > 5000
    with refused("analysis.no-branches", "did you mean"):
        draw_merge(path, "stages.0.blocks.0.large_kernels", 1, str(tmp_path / "merge.svg"))
    with refused("analysis.no-branches", "merged already"):
        draw_merge(trained_state(tmp_path, merged=True), None, 1, str(tmp_path / "merge.svg"))


def test_the_command_draws(tmp_path, capsys):
    assert main(["draw", "network", "RepLKNet13T", "--size", "32", "--output", str(tmp_path / "a.svg")]) == 0
    assert "wrote" in capsys.readouterr().out and "RepLKNet at 32x32" in texts(tmp_path / "a.svg")


def test_kinds_add_up_to_the_whole():
    model = ppreplk.reparameterize(small_network())
    kinds = count_by_kind(model, (2, 3, 64, 64))
    assert sum(cost.macs for _, cost in kinds.values()) == count(model, (2, 3, 64, 64)).macs
    large = {f"{stage.blocks[0].large_kernel.kernel_size}" for stage in model.stages}
    assert {f"{size}x{size} depthwise" for size in large} <= set(kinds) and kinds["linear"][0] == 1
