"""SIMD vectors and tiles, one operation at a time, against NumPy: both dtypes, at the host's own width."""

import numpy as np
import pytest

from fastconv.kernels.cpu import simd, tiles
from fastconv.kernels.cpu.host import VECTOR_BYTES
from fastconv.kernels.cpu.jit import njit

DTYPES = ("float32", "float64")


def width(dtype):
    return VECTOR_BYTES // np.dtype(dtype).itemsize


def data(dtype, size, seed=0):
    return np.random.default_rng(seed).standard_normal(size).astype(dtype)


@njit
def _binary(kind, a, b, out):
    x, y = simd.load(a, 1), simd.load(b, 2)
    if kind == 0:
        z = simd.add(x, y)
    elif kind == 1:
        z = simd.sub(x, y)
    elif kind == 2:
        z = simd.mul(x, y)
    elif kind == 3:
        z = simd.maximum(x, y)
    elif kind == 4:
        z = simd.minimum(x, y)
    elif kind == 5:
        z = simd.even_lanes(x, y)
    elif kind == 6:
        z = simd.odd_lanes(x, y)
    elif kind == 7:
        z = simd.zip_low(x, y)
    elif kind == 8:
        z = simd.zip_high(x, y)
    elif kind == 9:
        z = simd.fma(x, y, simd.splat(a, 3.0))
    else:
        z = simd.select_greater(x, y, simd.splat(a, 1.0), simd.splat(a, 2.0))
    simd.store(out, 0, z)
    out[simd.lanes(a)] = simd.sum_lanes(x)


def zipped(x, y):
    return np.stack([x, y], axis=1).reshape(-1)


BINARY = [
    ("add", np.add),
    ("sub", np.subtract),
    ("mul", np.multiply),
    ("maximum", np.maximum),
    ("minimum", np.minimum),
    ("even_lanes", lambda x, y: np.concatenate([x, y])[::2]),
    ("odd_lanes", lambda x, y: np.concatenate([x, y])[1::2]),
    ("zip_low", lambda x, y: zipped(x, y)[: len(x)]),
    ("zip_high", lambda x, y: zipped(x, y)[len(x) :]),
    ("fma", None),
    ("select_greater", lambda x, y: np.where((x > y) | np.isnan(x), 1, 2)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", range(len(BINARY)), ids=[name for name, _ in BINARY])
def test_operation_of_two_vectors(kind, dtype):
    n = width(dtype)
    a, b = data(dtype, n + 4, 1), data(dtype, n + 4, 2)
    # NaN and inf in the first lanes, and a tie.
    a[1], b[3], a[2] = np.nan, np.nan, b[3 + (n > 2)]
    out = np.full(n + 1, np.nan, dtype)
    _binary(kind, a, b, out)
    x, y = a[1 : 1 + n], b[2 : 2 + n]
    if BINARY[kind][0] == "fma":
        exact = x.astype(np.longdouble) * y.astype(np.longdouble) + 3
        np.testing.assert_allclose(out[:n], exact.astype(dtype), rtol=2 * np.finfo(dtype).eps)
    else:
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(out[:n], BINARY[kind][1](x, y).astype(dtype))
    assert np.isnan(out[n])


@njit
def _masked(a, low, high, count, ranged, first, stored):
    simd.store(ranged, 0, simd.load_range(a, 0, low, high))
    simd.store(first, 0, simd.load_first(a, 0, count))
    simd.store_first(stored, 1, simd.load(a, 0), count)


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_touch_only_their_lanes(dtype):
    n = width(dtype)
    a = data(dtype, n)
    lane = np.arange(n)
    for low in range(-1, n + 2):
        for high in range(-1, n + 2):
            ranged, first, stored = (np.full(n + 2, np.nan, dtype) for _ in range(3))
            _masked(a, low, high, high, ranged, first, stored)
            np.testing.assert_array_equal(ranged[:n], np.where((lane >= low) & (lane < high), a, 0))
            np.testing.assert_array_equal(first[:n], np.where(lane < high, a, 0))
            kept = max(0, min(high, n))
            np.testing.assert_array_equal(stored[1 : 1 + kept], a[:kept])
            assert np.isnan(stored[0])
            assert np.isnan(stored[1 + kept :]).all()


@njit
def _sum(a):
    return simd.sum_lanes(simd.load(a, 0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_lanes_of_integers_is_exact(dtype):
    n = width(dtype)
    assert _sum(np.arange(1, n + 1).astype(dtype)) == n * (n + 1) // 2


@njit
def _product(a, x, y, depth, rows, counts, bias, columns_bias, accumulate):
    width = simd.lanes(x)
    tile = tiles.zeros(x, 3, 2)
    places = tiles.row_offsets(tile, rows, depth)
    for k in range(depth):
        tile = tiles.outer(tile, a, k, places, x, tiles.spaced(tile, 2 * k * width, width))
    if bias.size:
        tile = tiles.add_rows(tile, bias, 0, rows)
    if columns_bias.size:
        tile = tiles.add_columns(tile, columns_bias, tiles.spaced(tile, 0, width), tiles.shares(tile, counts))
    tiles.store_tile(tile, y, tiles.spaced(tile, 0, width), tiles.shares(tile, counts), 2 * width, rows, accumulate)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulate", [False, True])
def test_tile_product_writes_its_rows_and_columns_only(dtype, accumulate):
    n, depth = width(dtype), 5
    x = data(dtype, depth * 2 * n, 1)
    none = np.empty(0, dtype)
    for rows in (1, 2, 3):
        for count in (1, n - 1, n, n + 1, 2 * n):
            # `a` has exactly `rows` rows: a row beyond them must not be read.
            a, bias, columns = data(dtype, rows * depth, 2), data(dtype, rows, 3), data(dtype, count, 4)
            y = np.ones((3, 2 * n), dtype) if accumulate else np.full((3, 2 * n), np.nan, dtype)
            for row_bias, column_bias in ((none, none), (bias, none), (none, columns)):
                out = y.copy()
                _product(a, x, out.reshape(-1), depth, rows, count, row_bias, column_bias, accumulate)
                want = (a.reshape(rows, depth).astype("d") @ x.reshape(depth, -1).astype("d"))[:, :count]
                if row_bias.size:
                    want = want + bias[:, None]
                if column_bias.size:
                    want = want + columns
                want = want + accumulate
                np.testing.assert_allclose(out[:rows, :count], want, atol=40 * np.finfo(dtype).eps)
                np.testing.assert_array_equal(out[rows:], y[rows:])
                np.testing.assert_array_equal(out[:, count:], y[:, count:])


def _into(columns):
    """outer_into of a tile of 3 rows and 4 vectors, into these columns; every set of columns is compiled for itself."""

    @njit
    def into(a, places, rows, depth, x, start, y):
        width = simd.lanes(x)
        tile = tiles.repeated(start, 1, 3, 4)
        offsets = tiles.listed_rows(tile, places, 1, rows)
        step = x.size // depth
        for k in range(depth):
            tile = tiles.outer_into(tile, a, k, offsets, x, k * step, columns)
        tiles.store_whole(tile, y, 0, 4 * width, False)

    return into


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [0b1111, 0b0111, 0b1011, 0b0100, 0])
def test_products_into_some_columns_leave_the_others(columns, dtype):
    n, depth = width(dtype), 5
    chosen = [v for v in range(4) if columns >> v & 1]
    into = _into(columns)
    for rows in (1, 2, 3):
        # Rows lie anywhere in `a`, and none beyond them is read; x has the chosen columns alone.
        a, places = np.full(40, np.nan, dtype), np.array([-1, 30, 3, 17][: rows + 1])
        for place in places[1:]:
            a[place : place + depth] = data(dtype, depth, place)
        x, start = data(dtype, depth * len(chosen) * n, 1), data(dtype, 4 * n + 1, 2)
        y = np.full((3, 4 * n), np.nan, dtype)
        into(a, places, rows, depth, x, start, y.reshape(-1))
        want = np.tile(start[1:].astype("d"), (3, 1)).reshape(3, 4, n)
        for r in range(3):
            place = places[1 + min(r, rows - 1)]
            product = a[place : place + depth].astype("d") @ x.reshape(depth, -1).astype("d")
            want[r, chosen] += product.reshape(len(chosen), n)
        np.testing.assert_allclose(y, want.reshape(3, -1), atol=40 * np.finfo(dtype).eps)
        left = [v for v in range(4) if v not in chosen]
        np.testing.assert_array_equal(
            y.reshape(3, 4, n)[:, left], np.tile(start[1:].reshape(4, n)[left], (3, 1, 1)), "other columns changed"
        )


@njit
def _there_and_back(x, i, row, y):
    tiles.store_whole(tiles.load_whole(x, i, row, 3, 2), y, 0, 2 * simd.lanes(x), False)


@njit
def _repeat(x, i, y):
    tiles.store_whole(tiles.repeated(x, i, 3, 2), y, 0, 2 * simd.lanes(x), False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_tiles_are_loaded_and_repeated(dtype):
    n = width(dtype)
    row = 2 * n + 3
    # The last row ends with the array.
    x = data(dtype, 5 + 2 * row + 2 * n)
    y = np.full((3, 2 * n), np.nan, dtype)
    _there_and_back(x, 5, row, y.reshape(-1))
    np.testing.assert_array_equal(y, [x[5 + r * row :][: 2 * n] for r in range(3)])
    _repeat(x, x.size - 2 * n, y.reshape(-1))
    np.testing.assert_array_equal(y, [x[-2 * n :]] * 3)


@njit
def _along(a, row, x, places, y, rows, vecs, size):
    tile = tiles.zeros(x, 2, 3)
    offsets = tiles.listed(tile, places, 0)
    for k in range(0, size, simd.lanes(x)):
        tile = tiles.outer_lanes(tile, a, k, row, rows, x, tiles.shifted(offsets, k), size - k)
    tiles.sum_tile_into(tile, y, 0, 3, 1, rows, vecs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_product_along_lanes_ignores_what_lies_behind_its_size(dtype):
    n = width(dtype)
    for size in (1, n, 2 * n + 1):
        for rows in (1, 2):
            a = np.full((rows, 3 * n), np.nan, dtype)
            x = np.full((3, 3 * n), np.nan, dtype)
            a[:, :size], x[:, :size] = (
                data(dtype, rows * size).reshape(rows, size),
                data(dtype, 3 * size, 1).reshape(3, -1),
            )
            y = np.zeros((2, 3), dtype)
            places = np.array([0, 3 * n, 6 * n], np.int64)
            _along(a.reshape(-1), 3 * n, x.reshape(-1), places, y.reshape(-1), rows, 3, size)
            want = a[:, :size].astype("d") @ x[:, :size].astype("d").T
            np.testing.assert_allclose(y[:rows], want, atol=10 * size * np.finfo(dtype).eps)
            assert (y[rows:] == 0).all()


@njit
def _transpose(x, y, stride, rows, count):
    tile = tiles.load_rows(tiles.zeros_square(x), x, 0, stride, rows, count)
    tiles.store_rows(tiles.interleave(tile), y, 0, simd.lanes(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_square_block_is_transposed_and_padded_with_zeros(dtype):
    n = width(dtype)
    for rows in (1, n - 1, n, n + 3):
        for count in (1, n - 1, n, n + 2):
            x = data(dtype, rows * count).reshape(rows, count)
            y = np.full((n, n), np.nan, dtype)
            _transpose(x.reshape(-1), y.reshape(-1), count, rows, count)
            want = np.zeros((n, n), dtype)
            want[: min(rows, n), : min(count, n)] = x[:n, :n]
            np.testing.assert_array_equal(y, want.T)


@njit
def _denormal_product(x):
    state = simd.flush_denormals()
    flushed = x[0] * x[1]
    simd.restore_denormals(state)
    return flushed


@njit
def _plain_product(x):
    return x[0] * x[1]


def test_denormals_are_flushed_inside_and_the_state_restored():
    x = np.array([1e-30, 1e-10], np.float32)
    assert _plain_product(x) != 0
    assert _denormal_product(x) == 0
    assert _plain_product(x) != 0


def test_function_typed_at_a_prompt_compiles_uncached():
    typed = {"njit": njit}
    exec(compile("@njit\ndef twice(x): return 2 * x\n", "<stdin>", "exec"), typed)
    assert typed["twice"](21) == 42
