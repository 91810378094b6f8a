"""One inference.yml for three readers: this package, PaddleX, and PaddleClas's deploy predictor."""

import copy
from pathlib import Path

import numpy as np
import pytest
import yaml
from exports import LOGITS, config
from helpers import ROOT, refused

from ppreplk.config import load_config, read_ops
from ppreplk.data import NORMALIZED_CHW, build_transforms
from ppreplk.deploy.inference_yml import PADDLECLAS_GLOBAL, read_description, write_inference_yml

PADDLEX_TRANSFORMS = {
    "ResizeImage": {"size", "resize_short", "interpolation", "backend"},
    "CropImage": {"size"},
    "NormalizeImage": {"mean", "std", "scale", "order", "channel_num"},
    "ToCHWImage": set(),
}
PADDLEX_INTERPOLATIONS = {
    "pil": {"nearest", "bilinear", "bicubic", "box", "lanczos4"},
    "cv2": {"nearest", "linear", "bicubic", "area", "lanczos4"},
}
DECODE = {"DecodeImage": {"backend": "pil"}}
RESIZE = {"ResizeImage": {"size": 32, "backend": "pil"}}
NORMALIZE = {"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5] * 3, "std": [0.5] * 3, "order": ""}}
TO_CHW = "ToCHWImage"
USUAL = [DECODE, {"ResizeImage": {"resize_short": 36, "interpolation": "bicubic", "backend": "pil"}}]
USUAL += [{"CropImage": {"size": 32}}, NORMALIZE, TO_CHW]
# What stands in a configuration, and what every reader understands the same way.
COMMON = {
    "the usual ones": USUAL,
    "no crop": [DECODE, RESIZE, NORMALIZE, TO_CHW],
    "defaults": [{"DecodeImage": None}, {"ResizeImage": {"size": [32, 32]}}, {"NormalizeImage": {"order": ""}}, TO_CHW],
    "another scale": [DECODE, RESIZE, {"NormalizeImage": {"scale": 0.5, "order": "hwc"}}, TO_CHW],
    "channels first": [DECODE, RESIZE, TO_CHW, {"NormalizeImage": {"scale": "1/255"}}],
    "a type": [DECODE, RESIZE, {"NormalizeImage": {"order": "", "output_fp16": False}}, TO_CHW],
    "OpenCV": [{"DecodeImage": {"to_rgb": True}}, {"ResizeImage": {"size": 32, "interpolation": "bilinear"}}]
    + [NORMALIZE, TO_CHW],
}
# What PaddleX would do otherwise, without a word, if it read the file.
OWN = {
    "blue first": [{"DecodeImage": {"to_rgb": False}}, RESIZE, NORMALIZE, TO_CHW],
    "a crop before the resize": [DECODE, {"CropImage": {"size": 40}}, RESIZE, NORMALIZE, TO_CHW],
    "no resize": [DECODE, {"CropImage": {"size": 32}}, NORMALIZE, TO_CHW],
    "two resizes": [DECODE, RESIZE, RESIZE, NORMALIZE, TO_CHW],
}


def write(folder: Path, transforms=USUAL, names=("a", "b", "c"), overrides=(), precision="fp32") -> dict:
    """The file that an export would write, as PyYAML reads it."""
    settings = config(*overrides)
    settings.Infer.transforms = read_ops(copy.deepcopy(transforms), "Infer.transforms")
    write_inference_yml(settings, None if names is None else list(names), folder / "inference.yml", precision)
    return yaml.safe_load((folder / "inference.yml").read_text(encoding="utf-8"))


def picture() -> bytes:
    """A PNG of noise, 60 pixels wide and 40 high."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def prepared(ops) -> np.ndarray:
    return build_transforms(ops, NORMALIZED_CHW)(picture(), np.random.default_rng(0))


def skip_without_cv2(transforms) -> None:
    if "'backend': 'pil'" not in str(transforms[0]) or "backend" not in str(transforms[1]):
        pytest.importorskip("cv2")


@pytest.mark.parametrize("case", COMMON)
def test_what_paddlex_demands(project, case):
    content = write(project, COMMON[case])
    assert content["Global"]["model_name"] == "RepLKNet13T"
    ops = [(name, arguments or {}) for op in content["PreProcess"]["transform_ops"] for name, arguments in op.items()]
    names = [name for name, _ in ops]
    assert names == [name for name in PADDLEX_TRANSFORMS if name in names]
    assert {"ResizeImage", "NormalizeImage", "ToCHWImage"} <= set(names)
    for name, arguments in ops:
        assert set(arguments) <= PADDLEX_TRANSFORMS[name]
        if name == "NormalizeImage":
            assert isinstance(arguments["scale"], float) and arguments["order"] == ""
        if name == "ResizeImage":
            backend = arguments.get("backend", "cv2")
            assert arguments.get("interpolation", "linear") in PADDLEX_INTERPOLATIONS[backend]
    assert list(content["PostProcess"]) == ["Topk"]
    assert set(content["PostProcess"]["Topk"]) == {"topk", "label_list"}


@pytest.mark.parametrize("case", COMMON)
def test_paddleclas_itself_reads_it_and_prepares_the_same(project, case):
    preprocess = pytest.importorskip("paddleclas.deploy.python.preprocess")
    from paddleclas.deploy.python.postprocess import build_postprocess

    content = write(project, COMMON[case])
    assert set(PADDLECLAS_GLOBAL) <= set(content["Global"])
    image = np.asarray(build_transforms(read_ops([DECODE], ""), "an image")(picture(), np.random.default_rng(0)))
    for operator in preprocess.create_operators(content["PreProcess"]["transform_ops"]):
        image = operator(image)
    np.testing.assert_allclose(image, prepared(read_ops(COMMON[case], "")), rtol=1e-5, atol=1e-5)
    # PaddleX refuses this key, and PaddleClas wants it: its -o gives it
    rank = build_postprocess({**content["PostProcess"], "main_indicator": "Topk"})
    (ranked,) = rank(np.array([[0.1, 0.7, 0.2]]))
    assert ranked["class_ids"] == [1, 2] and ranked["label_names"] == ["b", "c"]


@pytest.mark.parametrize("case", [*COMMON, *OWN])
def test_we_read_it_and_prepare_the_same(project, case):
    transforms = {**COMMON, **OWN}[case]
    skip_without_cv2(transforms)
    write(project, transforms)
    description = read_description(project)
    np.testing.assert_allclose(prepared(description.transforms), prepared(read_ops(transforms, "")), rtol=0, atol=1e-6)
    assert (description.topk, description.class_names) == (2, ["a", "b", "c"])
    assert (description.model_name, description.image_shape) == ("RepLKNet13T", [3, 32, 32])
    assert description.precision == "fp32" and description.add_softmax is False


@pytest.mark.parametrize("case", OWN)
def test_what_others_would_do_otherwise_keeps_them_out(project, case, caplog):
    """DecodeImage with a backend is refused by PaddleX and by PaddleClas's predictor."""
    caplog.set_level("INFO", "ppreplk")
    content = write(project, OWN[case])
    assert "DecodeImage" in content["PreProcess"]["transform_ops"][0]
    assert "decode_image" not in content["Global"]
    assert "inference.yml is for this package alone" in caplog.text


def test_what_is_ours_lies_in_global(project):
    content = write(project, overrides=[LOGITS], precision="bf16")
    ours = {key: content["Global"][key] for key in ("add_softmax", "precision", "decode_image", "image_shape")}
    assert ours == {
        "add_softmax": True,
        "precision": "bf16",
        "decode_image": {"backend": "pil"},
        "image_shape": [3, 32, 32],
    }
    description = read_description(project)
    assert description.add_softmax is True and description.precision == "bf16"


NAMES = [
    "yes",
    "null",
    "1",
    "1e3",
    "0x1f",
    "~",
    "",
    " x ",
    "a: b",
    "- c",
    "#d",
    "'e'",
    '"f"',
    "\\",
    "2026-01-02",
    "{g}",
]
NAMES += [
    "猫",
    "Übung",
    "🦒",
    "line\nbreak",
    "tab\t",
    "nel\x85end",
    "\u2028",
    "\ufeffbom",
    "café",
    "cafe\u0301",
    "a, b",
]


def test_class_names_are_read_as_they_were(project):
    content = write(project, names=NAMES)
    assert content["PostProcess"]["Topk"]["label_list"] == NAMES
    assert read_description(project).class_names == NAMES
    for name in NAMES:
        write(project, names=[name] * 3)
        assert read_description(project).class_names == [name] * 3


def test_classes_without_names(project):
    assert set(write(project, names=None)["PostProcess"]["Topk"]) == {"topk"}
    assert read_description(project).class_names is None


@pytest.mark.parametrize("recipe", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
def test_every_recipe_is_for_all_readers(project, recipe):
    settings = load_config(ROOT / "configs" / recipe)
    write_inference_yml(settings, None, project / "inference.yml", "fp32")
    content = yaml.safe_load((project / "inference.yml").read_text())
    names = [name for op in content["PreProcess"]["transform_ops"] for name in op]
    assert "DecodeImage" not in names and names[0] == "ResizeImage"


@pytest.mark.parametrize("program", ["program", "program_compiled", "program_fast"])
def test_files_of_earlier_versions(program):
    description = read_description(ROOT / "tests" / "earlier" / program)
    assert [op.name for op in description.transforms] == ["DecodeImage", "ResizeImage", "NormalizeImage", "ToCHWImage"]
    assert description.class_names == ["red", "green", "blue"] and description.add_softmax is False


def test_a_file_that_paddleclas_wrote(tmp_path):
    """Its export leaves out DecodeImage, and says nothing of a softmax, which its programs have."""
    ops = [{"ResizeImage": {"resize_short": 256}}, {"CropImage": {"size": 224}}]
    ops += [{"NormalizeImage": {"channel_num": 3, "scale": 0.00392157, "order": ""}}, {"ToCHWImage": None}]
    content = {
        "Global": {"model_name": "ResNet50"},
        "PreProcess": {"transform_ops": ops},
        "PostProcess": {"Topk": {"topk": 5, "label_list": ["tench", "goldfish"]}},
    }
    (tmp_path / "inference.yml").write_text(yaml.safe_dump(content))
    description = read_description(tmp_path)
    assert [op.name for op in description.transforms][:2] == ["DecodeImage", "ResizeImage"]
    assert (description.add_softmax, description.precision, description.image_shape) == (False, None, None)


@pytest.mark.parametrize(
    ("key", "value", "code", "part"),
    [
        (("Global", "decode_image"), [1], "config.wrong-type", "Global.decode_image"),
        (("PreProcess", "transform_ops"), {}, "config.wrong-type", "PreProcess.transform_ops"),
        (("PostProcess", "Topk"), {"topk": "five"}, "config.wrong-type", "PostProcess.Topk"),
        (("PostProcess", "Topk"), {"topk": 0}, "deploy.bad-value", "PostProcess.Topk.topk: must be 1 or more, got 0"),
        (("PostProcess", "Topk"), {"topk": -1}, "deploy.bad-value", "PostProcess.Topk.topk"),
        (("Global", "add_softmax"), "no such", "config.wrong-type", "Global.add_softmax"),
        (("PostProcess", "Topk"), {"topk": 5, "other": 1}, "config.unknown-key", "other"),
        (("PostProcess",), None, "deploy.bad-program", "inference.yml: not written by tools/export.py"),
        (("PreProcess",), {}, "deploy.bad-program", "'transform_ops' is missing"),
        (("Global",), [1], "deploy.bad-program", "inference.yml"),
    ],
)
def test_broken_files_are_refused_in_one_line(project, key, value, code, part):
    content = write(project)
    section = content
    for each in key[:-1]:
        section = section[each]
    section[key[-1]] = value
    (project / "inference.yml").write_text(yaml.safe_dump(content))
    with refused(code, part):
        read_description(project)


def test_a_shape_that_is_none_is_left_out(project):
    content = write(project)
    for shape in ("3x32x32", [3, 32], [3, "a", 5], [3, 0, 5], None):
        content["Global"]["image_shape"] = shape
        (project / "inference.yml").write_text(yaml.safe_dump(content))
        assert read_description(project).image_shape is None
