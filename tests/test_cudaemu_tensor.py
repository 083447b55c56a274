"""The executor on half, bfloat16 and tensor cores: what they compute, and the bugs that it must find in their use."""

import numpy as np
import pytest
from formats import bfloat16, half, tf32

from fastconv import cudaemu
from fastconv.cudaemu import static

# A kernel (const float* x, float* y, int n), where x has two matrices of 16 × 16, by one warp unless said otherwise.
HEAD = """
#include <mma.h>
using namespace nvcuda;
extern "C" __global__ void kernel(const float* __restrict__ x, float* __restrict__ y, int n) {
    [[maybe_unused]] int t = threadIdx.x;
"""

# y = 2 a bᵀ, rounded to SHORT.
PRODUCT = """
    __shared__ __align__(32) SHORT a[16][24], b[16][24];
    __shared__ __align__(32) float c[16][20];
    for (int k = t; k < 256; k += 32) {
        a[k / 16][k % 16] = SHORT(x[k]);
        b[k / 16][k % 16] = SHORT(x[256 + k]);
    }
    __syncwarp();
    wmma::fragment<wmma::matrix_a, 16, 16, 16, SHORT, wmma::row_major> of_a;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, SHORT, wmma::col_major> of_b;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
    wmma::fill_fragment(sum, 0.0f);
    wmma::load_matrix_sync(of_a, &a[0][0], 24);
    wmma::load_matrix_sync(of_b, &b[0][0], 24);
    wmma::mma_sync(sum, of_a, of_b, sum);
    for (int i = 0; i < sum.num_elements; i++) sum.x[i] *= 2.0f;
    wmma::store_matrix_sync(&c[0][0], sum, 20, wmma::mem_row_major);
    __syncwarp();
    for (int k = t; k < 256; k += 32) y[k] = c[k / 16][k % 16];
"""
HALF, BFLOAT16 = PRODUCT.replace("SHORT", "half"), PRODUCT.replace("SHORT", "nv_bfloat16")

# y = a b, from and to global memory.
TF32 = """
    wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, wmma::row_major> of_a;
    wmma::fragment<wmma::matrix_b, 16, 16, 8, wmma::precision::tf32, wmma::row_major> of_b;
    wmma::fragment<wmma::accumulator, 16, 16, 8, float> sum;
    wmma::fill_fragment(sum, 0.0f);
    for (int k = 0; k < 16; k += 8) {
        wmma::load_matrix_sync(of_a, x + k, 16);
        wmma::load_matrix_sync(of_b, x + 256 + k * 16, 16);
        for (int i = 0; i < of_a.num_elements; i++) of_a.x[i] = wmma::__float_to_tf32(of_a.x[i]);
        for (int i = 0; i < of_b.num_elements; i++) of_b.x[i] = wmma::__float_to_tf32(of_b.x[i]);
        wmma::mma_sync(sum, of_a, of_b, sum);
    }
    wmma::store_matrix_sync(y, sum, 16, wmma::mem_row_major);
"""

# y = xᵀ: loaded as sums, stored by columns.
TURNED = """
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
    wmma::load_matrix_sync(sum, x, 16, wmma::mem_row_major);
    wmma::store_matrix_sync(y, sum, 16, wmma::mem_col_major);
"""


def cut(x):
    return (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def product(a, b):
    return a.astype(np.float64) @ b.astype(np.float64)


CLEAN = {
    "half": (HALF, lambda a, b: 2 * product(half(a), half(b).T)),
    "bfloat16": (BFLOAT16, lambda a, b: 2 * product(bfloat16(a), bfloat16(b).T)),
    "tf32": (TF32, lambda a, b: product(tf32(a), tf32(b))),
    # Which a GPU may do as well, for it reads no more bits than these.
    "tf32 not rounded": (TF32.replace("wmma::__float_to_tf32", ""), lambda a, b: product(cut(a), cut(b))),
    "turned": (TURNED, lambda a, b: a.T),
    "half by columns": (
        HALF.replace("wmma::row_major", "wmma::col_major"),
        lambda a, b: 2 * product(half(a).T, half(b).T),
    ),
    "bfloat16 by rows": (
        BFLOAT16.replace("wmma::col_major", "wmma::row_major"),
        lambda a, b: 2 * product(bfloat16(a), bfloat16(b)),
    ),
}

# name: the clean body, what is changed in it and to what, and the kinds of finding that may tell of it.
BUGS = {
    "no barrier before a matrix is loaded": (HALF, "__syncwarp();", "", {"race", "uninitialised read"}),
    "no barrier after a matrix was stored": (
        HALF,
        "mem_row_major);\n    __syncwarp();",
        "mem_row_major);",
        {"race", "uninitialised read"},
    ),
    "a line not written": (HALF, "k = t; k < 256; k += 32) {", "k = t; k < 240; k += 32) {", {"uninitialised read"}),
    "a matrix from inside of a line": (HALF, "&a[0][0], 24", "&a[0][8], 24", {"misaligned"}),
    "halves an odd distance apart": (HALF, "&b[0][0], 24", "&b[0][0], 20", {"misaligned"}),
    "floats an odd distance apart": (HALF, "sum, 20", "sum, 18", {"misaligned"}),
    "a load by some lanes": (
        HALF,
        "wmma::load_matrix_sync(of_b",
        "if (t < 16) wmma::load_matrix_sync(of_b",
        {"deadlock"},
    ),
    "a product by some lanes": (HALF, "wmma::mma_sync", "if (t % 2) wmma::mma_sync", {"deadlock"}),
    "a store that a lane has left": (
        HALF,
        "wmma::store_matrix_sync",
        "if (t == 7) return;\n    wmma::store_matrix_sync",
        {"trap", "deadlock"},
    ),
    "lanes at different loads": (
        HALF,
        "wmma::load_matrix_sync(of_a, &a[0][0], 24);",
        "if (t < 8) wmma::load_matrix_sync(of_a, &a[0][0], 24); else wmma::load_matrix_sync(of_a, &b[0][0], 24);",
        {"deadlock"},
    ),
    "a lane's own line": (HALF, "&a[0][0], 24", "&a[t / 16 * 4][0], 24", {"trap"}),
    "lanes' own distances": (HALF, "&a[0][0], 24", "&a[0][0], t ? 24 : 16", {"trap"}),
    "a matrix past the end": (TF32, "x + 256 + k * 16", "x + 264 + k * 16", {"out of bounds"}),
    "too far apart": (TF32, "x + k, 16", "x + k, 40", {"out of bounds"}),
    "a matrix stored past the end": (TF32, "(y, sum", "(y + 8, sum", {"out of bounds"}),
    "a matrix stored through const": (TF32, "(y, sum", "(const_cast<float*>(x), sum", {"write to const"}),
    "lines over each other": (TF32, "sum, 16, wmma", "sum, 8, wmma", {"race", "output not written"}),
    "an output read": (TURNED, "sum, x, 16", "sum, y, 16", {"uninitialised read"}),
}


def module(folder, body, flavour, head=HEAD):
    path = folder / "kernel.cu"
    path.write_text(head + body + "\n}\n")
    return cudaemu.Module(path, flavour=flavour)


def run(function, block=(32,), **options):
    x = np.random.default_rng(5).standard_normal((2, 16, 16)).astype(np.float32)
    y = np.full((16, 16), 7, np.float32)
    function((1,), block, (x, cudaemu.Out(y), np.int32(256)), **options)
    return *x, y


@pytest.mark.parametrize("flavour", cudaemu.FLAVOURS)
@pytest.mark.parametrize("name", CLEAN)
def test_clean_products_are_right_and_nothing_is_found(name, flavour, tmp_path):
    body, wanted = CLEAN[name]
    function = module(tmp_path, body, flavour).get_function("kernel")
    for order in cudaemu.ORDERS:
        a, b, y = run(function, order=order, seed=3)
        np.testing.assert_allclose(y, wanted(a, b), rtol=1e-6, atol=4e-6)


def test_it_is_cuda(tmp_path):
    """What the executor takes, nvcc takes."""
    include, using, head = HEAD.strip().split("\n", 2)
    kernels = [head.replace("kernel", f"kernel_{k}") + body + "}\n" for k, (body, _) in enumerate(CLEAN.values())]
    path = tmp_path / "kernels.cu"
    path.write_text("\n".join([include, using, *kernels]))
    assert len(static.nvcc(path, {}, "sm_80")) == len(CLEAN)


@pytest.mark.parametrize("order", cudaemu.ORDERS)
@pytest.mark.parametrize("name", BUGS)
def test_every_bug_is_found(name, order, tmp_path):
    body, right, wrong, kinds = BUGS[name]
    assert right in body
    function = module(tmp_path, body.replace(right, wrong, 1), "check").get_function("kernel")
    with pytest.raises(cudaemu.Found) as caught:
        run(function, order=order)
    found = [one for one in caught.value.findings if one.kind in kinds]
    assert found, caught.value
    for one in found:
        assert one.kind == "output not written" or one.now.file == "kernel.cu"
        assert one.kind == "output not written" or one.now.line >= len(HEAD.splitlines())


def test_two_warps_must_not_store_one_matrix(tmp_path):
    function = module(tmp_path, TURNED, "check").get_function("kernel")
    with pytest.raises(cudaemu.Found, match="race"):
        run(function, block=(64,))


def test_half_a_warp_has_no_matrix(tmp_path):
    function = module(tmp_path, TURNED, "check").get_function("kernel")
    with pytest.raises(cudaemu.Found, match="all 32 lanes"):
        run(function, block=(16,))


def test_a_sum_begins_with_nothing(tmp_path):
    body = HALF.replace("wmma::fill_fragment(sum, 0.0f);", "")
    assert np.isnan(run(module(tmp_path, body, "result").get_function("kernel"))[-1]).all()


# Which of a sum's elements lanes hold on GPUs of today, and the simplest guess.
GUESSES = ("(t / 4 + i / 2 % 2 * 8) * 16 + t % 4 * 2 + i % 2 + i / 4 * 8", "t * 8 + i")


@pytest.mark.parametrize("guess", GUESSES)
def test_who_guesses_where_elements_are_is_wrong(guess, tmp_path):
    body = TURNED.replace("wmma::store_matrix_sync(y, sum, 16, wmma::mem_col_major);", f"MINE y[{guess}] = sum.x[i];")
    body = body.replace("MINE", "for (int i = 0; i < sum.num_elements; i++)")
    a, _, y = run(module(tmp_path, body, "check").get_function("kernel"))
    assert np.mean(y == a) < 0.1


def test_an_endless_loop_is_found(tmp_path):
    """A block waits for one that comes later."""
    body = "volatile float* flag = y; y[blockIdx.x * 32 + t] = 0; while (blockIdx.x == 0 && flag[32] != x[0]) {}"
    function = module(tmp_path, body, "check").get_function("kernel")
    x, y = np.ones(64, np.float32), np.zeros(64, np.float32)
    with pytest.raises(cudaemu.Found, match=r"endless, read at kernel\.cu:\d+.*over its time"):
        function((2,), (32,), (x, y, np.int32(64)), seconds=0.2)


NUMBERS = """
extern "C" __global__ void kernel(const float* __restrict__ x, float* __restrict__ y, int n) {
    int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k < n) y[k] = CONVERTED;
"""
CONVERSIONS = {
    "half": ("__half2float(__float2half(x[k]))", half),
    "half2": ("__low2float(__floats2half2_rn(x[k], 1.0f))", half),
    "bfloat16": ("__bfloat162float(__float2bfloat16(x[k]))", bfloat16),
    "tf32": ("nvcuda::wmma::__float_to_tf32(x[k])", tf32),
    "sum": ("float(half(x[k]) + half(x[n - 1 - k]))", lambda x: half(half(x) + half(x[::-1]))),
    "product": ("float(half(x[k]) * half(x[n - 1 - k]))", lambda x: half(half(x) * half(x[::-1]))),
}


def numbers():
    """float32 of all kinds: random bits, all halves and what lies halfway between them, what is near their range."""
    with np.errstate(over="ignore"):
        every = np.arange(65536, dtype=np.uint16).view(np.float16)
        between = (every[:31743].astype(np.float64) + every[1:31744]) / 2
        near = [np.nextafter(np.float32(between), np.float32(to)) for to in (-np.inf, np.inf)]
        bits = np.random.default_rng(8).integers(0, 1 << 32, 20000, np.uint64).astype(np.uint32)
        ties = (bits & np.uint32(0xFFFF0000)) | np.uint32(0x8000)
        more = np.array([65504, 65519.996, 65520, -65520, 1e30, 2.0**-24, 2.0**-25, -(2.0**-26), 0.0, -0.0], np.float32)
    parts = (every, between, *near, bits.view(np.float32), ties.view(np.float32), more)
    return np.concatenate([part.astype(np.float32) for part in parts])


@pytest.mark.parametrize("name", CONVERSIONS)
def test_rounding(name, tmp_path):
    converted, wanted = CONVERSIONS[name]
    source = "\n#include <mma.h>" + NUMBERS.replace("CONVERTED", converted)
    function = module(tmp_path, "", "result", source).get_function("kernel")
    x = numbers()
    y = np.empty_like(x)
    function((-(-x.size // 1024),), (1024,), (x, cudaemu.Out(y), np.int32(x.size)))
    with np.errstate(all="ignore"):
        right = wanted(x)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(right))
    bits = [one[~np.isnan(one)].view(np.uint32) for one in (y, right)]
    np.testing.assert_array_equal(*bits)


def test_matrices_are_counted_by_lines_of_banks(tmp_path):
    """Rows of 24 halves spread over the banks; of rows of 32 every second begins in the same."""
    for distance, passes in ((24, 4), (32, 16)):
        body = HALF.replace("24", str(distance))
        function = module(tmp_path, body, "check").get_function("kernel")
        arrays = np.zeros(512, np.float32), np.zeros(256, np.float32), np.int32(256)
        counts = function.count((1,), (32,), arrays)
        loads = [line for line in counts.lines if line.shared and not line.write and line.bytes == 512]
        assert len(loads) == 2
        for line in loads:
            assert (line.warps, line.passes, line.least_passes) == (1, passes, 4), (distance, line)
