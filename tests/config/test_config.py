"""Configurations: types, names, overrides, messages."""

import copy
import re

import numpy as np
import paddle
import pytest
import yaml
from helpers import ROOT, colour_config, refused, write_config

from ppreplk.config import construct, load_config, parse_number, read_ops
from ppreplk.data import NORMALIZED, NORMALIZED_CHW, build_transforms
from ppreplk.models.arch import build_network
from ppreplk.training.losses import build_loss
from ppreplk.training.metrics import build_metric
from ppreplk.training.optimizers import build_optimizer
from ppreplk.training.schedules import build_schedule
from ppreplk.utils.errors import UserError


def load(tmp_path, *overrides, **sections):
    config = copy.deepcopy(colour_config())
    config.update(sections)
    write_config(tmp_path / "config.yaml", config)
    return load_config(tmp_path / "config.yaml", overrides)


RECIPES = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_builds_everything_it_names(path):
    config = load_config(path)
    for split in (config.DataLoader.Train, config.DataLoader.Eval):
        build_transforms(split.dataset.transform_ops, NORMALIZED)
    build_transforms(config.Infer.transforms, NORMALIZED_CHW)
    with paddle.LazyGuard():  # no values, which would take most of the time
        model = build_network(config.Arch)
    build_optimizer(config.Optimizer, build_schedule(config.Optimizer, config.Global.epochs, 10), model)
    build_loss(config.Loss.Train)
    build_loss(config.Loss.Eval)
    build_metric(config.Metric.Eval)


# FACTS of the paper and the official commands: batch, lr, epochs, warm-up, drop path, weight decay, mixing,
# layer decay, EMA, input size, minimum lr, classes
PUBLISHED_RECIPES = {
    "replknet31b": (2048, 4e-3, 300, 10, 0.5, 0.05, True, None, True, 224, 1e-6, 1000),
    "replknet31b_384": (1024, 4e-4, 30, 1, 0.8, 1e-8, False, 0.7, True, 384, 1e-6, 1000),
    "replknet31b_22k": (4096, 4e-3, 90, 5, 0.1, 0.05, True, None, False, 224, 1e-6, 21841),
    "replknet31l_22k": (4096, 4e-3, 90, 5, 0.1, 0.05, True, None, False, 224, 1e-6, 21841),
    "replknet31b_22kto1k": (512, 4e-4, 30, 1, 0.2, 1e-8, False, 0.7, True, 224, 1e-6, 1000),
    "replknet31b_22kto1k_384": (512, 4e-4, 30, 1, 0.3, 1e-8, False, 0.7, True, 384, 3e-4, 1000),
    "replknet31l_22kto1k_384": (512, 4e-4, 30, 1, 0.3, 1e-8, False, 0.7, True, 384, 3e-4, 1000),
    "replknetxl_320": (512, 1e-4, 30, 1, 0.3, 1e-8, False, 0.4, True, 320, 1e-6, 1000),
    **{
        f"replknet{kernel}b_120e": (2048, 4e-3, 120, 10, 0.3, 0.05, True, None, False, 224, 1e-6, 1000)
        for kernel in (3, 7, 13, 25, 31)
    },
}


@pytest.mark.parametrize("name", PUBLISHED_RECIPES)
def test_recipes_are_the_published_ones(name):
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    train, settings, lr = config.DataLoader.Train, config.Global, config.Optimizer.lr.arguments
    mixing = train.dataset.batch_transform_ops
    assert 8 * train.sampler.batch_size * settings.update_freq == settings.global_batch
    received = (
        *(settings.global_batch, float(lr["learning_rate"]), settings.epochs, lr["warmup_epoch"]),
        *(config.Arch.arguments["drop_path_rate"], float(config.Optimizer.arguments["weight_decay"])),
        *(mixing is not None, config.Arch.arguments.get("layer_decay"), config.EMA is not None),
        *(settings.image_shape[1], float(lr["eta_min"]), config.Arch.class_num),
    )
    assert received == PUBLISHED_RECIPES[name]
    assert config.EMA is None or config.EMA.decay == 0.9999
    ops = {op.name: op.arguments for op in train.dataset.transform_ops}
    assert ops["TimmAutoAugment"]["config_str"] == "rand-m9-mstd0.5-inc1"
    erasing = ops["RandomErasing"]
    assert (erasing["EPSILON"], erasing["sl"], erasing["sh"], erasing["r1"]) == (0.25, 0.02, "1.0/3.0", 0.3)
    if mixing:
        keys = ("mixup_alpha", "cutmix_alpha", "prob", "switch_prob", "label_smoothing")
        assert [mixing[0].arguments[key] for key in keys] == [0.8, 1.0, 1.0, 0.5, 0.0]
    assert config.Loss.Train[0].arguments["epsilon"] == 0.1
    size = settings.image_shape[1]
    evaluation = {op.name: op.arguments for op in config.DataLoader.Eval.dataset.transform_ops}
    if size >= 384:
        assert evaluation["ResizeImage"]["size"] == size and "CropImage" not in evaluation
    else:
        assert evaluation["ResizeImage"]["resize_short"] == int(size / 0.875)
        assert evaluation["CropImage"]["size"] == size
    half = [0.5, 0.5, 0.5]
    means = [op["NormalizeImage"]["mean"] for op in (ops, evaluation)]
    assert means == [half, half] if name == "replknetxl_320" else half not in means
    transforms = [(op.name, op.arguments) for op in config.DataLoader.Eval.dataset.transform_ops]
    assert [(op.name, op.arguments) for op in config.Infer.transforms] == [*transforms, ("ToCHWImage", {})]


MULTI_GPU = [path for path in RECIPES if "paddle.distributed.launch" in path.read_text()]


@pytest.mark.parametrize("path", MULTI_GPU, ids=lambda path: path.name)
def test_recipes_for_several_gpus_synchronize_batch_normalization(path):
    """The official ImageNet runs did; for the MobileNetV2 studies it is unpublished, and their heads say so."""
    config, header = load_config(path), path.read_text().split("\nGlobal:")[0]
    is_replknet = config.Arch.name.startswith("RepLKNet")
    assert config.Arch.use_sync_bn == is_replknet
    assert is_replknet or ("# Ours:" in header and "batch normalization over each" in header)


def test_a_recipe_for_one_gpu_or_a_cpu_has_nothing_to_synchronize():
    assert MULTI_GPU
    assert not any(load_config(path).Arch.use_sync_bn for path in set(RECIPES) - set(MULTI_GPU))


# Images on each GPU: those of the official commands
IMAGES_PER_GPU = {
    "replknet31b": 64,
    "replknet31b_384": 32,
    "replknet31b_22k": 32,
    "replknet31l_22k": 32,
    "replknet31b_22kto1k": 32,
    "replknet31b_22kto1k_384": 16,
    "replknet31l_22kto1k_384": 16,
    **{f"replknet{kernel}b_120e": 64 for kernel in (3, 7, 13, 25, 31)},
}
# GB of float32 activations that one image of 384x384 keeps for the backward pass; they grow with the pixels
GB_PER_IMAGE = {"RepLKNet31B": 31 / 32, "RepLKNet31L": 46 / 32, "RepLKNetXL": 22 / 16 * (384 / 320) ** 2}


@pytest.mark.parametrize("name", PUBLISHED_RECIPES)
def test_recipes_fit_the_gpus_they_name(name):
    """Activations, and float32 weights, gradients, two moments and the average."""
    path = ROOT / "configs" / f"{name}.yaml"
    config = load_config(path)
    images = config.DataLoader.Train.sampler.batch_size
    assert images == IMAGES_PER_GPU.get(name, images)
    memory = float(re.search(r"# Hardware: .*GPUs of (\d+) GB or more", path.read_text())[1])
    with paddle.LazyGuard():
        model = build_network(config.Arch)
    copies = 4 if config.EMA is None else 5
    parameters = copies * 4e-9 * sum(np.prod(parameter.shape) for parameter in model.parameters())
    activations = images * GB_PER_IMAGE.get(config.Arch.name, GB_PER_IMAGE["RepLKNet31B"])
    activations *= (config.Global.image_shape[1] / 384) ** 2
    assert config.Arch.arguments.get("use_checkpoint") or 1.1 * (activations + parameters) < memory


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "study").glob("*.yaml")), ids=lambda path: path.name)
def test_recipes_of_the_mobilenet_studies_are_the_published_ones(path):
    config = load_config(path)
    train, settings, lr = config.DataLoader.Train, config.Global, config.Optimizer.lr.arguments
    assert settings.epochs == 100 and settings.global_batch == 8 * train.sampler.batch_size == 256
    assert config.Optimizer.name == "Momentum" and config.Optimizer.arguments["momentum"] == 0.9
    assert float(config.Optimizer.arguments["regularizer"]["coeff"]) == 4e-5
    assert (lr["learning_rate"], lr["warmup_epoch"], config.Optimizer.lr.name) == (0.1, 5, "Cosine")
    augmentation = [op.name for op in train.dataset.transform_ops]
    assert augmentation == ["DecodeImage", "RandomResizedCrop", "RandFlipImage", "NormalizeImage"]
    assert train.dataset.batch_transform_ops is None and config.EMA is None


def test_every_recipe_says_command_hardware_batch_and_accuracy():
    for path in RECIPES:
        header = path.read_text().split("\nGlobal:")[0]
        for part in ("# Command:", path.relative_to(ROOT).as_posix(), "# Hardware:", "# Batch:", "# Accuracy:"):
            assert part in header, f"{path.name} lacks {part}"


@pytest.mark.parametrize(
    "text, value", [("4e-3", 0.004), ("1.0/255.0", 1 / 255), ("1.0/3.0", 1 / 3), ("-2", -2.0), (" 3/4 ", 0.75)]
)
def test_numbers_as_strings(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", "a", "1/0", "1/2/3", "__import__('os')"])
def test_other_strings_are_no_numbers(text):
    with pytest.raises(ValueError):
        parse_number(text)


def test_overrides(tmp_path):
    config = load(
        tmp_path,
        "Global.epochs=7",
        "Global.output_dir=a=b",
        "EMA.decay=9e-1",
        "DataLoader.Train.dataset.transform_ops.1.ResizeImage.size=[40, 48]",
        "Loss.Train.0.CELoss.epsilon=0.2",
    )
    assert config.Global.epochs == 7
    assert config.Global.output_dir == "a=b"
    assert config.EMA.decay == 0.9
    assert config.DataLoader.Train.dataset.transform_ops[1].arguments["size"] == [40, 48]
    assert config.Loss.Train[0].arguments["epsilon"] == 0.2


def test_an_impossible_date_stays_text(tmp_path):
    assert load(tmp_path, "Global.output_dir=2024-13-45").Global.output_dir == "2024-13-45"


@pytest.mark.parametrize("code", ["__import__('os').system('touch witness')", "!!python/object/apply:os.getcwd []"])
def test_overrides_are_never_evaluated(tmp_path, monkeypatch, code):
    monkeypatch.chdir(tmp_path)
    assert load(tmp_path, f"Global.output_dir={code}").Global.output_dir == code
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize(
    "override, code, message",
    [
        ("Global.epoch=3", "unknown-key", "Global.epoch: unknown key; did you mean epochs"),
        ("Globl.epochs=3", "unknown-key", "Globl: unknown key; did you mean Global"),
        ("Infer.PostProcess.top=3", "unknown-key", "Infer.PostProcess.top: unknown key; did you mean topk"),
        ("Global.epochs=three", "wrong-type", "Global.epochs: expected a whole number, got 'three'"),
        ("Global.epochs=1.5", "wrong-type", "Global.epochs: expected a whole number, got '1.5'"),
        ("Global.epochs=true", "wrong-type", "Global.epochs: expected a whole number, got 'true'"),
        ("Global.eval_during_train=1", "wrong-type", "Global.eval_during_train: expected true or false"),
        ("Global.image_shape=[3, 32, x]", "wrong-type", "Global.image_shape[2]: expected a whole number"),
        ("Global.export_tolerance=.nan", "wrong-type", "Global.export_tolerance: expected a number, got '.nan'"),
        ("Global.export_tolerance=1/0", "wrong-type", "Global.export_tolerance: expected a number, got '1/0'"),
        ("Global.export_agreement_int8=95", "bad-value", "export_agreement_int8: must lie between 0 and 1, got 95"),
        ("Global.export_calibration_images=0", "bad-value", "export_calibration_images: must be at least 1, got 0"),
        ("Arch=RepLKNet31B", "wrong-type", "Arch: expected a mapping"),
        ("DataLoader.Train.dataset.transform_ops=5", "wrong-type", "transform_ops: expected a list of operators"),
        ("DataLoader.Train.dataset.transform_ops.0=5", "wrong-type", "transform_ops[0]: expected one operator"),
        ("Infer.transforms=[{CropImage: 3}]", "wrong-type", "Infer.transforms[0].CropImage: expected a mapping"),
        ("Global.epochs=0", "bad-value", "Global.epochs: must be at least 1"),
        ("Global.num_threads=0", "bad-value", "Global.num_threads: must be at least 1"),
        ("Global.seed=-1", "bad-value", "Global.seed: must be at least 0, got -1"),
        ("Global.seed=1000000000000000000000", "bad-value", "Global.seed: the number is too large"),
        ("DataLoader.Train.loader.num_workers=5000", "bad-value", "num_workers: must be at most 1024, got 5000"),
        ("Loss.Train=[]", "bad-value", "Loss.Train: at least one criterion is needed"),
        ("Global.device=tpu", "bad-value", "Global.device: expected one of 'cpu', 'gpu'"),
        ("Global.image_shape=[3, 32]", "bad-value", "Global.image_shape: expected [channels, height, width]"),
        ("AMP.level=O3", "bad-value", "AMP.level: expected one of 'O1', 'O2'"),
        ("AMP.scale_loss=0", "bad-value", "AMP.scale_loss: must be positive"),
        ("EMA.decay=1", "bad-value", "EMA.decay: must lie between 0 and 1"),
        (
            "DataLoader.Train.sampler.batch_size=0",
            "bad-value",
            "Train.sampler.batch_size: must be at least 1",
        ),
        (
            "DataLoader.Train.loader.num_workers=-1",
            "bad-value",
            "Train.loader.num_workers: must be at least",
        ),
        ("Global.train_products=bf16", "bad-value", "train_products: expected one of 'fp32', 'fp32-bf16x3'"),
        ("Global={train_products: fp32-bf16x3, train_layout: nchw}", "bad-value", "Global.train_layout=nchw"),
        ("Global.use_dali=True", "not-served", "Global.use_dali: True is not served here"),
        ("no_equals_sign", "bad-override", "-o 'no_equals_sign': expected Key.sub=value"),
        ("Global.epochs.more=1", "bad-override", "Global.epochs is 3 and has no part called 'more'"),
        ("Loss.Train.5.CELoss.epsilon=1", "bad-override", "Loss.Train is a list of 1 entries"),
    ],
)
def test_bad_values_are_refused_in_one_line(tmp_path, override, code, message):
    with refused(f"config.{code}", message):
        load(tmp_path, override)


@pytest.mark.parametrize("override", ["Global.use_dali=False", "Global.to_static=null", "Global.export_for_fd=True"])
def test_keys_that_are_not_served_may_ask_for_nothing(tmp_path, override):
    load(tmp_path, override)


@pytest.mark.parametrize(
    "key, old, new", [("export_runtime", "fast", "channels_last"), ("export_depthwise", "compiled", "cpu")]
)
def test_values_of_earlier_versions_are_read_and_the_log_says_the_new_name(tmp_path, caplog, key, old, new):
    assert getattr(load(tmp_path, f"Global.{key}={new}").Global, key) == new
    assert not caplog.messages
    assert getattr(load(tmp_path, f"Global.{key}={old}").Global, key) == new
    assert caplog.messages == [f"Global.{key}: {old!r} is now called {new!r}"]


UNKNOWN_KEY, UNKNOWN_NAME, WRONG_TYPE = "config.unknown-key", "config.unknown-name", "config.wrong-type"


@pytest.mark.parametrize(
    "override, build, code, message",
    [
        ("Arch.name=Nonsense", "network", "models.unknown-model", "unknown model 'Nonsense'; known: MobileNetV2LK, "),
        (
            "Arch.name=RepLKNet31",
            "network",
            "models.unknown-model",
            "Arch.name: unknown model 'RepLKNet31'; did you mean RepLKNet31L",
        ),
        ("Arch.drop_path=0.1", "network", UNKNOWN_KEY, "Arch.drop_path: unknown key; did you mean drop_path_rate"),
        (
            "Arch.layers=[2]",
            "network",
            "models.bad-argument",
            "Arch: large_kernel_sizes, layers and channels need one entry per stage",
        ),
        ("Arch.out_indices=[1]", "network", "models.backbone", "Arch.out_indices: makes a backbone"),
        ("Arch.layers=[1, 99999999999]", "network", "models.bad-argument", "Arch: layers must add up to at most 10000"),
        ("Arch.depthwise_impl=on", "network", "ops.unknown-implementation", "Arch.depthwise_impl: unknown depthwise"),
        ("Arch.dw_ratio=0", "network", "models.bad-argument", "Arch: dw_ratio 0.0 leaves no channels"),
        ("Arch.ffn_ratio=-1", "network", "models.bad-argument", "Arch: ffn_ratio -1.0 leaves no channels"),
        ("Optimizer.beta1=2", "optimizer", "training.bad-value", "Optimizer: beta1 must be at least 0 and below 1"),
        ("Optimizer.epsilon=-1", "optimizer", "training.bad-value", "epsilon must be positive"),
        ("Optimizer.lr.learning_rate=-1", "schedule", "training.bad-value", "learning rates must not be negative"),
        (
            "Optimizer.lr={name: Linear, learning_rate: 1, power: -1}",
            "schedule",
            "training.bad-value",
            "power must be positive",
        ),
        ("Arch.class_num=0", "network", "models.bad-argument", "Arch: class_num must be positive"),
        (
            "Optimizer.name=AdamWW",
            "optimizer",
            UNKNOWN_NAME,
            "unknown optimizer 'AdamWW'; did you mean AdamW",
        ),
        ("Optimizer.weight_decy=0", "optimizer", UNKNOWN_KEY, "weight_decy: unknown key; did you mean weight_decay"),
        (
            "Optimizer.lr.name=Cosin",
            "schedule",
            UNKNOWN_NAME,
            "Optimizer.lr.name: unknown schedule 'Cosin'; did you mean",
        ),
        ("Optimizer.lr.learning_rate=fast", "schedule", WRONG_TYPE, "learning_rate: expected a number, got 'fast'"),
        (
            "Optimizer.lr.warmup_epoch=9",
            "schedule",
            "training.bad-value",
            "warmup_epoch must lie between 0 and Global.epochs (3)",
        ),
        ("Loss.Train.0.CELoss.epsilon=2", "loss", "training.bad-value", "Loss.Train[0].CELoss: epsilon must be"),
        ("Loss.Train.0={CELos: {}}", "loss", UNKNOWN_NAME, "unknown loss 'CELos'; did you mean CELoss"),
        ("Metric.Eval.0={TopkAc: {}}", "metric", UNKNOWN_NAME, "unknown metric 'TopkAc'; did you mean TopkAcc"),
    ],
)
def test_bad_parts_are_refused_by_what_they_configure(tmp_path, override, build, code, message):
    config = load(tmp_path, override)
    builders = {
        "network": lambda: build_network(config.Arch),
        "optimizer": lambda: build_optimizer(config.Optimizer, None, build_network(config.Arch)),
        "schedule": lambda: build_schedule(config.Optimizer, config.Global.epochs, 10),
        "loss": lambda: build_loss(config.Loss.Train),
        "metric": lambda: build_metric(config.Metric.Eval),
    }
    with refused(code, message):
        builders[build]()


@pytest.mark.parametrize(
    "op, code, message",
    [
        ({"RandomErasing": {"EPSILON": 7}}, "data.bad-argument", "EPSILON must lie between 0 and 1"),
        ({"RandomErasing": {"mean": [0, 0]}}, "data.bad-argument", "mean needs three numbers"),
        ({"ToCHWImage": {"x": 1}}, UNKNOWN_KEY, "ToCHWImage.x: unknown key; there are none"),
        ({"TimmAutoAugment": {"config_str": "rand-m99"}}, "data.bad-argument", "m must be at most 10"),
        ({"ResizeImag": {"size": 3}}, UNKNOWN_NAME, "unknown transform 'ResizeImag'; did you mean ResizeImage"),
        ({"AugMix": None}, "config.not-served", "not served here"),
        ({"ResizeImage": {"sice": 3}}, UNKNOWN_KEY, "ops[0].ResizeImage.sice: unknown key; did you mean size"),
        ({"ResizeImage": {}}, "data.bad-argument", "give size or resize_short"),
        ({"CropImage": {}}, "config.missing-key", "CropImage.size: missing"),
        ({"NormalizeImage": {"scale": "abc"}}, WRONG_TYPE, "NormalizeImage.scale: expected a number, got 'abc'"),
        ({"TimmAutoAugment": {"config_str": "augmix-m3"}}, "data.not-served", "only RandAugment"),
        ({"TimmAutoAugment": {"config_str": "rand-m9-x2"}}, "data.bad-argument", "'x2'"),
    ],
)
def test_bad_transforms(op, code, message):
    with refused(code, message):
        build_transforms(read_ops([op], "DataLoader.Train.dataset.transform_ops"), NORMALIZED)


def test_an_error_of_what_is_configured_keeps_its_code_and_gets_the_place():
    def crop(size: int = 3, scale: float = 1.0) -> None:
        if scale > 1:
            raise UserError("is too large", code="data.bad-scale", where="scale")
        raise UserError("size and scale do not fit", code="data.bad-crop")

    with refused("data.bad-scale", "ops[0].crop.scale: is too large"):
        construct(crop, {"scale": "4/2"}, "ops[0].crop")
    with refused("data.bad-crop", "ops[0].crop: size and scale do not fit"):
        construct(crop, None, "ops[0].crop")


def test_missing_section_and_missing_keys(tmp_path):
    with refused("config.missing-key", "Optimizer.name: missing; it has no default; is 'nmae' it?"):
        load(tmp_path, Optimizer={"nmae": "AdamW", "beta1": 0.9, "lr": {"learning_rate": 1}})
    with refused("config.missing-key", "config.yaml: the section Optimizer is missing"):
        load(tmp_path, Optimizer=None).require("Optimizer")
    with refused("config.missing-key", "Arch.name: missing"):
        load(tmp_path, Arch={"class_num": 3})


def test_global_class_num_is_honoured_like_upstream(tmp_path):
    config = colour_config()
    del config["Arch"]["class_num"]
    assert load(tmp_path, "Global.class_num=17", Arch=config["Arch"]).Arch.class_num == 17
    assert load(tmp_path, "Global.class_num=17").Arch.class_num == 3


@pytest.mark.parametrize(
    "content, code, message",
    [
        (b"Global: [unclosed", "not-yaml", "broken.yaml, line 1: not valid YAML"),
        (b"a: b: c", "not-yaml", "broken.yaml, line 1: not valid YAML"),
        (b"\xff", "not-utf-8", "broken.yaml, line 1: not UTF-8"),
        (b"- 1", "wrong-type", "expected sections such as Global"),
        (b"", "wrong-type", "expected sections such as Global"),
    ],
)
def test_broken_files(tmp_path, content, code, message):
    (tmp_path / "broken.yaml").write_bytes(content)
    with refused(f"config.{code}", message):
        load_config(tmp_path / "broken.yaml")
    with refused("config.no-file", "no configuration file at"):
        load_config(tmp_path / "absent.yaml")


def test_recipes_hold_no_keys_upstream_would_reject():
    """Dataset, sampler and operator keys reach constructors there, so ours must be PaddleClas's own."""
    allowed = {"name", "image_root", "cls_label_path", "transform_ops", "batch_transform_ops", "delimiter", "relabel"}
    for path in RECIPES:
        raw = yaml.safe_load(path.read_text())
        for split in raw["DataLoader"].values():
            assert set(split["dataset"]) <= allowed
            assert set(split["sampler"]) <= {"name", "batch_size", "drop_last", "shuffle"}
            for op in split["dataset"]["transform_ops"]:
                ((name, arguments),) = op.items()
                fractions = {key for key, value in (arguments or {}).items() if "/" in str(value)}
                parsed = {"NormalizeImage": {"scale"}, "RandomErasing": {"EPSILON", "sl", "sh", "r1"}}
                assert fractions <= parsed.get(name, set()), "upstream evaluates fractions only there"
