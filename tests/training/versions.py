"""Checkpoints that tell which version each of their files is of."""

from pathlib import Path

import numpy as np
import paddle
from helpers import small_network
from paddle.optimizer.lr import LambdaDecay

from ppreplk.checkpoints.files import load_arrays
from ppreplk.training import checkpoint
from ppreplk.training.checkpoint_search import find_whole
from ppreplk.training.ema import ExponentialMovingAverage
from ppreplk.training.train_state import TrainState
from ppreplk.weights import load_checkpoint


class Versions:
    """Saves version after version: all weights are the version, all averaged ones a hundred more.

    Args:
        folder: where the checkpoint ``latest`` lies.
        with_ema: whether it has averaged weights.
    """

    def __init__(self, folder: Path, with_ema: bool):
        self.prefix = folder / "latest"
        self.model = small_network()
        self.schedule = LambdaDecay(1.0, float)
        self.optimizer = paddle.optimizer.AdamW(self.schedule, parameters=self.model.parameters())
        self.ema = ExponentialMovingAverage(self.model, 0.5) if with_ema else None

    def save(self, version: int) -> None:
        _fill(self.model, version)
        if self.ema:
            _fill(self.ema.model, version + 100)
        self.schedule.step(version)
        state = TrainState(seed=0, optimizer="AdamW", epoch=version)
        checkpoint.save(self.prefix, self.model, self.optimizer, state, self.ema)

    def version(self) -> int:
        """The version of what is there, after a check that all its files are of one."""
        found = find_whole(str(self.prefix), "AdamW", self.ema is not None)
        version = found.state.epoch
        expected = {".pdparams": version + 100, ".pdema": version} if self.ema else {".pdparams": version}
        for suffix, value in expected.items():
            assert all((array == value).all() for array in load_checkpoint(found.files[suffix]).values()), suffix
        assert load_arrays(found.files[".pdopt"])["LR_Scheduler"]["last_epoch"] == version
        checkpoint.restore(found, self.model, self.optimizer, self.ema)
        assert all((value.numpy() == version).all() for value in self.model.state_dict().values())
        return version

    def assert_clean(self) -> None:
        """Nothing lies beside the files of the checkpoint."""
        suffixes = {".pdparams", ".pdopt", ".pdstates"} | ({".pdema"} if self.ema else set())
        assert {path.name for path in self.prefix.parent.iterdir()} == {f"latest{suffix}" for suffix in suffixes}


def _fill(model, value: float) -> None:
    for tensor in model.state_dict().values():
        tensor.set_value(np.full(tensor.shape, value, "float32"))
