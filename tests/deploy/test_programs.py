"""Running exported programs: the operators they hold, the precisions, what is broken, threads."""

import os
from pathlib import Path

import numpy as np
import paddle
import pytest
from exports import BOUNDS, CHANNELS_LAST, LOGITS, config, network, predict_without_onednn
from helpers import (
    assert_one_line_and_exit_2,
    refused,
    relative_difference,
    require_channels_last_operators,
    require_depthwise_operators,
    run_tool,
)

from ppreplk.deploy.export import export
from ppreplk.deploy.infer import infer
from ppreplk.deploy.programs import Program, _announce_emulation, choose_precision, input_shape
from ppreplk.utils.errors import UserError


def test_a_broken_program_is_refused(project):
    export(config())
    Path("inference/inference.json").write_text("{}")
    with refused("deploy.bad-program", "inference.json"):
        list(infer(config(), "inference"))
    with refused("deploy.no-program", "absent"):
        list(infer(config(), "absent"))


@pytest.mark.parametrize("name", ["inference.json", "inference.pdiparams"])
def test_a_program_that_may_not_be_read(project, monkeypatch, name):
    export(config())

    def refuse(path, *mode):
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied")
        return open(path, *mode)

    monkeypatch.setattr("ppreplk.deploy.programs.open", refuse, raising=False)
    with refused("deploy.no-program", f"{name}: cannot be read (Permission denied)"):
        list(infer(config(), "inference"))


BROKEN_YAML = {
    "{}": "deploy.bad-program",
    "PreProcess: {transform_ops: []}": "deploy.bad-program",
    "PostProcess: {Topk: {topk: abc}}": "deploy.bad-program",
    "[1]": "config.wrong-type",
    "a: [": "config.not-yaml",
    None: "deploy.no-program",
}


@pytest.mark.parametrize("content, code", BROKEN_YAML.items())
def test_a_broken_inference_yml_is_refused(project, content, code):
    path = export(config()) / "inference.yml"
    path.unlink() if content is None else path.write_text(content)
    with refused(code, "inference.yml"):
        list(infer(config(), "inference"))


@pytest.mark.parametrize("size", [32, 47])
def test_a_program_with_the_cpu_operator(project, size):
    require_depthwise_operators()
    changes = ["Global.export_depthwise=cpu", LOGITS]
    changes += [f"Global.image_shape=[3, {size}, {size}]", f"Infer.transforms.1.ResizeImage.size={size}"]
    folder = export(config(*changes))
    assert "ppreplk_depthwise_conv_packed" in (folder / "inference.json").read_text()
    for batch in (1, 5):
        images = np.random.default_rng(batch).standard_normal((batch, 3, size, size)).astype("float32")
        expected = network()(paddle.to_tensor(images)).numpy()
        for received in (Program(folder)(images), predict_without_onednn(folder, images)):
            assert relative_difference(received, expected) < BOUNDS["fp32"]


def test_a_program_with_the_cpu_operator_loads_it_by_itself(project):
    require_depthwise_operators()
    folder = export(config("Global.export_depthwise=cpu"))
    arguments = ["-c", "config.yaml", "--model-dir", folder, "-o", "Infer.infer_imgs=data/images"]
    process = run_tool("infer", *arguments, cwd=project)
    assert process.returncode == 0 and len(process.stdout.splitlines()) == 24, process.stderr
    environment = {**os.environ, "XDG_CACHE_HOME": str(project), "CXX": "no-such-compiler"}
    process = run_tool("infer", *arguments, cwd=project, env=environment)
    assert_one_line_and_exit_2(process, "inference.json holds operators", "no-such-compiler", code="ops.no-compiler")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("conv2d", []),
        ("ppreplk_depthwise_conv_packed", [("depthwise",)]),
        ("ppreplk_channels_last_conv", [("depthwise", "channels_last")]),
        ("ppreplk_dense_conv", [("depthwise", "channels_last")]),
    ],
)
def test_operators_are_loaded_for_the_programs_that_hold_them(project, monkeypatch, content, names):
    loaded = []
    monkeypatch.setattr("ppreplk.deploy.programs.load_ops", lambda *names: loaded.append(names))
    export(config())
    Path("inference/inference.json").write_text(content)
    with refused("deploy.bad-program", "inference.json"):
        Program("inference")
    assert loaded == names


def test_the_precision_of_a_program_that_is_not_for_this_place(project, monkeypatch):
    """What is wrong is said before operators are built."""
    monkeypatch.setattr("ppreplk.deploy.programs.load_ops", lambda *names: pytest.fail("built"))
    export(config())
    with refused("deploy.no-program", "inference_bf16.json missing"):
        choose_precision("inference", "cpu", "fp32", "bf16")
    Path("inference/inference_bf16.json").write_text("ppreplk_dense_conv")
    with refused("deploy.device", "inference_bf16.json", "gpu"):
        choose_precision("inference", "gpu", "bf16", None)


def test_the_precision_of_predictions(project, monkeypatch, caplog):
    require_channels_last_operators()
    caplog.set_level("INFO", "ppreplk")
    export(config(CHANNELS_LAST), "bf16")
    by_network = [prediction.class_ids[0] for prediction in infer(config())]

    def predict(has_bfloat16, precision):
        monkeypatch.setattr("ppreplk.ops.onednn.has_bfloat16", lambda: has_bfloat16)
        return [prediction.class_ids[0] for prediction in infer(config(), "inference", precision)]

    assert predict(True, "fp32") == predict(True, "bf16") == predict(True, None) == by_network
    assert "predicting in fp32" not in caplog.text
    assert predict(False, None) == by_network
    assert "this processor has no bfloat16 arithmetic (AVX-512 BF16 or AMX): predicting in fp32" in caplog.text
    with refused("deploy.precision", "bf16", "no bfloat16 arithmetic", "use fp32"):
        predict(False, "bf16")


def test_precisions_that_are_not_there(project):
    with refused("deploy.precision", "bf16", "--model-dir"):
        list(infer(config(), None, "bf16"))
    export(config())
    with refused("deploy.no-program", "inference_bf16.json missing", "--precision fp32"):
        list(infer(config(), "inference", "bf16"))
    with refused("deploy.precision", "'int4'", "fp32, fp32-bf16x3, bf16, int8"):
        Program("inference", precision="int4")
    with refused("deploy.no-program", "inference_int8.json missing", "--precision int8"):
        Program("inference", precision="int8")
    Path("inference/inference_bf16.json").write_text("{}")
    with refused("deploy.bad-program", "inference_bf16.json"):
        list(infer(config(), "inference", "bf16"))
    path = Path("inference/inference.yml")
    right = path.read_text()
    for wrong in ("int4", "[bf16]", "{}"):
        path.write_text(right.replace("precision: fp32", f"precision: {wrong}"))
        with refused("deploy.precision", wrong.strip("[]")):
            list(infer(config(), "inference"))


def test_a_bf16_program_where_nothing_multiplies_bfloat16(project, monkeypatch, caplog):
    require_channels_last_operators()
    caplog.set_level("INFO", "ppreplk")
    export(config(CHANNELS_LAST), "bf16")
    monkeypatch.setattr("ppreplk.ops.onednn.has_bfloat16", lambda: False)
    caplog.clear()
    _announce_emulation.cache_clear()
    for _ in range(2):
        Program("inference", precision="bf16")
    assert caplog.text.count("in float32 arithmetic, no faster") == 1


def test_a_program_of_channels_last_operators_needs_a_cpu(project):
    require_channels_last_operators()
    folder = export(config(CHANNELS_LAST))
    with refused("deploy.device", "inference.json", "gpu"):
        Program(folder, device="gpu")


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    """A program for images of 3x32x32, as 0.1.0 wrote it."""
    return Program(Path(__file__).parent.parent / "earlier" / "program")


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32))


@pytest.mark.parametrize(
    "convert",
    [
        lambda images: images.astype("uint8"),
        lambda images: images.astype("int32"),
        lambda images: images,
        lambda images: images.astype("float64"),
        lambda images: images.astype("float16"),
        lambda images: images.astype(">f4"),
        lambda images: images.tolist(),
        lambda images: list(images.astype("float32")),
        lambda images: images.astype("float32").transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
        lambda images: paddle.to_tensor(images.astype("float32")),
        lambda images: paddle.to_tensor(images.astype("float32")).astype("bfloat16"),
    ],
)
def test_numbers_of_any_type_are_cast(predictor, convert):
    np.testing.assert_array_equal(predictor(convert(IMAGES)), predictor(IMAGES.astype("float32")))


def test_truth_values_are_numbers(predictor):
    masks = IMAGES > 127
    np.testing.assert_array_equal(predictor(masks), predictor(masks.astype("float32")))


REFUSED_IMAGES = {
    "one image": (IMAGES[0], "expected shape (N, 3, 32, 32), got (3, 32, 32); one image is images[None]"),
    "channels last": (IMAGES.transpose(0, 2, 3, 1), "channels come first: images.transpose(0, 3, 1, 2)"),
    "grey": (IMAGES[:, :1], "got (2, 1, 32, 32)"),
    "grey, one image": (IMAGES[0, 0], "got (32, 32)"),
    "a video": (IMAGES[None], "got (1, 2, 3, 32, 32)"),
    "no image": (IMAGES[:0], "got (0, 3, 32, 32), which is empty"),
    "no pixels": (IMAGES[:, :, :0], "which is empty"),
    "a number": (1.0, "got ()"),
    "nothing": (None, "expected numbers, best float32, of shape (N, 3, 32, 32), got object"),
    "a path": ("image.png", "got <U9"),
    "complex": (IMAGES.astype("complex64"), "got complex64"),
    "objects": (IMAGES.astype(object), "got object"),
    "several shapes": ([IMAGES[0], IMAGES[0, :, :20]], "got images of several shapes"),
}


@pytest.mark.parametrize("case", REFUSED_IMAGES)
def test_what_the_program_cannot_read_is_refused_in_one_line(predictor, case):
    images, part = REFUSED_IMAGES[case]
    with refused("deploy.bad-images", "images: ", part):
        predictor(images)
    predictor(IMAGES)  # it goes on


def test_what_only_paddle_refuses_is_one_line_too(predictor, monkeypatch):
    monkeypatch.setattr(predictor, "input_shape", None)
    with pytest.raises(UserError) as caught:
        predictor(IMAGES[:, :1])
    message = str(caught.value)
    assert caught.value.code == "deploy.bad-images" and "\n" not in message and len(message) < 600
    assert "does not run on images of shape [2, 1, 32, 32]" in message and "channels" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_images_with_nan_are_noticed(predictor, caplog, value):
    images = IMAGES.repeat(2, axis=0).astype("float64")
    predictor(images)
    assert not caplog.records
    images[1, 0, 3, 4] = images[3, 2, 0, 0] = value
    outputs = predictor(images)
    assert "images with NaN or infinite values, whose outputs mean nothing: [1, 3] of 4" in caplog.text
    np.testing.assert_allclose(outputs[[0, 2]], predictor(IMAGES.repeat(2, axis=0))[[0, 2]], rtol=1e-5)


def test_large_values_are_no_infinity(predictor, caplog):
    predictor(np.full((2, 3, 32, 32), 3e38, "float32"))
    assert not caplog.records


def test_the_shape_a_program_names(project):
    folder = Path(__file__).parent.parent / "earlier"
    assert {tuple(input_shape(path)) for path in folder.glob("program*/inference*.json")} == {(-1, 3, 32, 32)}
    program = export(config()) / "inference.json"
    assert input_shape(program) == [-1, 3, 32, 32]
    for text in ("{}", "[]", "", '{"program": {"regions": []}}', '{"program": 3}'):
        program.write_text(text)
        assert input_shape(program) is None


def test_devices_that_programs_do_not_run_on(project):
    export(config())
    with refused("deploy.device", "cpu or gpu", "'xpu'"):
        Program("inference", device="xpu")
