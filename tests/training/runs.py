"""What the training tests share: configurations of the colour project, and comparing weights."""

import copy
from pathlib import Path

from helpers import colour_config, write_config

from ppreplk.config import load_config
from ppreplk.weights import load_checkpoint


def config(*overrides, **sections):
    raw = {**copy.deepcopy(colour_config()), **sections}
    write_config(Path("config.yaml"), raw)
    return load_config("config.yaml", overrides)


def same_weights(first, second) -> bool:
    first, second = load_checkpoint(first), load_checkpoint(second)
    return set(first) == set(second) and all((first[name] == second[name]).all() for name in first)
