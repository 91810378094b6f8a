"""Arch.in_channels from the data set to an answer of the exported program, and weights for RGB images to begin with."""

from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import colour_config, random_images, refused, relative_difference, small_network, write_config
from PIL import Image

import ppreplk
from ppreplk.checkpoints.apply import load_weights
from ppreplk.checkpoints.convert import load_checkpoint
from ppreplk.config import load_config
from ppreplk.deploy.export import export
from ppreplk.deploy.infer import infer
from ppreplk.training import Trainer, train
from ppreplk.training.evaluate import evaluate_config


def channels_config(channels: int, *overrides: str):
    """The colour project for images of so many channels; for other than 3 and 1 the lists name arrays."""
    raw = colour_config()
    raw["Arch"]["in_channels"] = channels
    raw["Global"].update(image_shape=[channels, 32, 32], epochs=1)
    splits = [raw["DataLoader"][split]["dataset"]["transform_ops"] for split in ("Train", "Eval")]
    for ops in (*splits, raw["Infer"]["transforms"]):
        ops[2] = {"NormalizeImage": {"mean": [0.5] * channels, "std": [0.5] * channels, "order": ""}}
    write_config(Path("channels.yaml"), raw)
    return load_config("channels.yaml", overrides)


def as_arrays(channels: int) -> None:
    """Put arrays of so many channels beside the images, and name them in the lists."""
    for name in ("train", "val"):
        lines = []
        for path, label in (line.split() for line in Path(f"data/{name}.txt").read_text().splitlines()):
            image = np.asarray(Image.open(Path("data") / path).convert("RGB"))
            np.save(Path("data") / f"{path}.npy", image[:, :, np.arange(channels) % 3])
            lines.append(f"{path}.npy {label}")
        Path(f"data/{name}.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("channels", [1, 4])
def test_from_a_training_to_predictions(project, channels, caplog):
    if channels == 4:
        as_arrays(4)
    train(channels_config(channels))
    best = "Global.pretrained_model=output/best_model"
    assert load_checkpoint("output/best_model")["stem.0.conv.weight"].shape[1] == channels
    evaluate_config(channels_config(channels, best))
    assert export(channels_config(channels, best))
    predictor = ppreplk.Predictor("inference")
    assert predictor.image_shape == [channels, 32, 32]
    paths = [str(Path("data") / line.split()[0]) for line in Path("data/val.txt").read_text().splitlines()]
    listed = Path("data/listed.txt")
    listed.write_text("\n".join(Path(path).relative_to("data").as_posix() for path in paths) + "\n")
    config = channels_config(channels, best, f"Infer.infer_imgs={listed}")
    by_network, by_program = list(infer(config)), predictor(paths)
    assert [each.class_ids for each in by_network] == [each.class_ids for each in by_program]
    image = np.full((20, 20, channels) if channels > 1 else (20, 20), 90, np.uint8)
    assert predictor(image)[0].class_ids
    with refused("deploy.bad-images"):
        predictor.run(np.zeros((1, 3, 32, 32), np.float32))


def test_channels_must_agree(project):
    with refused("config.bad-value", "Global.image_shape: has 3 channels, but Arch.in_channels is 1"):
        channels_config(1, "Global.image_shape=[3, 32, 32]")
    with refused("data.bad-argument", "mean and std need 1 (Arch.in_channels)"):
        Trainer(channels_config(1, "DataLoader.Train.dataset.transform_ops.2.NormalizeImage.mean=[0.5, 0.5, 0.5]"))


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_weights_for_rgb_are_fitted(channels):
    rgb = small_network()
    fitted = small_network(in_channels=channels)
    with refused("checkpoints.other-architecture", "stem.0.conv.weight"):
        load_weights(fitted, rgb.state_dict(), "file")
    load_weights(fitted, {k: v.numpy() for k, v in rgb.state_dict().items()}, "file", may_fit_stem=True)
    for network in (rgb, fitted):
        network.eval()
    images = random_images(2, 3, 32, 32)
    with paddle.no_grad():
        if channels < 3:
            grey = images[:, :1]
            expected = rgb(paddle.concat([grey] * 3, axis=1))
            received = fitted(paddle.concat([grey] * channels, axis=1))
        else:
            expected, received = rgb(images), fitted(paddle.concat([images, random_images(2, channels - 3, 32, 32)], 1))
    assert relative_difference(received.numpy(), expected.numpy()) < 1e-5


def test_a_training_fits_them_and_says_so(project, caplog):
    raw = colour_config()
    write_config(Path("config.yaml"), raw)
    train(load_config("config.yaml", ["Global.epochs=1"]))
    Trainer(channels_config(1, "Global.pretrained_model=output/best_model"))
    assert "best_model is for RGB images; its first convolution is fitted to Arch.in_channels 1" in caplog.text
    with refused("checkpoints.other-architecture"):  # evaluation takes weights as they are
        evaluate_config(channels_config(1, "Global.pretrained_model=output/best_model"))
