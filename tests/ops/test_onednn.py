"""The layers of channels-last programs, against float64."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import paddle
import pytest
from helpers import refused, relative_difference, require_channels_last_operators, run_python

from ppreplk.models.replknet import VARIANTS
from ppreplk.ops import onednn
from ppreplk.ops.loading import call
from ppreplk.utils.cores import available_cores
from ppreplk.utils.device import set_threads

OPENMP = 2  # oneDNN's number of that threading runtime


@pytest.fixture(autouse=True)
def operators():
    require_channels_last_operators()
    yield
    onednn.choose_form("automatic")
    set_threads(available_cores())


def rounded(x):
    """To the nearest bfloat16."""
    return paddle.to_tensor(x).astype("bfloat16").astype("float32").numpy()


def reference(x, weight, bias, residual, stride, groups, activation):
    """NHWC, in float64."""
    x, weight, bias = (paddle.to_tensor(value.astype("float64")) for value in (x, weight, bias))
    y = paddle.nn.functional.conv2d(
        x.transpose([0, 3, 1, 2]), weight, bias, stride, weight.shape[-1] // 2, groups=groups
    ).transpose([0, 2, 3, 1])
    if residual is not None:
        y = y + paddle.to_tensor(residual.astype("float64"))
    return y if activation == "none" else getattr(paddle.nn.functional, activation)(y)


def problem(batch=2, size=(9, 6), channels=(16, 24), kernel=1, stride=1, groups=1, residual=False):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *size, channels[0])).astype("float32")
    weight = rng.standard_normal((channels[1], channels[0] // groups, kernel, kernel)).astype("float32")
    bias = rng.standard_normal(channels[1]).astype("float32")
    out = [batch, *(-(-side // stride) for side in size), channels[1]]
    return x, weight, bias, rng.standard_normal(out).astype("float32") if residual else None


def run(x, weight, bias, residual, stride=1, groups=1, activation="none", bfloat16=False, packed_for=None):
    size = packed_for or x.shape[1:3]
    dtype = "bfloat16" if bfloat16 else "float32"
    packed = onednn.pack(paddle.to_tensor(weight), *size, stride, groups, "bf16" if bfloat16 else "fp32")
    tensors = [None if value is None else paddle.to_tensor(value).astype(dtype) for value in (x, residual)]
    y = onednn.conv(
        tensors[0], packed, paddle.to_tensor(bias), tensors[1], weight.shape[-1], stride, groups, activation
    )
    assert y.dtype == getattr(paddle, dtype)
    return y.astype("float32").numpy()


CASES = [
    {},
    {"batch": 1, "size": (14, 14), "channels": (64, 256)},
    {"batch": 5, "size": (7, 7), "channels": (100, 40)},
    {"size": (1, 1), "channels": (3, 5)},
    {"size": (13, 1), "channels": (17, 1)},
    {"residual": True},
    {"size": (5, 5), "channels": (33, 70), "residual": True},
    {"channels": (3, 16), "kernel": 3, "stride": 2, "size": (32, 32)},
    {"channels": (3, 20), "kernel": 3, "stride": 2, "size": (33, 47)},
    {"channels": (24, 24), "kernel": 3, "groups": 24},
    {"channels": (24, 24), "kernel": 3, "groups": 24, "stride": 2, "size": (9, 10)},
    {"channels": (5, 5), "kernel": 5, "groups": 5, "stride": 2, "size": (7, 4)},
]


@pytest.mark.parametrize("activation", onednn.ACTIVATIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_float64(case, activation):
    x, weight, bias, residual = problem(**case)
    options = {"stride": case.get("stride", 1), "groups": case.get("groups", 1), "activation": activation}
    expected = reference(x, weight, bias, residual, **options).numpy()
    assert relative_difference(run(x, weight, bias, residual, **options), expected) < 2e-6
    # bfloat16: exact products of rounded numbers, one rounding of the result
    x, weight = rounded(x), rounded(weight)
    residual = None if residual is None else rounded(residual)
    expected = reference(x, weight, bias, residual, **options).numpy()
    received = run(x, weight, bias, residual, **options, bfloat16=True)
    np.testing.assert_allclose(received, expected, rtol=2**-8, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("batch", [8, 9, 13, 64, 77, 129])
@pytest.mark.parametrize("size, stride, kernel", [((7, 7), 1, 1), ((3, 3), 1, 1), ((1, 1), 1, 1), ((13, 14), 2, 3)])
def test_batches_that_are_computed_in_pieces(batch, size, stride, kernel):
    x, weight, bias, residual = problem(batch, size, (8, 6), kernel, stride, residual=True)
    expected = reference(x, weight, bias, residual, stride, 1, "relu").numpy()
    assert relative_difference(run(x, weight, bias, residual, stride, activation="relu"), expected) < 2e-6


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_precisions_that_are_not_packed_so(precision):
    with pytest.raises(ValueError, match=f"got '{precision}'"):
        onednn.pack(paddle.ones([8, 8, 1, 1]), 4, 4, 1, 1, precision)


SIZES = """
import os
os.environ["ONEDNN_VERBOSE"] = "1"
import paddle
from ppreplk.ops import load_ops, onednn

load_ops("channels_last")
bias, weight = paddle.zeros([8]), paddle.ones([8, 8, 1, 1])
for side in (1, 2, 3, 4, 7):
    weights = {"float32": onednn.pack(weight, side, side, 1, 1, "fp32")}
    weights["int8"] = onednn.pack_int8(weight, side, side, -1.0, 1.0)
    for name, packed in weights.items():
        print("layer", side, name, flush=True)
        for batch in range(1, 65):
            onednn.conv(paddle.ones([batch, side, side, 8]), packed, bias, None, 1, 1, 1, "none")
"""


def test_batches_of_1_to_64_are_computed_in_at_most_15_sizes():
    """oneDNN says what it runs, with the shapes."""
    sizes, layer = {}, None
    for line in run_python(SIZES).splitlines():
        if line.startswith("layer "):
            layer = line
        elif ",exec," in line and ",reorder," not in line:
            sizes.setdefault(layer, set()).add(line.rsplit(",", 2)[1])
    assert len(sizes) == 10 and all(8 <= len(each) <= 15 for each in sizes.values()), sizes


def test_more_shapes_than_primitives_are_kept():
    x, weight, bias, _ = problem(1, (1, 2500), (8, 6))
    whole = reference(x, weight, bias, None, 1, 1, "none").numpy()
    for width in [*range(1, 2501), *range(1, 2501, 50)]:
        assert relative_difference(run(x[:, :, :width], weight, bias, None), whole[:, :, :width]) < 2e-6, width


@pytest.mark.parametrize("form", ["convolution", "matmul"])
@pytest.mark.parametrize("activation", onednn.ACTIVATIONS)
@pytest.mark.parametrize("bfloat16", [False, True])
def test_both_forms_of_a_pointwise_convolution(form, activation, bfloat16):
    onednn.choose_form(form)
    precision = "bf16" if bfloat16 else "fp32"
    assert onednn.implementation((64, 256, 1, 1, 1), precision, (2, 9, 6)).startswith(f"{form} ")
    assert onednn.implementation((64, 64, 3, 1, 1), precision, (2, 9, 6)).startswith("convolution ")
    for size, packed_for in (((9, 6), None), ((9, 6), (28, 28)), ((1, 1), (7, 7))):
        x, weight, bias, residual = problem(2, size, (64, 256), residual=True)
        x, weight, residual = rounded(x), rounded(weight), rounded(residual)
        for added in (None, residual):
            expected = reference(x, weight, bias, added, 1, 1, activation).numpy()
            received = run(x, weight, bias, added, activation=activation, bfloat16=bfloat16, packed_for=packed_for)
            rtol, atol = (2**-8, 1e-5) if bfloat16 else (0, 2e-6)
            np.testing.assert_allclose(received, expected, rtol=rtol, atol=atol * np.abs(expected).max())


@pytest.mark.parametrize("precision", onednn.PRECISIONS)
@pytest.mark.parametrize("name", ["RepLKNet31B", "RepLKNet31L", "RepLKNetXL", "RepLKNet13T"])
def test_no_layer_runs_on_reference_code(name, precision):
    """With what follows it in the network, weights packed for one image."""
    width, dw_ratio = VARIANTS[name]["channels"][0], VARIANTS[name].get("dw_ratio", 1)
    layers = [((3, width, 3, 2, 1), 224, "relu", False), ((width, width, 3, 1, width), 112, "relu", False)]
    layers += [((width, width, 1, 1, 1), 112, "relu", False), ((width, width, 3, 2, width), 112, "relu", False)]
    for stage in range(4):
        channels, size = width << stage, 56 >> stage
        for inner, activation in ((int(channels * dw_ratio), "relu"), (4 * channels, "gelu")):
            layers.append(((channels, inner, 1, 1, 1), size, activation, False))
            layers.append(((inner, channels, 1, 1, 1), size, "none", True))
        layers.append(((channels, 2 * channels, 1, 1, 1), size, "relu", False))
        layers.append(((2 * channels, 2 * channels, 3, 2, 2 * channels), size, "relu", False))
    for layer, size, activation, residual in layers:
        for batch in (1, 3, 8):
            size_of = (batch, size, size)
            name = onednn.implementation(layer, precision, size_of, (1, size, size), activation, residual)
            forms = tuple(f"{form} " for form in onednn.FORMS[1:])
            assert name.startswith(forms) and " ref" not in name, (layer, size_of, name)


@pytest.mark.parametrize("precision", onednn.PRECISIONS)
def test_relu6_does_not_run_on_reference_code(precision):
    """As in MobileNetV2: pointwise, and depthwise with both strides."""
    for layer in ((24, 144, 1, 1, 1), (144, 144, 3, 1, 144), (144, 144, 3, 2, 144), (3, 32, 3, 2, 1)):
        name = onednn.implementation(layer, precision, (3, 56, 56), activation="relu6")
        assert " ref" not in name, (layer, name)


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("channels", [(128, 512), (512, 128), (640, 1024), (7, 9)])
def test_weights_packed_for_another_map_serve_too(channels, bfloat16):
    for size, packed_for in (((14, 14), (56, 56)), ((56, 40), (7, 7)), ((24, 24), (14, 14))):
        x, weight, bias, residual = problem(1, size, channels, residual=True)
        x, weight, residual = rounded(x), rounded(weight), rounded(residual)
        own = run(x, weight, bias, residual, bfloat16=bfloat16)
        other = run(x, weight, bias, residual, bfloat16=bfloat16, packed_for=packed_for)
        np.testing.assert_allclose(other, own, rtol=2**-7 if bfloat16 else 0, atol=1e-5 * np.abs(own).max())


def test_weights_that_are_packed_again_at_every_call():
    """Which map sizes need that depends on the processor."""
    candidates = [((128, 512), (8, 112, 112), 56), ((4096, 1024), (1, 14, 14), 7), ((1024, 256), (3, 56, 56), 28)]
    candidates += [((64, 256), (1, 1, 1), 7), ((64, 256), (1, 9, 6), 28)]
    repacked = 0
    for (channels, out), (batch, *size), side in candidates:
        layer = (channels, out, 1, 1, 1)
        name = onednn.implementation(layer, "fp32", (batch, *size), (1, side, side), "relu")
        if "repacked" in name:
            x, weight, bias, _ = problem(batch, tuple(size), (channels, out))
            received = run(x, weight, bias, None, activation="relu", packed_for=(side, side))
            np.testing.assert_allclose(received, run(x, weight, bias, None, activation="relu"), atol=1e-3)
            repacked += 1
    if not repacked:
        pytest.skip("this processor needs none of these packed again")


def test_weights_packed_with_other_threads_serve_too():
    x, weight, bias, _ = problem(1, (14, 14), (512, 2048))
    set_threads(1)
    packed = onednn.pack(paddle.to_tensor(weight), 14, 14, 1, 1)
    expected = reference(x, weight, bias, None, 1, 1, "relu").numpy()
    for threads in (1, 2, 3):
        set_threads(threads)
        y = onednn.conv(paddle.to_tensor(x), packed, paddle.to_tensor(bias), None, 1, 1, 1, "relu").numpy()
        assert relative_difference(y, expected) < 2e-6


def test_threads_of_python_do_not_disturb_each_other():
    cases = [
        problem(batch, size, channels)
        for batch, size, channels in (
            (1, (14, 14), (64, 128)),
            (3, (9, 9), (64, 128)),
            (1, (28, 28), (128, 64)),
            (2, (7, 7), (96, 96)),
        )
    ]
    expected = [run(*case, activation="gelu") for case in cases]

    def repeat(case, result):
        for _ in range(20):
            np.testing.assert_array_equal(run(*case, activation="gelu"), result)

    with ThreadPoolExecutor(len(cases)) as pool:
        for done in [pool.submit(repeat, *pair) for pair in zip(cases, expected)]:
            done.result(timeout=120)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_images_and_means(bfloat16):
    images = np.random.default_rng(0).standard_normal((3, 3, 7, 5)).astype("float32")
    expected = rounded(images) if bfloat16 else images
    y = onednn.images(paddle.to_tensor(images), bfloat16)
    np.testing.assert_array_equal(y.astype("float32").numpy(), expected.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(onednn.pool(y).numpy(), expected.mean((2, 3)), atol=1e-6)


def test_rounding_to_bfloat16_is_that_of_paddle():
    bits = np.random.default_rng(0).integers(0, 2**32, 30000, np.uint64).astype(np.uint32)
    values = np.concatenate([bits.view(np.float32), np.array([0, -0.0, np.inf, -np.inf, np.nan, 3.4e38], np.float32)])
    y = onednn.images(paddle.to_tensor(values.reshape(1, 1, 1, -1)), True).astype("float32").numpy().ravel()
    np.testing.assert_array_equal(y, rounded(values))


# In the header of onednn.cpp: 8-byte fields first, then 4-byte ones.
WIDE = ["magic", "version", "bytes", "payload", "in", "out", "kernel", "stride", "groups"]
FIELDS = {name: (8 * index, np.int64) for index, name in enumerate(WIDE)}
FIELDS |= {name: (72 + 4 * index, np.int32) for index, name in enumerate(["dtype", "type", "form", "description"])}
FIELDS |= {"checksum": (88, np.int64)}
DESCRIPTION = 96


def conv(packed, x, bias):
    return onednn.conv(paddle.to_tensor(x), packed, paddle.to_tensor(bias), None, 1, 1, 1, "none")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("magic", 1, "no packed weights"),
        ("version", 2007000, "another version of oneDNN"),
        ("bytes", 64, "another size"),
        ("in", 17, "another layer"),
        ("out", 25, "another layer"),
        ("kernel", 3, "another layer"),
        ("stride", 2, "another layer"),
        ("groups", 2, "another layer"),
        ("dtype", 1, "another layer"),
        ("type", 99, "another processor"),
        ("form", 7, "unknown form"),
        ("description", -8, "broken header"),
        ("description", 2**31 - 1, "broken header"),
        ("payload", 0, "broken header"),
        ("payload", 1 << 40, "broken header"),
        ("checksum", 0, "broken header"),
    ],
)
def test_every_field_of_packed_weights_is_checked(field, value, message):
    x, weight, bias, _ = problem()
    good = onednn.pack(paddle.to_tensor(weight), 9, 6, 1, 1).numpy()
    conv(paddle.to_tensor(good), x, bias)
    data = good.view(np.uint8).copy()
    offset, dtype = FIELDS[field]
    place = data[offset : offset + np.dtype(dtype).itemsize].view(dtype)
    assert place[0] != value
    place[0] = value
    with pytest.raises(ValueError, match=message):
        conv(paddle.to_tensor(data.view(np.float32)), x, bias)


def test_every_word_of_the_layout_of_packed_weights_is_checked():
    x, weight, bias, _ = problem()
    good = onednn.pack(paddle.to_tensor(weight), 9, 6, 1, 1).numpy().view(np.uint8)
    offset, dtype = FIELDS["description"]
    length = good[offset : offset + 4].view(dtype)[0]
    assert length >= 64
    for place in range(DESCRIPTION, DESCRIPTION + length, 4):
        broken = good.copy()
        broken[place] ^= 1
        with pytest.raises(ValueError, match="broken header"):
            conv(paddle.to_tensor(broken.view(np.float32)), x, bias)


def test_bad_arguments():
    x, weight, bias, _ = problem()
    packed = onednn.pack(paddle.to_tensor(weight), 9, 6, 1, 1)
    other = onednn.pack(paddle.to_tensor(weight[:, :8].copy()), 9, 6, 1, 1)
    for wrong, message in (
        (other, "another layer"),
        (packed[:-16], "another size"),
        (packed[:4], "too short"),
        (paddle.rand([4096]), "no packed weights"),
    ):
        with pytest.raises(ValueError, match=message):
            conv(wrong, x, bias)
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        conv(packed, x.astype("float64"), bias)
    with pytest.raises(ValueError, match=r"X of a channels-last layer needs 4 dimensions, got \[9, 6, 16\]"):
        conv(packed, x[0], bias)
    with pytest.raises(ValueError, match="Bias of a channels-last layer must be float32"):
        conv(packed, x, bias.astype("float64"))
    tensors = paddle.to_tensor(x), paddle.to_tensor(bias)
    with pytest.raises(ValueError, match=r"residual .* like its output \[2, 9, 6, 24\], got \[2, 9, 6, 16\]"):
        onednn.conv(tensors[0], packed, tensors[1], tensors[0], 1, 1, 1, "none")
    with pytest.raises(ValueError, match="stride of a channels-last layer must be positive, got 0"):
        onednn.conv(tensors[0], packed, tensors[1], None, 1, 0, 1, "none")
    with pytest.raises(ValueError, match="unknown activation swish"):
        onednn.conv(tensors[0], packed, tensors[1], None, 1, 1, 1, "swish")
    for shape, arguments, message in (
        ([4, 4, 2, 2], [9, 6, 1, 1], "the kernel must be odd"),
        ([4, 4, 3, 5], [9, 6, 1, 1], r"must be square, got weight \[4, 4, 3, 5\]"),
        ([4, 4, 3, 3], [9, 6, 0, 1], "stride must be positive"),
        ([4, 4, 3, 3], [9, 6, 1, 0], "groups must be positive"),
        ([4, 4, 3, 3], [9, 6, 1, 3], "groups must divide"),
        ([4, 4, 3, 3], [0, 6, 1, 1], "map must not be empty"),
        ([4, 4, 3], [9, 6, 1, 1], r"Weight of a channels-last layer needs 4 dimensions, got \[4, 4, 3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            onednn.pack(paddle.rand(shape), *arguments)


def test_an_empty_batch():
    x, weight, bias, _ = problem(batch=1)
    assert run(x[:0], weight, bias, None).shape == (0, 9, 6, 24)


def test_a_layer_that_does_not_exist_has_no_implementation():
    for layer, size, reason in (
        ((4, 4, 2, 1, 1), (1, 8, 8), "the kernel must be odd"),
        ((4, 4, 3, 1, 1), (1, 0, 8), "the map must not be empty"),
        ((2**40, 2**40, 1, 1, 1), (1, 2**40, 2**40), "could not create"),  # oneDNN's own words
    ):
        with refused("ops.no-implementation", reason):
            onednn.implementation(layer, "fp32", size)


@pytest.mark.parametrize(
    ("version", "runtime", "reason"),
    [
        ((3, 6), OPENMP, None),
        ((3, 9), OPENMP, None),
        ((3, 5), OPENMP, "Paddle's oneDNN is 3.5, needed is 3.6 or a later 3.x"),
        ((2, 7), OPENMP, "Paddle's oneDNN is 2.7, needed is 3.6 or a later 3.x"),
        ((4, 0), OPENMP, "Paddle's oneDNN is 4.0, needed is 3.6 or a later 3.x"),
        ((3, 6), 1, "Paddle's oneDNN is not built for OpenMP"),
    ],
)
def test_which_versions_of_onednn_fit(version, runtime, reason):
    assert onednn.mismatch(*version, runtime) == reason


def in_a_program(build, **feed):
    """What an executor returns for ``build(**tensors)``, each tensor of unknown shape and the rank of its array."""
    paddle.enable_static()
    try:
        program = paddle.static.Program()
        with paddle.static.program_guard(program):
            result = build(**{name: paddle.static.data(name, [-1] * value.ndim) for name, value in feed.items()})
        return paddle.static.Executor().run(program, feed=feed, fetch_list=[result])[0]
    finally:
        paddle.disable_static()


def test_a_program_says_what_does_not_fit():
    x, weight, bias, _ = problem()
    packed = onednn.pack(paddle.to_tensor(weight), 9, 6, 1, 1).numpy()

    def layer(x, packed, bias, stride=1):
        return onednn.conv(x, packed, bias, None, 1, stride, 1, "relu")

    expected = reference(x, weight, bias, None, 1, 1, "relu").numpy()
    assert relative_difference(in_a_program(layer, x=x, packed=packed, bias=bias), expected) < 2e-6
    with pytest.raises(ValueError, match=r"ppreplk: X of a channels-last layer needs 4 dimensions, got \[9, 6, 16\]"):
        in_a_program(layer, x=x[0], packed=packed, bias=bias)
    with pytest.raises(ValueError, match="ppreplk: convolution: the weights were packed for another layer"):
        in_a_program(layer, x=x[..., :8].copy(), packed=packed, bias=bias)
    with pytest.raises(ValueError, match="ppreplk: the stride of a channels-last layer must be positive, got 0"):
        in_a_program(partial(layer, stride=0), x=x, packed=packed, bias=bias)
    for build in (onednn.pool, partial(onednn.images, bfloat16=False)):
        with pytest.raises(ValueError, match="ppreplk: X of a channels-last layer needs 4 dimensions"):
            in_a_program(build, x=x[0])
    with pytest.raises(ValueError, match="ppreplk: convolution: the kernel must be odd"):
        in_a_program(lambda weight: onednn.pack(weight, 9, 6, 1, 1), weight=np.zeros((4, 4, 2, 2), np.float32))


def test_the_names_of_version_0_1_0():
    """Programs exported by it contain them."""
    x, weight, bias, residual = problem(residual=True)
    x, weight, bias, residual = (paddle.to_tensor(value) for value in (x, weight, bias, residual))
    packed = call("ppreplk_dense_pack", weight, 9, 6, 1, 1, False)
    assert (packed == onednn.pack(weight, 9, 6, 1, 1)).all()
    y = call("ppreplk_dense_conv", x, packed, bias, residual, 1, 1, 1, "gelu")
    assert (y == onednn.conv(x, packed, bias, residual, 1, 1, 1, "gelu")).all()
    assert (call("ppreplk_dense_pool", y) == onednn.pool(y)).all()
    images = x.transpose([0, 3, 1, 2])
    assert (call("ppreplk_dense_images", images, False) == onednn.images(images, False)).all()


@pytest.mark.parametrize("bfloat16", [False, True])
def test_numbers_beyond_the_others(bfloat16):
    """What docs/deploy.md says of oneDNN's arithmetic. Other pixels are not touched."""
    x, _, _, _ = problem(1, (1, 8), (40, 3))
    weight = np.full((3, 40, 1, 1), 0.5, "float32")
    weight[2] = 0
    large = [np.inf, np.inf, np.nan] if bfloat16 else [1.6985e38, 1.6985e38, 0]
    for value, expected in ((np.nan, [np.nan] * 3), (np.inf, [np.inf, np.inf, np.nan]), (3.397e38, large)):
        bad = x.copy()
        bad[0, 0, 3, 5] = value
        received, good = (run(each, weight, np.zeros(3, "float32"), None, bfloat16=bfloat16)[0, 0] for each in (bad, x))
        np.testing.assert_allclose(received[3], expected, rtol=1e-3)
        np.testing.assert_array_equal(np.delete(received, 3, 0), np.delete(good, 3, 0))
