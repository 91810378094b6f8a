"""PaddleDetection as a suite: how it is found, and its tools."""

from __future__ import annotations

from ..suites import Suite

SUITE = Suite(
    name="PaddleDetection",
    package="ppdet",
    variable="PADDLEDETECTION",
    wheel="paddledet",
    tools={
        "train": "tools/train.py",
        "eval": "tools/eval.py",
        "infer": "tools/infer.py",
        "export": "tools/export_model.py",
    },
)
