"""The public predictor: every kind of image, several at once, threads, settings, what is refused."""

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import paddle
import pytest
from exports import LOGITS, config
from helpers import ROOT, refused, require_channels_last_operators
from PIL import Image

import ppreplk
from ppreplk.deploy.export import export
from ppreplk.deploy.infer import infer

PROGRAM = ROOT / "tests" / "earlier" / "program"  # of 0.1.0, for 32x32 pixels, three colours
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def predictor():
    return ppreplk.Predictor(PROGRAM, threads=1)


@pytest.fixture
def picture(tmp_path) -> Path:
    """A photograph of noise in colour, 50 pixels wide and 40 high."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    pixels[:, :, 0] //= 2
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def scores(predictions) -> list:
    return [(each.class_ids, each.scores, each.label_names) for each in predictions]


KINDS = {
    "a path as text": str,
    "a path": lambda path: path,
    "bytes": Path.read_bytes,
    "a bytearray": lambda path: bytearray(path.read_bytes()),
    "a view of bytes": lambda path: memoryview(path.read_bytes()),
    "a Pillow image": Image.open,
    "a Pillow image that is loaded": lambda path: Image.open(path).copy(),
    "an array": lambda path: np.asarray(Image.open(path)),
    "an array in another order": lambda path: np.asfortranarray(Image.open(path)),
    "an array that runs backwards": lambda path: np.ascontiguousarray(np.asarray(Image.open(path))[::-1])[::-1],
    "an array of 16 bits": lambda path: np.asarray(Image.open(path)).astype(np.uint16) * 257,
    "an opaque array": lambda path: np.asarray(Image.open(path).convert("RGBA")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_input_gives_the_same(predictor, picture, kind):
    (expected,) = predictor(str(picture))
    (received,) = predictor(KINDS[kind](picture))
    assert scores([received]) == scores([expected])
    assert expected.file_name == str(picture)
    assert received.file_name == (str(picture) if "path" in kind else "images[0]")
    np.testing.assert_array_equal(predictor.prepare(KINDS[kind](picture)), predictor.prepare(picture))


def test_lists_of_all_kinds_mixed(predictor, picture):
    images = [make(picture) for make in KINDS.values()]
    expected = scores(predictor(picture))
    for batch_size in (1, 5, 100):
        received = predictor(images, batch_size=batch_size)
        assert [each.file_name for each in received][:3] == [str(picture), str(picture), "images[2]"]
        for each in received:
            assert each.class_ids == expected[0][0]
            np.testing.assert_allclose(each.scores, expected[0][1], atol=2e-5)
    assert scores(predictor(iter(images[:1]))) == scores(predictor(tuple(images[:1]))) == expected
    assert predictor([]) == []


def test_it_predicts_as_infer_does(project):
    export(config())
    by_command = list(infer(config("Infer.batch_size=5"), "inference"))
    names = [each.file_name for each in by_command]
    assert ppreplk.Predictor("inference")(names, batch_size=5) == by_command and len(names) == 24


def test_a_program_of_logits_gives_probabilities(project):
    export(config(LOGITS, "Infer.PostProcess.topk=3"))
    (prediction,) = ppreplk.Predictor("inference")("data/images/3.png")
    assert sum(prediction.scores) == pytest.approx(1, abs=1e-4)


def test_how_many_classes(predictor, picture):
    counts = [len(predictor(picture, topk=topk)[0].class_ids) for topk in (None, 1, 3, 100)]
    assert counts == [2, 1, 3, 3]
    for wrong in ({"topk": 0}, {"topk": "two"}, {"batch_size": 0}, {"batch_size": 1.5}):
        with refused("deploy.bad-value", f"{next(iter(wrong))}: "):
            predictor(picture, **wrong)


def test_what_a_predictor_tells(predictor):
    assert (predictor.model_name, predictor.precision, predictor.topk) == ("RepLKNet13T", "fp32", 2)
    assert predictor.class_names == ["red", "green", "blue"] and predictor.image_shape == [3, 32, 32]
    assert predictor.warm_up_seconds > 0


def test_prepared_images_go_through_run(predictor, picture):
    batch = np.stack([predictor.prepare(picture)] * 3)
    assert batch.dtype == np.float32 and batch.shape == (3, 3, 32, 32)
    outputs = predictor.run(batch)
    assert outputs.shape == (3, 3) and outputs.dtype == np.float32
    np.testing.assert_allclose(np.sort(outputs[0])[:0:-1], predictor(picture)[0].scores, atol=2e-5)
    with refused("deploy.bad-images", "(N, 3, 32, 32)"):
        predictor.run(batch[0])


def as_bytes(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def odd_images() -> dict[str, Image.Image]:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (40, 50, 4), dtype=np.uint8)
    return {
        "grey": Image.fromarray(pixels[:, :, 0]),
        "transparent": Image.fromarray(pixels),
        "grey of 16 bits": Image.fromarray(rng.integers(0, 65536, (40, 50), dtype=np.uint16)),
        "a palette": Image.fromarray(pixels[:, :, :3]).quantize(16),
        "black and white": Image.fromarray(pixels[:, :, 0]).convert("1"),
        "grey and transparent": Image.fromarray(pixels).convert("LA"),
    }


@pytest.mark.parametrize("name", odd_images())
def test_images_of_other_depths_are_as_the_loader_has_them(predictor, tmp_path, name):
    image = odd_images()[name]
    data = as_bytes(image)
    (tmp_path / "file.png").write_bytes(data)
    expected = predictor.prepare(tmp_path / "file.png")
    np.testing.assert_array_equal(predictor.prepare(data), expected)
    np.testing.assert_array_equal(predictor.prepare(Image.open(io.BytesIO(data))), expected)
    np.testing.assert_array_equal(predictor.prepare(image), expected)
    if name in ("grey", "transparent", "grey of 16 bits"):
        np.testing.assert_array_equal(predictor.prepare(np.asarray(image)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_as_the_loader_has_them(predictor, tmp_path, orientation):
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32, :, 0] = pixels[:, :32, 1] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = as_bytes(Image.fromarray(pixels), "JPEG", exif=exif, quality=95)
    (tmp_path / "file.jpg").write_bytes(data)
    expected = predictor.prepare(tmp_path / "file.jpg")
    for image in (data, Image.open(io.BytesIO(data))):
        np.testing.assert_array_equal(predictor.prepare(image), expected)
    lying = predictor.prepare(np.asarray(Image.open(io.BytesIO(data))))
    assert (lying == expected).all() == (orientation == 1)  # an array has no EXIF


def test_many_threads_at_once_equal_one(predictor, picture):
    rng = np.random.default_rng(3)
    arrays = [rng.integers(0, 256, (20 + index, 60, 3), dtype=np.uint8) for index in range(12)]
    lazy = Image.open(picture)
    expected = scores(predictor([*arrays, picture], batch_size=1))
    with ThreadPoolExecutor(16) as pool:
        wanted = [index % 13 for index in range(200)]
        received = pool.map(lambda index: predictor([*arrays, lazy][index]), wanted)
        assert [scores(each)[0] for each in received] == [expected[index] for index in wanted]


def unreadable(folder: Path, picture: Path) -> list[tuple]:
    (folder / "text.png").write_text("no image")
    (folder / "empty.png").touch()
    data = picture.read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    closed = Image.open(picture)
    closed.close()
    return [
        ("absent.png", "data.unreadable-image", "absent.png: cannot be read"),
        (str(folder), "data.unreadable-image", f"{folder}: cannot be read"),
        (str(folder / "text.png"), "data.unreadable-image", "text.png: cannot be decoded"),
        (folder / "empty.png", "data.unreadable-image", "empty.png: cannot be decoded: the file is empty"),
        (str(folder / "cut.png"), "data.unreadable-image", "cut.png: cannot be decoded"),
        (b"", "data.unreadable-image", "images[1]: cannot be decoded: the file is empty"),
        (b"GIF89a", "data.unreadable-image", "images[1]: cannot be decoded"),
        (data[:60], "data.unreadable-image", "images[1]: cannot be decoded"),
        (Image.open(io.BytesIO(data[:200])), "data.unreadable-image", "images[1]: cannot be decoded"),
        (closed, "data.unreadable-image", "images[1]: cannot be decoded"),
        (Image.new("F", (5, 5), 300), "data.unknown-range", "images[1]: holds floating-point values"),
        (None, "deploy.bad-images", "images[1]: expected a path, the bytes of a file, a Pillow image or an array"),
        (3.5, "deploy.bad-images", "images[1]: expected a path"),
    ]


ARRAYS = {
    "floats": (np.zeros((8, 8, 3), np.float32), "expected an array (H, W, 3) of uint8 in RGB, got float32"),
    "whole numbers": (np.zeros((8, 8, 3), np.int64), "got int64"),
    "channels first": (np.zeros((3, 8, 8), np.uint8), "channels come last: image.transpose(1, 2, 0)"),
    "several": (np.zeros((2, 8, 8, 3), np.uint8), "several images are a list: list(images)"),
    "a line": (np.zeros(8, np.uint8), "got shape (8,)"),
    "two channels": (np.zeros((8, 8, 2), np.uint8), "got shape (8, 8, 2)"),
    "nothing": (np.zeros((0, 8, 3), np.uint8), "got shape (0, 8, 3)"),
    "objects": (np.full((8, 8, 3), None), "got object"),
}


def test_the_image_that_cannot_be_used_is_named(predictor, tmp_path, picture):
    for image, code, part in unreadable(tmp_path, picture):
        with refused(code, part):
            predictor([picture, image, picture])
    assert len(predictor(picture)) == 1  # it goes on


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_are_no_images_are_refused(predictor, case):
    image, part = ARRAYS[case]
    with refused("data.bad-array", "images[0]: ", part):
        predictor(image)


def test_no_images_at_all_are_refused(predictor):
    for nothing in (None, 3):
        with refused("deploy.bad-images", "images: expected one image or a list of them"):
            predictor(nothing)


def test_images_that_stay_of_different_sizes(project):
    path = export(config()) / "inference.yml"
    path.write_text(path.read_text().replace("size: 32", "resize_short: 32"))
    square, wide = np.zeros((40, 40, 3), np.uint8), np.zeros((40, 80, 3), np.uint8)
    predictor = ppreplk.Predictor("inference")
    with refused("deploy.other-shape", "images[1]: shape (3, 32, 64)"):
        predictor([square, wide])
    assert len(predictor([square, wide], batch_size=1)) == 2


def test_the_first_image_is_no_slower(predictor, monkeypatch):
    ran = []
    monkeypatch.setattr("ppreplk.deploy.programs.Program.__call__", lambda self, images: ran.append(images.shape))
    with pytest.raises(AttributeError):  # what stands in for the program gives nothing
        ppreplk.Predictor(PROGRAM)
    assert ran == [(1, 3, 32, 32)]


def test_a_wrong_folder(tmp_path):
    with refused("deploy.no-program", "absent"):
        ppreplk.Predictor(tmp_path / "absent")
    with refused("deploy.device", "'xpu'"):
        ppreplk.Predictor(PROGRAM, device="xpu")
    if paddle.device.cuda.device_count() == 0:
        with refused("deploy.device", "no GPU, or a Paddle without CUDA"):
            ppreplk.Predictor(PROGRAM, device="gpu")
    for threads in (0, -1, "two", 1.5):
        with refused("deploy.bad-value", "threads: expected a whole number from 1 on"):
            ppreplk.Predictor(PROGRAM, threads=threads)
    with refused("deploy.precision", "'int4'"):
        ppreplk.Predictor(PROGRAM, precision="int4")
    with refused("deploy.no-program", "inference_bf16.json missing"):
        ppreplk.Predictor(PROGRAM, precision="bf16")


def test_as_many_names_as_classes(project):
    path = export(config()) / "inference.yml"
    path.write_text(path.read_text().replace("    - blue\n", ""))
    with refused("deploy.bad-class-names", "inference: ", "2 class names for 3 classes"):
        ppreplk.Predictor("inference")


def test_settings(predictor, picture):
    expected = predictor(picture)[0]
    for settings in ({"onednn": False}, {"threads": 2}, {"precision": "fp32"}, {"device": "cpu", "threads": 1}):
        (received,) = ppreplk.Predictor(PROGRAM, **settings)(picture)
        assert received.class_ids == expected.class_ids
        np.testing.assert_allclose(received.scores, expected.scores, atol=2e-5)


def test_precisions(picture):
    require_channels_last_operators()
    fast = ROOT / "tests" / "earlier" / "program_fast"
    first = ppreplk.Predictor(fast, precision="fp32")
    second = ppreplk.Predictor(fast, precision="bf16") if ppreplk.ops.onednn.has_bfloat16() else first
    assert (first.precision, second.precision) == ("fp32", "bf16" if second is not first else "fp32")
    np.testing.assert_allclose(second(picture)[0].scores, first(picture)[0].scores, atol=2e-2)


def test_no_network_code_is_loaded():
    code = (
        "import sys, numpy, ppreplk\n"
        f"ppreplk.Predictor({str(PROGRAM)!r}, threads=1)(numpy.zeros((9, 9, 3), 'uint8'))\n"
        "rooms = ('nn', 'models', 'checkpoints', 'training')\n"
        "print([name for name in sys.modules if name.startswith(tuple(f'ppreplk.{room}' for room in rooms))])"
    )
    process = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert process.stdout.splitlines()[-1] == "[]", process.stderr
