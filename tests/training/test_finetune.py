"""From a published file to another task, on real images: convert, fine-tune with a new head and layer decay."""

import argparse

from helpers import run_tool, write_config
from torch_files import as_torch, tensors, write_zip

from ppreplk.config import load_config
from ppreplk.data import prepare_digits
from ppreplk.training import train
from ppreplk.weights import load_checkpoint

SIDE = 16
SHOWN = 20  # images of each digit in the second task's training


def task(name: str, class_num: int, epochs: int, lr: float) -> dict:
    """A configuration for the lists ``NAME_train.txt`` and ``NAME_val.txt``."""
    decode = [{"DecodeImage": {"backend": "pil"}}, {"ResizeImage": {"size": SIDE, "backend": "pil"}}]
    normalize = [{"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5] * 3, "std": [0.5] * 3, "order": ""}}]

    def split(part: str, batch: int) -> dict:
        dataset = {"name": "ImageNetDataset", "image_root": "digits", "cls_label_path": f"digits/{name}_{part}.txt"}
        training = part == "train"
        return {
            "dataset": {**dataset, "transform_ops": decode + normalize},
            "sampler": {"batch_size": batch, "shuffle": training, "drop_last": training},
        }

    intervals = {"save_interval": 0, "eval_interval": epochs}
    return {
        "Global": {"device": "cpu", "epochs": epochs, "seed": 0, "output_dir": f"output/{name}", **intervals},
        "Arch": {
            "name": "RepLKNet13T",
            "class_num": class_num,
            "layers": [1, 1],
            "channels": [16, 32],
            "large_kernel_sizes": [9, 5],
        },
        "Loss": {"Train": [{"CELoss": {"epsilon": 0.1}}], "Eval": [{"CELoss": {}}]},
        "Optimizer": {
            "name": "AdamW",
            "weight_decay": 0.05,
            "one_dim_param_no_weight_decay": True,
            "lr": {"name": "Cosine", "learning_rate": lr, "warmup_epoch": 1},
        },
        "DataLoader": {"Train": split("train", 32), "Eval": split("val", 90)},
        "Metric": {"Eval": [{"TopkAcc": {"topk": [1]}}]},
    }


def write_tasks(root) -> None:
    """Task one: the digits 0 to 8. Task two: all ten, of which few are shown."""
    prepare_digits(root)
    for part, file in (("train", "train_list.txt"), ("val", "val_list.txt")):
        samples = [line.split() for line in (root / file).read_text().splitlines()]
        nine = [f"{path} {label}" for path, label in samples if label != "9"]
        few = [f"{p} {d}" for d in map(str, range(10)) for p in [p for p, own in samples if own == d][:SHOWN]]
        all_ten = few if part == "train" else [" ".join(sample) for sample in samples]
        (root / f"nine_{part}.txt").write_text("\n".join(nine) + "\n")
        (root / f"ten_{part}.txt").write_text("\n".join(all_ten) + "\n")


def best_accuracy(name: str, *overrides: str) -> float:
    return train(load_config(f"{name}.yaml", overrides)).best_metric


def test_from_a_pytorch_checkpoint_to_another_task(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    write_tasks(tmp_path / "digits")
    write_config(tmp_path / "nine.yaml", task("nine", 9, epochs=3, lr=4e-3))
    write_config(tmp_path / "ten.yaml", task("ten", 10, epochs=8, lr=4e-3))
    accuracy = best_accuracy("nine")
    assert accuracy > 0.9

    # what a PyTorch training would have left: its layout, its words, its arguments
    weights = load_checkpoint(tmp_path / "output/nine/best_model")
    content = {"model": tensors(as_torch(weights)), "epoch": 3, "args": argparse.Namespace(nb_classes=9)}
    write_zip(tmp_path / "published.pth", content)
    converted = run_tool("convert", "published.pth", "converted.pdparams", cwd=tmp_path)
    assert converted.returncode == 0 and "9 classes" in converted.stdout, converted.stderr
    evaluated = run_tool("eval", "-c", "nine.yaml", "-o", "Global.pretrained_model=converted", cwd=tmp_path)
    assert f"top1: {accuracy:.5f}" in evaluated.stderr

    tuned = best_accuracy("ten", "Global.pretrained_model=converted", "Arch.layer_decay=0.7")
    assert "converted has a head for 9 classes; a new one for 10 starts from scratch" in caplog.text
    scratch = best_accuracy("ten", "Global.output_dir=output/scratch")
    print(f"nine digits {accuracy:.3f}; ten digits from {SHOWN} of each: fine-tuned {tuned:.3f}, scratch {scratch:.3f}")
    assert tuned > 0.8 and tuned > scratch + 0.05
