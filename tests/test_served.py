"""The tables of what YAML may name: what is served is not refused, and scripts find it where they always did."""

import pytest

import ppreplk
from ppreplk.data.datasets import DATASETS, UNSERVED_DATASETS
from ppreplk.data.mixing import BATCH_TRANSFORMS, UNSERVED_BATCH_TRANSFORMS
from ppreplk.data.transforms import TRANSFORMS, UNSERVED_TRANSFORMS
from ppreplk.training.losses import LOSSES, UNSERVED_LOSSES
from ppreplk.training.optimizers import OPTIMIZERS, UNSERVED_OPTIMIZERS
from ppreplk.training.schedules import SCHEDULES, UNSERVED_SCHEDULES

PAIRS = {
    "transforms": (TRANSFORMS, UNSERVED_TRANSFORMS),
    "batch transforms": (BATCH_TRANSFORMS, UNSERVED_BATCH_TRANSFORMS),
    "datasets": (DATASETS, UNSERVED_DATASETS),
    "losses": (LOSSES, UNSERVED_LOSSES),
    "optimizers": (OPTIMIZERS, UNSERVED_OPTIMIZERS),
    "schedules": (SCHEDULES, UNSERVED_SCHEDULES),
}


@pytest.mark.parametrize("served, unserved", PAIRS.values(), ids=PAIRS)
def test_what_is_served_is_not_refused(served, unserved):
    assert not set(served) & set(unserved)


def test_scripts_find_every_optimizer_and_schedule():
    assert set(ppreplk.optim.__all__) >= {*OPTIMIZERS, *SCHEDULES}
