"""Packed weights, the instruction sets, and what the operators in C++ refuse."""

import re

import numpy as np
import paddle
import pytest
from depthwise_cases import CHANNELS, SHAPES, check_output_and_gradients, operands, reference, same_convolution
from helpers import refused, require_depthwise_operators

from ppreplk.ops import cpu
from ppreplk.utils.errors import UserError

OTHER_SETS = ["avx2", "portable"]  # instruction sets of other processors
# For packed weights: what solves it, map, kernel. The transforms end at 256, and larger maps are cut in tiles.
ALGORITHMS = {1: "spectral", 2: "toeplitz", 3: "direct"}  # as the header of packed weights says it
PACKED = [
    ("spectral", (17, 33), 13),
    ("spectral", (9, 11), 31),
    ("spectral", (5, 301), 31),
    ("spectral", (263, 9), 7),
    ("toeplitz", (1, 1), 3),
    ("toeplitz", (7, 5), 13),
    ("toeplitz", (15, 7), 3),
    ("direct", (5, 9), 1),
    ("direct", (15, 33), 3),
    ("direct", (53, 149), 5),
]


def channels_last(x):
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


PACKED_LAYOUTS = {  # what convolves, and the way there and back
    "NCHW": (cpu.packed_conv2d, lambda x: x, lambda y: y),
    "NHWC": (cpu.packed_conv2d_nhwc, channels_last, lambda y: np.moveaxis(y, -1, 1)),
}


def packed_convolution(layout, x, weight, packed, bias=None, relu=False):
    """y (N, C, H, W) in float32, by packed weights, for x in the dtype of ``weight``."""
    convolve, arrange, back = PACKED_LAYOUTS[layout]
    y = convolve(paddle.to_tensor(arrange(x)).astype(weight.dtype), weight, packed, bias, relu)
    assert y.dtype == weight.dtype
    return back(y.astype("float32").numpy())


def check_packed(layout, algorithm, size, kernel, channels, dtype):
    """All that a packed convolution can be asked for, against float64."""
    x, weight, bias, _ = operands(2, channels, *size, kernel)
    x, weight, bias = (paddle.to_tensor(value).astype(dtype) for value in (x, weight, bias))
    packed = cpu.pack(weight, *size)
    header = packed[:16].numpy().view(np.int32)
    assert ALGORITHMS[header[2]] == algorithm
    if max(size) > 256:
        assert (header[8:10] < np.add(size, kernel // 2)).any(), "in tiles"
    x32, weight32, bias32 = (value.astype("float32").numpy() for value in (x, weight, bias))
    plain = same_convolution(x32, weight32)
    scale = np.abs(plain).max((0, 2, 3)) + np.abs(bias32)
    step = {"float32": 0.0, "float16": 2**-11, "bfloat16": 2**-8}[dtype]  # one rounding of the result
    for batch, with_bias, relu in ((1, False, False), (1, True, True), (2, False, True), (2, True, False)):
        expected = plain[:batch] + (bias32[:, None, None] if with_bias else 0)
        expected = np.maximum(expected, 0) if relu else expected
        y = packed_convolution(layout, x32[:batch], weight, packed, bias if with_bias else None, relu)
        allowance = step * np.abs(expected) + 3e-6 * scale[:, None, None]
        assert (np.abs(y - expected) <= allowance).all(), (batch, with_bias, relu)


@pytest.fixture(params=OTHER_SETS)
def other_set(request):
    """An instruction set that is not this processor's best."""
    require_depthwise_operators()
    best = cpu.instruction_set()
    try:
        cpu.use_instruction_set(request.param)
    except UserError as error:
        pytest.skip(str(error))
    yield request.param
    cpu.use_instruction_set(best)


@pytest.mark.parametrize("number", range(0, len(SHAPES), 2))
def test_other_instruction_sets(other_set, number):
    assert cpu.instruction_set() == other_set
    check_output_and_gradients("cpu", number, SHAPES[number])


@pytest.mark.parametrize("algorithm, size, kernel", PACKED)
def test_packed_weights_on_other_instruction_sets(other_set, algorithm, size, kernel):
    for dtype, channels, layout in (("float32", 3, "NCHW"), ("float32", 19, "NHWC"), ("bfloat16", 19, "NHWC")):
        check_packed(layout, algorithm, size, kernel, channels, dtype)


@pytest.mark.parametrize("layout", PACKED_LAYOUTS)
def test_weights_packed_for_another_instruction_set_are_not_used(other_set, layout):
    x, weight, *_ = operands(1, 20, 14, 14, 9)
    packed = cpu.pack(paddle.to_tensor(weight), 14, 14)
    cpu.use_instruction_set("portable" if other_set == "avx2" else "avx2")
    y = packed_convolution(layout, x, paddle.to_tensor(weight), packed)
    np.testing.assert_allclose(y, same_convolution(x, weight), atol=1e-4)


def test_an_unknown_instruction_set():
    require_depthwise_operators()
    with refused("ops.unknown-instruction-set", "cannot use 'sse9'"):
        cpu.use_instruction_set("sse9")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("algorithm, size, kernel", PACKED)
@pytest.mark.parametrize("layout", PACKED_LAYOUTS)
def test_packed_weights(layout, algorithm, size, kernel, channels, dtype):
    require_depthwise_operators()
    check_packed(layout, algorithm, size, kernel, channels, dtype)


@pytest.mark.parametrize("layout", PACKED_LAYOUTS)
def test_packed_weights_of_another_problem(layout):
    """Of another map, kernel or number of channels: the plain weights serve."""
    require_depthwise_operators()
    x, weight, bias, _ = operands(2, 20, 17, 9, 13)
    weight, bias = paddle.to_tensor(weight), paddle.to_tensor(bias)
    expected = np.maximum(reference(x, weight.numpy(), bias.numpy(), x)[0], 0)
    others = [(weight, size) for size in ((9, 17), (17, 7), (30, 30))]
    for other, size in [*others, (weight[:, :, 1:-1, 1:-1], (17, 9)), (weight[:16], (17, 9))]:
        packed = cpu.pack(other, *size)
        y = packed_convolution(layout, x, weight, packed, bias, relu=True)
        np.testing.assert_allclose(y, expected, atol=1e-4)


@pytest.mark.parametrize("layout", PACKED_LAYOUTS)
def test_packed_weights_and_a_map_that_is_a_view(layout):
    require_depthwise_operators()
    x, weight, *_ = operands(2, 5, 12, 9, 7)
    weight, turned = paddle.to_tensor(weight), paddle.to_tensor(np.ascontiguousarray(x.transpose(0, 3, 2, 1)))
    view = turned.transpose([0, 3, 2, 1] if layout == "NCHW" else [0, 2, 1, 3])
    convolve, _, back = PACKED_LAYOUTS[layout]
    y = convolve(view, weight, cpu.pack(weight, 12, 9), None, False).numpy()
    np.testing.assert_allclose(back(y), same_convolution(x, weight.numpy()), atol=1e-4)


@pytest.mark.parametrize(
    "weight, size, message",
    [
        *(
            (shape, (5, 5), rf"packs weight \(C, 1, K, K\) with odd K, got {re.escape(str(shape))} \(at [^\n]*\n$")
            for shape in ([2, 1, 4, 4], [2, 1, 3, 5], [2, 2, 3, 3], [2, 1, 0, 0], [2, 3, 3], [2], [])
        ),
        ([2, 1, 129, 129], (5, 5), "kernel must be odd and at most 127, not 129"),
        ([2, 1, 3, 3], (0, 5), "height must be 1 to 2\\^20, not 0"),
    ],
)
def test_weights_that_cannot_be_packed(weight, size, message):
    require_depthwise_operators()
    with pytest.raises(ValueError, match=f"ppreplk: depthwise convolution:? {message}"):
        cpu.pack(paddle.zeros(weight), *size)


@pytest.mark.parametrize(
    "x, weight, bias",
    [
        ([2, 3, 4], [3, 1, 3, 3], None),
        ([], [3, 1, 3, 3], [3]),
        ([1, 4, 5, 4, 1], [4, 1, 3, 3], None),
        ([1, 5, 6, 4], [5, 1, 3, 3], [4]),
        ([1, 5, 6, 4], [6, 1, 3, 3], None),
        ([1, 4, 5, 4], [4, 1, 3], None),
        ([1, 4, 5, 4], [4], [4]),
        ([1, 4, 5, 4], [4, 1, 2, 2], None),
        ([1, 4, 5, 4], [4, 1, 3, 3], [3]),
        ([1, 4, 5, 4], [4, 1, 3, 3], []),
        ([1, 4, 5, 4], [4, 1, 3, 3], [1, 4]),
    ],
)
def test_the_operators_check_shapes(x, weight, bias):
    require_depthwise_operators()
    tensors = [None if shape is None else paddle.zeros(shape) for shape in (x, weight, bias)]
    packed = cpu.pack(paddle.zeros([4, 1, 3, 3]), 5, 4)
    for layout, run in (
        ("(N, C, H, W)", cpu.conv2d),
        ("(N, C, H, W)", lambda x, weight, bias: cpu.packed_conv2d(x, weight, packed, bias, relu=False)),
        ("(N, H, W, C)", lambda x, weight, bias: cpu.packed_conv2d_nhwc(x, weight, packed, bias, relu=False)),
    ):
        needed = f"needs x {layout}, weight (C, 1, K, K) with odd K{'' if bias is None else ' and bias (C)'}"
        received = f"got x {x}, weight {weight}{'' if bias is None else f', bias {bias}'}"
        with pytest.raises(ValueError) as error:
            run(*tensors)
        assert f"ppreplk: depthwise convolution {needed}, {received} (at" in str(error.value)


@pytest.mark.parametrize("run", [cpu.packed_conv2d, cpu.packed_conv2d_nhwc])
def test_the_packed_operators_check_sizes(run):
    require_depthwise_operators()
    packed = cpu.pack(paddle.zeros([4, 1, 3, 3]), 5, 4)
    with pytest.raises(ValueError, match="ppreplk: depthwise convolution: kernel must be odd and at most 127, not 129"):
        run(paddle.zeros([1, 4, 4, 4]), paddle.zeros([4, 1, 129, 129]), packed, None, relu=False)
    for shape in ([1, 4, 0, 4], [1, 0, 4, 4]):
        with pytest.raises(
            ValueError, match="ppreplk: depthwise convolution(: (height|width) must be 1 to 2.20, not 0| needs x)"
        ):
            run(paddle.zeros(shape), paddle.zeros([4, 1, 3, 3]), packed, None, relu=False)


def test_a_program_says_which_shapes_do_not_fit():
    """Weights that became other ones after the program was built: what an executor raises has the message too."""
    require_depthwise_operators()
    paddle.enable_static()
    try:
        program = paddle.static.Program()
        with paddle.static.program_guard(program):
            weight = paddle.static.data("weight", [2, 1, -1, -1])
            packed = cpu.pack(weight, 5, 5)
        with pytest.raises(ValueError, match=r"packs weight \(C, 1, K, K\) with odd K, got \[2, 1, 4, 4\]"):
            paddle.static.Executor().run(
                program, feed={"weight": np.zeros((2, 1, 4, 4), np.float32)}, fetch_list=[packed]
            )
    finally:
        paddle.disable_static()
