"""Fixtures. Helpers that tests import are in helpers.py."""

import logging
import signal

import numpy as np
import pytest
from helpers import COLOURS, GOLDEN_CASES, GoldenCase, colour_config, require_channels_last_operators, write_config
from PIL import Image

from ppreplk.ops import onednn
from ppreplk.utils.device import use_vector_units

# A suite in the background starts with these ignored, and the tools that tests interrupt would be deaf to them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
logging.getLogger("ppreplk").setLevel(logging.INFO)  # as commands do
use_vector_units()  # before the math library is used: every process of a test then rounds alike


@pytest.fixture(params=GOLDEN_CASES)
def golden(request) -> GoldenCase:
    return GoldenCase(request.param)


@pytest.fixture(params=[name for name in GOLDEN_CASES if "backbone" not in name])
def golden_classifier(request) -> GoldenCase:
    return GoldenCase(request.param)


@pytest.fixture
def tiles():
    """Emulated tile registers of AMX."""
    require_channels_last_operators()
    onednn.choose_tiles_backend("emulated") or onednn.choose_tiles_backend("emulated plain")
    yield
    onednn.choose_tiles_backend("none")


@pytest.fixture
def colour_project(tmp_path):
    """A folder with 24 images of three colours, lists, and a configuration that learns them in seconds."""
    rng = np.random.default_rng(0)
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    lines = []
    for index in range(24):
        label = index % 3
        pixels = np.clip(np.array(COLOURS[label]) + rng.integers(-30, 30, (20, 24, 3)), 0, 255).astype("uint8")
        Image.fromarray(pixels).save(images / f"{index}.png")
        lines.append(f"images/{index}.png {label}")
    (tmp_path / "data" / "train.txt").write_text("\n".join(lines[:18]) + "\n")
    (tmp_path / "data" / "val.txt").write_text("\n".join(lines[18:]) + "\n")
    (tmp_path / "data" / "names.txt").write_text("0 red\n1 green\n2 blue\n")
    write_config(tmp_path / "config.yaml", colour_config())
    return tmp_path
