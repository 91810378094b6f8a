"""What the plugins of PaddleSeg and PaddleDetection share."""

import numpy as np
import paddle
import pytest
from helpers import random_images, randomise_batch_norms, refused, relative_difference
from torch_files import as_torch, tensors, write_zip

import ppreplk
from ppreplk.plugins.suite_programs import create_predictor, inference_config, onednn_cannot_interpolate
from ppreplk.plugins.suites import (
    Patch,
    Suite,
    apply_patches,
    backbone_names,
    build_backbone,
    check_files,
    errors_of_ours,
    option_value,
    option_values,
)
from ppreplk.utils.errors import UserError

TINY = {"layers": [1, 1], "channels": [4, 6], "large_kernel_sizes": [9, 7]}


def classifier(**changes):
    model = ppreplk.build_model("RepLKNet13T", **{**TINY, "class_num": 5, **changes})
    randomise_batch_norms(model)
    model.eval()
    return model


def arrays(state):
    return {name: value.numpy() for name, value in state.items()}


def save(model, path, prefix=""):
    paddle.save({prefix + name: value for name, value in model.state_dict().items()}, str(path))
    return str(path)


def test_every_model_that_can_be_a_backbone_is_named_and_built():
    names = backbone_names()
    assert {"RepLKNet", "RepLKNet31B", "RepLKNet31L", "RepLKNetXL", "RepLKNet13T"} <= set(names)
    assert not [name for name in names if "MobileNet" in name]
    assert build_backbone("RepLKNet13T", {}).feat_channels == [16, 32, 64, 128]
    explicit = build_backbone("RepLKNet", {**TINY, "small_kernel": 3, "out_indices": [1]})
    assert explicit.feat_channels == [6]


@pytest.mark.parametrize(
    ("name", "arguments", "code", "part"),
    [
        ("RepLKNet13T", {"drop_path": 0.5}, "config.unknown-key", "model.backbone.drop_path"),
        ("RepLKNet13T", {"drop_path_rate": 2}, "models.bad-argument", "model.backbone"),
        ("RepLKNet13T", {"out_indices": [9]}, "models.bad-argument", "stages 0 to 3"),
        ("RepLKNet13T", {"layers": "many"}, "config.wrong-type", "model.backbone.layers"),
        ("RepLKNet", {"channels": [8]}, "config.missing-key", "model.backbone.large_kernel_sizes"),
        ("RepLKNet13", {}, "models.unknown-model", "RepLKNet13T"),
    ],
)
def test_arguments_that_make_no_backbone_are_one_line(name, arguments, code, part):
    with refused(code, part):
        build_backbone(name, arguments)


def test_a_classifier_gives_its_stages(tmp_path, caplog):
    caplog.set_level("INFO", "ppreplk")
    model = classifier()
    backbone = build_backbone("RepLKNet13T", TINY, save(model, tmp_path / "classifier.pdparams"))
    backbone.eval()
    images = random_images(1, 3, 32, 32)
    assert relative_difference(backbone(images)[-1], model.forward_features(images)) < 1e-6
    assert "left out 6 of the classifier" in caplog.text


def test_whole_checkpoints_of_mmseg_and_of_the_suites_give_their_backbone(tmp_path):
    model = classifier()
    stages = {name: value for name, value in model.state_dict().items() if not name.startswith(("norm.", "head."))}
    torch = {f"backbone.{name}": array for name, array in as_torch(arrays(stages)).items()}
    write_zip(
        tmp_path / "mmseg.pth", {"state_dict": tensors({**torch, "decode_head.conv_seg.bias": np.zeros(3, "f4")})}
    )
    ours = {f"backbone.{name}": value for name, value in stages.items()}
    paddle.save({**ours, "head.conv_seg.bias": paddle.zeros([3])}, str(tmp_path / "paddleseg.pdparams"))
    images = random_images(1, 3, 32, 32)
    for file in ("mmseg.pth", "paddleseg.pdparams"):
        backbone = build_backbone("RepLKNet13T", TINY, str(tmp_path / file))
        backbone.eval()
        assert relative_difference(backbone(images)[-1], model.forward_features(images)) < 1e-6, file


def test_what_a_file_lacks_starts_from_scratch_only_where_it_may(tmp_path, caplog):
    path = save(classifier(small_kernel=None), tmp_path / "no_small.pdparams")
    build_backbone("RepLKNet13T", {**TINY, "norm_intermediate_features": True}, path)
    assert "no parallel kernels: 10 arrays start from scratch" in caplog.text
    assert "no norms of features: 8 arrays start from scratch" in caplog.text
    with refused("checkpoints.other-architecture", "mis-shaped"):
        build_backbone("RepLKNet13T", {**TINY, "channels": [4, 8]}, path)
    with refused("checkpoints.other-architecture", "unexpected"):
        full = save(classifier(), tmp_path / "full.pdparams")
        build_backbone("RepLKNet13T", {**TINY, "small_kernel": None}, full)
    state = classifier().state_dict()
    del state["stages.0.blocks.0.large_kernel.small_conv.bn.bias"]
    paddle.save(state, str(tmp_path / "half.pdparams"))
    with refused("checkpoints.other-architecture", "1 missing"):
        build_backbone("RepLKNet13T", TINY, str(tmp_path / "half.pdparams"))


def test_merged_weights_are_refused_by_a_network_that_trains(tmp_path):
    merged = save(ppreplk.reparameterize(classifier()), tmp_path / "merged.pdparams")
    with refused("checkpoints.merged"):
        build_backbone("RepLKNet13T", TINY, merged)
    build_backbone("RepLKNet13T", {**TINY, "merged": True}, merged)


def test_patches_are_applied_where_they_are_needed_and_named_with_their_reason(caplog):
    caplog.set_level("INFO", "ppreplk")
    broken = {"first": True, "second": False}
    patches = [
        Patch(name, f"{name} fails", lambda name=name: broken[name], lambda name=name: broken.update({name: False}))
        for name in broken
    ]
    assert apply_patches(patches) == ["first"] and apply_patches(patches) == []
    assert "patched first: first fails" in caplog.text


SUITE = Suite("Suite", "tiny_suite", "TINY_SUITE", "tiny-suite==1", {"train": "tools/train.py"})


def checkout(folder, tool):
    for name, text in {"tiny_suite/__init__.py": "", "tools/train.py": tool}.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    return folder


def test_a_checkout_is_found_and_its_tool_run(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    with refused("plugins.no-suite", "pip install tiny-suite==1", "TINY_SUITE"):
        SUITE.open()
    with refused("plugins.no-checkout", "--checkout"):
        SUITE.open(str(tmp_path))
    tool = "import sys, tiny_suite\nopen(sys.argv[2], 'w').write(__name__ + tiny_suite.__file__)"
    folder = checkout(tmp_path / "Suite", tool)
    monkeypatch.chdir(folder)
    assert SUITE.find_checkout() == folder
    monkeypatch.chdir(tmp_path)
    assert SUITE.find_checkout() is None
    monkeypatch.setenv("TINY_SUITE", str(folder))
    assert SUITE.open() == folder
    SUITE.run_tool(folder, "train", ["--out", str(tmp_path / "out")])
    assert (tmp_path / "out").read_text() == "__main__" + str(folder / "tiny_suite" / "__init__.py")


def test_an_error_of_ours_comes_out_of_a_suite_as_it_went_in():
    with refused("here.wrong", "a sentence"), errors_of_ours():
        try:
            raise UserError("a sentence", code="here.wrong")
        except UserError as error:
            raise RuntimeError(f"Tried to create ... {error}")  # noqa: B904 - as PaddleSeg does
    with pytest.raises(ZeroDivisionError), errors_of_ours():
        raise ZeroDivisionError


def test_files_that_options_name_must_exist(tmp_path):
    assert option_value(["--config=a", "-c", "b"], "-c", "--config") == "b"
    assert option_value(["--eval"], "--config") is None
    assert option_values(["--opts", "a=1", "b=2", "--iters", "3"], "--opts") == ["a=1", "b=2"]
    assert option_values(["--opts=a=1", "--iters", "3"], "--opts") == ["a=1"]
    check_files(["--config", str(tmp_path)], {"--config|-c": "configuration"})
    with refused("plugins.no-file", "no configuration none.yml"):
        check_files(["-c", "none.yml"], {"--config|-c": "configuration"})


class Enlarged(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = paddle.nn.Conv2D(2, 2, 1)

    def forward(self, x):
        return paddle.nn.functional.interpolate(self.conv(x), size=[8, 8], mode="bilinear", align_corners=True)


def test_interpolation_runs_on_onednn_around_the_fault_of_paddle(tmp_path):
    spec = [paddle.static.InputSpec([None, 2, None, None], "float32")]
    model = Enlarged()
    paddle.jit.save(model, str(tmp_path / "model"), input_spec=spec)
    program = tmp_path / "model.json"
    config = inference_config(program, tmp_path / "model.pdiparams", threads=1)
    assert config.mkldnn_enabled()
    images = random_images(2, 2, 5, 4)
    (received,) = create_predictor(config, program).run([images])
    assert relative_difference(received, model(images)) < 1e-5
    assert onednn_cannot_interpolate() == paddle.__version__.startswith("3.3."), "the fault has come or gone"


def test_programs_that_are_not_there_are_one_line(tmp_path):
    with refused("plugins.no-program", "model.json is missing"):
        inference_config(tmp_path / "model.json", tmp_path / "model.pdiparams")
    for name in ("model.json", "model.pdiparams"):
        (tmp_path / name).write_text("{}")
    with refused("plugins.device"):
        inference_config(tmp_path / "model.json", tmp_path / "model.pdiparams", "tpu")
    config = inference_config(tmp_path / "model.json", tmp_path / "model.pdiparams")
    with refused("plugins.bad-program", "export it again"):
        create_predictor(config, tmp_path / "model.json")
