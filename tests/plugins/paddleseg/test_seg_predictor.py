"""Programs on images: preprocessing as PaddleSeg's, the way back, pictures, refusals. Most needs no suite."""

import numpy as np
import paddle
import pytest
import yaml
from helpers import refused, run_python
from PIL import Image
from tiny_scenes import scene

from ppreplk.plugins.paddleseg import SegmentationPredictor
from ppreplk.plugins.paddleseg.seg_transforms import Preprocessing, Step, restored
from ppreplk.plugins.suite_images import draw_images
from ppreplk.utils.errors import Incomplete

NORMALIZE = {"type": "Normalize", "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2]}


class ByColour(paddle.nn.Layer):
    """Scores each pixel for three classes by its channels: the brightest channel is its class."""

    def __init__(self, operator):
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 3, 1, bias_attr=False)
        self.conv.weight.set_value(paddle.eye(3).reshape([3, 3, 1, 1]))
        self.operator = operator

    def forward(self, x):
        scores = self.conv(x)
        return paddle.argmax(scores, axis=1, dtype="int32") if self.operator == "argmax" else scores


def write_program(folder, transforms, operator="argmax", shape=(None, 3, None, None), **more):
    model = ByColour(operator)
    spec = [paddle.static.InputSpec(list(shape), "float32")]
    paddle.jit.save(paddle.jit.to_static(model, input_spec=spec, full_graph=True), str(folder / "model"))
    deploy = {"model": "model.pdmodel", "params": "model.pdiparams", "transforms": transforms, "output_op": operator}
    (folder / "deploy.yaml").write_text(yaml.safe_dump({"Deploy": deploy, **more}))
    return folder


@pytest.mark.parametrize("operator", ["argmax", "none"])
@pytest.mark.parametrize(
    "resize",
    [
        [],
        [{"type": "Resize", "target_size": [32, 48]}],
        [{"type": "Resize", "target_size": [40, 90], "keep_ratio": True, "size_divisor": 8}],
        [{"type": "LimitLong", "max_long": 50}, {"type": "Padding", "target_size": [80, 64]}],
    ],
)
def test_the_class_of_each_pixel_comes_back_at_the_size_of_the_image(tmp_path, operator, resize):
    predictor = SegmentationPredictor(write_program(tmp_path, [*resize, NORMALIZE], operator), threads=1)
    image = np.zeros((60, 76, 3), np.uint8)
    image[:30, :, 0] = image[30:, :38, 1] = image[30:, 38:, 2] = 255
    expected = np.zeros((60, 76), int)
    expected[30:, :38], expected[30:, 38:] = 1, 2
    received = predictor(image)
    assert received.shape == (60, 76) and received.dtype == np.int64
    assert (received == expected).mean() > (0.9 if resize else 0.999)
    assert (received[5:25, 5:70] == 0).all() and (received[36:, 44:70] == 2).all()


def test_pictures_of_a_folder_with_names_and_one_broken_file(tmp_path):
    names = {"names": ["red", "green", "blue"], "palette": [[255, 0, 0], [0, 255, 0], [0, 0, 255]]}
    (tmp_path / "program").mkdir()
    predictor = SegmentationPredictor(write_program(tmp_path / "program", [NORMALIZE], Classes=names), threads=1)
    assert predictor.names == names["names"] and predictor.palette.tolist() == names["palette"]
    (tmp_path / "images" / "more").mkdir(parents=True)
    for name in ("one.png", "more/one.jpg"):
        Image.fromarray(scene(0)[0]).save(tmp_path / "images" / name)
    assert len(draw_images(predictor.picture, str(tmp_path / "images"), str(tmp_path / "out"))) == 2
    pictures = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert pictures == ["one.png", "one_2.png"]
    assert Image.open(tmp_path / "out" / "one.png").size[0] > 64  # with its legend
    (tmp_path / "images" / "two.png").write_bytes(b"no image")
    with pytest.raises(Incomplete) as caught:
        draw_images(predictor.picture, str(tmp_path / "images"), str(tmp_path / "out"))
    assert caught.value.code == "plugins.unreadable-images" and "two.png" in str(caught.value)
    with refused("plugins.would-replace", "--output: the picture would replace the image", "one.png"):
        draw_images(predictor.picture, str(tmp_path / "images"), str(tmp_path / "images"))
    assert (np.asarray(Image.open(tmp_path / "images" / "one.png")) == scene(0)[0]).all()
    with refused("data.missing-image", "--images: there is no image"):
        draw_images(predictor.picture, str(tmp_path / "none"), str(tmp_path / "out"))


def test_what_is_no_program_or_no_image_is_one_line(tmp_path):
    with refused("plugins.no-program", "deploy.yaml is missing"):
        SegmentationPredictor(tmp_path)
    write_program(tmp_path, [{"type": "ResizeByShor", "short_size": 8}])
    with refused("plugins.bad-transform", "deploy.yaml: transforms[0]", "did you mean ResizeByShort"):
        SegmentationPredictor(tmp_path)
    write_program(tmp_path, [{"type": "Resize", "interp": "CUBIC"}])
    with refused("plugins.bad-transform", "interp CUBIC"):
        SegmentationPredictor(tmp_path)
    predictor = SegmentationPredictor(write_program(tmp_path, [NORMALIZE], shape=(1, 3, 32, 32)), threads=1)
    with refused("plugins.bad-image", "uint8"):
        predictor(np.zeros((32, 32, 3), np.float32))
    (tmp_path / "model.pdiparams").unlink()
    with refused("plugins.no-program", "model.pdiparams is missing"):
        SegmentationPredictor(tmp_path)
    (tmp_path / "deploy.yaml").write_text("Global: {}\n")
    with refused("plugins.no-program", "section Deploy"):
        SegmentationPredictor(tmp_path)


def test_the_way_back_undoes_the_last_change_first():
    output = np.arange(16).reshape(4, 4)
    steps = [Step("resize", (8, 6)), Step("padding", (4, 3))]
    received = restored(output, steps)
    assert received.shape == (8, 6) and (received[::2, ::2] == output[:, :3]).all()


def test_running_a_program_imports_neither_the_suite_nor_networks():
    code = """
import sys
import ppreplk.plugins.paddleseg.seg_predictor
unwanted = ("paddleseg", "ppreplk.models", "ppreplk.nn", "ppreplk.training")
print([name for name in sys.modules if name.startswith(unwanted)])
"""
    assert run_python(code).strip() == "[]"


TRANSFORMS = [
    [NORMALIZE],
    [{"type": "Resize", "target_size": [33, 57]}, NORMALIZE],
    [{"type": "Resize", "target_size": [90, 40], "keep_ratio": True}, NORMALIZE],
    [{"type": "Resize", "target_size": [90, 40], "keep_ratio": True, "size_divisor": 32}],
    [{"type": "ResizeByLong", "long_size": 40}],
    [{"type": "ResizeByShort", "short_size": 100}, NORMALIZE],
    [{"type": "ResizeByShort", "short_size": 100, "max_size": 110}],
    [{"type": "LimitLong", "max_long": 50}],
    [{"type": "LimitLong", "min_long": 150}],
    [{"type": "Padding", "target_size": [100, 90]}, NORMALIZE],
]


@pytest.mark.parametrize("transforms", TRANSFORMS, ids=lambda each: "-".join(str(list(op.values())[:2]) for op in each))
def test_images_are_prepared_as_paddleseg_does(tmp_path, transforms):
    pytest.importorskip("paddleseg.cvlibs", reason="paddleseg is not installed")
    from paddleseg.cvlibs import manager
    from paddleseg.transforms import Compose

    image = np.random.default_rng(0).integers(0, 256, (61, 77, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    theirs = [manager.TRANSFORMS[op["type"]](**{k: v for k, v in op.items() if k != "type"}) for op in transforms]
    expected = Compose(theirs)({"img": str(tmp_path / "image.png")})
    received, steps = Preprocessing(transforms, "deploy.yaml")(image)
    assert received.shape == expected["img"].shape
    assert np.abs(received - expected["img"]).max() <= 1e-5 * np.abs(expected["img"]).max()
    assert [(step.kind, step.before) for step in steps] == [
        (kind, tuple(size)) for kind, size in expected["trans_info"]
    ]
