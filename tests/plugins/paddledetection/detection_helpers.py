"""A tiny data set in COCO's format, and configurations of PaddleDetection's that learn it by heart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import ROOT
from PIL import Image, ImageDraw

SIDE = 128
CLASSES = ("box", "disc", "wedge")
COLOURS = ((220, 60, 50), (60, 200, 80), (70, 90, 230))


def suite_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ppreplk.plugins.paddledetection", *arguments]


def run_suite(*arguments: str, cwd: Path, timeout: float = 1800, **env: str) -> subprocess.CompletedProcess:
    """The launcher as a process, with this working copy of ppreplk."""
    return subprocess.run(
        suite_command(*arguments),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", **env},
    )


def open_suite() -> None:
    """Import PaddleDetection from PADDLEDETECTION or as a wheel and register ours; skip the test without it."""
    from ppreplk.plugins.paddledetection import register
    from ppreplk.plugins.paddledetection.det_suite import SUITE
    from ppreplk.utils.errors import UserError

    try:
        SUITE.open()
    except UserError as error:
        if error.code != "plugins.no-suite":  # one that is here and broken is no reason to skip
            raise
        pytest.skip(f"PaddleDetection is not here: {error}", allow_module_level=True)
    register()


def write_coco(folder: Path, images: int = 8, seed: int = 0) -> None:
    """``images/`` and ``annotations.json``: coloured rectangles, discs and triangles on noise, with their outlines."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    listed: list[dict] = []
    annotations: list[dict] = []
    for index in range(images):
        picture = Image.fromarray(rng.integers(100, 156, (SIDE, SIDE, 3)).astype("uint8"))
        draw = ImageDraw.Draw(picture)
        for corner in ((4, 4), (66, 66)) if index % 2 else ((66, 4), (4, 66)):
            category = int(rng.integers(len(CLASSES)))
            width, height = (int(value) for value in rng.integers(34, 56, 2))
            left, top = corner[0] + int(rng.integers(0, 58 - width)), corner[1] + int(rng.integers(0, 58 - height))
            outline = _outline(category, left, top, width, height)
            draw.polygon([(x, y) for x, y in outline], fill=COLOURS[category])
            x, y = outline[:, 0], outline[:, 1]
            box = [float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": category + 1,
                    "bbox": box,
                    "area": float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2),
                    "iscrowd": 0,
                    "segmentation": [outline.reshape(-1).tolist()],
                }
            )
        picture.save(folder / "images" / f"{index}.png")
        listed.append({"id": index + 1, "file_name": f"{index}.png", "width": SIDE, "height": SIDE})
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)]
    content = {"images": listed, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))


def _outline(category: int, left: int, top: int, width: int, height: int) -> np.ndarray:
    """(N, 2) corners."""
    if category == 0:
        unit = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float)
    elif category == 1:
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        unit = 0.5 + 0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    else:
        unit = np.array([(0.5, 0), (1, 1), (0, 1)], float)
    return unit * [width, height] + [left, top]


def base_config(folder: Path, epochs: int, base_lr: float, milestones: list[int], masks: bool, stride: int) -> dict:
    """What both detectors share."""
    normalize = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "is_scale": True}
    read: list[dict] = [{"Decode": {}}, {"Resize": {"target_size": [SIDE, SIDE], "keep_ratio": True, "interp": 1}}]
    read += [{"NormalizeImage": normalize}]
    whole = {
        "sample_transforms": [*read, {"Permute": {}}],
        "batch_transforms": [{"PadBatch": {"pad_to_stride": stride}}],
        "batch_size": 1,
    }
    fields = ["image", "gt_bbox", "gt_class", "is_crowd", *(["gt_poly"] if masks else [])]
    dataset = {"name": "COCODataSet", "image_dir": "images", "anno_path": "annotations.json"}
    dataset["dataset_dir"] = str(folder)
    return {
        "use_gpu": False,
        "use_xpu": False,
        "use_mlu": False,
        "use_npu": False,
        "log_iter": 20,
        "save_dir": "output",
        "snapshot_epoch": epochs,
        "print_flops": False,
        "print_params": False,
        "export": {"post_process": True, "nms": True, "benchmark": False, "fuse_conv_bn": False},
        "metric": "COCO",
        "num_classes": len(CLASSES),
        "worker_num": 0,
        "epoch": epochs,
        "TrainDataset": {**dataset, "data_fields": fields},
        "EvalDataset": {**dataset},
        "TestDataset": {"name": "ImageFolder", "anno_path": "annotations.json", "dataset_dir": str(folder)},
        "TrainReader": {**whole, "batch_size": 2, "shuffle": True, "drop_last": True, "collate_batch": False},
        "EvalReader": whole,
        "TestReader": whole,
        "LearningRate": {
            "base_lr": base_lr,
            "schedulers": [
                {"name": "PiecewiseDecay", "gamma": 0.1, "milestones": milestones},
                {"name": "LinearWarmup", "start_factor": 0.1, "steps": 20},
            ],
        },
        "OptimizerBuilder": {
            "clip_grad_by_norm": 35.0,
            "regularizer": False,
            "optimizer": {
                "type": "AdamW",
                "weight_decay": 0.0001,
                "param_groups": [{"params": ["bn", "norm"], "weight_decay": 0.0}],
            },
        },
        "RepLKNet13T": {"drop_path_rate": 0.0},
    }


def cascade_config(folder: Path, epochs: int = 60, width: int = 64) -> dict:
    """Cascade Mask R-CNN with three mask heads, its heads shrunk to ``width`` channels."""
    proposals = {"min_size": 0.0, "nms_thresh": 0.7, "pre_nms_top_n": 200, "post_nms_top_n": 100}
    return {
        **base_config(folder, epochs, 0.001, [epochs * 3 // 4, epochs * 9 // 10], masks=True, stride=32),
        "architecture": "CascadeRCNN",
        "CascadeRCNN": {
            "backbone": "RepLKNet13T",
            "neck": "FPN",
            "rpn_head": "RPNHead",
            "bbox_head": "CascadeBoxHead",
            "mask_head": "CascadeMaskHead",
            "bbox_post_process": "BBoxPostProcess",
            "mask_post_process": "MaskPostProcess",
        },
        "FPN": {"out_channel": width},
        "RPNHead": {
            "anchor_generator": {
                "aspect_ratios": [0.5, 1.0, 2.0],
                "anchor_sizes": [[16], [32], [64], [128], [256]],
                "strides": [4, 8, 16, 32, 64],
            },
            "rpn_target_assign": {
                "batch_size_per_im": 64,
                "fg_fraction": 0.5,
                "negative_overlap": 0.3,
                "positive_overlap": 0.7,
                "use_random": True,
            },
            "train_proposal": {**proposals, "topk_after_collect": True},
            "test_proposal": {**proposals, "topk_after_collect": True},
        },
        "CascadeBoxHead": {
            "head": "CascadeXConvNormHead",
            "roi_extractor": {"resolution": 7, "sampling_ratio": 0, "aligned": True},
            "bbox_assigner": "BBoxAssigner",
        },
        "BBoxAssigner": {
            "batch_size_per_im": 64,
            "bg_thresh": 0.5,
            "fg_thresh": 0.5,
            "fg_fraction": 0.25,
            "cascade_iou": [0.5, 0.6, 0.7],
            "use_random": True,
        },
        "CascadeXConvNormHead": {"num_convs": 1, "conv_dim": width, "out_channel": 128, "norm_type": "bn"},
        "BBoxPostProcess": {
            "decode": {"name": "RCNNBox", "prior_box_var": [1 / 0.033, 1 / 0.033, 1 / 0.067, 1 / 0.067]},
            "nms": {"name": "MultiClassNMS", "keep_top_k": 100, "score_threshold": 0.05, "nms_threshold": 0.5},
        },
        "CascadeMaskHead": {
            "head": "MaskFeat",
            "roi_extractor": {"resolution": 14, "sampling_ratio": 0, "aligned": True},
            "mask_assigner": "MaskAssigner",
        },
        "MaskFeat": {"num_convs": 2, "out_channel": width},
        "MaskAssigner": {"mask_resolution": 28},
        "MaskPostProcess": {"binary_thresh": 0.5},
    }


def fcos_config(folder: Path, epochs: int = 60) -> dict:
    """FCOS with the published IoU loss and constant warm-up, predicting as MMDetection's."""
    strides = [8, 16, 32, 64, 128]
    config = base_config(folder, epochs, 0.001, [epochs * 3 // 4, epochs * 9 // 10], masks=False, stride=128)
    targets = {
        "object_sizes_boundary": [64, 128, 256, 512],
        "center_sampling_radius": 1.5,
        "downsample_ratios": strides,
        "norm_reg_targets": True,
    }
    config["TrainReader"]["sample_transforms"] = config["TrainReader"]["sample_transforms"][:-1]
    config["TrainReader"]["batch_transforms"] = [
        {"Permute": {}},
        {"PadBatch": {"pad_to_stride": 128}},
        {"Gt2FCOSTarget": targets},
    ]
    del config["TrainReader"]["collate_batch"]
    config["LearningRate"]["schedulers"][1] = {"name": "ConstantWarmup", "steps": 20, "factor": 0.3333}
    return {
        **config,
        "architecture": "ClippedFCOS",
        "ClippedFCOS": {"backbone": "RepLKNet13T", "neck": "FPN", "fcos_head": "ClippedFCOSHead"},
        "RepLKNet13T": {"drop_path_rate": 0.0, "out_indices": [1, 2, 3]},
        "FPN": {"out_channel": 256, "extra_stage": 2, "has_extra_convs": True, "use_c5": False},
        "ClippedFCOSHead": {
            "fcos_feat": {
                "name": "FCOSFeat",
                "feat_in": 256,
                "feat_out": 256,
                "num_convs": 1,
                "norm_type": "gn",
                "use_dcn": False,
            },
            "fpn_stride": strides,
            "prior_prob": 0.01,
            "norm_reg_targets": True,
            "centerness_on_reg": True,
            "num_shift": 0.5,
            "fcos_loss": {"name": "FCOSIoULoss"},
            "nms": {
                "name": "MultiClassNMS",
                "nms_top_k": 1000,
                "keep_top_k": 100,
                "score_threshold": 0.0,  # class scores are compared
                "nms_threshold": 0.6,
            },
        },
    }


def write_yaml(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path
