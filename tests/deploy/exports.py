"""What the export tests share: the configuration, the network with random statistics, bounds and kinds of program."""

import re
from pathlib import Path

import paddle
from helpers import colour_config, write_config

from ppreplk.config import load_config
from ppreplk.models.arch import build_network

LOGITS = "Arch.infer_add_softmax=False"
CHANNELS_LAST = "Global.export_runtime=channels_last"
BOUNDS = {"fp32": 1e-5, "fp32-bf16x3": 1e-5, "bf16": 2e-2}  # of the largest logit


def config(*overrides):
    """The colour configuration with the weights of the fixture ``project``."""
    write_config(Path("config.yaml"), colour_config())
    return load_config("config.yaml", ["Global.pretrained_model=weights", *overrides])


def network():
    """The network of the configuration with these weights, in eval mode."""
    model = build_network(config().Arch)
    model.set_state_dict(paddle.load("weights.pdparams"))
    model.eval()
    return model


def file_names(folder) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def operators(program: Path) -> list[str]:
    """Names of the operators of a program, in order."""
    return re.findall(r'"#":"\d+\.(\w+)"', program.read_text())


def predict_without_onednn(folder, images, program="inference.json"):
    """As Program, with oneDNN switched off."""
    files = [str(Path(folder) / name) for name in (program, "inference.pdiparams")]
    settings = paddle.inference.Config(*files)
    settings.disable_gpu()
    settings.disable_glog_info()
    settings.disable_mkldnn()
    (outputs,) = paddle.inference.create_predictor(settings).run([paddle.to_tensor(images)])
    return outputs.numpy()
