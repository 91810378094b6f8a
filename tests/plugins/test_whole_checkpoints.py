"""ppreplk convert --for: whole published checkpoints, counted, or refused by name. No suite is needed here."""

import json
import re

import numpy as np
import paddle
import pytest
from helpers import GOLDEN, assert_one_line_and_exit_2, refused, run_tool
from torch_files import tensors, write_zip

from ppreplk.checkpoints.files import read_weights
from ppreplk.plugins.paddledetection.det_names import CASCADE, FCOS, PADDLEDETECTION
from ppreplk.plugins.paddleseg.seg_names import PADDLESEG
from ppreplk.plugins.whole_checkpoints import Sizes, convert_whole
from ppreplk.weights import load_checkpoint

SUITES = {"tiny_upernet": PADDLESEG, "tiny_cascade": PADDLEDETECTION, "tiny_fcos": PADDLEDETECTION}


def original(name: str) -> dict[str, np.ndarray]:
    return read_weights(GOLDEN / f"{name}.pth").state


@pytest.mark.parametrize("name", SUITES)
def test_every_array_of_the_file_is_in_the_result_or_counted(tmp_path, name):
    theirs = original(name)
    report = convert_whole(GOLDEN / f"{name}.pth", tmp_path / "out.pdparams", SUITES[name])
    ours = {key: value.numpy() for key, value in paddle.load(str(tmp_path / "out.pdparams")).items()}
    counters = [key for key in theirs if key.endswith("num_batches_tracked")]
    assert report.left_out == {"num_batches_tracked": len(counters)}
    assert report.tensors == len(theirs) - len(counters) == len(ours) - report.filled
    trained = [value for key, value in theirs.items() if not re.search("num_batches|running_", key)]
    assert report.parameters == sum(value.size for value in trained)
    assert sum(float(np.abs(value).sum(dtype=np.float64)) for value in ours.values()) == pytest.approx(
        sum(float(np.abs(theirs[key]).sum(dtype=np.float64)) for key in theirs if key not in counters)
    )
    assert all(value.dtype == np.float32 for value in ours.values())


def test_names_and_shapes_for_paddleseg(tmp_path):
    theirs = original("tiny_upernet")
    convert_whole(GOLDEN / "tiny_upernet.pth", tmp_path / "out.pdparams", PADDLESEG)
    ours = load_checkpoint(tmp_path / "out.pdparams")  # takes backbone. off again
    assert (
        ours["stages.0.blocks.0.prelkb_bn._mean"] == theirs["backbone.stages.0.blocks.0.prelkb_bn.running_mean"]
    ).all()
    ours = read_weights(tmp_path / "out.pdparams").state
    for name, source in {
        "backbone.stem.0.conv.weight": "backbone.stem.0.conv.weight",
        "head.psp_modules.stages.3.1.bn._variance": "decode_head.psp_modules.3.1.bn.running_var",
        "head.bottleneck.conv.weight": "decode_head.bottleneck.conv.weight",
        "head.conv_seg.bias": "decode_head.conv_seg.bias",
        "head.aux_conv.conv.weight": "auxiliary_head.convs.0.conv.weight",
        "head.aux_conv_seg.weight": "auxiliary_head.conv_seg.weight",
    }.items():
        assert (ours[name] == theirs[source]).all(), name


def test_names_and_shapes_for_paddledetection(tmp_path):
    theirs = original("tiny_cascade")
    convert_whole(GOLDEN / "tiny_cascade.pth", tmp_path / "out.pdparams", PADDLEDETECTION)
    ours = read_weights(tmp_path / "out.pdparams").state
    for name, source in {
        "neck.fpn_inner_res2_sum_lateral.weight": "neck.lateral_convs.0.conv.weight",
        "neck.fpn_inner_res5_sum.bias": "neck.lateral_convs.3.conv.bias",
        "neck.fpn_res5_sum.weight": "neck.fpn_convs.3.conv.weight",
        "rpn_head.rpn_rois_delta.weight": "rpn_head.rpn_reg.weight",
        "bbox_head.head.2.stage2_bbox_head_conv3.norm._mean": "roi_head.bbox_head.2.shared_convs.3.bn.running_mean",
        "mask_head.heads.0.head.upsample.mask_inter_feat_4.bias": "roi_head.mask_head.0.convs.3.conv.bias",
        "mask_head.heads.1.head.upsample.conv5_mask.weight": "roi_head.mask_head.1.upsample.weight",
        "mask_head.heads.2.mask_fcn_logits.weight": "roi_head.mask_head.2.conv_logits.weight",
    }.items():
        assert (ours[name] == theirs[source]).all(), name
    for name, source in {
        "bbox_head.head.1.fc6.weight": "roi_head.bbox_head.1.shared_fcs.0.weight",
        "bbox_head.bbox_score_stage0.weight": "roi_head.bbox_head.0.fc_cls.weight",
        "bbox_head.bbox_delta_stage2.weight": "roi_head.bbox_head.2.fc_reg.weight",
    }.items():
        assert (ours[name] == theirs[source].T).all(), name


def test_biases_that_only_paddledetection_has_are_zero_and_counted(tmp_path):
    report = convert_whole(GOLDEN / "tiny_fcos.pth", tmp_path / "out.pdparams", PADDLEDETECTION)
    ours = read_weights(tmp_path / "out.pdparams").state
    biases = [name for name in ours if name.startswith("fcos_head.fcos_feat.") and name.endswith("conv.bias")]
    assert len(biases) == report.filled == 2
    assert not any(ours[name].any() for name in biases)
    assert ours["fcos_head.p3_feat.scale_reg"].shape == (1,)
    assert "filled in: 2 biases that are zero" in str(report)


def replaced(state: dict, name: str, array: np.ndarray) -> None:
    state[name] = array


DAMAGES = {
    "unknown": (
        "tiny_upernet",
        lambda state: replaced(state, "decode_head.attention.weight", np.zeros(3, np.float32)),
        "checkpoints.incomplete",
        "1 left over, decode_head.attention.weight first; nothing was written",
    ),
    "unknown part": (
        "tiny_cascade",
        lambda state: replaced(state, "mask_iou_head.weight", np.zeros(3, np.float32)),
        "checkpoints.incomplete",
        "1 left over, mask_iou_head.weight",
    ),
    "counter of nothing": (
        "tiny_upernet",
        lambda state: replaced(state, "decode_head.extra.num_batches_tracked", np.array(1)),
        "checkpoints.incomplete",
        "1 left over, decode_head.extra.num_batches_tracked",
    ),
    "missing": (
        "tiny_upernet",
        lambda state: state.pop("decode_head.fpn_convs.1.bn.running_var"),
        "checkpoints.incomplete",
        "UPerNet on RepLKNet: 1 missing, decode_head.fpn_convs.1.bn.running_var first",
    ),
    "first missing": (
        "tiny_cascade",
        lambda state: state.pop("roi_head.bbox_head.0.fc_cls.bias"),
        "plugins.incomplete",
        "roi_head.bbox_head.0.fc_cls.bias is missing",
    ),
    "missing conv in the middle": (
        "tiny_fcos",
        lambda state: state.pop("bbox_head.reg_convs.0.conv.weight"),
        "checkpoints.incomplete",
        "1 missing, bbox_head.reg_convs.0.conv.weight",
    ),
    "mask head": (
        "tiny_cascade",
        lambda state: [state.pop(name) for name in list(state) if name.startswith("roi_head.mask_head.2.")],
        "checkpoints.incomplete",
        "12 missing, roi_head.mask_head.2.convs.0.conv.weight",
    ),
    "shape": (
        "tiny_upernet",
        lambda state: replaced(state, "auxiliary_head.conv_seg.weight", np.zeros((5, 8, 1, 1), np.float32)),
        "checkpoints.incomplete",
        "1 of wrong shape, auxiliary_head.conv_seg.weight",
    ),
    "backbone": (
        "tiny_fcos",
        lambda state: state.pop("backbone.stages.1.blocks.1.pw2.bn.weight"),
        "checkpoints.incomplete",
        "1 missing, stages.1.blocks.1.pw2.bn.weight",
    ),
    "backbone, unknown": (
        "tiny_upernet",
        lambda state: replaced(state, "backbone.norm5.weight", np.zeros(3, np.float32)),
        "checkpoints.incomplete",
        "1 left over, norm5.weight",
    ),
    "dimensions": (
        "tiny_upernet",
        lambda state: replaced(state, "decode_head.conv_seg.weight", np.zeros((4, 12), np.float32)),
        "plugins.incomplete",
        "decode_head.conv_seg.weight is [4, 12], expected 4 dimensions",
    ),
    "classifier": (
        "tiny_upernet",
        lambda state: state.update(
            {
                "backbone.norm.weight": np.ones(16, np.float32),
                "backbone.norm.bias": np.ones(16, np.float32),
                "backbone.norm.running_mean": np.ones(16, np.float32),
                "backbone.norm.running_var": np.ones(16, np.float32),
                "backbone.head.weight": np.ones((7, 16), np.float32),
                "backbone.head.bias": np.ones(7, np.float32),
            }
        ),
        "plugins.not-whole",
        "without a classifier",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_does_not_fit_is_refused_by_name_and_nothing_is_written(tmp_path, damage):
    name, alter, code, part = DAMAGES[damage]
    state = original(name)
    alter(state)
    write_zip(tmp_path / "changed.pth", {"meta": {"epoch": 1}, "state_dict": tensors(state)})
    with refused(code, "changed.pth", part):
        convert_whole(tmp_path / "changed.pth", tmp_path / "out.pdparams", SUITES[name])
    assert [path.name for path in tmp_path.iterdir()] == ["changed.pth"]


@pytest.mark.parametrize(
    "file, suite, part",
    [
        ("tiny_upernet", "paddledetection", "its names begin with decode_head."),
        ("tiny_cascade", "paddleseg", "its names begin with neck."),
        ("tiny_reparam5", "paddleseg", "its names begin with stem.0.conv.weight"),
    ],
)
def test_a_model_of_another_kind_is_refused(tmp_path, file, suite, part):
    process = run_tool("convert", GOLDEN / f"{file}.pth", "out.pdparams", "--for", suite, cwd=tmp_path)
    assert_one_line_and_exit_2(process, f"{file}.pth: no whole model for", part, code="plugins.not-whole")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, code",
    [
        (["out.safetensors", "--for", "paddleseg"], "checkpoints.bad-target"),
        (["out.pdparams", "--for", "paddleclas"], "command.arguments"),
        (["out.pdparams", "--for", "paddleseg", "--size", "64"], "command.arguments"),
        (["out.pdparams", "--for", "paddleseg", "--ema"], "checkpoints.no-averaged"),
    ],
)
def test_arguments_that_do_not_fit_end_in_one_line(tmp_path, arguments, code):
    process = run_tool("convert", GOLDEN / "tiny_upernet.pth", *arguments, cwd=tmp_path)
    assert_one_line_and_exit_2(process, code=code)
    assert not any(tmp_path.iterdir())


def test_the_tool_reports_what_it_counted(tmp_path):
    process = run_tool("convert", GOLDEN / "tiny_upernet.pth", "out.pdparams", "--for", "paddleseg", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert lines[:2] == [
        "layout: mmseg/mmdet",
        "model: UPerNet of PaddleSeg (num_classes=4, channels=12, aux_channels=8)",
    ]
    assert lines[2].startswith("backbone: RepLKNet, a backbone (large_kernel_sizes=[13, 11, 9, 7], ")
    assert lines[3:] == [
        "form: train",
        "backbone: 240 tensors, 15,708 parameters",
        "head: 62 tensors, 17,428 parameters",
        "auxiliary head: 7 tensors, 916 parameters",
        "tensors: 309, parameters: 34,052, left out: 63 of num_batches_tracked",
        "num_batches_tracked: how many batches PyTorch's batch normalizations have seen; Paddle's do not count",
        "wrote out.pdparams",
    ]


def test_a_prefix_of_all_names_goes(tmp_path):
    state = {f"module.{name}": array for name, array in original("tiny_fcos").items()}
    write_zip(tmp_path / "parallel.pth", {"state_dict": tensors(state)})
    convert_whole(tmp_path / "parallel.pth", tmp_path / "parallel.pdparams", PADDLEDETECTION)
    convert_whole(GOLDEN / "tiny_fcos.pth", tmp_path / "plain.pdparams", PADDLEDETECTION)
    assert (tmp_path / "parallel.pdparams").read_bytes() == (tmp_path / "plain.pdparams").read_bytes()


def head_parameters(model, arrays: dict[str, tuple[int, ...]], widths: list[int]) -> int:
    """Parameters of the heads of a model with arrays of these shapes, in millions, without the auxiliary head."""
    state = {name: np.broadcast_to(np.float32(0), shape) for name, shape in arrays.items()}
    places = model.places(Sizes(state, model.name, "file"), widths)
    trained = [p for name, p in places.items() if not name.endswith(("running_mean", "running_var"))]
    return sum(int(np.prod(place.shape)) for place in trained if place.part != "auxiliary head")


def test_heads_of_the_published_models_have_the_published_size():
    """Within 1%. The backbone is in train form here, which has 0.1 to 0.7M more than folded."""
    wholes = json.loads((GOLDEN / "official_state_dict_shapes.json").read_text())
    backbones = {}
    for name, shapes in wholes.items():
        counted = {n: s for n, s in shapes.items() if not re.search(r"num_batches|running_|^head\.|^norm\.", n)}
        backbones[name] = sum(int(np.prod(shape)) for shape in counted.values())
    widths = {
        "RepLKNet31B": [128, 256, 512, 1024],
        "RepLKNet31L": [192, 384, 768, 1536],
        "RepLKNetXL": [256, 512, 1024, 2048],
    }

    def upernet(name: str, classes: int) -> float:
        top = widths[name][-1]
        arrays = {
            "decode_head.bottleneck.conv.weight": (512, top + 4 * 512, 3, 3),
            "decode_head.conv_seg.weight": (classes, 512, 1, 1),
            "auxiliary_head.convs.0.conv.weight": (256, widths[name][2], 3, 3),
            "decode_head.psp_modules.3.1.conv.weight": (512, top, 1, 1),
        }
        return (backbones[name] + head_parameters(PADDLESEG.models[0], arrays, widths[name])) / 1e6

    def cascade(name: str) -> float:
        arrays = {
            "roi_head.bbox_head.0.fc_cls.bias": (81,),
            "neck.lateral_convs.0.conv.weight": (256, widths[name][0], 1, 1),
            "rpn_head.rpn_cls.weight": (3, 256, 1, 1),
            "roi_head.bbox_head.0.shared_convs.0.conv.weight": (256, 256, 3, 3),
            "roi_head.bbox_head.0.shared_convs.3.conv.weight": (256, 256, 3, 3),
            "roi_head.bbox_head.0.shared_fcs.0.weight": (1024, 256 * 49),
            "roi_head.mask_head.0.conv_logits.weight": (80, 256, 1, 1),
            "roi_head.mask_head.0.convs.3.conv.weight": (256, 256, 3, 3),
        }
        return (backbones[name] + head_parameters(CASCADE, arrays, widths[name])) / 1e6

    def fcos(name: str) -> float:
        arrays = {
            "bbox_head.conv_cls.bias": (80,),
            "bbox_head.conv_cls.weight": (80, 256, 3, 3),
            "neck.lateral_convs.0.conv.weight": (256, widths[name][1], 1, 1),
            "bbox_head.cls_convs.3.conv.weight": (256, 256, 3, 3),
        }
        return (backbones[name] + head_parameters(FCOS, arrays, widths[name])) / 1e6

    received = {
        "31B, Cityscapes": (upernet("RepLKNet31B", 19), 111.61),
        "31B, ADE20K": (upernet("RepLKNet31B", 150), 111.7),  # the paper's table 5
        "31L, ADE20K": (upernet("RepLKNet31L", 150), 207),
        "XL, ADE20K": (upernet("RepLKNetXL", 150), 374),
        "31B, Cascade": (cascade("RepLKNet31B"), 137),
        "31L, Cascade": (cascade("RepLKNet31L"), 229),
        "XL, Cascade": (cascade("RepLKNetXL"), 392),
        "31B, FCOS": (fcos("RepLKNet31B"), 87),
    }
    print(received)
    for what, (counted, published) in received.items():
        assert counted == pytest.approx(published, rel=0.01), what
