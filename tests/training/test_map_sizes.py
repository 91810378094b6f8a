"""What a training says once about the sizes of its feature maps."""

import paddle
import pytest
from helpers import refused
from runs import config

from ppreplk.training import Trainer

ONE_PIXEL = ("Arch.layers=[1,1,1,1]", "Arch.channels=[4,4,4,4]", "Arch.large_kernel_sizes=[7,5,3,3]")  # 32 / 32


def lines(caplog) -> list:
    return [(record.levelname, record.getMessage()) for record in caplog.records if "kernels" in record.getMessage()]


@pytest.mark.parametrize(
    "sizes, level, parts",
    [
        ([7, 3], None, []),  # on maps of 8 and 4
        ([9, 7], "INFO", ["9x9 on 8x8 (stages.0); 7x7 on 4x4 (stages.1)", "all their weights are used"]),
        ([7, 9], "WARNING", ["maps: 9x9 on 4x4 (stages.1);", "never meets it"]),
    ],
)
def test_kernels_larger_than_their_maps_are_named_once(project, caplog, sizes, level, parts):
    trainer = Trainer(config(f"Arch.large_kernel_sizes={sizes}", "Global.epochs=2"))
    trainer.fit()
    found = lines(caplog)
    assert len(found) == (level is not None)
    for received, message in found:
        assert received == level
        assert all(part in message for part in parts), message


def test_recomputation_and_several_batches_say_it_once_too(project, caplog):
    Trainer(config("Arch.large_kernel_sizes=[9,7]", "Arch.use_checkpoint=True", "Global.update_freq=3")).fit()
    assert len(lines(caplog)) == 1


@pytest.mark.parametrize("size, drop_last, is_refused", [(1, True, True), (17, False, True), (17, True, False)])
def test_one_value_for_each_channel_is_refused(project, size, drop_last, is_refused):
    """18 images: a batch of one at once, or as the last one of the epoch."""
    sampler = "DataLoader.Train.sampler"
    small = config(f"{sampler}.batch_size={size}", f"{sampler}.drop_last={drop_last}", *ONE_PIXEL)
    if is_refused:
        with refused("training.one-value", "DataLoader.Train.sampler.batch_size", "maps of one pixel"):
            Trainer(small).fit()
    else:
        Trainer(small).train_epoch(1)


def test_one_image_on_larger_maps_trains(project):
    trainer = Trainer(config("DataLoader.Train.sampler.batch_size=1"))
    trainer.train_epoch(1)
    assert all(paddle.isfinite(parameter).all() for parameter in trainer.model.parameters())
