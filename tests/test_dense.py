"""The dense layers of fast programs, against float64."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest
from conftest import relative_difference, require_fast_operators

from ppreplk.models.replknet import VARIANTS
from ppreplk.ops import dense
from ppreplk.runtime import available_cores, set_threads


@pytest.fixture(autouse=True)
def operators():
    require_fast_operators()
    yield
    dense.choose_form("automatic")
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
    return {"none": lambda y: y, "relu": paddle.nn.functional.relu, "gelu": paddle.nn.functional.gelu}[activation](y)


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
    packed = dense.pack(paddle.to_tensor(weight), *size, stride, groups, bfloat16)
    tensors = [None if value is None else paddle.to_tensor(value).astype(dtype) for value in (x, residual)]
    y = dense.conv(tensors[0], packed, paddle.to_tensor(bias), tensors[1], weight.shape[-1], stride, groups, activation)
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


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
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


@pytest.mark.parametrize("form", ["convolution", "product"])
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_both_forms_of_a_pointwise_convolution(form, activation, bfloat16):
    dense.choose_form(form)
    assert dense.implementation(64, 256, 1, 1, 1, bfloat16, (2, 9, 6)).startswith(form)
    assert dense.implementation(64, 64, 3, 1, 1, bfloat16, (2, 9, 6)).startswith("convolution")
    for size, packed_for in (((9, 6), None), ((9, 6), (28, 28)), ((1, 1), (7, 7))):
        x, weight, bias, residual = problem(2, size, (64, 256), residual=True)
        x, weight, residual = rounded(x), rounded(weight), rounded(residual)
        for added in (None, residual):
            expected = reference(x, weight, bias, added, 1, 1, activation).numpy()
            received = run(x, weight, bias, added, activation=activation, bfloat16=bfloat16, packed_for=packed_for)
            rtol, atol = (2**-8, 1e-5) if bfloat16 else (0, 2e-6)
            np.testing.assert_allclose(received, expected, rtol=rtol, atol=atol * np.abs(expected).max())


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("name", ["RepLKNet31B", "RepLKNet31L", "RepLKNetXL", "RepLKNet13T"])
def test_no_layer_runs_on_reference_code(name, bfloat16):
    width, dw_ratio = VARIANTS[name]["channels"][0], VARIANTS[name].get("dw_ratio", 1)
    layers = [(3, width, 3, 2, 1, 224), (width, width, 3, 1, width, 112), (width, width, 1, 1, 1, 112)]
    layers += [(width, width, 3, 2, width, 112)]
    for stage in range(4):
        channels, size = width << stage, 56 >> stage
        for inner in (int(channels * dw_ratio), 4 * channels):
            layers += [(channels, inner, 1, 1, 1, size), (inner, channels, 1, 1, 1, size)]
        layers += [(channels, 2 * channels, 1, 1, 1, size), (2 * channels, 2 * channels, 3, 2, 2 * channels, size)]
    for *layer, size in layers:
        for batch in (1, 3):
            name = dense.implementation(*layer, bfloat16, (batch, size, size))
            assert name.startswith(("convolution ", "product ")) and " ref" not in name, (layer, size, name)


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("channels", [(128, 512), (512, 128), (640, 1024), (7, 9)])
def test_weights_packed_for_another_map_serve_too(channels, bfloat16):
    for size, packed_for in (((14, 14), (56, 56)), ((56, 40), (7, 7)), ((24, 24), (14, 14))):
        x, weight, bias, residual = problem(1, size, channels, residual=True)
        x, weight, residual = rounded(x), rounded(weight), rounded(residual)
        own = run(x, weight, bias, residual, bfloat16=bfloat16)
        other = run(x, weight, bias, residual, bfloat16=bfloat16, packed_for=packed_for)
        np.testing.assert_allclose(other, own, rtol=2**-7 if bfloat16 else 0, atol=1e-5 * np.abs(own).max())


def test_weights_packed_with_other_threads_serve_too():
    x, weight, bias, _ = problem(1, (14, 14), (512, 2048))
    set_threads(1)
    packed = dense.pack(paddle.to_tensor(weight), 14, 14, 1, 1, False)
    expected = reference(x, weight, bias, None, 1, 1, "relu").numpy()
    for threads in (1, 2, 3):
        set_threads(threads)
        y = dense.conv(paddle.to_tensor(x), packed, paddle.to_tensor(bias), None, 1, 1, 1, "relu").numpy()
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
    y = dense.images(paddle.to_tensor(images), bfloat16)
    np.testing.assert_array_equal(y.astype("float32").numpy(), expected.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(dense.pool(y).numpy(), expected.mean((2, 3)), atol=1e-6)


def test_rounding_to_bfloat16_is_that_of_paddle():
    bits = np.random.default_rng(0).integers(0, 2**32, 30000, np.uint64).astype(np.uint32)
    values = np.concatenate([bits.view(np.float32), np.array([0, -0.0, np.inf, -np.inf, np.nan, 3.4e38], np.float32)])
    y = dense.images(paddle.to_tensor(values.reshape(1, 1, 1, -1)), True).astype("float32").numpy().ravel()
    np.testing.assert_array_equal(y, rounded(values))


# In the header of dense.cpp: 8-byte fields first, then 4-byte ones.
FIELDS = {name: (8 * index, np.int64) for index, name in enumerate(
    ["magic", "version", "bytes", "payload", "in", "out", "kernel", "stride", "groups"])}  # fmt: skip
FIELDS |= {name: (72 + 4 * index, np.int32) for index, name in enumerate(["dtype", "type", "form", "description"])}
DESCRIPTION = 88


def conv(packed, x, bias):
    return dense.conv(paddle.to_tensor(x), packed, paddle.to_tensor(bias), None, 1, 1, 1, "none")


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
        ("description", -8, "broken description"),
        ("description", 2**31 - 1, "broken description"),
        ("payload", 0, "broken description"),
        ("payload", 1 << 40, "broken description"),
    ],
)
def test_every_field_of_packed_weights_is_checked(field, value, message):
    x, weight, bias, _ = problem()
    good = dense.pack(paddle.to_tensor(weight), 9, 6, 1, 1, False).numpy()
    conv(paddle.to_tensor(good), x, bias)
    data = good.view(np.uint8).copy()
    offset, dtype = FIELDS[field]
    place = data[offset : offset + np.dtype(dtype).itemsize].view(dtype)
    assert place[0] != value
    place[0] = value
    with pytest.raises(Exception, match=message):
        conv(paddle.to_tensor(data.view(np.float32)), x, bias)


def test_the_layout_of_packed_weights_is_checked():
    x, weight, bias, _ = problem()
    good = dense.pack(paddle.to_tensor(weight), 9, 6, 1, 1, False).numpy().view(np.uint8).copy()
    other = dense.pack(paddle.rand([16, 48, 1, 1]), 9, 6, 1, 1, False).numpy().view(np.uint8)
    length = good[FIELDS["description"][0] :][:4].view(np.int32)[0]
    good[DESCRIPTION : DESCRIPTION + length] = other[DESCRIPTION : DESCRIPTION + length]
    with pytest.raises(Exception, match="broken description"):
        conv(paddle.to_tensor(good.view(np.float32)), x, bias)


def test_bad_arguments():
    x, weight, bias, _ = problem()
    packed = dense.pack(paddle.to_tensor(weight), 9, 6, 1, 1, False)
    other = dense.pack(paddle.to_tensor(weight[:, :8].copy()), 9, 6, 1, 1, False)
    for wrong, message in (
        (other, "another layer"),
        (packed[:-16], "another size"),
        (packed[:4], "too short"),
        (paddle.rand([4096]), "no packed weights"),
    ):
        with pytest.raises(Exception, match=message):
            conv(wrong, x, bias)
    with pytest.raises(Exception, match="float32 or bfloat16"):
        conv(packed, x.astype("float64"), bias)
    with pytest.raises(Exception, match="X of a dense layer needs 4 dimensions, it has 3"):
        conv(packed, x[0], bias)
    with pytest.raises(Exception, match="bias of a dense layer must be float32"):
        conv(packed, x, bias.astype("float64"))
    tensors = paddle.to_tensor(x), paddle.to_tensor(bias)
    with pytest.raises(Exception, match="residual .* like its output"):
        dense.conv(tensors[0], packed, tensors[1], tensors[0], 1, 1, 1, "none")
    with pytest.raises(Exception, match="stride of a dense layer must be positive, not 0"):
        dense.conv(tensors[0], packed, tensors[1], None, 1, 0, 1, "none")
    with pytest.raises(Exception, match="unknown activation swish"):
        dense.conv(tensors[0], packed, tensors[1], None, 1, 1, 1, "swish")
    for shape, arguments, message in (
        ([4, 4, 2, 2], [9, 6, 1, 1], "the kernel must be odd"),
        ([4, 4, 3, 5], [9, 6, 1, 1], "must be square, not 3x5"),
        ([4, 4, 3, 3], [9, 6, 0, 1], "stride must be positive"),
        ([4, 4, 3, 3], [9, 6, 1, 0], "groups must be positive"),
        ([4, 4, 3, 3], [9, 6, 1, 3], "groups must divide"),
        ([4, 4, 3, 3], [0, 6, 1, 1], "map must not be empty"),
        ([4, 4, 3], [9, 6, 1, 1], "Weight of a dense layer needs 4 dimensions, it has 3"),
    ):
        with pytest.raises(Exception, match=message):
            dense.pack(paddle.rand(shape), *arguments, False)


def test_an_empty_batch():
    x, weight, bias, _ = problem(batch=1)
    assert run(x[:0], weight, bias, None).shape == (0, 9, 6, 24)
