"""A thousand configurations and overrides that went wrong somewhere: each is accepted or refused in one line.

Nothing is trained. Everything that a training, an evaluation and a prediction build from a configuration is built.
"""

import copy
import json
import random
from pathlib import Path
from typing import NamedTuple, Optional

import paddle
import yaml
from helpers import colour_config

from ppreplk.config import ArchConfig, Config, load_config
from ppreplk.data import NORMALIZED_CHW, build_dataset, build_transforms
from ppreplk.data.listing import find_images
from ppreplk.data.mixing import build_batch_transforms
from ppreplk.deploy.class_names import read_class_names
from ppreplk.models.arch import build_network
from ppreplk.training.losses import build_loss
from ppreplk.training.metrics import build_metric
from ppreplk.training.optimizers import build_optimizer
from ppreplk.training.schedules import build_schedule
from ppreplk.utils.errors import UserError

COUNT = 1000
JUNK = [
    None,
    True,
    False,
    -1,
    0,
    1,
    3,
    10**30,
    10**400,
    -0.5,
    0.3,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x",
    "on",
]
JUNK += [
    "None",
    "1e999",
    "1/0",
    "-1/3",
    "a/b",
    "None ",
    "\0",
    "~nobody-here/x",
    "x" * 5000,
    "ü#: {",
    "[",
    "'",
    "2024-01-01",
]
JUNK += [
    [],
    {},
    [[]],
    [1, 2],
    [0, -1, 3],
    ["x", None],
    {"a": 1},
    {"name": "x"},
    {1: 2},
    [{"a": {}}],
    [{}],
    [{"a": 1, "b": 2}],
]
TEXTS = [
    "run #2",
    "010",
    "0x",
    "1:30",
    "007",
    "{",
    "{}",
    "[]",
    "[1",
    "[3, 32, 32]",
    "{a: 1, a: 2}",
    "*a",
    "&a",
    "!x y",
    "- 1",
]
TEXTS += [
    "!!python/name:os.system",
    "__import__('os')",
    "null",
    "~",
    "=",
    "a=b",
    "\t",
    "²",
    "٣",
    ".nan",
    "<<",
    "{name: }",
    "? a",
]
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # written in C, several times as fast
PATHS = ("output_dir", "save_inference_dir", "pretrained_model", "checkpoints")


class Case(NamedTuple):
    """What went wrong: the file, the overrides, and the key that it is about; None if the file is no YAML."""

    text: str
    overrides: list[str]
    key: Optional[str]


def full_config() -> dict:
    """A configuration with something of every kind."""
    config = json.loads(json.dumps(colour_config()))  # nothing is shared
    more = {"num_threads": 2, "update_freq": 2, "eval_interval": 1, "print_batch_step": 5, "class_num": 3, "seed": 3}
    config["Global"].update(more, pretrained_model=None, checkpoints=None, use_visualdl=False, export_tolerance="1e-4")
    config["Arch"].update(small_kernel=3, ffn_ratio=2, dw_ratio=1.0, use_checkpoint=False, use_sync_bn=False)
    config["Arch"].update(depthwise_impl="native", infer_add_softmax=True, layer_decay=0.7)
    config["EMA"] = {"decay": 0.99}
    config["AMP"] = {"use_amp": False, "level": "O1", "scale_loss": 128.0}
    dataset = config["DataLoader"]["Train"]["dataset"]
    dataset["transform_ops"][1:2] = [
        {"RandomResizedCrop": {"size": 32, "scale": [0.5, 1.0], "ratio": [0.75, "4/3"], "interpolation": "bicubic"}},
        {"RandFlipImage": {"flip_code": 1}},
        {"RandomAffine": {"degrees": 10, "translate": [0.1, 0.1], "scale": [0.9, 1.1], "shear": 5}},
        {"TimmAutoAugment": {"config_str": "rand-m9-mstd0.5-inc1", "interpolation": "bicubic", "img_size": 32}},
        {"ColorJitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}},
    ]
    dataset["transform_ops"].append({"RandomErasing": {"EPSILON": 0.25, "sl": 0.02, "sh": "1.0/3.0", "r1": 0.3}})
    dataset["batch_transform_ops"] = [
        {"OpSampler": {"MixupOperator": {"alpha": 0.8, "prob": 0.5}, "CutmixOperator": {"alpha": 1.0, "prob": 0.5}}}
    ]
    return config


def places(node, path=()) -> list[tuple]:
    """The path of every value."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, value in items for place in [(*path, key), *places(value, (*path, key))]]


def parent_of(config: dict, path: tuple):
    for key in path[:-1]:
        config = config[key]
    return config


def name_of(path: tuple) -> str:
    return next(key for key in reversed(path) if isinstance(key, str))


def misspelt(name: str, rng: random.Random) -> str:
    at = rng.randrange(len(name))
    ways = [
        name[:at] + name[at + 1 :],
        name[:at] + name[at] + name[at:],
        name.swapcase(),
        name + "s",
        f" {name}",
        f"{name}.",
    ]
    return rng.choice([way for way in ways if way])


def mutated(rng: random.Random) -> Case:
    config = full_config()
    path = rng.choice(places(config))
    parent, key = parent_of(config, path), path[-1]
    kind = rng.choice(("value", "value", "rename", "delete", "add", "wrap", "override", "override", "override", "text"))
    overrides, named = [], name_of(path)
    if kind == "value":
        parent[key] = copy.deepcopy(rng.choice(JUNK))
    elif kind == "rename" and isinstance(parent, dict):
        named = misspelt(key, rng)
        parent[named] = parent.pop(key)
    elif kind == "delete":
        del parent[key]
        named = name_of(path[:-1] if parent == {} and len(path) > 1 else path)
    elif kind == "add" and isinstance(parent, dict):
        named = rng.choice(
            ["lerning_rate", "batchsize", "1", "x y", "pretrained", "use_dali", "é", "where", "arguments", "self"]
        )
        parent[named] = copy.deepcopy(rng.choice(JUNK))
    elif kind == "wrap":
        parent[key] = rng.choice(([parent[key]], {"value": parent[key]}))
    elif kind == "override":
        keys = [str(key) for key in path]
        if rng.random() < 0.2:
            at = rng.choice([at for at, key in enumerate(path) if isinstance(key, str)])
            keys[at] = named = misspelt(keys[at], rng)
        overrides = [f"{'.'.join(keys)}={rng.choice([*TEXTS, *map(str, JUNK)])}"]
    text = yaml.dump(config, Dumper=DUMPER, sort_keys=False, allow_unicode=True)
    if kind == "text":
        lines = text.splitlines()
        at = rng.randrange(len(lines))
        line = lines[at]
        ways = [
            [line, line],
            [f"  {line}"],
            [line[1:]],
            [f"\t{line}"],
            [line.replace(":", "", 1)],
            [line.replace(": ", ":")],
        ]
        ways += [[line + " :"], [line + rng.choice("\"'[]{}&*!|>%@`")], [], [line[: len(line) // 2]]]
        lines[at : at + 1] = rng.choice(ways)
        return Case("\n".join(lines), [], None)
    return Case(text, overrides, named)


def network_of(arch: ArchConfig, made: dict[str, paddle.nn.Layer] = {}) -> paddle.nn.Layer:  # noqa: B006
    """A network without values. Most cases have the same; to make one each time would take most of the time."""
    if repr(arch) not in made:
        with paddle.LazyGuard():
            made[repr(arch)] = build_network(arch)
    return made[repr(arch)]


def build_everything(config: Config) -> None:
    for split in (config.require("DataLoader.Train"), config.require("DataLoader.Eval")):
        build_dataset(split.dataset, config.Arch.class_num, config.Global.seed or 0)
        build_batch_transforms(split.dataset.batch_transform_ops, config.Arch.class_num)
    model = network_of(config.Arch)
    optimizer = config.require("Optimizer")
    build_optimizer(optimizer, build_schedule(optimizer, config.Global.epochs, 3), model)
    build_loss(config.require("Loss").Train)
    if config.Loss.Eval:
        build_loss(config.Loss.Eval)
    build_metric(config.Metric.Train)
    build_metric(config.Metric.Eval)
    infer = config.require("Infer")
    build_transforms(infer.transforms, NORMALIZED_CHW)
    find_images(infer.infer_imgs, infer.infer_list)
    read_class_names(infer.PostProcess)


def everything_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_whatever_is_wrong_is_one_line_that_names_the_key(colour_project, monkeypatch):
    monkeypatch.chdir(colour_project)
    file = colour_project / "mutated.yaml"
    file.touch()
    there = everything_below(colour_project)
    refused, unnamed, not_yaml, accepted = 0, [], 0, 0
    for number in range(COUNT):
        case = mutated(random.Random(number))
        file.write_text(case.text, encoding="utf-8")
        try:
            config = load_config("mutated.yaml", case.overrides)
            build_everything(config)
            accepted += 1
            for override in case.overrides:  # a path is what was written, and nowhere else
                key, _, value = override.partition("=")
                section, _, name = key.strip().partition(".")
                if section == "Global" and name in PATHS:
                    path = getattr(config.Global, name)
                    assert path is None or path.strip() == value.strip().strip("'"), override
        except UserError as error:
            refused += 1
            if case.key is None:
                not_yaml += 1
                assert "mutated.yaml, line" in str(error) or error.code != "config.not-yaml", (number, str(error))
            elif case.key.strip(" .") not in str(error):
                unnamed.append((number, case.key, case.overrides, str(error)[:200]))
        except Exception as error:
            raise AssertionError(f"case {number}, {case.key}, {case.overrides}: {error!r}") from error
    assert everything_below(colour_project) == there
    named = 100 * (1 - len(unnamed) / (refused - not_yaml))
    print(f"{COUNT} cases: {accepted} accepted, {refused} refused; the key is named in {named:.1f}%")
    for each in unnamed:
        print(*each)
    assert named >= 95 and refused > COUNT / 2
