"""The recipes of segmentation and detection against what the authors published. No suite is needed."""

import re
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from helpers import ROOT

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])  # 127.5 of 255
CARDS = 8


class Loader(yaml.SafeLoader):
    """Reads PaddleDetection's schedules, ``!Name {...}``, as {"name": Name, ...}."""


Loader.add_multi_constructor("!", lambda loader, name, node: {"name": name, **loader.construct_mapping(node)})


def read(folder: str, name: str) -> dict[str, Any]:
    return yaml.load((ROOT / "configs" / folder / f"{name}.yml").read_text(encoding="utf-8"), Loader)


def header(folder: str, name: str) -> str:
    lines = (ROOT / "configs" / folder / f"{name}.yml").read_text(encoding="utf-8").splitlines()
    return "\n".join(line[2:] for line in lines[: next(i for i, line in enumerate(lines) if line[:1] != "#")])


def commands(folder: str, name: str) -> list[str]:
    """The commands in the head of a recipe, one line each."""
    lines = header(folder, name).replace("\\\n", " ").splitlines()
    return [" ".join(line[line.index(match[0]) :].split()) for line in lines if (match := re.search(COMMAND, line))]


COMMAND = r"(python -m (paddle|ppreplk)|ppreplk )\S.*"


# ----------------------------------------------------------------------------------------------------------------------
# Segmentation: the official configurations, FACTS


@dataclass(frozen=True)
class Segmentation:
    network: str
    classes: int
    crop: int
    iterations: int
    batch: int  # of all cards, where it is published
    warmup: int
    drop_path: float
    results: tuple[str, ...]
    resize: tuple[int, int] = (2048, 512)
    align_corners: bool = False
    slide: bool = False
    statistics: tuple[list[float], list[float]] = IMAGENET
    norms: tuple[str, ...] = ("bn",)


SEGMENTATION = {
    "upernet_replknet31b_cityscapes_769": Segmentation(
        "RepLKNet31B", 19, 769, 20000, 32 * 2, 400, 0.5, ("83.1%", "83.5%"), (2049, 1025), True
    ),
    "upernet_replknet31b_1k_ade20k_512": Segmentation(
        "RepLKNet31B", 150, 512, 40000, 64 * 2, 400, 0.5, ("49.9%", "50.6%")
    ),
    "upernet_replknet31b_22k_ade20k_640": Segmentation(
        "RepLKNet31B", 150, 640, 40000, 64 * 2, 400, 0.3, ("51.5%", "52.3%"), slide=True
    ),
    "upernet_replknet31l_22k_ade20k_640": Segmentation(
        "RepLKNet31L", 150, 640, 80000, 64 * 1, 800, 0.3, ("52.4%", "52.7%"), slide=True
    ),
    "upernet_replknetxl_ade20k_640": Segmentation(
        "RepLKNetXL", 150, 640, 160000, 16 * 2, 1500, 0.5, ("55.2%", "56.0%"), slide=True, statistics=HALF,
        norms=("bn", "norm"),
    ),
    **{
        f"upernet_replknet{k}b_120e_ade20k_512": Segmentation(
            f"RepLKNet{k}B", 150, 512, 80000, 32, 1500, 0.5, (f"{miou}%",)
        )
        for k, miou in [(3, 46.05), (7, 48.05), (13, 48.35), (25, 48.68), (31, 49.17)]
    },
}  # fmt: skip


def transform(dataset: dict, kind: str) -> dict:
    return next(each for each in dataset["transforms"] if each["type"] == kind)


def test_every_published_segmentation_has_its_recipe():
    files = {path.stem for path in (ROOT / "configs" / "segmentation").glob("*.yml")}
    assert {name for name in files if name.startswith("upernet_")} == set(SEGMENTATION)


@pytest.mark.parametrize("name", SEGMENTATION)
def test_schedule_of_segmentation(name):
    published, recipe = SEGMENTATION[name], read("segmentation", name)
    assert recipe["batch_size"] * CARDS == published.batch
    assert recipe["iters"] == published.iterations
    schedule = recipe["lr_scheduler"]
    assert (schedule["type"], schedule["power"], schedule["end_lr"]) == ("PolynomialDecay", 1.0, 0.0)
    assert schedule["learning_rate"] == 2e-4
    assert schedule["warmup_iters"] == published.warmup
    assert schedule["warmup_start_lr"] == pytest.approx(1e-6 * 2e-4)


@pytest.mark.parametrize("name", SEGMENTATION)
def test_optimizer_and_losses_of_segmentation(name):
    recipe = read("segmentation", name)
    optimizer = recipe["optimizer"]
    assert (optimizer["type"], optimizer["beta1"], optimizer["beta2"]) == ("AdamW", 0.9, 0.999)
    assert optimizer["weight_decay"] == 0.05
    assert [(group["name"], group["weight_decay_mult"]) for group in optimizer["custom_cfg"]] == [
        (norm, 0.0) for norm in SEGMENTATION[name].norms
    ]
    assert recipe["loss"]["coef"] == [1, 0.4]
    assert [loss["type"] for loss in recipe["loss"]["types"]] == ["CrossEntropyLoss"]
    assert recipe["loss"]["types"][0]["avg_non_ignore"] is False


@pytest.mark.parametrize("name", SEGMENTATION)
def test_network_of_segmentation(name):
    published, model = SEGMENTATION[name], read("segmentation", name)["model"]
    backbone = model.pop("backbone")
    assert backbone.pop("norm_intermediate_features", False) is ("norm" in published.norms)
    assert backbone == {
        "type": published.network,
        "pretrained": None,
        "drop_path_rate": published.drop_path,
        "use_checkpoint": True,
    }
    assert model == {
        "type": "UPerNetRepLKNet",
        "num_classes": published.classes,
        "backbone_indices": [0, 1, 2, 3],
        "channels": 512,
        "pool_scales": [1, 2, 3, 6],
        "dropout_ratio": 0.1,
        "aux_channels": 256,
        "align_corners": published.align_corners,
        "pretrained": None,
    }


@pytest.mark.parametrize("name", SEGMENTATION)
def test_images_of_segmentation(name):
    published, recipe = SEGMENTATION[name], read("segmentation", name)
    train, val = recipe["train_dataset"], recipe["val_dataset"]
    for dataset in (train, val):
        resize, normalize = transform(dataset, "Resize"), transform(dataset, "Normalize")
        assert (tuple(resize["target_size"]), resize["keep_ratio"]) == (published.resize, True)
        assert (normalize["mean"], normalize["std"]) == published.statistics
    scale = transform(train, "ResizeStepScaling")
    assert (scale["min_scale_factor"], scale["max_scale_factor"], scale["scale_step_size"]) == (0.5, 2.0, 0)
    crop = transform(train, "RandomPaddingCrop")
    assert (crop["crop_size"], crop["category_max_ratio"]) == ([published.crop] * 2, 0.75)
    assert transform(train, "RandomHorizontalFlip")["prob"] == 0.5
    kinds = [each["type"] for each in train["transforms"]]
    assert crop["im_padding_value"] == 0 and kinds.index("RandomPaddingCrop") > kinds.index("Normalize")
    slide = {"is_slide": True, "crop_size": [published.crop] * 2, "stride": [426, 426]} if published.slide else None
    assert recipe.get("test_config") == slide


@pytest.mark.parametrize("name", SEGMENTATION)
def test_one_card_sees_as_many_images(name):
    published = SEGMENTATION[name]
    command = next(each for each in commands("segmentation", name) if "--iters" in each)
    batch, iterations = (int(re.search(rf"--{key} (\d+)", command)[1]) for key in ("batch_size", "iters"))
    warmup = int(re.search(r"warmup_iters=(\d+)", command)[1])
    assert batch * iterations == published.batch * published.iterations
    assert batch * warmup == published.batch * published.warmup


# ----------------------------------------------------------------------------------------------------------------------
# Detection


@dataclass(frozen=True)
class Detection:
    network: str
    drop_path: float
    results: tuple[str, ...]
    lr: float = 4e-4
    epochs: int = 36
    steps: tuple[int, int] = (27, 33)
    batch: int = 64  # ours: the authors publish images per card
    statistics: tuple[list[float], list[float]] = IMAGENET


CASCADES = {
    "cascade_mask_rcnn_replknet31b_1k_coco_3x": Detection("RepLKNet31B", 0.6, ("52.2", "45.2")),
    "cascade_mask_rcnn_replknet31b_22k_coco_3x": Detection("RepLKNet31B", 0.4, ("53.0", "46.0")),
    "cascade_mask_rcnn_replknet31l_22k_coco_3x": Detection("RepLKNet31L", 0.7, ("53.9", "46.5")),
    "cascade_mask_rcnn_replknetxl_coco_3x": Detection("RepLKNetXL", 0.5, ("55.5", "48.0"), statistics=HALF),
}
FCOS = "fcos_replknet31b_coco_2x"
DETECTION = {**CASCADES, FCOS: Detection("RepLKNet31B", 0.5, ("47.0",), 2e-4, 24, (16, 22), 16)}


def operations(reader: dict, key: str = "sample_transforms") -> dict[str, dict]:
    return {name: arguments for each in reader[key] for name, arguments in each.items()}


def test_every_published_detection_has_its_recipe():
    files = {path.stem for path in (ROOT / "configs" / "detection").glob("*.yml")}
    assert {name for name in files if re.match("cascade|fcos", name)} == set(DETECTION)


@pytest.mark.parametrize("name", DETECTION)
def test_schedule_of_detection(name):
    published, recipe = DETECTION[name], read("detection", name)
    assert recipe["epoch"] == published.epochs
    assert recipe["TrainReader"]["batch_size"] * CARDS == published.batch
    assert recipe["LearningRate"]["base_lr"] == published.lr
    decay, warmup = recipe["LearningRate"]["schedulers"]
    assert decay == {"name": "PiecewiseDecay", "gamma": 0.1, "milestones": list(published.steps)}
    if name == FCOS:
        assert warmup == {"name": "ConstantWarmup", "factor": pytest.approx(1 / 3), "steps": 500}
    else:
        assert warmup == {"name": "LinearWarmup", "start_factor": 0.001, "steps": 500}
    assert recipe["norm_type"] == "sync_bn"
    assert recipe["save_dir"] == f"output/{name}"  # where the head of the file looks for weights


@pytest.mark.parametrize("name", DETECTION)
def test_optimizer_of_detection(name):
    builder = read("detection", name)["OptimizerBuilder"]
    assert builder.get("clip_grad_by_norm") == (35.0 if name == FCOS else None)
    assert builder["regularizer"] is False
    assert builder["optimizer"] == {
        "type": "AdamW",
        "beta1": 0.9,
        "beta2": 0.999,
        "weight_decay": 0.05,
        "param_groups": [{"params": ["bn", "norm"], "weight_decay": 0.0}],
    }


@pytest.mark.parametrize("name", DETECTION)
def test_backbone_and_statistics_of_detection(name):
    published, recipe = DETECTION[name], read("detection", name)
    backbone = recipe[published.network]
    assert recipe[recipe["architecture"]]["backbone"] == published.network
    assert (backbone["drop_path_rate"], backbone["use_checkpoint"]) == (published.drop_path, True)
    assert backbone["out_indices"] == ([1, 2, 3] if name == FCOS else [0, 1, 2, 3])
    assert backbone.get("norm_intermediate_features", False) is (published.network == "RepLKNetXL")
    for reader in ("TrainReader", "EvalReader", "TestReader"):
        normalize = operations(recipe[reader])["NormalizeImage"]
        assert (normalize["mean"], normalize["std"]) == published.statistics and normalize["is_scale"]
        assert operations(recipe[reader], "batch_transforms")["PadBatch"] == {"pad_to_stride": 32}
    for reader in ("EvalReader", "TestReader"):
        resize = operations(recipe[reader])["Resize"]
        assert (resize["target_size"], resize["keep_ratio"]) == ([800, 1333], True)


@pytest.mark.parametrize("name", CASCADES)
def test_images_of_cascades_are_scaled_and_cropped_as_detr_does(name):
    select = operations(read("detection", name)["TrainReader"])["RandomSelect"]
    sizes = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
    resize = {"RandomShortSideResize": {"short_side_sizes": sizes, "max_size": 1333}}
    assert select["transforms1"] == [resize]
    first, crop, last = select["transforms2"]
    assert first["RandomShortSideResize"]["short_side_sizes"] == [400, 500, 600]
    assert crop == {"RandomSizeCrop": {"min_size": 384, "max_size": 600}}
    assert last == resize


@pytest.mark.parametrize("name", CASCADES)
def test_heads_and_losses_of_cascades(name):
    recipe = read("detection", name)
    head, masks = recipe["CascadeBoxHead"], recipe["CascadeMaskHead"]
    assert recipe["CascadeRCNN"]["bbox_head"] == "CascadeBoxHead"
    assert recipe["CascadeRCNN"]["mask_head"] == "CascadeMaskHead"
    assert head["head"] == "CascadeXConvNormHead" and recipe["CascadeXConvNormHead"]["num_convs"] == 4
    deviations = [(0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)]
    assert [tuple(1 / each for each in weights) for weights in head["bbox_weight"]] == [
        pytest.approx(stage) for stage in deviations
    ]
    assert recipe["BBoxPostProcess"]["decode"]["prior_box_var"] == head["bbox_weight"][-1]
    assert head["stage_loss_weights"] == masks["stage_loss_weights"] == [1, 0.5, 0.25]
    assert head["bbox_loss"] == "GIoULoss" and recipe["GIoULoss"]["loss_weight"] == 10
    assert recipe["BBoxAssigner"]["cascade_iou"] == [0.5, 0.6, 0.7]
    assert head["roi_extractor"]["aligned"] is masks["roi_extractor"]["aligned"] is True
    rpn = recipe["RPNHead"]
    assert rpn["loss_rpn_bbox"] == "SmoothL1Loss" and recipe["SmoothL1Loss"]["beta"] == pytest.approx(1 / 9)
    proposals = [
        rpn[key][top] for key in ("train_proposal", "test_proposal") for top in ("pre_nms_top_n", "post_nms_top_n")
    ]
    assert proposals == [2000, 2000, 1000, 1000]
    nms = recipe["BBoxPostProcess"]["nms"]
    assert (nms["keep_top_k"], nms["score_threshold"], nms["nms_threshold"]) == (100, 0.05, 0.5)


def test_head_and_losses_of_fcos():
    recipe = read("detection", FCOS)
    assert recipe["architecture"] == "ClippedFCOS" and recipe["ClippedFCOS"]["fcos_head"] == "ClippedFCOSHead"
    head = recipe["ClippedFCOSHead"]
    loss = head["fcos_loss"]
    assert loss == {"name": "FCOSIoULoss", "loss_alpha": 0.25, "loss_gamma": 2.0, "reg_weights": 1.0}
    assert head["norm_reg_targets"] is head["centerness_on_reg"] is False
    targets = operations(recipe["TrainReader"], "batch_transforms")["Gt2FCOSTarget"]
    assert targets["norm_reg_targets"] is False and targets["center_sampling_radius"] == 0
    assert targets["object_sizes_boundary"] == [64, 128, 256, 512]
    assert operations(recipe["TrainReader"])["RandomResize"]["target_size"] == [[640, 1333], [800, 1333]]
    nms = head["nms"]
    assert (nms["nms_top_k"], nms["keep_top_k"], nms["score_threshold"], nms["nms_threshold"]) == (1000, 100, 0.0, 0.5)
    neck = recipe["FPN"]
    assert (
        neck["has_extra_convs"] and neck["extra_stage"] == 2 and not neck["use_c5"] and neck["relu_before_extra_convs"]
    )


# ----------------------------------------------------------------------------------------------------------------------
# Heads

ALL = [*(("segmentation", name) for name in SEGMENTATION), *(("detection", name) for name in DETECTION)]


@pytest.mark.parametrize(("folder", "name"), ALL)
def test_the_head_has_commands_batch_hardware_and_accuracy(folder, name):
    text, found = header(folder, name), commands(folder, name)
    published = {**SEGMENTATION, **DETECTION}[name]
    plugin = "ppreplk.plugins.paddleseg" if folder == "segmentation" else "ppreplk.plugins.paddledetection"
    several = "python -m paddle.distributed.launch --gpus 0,1,2,3,4,5,6,7 python -m ppreplk"  # which takes a command
    assert sum(command.startswith(several) for command in found) == 1
    assert len(found) >= 3
    for command in found:
        assert plugin in command or command.startswith("ppreplk convert ")
        assert "convert" in command or f"configs/{folder}/{name}.yml" in command
    accuracy = re.search(r"Accuracy: .*\(published\)", text)[0]
    assert all(result in accuracy for result in published.results)
    assert f"{published.batch} = {CARDS} cards x" in text
    assert "estimated" in re.search(r"Time: .*", text)[0] and "estimated" in re.search(r"Hardware: .*", text)[0]


@pytest.mark.parametrize(("folder", "name"), ALL)
def test_recipes_stand_alone(folder, name):
    assert not {"_base_", "_BASE_"} & set(read(folder, name))
