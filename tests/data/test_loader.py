"""Loading: order, determinism, and errors that arrive from wherever they were raised."""

import numpy as np
import pytest
from helpers import colour_config, refused
from image_helpers import picture
from PIL import Image

from ppreplk.config import SplitConfig, construct
from ppreplk.data import ImageNetDataset, Loader, Pipeline, build_dataset, build_loader
from ppreplk.utils.errors import UserError


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


def test_every_image_once_per_epoch_in_a_new_order(colour_project, monkeypatch):
    batches = loader(colour_project, monkeypatch)
    orders = []
    for number in (1, 2):
        batches.set_epoch(number)
        orders.append([index for batch in batches.batch_sampler for index in batch])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(18)) and orders[0] != orders[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named_wherever_it_is_loaded(colour_project, monkeypatch, workers):
    (colour_project / "data" / "images" / "4.png").write_bytes(b"not an image")
    batches = loader(colour_project, monkeypatch, loader__num_workers=workers)
    with refused("data.unreadable-image", "data/train.txt, line 5: data/images/4.png: cannot be decoded"):
        list(batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_different_sizes_are_refused(colour_project, monkeypatch, workers):
    Image.fromarray(picture()).save(colour_project / "data" / "images" / "0.png")
    ops = [{"DecodeImage": {"backend": "pil"}}, {"NormalizeImage": {"order": ""}}]
    batches = loader(colour_project, monkeypatch, dataset__transform_ops=ops, loader__num_workers=workers)
    with refused("data.shapes-differ", "(3, 20, 24)", "(3, 37, 53)"):
        list(batches)


def test_fewer_images_than_a_batch(colour_project, monkeypatch):
    with refused("data.too-few-images", "data/train.txt: ", "18 images", "batch of 19"):
        loader(colour_project, monkeypatch, sampler__batch_size=19)


class Failing(ImageNetDataset):
    def __getitem__(self, index):
        raise KeyError("a defect")


class Refusing(ImageNetDataset):
    def __getitem__(self, index):
        if index == 3:
            raise UserError("is broken", code="data.of-a-test", where=f"image {index}")
        return np.zeros((3, 8, 8), np.float32), 0, index


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_keeps_its_code_and_place_on_the_way_from_a_loader_process(colour_project, workers):
    data = str(colour_project / "data")
    dataset = Refusing(data, f"{data}/train.txt", Pipeline([]), class_num=3)
    batches = Loader(dataset, 2, shuffle=False, drop_last=False, num_workers=workers)
    with pytest.raises(UserError, match="^image 3: is broken$") as caught:
        list(batches)
    assert (caught.value.code, caught.value.where) == ("data.of-a-test", "image 3")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_defect_in_a_dataset_keeps_its_traceback_and_does_not_hang(colour_project, workers):
    data = str(colour_project / "data")
    dataset = Failing(data, f"{data}/train.txt", Pipeline([]), class_num=3)
    with pytest.raises((KeyError, RuntimeError), match="a defect"):
        list(Loader(dataset, 2, shuffle=False, drop_last=False, num_workers=workers))
