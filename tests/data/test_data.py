"""Transforms, mixing, lists and loading against their published definitions."""

import io
import math
import os
import types

import numpy as np
import pytest
from helpers import ROOT, colour_config
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_image

from ppreplk.config.checking import SplitConfig, construct, load_config, read_ops
from ppreplk.data import ImageFolderDataset, ImageNetDataset, Pipeline, build_dataset, build_loader, build_transforms
from ppreplk.data.augmentation import ColorJitter, RandFlipImage, RandomErasing
from ppreplk.data.decoding import DecodeImage
from ppreplk.data.digits import prepare_dataset, prepare_digits
from ppreplk.data.images import IMAGE, IMAGE_CHW, NORMALIZED, as_array, as_pillow
from ppreplk.data.listing import find_images
from ppreplk.data.loader import Loader
from ppreplk.data.mixing import CutmixOperator, MixupCutmixHybrid, MixupOperator, OpSampler
from ppreplk.data.normalization import NormalizeImage
from ppreplk.data.randaugment import MAX_LEVEL, Draw, RandAugment, operators
from ppreplk.data.resizing import CropImage, RandCropImage, RandomResizedCrop, ResizeImage
from ppreplk.utils.errors import UserError

RNG = np.random.default_rng


def picture(height=37, width=53, seed=0) -> np.ndarray:
    return RNG(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray, kind="PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("backend", ["pil", "cv2"])
def test_decoding(backend):
    if backend == "cv2":
        pytest.importorskip("cv2")
    image = picture()
    assert (as_array(DecodeImage(backend=backend)(encoded(image), RNG(0))) == image).all()
    assert (DecodeImage(backend=backend, to_rgb=False)(encoded(image), RNG(0)) == image[:, :, ::-1]).all()
    with pytest.raises(UserError, match="cannot be decoded"):
        DecodeImage(backend=backend)(b"no image", RNG(0))


def test_grey_images_become_three_channels():
    grey = picture()[:, :, 0]
    assert (as_array(DecodeImage(backend="pil")(encoded(grey), RNG(0))) == grey[:, :, None]).all()


def test_evaluation_below_384_resizes_the_shorter_side_and_crops_the_centre():
    image = picture(300, 450)
    pipeline = Pipeline([ResizeImage(resize_short=256, interpolation="bicubic", backend="pil"), CropImage(224)])
    resized = Image.fromarray(image).resize((384, 256), Image.Resampling.BICUBIC)
    assert (as_array(pipeline(image, RNG(0))) == np.asarray(resized.crop((80, 16, 304, 240)))).all()


def test_evaluation_from_384_up_warps_to_a_square():
    image = picture(300, 450)
    received = ResizeImage(size=384, interpolation="bicubic", backend="pil")(image, RNG(0))
    assert (as_array(received) == np.asarray(Image.fromarray(image).resize((384, 384), Image.Resampling.BICUBIC))).all()


def test_crop_larger_than_the_image_is_refused():
    with pytest.raises(UserError, match="224x224 is larger than the image, 53x37"):
        CropImage(224)(picture(), RNG(0))


def test_normalization():
    image = picture()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    received = NormalizeImage(1 / 255, mean, std, order="")(image, RNG(0))
    assert received.dtype == np.float32
    np.testing.assert_allclose(received, (image / 255 - np.array(mean)) / np.array(std), atol=2e-6)
    chw = NormalizeImage(1 / 255, mean, std)(image.transpose(2, 0, 1), RNG(0))
    np.testing.assert_allclose(chw, received.transpose(2, 0, 1))


def test_random_resized_crop_boxes_follow_the_definition():
    crop, rng = RandomResizedCrop(8, scale=(0.08, 1.0)), RNG(0)
    width, height = 500, 375
    boxes = np.array([crop.box(width, height, rng) for _ in range(4000)])
    left, top, w, h = boxes.T
    assert (left >= 0).all() and (top >= 0).all() and (left + w <= width).all() and (top + h <= height).all()
    areas, ratios = w * h / (width * height), w / h
    assert 0.07 < areas.min() < 0.1 and areas.max() > 0.9
    assert ratios.min() > 0.72 and ratios.max() < 1.37
    small = areas < 0.4  # boxes this small always fit, so nothing biases their ratios
    assert abs(np.log(ratios[small]).mean()) < 0.02, "log-uniform ratios have mean 1 on the logarithmic scale"
    assert np.log(ratios[small]).std() == pytest.approx(math.log(4 / 3) / math.sqrt(3), rel=0.05)


def test_random_resized_crop_falls_back_to_the_centre():
    crop = RandomResizedCrop(8, scale=(0.9, 1.0))
    assert crop.box(1000, 10, RNG(0)) == (493, 0, 13, 10)
    assert crop.box(10, 1000, RNG(0)) == (0, 493, 10, 13)


def photograph(width, height):
    """A JPEG."""
    image = Image.fromarray(load_sample_image("china.jpg")).resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


CROPS = {"RandomResizedCrop": {"size": 64, "scale": [0.3, 1.0]}, "RandCropImage": {"size": 64, "backend": "pil"}}


@pytest.mark.parametrize("name", CROPS)
def test_a_large_jpeg_is_decoded_small_and_looks_the_same(name, monkeypatch):
    data, decoded = photograph(1600, 1200), []

    def record(self, image):
        image.load()
        decoded.append(image.size)
        return image

    monkeypatch.setattr(DecodeImage, "pixels", record)
    ops = read_ops([{"DecodeImage": {"backend": "pil"}}, {name: CROPS[name]}], "ops")
    pipeline = build_transforms(ops, IMAGE)
    whole = Pipeline([DecodeImage(backend="pil"), pipeline.transforms[0].random_crop])
    for seed in range(20):
        decoded.clear()
        received, expected = pipeline(data, RNG(seed)), whole(data, RNG(seed))
        assert decoded[0][0] < decoded[1][0] == 1600, "the second one decodes everything"
        box = whole.transforms[1].box(1600, 1200, RNG(seed))
        assert min(box[2:]) * decoded[0][0] / 1600 >= 2 * 64 - 2
        difference = as_array(received).astype(float) - as_array(expected)
        assert 10 * np.log10(255**2 / np.mean(difference**2)) > 36, "peak signal-to-noise ratio in dB"


def test_a_small_jpeg_is_decoded_whole():
    data = photograph(500, 375)
    ops = read_ops([{"DecodeImage": {"backend": "pil"}}, {"RandomResizedCrop": {"size": 224}}], "ops")
    pipeline = build_transforms(ops, IMAGE)
    whole = Pipeline([DecodeImage(backend="pil"), pipeline.transforms[0].random_crop])
    for seed in range(5):
        assert (as_array(pipeline(data, RNG(seed))) == as_array(whole(data, RNG(seed)))).all()
    with pytest.raises(UserError, match="cannot be decoded"):
        pipeline(data[: len(data) // 2], RNG(0))


@pytest.mark.parametrize("use_log_aspect", [False, True])
def test_rand_crop_image_stays_inside(use_log_aspect):
    crop = RandCropImage([8, 6], use_log_aspect=use_log_aspect, backend="pil")
    for seed in range(200):
        assert crop(picture(5, 90), RNG(seed)).size == (8, 6)


@pytest.mark.parametrize("form", [as_array, as_pillow])
def test_flip_is_even_and_horizontal(form):
    image, flip = picture(), RandFlipImage()
    outcomes = [as_array(flip(form(image), RNG(seed))) for seed in range(400)]
    flipped = sum((outcome == image[:, ::-1]).all() for outcome in outcomes)
    assert all((o == image).all() or (o == image[:, ::-1]).all() for o in outcomes)
    assert 160 < flipped < 240
    for code, slices in {0: np.s_[::-1], -1: np.s_[::-1, ::-1]}.items():
        outcomes = [as_array(RandFlipImage(code)(form(image), RNG(seed))) for seed in range(20)]
        assert any((outcome == image[slices]).all() for outcome in outcomes)


def test_random_erasing_statistics():
    erase = RandomErasing(EPSILON=0.25, sl=0.02, sh=1 / 3, r1=0.3, attempt=10, use_log_aspect=True, mode="pixel")
    image = np.full((224, 224, 3), 7.0, np.float32)
    areas, ratios, noise = [], [], []
    for seed in range(4000):
        erased = erase(image, RNG(seed))
        if erased is not image:
            changed = (erased != 7.0).any(2)
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            h, w = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert changed.sum() == h * w, "one rectangle"
            areas.append(h * w / 224**2)
            ratios.append(h / w)
            noise.append(erased[changed][:50])
    assert (image == 7.0).all(), "the input is left alone"
    assert len(areas) / 4000 == pytest.approx(0.25, abs=0.02)
    assert min(areas) > 0.018 and max(areas) < 0.34
    assert min(ratios) > 0.28 and max(ratios) < 3.5 and abs(np.log(ratios).mean()) < 0.05
    noise = np.concatenate(noise)
    assert abs(noise.mean()) < 0.01 and noise.std() == pytest.approx(1, abs=0.01)


class Fixed(Draw):
    """Draws that are always positive."""

    def signed(self, value):
        return value


def apply(name, level, image, increasing=True):
    draw = Fixed(RNG(0), [Image.Resampling.BICUBIC], (124, 116, 104))
    return np.asarray(operators(increasing)[name](image, level, draw))


# timm's definitions at level 9 of 10, "inc" variants, positive sign
EXPECTED_AT_9 = {
    "AutoContrast": lambda im: ImageOps.autocontrast(im),
    "Equalize": lambda im: ImageOps.equalize(im),
    "Invert": lambda im: ImageOps.invert(im),
    "Rotate": lambda im: im.rotate(27, Image.Resampling.BICUBIC, fillcolor=(124, 116, 104)),
    "Posterize": lambda im: ImageOps.posterize(im, 1),
    "Solarize": lambda im: ImageOps.solarize(im, 256 - 230),
    "SolarizeAdd": lambda im: Image.fromarray(
        np.where((a := np.asarray(im).astype(int)) < 128, np.minimum(a + 99, 255), a).astype("uint8")
    ),
    "Color": lambda im: ImageEnhance.Color(im).enhance(1.81),
    "Contrast": lambda im: ImageEnhance.Contrast(im).enhance(1.81),
    "Brightness": lambda im: ImageEnhance.Brightness(im).enhance(1.81),
    "Sharpness": lambda im: ImageEnhance.Sharpness(im).enhance(1.81),
    "ShearX": lambda im: affine(im, 1, 0.27, 0, 0, 1, 0),
    "ShearY": lambda im: affine(im, 1, 0, 0, 0.27, 1, 0),
    "TranslateXRel": lambda im: affine(im, 1, 0, 0.405 * im.size[0], 0, 1, 0),
    "TranslateYRel": lambda im: affine(im, 1, 0, 0, 0, 1, 0.405 * im.size[1]),
}


def affine(image, *matrix):
    kind, kernel = Image.Transform.AFFINE, Image.Resampling.BICUBIC
    return image.transform(image.size, kind, matrix, kernel, fillcolor=(124, 116, 104))


def test_randaugment_operators_at_level_9():
    image = Image.fromarray(picture())
    assert set(operators(True)) == set(EXPECTED_AT_9) and len(EXPECTED_AT_9) == 15
    for name, expected in EXPECTED_AT_9.items():
        assert (apply(name, 9.0, image) == np.asarray(expected(image))).all(), name


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("name", EXPECTED_AT_9)
def test_randaugment_operators_survive_every_level(name, increasing):
    image = Image.fromarray(picture())
    for level in np.linspace(0, MAX_LEVEL, 21):
        assert apply(name, float(level), image, increasing).shape == (37, 53, 3)


def test_posterize_to_no_bits_is_black():
    assert (apply("Posterize", MAX_LEVEL, Image.fromarray(picture())) == 0).all()


def test_randaugment_draws_two_layers_each_with_probability_one_half():
    augment = RandAugment("rand-m9-mstd0.5-inc1", [Image.Resampling.BICUBIC], (124, 116, 104))
    calls, levels = [], []
    for index in range(len(augment.operators)):
        augment.operators[index] = lambda image, level, draw, i=index: calls.append(i) or levels.append(level) or image
    for seed in range(3000):
        augment(None, RNG(seed))
    assert len(calls) == pytest.approx(3000, rel=0.05)
    counts = np.bincount(calls, minlength=15)
    assert counts.min() > 140 and counts.max() < 260
    assert max(levels) <= MAX_LEVEL
    clipped = np.minimum(RNG(1).normal(9, 0.5, 100000), 10)
    assert np.mean(levels) == pytest.approx(clipped.mean(), abs=0.03)
    assert np.std(levels) == pytest.approx(clipped.std(), abs=0.03)


def mixing_batch(n=6):
    images = np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1) * np.ones((1, 3, 16, 16), np.float32)
    return images, np.arange(n) % 4


def test_mixup_mixes_with_the_reversed_batch_and_smooths_labels():
    images, labels = mixing_batch()
    mix = MixupCutmixHybrid(mixup_alpha=0.8, label_smoothing=0.1, num_classes=4)
    mixed, target = mix(images, labels, RNG(3))
    kept = (mixed[0, 0, 0, 0] - 5) / (0 - 5)
    assert 0 < kept < 1
    np.testing.assert_allclose(mixed, images * kept + images[::-1] * (1 - kept), rtol=1e-5)
    smooth = np.eye(4)[labels] * 0.9 + 0.1 / 4
    np.testing.assert_allclose(target, smooth * kept + smooth[::-1] * (1 - kept), atol=1e-6)


def test_cutmix_pastes_one_box_and_weighs_labels_by_its_area():
    images, labels = mixing_batch()
    mix = MixupCutmixHybrid(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=4)
    for seed in range(50):
        mixed, target = mix(images, labels, RNG(seed))
        pasted = mixed[0, 0] == 5
        assert ((mixed[0, 0] == 0) | pasted).all()
        rows, columns = pasted.any(1).sum(), pasted.any(0).sum()
        assert pasted.sum() == rows * columns
        kept = 1 - pasted.mean()
        np.testing.assert_allclose(target[0], np.eye(4)[0] * kept + np.eye(4)[1] * (1 - kept), atol=1e-6)
        assert (mixed[5, 0] == np.where(pasted, 0, 5)).all()


def test_mixing_probability_and_switch():
    images, labels = mixing_batch()
    mix = MixupCutmixHybrid(0.8, 1.0, prob=0.6, switch_prob=0.25, label_smoothing=0.0, num_classes=4)
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for seed in range(2000):
        values = np.unique(mix(images, labels, RNG(seed))[0][0])
        kinds["none" if (values == 0).all() else "cutmix" if set(values) <= {0.0, 5.0} else "mixup"] += 1
    assert kinds["mixup"] / 2000 == pytest.approx(0.6 * 0.75, abs=0.04)
    assert kinds["cutmix"] / 2000 == pytest.approx(0.6 * 0.25, abs=0.04)  # less the boxes of no area


def test_mixup_operator():
    images, labels = mixing_batch()
    mixed, target = MixupOperator(4, alpha=0.8)(images, labels, RNG(1))
    other, kept = RNG(1).permutation(6), None
    for index in range(6):
        if other[index] != index:
            kept = (mixed[index, 0, 0, 0] - other[index]) / (index - other[index])
    assert 0 < kept < 1
    np.testing.assert_allclose(mixed, images * kept + images[other] * (1 - kept), rtol=1e-5)
    np.testing.assert_allclose(target, np.eye(4)[labels] * kept + np.eye(4)[labels[other]] * (1 - kept), atol=1e-6)


def test_cutmix_operator():
    images, labels = mixing_batch()
    for seed in range(20):
        mixed, target = CutmixOperator(4, alpha=1.0)(images, labels, RNG(seed))
        other = RNG(seed).permutation(6)
        for index in np.flatnonzero(other != np.arange(6)):
            pasted = (mixed[index, 0] == other[index]).mean()
            expected = np.eye(4)[labels[index]] * (1 - pasted) + np.eye(4)[labels[other[index]]] * pasted
            np.testing.assert_allclose(target[index], expected, atol=1e-6)


def test_op_sampler_chooses_by_probability():
    ops = {"MixupOperator": {"alpha": 0.8, "prob": 0.5}, "CutmixOperator": {"alpha": 1.0, "prob": 0.2}}
    sampler = construct(OpSampler, ops, "OpSampler", class_num=4)
    images, labels = mixing_batch()
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for seed in range(2000):
        mixed, target = sampler(images, labels, RNG(seed))
        assert target.shape == (6, 4) and target.dtype == np.float32
        whole = mixed == np.round(mixed)
        kinds["none" if (mixed == images).all() else "cutmix" if whole.all() else "mixup"] += 1
    assert kinds["mixup"] / 2000 == pytest.approx(0.5, abs=0.04)
    assert kinds["cutmix"] / 2000 == pytest.approx(0.2, abs=0.04)
    for bad, message in {
        "MixupOperator": ({"alpha": 0, "prob": 0.5}, "alpha must be positive"),
        "MixupOp": ({"prob": 0.5}, "unknown batch transform 'MixupOp'"),
        "CutmixOperator": ({"prob": 1.5}, "at most 1"),
    }.items():
        with pytest.raises(UserError, match=message[1]):
            construct(OpSampler, {bad: message[0]}, "OpSampler", class_num=4)


def test_color_jitter_bounds():
    image = np.full((4, 5, 3), 100, np.uint8)
    values = [int(as_array(ColorJitter(brightness=0.4)(image, RNG(seed)))[0, 0, 0]) for seed in range(300)]
    assert 60 <= min(values) < 65 and 135 < max(values) <= 140
    for idle in (ColorJitter(), ColorJitter(prob=0, hue=0.5)):
        assert (as_array(idle(image, RNG(0))) == image).all()
    red = np.zeros((2, 2, 3), np.uint8) + np.array([200, 0, 0], np.uint8)
    turned = np.array([as_array(ColorJitter(hue=0.5)(red, RNG(seed)))[0, 0] for seed in range(60)])
    assert (turned.max(1) == 200).all() and (turned.argmax(1) == 2).any() and (turned.argmax(1) == 1).any()
    greyest = min((as_array(ColorJitter(saturation=1.0)(red, RNG(seed)))[0, 0] for seed in range(200)), key=np.ptp)
    assert np.ptp(greyest) < 10, "a factor near 0 takes the colour away"
    with pytest.raises(UserError, match="hue at most 0.5"):
        ColorJitter(hue=0.6)


def test_mixing_must_know_the_class_count():
    with pytest.raises(UserError, match="num_classes is 4, but Arch.class_num is 10"):
        MixupCutmixHybrid(class_num=10)


def loader(project, monkeypatch, seed=0, **changes):
    monkeypatch.chdir(project)
    split = colour_config()["DataLoader"]["Train"]
    for key, value in changes.items():
        section, name = key.split("__")
        split[section][name] = value
    config = construct(SplitConfig, split, "DataLoader.Train")
    return build_loader(config, build_dataset(config.dataset, class_num=3, seed=seed), class_num=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_is_a_function_of_seed_and_epoch(colour_project, monkeypatch, workers):
    ops = colour_config()["DataLoader"]["Train"]["dataset"]["transform_ops"]
    ops = ops[:1] + [{"RandomResizedCrop": {"size": 16}}, "RandFlipImage", "TimmAutoAugment"] + ops[2:]
    mixing = [{"MixupCutmixHybrid": {"cutmix_alpha": 1.0, "num_classes": 3}}]

    def epoch(number, seed=0, workers=workers):
        changes = {"dataset__transform_ops": ops, "dataset__batch_transform_ops": mixing}
        batches = loader(colour_project, monkeypatch, seed, loader__num_workers=workers, **changes)
        batches.set_epoch(number)
        images, labels = zip(*((i.numpy(), t.numpy()) for i, t in batches))
        assert len(images) == 3 and images[0].shape == (6, 3, 16, 16) and labels[0].shape == (6, 3)
        return np.concatenate(images), np.concatenate(labels)

    images, labels = epoch(1)
    again = epoch(1, workers=0)
    assert (images == again[0]).all() and (labels == again[1]).all()
    assert (epoch(2)[0] != images).any() and (epoch(1, seed=1)[0] != images).any()


def test_small_shared_memory_is_noticed_and_done_without(colour_project, monkeypatch, caplog):
    caplog.set_level("INFO", "ppreplk")
    real = os.statvfs

    def almost_full(path):
        return types.SimpleNamespace(f_bavail=1, f_frsize=4096) if path == "/dev/shm" else real(path)

    monkeypatch.setattr(os, "statvfs", almost_full)
    batches = loader(colour_project, monkeypatch, loader__num_workers=1, loader__use_shared_memory=True)
    assert len(list(batches)) == 3
    assert "shared memory has 0 MB free, 1 loader processes need" in caplog.text


def test_every_image_once_per_epoch_in_a_new_order(colour_project, monkeypatch):
    batches = loader(colour_project, monkeypatch)
    orders = []
    for number in (1, 2):
        batches.set_epoch(number)
        orders.append([index for batch in batches.sampler for index in batch])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(18)) and orders[0] != orders[1]


@pytest.mark.parametrize(
    "line, message",
    [
        ("images/0.png", r"train\.txt, line 19: expected 'path label', got 'images/0.png'"),
        ("images/0.png one", r"train\.txt, line 19: expected 'path label'"),
        ("images/none.png 1", r"train\.txt, line 19: there is no image data/images/none\.png"),
        ("images/0.png 3", r"train\.txt, line 19: label 3 is outside 0 to 2; Arch\.class_num is 3"),
        ("images/0.png -1", r"train\.txt, line 19: label -1 is outside"),
        ("images/0.png --5", r"train\.txt, line 19: expected 'path label'"),
        ("images/0.png ²", r"train\.txt, line 19: expected 'path label'"),
    ],
)
def test_bad_lines_are_named(colour_project, monkeypatch, line, message):
    with open(colour_project / "data" / "train.txt", "a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=message):
        loader(colour_project, monkeypatch)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named_wherever_it_is_loaded(colour_project, monkeypatch, workers):
    (colour_project / "data" / "images" / "4.png").write_bytes(b"not an image")
    batches = loader(colour_project, monkeypatch, loader__num_workers=workers)
    with pytest.raises(UserError, match=r"train\.txt, line 5: data/images/4\.png: cannot be decoded"):
        list(batches)


def test_images_of_different_sizes_are_refused(colour_project, monkeypatch):
    Image.fromarray(picture()).save(colour_project / "data" / "images" / "0.png")
    with pytest.raises(UserError, match="differ in shape"):
        ops = [{"DecodeImage": {"backend": "pil"}}, {"NormalizeImage": {"order": ""}}]
        list(loader(colour_project, monkeypatch, dataset__transform_ops=ops))


def test_missing_data_says_what_where_how_and_what_runs(colour_project, monkeypatch):
    with pytest.raises(UserError) as error:
        loader(colour_project, monkeypatch, dataset__cls_label_path="no/list.txt", dataset__image_root="nowhere")
    for part in (
        "no list file no/list.txt",
        "no image folder nowhere",
        str(colour_project),
        "path label",
        "digits.yaml",
    ):
        assert part in str(error.value)


def test_fewer_images_than_a_batch(colour_project, monkeypatch):
    with pytest.raises(UserError, match="18 images do not fill one batch of 19"):
        loader(colour_project, monkeypatch, sampler__batch_size=19)


def test_delimiter_relabel_and_paths_with_spaces(colour_project):
    images = colour_project / "data" / "images"
    (images / "0.png").rename(images / "a b.png")
    (colour_project / "list.txt").write_text("images/a b.png 7\n\nimages/1.png 3\n")
    root = str(colour_project / "data")
    dataset = ImageNetDataset(root, str(colour_project / "list.txt"), Pipeline([]), class_num=2, relabel=True)
    assert [sample.label for sample in dataset.samples] == [1, 0]
    assert dataset.samples[1].origin.endswith("list.txt, line 3")
    (colour_project / "list.txt").write_text("images/a b.png\t1\n")
    dataset = ImageNetDataset(root, str(colour_project / "list.txt"), Pipeline([]), class_num=2, delimiter="\t")
    assert dataset.samples[0].label == 1


def test_a_folder_per_class(colour_project, monkeypatch):
    monkeypatch.chdir(colour_project)
    for index in range(24):
        folder = colour_project / "classes" / "bac"[index % 3] / "more"
        folder.mkdir(parents=True, exist_ok=True)
        (colour_project / "data" / "images" / f"{index}.png").rename(folder / f"{index}.png")
    dataset = ImageFolderDataset("classes", Pipeline([]), class_num=3)
    assert len(dataset) == 24
    names = {0: "a", 1: "b", 2: "c"}
    assert all(sample.path.startswith(f"classes/{names[sample.label]}/") for sample in dataset.samples)
    with pytest.raises(UserError, match="classes: holds 3 class folders, but Arch.class_num is 4"):
        ImageFolderDataset("classes", Pipeline([]), class_num=4)
    (colour_project / "classes" / "empty").mkdir()
    with pytest.raises(UserError, match="the folder of class 'empty' holds no image"):
        ImageFolderDataset("classes", Pipeline([]), class_num=4)
    with pytest.raises(UserError, match="no image folder absent.*one folder per class"):
        ImageFolderDataset("absent", Pipeline([]), class_num=3)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"dataset__name": "ImageNetDatast"},
            r"Train\.dataset: unknown dataset 'ImageNetDatast'; did you mean ImageNetData",
        ),
        ({"dataset__name": "Cifar10"}, r"Train\.dataset: not served here"),
        ({"dataset__delimitr": ","}, r"Train\.dataset\.delimitr: unknown key; did you mean delimiter"),
        ({"dataset__relabel": 1}, r"Train\.dataset\.relabel: expected true or false"),
    ],
)
def test_bad_datasets(colour_project, monkeypatch, changes, message):
    with pytest.raises(UserError, match=message):
        loader(colour_project, monkeypatch, **changes)


def test_finding_images(colour_project, monkeypatch):
    monkeypatch.chdir(colour_project)
    assert find_images("data/images/3.png") == ["data/images/3.png"]
    assert len(find_images("data")) == 24
    assert find_images("data/val.txt") == [f"data/images/{index}.png" for index in range(18, 24)]
    assert find_images("data", "data/val.txt") == find_images("data/val.txt")
    for place, message in {"nothing": "no image, folder or list nothing", "output": "holds no image"}.items():
        (colour_project / "output").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=message):
            find_images(place)
    (colour_project / "bad.txt").write_text("data/images/3.png\nmissing.png\n")
    with pytest.raises(UserError, match=r"bad\.txt, line 2: there is no image"):
        find_images("bad.txt")


def test_the_digits_are_scikit_learns(tmp_path):
    from sklearn.datasets import load_digits

    prepare_digits(tmp_path / "digits")
    digits = load_digits()
    train, val = ((tmp_path / "digits" / f"{name}_list.txt").read_text().split("\n")[:-1] for name in ("train", "val"))
    assert (len(train), len(val)) == (1437, 360)
    assert not set(train) & set(val)
    for line in train[::100] + val[::50]:
        name, label = line.split()
        index = int(name[len("images/") : -len(".png")])
        pixels = np.asarray(Image.open(tmp_path / "digits" / name)).astype(float)
        assert digits.target[index] == int(label)
        assert np.abs(pixels - digits.images[index] * 255 / 16).max() <= 0.5
    stamp = (tmp_path / "digits" / "labels.txt").stat().st_mtime_ns
    prepare_digits(tmp_path / "digits")
    assert (tmp_path / "digits" / "labels.txt").stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_the_digits_do_not_overwrite_other_files(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="a folder with other files"):
        prepare_digits(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_digits_are_not_written_beside_a_mistyped_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = ["DataLoader.Train.dataset.image_root=mistyped"]
    with pytest.raises(UserError, match="image_root, mistyped, but cls_label_path is ./dataset/digits/train_list.txt"):
        prepare_dataset(load_config(ROOT / "configs" / "digits.yaml", overrides))
    assert not any(tmp_path.iterdir())


def test_pipeline_from_a_configuration():
    ops = [{"DecodeImage": {"backend": "pil"}}, {"ResizeImage": {"size": [20, 10], "backend": "pil"}}, "ToCHWImage"]
    received = build_transforms(read_ops(ops, "Infer.transforms"), IMAGE_CHW)(encoded(picture()), RNG(0))
    assert received.shape == (3, 10, 20)


@pytest.mark.parametrize(
    "names, message",
    [
        ([], "the list of transforms: leaves an encoded image, but a normalized image is needed"),
        (["DecodeImage"], r"ops\[0\].DecodeImage: leaves an image, but"),
        (["NormalizeImage"], r"ops\[0\].NormalizeImage: takes a channel-first image, but here it gets an encoded"),
        (["DecodeImage", "NormalizeImage"], "takes a channel-first image, but here it gets an image"),
        (["DecodeImage", "RandomErasing"], "RandomErasing: takes a normalized image, but here it gets an image"),
        (["DecodeImage", "ToCHWImage", "NormalizeImage", "TimmAutoAugment"], "gets a normalized channel-first image"),
    ],
)
def test_transforms_that_do_not_fit_one_another_are_refused(names, message):
    with pytest.raises(UserError, match=message):
        build_transforms(read_ops([{name: BACKEND.get(name)} for name in names], "ops"), NORMALIZED)


BACKEND = {"DecodeImage": {"backend": "pil"}}


class Failing(ImageNetDataset):
    def __getitem__(self, index):
        raise KeyError("a defect")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_defect_in_a_dataset_keeps_its_traceback_and_does_not_hang(colour_project, workers):
    data = str(colour_project / "data")
    dataset = Failing(data, f"{data}/train.txt", Pipeline([]), class_num=3)
    with pytest.raises((KeyError, RuntimeError), match="a defect"):
        list(Loader(dataset, 2, shuffle=False, drop_last=False, num_workers=workers))
