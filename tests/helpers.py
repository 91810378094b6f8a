"""What tests share: golden cases, randomised statistics, a tiny data set, the tools as processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml

import ppreplk
from ppreplk.ops.build import find_compiler
from ppreplk.utils.errors import UserError
from ppreplk.weights import load_checkpoint, load_weights

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
GOLDEN_CASES = ("tiny_reparam5", "tiny_kernel_exceeds_map", "tiny_xl_backbone")


def require_depthwise_operators() -> None:
    """Build and load the C++ convolution. Skip the test where there is no compiler."""
    try:
        ppreplk.load_ops()
    except UserError as error:
        if find_compiler() is None:
            pytest.skip(str(error))
        raise


def require_channels_last_operators() -> None:
    """The same for the channels-last operators. Skip where oneDNN's headers are out of reach, too."""
    require_depthwise_operators()
    try:
        ppreplk.load_ops("channels_last")
    except UserError as error:
        if error.code == "ops.no-onednn-headers":
            pytest.skip(str(error))
        raise


def relative_difference(received, expected) -> float:
    """Largest absolute difference over the largest absolute expected value."""
    received, expected = np.asarray(received, np.float64), np.asarray(expected, np.float64)
    assert received.shape == expected.shape
    assert np.isfinite(received).all()
    return float(np.abs(received - expected).max() / np.abs(expected).max())


def randomise_batch_norms(model, seed: int = 0) -> None:
    """Give every BN random gamma, beta, mean and variance: a fresh one hides a wrong bias."""
    rng = np.random.default_rng(seed)
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.BatchNorm2D):
            size = layer.weight.shape
            layer.weight.set_value(rng.uniform(0.5, 1.5, size).astype("float32"))
            layer._variance.set_value(rng.uniform(0.5, 1.5, size).astype("float32"))
            layer.bias.set_value(rng.normal(0, 0.3, size).astype("float32"))
            layer._mean.set_value(rng.normal(0, 0.3, size).astype("float32"))


def random_images(*shape: int, seed: int = 0) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype("float32"))


class GoldenCase:
    """One case of tests/golden: constructor arguments, arrays, and the network with its weights."""

    def __init__(self, name: str):
        self.arguments = json.loads((GOLDEN / f"{name}.json").read_text())["config"]
        class_num = self.arguments.pop("num_classes")
        if class_num is not None:
            self.arguments["class_num"] = class_num
        self.arrays = dict(np.load(GOLDEN / f"{name}.npz"))
        self.state = load_checkpoint(GOLDEN / f"{name}.pth")
        self.input = paddle.to_tensor(self.arrays["input"])

    def network(self, **changes):
        model = ppreplk.models.RepLKNet(**{**self.arguments, **changes})
        load_weights(model, self.state, "golden")
        model.eval()
        return model


def small_network(**changes):
    """A network of all the parts, small enough for every test."""
    arguments = {
        "large_kernel_sizes": (9, 7, 5),
        "layers": (1, 2, 1),
        "channels": (4, 6, 8),
        "small_kernel": 3,
        "class_num": 5,
    }
    paddle.seed(0)
    return ppreplk.models.RepLKNet(**{**arguments, **changes})


def run_tool(name: str, *arguments: str, cwd: Path, env: dict | None = None) -> subprocess.CompletedProcess:
    """Run tools/NAME.py as a user would."""
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)


def run_python(code: str, *arguments: str | Path) -> str:
    """Run ``code`` in a process of its own, with these modules beside it; what it prints."""
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    return process.stdout


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes, mapped files included (Linux)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024


COLOURS = {0: (220, 30, 30), 1: (30, 220, 30), 2: (30, 30, 220)}


def write_config(path: Path, config: dict) -> None:
    path.write_text(yaml.safe_dump(config, sort_keys=False))


def colour_config() -> dict:
    decode = [{"DecodeImage": {"backend": "pil"}}, {"ResizeImage": {"size": 32, "backend": "pil"}}]
    normalize = [{"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5] * 3, "std": [0.5] * 3, "order": ""}}]

    def split(name: str, shuffle: bool) -> dict:
        return {
            "dataset": {
                "name": "ImageNetDataset",
                "image_root": "data",
                "cls_label_path": f"data/{name}.txt",
                "transform_ops": decode + normalize,
            },
            "sampler": {"batch_size": 6, "shuffle": shuffle, "drop_last": shuffle},
            "loader": {"num_workers": 0},
        }

    return {
        "Global": {
            "device": "cpu",
            "epochs": 3,
            "seed": 3,
            "output_dir": "output",
            "image_shape": [3, 32, 32],
            "save_inference_dir": "inference",
            "save_interval": 0,
        },
        "Arch": {
            "name": "RepLKNet13T",
            "class_num": 3,
            "layers": [1, 1],
            "channels": [8, 12],
            "large_kernel_sizes": [7, 5],
            "drop_path_rate": 0.1,
        },
        "Loss": {"Train": [{"CELoss": {"epsilon": 0.1}}], "Eval": [{"CELoss": {"weight": 1.0}}]},
        "Optimizer": {
            "name": "AdamW",
            "weight_decay": 0.05,
            "one_dim_param_no_weight_decay": True,
            "lr": {"name": "Cosine", "learning_rate": "5e-3", "warmup_epoch": 1},
        },
        "DataLoader": {"Train": split("train", True), "Eval": split("val", False)},
        "Infer": {
            "infer_imgs": "data/images",
            "transforms": decode + normalize + ["ToCHWImage"],
            "PostProcess": {"name": "Topk", "topk": 2, "class_id_map_file": "data/names.txt"},
        },
        "Metric": {"Train": [{"TopkAcc": {"topk": [1, 2]}}], "Eval": [{"TopkAcc": {"topk": [1, 2]}}]},
    }


@contextmanager
def refused(code: str, *parts: str) -> Iterator[None]:
    """Expect a :class:`UserError` of this code, whose message quotes ``parts``."""
    with pytest.raises(UserError) as caught:
        yield
    assert caught.value.code == code, (caught.value.code, str(caught.value))
    for part in parts:
        assert part in str(caught.value)


def assert_one_line_and_exit_2(process: subprocess.CompletedProcess, *parts: str, code: str | None = None) -> None:
    """A tool ended as it should on bad input; its line quotes ``parts`` and ends with the error's ``code``."""
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    lines = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and process.stderr.splitlines()[-1] == lines[0]
    for part in parts:
        assert part in lines[0]
    if code is not None:
        assert lines[0].endswith(f" [{code}]"), lines[0]
