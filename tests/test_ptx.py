"""The interpreter of PTX alone: every family of instructions with known answers, control flow, and what it stops at."""

import math
from fractions import Fraction

import numpy as np
import pytest

from fastconv import cudaemu
from fastconv.cudaemu import ptx
from fastconv.cudaemu.ptx import lanes
from fastconv.cudaemu.ptx.numbers import OPERATIONS, TYPES, fma32, fma32_down, fma64

HEAD = ".version 9.0\n.target sm_80\n.address_size 64\n"
NAN, INF = math.nan, math.inf
LEAST, MOST = -(2**31), 2**31 - 1


def program(tmp_path, body, parameters=("u64", "u64")):
    """The kernel of a PTX text: pointers are in %rd1, %rd2 …, the thread's number in %r1, four times it in %rd9."""
    given = ",\n".join(f".param .{kind} kernel_param_{k}" for k, kind in enumerate(parameters))
    loads = "".join(
        f"ld.param.u64 %rd{k + 1}, [kernel_param_{k}];\n" for k, kind in enumerate(parameters) if kind == "u64"
    )
    path = tmp_path / "kernel.ptx"
    path.write_text(f"""{HEAD}
.visible .entry kernel(
{given}
)
{{
    .reg .pred %p<9>;
    .reg .b16 %rs<9>;
    .reg .b32 %r<40>;
    .reg .f32 %f<9>;
    .reg .f64 %fd<9>;
    .reg .b64 %rd<20>;
{loads}
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd9, %r1, 4;
{body}
    ret;
}}
""")
    return ptx.Module(path).get_function("kernel")


# By instruction: (operands, result) …; truths are 0 and 1.
ANSWERS = {
    "add.s32": [((MOST, 1), LEAST), ((-3, 2), -1)],
    "sub.u32": [((0, 1), 2**32 - 1)],
    "add.s64": [((2**40, -1), 2**40 - 1)],
    "mul.lo.s32": [((65537, 65537), 131073), ((-3, 7), -21)],
    "mul.hi.s32": [((-1, 1), -1), ((2**30, 8), 2)],
    "mul.hi.u32": [((2**32 - 1, 2**32 - 1), 2**32 - 2)],
    "mul.hi.u64": [((2**63, 6), 3)],
    "mul.wide.s32": [((-2, 2**30), -(2**31))],
    "mul.wide.u32": [((2**32 - 1, 2), 2**33 - 2)],
    "mad.lo.s32": [((3, -4, 5), -7)],
    "mad.wide.s32": [((2**30, 8, 1), 2**33 + 1)],
    "div.s32": [((-7, 2), -3), ((7, -2), -3), ((-8, -2), 4), ((0, -5), 0)],
    "rem.s32": [((-7, 2), -1), ((7, -2), 1)],
    "div.u32": [((2**32 - 1, 2), MOST)],
    "rem.u32": [((2**32 - 1, 10), 5)],
    "min.s32": [((-1, 1), -1)],
    "max.u32": [((2**32 - 1, 1), 2**32 - 1)],
    "neg.s32": [((LEAST,), LEAST), ((5,), -5)],
    "abs.s32": [((-5,), 5)],
    "and.b32": [((12, 10), 8)],
    "or.b32": [((12, 10), 14)],
    "xor.b32": [((12, 10), 6)],
    "not.b32": [((0,), 2**32 - 1)],
    "and.pred": [((1, 0), 0), ((1, 1), 1)],
    "not.pred": [((1,), 0)],
    "xor.pred": [((1, 1), 0)],
    "shl.b32": [((3, 31), 2**31), ((3, 32), 0), ((3, 2**31), 0)],
    "shl.b64": [((1, 40), 2**40), ((1, 64), 0)],
    "shr.u32": [((2**31, 31), 1), ((2**31, 32), 0)],
    "shr.s32": [((-8, 1), -4), ((-8, 99), -1), ((8, 99), 0)],
    "shf.l.wrap.b32": [((0x12345678, 0x9ABCDEF0, 36), 0xABCDEF01)],
    "shf.r.wrap.b32": [((0x12345678, 0x9ABCDEF0, 4), 0x01234567)],
    "shf.r.clamp.b32": [((0x12345678, 0x9ABCDEF0, 40), 0x9ABCDEF0)],
    "bfe.u32": [((0xABCD1234, 8, 8), 0x12), ((0xABCD1234, 28, 8), 0xA), ((5, 0, 0), 0), ((5, 0, 32), 5)],
    "bfe.s32": [((0xF0, 4, 4), -1), ((0x70, 4, 4), 7), ((0xF0, 4, 3), -1), ((LEAST, 28, 8), -8)],
    "bfi.b32": [((0xF, 0, 4, 8), 0xF0), ((0, 0xFFFF, 4, 8), 0xF00F)],
    "prmt.b32": [((0x33221100, 0x77665544, 0x7250), 0x77225500), ((0x80, 0, 0x8888), 2**32 - 1)],
    "lop3.b32": [((0b1100, 0b1010, 0b1111, 0x80), 0b1000), ((1, 2, 4, 0xFE), 7)],
    "popc.b32": [((0xF0F0,), 8)],
    "clz.b32": [((1,), 31), ((0,), 32)],
    "selp.s32": [((5, 6, 1), 5), ((5, 6, 0), 6)],
    "setp.lt.s32": [((-1, 0), 1), ((0, 0), 0)],
    "setp.lt.u32": [((2**32 - 1, 0), 0)],
    "setp.hi.u32": [((2**32 - 1, 0), 1)],
    "setp.lt.and.s32": [((1, 2, 1), 1), ((1, 2, 0), 0)],
    "setp.eq.f32": [((1, 1), 1), ((NAN, NAN), 0)],
    "setp.ne.f32": [((1, 2), 1), ((NAN, 1), 0), ((NAN, NAN), 0)],
    "setp.neu.f32": [((NAN, NAN), 1), ((1, 1), 0)],
    "setp.equ.f32": [((NAN, 1), 1), ((1, 2), 0)],
    "setp.ge.f32": [((NAN, 1), 0), ((2, 1), 1)],
    "setp.geu.f32": [((NAN, 1), 1), ((0, 1), 0)],
    "setp.ltu.f64": [((1, NAN), 1), ((2, 1), 0)],
    "setp.nan.f32": [((NAN, 1), 1), ((1, 1), 0)],
    "setp.num.f32": [((NAN, 1), 0), ((1, 1), 1)],
    "add.f32": [((2**24, 1), 2**24), ((0.1, 0.2), np.float32(0.1) + np.float32(0.2))],
    "mul.rn.f32": [((0.1, 0.1), np.float32(0.1) * np.float32(0.1))],
    "sub.f64": [((1, 2.0**-53), 1 - 2.0**-53)],
    "fma.rn.f32": [((1 + 2.0**-23, 1 + 2.0**-23, -1 - 2.0**-22), 2.0**-46), ((INF, 0, 1), NAN), ((2, 3, INF), INF)],
    "fma.rn.f64": [((1 + 2.0**-52, 1 + 2.0**-52, -1 - 2.0**-51), 2.0**-104), ((0, -1, -0.0), -0.0), ((INF, 2, 1), INF)],
    "div.rn.f32": [((1, 3), np.float32(1) / np.float32(3)), ((1, 0), INF), ((0, 0), NAN)],
    "rcp.rn.f64": [((3,), 1 / 3)],
    "sqrt.rn.f32": [((2,), np.sqrt(np.float32(2))), ((-1,), NAN)],
    "min.f32": [((NAN, 1), 1), ((0.0, -0.0), -0.0), ((-0.0, 0.0), -0.0), ((NAN, NAN), NAN)],
    "max.f32": [((1, NAN), 1), ((-0.0, 0.0), 0.0), ((0.0, -0.0), 0.0), ((1, 2), 2)],
    "neg.f32": [((0.0,), -0.0)],
    "abs.f32": [((-INF,), INF)],
    "copysign.f32": [((-1, 5), -5), ((0.0, -5), 5)],
    "ex2.approx.ftz.f32": [((3,), 8), ((-127,), 0), ((-INF,), 0), ((128,), INF)],
    "ex2.approx.f32": [((-127,), 2.0**-127)],
    "lg2.approx.f32": [((8,), 3), ((0,), -INF), ((-1,), NAN)],
    "rcp.approx.ftz.f32": [((4,), 0.25), ((2.0**-127,), INF), ((2.0**127,), 0)],
    "rsqrt.approx.f32": [((16,), 0.25)],
    "rcp.approx.ftz.f64": [((4,), 0.25)],
    "cvt.rzi.s32.f32": [((-2.7,), -2), ((3e9,), MOST), ((-INF,), LEAST), ((NAN,), 0)],
    "cvt.rni.s32.f32": [((2.5,), 2), ((3.5,), 4)],
    "cvt.rmi.s32.f64": [((-0.5,), -1)],
    "cvt.rpi.s64.f64": [((0.5,), 1), ((1e30,), 2**63 - 1)],
    "cvt.rzi.u32.f32": [((-1,), 0), ((5e9,), 2**32 - 1)],
    "cvt.rn.f32.s32": [((2**24 + 1,), 2**24), ((-3,), -3)],
    "cvt.rn.f64.u64": [((2**63,), 2.0**63)],
    "cvt.rni.f32.f32": [((2.5,), 2), ((-0.5,), -0.0)],
    "cvt.sat.f32.f32": [((1.5,), 1), ((-1,), 0), ((NAN,), 0), ((0.25,), 0.25)],
    "cvt.rn.f32.f64": [((1 + 2.0**-25,), 1)],
    "cvt.f64.f32": [((0.1,), float(np.float32(0.1)))],
    "cvt.s64.s32": [((-1,), -1)],
    "cvt.u64.u32": [((2**32 - 1,), 2**32 - 1)],
    "cvt.u32.u64": [((2**32 + 5,), 5)],
    "cvt.s32.s8": [((0x1FF,), -1)],
    "cvt.u16.u32": [((0x12345,), 0x2345)],
    "cvt.rna.tf32.f32": [((1 + 2.0**-11,), 0x3F802000), ((1 + 2.0**-12,), 0x3F800000)],
    "cvt.rn.bf16.f32": [((1 + 2.0**-8,), 0x3F80), ((1 + 3 * 2.0**-8,), 0x3F82), ((NAN,), 0x7FFF)],
}


def numbers(values, kind):
    """An array of a PTX type; integers modulo their range, so that −1 is a number of every type."""
    dtype = TYPES[kind]
    if dtype.kind == "f":
        return np.array(values, dtype)
    return np.array([int(value) % 2 ** (8 * dtype.itemsize) for value in values], f"u{dtype.itemsize}")


def of_thread(kind, pointer):
    """An address in %rd10: of this thread's number of a type, where a pointer points to."""
    return f"mad.wide.u32 %rd10, %r1, {TYPES[kind].itemsize}, {pointer};\n"


@pytest.mark.parametrize("name", ANSWERS)
def test_instructions(name, tmp_path):
    """A thread for each row of operands, which it loads; and it stores the result."""
    operation, rows = OPERATIONS[name], ANSWERS[name]
    body, given = "", []
    for k, (kind, column) in enumerate(
        zip(operation.sources, zip(*(row for row, _ in rows), strict=True), strict=True)
    ):
        # Truths are loaded as integers, and bytes lie in wider registers.
        held = {"pred": "u32", "s8": "s32"}.get(kind, kind)
        given.append(numbers(column, held))
        body += f".reg .{kind if kind == 'pred' else held} %v{k};\n" + of_thread(held, f"%rd{k + 1}")
        if kind == "pred":
            body += f"ld.global.u32 %r2, [%rd10];\nsetp.ne.s32 %v{k}, %r2, 0;\n"
        else:
            body += f"ld.global.{held} %v{k}, [%rd10];\n"
    kind, values = operation.to, ", ".join(f"%v{k}" for k in range(len(given)))
    body += f".reg .{kind} %result;\n{name} %result, {values};\n"
    result = "%result"
    if kind == "pred":
        kind, result = "u32", "%r3"
        body += "selp.u32 %r3, 1, 0, %result;\n"
    body += of_thread(kind, f"%rd{len(given) + 1}") + f"st.global.{kind} [%rd10], {result};\n"
    wanted = numbers([result for _, result in rows], kind)
    found = np.empty_like(wanted)
    function = program(tmp_path, body, ("u64",) * (len(given) + 1))
    function((1,), (len(rows),), (*given, cudaemu.Out(found)))
    np.testing.assert_array_equal(found, wanted)
    if found.dtype.kind == "f":
        there = ~np.isnan(wanted)
        np.testing.assert_array_equal(np.signbit(found[there]), np.signbit(wanted[there]))


def test_the_table_of_answers_has_every_kind_of_instruction():
    first = {name.partition(".")[0] for name in OPERATIONS} - {"mov", "cvta"}
    assert first - {name.partition(".")[0] for name in ANSWERS} == {"sin", "cos", "tanh"}


def nearest(exact, dtype):
    """A fraction rounded to float32 or float64, ties to even."""
    start = dtype(float(exact))
    choices = [start, np.nextafter(start, dtype(-np.inf)), np.nextafter(start, dtype(np.inf))]
    return min(choices, key=lambda one: (abs(Fraction(float(one)) - exact), int(one.view(f"u{one.itemsize}")) & 1))


def triples(dtype, seed):
    """Factors and summands of all sizes, and some whose sum is nearly, or just, halfway between two numbers."""
    generator, size = np.random.default_rng(seed), 3000
    eps, tiny, reach = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny), 60 if dtype == np.float32 else 500

    def draw(low, high):
        digits = generator.uniform(1, 2, size) * generator.choice([-1, 1], size)
        return np.ldexp(digits, generator.integers(low, high, size))

    a, b = (np.concatenate([draw(-3, 3), draw(-reach, reach)]) for _ in range(2))
    c = np.concatenate([draw(-3, 3), draw(-149, 60) if dtype == np.float32 else draw(-1070, 900)])
    more = [
        (eps / 2 * (1 + x * eps), 1 + y * eps, z)
        for x in (-1, 0, 1)
        for y in (-1, 0, 1)
        for z in (1, 1 + eps, -1 - eps)
    ]
    # Products of subnormal numbers, and sums that vanish.
    more += [(tiny, 0.5, tiny), (tiny, tiny, 0), (tiny, tiny, tiny), (3, 5, -15), (tiny, 0.5, -tiny / 2)]
    # Sums below the smallest normal number.
    more += [(tiny * (1 + eps), 0.25, tiny / 8 * k) for k in range(8)]
    more += [(tiny / 2**20 * (1 + k * eps), 1 + eps, tiny / 2) for k in range(2**10, 2**10 + 50)]
    return [np.concatenate([one, two]).astype(dtype) for one, two in zip((a, b, c), np.array(more).T, strict=True)]


@pytest.mark.parametrize(("dtype", "function"), [(np.float32, fma32), (np.float64, fma64)])
def test_fma_rounds_once(dtype, function):
    a, b, c = triples(dtype, 1)
    with np.errstate(all="ignore"):
        found, twice = function(a, b, c), a * b + c
    exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c, strict=True)]
    wanted = np.array([nearest(one, dtype) for one in exact])
    np.testing.assert_array_equal(found, wanted)
    # These numbers do tell one rounding from two; and in float32 one from that of a float64 sum.
    assert (twice != wanted).sum() > 50
    if dtype == np.float32:
        assert ((a.astype(np.float64) * b + c).astype(np.float32) != wanted).any()


def test_fma_towards_minus_infinity():
    a, b, c = triples(np.float32, 2)
    found = fma32_down(a, b, c).astype(np.float64)
    above = np.nextafter(found.astype(np.float32), np.float32(np.inf)).astype(np.float64)
    for k in range(a.size):
        exact = Fraction(float(a[k])) * Fraction(float(b[k])) + Fraction(float(c[k]))
        assert Fraction(found[k]) <= exact < Fraction(above[k])


def test_fma_of_large_and_small_doubles():
    largest = np.finfo(np.float64).max
    a = np.array([largest, largest, 2.0**600, 2.0**-600, 1.0, np.nan])
    b = np.array([2.0, -2.0, 2.0**-600, 2.0**-500, largest, 1.0])
    c = np.array([-largest, 0.0, 2.0**-60, 2.0**-1074, largest, 1.0])
    with np.errstate(all="ignore"):
        found = fma64(a, b, c)
    np.testing.assert_array_equal(found, [largest, -INF, 1.0, 2.0**-1074, INF, NAN])


CODE = """
#include <cuda_pipeline_primitives.h>
#define KERNEL extern "C" __global__ void

static __constant__ float TABLE[4] = {1, -2, 3, -4};

static __device__ __noinline__ float halved(float x, int times) {
    while (times--) x *= 0.5f;
    return x;
}

KERNEL collatz(const int* x, int* y, int n) {
    int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= n) return;
    long long v = x[k];
    int odd = 0, even = 0;
    while (v != 1) {
        if (v % 2) {
            v = 3 * v + 1;
            if (v % 3 == 1) odd += 2; else odd += 1;
        } else {
            v /= 2;
            for (int i = 0; i < k % 3; i++) even += i;
            even++;
        }
    }
    y[k] = odd * 1000 + even;
}

KERNEL reversed(const float* x, float* y) {
    extern __shared__ float held[];
    int first = blockIdx.x * blockDim.x;
    for (int round = 0; round < 3; round++) {
        held[threadIdx.x] = (round ? y : x)[first + threadIdx.x];
        __syncthreads();
        y[first + threadIdx.x] = held[blockDim.x - 1 - threadIdx.x] + 1;
        __syncthreads();
    }
}

KERNEL where(int* y) {
    int3 at = make_int3(blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y * blockDim.y + threadIdx.y,
                        blockIdx.z * blockDim.z + threadIdx.z);
    int w = gridDim.x * blockDim.x, h = gridDim.y * blockDim.y;
    y[(at.z * h + at.y) * w + at.x] = at.x + 100 * at.y + 10000 * at.z;
}

KERNEL shuffles(const int* x, int* y) {
    int t = threadIdx.x, v = x[t];
    y[t] = __shfl_xor_sync(~0u, v, 5);
    y[64 + t] = __shfl_up_sync(~0u, v, 3);
    y[128 + t] = __shfl_down_sync(~0u, v, 3, 8);
    y[192 + t] = __shfl_sync(~0u, v, 9, 16);
    y[256 + t] = __ballot_sync(~0u, v % 3 == 0);
    y[320 + t] = __any_sync(~0u, t == 40) + 2 * __all_sync(~0u, t < 32);
    if (t % 2) y[384 + t] = __activemask(); else y[384 + t] = 0;
}

KERNEL wide(const double* x, double* y) { y[threadIdx.x] = __shfl_xor_sync(~0u, x[threadIdx.x], 1); }

KERNEL atomics(const float* x, float* sums, int* counts, int* last) {
    int t = threadIdx.x;
    atomicAdd(sums + t % 3, x[t]);
    atomicMax(counts, t * 7 % 50);
    int old = atomicAdd(counts + 1, 2);
    atomicCAS(last, 2 * t, 2 * t + 2);
    counts[2 + t] = old;
}

KERNEL copies(const float* x, float* y, int early) {
    __shared__ __align__(16) float held[3][128];
    int t = threadIdx.x;
    __pipeline_memcpy_async(&held[0][4 * t], x + 4 * t, 16);
    __pipeline_commit();
    __pipeline_memcpy_async(&held[1][t], x + t, 4, t % 2 ? 4 : 0);
    __pipeline_commit();
    if (early) __pipeline_wait_prior(1); else __pipeline_wait_prior(0);
    __syncthreads();
    y[t] = held[0][127 - t];
    y[32 + t] = held[1][31 - t];
}

KERNEL rest(const float* x, float* y, int n) {
    int t = threadIdx.x;
    float own[8];
    for (int k = 0; k < 8; k++) own[k] = x[t] + k;
    for (int k = 0; k < n; k++) own[(t + k) % 8] *= 2;
    y[t] = own[t % 8] + own[(t + 5) % 8] + TABLE[t % 4];
    if (t % 3) y[t] = halved(y[t], t % 5);
}

KERNEL vectors(const float4* x, float2* y, unsigned char* bytes, const signed char* from) {
    int t = threadIdx.x;
    float4 v = x[t];
    y[2 * t] = make_float2(v.w, v.z);
    y[2 * t + 1] = make_float2(v.y, v.x);
    bytes[t] = (unsigned char)(from[t] * 3);
}

KERNEL stops(int* y) { if (threadIdx.x == 3) __trap(); y[threadIdx.x] = 1; }
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    path = tmp_path_factory.mktemp("ptx") / "code.cu"
    path.write_text(CODE)
    return ptx.Module(path).get_function


def steps_to_one(value, k):
    odd = even = 0
    while value != 1:
        if value % 2:
            value = 3 * value + 1
            odd += 2 if value % 3 == 1 else 1
        else:
            value //= 2
            even += 1 + sum(range(k % 3))
    return odd * 1000 + even


@pytest.mark.parametrize("block", [32, 96, 1024])
def test_lanes_part_and_meet_again(code, block, monkeypatch):
    """Loops of other lengths in every thread; the last block has threads too many, the last batch blocks too few."""
    monkeypatch.setattr(ptx, "TOGETHER", 256)
    x = np.arange(1, 1500, dtype=np.int32)
    y = np.empty_like(x)
    code("collatz")((-(-x.size // block),), (block,), (x, cudaemu.Out(y), np.int32(x.size)))
    np.testing.assert_array_equal(y, [steps_to_one(int(value), k) for k, value in enumerate(x)])


def test_lanes_that_meet_again_go_on_together(tmp_path):
    """Interpreted are the blocks of one way through the branch and of the other, not of every thread's."""
    body = """
    and.b32 %r2, %r1, 1;
    setp.eq.s32 %p1, %r2, 0;
    mov.u32 %r3, 0;
AGAIN:
    @%p1 bra EVEN;
    add.s32 %r4, %r1, 5;
    bra.uni BOTH;
EVEN:
    add.s32 %r4, %r1, 7;
BOTH:
    add.s32 %r3, %r3, 1;
    setp.lt.s32 %p2, %r3, 10;
    @%p2 bra AGAIN;
    add.s64 %rd3, %rd1, %rd9;
    st.global.u32 [%rd3], %r4;
"""
    y = np.empty(64, np.int32)
    blocks = program(tmp_path, body, ("u64",))((1,), (64,), (cudaemu.Out(y),))
    t = np.arange(64)
    np.testing.assert_array_equal(y, t + np.where(t % 2, 5, 7))
    assert blocks == 2 + 10 * 4


def test_barriers_and_dynamic_shared_memory(code):
    x, y = np.random.default_rng(1).standard_normal(6 * 96).astype(np.float32), np.empty(6 * 96, np.float32)
    code("reversed")((6,), (96,), (x, cudaemu.Out(y)), 4 * 96)
    np.testing.assert_array_equal(y, x.reshape(6, 96)[:, ::-1].ravel() + np.float32(1) + np.float32(1) + np.float32(1))


def test_grids_and_blocks_of_three_dimensions(code):
    y = np.empty((4 * 2, 3 * 5, 2 * 7), np.int32)
    code("where")((2, 3, 4), (7, 5, 2), (cudaemu.Out(y),))
    z, v, u = np.indices(y.shape)
    np.testing.assert_array_equal(y, u + 100 * v + 10000 * z)


def test_shuffles_and_votes(code):
    x, y = np.random.default_rng(2).integers(0, 1000, 64).astype(np.int32), np.empty((7, 64), np.int32)
    code("shuffles")((1,), (64,), (x, cudaemu.Out(y)))
    t = np.arange(64)
    warp, lane = t // 32 * 32, t % 32
    np.testing.assert_array_equal(y[0], x[t ^ 5])
    np.testing.assert_array_equal(y[1], x[np.where(lane < 3, t, t - 3)])
    np.testing.assert_array_equal(y[2], x[np.where(lane % 8 + 3 < 8, t + 3, t) % 64])
    np.testing.assert_array_equal(y[3], x[t // 16 * 16 + 9])
    ballots = np.array([sum(2**k for k in range(32) if x[first + k] % 3 == 0) for first in (0, 32)], np.uint32)
    np.testing.assert_array_equal(y[4].view(np.uint32), ballots[warp // 32])
    np.testing.assert_array_equal(y[5], np.where(t < 32, 2, 1))
    np.testing.assert_array_equal(y[6].view(np.uint32), np.where(t % 2, 0xAAAAAAAA, 0))


def test_registers_of_64_bits_go_in_two(code):
    x, y = np.random.default_rng(3).standard_normal(32), np.empty(32)
    code("wide")((1,), (32,), (x, cudaemu.Out(y)))
    np.testing.assert_array_equal(y, x[np.arange(32) ^ 1])


def test_atomics(code):
    x = np.arange(40, dtype=np.float32)
    sums, counts, last = np.zeros(3, np.float32), np.zeros(42, np.int32), np.zeros(1, np.int32)
    code("atomics")((1,), (40,), (x, sums, counts, last))
    np.testing.assert_array_equal(sums, [x[k::3].sum() for k in range(3)])
    assert counts[0] == max(t * 7 % 50 for t in range(40))
    assert counts[1] == 80
    assert sorted(counts[2:]) == list(range(0, 80, 2))
    assert last[0] == 80


def test_copies_arrive_when_they_are_waited_for(code):
    x, y = np.random.default_rng(4).standard_normal(128).astype(np.float32), np.empty(64, np.float32)
    t = np.arange(32)
    code("copies")((1,), (32,), (x, cudaemu.Out(y), np.int32(0)))
    np.testing.assert_array_equal(y[:32], x[127 - t])
    # Zeros where no byte of the source is asked for.
    np.testing.assert_array_equal(y[32:], np.where((31 - t) % 2, 0, x[31 - t]))
    code("copies")((1,), (32,), (x, cudaemu.Out(y), np.int32(1)))
    np.testing.assert_array_equal(y[:32], x[127 - t])
    assert np.isnan(y[32:]).all()


@pytest.mark.parametrize("size", [50, 5000])
def test_local_memory_constants_and_calls(code, size):
    x, y = np.random.default_rng(5).standard_normal(size).astype(np.float32), np.empty(50, np.float32)
    code("rest")((1,), (50,), (x, cudaemu.Out(y), np.int32(11)))
    for t in range(50):
        own = [x[t] + np.float32(k) for k in range(8)]
        for k in range(11):
            own[(t + k) % 8] *= np.float32(2)
        wanted = own[t % 8] + own[(t + 5) % 8] + np.float32([1, -2, 3, -4][t % 4])
        assert y[t] == (wanted * np.float32(0.5 ** (t % 5)) if t % 3 else wanted)


def test_vectors_and_bytes(code):
    x, y = np.random.default_rng(6).standard_normal((9, 4)).astype(np.float32), np.empty((9, 4), np.float32)
    from_, bytes_ = np.arange(-4, 5, dtype=np.int8), np.empty(9, np.uint8)
    code("vectors")((1,), (9,), (x, cudaemu.Out(y), cudaemu.Out(bytes_), from_))
    np.testing.assert_array_equal(y, x[:, ::-1])
    np.testing.assert_array_equal(bytes_, (from_ * 3).astype(np.uint8))


def test_guarded_instructions_and_returns(tmp_path):
    body = """
    setp.gt.u32 %p1, %r1, 9;
    mov.u32 %r2, 1;
    @%p1 mov.u32 %r2, 2;
    @!%p1 add.s32 %r2, %r2, 10;
    add.s64 %rd3, %rd1, %rd9;
    st.global.u32 [%rd3], %r2;
    @%p1 ret;
    st.global.u32 [%rd3], 7;
"""
    y = np.zeros(20, np.int32)
    program(tmp_path, body, ("u64",))((1,), (20,), (y,))
    np.testing.assert_array_equal(y, [7] * 10 + [2] * 10)


OUTSIDE = {
    "behind an array": (
        "ld.global.u32 %r2, [%rd3+4];",
        r"4 bytes out of bounds, at byte 256 of args\[0\], which has 256",
    ),
    "before an array": (
        "ld.global.u32 %r2, [%rd3+-252];",
        r"out of bounds, at byte -252 of args\[0\].*thread \(0, 0, 0\)",
    ),
    "a store": (
        "st.global.v2.u32 [%rd3+8], {%r1, %r1};",
        r"8 bytes out of bounds.*thread \(61, 0, 0\) of block \(0, 0, 0\)",
    ),
    "a null pointer": ("mov.u64 %rd4, 0; ld.global.u32 %r2, [%rd4];", "out of bounds"),
    "half an address": ("cvt.u32.u64 %r2, %rd3; ld.global.u32 %r3, [%r2];", "out of bounds"),
    "misaligned": ("ld.global.u32 %r2, [%rd1+2];", "misaligned for 4 bytes"),
    "shared memory": ("cvt.u32.u64 %r2, %rd9; ld.shared.u32 %r3, [%r2];", "out of bounds, where there is no array"),
    "an atomic": ("red.global.add.s32 [%rd3+4], 1;", "out of bounds"),
    "a copy": ("cp.async.ca.shared.global [%rd3], [%rd3], 4;", "out of bounds"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_accesses_out_of_bounds_are_stopped_at(name, tmp_path):
    body, words = OUTSIDE[name]
    function = program(tmp_path, f"add.s64 %rd3, %rd1, %rd9;\n{body}", ("u64",))
    x = np.arange(64, dtype=np.int32)
    with pytest.raises(ptx.TrapError, match=f"kernel, line \\d+: .*{words}"):
        function((1,), (64,), (x,))
    np.testing.assert_array_equal(x, np.arange(64))


def line_of(tmp_path, words):
    return (tmp_path / "kernel.ptx").read_text().splitlines().index(words) + 1


UNKNOWN = ("tanh.approx.bf16 %rs1, %rs2;", "add.rz.f32 %f1, %f2, %f3;", "bar.sync 1;", "ld.global.v8.u32 %r1, [%rd1];")


@pytest.mark.parametrize("words", UNKNOWN)
def test_an_unknown_instruction_is_named_with_its_line(words, tmp_path):
    """Though no thread comes to it."""
    with pytest.raises(ptx.UnknownInstructionError) as error:
        program(tmp_path, f"bra.uni END;\n{words}\nEND:", ())
    assert str(error.value) == f"kernel, line {line_of(tmp_path, words)}: {words[:-1]}: not known"


def test_a_declaration_that_is_not_understood(tmp_path):
    with pytest.raises(ptx.UnknownInstructionError, match=r"\.branchtargets"):
        program(tmp_path, "table: .branchtargets FIRST, SECOND;", ())


def test_threads_of_a_block_that_wait_at_different_barriers(tmp_path):
    body = "setp.lt.u32 %p1, %r1, 32;\n@%p1 bra OTHER;\nbar.sync 0;\nret;\nOTHER:\nbarrier.sync 0;"
    function = program(tmp_path, body, ())
    first, second = (line_of(tmp_path, words) for words in ("bar.sync 0;", "barrier.sync 0;"))
    words = f"different barriers: line {first}: bar.sync 0; line {second}: barrier.sync 0"
    with pytest.raises(ptx.TrapError, match=words):
        function((1,), (64,), ())


def test_shuffles_of_lanes_that_are_elsewhere(tmp_path):
    body = "setp.lt.u32 %p1, %r1, 5;\n@%p1 ret;\nshfl.sync.down.b32 %r2|%p2, %r1, 1, 31, -1;"
    with pytest.raises(ptx.TrapError, match=r"lanes of the mask are elsewhere, by thread \(5, 0, 0\)"):
        program(tmp_path, body, ())((1,), (32,), ())


def test_an_endless_loop_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(lanes, "MOST_BLOCKS", 100)
    with pytest.raises(ptx.TrapError, match="given up after 100 basic blocks"):
        program(tmp_path, "AGAIN:\nbra.uni AGAIN;", ())((1,), (32,), ())


def test_a_trap(code):
    y = np.zeros(8, np.int32)
    with pytest.raises(ptx.TrapError, match=r"stops, line \d+: trap;?: trap, by thread \(3, 0, 0\)"):
        code("stops")((1,), (8,), (y,))


def test_arguments(code):
    x, y = np.zeros(8, np.int32), np.zeros(8, np.int32)
    function = code("collatz")
    with pytest.raises(ValueError, match="takes 3, got 2"):
        function((1,), (8,), (x, y))
    with pytest.raises(TypeError, match=r"args\[2\] of collatz: needs a NumPy scalar of type u32, got int"):
        function((1,), (8,), (x, y, 8))
    with pytest.raises(TypeError, match=r"args\[2\] of collatz: needs u32, got int64"):
        function((1,), (8,), (x, y, np.int64(8)))
    with pytest.raises(TypeError, match=r"args\[0\] of collatz: needs a C-contiguous array"):
        function((1,), (8,), (x[::2], y, np.int32(4)))
    with pytest.raises(ValueError, match="at most 1024 threads"):
        function((1,), (1025,), (x, y, np.int32(4)))
    with pytest.raises(ValueError, match="grid="):
        function((0,), (8,), (x, y, np.int32(4)))


def test_modules(tmp_path, code):
    with pytest.raises(ValueError, match=r"'nothing': code\.cu has"):
        code("nothing")
    path = tmp_path / "wrong.cu"
    path.write_text("__global__ void kernel() { nonsense(); }")
    with pytest.raises(cudaemu.CompileError, match="nonsense"):
        ptx.Module(path)
    with pytest.raises(FileNotFoundError):
        ptx.Module(tmp_path / "absent.cu")


def test_without_nvcc_there_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(cudaemu.CompileError, match="nvcc is not here"):
        ptx.Module(tmp_path / "any.cu")


def test_contraction_is_nvccs_choice(tmp_path):
    path = tmp_path / "sum.cu"
    path.write_text('extern "C" __global__ void sum(float* y, float a, float b, float c) { *y = a * b + c; }')
    a = np.float32(1 + 2.0**-12)
    found = {}
    for contract in (True, False):
        y = np.empty(1, np.float32)
        ptx.Module(path, contract=contract).get_function("sum")((1,), (1,), (cudaemu.Out(y), a, a, np.float32(-1)))
        found[contract] = float(y[0])
    assert found == {True: 2.0**-11 + 2.0**-24, False: 2.0**-11}
