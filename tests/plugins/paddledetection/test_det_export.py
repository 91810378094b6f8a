"""Exports: the backbone folded, the program proved against the network, kept or refused. Without PaddleDetection."""

import copy
import logging
import types

import numpy as np
import paddle
import pytest
import yaml
from helpers import randomise_batch_norms, refused
from PIL import Image

import ppreplk
from ppreplk.plugins.paddledetection import DetectionPredictor
from ppreplk.plugins.paddledetection.det_export import check_arguments, compare, export_folded, images_to_compare
from ppreplk.plugins.pictures import Detections

TRANSFORMS = [
    {"type": "NormalizeImage", "is_scale": True, "mean": [0.5] * 3, "std": [0.5] * 3},
    {"type": "Permute"},
    {"type": "PadStride", "stride": 32},
]


class Backbone(ppreplk.models.RepLKNet):
    """As PaddleDetection's backbones are called."""

    def forward(self, inputs):
        return [self.forward_stages(inputs["image"])[-1]]


class Detector(paddle.nn.Layer):
    """Two boxes whose scores and edges depend on the features of the image."""

    def __init__(self):
        super().__init__()
        self.backbone = Backbone((9, 7), (1, 1), (4, 6), small_kernel=3, out_indices=[1])
        self.head = paddle.nn.Linear(6, 10)
        self.fuse_norm = False
        self.scale = self.create_parameter([1])
        self.scale.set_value(paddle.to_tensor([1 / 127.5]))

    def forward(self, inputs):
        image = inputs["image"] * self.scale - 1 if self.fuse_norm else inputs["image"]
        said = self.head(self.backbone({"image": image})[0].mean([2, 3])).reshape([2, 5])
        unused = (inputs["im_shape"].sum() + inputs["scale_factor"].sum()) * 0
        classes = paddle.to_tensor([[0.0], [1.0]])
        edges = paddle.to_tensor([[5.0, 5, 20, 20], [8.0, 3, 30, 26]]) + said[:, 1:]
        rows = paddle.concat([classes, paddle.nn.functional.sigmoid(said[:, :1]) * 0.5 + 0.4, edges], axis=1)
        return {"bbox": rows + unused, "bbox_num": paddle.to_tensor([2])}


class Settings(dict):
    filename = "tiny"


@pytest.fixture
def trainer(tmp_path):
    """What is asked of PaddleDetection's, with a data set of one image."""
    paddle.seed(0)
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / "one.png")
    network = Detector()
    randomise_batch_norms(network)
    dataset = {"dataset_dir": str(tmp_path), "image_dir": "images"}
    return types.SimpleNamespace(model=network, cfg=Settings(TestReader={}, EvalDataset=dataset))


def writer(trainer, transforms=TRANSFORMS, change=lambda network: None):
    """Writes a program as PaddleDetection does, after a change to the network."""

    def write(folder):
        network = copy.deepcopy(trainer.model)
        network.fuse_norm = bool(trainer.cfg["TestReader"].get("fuse_normalize"))
        change(network)
        shapes = {"image": [None, 3, None, None], "im_shape": [None, 2], "scale_factor": [None, 2]}
        specification = {name: paddle.static.InputSpec(shape, "float32", name) for name, shape in shapes.items()}
        static = paddle.jit.to_static(network, [specification], full_graph=True)
        paddle.jit.save(static, f"{folder}/tiny/model")
        description = {"Preprocess": transforms, "label_list": ["a", "b"]}
        with open(f"{folder}/tiny/infer_cfg.yml", "w") as file:
            yaml.safe_dump(description, file)

    return write


def test_a_program_has_a_folded_backbone_and_says_what_the_network_does(trainer, tmp_path, caplog):
    normalizations = []

    def look(network):
        layers = network.backbone.sublayers()
        normalizations.append(sum(isinstance(layer, paddle.nn.BatchNorm2D) for layer in layers))

    with caplog.at_level(logging.INFO):
        kept = export_folded(trainer, tmp_path / "out", writer(trainer, change=look))
    assert normalizations == [0]
    assert sum(isinstance(layer, paddle.nn.BatchNorm2D) for layer in trainer.model.sublayers()) > 10  # as it was
    assert kept == tmp_path / "out" / "tiny" and [path.name for path in (tmp_path / "out").iterdir()] == ["tiny"]
    assert sorted(path.name for path in kept.iterdir()) == ["infer_cfg.yml", "model.json", "model.pdiparams"]
    assert any("one.png: 2 boxes" in record.getMessage() for record in caplog.records)
    assert len(DetectionPredictor(kept, threads=1)(tmp_path / "images" / "one.png").scores) == 2


def test_normalization_inside_the_program_is_compared_too(trainer, tmp_path):
    trainer.cfg["TestReader"]["fuse_normalize"] = True
    export_folded(trainer, tmp_path / "out", writer(trainer, TRANSFORMS[1:]))
    assert trainer.model.fuse_norm is False


def test_without_a_data_set_noise_is_compared(trainer, tmp_path, caplog):
    del trainer.cfg["EvalDataset"]
    with caplog.at_level(logging.INFO):
        export_folded(trainer, tmp_path / "out", writer(trainer))
    assert any("noise: 2 boxes" in record.getMessage() for record in caplog.records)


def test_noise_has_the_shape_that_a_program_is_made_for(trainer):
    del trainer.cfg["EvalDataset"]
    for given, shape in (([3, 96, 64], (96, 64, 3)), ([3, -1, -1], (256, 256, 3)), ([None, 3, 32, 32], (32, 32, 3))):
        trainer.cfg["TestReader"]["inputs_def"] = {"image_shape": given}
        [(name, image)] = images_to_compare(trainer.cfg)
        assert "noise" in name and image.shape == shape


def test_a_wrong_program_is_refused_and_the_one_before_stays(trainer, tmp_path):
    kept = export_folded(trainer, tmp_path / "out", writer(trainer))
    before = (kept / "model.pdiparams").read_bytes()

    def spoil(network):
        network.head.bias.set_value(network.head.bias + 0.01)

    with refused("plugins.wrong-program", "one.png"):
        export_folded(trainer, tmp_path / "out", writer(trainer, change=spoil))
    assert (kept / "model.pdiparams").read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny"]


@pytest.mark.parametrize("sides", [(1, 0), (0, 1)])
def test_a_program_that_finds_nothing_where_the_network_does_is_refused(sides):
    """Also a single box, which is the one with the lowest score."""
    said, expected = (Detections(np.ones((n, 4)), np.zeros(n, int), np.full(n, 0.9)) for n in sides)
    with refused("plugins.wrong-program", "alone finds something"):
        compare(said, expected, 32, "image")
    assert compare(said, said, 32, "image").boxes == sides[0]


def test_a_backbone_of_others_is_exported_as_it_is(trainer, tmp_path, caplog):
    class Other(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv = paddle.nn.Conv2D(3, 6, 3, 4)

        def forward(self, inputs):
            return [self.conv(inputs["image"])]

    trainer.model.backbone = Other()
    export_folded(trainer, tmp_path / "out", writer(trainer))
    assert any("not one of our networks" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("arguments", [["--for_fd"], ["-c", "c.yml", "--export_serving_model=True"]])
def test_other_places_for_the_program_are_refused(arguments):
    with refused("plugins.export-argument", "not served"):
        check_arguments(arguments)
    check_arguments(["-c", "c.yml", "--output_dir", "out"])
