"""The digits under every way of training, about seven minutes: pytest -m slow tests/training/test_digits.py"""

import re
import subprocess
import sys

import pytest
import yaml
from helpers import ROOT, require_channels_last_operators

from ppreplk.config import load_config
from ppreplk.ops import onednn
from ppreplk.training import train

DIGITS = ROOT / "configs" / "digits.yaml"
AUGMENTED = [
    {"DecodeImage": {"backend": "pil"}},
    {"RandomResizedCrop": {"size": 32, "scale": [0.7, 1.0], "interpolation": "bicubic"}},
    {"TimmAutoAugment": {"config_str": "rand-m3-mstd0.5-inc1"}},
    {"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5] * 3, "std": [0.5] * 3, "order": ""}},
    {"RandomErasing": {"EPSILON": 0.25, "sl": 0.02, "sh": 0.2, "mode": "pixel", "use_log_aspect": True}},
]
MIXED = [{"MixupCutmixHybrid": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.0, "num_classes": 10}}]
WAYS = {
    "accumulation": (["DataLoader.Train.sampler.batch_size=16", "Global.update_freq=2"], 0.9),
    "bfloat16": (["AMP={use_amp: True, dtype: bfloat16}"], 0.9),
    "ema": (["EMA.decay=0.98"], 0.9),
    "recomputation": (["Arch.use_checkpoint=True"], 0.9),
    "all augmentation": (
        [
            "Global.epochs=16",  # learns more slowly
            f"DataLoader.Train.dataset.transform_ops={yaml.safe_dump(AUGMENTED, default_flow_style=True)}",
            f"DataLoader.Train.dataset.batch_transform_ops={yaml.safe_dump(MIXED, default_flow_style=True)}",
        ],
        0.8,
    ),
    "two processes": (["DataLoader.Train.sampler.batch_size=16"], 0.9),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_digits_are_learned(tmp_path, way):
    overrides, minimum = WAYS[way]
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo", "--log_dir", "logs"]
    command = [sys.executable, *(launcher if way == "two processes" else []), str(ROOT / "tools" / "train.py")]
    options = [part for text in ["Global.epochs=10", *overrides] for part in ("-o", text)]
    process = subprocess.run(
        [*command, "-c", str(DIGITS), *options], cwd=tmp_path, capture_output=True, text=True, timeout=900
    )
    assert process.returncode == 0, process.stderr
    log = (tmp_path / "output" / "digits" / "train.log").read_text()
    assert float(re.findall(r"best metric: ([\d.]+)", log)[-1]) >= minimum


@pytest.mark.slow
def test_products_of_two_parts_learn_as_well_as_float32(tmp_path, monkeypatch):
    """On emulated tile registers, four minutes: pytest -m slow tests/training/test_digits.py -k two_parts -s"""
    require_channels_last_operators()
    monkeypatch.chdir(tmp_path)
    best = {}
    for products in ("fp32", "fp32-bf16x3"):
        overrides = ("Global.epochs=10", f"Global.train_products={products}", f"Global.output_dir={products}")
        if products != "fp32" and not onednn.choose_tiles_backend("emulated"):
            pytest.skip("no AVX-512 BF16")
        try:
            best[products] = train(load_config(DIGITS, overrides)).best_metric
        finally:
            onednn.choose_tiles_backend("none")
    print(best)
    assert best["fp32-bf16x3"] >= max(0.9, best["fp32"] - 0.03)
