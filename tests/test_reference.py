"""The oracle, proved from numbers worked by hand, from corr2d, by adjointness and by finite differences."""

import itertools
import math

import numpy as np
import pytest

from fastconv import problem
from fastconv import reference as ref

EPS = np.finfo(np.float64).eps

# x shape, w shape, stride, padding (top, bottom, left, right), dilation, groups
CONV_CASES = {
    "plain": ((2, 3, 7, 6), (5, 3, 3, 2), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "one_by_one": ((1, 7, 4, 5), (3, 7, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "stride": ((2, 3, 9, 8), (2, 3, 2, 3), (3, 2), (0, 0, 0, 0), (1, 1), 1),
    "stride_leaves_rows": ((1, 2, 10, 9), (3, 2, 3, 2), (4, 3), (0, 0, 0, 0), (1, 1), 1),
    "padding": ((2, 2, 5, 7), (3, 2, 3, 4), (1, 1), (1, 2, 3, 0), (1, 1), 1),
    "padding_over_kernel": ((1, 2, 3, 4), (3, 2, 2, 3), (1, 2), (3, 0, 0, 4), (1, 1), 1),
    "dilation": ((2, 3, 11, 9), (5, 3, 3, 2), (1, 1), (0, 0, 0, 0), (2, 3), 1),
    "groups": ((2, 6, 5, 6), (4, 3, 2, 3), (1, 1), (0, 0, 0, 0), (1, 1), 2),
    "depthwise": ((2, 5, 6, 7), (10, 1, 3, 2), (1, 2), (1, 0, 0, 1), (1, 1), 5),
    "all": ((2, 6, 13, 10), (9, 2, 3, 2), (2, 3), (2, 1, 0, 3), (3, 2), 3),
    "kernel_is_input": ((3, 2, 5, 3), (4, 2, 5, 3), (2, 1), (0, 0, 0, 0), (1, 1), 1),
    "kernel_over_input": ((2, 3, 2, 3), (2, 3, 4, 5), (1, 1), (1, 2, 2, 0), (1, 1), 1),
}

# x shape, kernel, stride, padding, dilation, ceil_mode
POOL_CASES = {
    "plain": ((2, 3, 6, 8), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False),
    "overlap": ((1, 2, 7, 9), (3, 2), (2, 1), (0, 0, 0, 0), (1, 1), False),
    "gaps": ((2, 1, 9, 8), (2, 1), (3, 4), (0, 0, 0, 0), (1, 1), False),
    "padding": ((2, 3, 5, 6), (3, 4), (2, 3), (1, 1, 2, 2), (1, 1), False),
    "same_rule": ((1, 3, 7, 5), (4, 3), (3, 2), (1, 2, 0, 1), (1, 1), False),
    "ceil": ((2, 2, 6, 8), (3, 2), (2, 3), (0, 0, 0, 0), (1, 1), True),
    "ceil_padding": ((1, 3, 7, 6), (3, 4), (3, 3), (1, 1, 2, 2), (1, 1), True),
    "ceil_input_under_kernel": ((1, 2, 2, 3), (3, 4), (2, 2), (0, 0, 0, 0), (1, 1), True),
    "dilation": ((2, 3, 11, 9), (3, 2), (2, 1), (1, 1, 0, 0), (2, 3), False),
}


def conv_case(name):
    """The case's geometry and random x, w, b, gy."""
    x_shape, w_shape, stride, padding, dilation, groups = CONV_CASES[name]
    rng = np.random.default_rng(abs(hash(CONV_CASES[name])))
    x, w, b = rng.standard_normal(x_shape), rng.standard_normal(w_shape), rng.standard_normal(w_shape[0])
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    gy = rng.standard_normal(ref.conv2d(x, w, **geometry).shape)
    return geometry, x, w, b, gy


def pool_case(name):
    """The case's geometry and an x whose elements are different integers, so that max pooling has no tie."""
    x_shape, kernel, stride, padding, dilation, ceil_mode = POOL_CASES[name]
    rng = np.random.default_rng(abs(hash(POOL_CASES[name])))
    x = rng.permutation(math.prod(x_shape)).reshape(x_shape).astype(np.float64)
    out_size = tuple(
        ref.pool_output_size(
            x_shape[2 + a], kernel[a], stride[a], padding[2 * a], padding[2 * a + 1], dilation[a], ceil_mode
        )
        for a in range(2)
    )
    gy = rng.standard_normal(x_shape[:2] + out_size)
    return kernel, stride, padding, dilation, out_size, x, gy


def assert_sums_equal(actual, expected, terms, scale):
    """Two orders of summing the same `terms` products, each of magnitude at most about `scale`, in float64."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=4 * EPS * math.sqrt(terms) * scale)


def slope(function, at, direction, step):
    """The central difference of a scalar function at `at` along `direction`."""
    return (function(at + step * direction) - function(at - step * direction)) / (2 * step)


# corr2d and convolve2d, by hand


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint8", "float32", "float64"])
def test_corr2d_of_the_lesson(dtype):
    X, K = np.arange(9, dtype=dtype).reshape(3, 3), np.arange(4, dtype=dtype).reshape(2, 2)
    Y, C = ref.corr2d(X, K), ref.convolve2d(X, K)
    assert Y.tolist() == [[19, 25], [37, 43]]
    assert C.tolist() == [[5, 11], [23, 29]]
    assert Y.dtype == C.dtype == (np.float64 if dtype.startswith("float") else np.int64)


def test_corr2d_takes_lists():
    assert ref.corr2d([[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 0, -2]]).tolist() == [[-5, -6], [-9, -10]]


def test_corr2d_of_unequal_sides():
    # Rows 0..1: 1·1 + 5·10 + 2·100 + 6·1000 = 6251, and each step right adds 1111.
    X = np.arange(1, 13).reshape(3, 4)
    assert ref.corr2d(X, [[1, 100], [10, 1000]]).tolist() == [[6251, 7362, 8473], [10695, 11806, 12917]]


def test_corr2d_does_not_overflow_small_integers():
    X = np.full((2, 3), 200, dtype=np.uint8)
    assert ref.corr2d(X, X[:, :2]).tolist() == [[160000, 160000]]


def test_corr2d_sums_float32_in_float64():
    # 1 is lost beside 2**24 in float32.
    X = np.array([[2**24, 1, -(2**24)]], dtype=np.float32)
    assert ref.corr2d(X, np.ones((1, 3), dtype=np.float32)).tolist() == [[1.0]]


def test_corr2d_counts_a_binary_patch():
    X = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]], dtype=bool)
    K = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=bool)
    assert ref.corr2d(X, K).tolist() == [[4, 3, 4], [2, 4, 3], [2, 3, 4]]
    y = ref.conv2d(X[None, None], K[None, None], stride=(2, 2))
    assert y.tolist() == [[[[4, 4], [2, 4]]]]


def test_corr2d_finds_edges():
    X = np.ones((6, 8))
    X[:, 2:6] = 0
    assert ref.corr2d(X, [[1, -1]]).tolist() == [[0, 1, 0, 0, 0, -1, 0]] * 6
    assert not ref.corr2d(X.T, [[1, -1]]).any()


@pytest.mark.parametrize("function", [ref.corr2d, ref.convolve2d])
@pytest.mark.parametrize(
    ("x_shape", "k_shape", "message"),
    [
        ((3,), (1, 1), "X has shape"),
        ((3, 3), (2,), r"K \(2,\): both need two dimensions"),
        ((1, 3, 3), (2, 2), "both need two dimensions"),
        ((3, 3), (4, 2), r"K has shape \(4, 2\): needs at least \(1, 1\) and at most"),
        ((3, 3), (2, 4), "at most X's shape"),
        ((3, 3), (0, 2), "at least"),
    ],
)
def test_corr2d_names_what_is_wrong(function, x_shape, k_shape, message):
    with pytest.raises(ValueError, match=message):
        function(np.ones(x_shape), np.ones(k_shape))


# Convolution, from corr2d


@pytest.mark.parametrize("name", CONV_CASES)
def test_conv2d_is_corr2d_summed_over_channels(name):
    geometry, x, w, b, _ = conv_case(name)
    (sh, sw), (dh, dw) = geometry["stride"], geometry["dilation"]
    top, bottom, left, right = geometry["padding"]
    n, c, height, width = x.shape
    o, cg, kh, kw = w.shape
    xpadded = np.zeros((n, c, top + height + bottom, left + width + right))
    xpadded[:, :, top : top + height, left : left + width] = x
    dilated = np.zeros((o, cg, dh * (kh - 1) + 1, dw * (kw - 1) + 1))
    dilated[:, :, ::dh, ::dw] = w
    og = o // geometry["groups"]
    expected = np.stack(
        [
            [
                b[k] + sum(ref.corr2d(xpadded[m, k // og * cg + d], dilated[k, d]) for d in range(cg))[::sh, ::sw]
                for k in range(o)
            ]
            for m in range(n)
        ]
    )
    assert_sums_equal(ref.conv2d(x, w, b, **geometry), expected, cg * kh * kw + 1, np.abs(x).max() * np.abs(w).max())


def test_conv2d_with_numbers_worked_by_hand():
    # Two channels: the window's sum over the first, minus the second's last column; 0.5 is the bias.
    x = np.arange(12).reshape(1, 2, 2, 3)
    w = np.array([[[[1, 1], [1, 1]], [[0, 0], [0, -1]]]])
    assert ref.conv2d(x, w, [0.5]).tolist() == [[[[0 + 1 + 3 + 4 - 10 + 0.5, 1 + 2 + 4 + 5 - 11 + 0.5]]]]
    padded = ref.conv2d(x, w, [0.5], stride=(2, 2), padding=(1, 0, 0, 1))
    assert padded.tolist() == [[[[0 + 1 - 7 + 0.5, 2 + 0.5]]]]


@pytest.mark.parametrize("name", ["groups", "depthwise", "all"])
def test_groups_are_separate_convolutions_side_by_side(name):
    geometry, x, w, b, gy = conv_case(name)
    groups = geometry["groups"]
    alone = {**geometry, "groups": 1}
    xs, ws, bs, gys = (np.split(a, groups, axis) for a, axis in ((x, 1), (w, 0), (b, 0), (gy, 1)))
    y = np.concatenate([ref.conv2d(*part, **alone) for part in zip(xs, ws, bs, strict=True)], axis=1)
    gx = np.concatenate(
        [ref.conv2d_grad_input(a.shape, c, g, **alone) for a, c, g in zip(xs, ws, gys, strict=True)], axis=1
    )
    gw = np.concatenate(
        [ref.conv2d_grad_weight(a, c.shape, g, **alone) for a, c, g in zip(xs, ws, gys, strict=True)], axis=0
    )
    scale = max(np.abs(a).max() for a in (x, w, gy)) ** 2
    assert_sums_equal(ref.conv2d(x, w, b, **geometry), y, w[0].size + 1, scale)
    assert_sums_equal(ref.conv2d_grad_input(x.shape, w, gy, **geometry), gx, w[:, 0].size, scale)
    assert_sums_equal(ref.conv2d_grad_weight(x, w.shape, gy, **geometry), gw, gy[:, 0].size, scale)


def test_groups_that_do_not_fit_are_refused():
    x, w = np.ones((1, 6, 3, 3)), np.ones((4, 3, 2, 2))
    with pytest.raises(ValueError, match="groups=1: does not split 6 input channels"):
        ref.conv2d(x, w)
    with pytest.raises(ValueError, match="groups=3"):
        ref.conv2d(x, np.ones((4, 2, 2, 2)), groups=3)


@pytest.mark.parametrize("name", CONV_CASES)
def test_conv2d_and_its_gradients_are_adjoint(name):
    geometry, x, w, _, gy = conv_case(name)
    y = ref.conv2d(x, w, **geometry)
    gx = ref.conv2d_grad_input(x.shape, w, gy, **geometry)
    gw = ref.conv2d_grad_weight(x, w.shape, gy, **geometry)
    assert gx.shape == x.shape
    assert gw.shape == w.shape
    products = y.size * w[0].size
    tolerance = EPS * math.sqrt(products) * np.abs(x).max() * np.abs(w).max() * np.abs(gy).max()
    assert abs(np.vdot(y, gy) - np.vdot(x, gx)) <= tolerance
    assert abs(np.vdot(y, gy) - np.vdot(w, gw)) <= tolerance


@pytest.mark.parametrize("name", CONV_CASES)
def test_conv2d_gradients_are_slopes(name):
    geometry, x, w, b, gy = conv_case(name)
    rng = np.random.default_rng(3)
    vx, vw, vb = (rng.standard_normal(a.shape) for a in (x, w, b))
    gx = ref.conv2d_grad_input(x.shape, w, gy, **geometry)
    gw = ref.conv2d_grad_weight(x, w.shape, gy, **geometry)
    # The loss is linear in each argument, so that a step of 1 has no truncation error.
    scale = EPS * math.sqrt(gy.size * w[0].size) * 100
    assert abs(slope(lambda a: np.vdot(gy, ref.conv2d(a, w, b, **geometry)), x, vx, 1.0) - np.vdot(gx, vx)) <= scale
    assert abs(slope(lambda a: np.vdot(gy, ref.conv2d(x, a, b, **geometry)), w, vw, 1.0) - np.vdot(gw, vw)) <= scale
    gb = ref.conv2d_grad_bias(gy)
    assert abs(slope(lambda a: np.vdot(gy, ref.conv2d(x, w, a, **geometry)), b, vb, 1.0) - np.vdot(gb, vb)) <= scale


def test_grad_input_spreads_the_kernel_by_hand():
    # One output at each corner of a 2×2 gy with stride 2 over a 3×4 input: kernels laid side by side, row 2 cut off.
    w = np.array([[[[1, 2]]]])
    gy = np.array([[[[1, 10], [100, 1000]]]])
    gx = ref.conv2d_grad_input((1, 1, 3, 4), w, gy, stride=(2, 2))
    assert gx.tolist() == [[[[1, 2, 10, 20], [0, 0, 0, 0], [100, 200, 1000, 2000]]]]
    assert ref.conv2d_grad_bias(gy).tolist() == [1111]


def test_gradients_of_nothing_are_zero():
    x, gy = np.zeros((0, 3, 5, 4)), np.zeros((0, 2, 4, 3))
    assert ref.conv2d(x, np.ones((2, 3, 2, 2))).shape == (0, 2, 4, 3)
    assert ref.conv2d_grad_input(x.shape, np.ones((2, 3, 2, 2)), gy).shape == x.shape
    assert not ref.conv2d_grad_weight(x, (2, 3, 2, 2), gy).any()
    assert not ref.conv2d_grad_bias(gy).any()


def test_nan_and_inf_travel_through_convolution_without_a_warning():
    x = np.ones((1, 1, 4, 5))
    x[0, 0, 0, 0], x[0, 0, 3, 4], x[0, 0, 3, 3] = np.nan, np.inf, -np.inf
    y = ref.conv2d(x, np.ones((1, 1, 2, 2)))[0, 0]
    assert np.isnan(y[0, 0])
    assert np.isnan(y[2, 3])
    assert y[2, 2] == -np.inf
    assert np.isfinite(y).sum() == 9


# Pooling


def lesson_planes():
    return np.arange(32).reshape(1, 2, 4, 4)


def test_max_pool2d_of_the_lesson():
    y, _ = ref.max_pool2d(lesson_planes(), (3, 3), (2, 1), (1, 1, 1, 1))
    assert y.tolist() == [[[[5, 6, 7, 7], [13, 14, 15, 15]], [[21, 22, 23, 23], [29, 30, 31, 31]]]]
    y, indices = ref.max_pool2d(lesson_planes(), (3, 3), (2, 2), (1, 1, 1, 1))
    assert y.tolist() == [[[[5, 7], [13, 15]], [[21, 23], [29, 31]]]]
    assert indices.tolist() == [[[[5, 7], [13, 15]]] * 2]
    assert indices.dtype == np.int64


def test_avg_pool2d_of_the_lesson():
    y = ref.avg_pool2d(lesson_planes(), (3, 3), (2, 1), (1, 1, 1, 1))
    ninths = [[10, 18, 24, 18], [51, 81, 90, 63]], [[74, 114, 120, 82], [147, 225, 234, 159]]
    np.testing.assert_array_equal(y[0], np.array(ninths) / 9)
    y = ref.avg_pool2d(lesson_planes(), (3, 3), (2, 2), (1, 1, 1, 1), count_include_pad=False)
    assert y.tolist() == [[[[2.5, 4], [8.5, 10]], [[18.5, 20], [24.5, 26]]]]


def test_max_pooling_never_chooses_padding():
    y, indices = ref.max_pool2d(-1.0 - lesson_planes(), (3, 3), (2, 2), (1, 1, 1, 1))
    assert y[0, 0].tolist() == [[-1, -2], [-5, -6]]
    assert indices[0, 0].tolist() == [[0, 1], [4, 5]]
    y, indices = ref.max_pool2d(np.full((1, 1, 4, 4), -np.inf), (3, 3), (2, 2), (1, 1, 1, 1))
    assert (y == -np.inf).all()
    assert indices[0, 0].tolist() == [[0, 1], [4, 5]]


@pytest.mark.parametrize(
    ("row", "value", "index"),
    [
        ([1, 1, 1], 1, 0),
        ([0, 2, 2], 2, 1),
        ([-0.0, 0.0, 0.0], 0, 0),
        ([np.inf, 1, np.inf], np.inf, 0),
        ([-np.inf, -np.inf, -np.inf], -np.inf, 0),
        ([1, np.nan, 2], np.nan, 1),
        ([np.nan, np.inf, 3], np.nan, 0),
        ([np.nan, 1, np.nan], np.nan, 2),
    ],
)
def test_max_pooling_takes_the_first_of_ties_and_the_last_nan(row, value, index):
    for shape in (1, 3), (3, 1):
        x = np.array(row, dtype=np.float64).reshape(1, 1, *shape)
        y, indices = ref.max_pool2d(x, shape, (1, 1))
        np.testing.assert_array_equal(y, [[[[value]]]])
        assert indices.tolist() == [[[[index]]]]
        gx = ref.max_pool2d_grad(x, np.full((1, 1, 1, 1), 7.0), shape, (1, 1))
        assert gx.ravel().tolist() == [7.0 if i == index else 0.0 for i in range(3)]


def test_a_window_wholly_in_the_padding():
    # Two taps three apart around a row of two: both miss it.
    x = np.ones((1, 1, 1, 2))
    y, indices = ref.max_pool2d(x, (1, 2), (1, 1), (0, 0, 1, 1), (1, 3))
    assert y.tolist() == [[[[-np.inf]]]]
    assert indices.tolist() == [[[[-1]]]]
    assert not ref.max_pool2d_grad(x, y, (1, 2), (1, 1), (0, 0, 1, 1), (1, 3)).any()
    assert ref.avg_pool2d(x, (1, 1), (1, 1), (0, 0, 2, 1), count_include_pad=False).tolist() == [[[[0, 0, 1, 1, 0]]]]


def window_of_ones(x, kernel, stride, padding, dilation, out_size):
    """(sum over the window, elements in the input, elements in the padded input), through corr2d's convolution."""
    top, bottom, left, right = padding
    n, c, height, width = x.shape
    reach = [stride[a] * (out_size[a] - 1) + dilation[a] * (kernel[a] - 1) + 1 for a in range(2)]
    more = [max(reach[0] - top - height - bottom, 0), max(reach[1] - left - width - right, 0)]
    ones = np.ones((1, 1, *kernel))
    geometry = {"stride": stride, "dilation": dilation}
    grown = (top, bottom + more[0], left, right + more[1])
    total = ref.conv2d(x.reshape(n * c, 1, height, width), ones, padding=grown, **geometry)
    inside = ref.conv2d(np.ones((1, 1, height, width)), ones, padding=grown, **geometry)
    padded = np.ones((1, 1, top + height + bottom, left + width + right))
    counted = ref.conv2d(padded, ones, padding=(0, more[0], 0, more[1]), **geometry)
    cut = np.s_[:, :, : out_size[0], : out_size[1]]
    return total[cut].reshape(n, c, *out_size), inside[cut], counted[cut]


@pytest.mark.parametrize("name", [name for name in POOL_CASES if name != "dilation"])
def test_avg_pool2d_is_a_convolution_with_ones_divided_by_its_window(name):
    kernel, stride, padding, dilation, out_size, x, _ = pool_case(name)
    total, inside, counted = window_of_ones(x, kernel, stride, padding, dilation, out_size)
    arguments = (x, kernel, stride, padding)
    # x holds integers: the sums are exact.
    np.testing.assert_array_equal(ref.avg_pool2d(*arguments, True, None, out_size), total / counted)
    np.testing.assert_array_equal(ref.avg_pool2d(*arguments, False, None, out_size), total / inside)
    np.testing.assert_array_equal(ref.avg_pool2d(*arguments, True, 5, out_size), total / 5)


@pytest.mark.parametrize("name", POOL_CASES)
def test_max_pool2d_is_the_largest_of_its_window_and_says_where(name):
    kernel, stride, padding, dilation, out_size, x, _ = pool_case(name)
    y, indices = ref.max_pool2d(x, kernel, stride, padding, dilation, out_size)
    assert y.shape == indices.shape == x.shape[:2] + out_size
    planes = x.reshape(-1, x.shape[2] * x.shape[3])
    np.testing.assert_array_equal(
        np.take_along_axis(planes, indices.reshape(len(planes), -1), axis=1).reshape(y.shape), y
    )
    top, _, left, _ = padding
    low = np.full((x.shape[0], x.shape[1], 40, 40), -1.0)
    low[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
    for i, j in np.ndindex(out_size):
        i0, j0 = i * stride[0], j * stride[1]
        window = low[:, :, i0 :: dilation[0], j0 :: dilation[1]][:, :, : kernel[0], : kernel[1]]
        np.testing.assert_array_equal(y[:, :, i, j], window.max(axis=(2, 3)))


@pytest.mark.parametrize("name", POOL_CASES)
def test_max_pool2d_gradient_is_a_slope(name):
    kernel, stride, padding, dilation, out_size, x, gy = pool_case(name)
    gx = ref.max_pool2d_grad(x, gy, kernel, stride, padding, dilation)
    v = np.random.default_rng(5).standard_normal(x.shape)

    def loss(a):
        return np.vdot(gy, ref.max_pool2d(a, kernel, stride, padding, dilation, out_size)[0])

    # The elements of x differ by 1 at least, so that a step of 1/16 changes no maximum and the loss is linear.
    step = 1 / 16
    assert step * np.abs(v).max() < 0.5
    assert abs(slope(loss, x, v, step) - np.vdot(gx, v)) <= EPS * math.sqrt(gy.size) * np.abs(gy).max() * x.max() / step


@pytest.mark.parametrize("name", [name for name in POOL_CASES if name != "dilation"])
@pytest.mark.parametrize(("include", "divisor"), [(True, None), (False, None), (True, 3)])
def test_avg_pool2d_gradient_is_adjoint_and_a_slope(name, include, divisor):
    kernel, stride, padding, _, out_size, x, gy = pool_case(name)
    gx = ref.avg_pool2d_grad(x.shape, gy, kernel, stride, padding, include, divisor)
    y = ref.avg_pool2d(x, kernel, stride, padding, include, divisor, out_size)
    tolerance = EPS * math.sqrt(gy.size * math.prod(kernel)) * np.abs(gy).max() * x.max()
    assert gx.shape == x.shape
    assert abs(np.vdot(y, gy) - np.vdot(x, gx)) <= tolerance
    v = np.random.default_rng(7).standard_normal(x.shape)

    def loss(a):
        return np.vdot(gy, ref.avg_pool2d(a, kernel, stride, padding, include, divisor, out_size))

    assert abs(slope(loss, x, v, 1.0) - np.vdot(gx, v)) <= tolerance


def test_nan_and_inf_travel_through_average_pooling_without_a_warning():
    x = np.array([[[[1, 2, np.nan, 1, np.inf, -np.inf, np.inf, 1]]]])
    np.testing.assert_array_equal(ref.avg_pool2d(x, (1, 2), (1, 2)), [[[[1.5, np.nan, np.nan, np.inf]]]])


@pytest.mark.parametrize(
    ("arguments", "ceil_mode", "windows"),
    [
        # size, kernel, stride, before, after, dilation
        ((6, 3, 2, 0, 0, 1), False, 2),
        ((6, 3, 2, 0, 0, 1), True, 3),
        ((6, 2, 2, 0, 0, 1), True, 3),
        # The fourth window would start at 6, in the right padding: it does not count.
        ((5, 2, 2, 1, 1, 1), True, 3),
        ((5, 2, 2, 1, 1, 1), False, 3),
        ((6, 3, 2, 1, 1, 1), True, 4),
        ((6, 3, 2, 1, 1, 1), False, 3),
        ((2, 3, 2, 0, 0, 1), False, 0),
        ((2, 3, 2, 0, 0, 1), True, 1),
        ((9, 3, 2, 0, 0, 3), False, 2),
        ((28, 2, 2, 0, 0, 1), False, 14),
        ((28, 5, 1, 0, 0, 1), False, 24),
        ((55, 3, 2, 0, 0, 1), False, 27),
    ],
)
def test_pool_output_size_by_hand(arguments, ceil_mode, windows):
    assert ref.pool_output_size(*arguments, ceil_mode) == windows


def test_the_two_output_size_formulas_of_the_library_agree():
    """Counting windows here, arithmetic in fastconv.problem."""
    for size, kernel, stride, dilation in itertools.product(range(1, 14), range(1, 6), range(1, 6), range(1, 4)):
        for before, after, ceil in itertools.product(range(kernel // 2 + 1), range(kernel // 2 + 1), (False, True)):
            arguments = (size, kernel, stride, before, after, dilation, ceil)
            assert ref.pool_output_size(*arguments) == max(problem.pool_output_size(*arguments), 0), arguments


# Linear, softmax, cross-entropy


def test_linear_by_hand():
    x, w = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[1, 0, 10], [0, 1, 0]])
    assert ref.linear(x, w).tolist() == [[31, 2], [64, 5]]
    assert ref.linear(x, w, [100, 200]).tolist() == [[131, 202], [164, 205]]
    gy = np.array([[1, 2], [3, 4]])
    assert ref.linear_grad_input(w, gy).tolist() == [[1, 2, 10], [3, 4, 30]]
    assert ref.linear_grad_weight(x, gy).tolist() == [[13, 17, 21], [18, 24, 30]]


def test_linear_is_a_convolution_whose_kernel_is_the_input():
    rng = np.random.default_rng(11)
    x, w, b = rng.standard_normal((3, 2, 5, 7)), rng.standard_normal((11, 2, 5, 7)), rng.standard_normal(11)
    y = ref.linear(x.reshape(3, 70), w.reshape(11, 70), b)
    assert_sums_equal(y, ref.conv2d(x, w, b)[:, :, 0, 0], 71, np.abs(x).max() * np.abs(w).max())


def test_softmax_and_cross_entropy_by_hand():
    x = np.log([[1, 2, 3, 4], [1, 1, 1, 5]])
    tight = {"rtol": 4 * EPS, "atol": 0}
    np.testing.assert_allclose(ref.softmax(x), [[0.1, 0.2, 0.3, 0.4], [0.125, 0.125, 0.125, 0.625]], **tight)
    np.testing.assert_allclose(ref.softmax(x.T, axis=0), ref.softmax(x).T, **tight)
    np.testing.assert_allclose(ref.log_softmax(x), np.log(ref.softmax(x)), **tight)
    np.testing.assert_allclose(ref.cross_entropy(x, [3, 0]), -(math.log(0.4) + math.log(0.125)) / 2, **tight)


def test_softmax_does_not_overflow():
    assert ref.softmax([[1000.0, 1000.0, -1000.0]]).tolist() == [[0.5, 0.5, 0]]
    assert ref.log_softmax([[1000.0, 0.0]]).tolist() == [[0, -1000]]
    assert ref.cross_entropy([[1000.0, 0.0]], [1]) == 1000


def test_the_oracle_imports_numpy_only():
    with open(ref.__file__, encoding="utf-8") as source:
        imports = [line for line in source if line.startswith(("import", "from"))]
    assert {line.split()[1].split(".")[0] for line in imports} == {"__future__", "typing", "numpy"}
