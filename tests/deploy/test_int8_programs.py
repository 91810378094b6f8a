"""Programs of 8-bit integers: calibrated on the user's images, verified, chosen where the processor has VNNI."""

import json
import re
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from exports import CHANNELS_LAST, LOGITS, config, file_names, operators
from helpers import (
    random_images,
    randomise_batch_norms,
    refused,
    relative_difference,
    require_channels_last_operators,
    run_tool,
)

import ppreplk
from ppreplk.deploy.calibration import calibration_images
from ppreplk.deploy.export import _check_difference, export
from ppreplk.deploy.lowering import lower
from ppreplk.deploy.programs import INT8, NO_INT8, Program, choose_precision, input_ranges
from ppreplk.deploy.verify import Runtime, Verification, _verify_int8, prepared_images
from ppreplk.models.arch import build_network
from ppreplk.models.registry import graph_of
from ppreplk.nn import fold
from ppreplk.nn.channels_last import ChannelsLastNetwork
from ppreplk.nn.quantization import calibrate
from ppreplk.utils.errors import UserError

WIDE = "Arch.channels=[32, 40]"  # so that there are layers for 8-bit integers
ANY_DECISIONS = "Global.export_agreement_int8=0"  # random weights decide by little


def wide(*overrides):
    return config(CHANNELS_LAST, LOGITS, WIDE, ANY_DECISIONS, *overrides)


@pytest.fixture
def wide_project(project):
    require_channels_last_operators()
    paddle.seed(0)
    model = build_network(wide().Arch)
    randomise_batch_norms(model)
    paddle.save(model.state_dict(), "weights.pdparams")
    return project


def test_an_export_and_its_predictions(wide_project, caplog):
    caplog.set_level("INFO", "ppreplk")
    folder = export(wide(), INT8)
    assert file_names(folder) == [
        "export.json",
        "inference.json",
        "inference.pdiparams",
        "inference.yml",
        "inference_int8.json",
    ]
    assert "calibrating on 18 images of DataLoader.Train" in caplog.text
    assert "largest difference of the logits, int8 program" in caplog.text
    assert "the same class comes first for 6 of 6 real images" in caplog.text  # of the float32 program
    programs = r"the int8 and the fp32 program put the same class first for \d+ of 24 real images, calibration included"
    assert re.search(programs, caplog.text)  # 6 of the evaluation data, 18 of the calibration
    names = operators(folder / "inference_int8.json")
    ranges = input_ranges(folder / "inference_int8.json")
    assert names.count("ppreplk_channels_last_pack_int8") == len(ranges) > 4
    assert "ppreplk_depthwise_conv_packed_nhwc" in names and "ppreplk_channels_last_pack" in names
    assert "ppreplk_channels_last_pack_int8" not in operators(folder / "inference.json")
    passport = json.loads((folder / "export.json").read_text())
    assert passport["calibration"]["of"] == "DataLoader.Train" and passport["calibration"]["images"] == 18
    np.testing.assert_array_equal(passport["calibration"]["input_ranges"], ranges)
    assert [each["runtime"] for each in passport["verification"]] == ["fp32 program", "int8 program"]
    assert yaml.safe_load((folder / "inference.yml").read_text())["Global"]["precision"] == "int8"
    paths = sorted(map(str, Path("data/images").iterdir()))
    images = np.stack(prepared_images(wide(), paths, "test"))
    float32, integers = (Program(folder, precision=precision) for precision in ("fp32", INT8))
    expected, received = float32(images), integers(images)
    assert 1e-4 < relative_difference(received, expected) < 0.1
    for batch in (1, 5):
        np.testing.assert_array_equal(integers(images[:batch]), received[:batch])
    predictor = ppreplk.Predictor(folder)
    assert predictor.precision == (INT8 if ppreplk.ops.onednn.has_int8() else "fp32")
    process = run_tool("infer", "-c", "config.yaml", "--model-dir", "inference", cwd=wide_project)
    assert process.returncode == 0 and len(process.stdout.splitlines()) == 24, process.stderr


def test_ranges_come_from_the_images(wide_project):
    """They are those of the network on these images, in the order of the program."""
    ranges = input_ranges(export(wide(), INT8) / "inference_int8.json")
    images = np.stack(prepared_images(wide(), [f"data/images/{number}.png" for number in range(18)], "test"))
    model = build_network(wide().Arch)
    model.set_state_dict(paddle.load("weights.pdparams"))
    model.eval()
    found = calibrate(ChannelsLastNetwork(graph_of(fold(model)), keep=True), [images])
    expected = np.array([each for part in found for each in part])
    np.testing.assert_allclose(np.sort(ranges, axis=0), np.sort(expected, axis=0), rtol=1e-5)


def test_which_images(project):
    """As many as the key says, at equal distances in the list; of the evaluation data where there are no others."""

    def numbers(count):
        split, paths, why = calibration_images(config(f"Global.export_calibration_images={count}"))
        assert split == "DataLoader.Train" and not why
        return [int(Path(path).stem) for path in paths]

    assert numbers(3) == [0, 6, 12]
    assert numbers(12) == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16]  # to the end of the list too
    assert numbers(17) == list(range(17)) and numbers(19) == list(range(18))
    split, paths, why = calibration_images(config("DataLoader.Train.dataset.cls_label_path=absent.txt"))
    assert (split, len(paths)) == ("DataLoader.Eval", 6) and "absent.txt" in why


def test_images_of_the_evaluation_data_in_their_place(wide_project, caplog):
    export(wide("DataLoader.Train.dataset.cls_label_path=absent.txt"), INT8)
    reasons = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    reasons = [reason for reason in reasons if "DataLoader.Train" in reason]
    assert len(reasons) == 1 and "absent.txt" in reasons[0]
    assert json.loads(Path("inference/export.json").read_text())["calibration"]["of"] == "DataLoader.Eval"


def test_without_images(wide_project):
    absent = [f"DataLoader.{split}.dataset.cls_label_path=absent.txt" for split in ("Train", "Eval")]
    with pytest.raises(UserError, match=r"images of yours to calibrate with: .*absent\.txt") as caught:
        export(wide(*absent), INT8)
    assert caught.value.code == "deploy.no-calibration-images"
    assert all(str(caught.value).count(f"DataLoader.{split}") == 1 for split in ("Train", "Eval"))
    assert not Path("inference").exists()
    without = wide()
    without.DataLoader.Train = without.DataLoader.Eval = None
    with refused("deploy.no-calibration-images", "there is no DataLoader.Train; there is no DataLoader.Eval"):
        export(without, INT8)
    for image in Path("data/images").iterdir():
        image.write_bytes(image.read_bytes()[:50])
    with refused("deploy.no-calibration-images", "none of the 18 calibration images can be read"):
        export(wide(), INT8)
    assert not Path("inference").exists()


def test_a_program_that_differs_too_much_is_refused(wide_project):
    with refused("deploy.wrong-program", "Global.export_tolerance_int8 1e-30", "or --precision bf16"):
        export(wide("Global.export_tolerance_int8=1e-30"), INT8)
    assert not Path("inference").exists()


@pytest.mark.parametrize("same, passes", [(95, True), (94, False)])
def test_decisions_that_differ_too_often_are_refused(wide_project, same, passes):
    result = Verification(Runtime("int8 program", None, INT8), 0.0, 1.0, same, 100)
    if passes:
        return _check_difference(result, config())
    with refused("deploy.wrong-program", "94 of 100 real images", "Global.export_agreement_int8 0.95", "bf16"):
        _check_difference(result, config())


def test_decisions_are_counted_on_all_real_images(project):
    """Those of the two programs. Logits are compared on the evaluation images alone, with the network's."""

    def deciding_for(*classes):
        return 4.0 * np.eye(5)[list(classes)]

    evaluation, calibration = np.zeros((6, 1)), np.ones((4, 1))
    float32 = [deciding_for(0, 1, 2, 3, 4, 0), deciding_for(0, 1, 2, 3)]
    integers = [deciding_for(0, 1, 3, 3, 4, 0), deciding_for(4, 4, 4, 3) * 9]  # one and three others
    runtimes = [
        Runtime(f"{precision} program", lambda batch, results=results: results[int(batch[0, 0])], precision)
        for precision, results in ((INT8, integers), ("fp32", float32))
    ]
    found = _verify_int8(*runtimes, evaluation, float32[0] + 0.25, config(LOGITS), [calibration])
    assert (found.same, found.real) == (6, 10)
    assert (found.difference, found.scale) == (4.25, 4.25)


def test_what_cannot_be_an_int8_program(wide_project):
    with refused("deploy.precision", "precision int8 needs the channels-last operators"):
        export(config(), INT8)
    narrow = build_network(config().Arch)  # 8 and 12 channels
    with refused("deploy.precision", "no pointwise convolution of this network has 32 input channels", "bf16"):
        lower(narrow, "channels_last", ["fp32", INT8], calibration=[random_images(1, 3, 32, 32).numpy()])


def test_a_processor_without_vnni(wide_project, monkeypatch, caplog):
    caplog.set_level("INFO", "ppreplk")
    export(wide(), INT8)
    monkeypatch.setattr("ppreplk.ops.onednn.has_int8", lambda: False)
    assert choose_precision("inference", "cpu", INT8, None) == "fp32"
    assert f"{NO_INT8}: predicting in fp32" in caplog.text
    with refused("deploy.precision", f"precision int8: {NO_INT8}; use fp32"):
        choose_precision("inference", "cpu", INT8, INT8)
    Program("inference", precision=INT8)  # computes all the same
    assert f"{NO_INT8}: the int8 program runs with the same rounding in float32 arithmetic, no faster" in caplog.text


def test_images_that_are_no_numbers_are_named(wide_project, caplog):
    """Outputs stay finite or not, as in every precision; the other image of the batch is not touched."""
    program = Program(export(wide(), INT8), precision=INT8)
    images = random_images(2, 3, 32, 32).numpy()
    expected = program(images)
    images[1, :, 3] = np.nan
    received = program(images)
    np.testing.assert_array_equal(received[0], expected[0])
    assert "images with NaN or infinite values, whose outputs mean nothing: [1] of 2" in caplog.text
