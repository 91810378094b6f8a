"""Layouts of other implementations, made by renaming: the same network comes out of each."""

import pickle
import re

import numpy as np
import paddle
import pytest
from helpers import random_images, randomise_batch_norms, refused, relative_difference, small_network
from torch_files import as_torch, tensors, write_old, write_zip

import ppreplk
from ppreplk.checkpoints.translate import translate
from ppreplk.weights import convert, load_checkpoint, load_weights

PADDLEVIT = {
    r"\bbn\b": "norm",
    "prelkb_bn": "pre_large_kernel_bn",
    "preffn_bn": "pre_ffn_bn",
    "pw1": "pw_conv_1",
    "pw2": "pw_conv_2",
    "lkb_origin": "large_kernel_origin",
    "small_conv": "small_kernel_conv",
    "lkb_reparam": "large_kernel_reparam",
}


def network(**changes):
    model = small_network(**changes)
    randomise_batch_norms(model)
    model.eval()
    return model


def arrays(model) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def mmpretrain(state: dict) -> dict:
    """``backbone.`` before all but the head, which is ``head.fc``; the last norm belongs to the last stage."""
    named = {}
    for name, array in as_torch(state).items():
        name = re.sub(r"^norm\.", "stages.2.norm.", name)
        named[name.replace("head.", "head.fc.") if name.startswith("head.") else f"backbone.{name}"] = array
    return named


def paddlevit(state: dict) -> dict:
    """Paddle's words for everything; convolutions have a ``norm`` and long names."""
    named = {}
    for name, array in state.items():
        for ours, theirs in PADDLEVIT.items():
            name = re.sub(ours, theirs, name)
        named[name] = array
    return named


def megengine(state: dict, layers=(1, 2, 1), flat_bn: bool = False) -> dict:
    """Blocks numbered through, activations too, 5-D depthwise weights, (1, C, 1, 1) vectors, BGR."""
    first = [sum(layers[:s]) + s for s in range(len(layers))]  # the number of each stage's first block
    named = {}
    for name, array in as_torch(state).items():
        if name.endswith("num_batches_tracked"):
            continue
        if name == "stem.0.conv.weight":
            array = np.ascontiguousarray(array[:, ::-1])
        name = re.sub(r"^stem\.(\d)", lambda m: f"stem.{2 * int(m[1])}", name)
        name = re.sub(
            r"^transitions\.(\d)\.(\d)",
            lambda m: f"blocks.{first[int(m[1])] + layers[int(m[1])]}.{2 * int(m[2])}",
            name,
        )
        pair = re.match(r"stages\.(\d)\.blocks\.(\d)\.(.+)", name)
        if pair:
            number = f"blocks.{first[int(pair[1])] + int(pair[2]) // 2}."
            rest = pair[3].replace("preffn_bn", "premlp_bn").replace("prelkb_bn", "pre_bn")
            if int(pair[2]) % 2:
                rest = rest.replace("pw1", "mlp.fc1").replace("pw2", "mlp.fc2")
            rest = rest.replace("large_kernel.lkb_origin", "dw.dw_large").replace("large_kernel.lkb_reparam", "dw")
            name = number + rest.replace("large_kernel.small_conv", "dw.dw_small_3")
        if array.ndim == 4 and array.shape[1] == 1 and array.shape[-1] > 1:
            array = array[:, :, None]
        if array.ndim == 1 and not flat_bn and not name.startswith("head"):
            array = array.reshape(1, -1, 1, 1)
        named[name] = array
    return named


class Parameter:
    """A tensor of MegEngine."""

    def __init__(self, array: np.ndarray):
        self.array = array


def write_pickle(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))


WRITERS = {
    "official, flat": lambda path, s: write_zip(path, tensors(as_torch(s))),
    "official, model": lambda path, s: write_zip(path, {"model": tensors(as_torch(s)), "epoch": 3}),
    "official, state_dict": lambda path, s: write_zip(path, {"state_dict": tensors(as_torch(s))}),
    "official, old format": lambda path, s: write_old(path, {"model": tensors(as_torch(s))}),
    "DataParallel": lambda path, s: write_zip(path, tensors({f"module.{n}": a for n, a in as_torch(s).items()})),
    "mmpretrain": lambda path, s: write_zip(path, {"meta": {"epoch": 1}, "state_dict": tensors(mmpretrain(s))}),
    "PaddleViT": lambda path, s: paddle.save({n: paddle.to_tensor(a) for n, a in paddlevit(s).items()}, str(path)),
    "MegEngine": lambda path, s: write_pickle(path, megengine(s), protocol=5),
    "MegEngine, flat vectors": lambda path, s: write_pickle(path, {"state_dict": megengine(s, flat_bn=True)}, 3),
}
LAYOUTS = {"official": "official", "DataParallel": "official, DataParallel"}


@pytest.mark.parametrize("form", ["train", "merged"])
@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_gives_the_same_network(tmp_path, layout, form):
    model = network()
    model = ppreplk.reparameterize(model) if form == "merged" else model
    path = tmp_path / "weights.bin"  # the content tells the format
    WRITERS[layout](path, arrays(model))
    report = convert(path, tmp_path / "converted.pdparams")
    plain = layout.partition(",")[0]
    assert report.layout == LAYOUTS.get(plain, plain)
    assert (report.network.form, report.tensors) == (form, len(model.state_dict()))
    images = random_images(2, 3, 40, 40)
    for checkpoint in (path, tmp_path / "converted"):
        other = small_network(merged=form == "merged")
        load_weights(other, load_checkpoint(checkpoint), "renamed")
        other.eval()
        assert (other(images) == model(images)).all()


class MegEnginePickler(pickle._Pickler):
    """Saves arrays as MegEngine saves its tensors."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_parameter(self, value: Parameter) -> None:
        self.write(pickle.GLOBAL + b"megengine.tensor\nParameter\n")
        self.save((value.array, value.array.dtype, "gpu0"))
        self.write(pickle.NEWOBJ)
        self.save({"qdict": {"mode": None, "scale": None, "zero_point": None}})
        self.write(pickle.BUILD)

    dispatch[Parameter] = save_parameter


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_of_megengine_are_arrays(tmp_path, protocol):
    model = network()
    with open(tmp_path / "weights.pkl", "wb") as file:
        content = {name: Parameter(array) for name, array in megengine(arrays(model)).items()}
        MegEnginePickler(file, protocol).dump({"state_dict": content})
    state = load_checkpoint(tmp_path / "weights.pkl")
    assert set(state) == set(arrays(model)) and all((state[n] == a).all() for n, a in arrays(model).items())


def test_backbones_leave_the_downstream_heads(tmp_path, caplog):
    model = network(class_num=None, out_indices=[0, 1, 2], norm_intermediate_features=True)
    theirs = {f"backbone.{name}": array for name, array in as_torch(arrays(model)).items()}
    heads = {"decode_head.conv_seg.weight": np.zeros((5, 8, 1, 1), np.float32), "auxiliary_head.x": np.zeros(3)}
    write_zip(tmp_path / "mmseg.pth", {"state_dict": tensors({**theirs, **heads})})
    report = convert(tmp_path / "mmseg.pth", tmp_path / "backbone.safetensors")
    assert report.layout == "mmseg/mmdet" and "a backbone" in str(report)
    with caplog.at_level("INFO", logger="ppreplk"):
        load_checkpoint(tmp_path / "mmseg.pth")
    assert "left out what is no part of the network: 1 of decode_head, 1 of auxiliary_head" in caplog.text
    assert report.left_out["decode_head"] == report.left_out["auxiliary_head"] == 1
    other = report.network.build()
    load_weights(other, load_checkpoint(tmp_path / "backbone.safetensors"), "converted")
    other.eval()
    images = random_images(1, 3, 40, 40)
    for received, expected in zip(other(images), model(images)):
        assert (received == expected).all()


def test_networks_of_paddles_suites_leave_their_heads(tmp_path):
    model = network(class_num=None, out_indices=[0, 1, 2])
    theirs = {f"backbone.{name}": value for name, value in model.state_dict().items()}
    heads = {"head.conv_seg.weight": paddle.zeros([5, 8, 1, 1]), "head.conv_seg.bias": paddle.zeros([5])}
    paddle.save({**theirs, **heads}, str(tmp_path / "model.pdparams"))
    report = convert(tmp_path / "model.pdparams", tmp_path / "backbone.safetensors")
    assert (report.layout, report.left_out) == ("PaddleSeg/PaddleDetection", {"head": 2})
    received = load_checkpoint(tmp_path / "backbone.safetensors")
    assert set(received) == set(arrays(model))


def test_averaged_weights_are_chosen_by_a_flag(tmp_path):
    last, averaged = network(), network()
    averaged.head.bias.set_value(averaged.head.bias + 1)
    content = {"model": tensors(as_torch(arrays(last))), "model_ema": tensors(as_torch(arrays(averaged)))}
    write_zip(tmp_path / "both.pth", content)
    assert (load_checkpoint(tmp_path / "both.pth")["head.bias"] == last.head.bias.numpy()).all()
    assert (load_checkpoint(tmp_path / "both.pth", ema=True)["head.bias"] == averaged.head.bias.numpy()).all()
    assert "averaged ones lie beside them" in str(convert(tmp_path / "both.pth", tmp_path / "a.pdparams"))
    assert "the averaged ones" in str(convert(tmp_path / "both.pth", tmp_path / "a.pdparams", ema=True))
    write_zip(tmp_path / "one.pth", {"model": content["model"]})
    with refused("checkpoints.no-averaged", "one.pth"):
        load_checkpoint(tmp_path / "one.pth", ema=True)


def test_a_square_head_is_transposed_where_pytorch_wrote_it():
    model = network(class_num=8)
    state = arrays(model)
    assert state["head.weight"].shape == (8, 8)
    assert (translate(as_torch(state), "file").state["head.weight"] == state["head.weight"]).all()
    assert (translate(state, "file").state["head.weight"] == state["head.weight"]).all()


def test_two_names_for_one_thing_are_refused():
    state = {"stem.0.bn.running_mean": np.zeros(2), "stem.0.bn._mean": np.zeros(2)}
    with refused("checkpoints.ambiguous-names", "file: ", "stem.0.bn._mean"):
        translate(state, "file")


def test_names_of_no_layout_are_left_alone_and_not_converted(tmp_path):
    """A baseline of paddleclas may have any names, some of which resemble a layout's."""
    names = ["module.blocks.0.1.weight", "module.stem.2.weight", "module.backbone.head.fc.weight", "module.x.norm.bias"]
    names += [
        "module.stages.0.1.dwconv.weight",
        "module.stages.1.blocks.0.mlp.fc1.weight",
        "module.stages.2.conv.weight",
    ]
    write_zip(tmp_path / "other.pth", tensors({name: np.ones((2, 3, 1, 1), np.float32) for name in names}))
    assert list(load_checkpoint(tmp_path / "other.pth")) == names
    with refused("checkpoints.unknown-layout", "other.pth", "module.blocks.0.1.weight"):
        convert(tmp_path / "other.pth", tmp_path / "other.pdparams")
    assert not (tmp_path / "other.pdparams").exists()


def test_train_form_is_merged_on_the_way_into_a_merged_network(caplog):
    model = network()
    merged = small_network(merged=True)
    with caplog.at_level("INFO", logger="ppreplk"):
        load_weights(merged, arrays(model), "the file")
    assert "merged the large kernels of the file on the way" in caplog.text
    merged.eval()
    expected = ppreplk.reparameterize(model)
    for name, value in expected.state_dict().items():
        assert (merged.state_dict()[name] == value).all(), name
    images = random_images(2, 3, 40, 40)
    assert relative_difference(merged(images), model(images)) < 1e-5


def test_merged_form_does_not_go_into_a_train_network():
    merged = arrays(ppreplk.reparameterize(network()))
    with refused("checkpoints.merged", "the file", "Arch.merged: True"):
        load_weights(small_network(), merged, "the file")


def test_branches_that_cannot_be_merged_are_named():
    state = arrays(network())
    layer = "stages.1.blocks.2.large_kernel"
    for change in ({f"{layer}.small_conv.bn.weight": np.zeros(3)}, {f"{layer}.small_conv.conv.weight": np.zeros(())}):
        with refused("nn.bad-weights", "the file: ", f"{layer}.small_conv: "):
            load_weights(small_network(merged=True), {**state, **change}, "the file")
    with refused("nn.bad-weights", f"{layer}: ", "[6, 1, 7, 7]", "[6, 1, 9, 9]"):
        large = {f"{layer}.small_conv.conv.weight": np.zeros((6, 1, 9, 9))}
        load_weights(small_network(merged=True), {**state, **large}, "the file")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "_layers.", "a.b."])
def test_a_prefix_of_all_names_is_taken_off(tmp_path, prefix):
    model = network()
    prefixed = {prefix + name: value for name, value in as_torch(arrays(model)).items()}
    write_zip(tmp_path / "weights.pth", tensors(prefixed))
    report = convert(tmp_path / "weights.pth", tmp_path / "converted.pdparams")
    assert report.layout.startswith("official, ")
    loaded = load_checkpoint(tmp_path / "converted.pdparams")
    assert set(loaded) == set(model.state_dict())
