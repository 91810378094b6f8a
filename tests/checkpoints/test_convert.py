"""tools/convert.py and Global.pretrained_model: what is converted, refused, replaced and warned about."""

import json
import pickle
import re
import time

import numpy as np
import paddle
import pytest
from helpers import (
    GOLDEN,
    ROOT,
    GoldenCase,
    assert_one_line_and_exit_2,
    colour_config,
    random_images,
    randomise_batch_norms,
    refused,
    relative_difference,
    run_python,
    run_tool,
    small_network,
)
from torch_files import Storage, Tensor, as_torch, tensors, write_zip

import ppreplk
from ppreplk.checkpoints.pretrained import build_trained_network, load_pretrained
from ppreplk.checkpoints.transform_check import check_preprocessing
from ppreplk.checkpoints.translate import translate
from ppreplk.config import load_config
from ppreplk.models.arch import build_network
from ppreplk.models.registry import recognise, shapes_of
from ppreplk.weights import convert, load_checkpoint, load_weights

VARIANTS = [name for name in ppreplk.list_models() if name.startswith("RepLKNet")]


def stand_ins(name: str, **changes) -> dict[str, np.ndarray]:
    """Weights of a full-size network that take no memory: every value is one and the same."""
    with paddle.LazyGuard():
        model = ppreplk.build_model(name, **changes)
    return {key: np.broadcast_to(np.float32(0.5), shape) for key, shape in shapes_of(model).items()}


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_told_from_its_shapes(name, merged):
    state = stand_ins(name, class_num=123, merged=merged)
    architecture = recognise(state, "file")
    assert (architecture.variant, architecture.form) == (name, "merged" if merged else "train")
    assert architecture.arguments["class_num"] == 123
    assert architecture.shapes() == {key: value.shape for key, value in state.items()}


@pytest.mark.parametrize("name", ["RepLKNet31B", "RepLKNet31L", "RepLKNetXL"])
def test_official_names_and_shapes_are_told(name):
    official = json.loads((GOLDEN / "official_state_dict_shapes.json").read_text())[name]
    state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in official.items()}
    translated = translate(state, "file")
    architecture = recognise(translated.state, "file")
    assert (translated.layout, architecture.variant, architecture.form) == ("official", name, "train")
    assert architecture.arguments["class_num"] == 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"dw_ratio": 1.5},
        {"ffn_ratio": 2.5, "small_kernel": None},
        {"in_channels": 1, "class_num": 1},
        {"out_indices": [0, 1, 2], "class_num": None},
        {"out_indices": [0, 1, 2], "class_num": None, "norm_intermediate_features": True},
        {"layers": (3,), "channels": (10,), "large_kernel_sizes": (3,), "dw_ratio": 1.25},
    ],
)
def test_any_architecture_is_told_from_its_shapes(changes):
    model = small_network(**changes)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    architecture = recognise(state, "file")
    assert architecture.variant is None
    assert architecture.shapes() == shapes_of(model)


@pytest.mark.parametrize("suffix", ["pdparams", "safetensors"])
@pytest.mark.parametrize("name", ["tiny_reparam5", "tiny_kernel_exceeds_map"])
def test_converted_golden_weights_give_the_golden_outputs(tmp_path, name, suffix):
    case = GoldenCase(name)
    report = convert(GOLDEN / f"{name}.pth", tmp_path / f"converted.{suffix}")
    state = load_checkpoint(tmp_path / f"converted.{suffix}")
    assert set(state) == set(case.state) and all((state[key] == value).all() for key, value in case.state.items())
    model = report.network.build()
    load_weights(model, state, "converted")
    model.eval()
    assert relative_difference(model(case.input), case.arrays["logits"]) < 1e-5
    merged = report.network.build(merged=True)
    load_weights(merged, state, "converted")
    merged.eval()
    assert relative_difference(merged(case.input), case.arrays["logits_merged"]) < 1e-5


def test_paddle_reads_what_is_written(tmp_path):
    convert(GOLDEN / "tiny_reparam5.pth", tmp_path / "converted.pdparams")
    theirs = paddle.load(str(tmp_path / "converted.pdparams"))
    state = GoldenCase("tiny_reparam5").state
    assert set(theirs) == set(state) and all((theirs[key].numpy() == value).all() for key, value in state.items())


def test_half_precision_is_written_as_float32(tmp_path):
    state = {key: value.astype(np.float16) for key, value in GoldenCase("tiny_reparam5").state.items()}
    write_zip(tmp_path / "half.pth", tensors(as_torch(state)))
    assert load_checkpoint(tmp_path / "half.pth")["norm.weight"].dtype == np.float16
    convert(tmp_path / "half.pth", tmp_path / "half.pdparams")
    assert all(array.dtype == np.float32 for array in load_checkpoint(tmp_path / "half").values())


CHANGES = {
    "left over": (
        lambda state: state.update({"head.extra": np.zeros(3)}),
        "checkpoints.incomplete",
        "1 left over, head.extra",
    ),
    "missing": (lambda state: state.pop("norm.weight"), "checkpoints.incomplete", "1 missing, norm.weight"),
    "shape": (
        lambda state: state.update({"norm.weight": np.zeros(3)}),
        "checkpoints.incomplete",
        "1 of wrong shape, norm.weight",
    ),
    "stage": (
        lambda state: state.pop("stages.0.blocks.0.prelkb_bn.weight"),
        "models.not-recognised",
        "stages.0.blocks.0.prelkb_bn.weight",
    ),
    "stem": (lambda state: state.pop("stem.0.conv.weight"), "models.not-recognised", "stem.0.conv.weight"),
    "no values": (
        lambda state: state.update(
            {"stages.0.blocks.0.large_kernel.lkb_origin.conv.weight": np.zeros((8, 0, 9, 2**40 + 1))}
        ),
        "models.not-recognised",
        "lkb_origin.conv.weight has the shape [8, 0, 9, 1099511627777]",
    ),
    "kernels": (lambda state: [state.pop(n) for n in list(state) if ".lkb_" in n], "models.not-recognised", "RepLKNet"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_incomplete_weights_are_refused_by_name_and_nothing_is_written(tmp_path, change):
    state = as_torch(GoldenCase("tiny_reparam5").state)
    alter, code, part = CHANGES[change]
    alter(state)
    write_zip(tmp_path / "changed.pth", tensors(state))
    with refused(code, "changed.pth", part):
        convert(tmp_path / "changed.pth", tmp_path / "out.pdparams")
    assert [path.name for path in tmp_path.iterdir()] == ["changed.pth"]


@pytest.fixture
def photograph(tmp_path):
    from PIL import Image
    from sklearn.datasets import load_sample_images

    Image.fromarray(load_sample_images().images[0]).save(tmp_path / "photograph.png")
    return tmp_path / "photograph.png"


def test_the_tool_reports_and_checks(tmp_path, photograph):
    source = GOLDEN / "tiny_reparam5.pth"
    process = run_tool("convert", source, "a.safetensors", "--check", photograph, "--size", 64, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert lines[0] == "layout: official"
    assert lines[1].startswith("architecture: RepLKNet, 10 classes (large_kernel_sizes=[13, 11, 9, 7], layers=[1, 1")
    assert lines[2] == "form: train"
    assert lines[3] == "tensors: 246, parameters: 41,690, left out: 51 of num_batches_tracked"
    assert lines[4] == "wrote a.safetensors"
    assert re.fullmatch(r"\S+photograph.png: (\d [01]\.\d{5}(, )?){5}", lines[5])


@pytest.mark.parametrize(
    "arguments, code, part",
    [
        (["nothing.pth", "a.pdparams"], "checkpoints.no-file", "nothing.pth"),
        ([GOLDEN / "tiny_reparam5.pth", "a.pth"], "checkpoints.bad-target", "a.pth: "),
        ([GOLDEN / "tiny_reparam5.pth", "nowhere/a.pdparams"], "checkpoints.bad-target", "nowhere/a.pdparams"),
        ([GOLDEN / "tiny_reparam5.pth", "a.pdparams", "--ema"], "checkpoints.no-averaged", "tiny_reparam5.pth"),
    ],
)
def test_the_tool_ends_in_one_line(tmp_path, arguments, code, part):
    process = run_tool("convert", *arguments, cwd=tmp_path)
    assert_one_line_and_exit_2(process, part, code=code)
    assert not any(tmp_path.iterdir())


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The colour configuration's network in every format, and the configuration."""
    monkeypatch.chdir(tmp_path)
    config = colour_config()
    paddle.seed(1)
    arguments = {key: value for key, value in config["Arch"].items() if key != "name"}
    model = ppreplk.build_model("RepLKNet13T", **arguments)
    randomise_batch_norms(model)
    model.eval()
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    write_zip(tmp_path / "weights.pth", {"model": tensors(as_torch(state))})
    convert("weights.pth", "weights.pdparams")
    convert("weights.pth", "weights.safetensors")
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps({"state_dict": as_torch(state)}))
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    return model


def load(*overrides: str):
    return load_config("config.yaml", overrides)


@pytest.mark.parametrize("name", ["weights.pth", "weights.pdparams", "weights", "weights.safetensors", "weights.pkl"])
def test_any_file_serves_as_pretrained_model(published, name):
    model = build_trained_network(load(f"Global.pretrained_model={name}"))
    images = random_images(2, 3, 32, 32)
    assert (model(images) == published(images)).all()


def test_a_merged_network_takes_train_form_weights(published):
    config = load("Global.pretrained_model=weights.pth", "Arch.merged=True")
    images = random_images(2, 3, 32, 32)
    model = build_trained_network(config)
    assert relative_difference(model(images), published(images)) < 1e-5


def test_another_class_num_is_an_error_in_evaluation_and_a_new_head_in_training(published, caplog):
    config = load("Global.pretrained_model=weights.pth", "Arch.class_num=7")
    with refused("checkpoints.other-classes", "weights.pth", "3 classes", "Arch.class_num is 7"):
        build_trained_network(config)
    model = build_network(config.Arch)
    head = model.head.weight.numpy()
    with caplog.at_level("INFO", logger="ppreplk"):
        load_pretrained(model, config, training=True)
    assert "has a head for 3 classes; a new one for 7 starts from scratch" in caplog.text
    assert (model.head.weight.numpy() == head).all()
    assert (model.norm.weight == published.norm.weight).all()


def test_anything_else_is_an_error_with_counts(published):
    config = load("Global.pretrained_model=weights.pth", "Arch.layers=[1,2]")
    with refused("checkpoints.other-architecture", " missing, 0 unexpected, 0 mis-shaped; stages.1.blocks.2"):
        load_pretrained(build_network(config.Arch), config, training=True)


def warnings_of(caplog, config: str, name: str, path: str, training: bool, *overrides: str) -> list[str]:
    caplog.clear()
    checked = load_config(ROOT / "configs" / f"{config}.yaml", overrides)
    check_preprocessing(checked, stand_ins(name), path, training)
    return [record.getMessage() for record in caplog.records]


def test_preprocessing_that_does_not_belong_to_the_weights_is_remarked(caplog):
    caplog.set_level("WARNING", logger="ppreplk")
    xl, base = "RepLKNet-XL_MegData73M_ImageNet1K.pth", "RepLKNet-31B_ImageNet-1K_384.pth"
    received = warnings_of(caplog, "replknet31b", "RepLKNetXL", xl, True)
    assert len(received) == 3  # of training, evaluation and prediction
    assert "the published weights of RepLKNetXL expect mean [0.5, 0.5, 0.5]" in received[0]
    received = warnings_of(caplog, "replknet31b", "RepLKNet31B", base, False)
    assert len(received) == 2 and "weights for 384x384 expect images resized to that square" in received[0]
    assert len(warnings_of(caplog, "replknetxl_320", "RepLKNet31B", base, True)) == 3
    cropped = "DataLoader.Eval.dataset.transform_ops.1.ResizeImage={resize_short: 438, backend: pil}"
    received = warnings_of(caplog, "replknet31b_384", "RepLKNet31B", base, True, cropped)
    assert len(received) == 1 and received[0].startswith("DataLoader.Eval")
    nothing = "DataLoader.Eval.dataset.transform_ops.3.NormalizeImage.scale=0"
    received = warnings_of(caplog, "replknet31b", "RepLKNet31B", "weights.pth", True, nothing)
    assert len(received) == 1 and "normalizes with scale 0" in received[0]


@pytest.mark.parametrize("path", sorted(path.stem for path in (ROOT / "configs").glob("replknet*.yaml")))
def test_every_recipe_has_the_preprocessing_of_its_weights(caplog, path):
    caplog.set_level("WARNING", logger="ppreplk")
    config = load_config(ROOT / "configs" / f"{path}.yaml")
    for training in (True, False):
        assert warnings_of(caplog, path, config.Arch.name, "weights.pdparams", training) == []


MEASURE = """
import sys, time
from helpers import peak_memory
from ppreplk.weights import convert
convert(sys.argv[3], sys.argv[2])  # what the first file costs once
before, start = peak_memory(), time.perf_counter()
print(convert(sys.argv[1], sys.argv[2]))
print(time.perf_counter() - start, peak_memory() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name, suffix", [("RepLKNet31B", "pdparams"), ("RepLKNetXL", "safetensors")])
def test_full_size_weights_convert_in_little_memory(tmp_path, name, suffix):
    """python -m pytest -m slow -s tests/checkpoints/test_convert.py: prints seconds and peak memory."""
    rng = np.random.default_rng(0)
    state = {key: rng.standard_normal(value.shape, np.float32) for key, value in stand_ins(name).items()}
    theirs = {key: Tensor.of(array) for key, array in as_torch(state).items()}
    moments = Storage(np.zeros(10_000_000, np.float32))  # of an optimizer: not read
    size = sum(array.nbytes for array in state.values())
    write_zip(tmp_path / "full.pth", {"model": theirs, "optimizer": Tensor(moments, 0, (10_000_000,), (1,))})
    target = tmp_path / f"full.{suffix}"
    output = run_python(MEASURE, tmp_path / "full.pth", target, GOLDEN / "tiny_reparam5.pth")
    seconds, peak = map(float, output.splitlines()[-1].split())
    print(f"\n{name}: {size / 1e6:.0f} MB of weights in {seconds:.1f} s, peak memory {peak / 1e6:.0f} MB")
    assert f"architecture: {name}, 1000 classes" in output
    assert peak < 1.1 * size
    start, converted = time.perf_counter(), load_checkpoint(target)
    assert all((converted[key] == value).all() for key, value in state.items()) and len(converted) == len(state)
    print(f"read and compared in {time.perf_counter() - start:.1f} s")
