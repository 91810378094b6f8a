"""The ImageNet recipe of every row of the study: a template, and what the two kinds of training put into it."""

from __future__ import annotations

from pathlib import Path
from string import Template

import yaml

from ..utils.atomic import make_folder, replacing
from .rows import MOBILENET, ROWS, Row

GPUS = 8


def recipe(row: Row) -> str:
    """The configuration file of ``row``, in PaddleClas's schema."""
    parts = MOBILENET_PARTS if row.model == MOBILENET else KERNEL_STUDY_PARTS
    arch = {"name": row.model, "class_num": 1000, **row.arguments}
    if row.model != MOBILENET:
        arch.update(use_sync_bn=True, drop_path_rate=0.3)
    values = {
        "label": row.label,
        "table": row.table,
        "path": row.recipe,
        "name": Path(row.recipe).name,
        "accuracy": f"{row.top1:.2f}% top-1 (published)",
        "same": _same(row),
        "blocks": BLOCKS if "large_kernel_blocks" in row.arguments else "",
        "schema": "../" * row.recipe.count("/") + "schema.json",
        "arch": "".join(f"  {key}: {_inline(value)}\n" for key, value in arch.items()).rstrip("\n"),
    }
    parts = {name: Template(text).substitute(values) for name, text in parts.items()}
    return Template(TEMPLATE).substitute(parts, **values)


def _same(row: Row) -> str:
    """A header line that names the other recipes for the same network, or nothing if there are none."""
    others = [f"configs/{other.recipe}.yaml" for other in ROWS if other.network == row.network and other != row]
    return f"\n# Same run: {', '.join(others)}" if others else ""


def _inline(value: object) -> str:
    value = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(value, default_flow_style=True).split("\n")[0]


def write_recipes(folder: str | Path) -> list[Path]:
    """Write the configuration of every row below ``folder``.

    Returns:
        The files.

    Raises:
        UserError: they cannot be written.
    """
    paths = []
    for row in ROWS:
        path = Path(folder) / f"{row.recipe}.yaml"
        make_folder(path.parent)
        with replacing(path) as [partial]:
            partial.write_text(recipe(row), encoding="utf-8")
        paths.append(path)
    return paths


LAUNCH = "python -m paddle.distributed.launch --gpus " + ",".join(map(str, range(GPUS))) + " tools/train.py"

BLOCKS = """.
#           Which blocks the paper counts to the last stage is unpublished: here the three of stride 1 at 7x7"""
MOBILENET_PARTS = {
    "header": f"""\
# MobileNetV2 on ImageNet-1K, 224x224, 100 epochs: the row "$label" (paper table $table).
#
# Command:  {LAUNCH} -c configs/$path.yaml
# Hardware: {GPUS} GPUs (32 images each)
# Batch:    256 = {GPUS} GPUs x 32 images; the learning rate is for this batch
# Accuracy: $accuracy
# Ours:     no label smoothing, bicubic resizing, a decay of every parameter, batch normalization over each
#           GPU's own images, and a rate that ends at 0; the paper does not say$blocks$same
#
# Written by: python tools/study.py recipes configs""",
    "epochs": "100",
    "update_freq": "1",
    "global_batch": "256",
    "loss": """\
    - CELoss:
        weight: 1.0""",
    "optimizer": """\
  name: Momentum
  momentum: 0.9
  regularizer:
    name: L2
    coeff: 4e-5
  lr:
    name: Cosine
    learning_rate: 0.1  # for a batch of 256; never rescaled
    warmup_epoch: 5
    warmup_start_lr: 0""",
    "augmentation": """\
        - NormalizeImage:
            scale: 1.0/255.0
            mean: [0.485, 0.456, 0.406]
            std: [0.229, 0.224, 0.225]
            order: ''""",
    "batch_size": "32",
}
KERNEL_STUDY_PARTS = {
    "header": f"""\
# The $label row of the kernel-size study on ImageNet-1K, 224x224, 120 epochs (paper table $table).
# Where the recipe needs timm's behaviour, the options that give it are spelled out below.
#
# Command:  {LAUNCH} -c configs/$path.yaml
# Hardware: {GPUS} GPUs of 32 GB or more (64 images each)
# Batch:    2048 = {GPUS} GPUs x 64 images x update_freq 4; the learning rate is for this batch
# Accuracy: $accuracy
# Ours:     no EMA, and a rate that ends at the official code's default, 1e-6: both are unpublished$same""",
    "epochs": "120",
    "update_freq": f"4  # for {GPUS} GPUs",
    "global_batch": "2048",
    "loss": """\
    - CELoss:
        weight: 1.0
        epsilon: 0.1  # smooths the mixed labels; MixupCutmixHybrid below therefore does not""",
    "optimizer": """\
  name: AdamW
  beta1: 0.9
  beta2: 0.999
  epsilon: 1e-8
  weight_decay: 0.05
  one_dim_param_no_weight_decay: True
  lr:
    name: Cosine
    learning_rate: 4e-3  # for a batch of 2048; never rescaled
    eta_min: 1e-6
    warmup_epoch: 10
    warmup_start_lr: 0""",
    "augmentation": """\
        - TimmAutoAugment:
            config_str: rand-m9-mstd0.5-inc1
            interpolation: bicubic
            img_size: 224
        - NormalizeImage:
            scale: 1.0/255.0
            mean: [0.485, 0.456, 0.406]
            std: [0.229, 0.224, 0.225]
            order: ''
        - RandomErasing:
            EPSILON: 0.25
            sl: 0.02
            sh: 1.0/3.0
            r1: 0.3
            attempt: 10
            use_log_aspect: True
            mode: pixel
      batch_transform_ops:
        - MixupCutmixHybrid:
            mixup_alpha: 0.8
            cutmix_alpha: 1.0
            prob: 1.0
            switch_prob: 0.5
            mode: batch
            label_smoothing: 0.0
            num_classes: 1000""",
    "batch_size": "64",
}
TEMPLATE = """\
$header
#
# yaml-language-server: $$schema=$schema

Global:
  checkpoints: null
  pretrained_model: null
  output_dir: ./output/$name
  device: gpu
  save_interval: 10
  eval_during_train: True
  eval_interval: 1
  epochs: $epochs
  print_batch_step: 50
  use_visualdl: False
  image_shape: [3, 224, 224]
  save_inference_dir: ./inference/$name
  to_static: False
  update_freq: $update_freq
  global_batch: $global_batch
  seed: 0

AMP:
  use_amp: False

Arch:
$arch

Loss:
  Train:
$loss
  Eval:
    - CELoss:
        weight: 1.0

Optimizer:
$optimizer

DataLoader:
  Train:
    dataset:
      name: ImageNetDataset
      image_root: ./dataset/ILSVRC2012/
      cls_label_path: ./dataset/ILSVRC2012/train_list.txt
      transform_ops:
        - DecodeImage:
            to_np: False  # stay with Pillow, as torchvision does
            to_rgb: True
            channel_first: False
            backend: pil
        - RandomResizedCrop:
            size: 224
            scale: [0.08, 1.0]
            interpolation: bicubic
        - RandFlipImage:
            flip_code: 1
$augmentation
    sampler:
      name: DistributedBatchSampler
      batch_size: $batch_size
      drop_last: True
      shuffle: True
    loader:
      num_workers: 10
      use_shared_memory: True

  Eval:
    dataset:
      name: ImageNetDataset
      image_root: ./dataset/ILSVRC2012/
      cls_label_path: ./dataset/ILSVRC2012/val_list.txt
      transform_ops:
        - DecodeImage:
            to_rgb: True
            channel_first: False
            backend: pil
        - ResizeImage:
            resize_short: 256
            interpolation: bicubic
            backend: pil
        - CropImage:
            size: 224
        - NormalizeImage:
            scale: 1.0/255.0
            mean: [0.485, 0.456, 0.406]
            std: [0.229, 0.224, 0.225]
            order: ''
    sampler:
      name: DistributedBatchSampler
      batch_size: $batch_size
      drop_last: False
      shuffle: False
    loader:
      num_workers: 10
      use_shared_memory: True

Infer:
  infer_imgs: null
  batch_size: 10
  transforms:
    - DecodeImage:
        to_rgb: True
        channel_first: False
        backend: pil
    - ResizeImage:
        resize_short: 256
        interpolation: bicubic
        backend: pil
    - CropImage:
        size: 224
    - NormalizeImage:
        scale: 1.0/255.0
        mean: [0.485, 0.456, 0.406]
        std: [0.229, 0.224, 0.225]
        order: ''
    - ToCHWImage:
  PostProcess:
    name: Topk
    topk: 5
    class_id_map_file: ppcls/utils/imagenet1k_label_list.txt

Metric:
  Eval:
    - TopkAcc:
        topk: [1, 5]
"""
