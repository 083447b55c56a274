"""The executor of CUDA kernels: what it computes, and every kind of bug that it must find in a small kernel."""

import subprocess
import sys

import numpy as np
import pytest

from fastconv import cudaemu

N = 64

# A kernel (const float* x, float* y, int n) on 64 elements, by one block of 64 threads unless said otherwise.
HEAD = """
#include <cuda_pipeline_primitives.h>
extern "C" __global__ void kernel(const float* __restrict__ x, float* __restrict__ y, int n) {
    int t = threadIdx.x, k = blockIdx.x * blockDim.x + threadIdx.x;
"""

REVERSE = """
    __shared__ float held[64];
    held[t] = x[k];
    __syncthreads();
    y[k] = held[63 - t];
"""

ROUNDS = """
    __shared__ float held[64];
    float sum = 0;
    for (int round = 0; round < 3; round++) {
        held[t] = x[(k + round) % n];
        __syncthreads();
        sum += held[63 - t];
        __syncthreads();
    }
    y[k] = sum;
"""

WARP = """
    __shared__ float held[64];
    held[t] = x[k];
    __syncwarp();
    y[k] = held[t ^ 1];
"""

COPY = """
    __shared__ __align__(16) float held[2][64];
    __pipeline_memcpy_async(&held[0][t], x + t, 4);
    __pipeline_commit();
    __pipeline_memcpy_async(&held[1][t], x + (t + 1) % n, 4);
    __pipeline_commit();
    __pipeline_wait_prior(1);
    __syncthreads();
    float first = held[0][63 - t];
    __pipeline_wait_prior(0);
    __syncthreads();
    y[k] = first + held[1][63 - t];
"""

DYNAMIC = """
    extern __shared__ float more[];
    more[t] = x[k];
    __syncthreads();
    y[k] = more[63 - t];
"""

ATOMIC = """
    y[k] = 0;
    __syncthreads();
    atomicAdd(y + k / 2, x[k]);
"""

PLAIN = "y[k] = x[k];"
VECTORS = "if (t < n / 4) reinterpret_cast<float4*>(y)[t] = reinterpret_cast<const float4*>(x)[t];"
SHUFFLE = "y[k] = x[k] + __shfl_xor_sync(0xffffffffu, x[k], 1);"
GUARDED = "if (k < n) y[k] = x[k];"

CLEAN = {
    "plain": (PLAIN, lambda x: x),
    "guarded": (GUARDED, lambda x: x),
    "reverse": (REVERSE, lambda x: x[::-1]),
    "rounds": (ROUNDS, lambda x: (x + np.roll(x, -1) + np.roll(x, -2))[::-1]),
    "warp": (WARP, lambda x: x.reshape(-1, 2)[:, ::-1].reshape(-1)),
    "copy": (COPY, lambda x: (x + np.roll(x, -1))[::-1]),
    "dynamic": (DYNAMIC, lambda x: x[::-1]),
    "vectors": (VECTORS, lambda x: x),
    "shuffle": (SHUFFLE, lambda x: x + x.reshape(-1, 2)[:, ::-1].reshape(-1)),
    "atomic": (ATOMIC, lambda x: np.concatenate([x.reshape(-1, 2).sum(1), np.zeros(32, np.float32)])),
}

# name: the clean body, what is changed in it and to what, and the kinds of finding that may tell of it.
BUGS = {
    "no barrier after writing shared memory": (REVERSE, "__syncthreads();", "", {"race", "uninitialised read"}),
    "no barrier before writing again": (ROUNDS, "63 - t];\n        __syncthreads();", "63 - t];", {"race"}),
    "no barrier in a loop": (ROUNDS, "n];\n        __syncthreads();", "n];", {"race", "uninitialised read"}),
    "a warp's barrier for a block's": (REVERSE, "__syncthreads", "__syncwarp", {"race", "uninitialised read"}),
    "no barrier of the warp": (WARP, "__syncwarp();", "", {"race", "uninitialised read"}),
    "two threads write one element": (PLAIN, "y[k]", "y[k / 2]", {"race"}),
    "a thread reads what another writes": (PLAIN, "x[k];", "x[k]; x = y; y[k] += x[(k + 1) % n];", {"race"}),
    "added without atomics": (ATOMIC, "atomicAdd(y + k / 2, x[k])", "y[k / 2] += x[k]", {"race"}),
    "atomics beside plain reads": (ATOMIC, "x[k]);", "x[k]); y[k] = y[k / 2];", {"race"}),
    "no barrier before atomics": (ATOMIC, "__syncthreads();", "", {"race", "uninitialised read"}),
    "one past the end, read": (PLAIN, "x[k]", "x[k + 1]", {"out of bounds"}),
    "one past the end, written": (PLAIN, "y[k]", "y[k + 1]", {"out of bounds"}),
    "before the start": (PLAIN, "x[k]", "x[k - 1]", {"out of bounds"}),
    "far away": (PLAIN, "x[k]", "x[k + (1 << 28)]", {"out of bounds"}),
    "beyond the dynamic shared memory": (DYNAMIC, "more[t] =", "more[t + 1] =", {"out of bounds"}),
    "a vector past the end": (VECTORS, "t < n / 4", "t <= n / 4", {"out of bounds"}),
    "a float4 from a float's address": (VECTORS, "const float4*>(x)", "const float4*>(x + 1)", {"misaligned"}),
    "a float4 to a float's address": (VECTORS, "float4*>(y)", "float4*>(y + 1)", {"misaligned"}),
    "a float2 in shared memory": (
        "    __shared__ __align__(8) float held[64]; held[t] = x[k]; __syncthreads();\n    int at = 0;\n"
        "    float2 two = reinterpret_cast<const float2*>(held + at)[t / 4]; y[k] = two.x + two.y;",
        "at = 0",
        "at = 1",
        {"misaligned"},
    ),
    "shared memory that nobody wrote": (REVERSE, "held[t] = x[k];", "if (t) held[t] = x[k];", {"uninitialised read"}),
    "an output added to": (PLAIN, "y[k] =", "y[k] +=", {"uninitialised read"}),
    "the last element not written": (PLAIN, "y[k] = x[k]", "if (k + 1 < n) y[k] = x[k]", {"output not written"}),
    "every second not written": (PLAIN, "y[k] = x[k]", "if (k % 2) y[k] = x[k]", {"output not written"}),
    "a write through const": (PLAIN, "y[k] = x[k];", "y[k] = x[k]; ((float*)x)[k] = 0;", {"write to const"}),
    "barriers of both branches": (
        REVERSE,
        "__syncthreads();",
        'if (t < 32) { __syncthreads(); asm(""); } else { asm(""); __syncthreads(); }',
        {"divergent barrier"},
    ),
    "a barrier that some do not come to": (
        REVERSE,
        "__syncthreads();",
        "if (t < 32) return; __syncthreads();",
        {"missing barrier"},
    ),
    "rounds of different number": (
        ROUNDS,
        "round < 3",
        "round < 3 + t / 32",
        {"missing barrier", "race", "out of bounds"},
    ),
    "a barrier and a warp's barrier": (
        REVERSE,
        "__syncthreads();",
        "if (t < 32) __syncthreads(); else if (t == 32) __syncwarp(3); else __syncthreads();",
        {"deadlock"},
    ),
    "a shuffle in a branch": (SHUFFLE, "y[k] =", "y[k] = 0; if (t % 2) y[k] =", {"deadlock"}),
    "a shuffle from outside of its mask": (
        SHUFFLE,
        "x[k] + __shfl_xor_sync(0xffffffffu, x[k], 1)",
        "t % 2 ? x[k] : __shfl_sync(0x55555555u, x[k], 1)",
        {"trap"},
    ),
    "a lane that is not in its mask": (SHUFFLE, "0xffffffffu", "0x0000ffffu", {"trap"}),
    "cp.async not waited for": (COPY, "__pipeline_wait_prior(1);", "", {"read before cp.async arrived"}),
    "the last cp.async not waited for": (COPY, "__pipeline_wait_prior(0);", "", {"read before cp.async arrived"}),
    "one cp.async too few waited for": (COPY, "prior(0)", "prior(1)", {"read before cp.async arrived"}),
    "cp.async not committed": (
        COPY,
        "n, 4);\n    __pipeline_commit();",
        "n, 4);",
        {"read before cp.async arrived"},
    ),
    "waited for, but no barrier": (
        COPY,
        "prior(1);\n    __syncthreads();",
        "prior(1);",
        {"race", "read before cp.async arrived"},
    ),
    "cp.async into what is still read": (
        COPY,
        "__pipeline_wait_prior(0);",
        "__pipeline_memcpy_async(&held[0][t], x + t, 4); __pipeline_commit(); __pipeline_wait_prior(0);",
        {"race"},
    ),
    "cp.async from a float's address": (
        COPY,
        "&held[0][t], x + t, 4",
        "&held[0][t / 4 * 4], x + 1, 16",
        {"misaligned"},
    ),
    "cp.async of 12 bytes": (COPY, "x + t, 4", "x + t, 12", {"trap"}),
    "cp.async from past the end": (COPY, "x + t, 4", "x + t + 1, 4", {"out of bounds"}),
}

OF_BLOCKS = {
    "blocks write one element": (GUARDED, "y[k]", "y[t]", {"race between blocks", "output not written"}),
    "a block reads what another writes": (
        GUARDED,
        "y[k] = x[k];",
        "{ y[k] = x[k]; x = y; if (blockIdx.x) y[k] = x[k - 32]; }",
        {"race between blocks", "uninitialised read"},
    ),
    "atomics beside another block's writes": (
        GUARDED,
        "y[k] = x[k];",
        "{ y[k] = x[k]; if (blockIdx.x == 0) atomicAdd(y + 63, 1.0f); }",
        {"race between blocks", "uninitialised read"},
    ),
    "a tail that is not guarded": ("if (k < n) y[k] = x[k];", "if (k < n)", "", {"out of bounds"}),
}


def module(folder, body, flavour):
    path = folder / "kernel.cu"
    path.write_text(HEAD + body + "\n}\n")
    return cudaemu.Module(path, flavour=flavour)


def run(function, n=N, grid=(1,), block=(N,), **options):
    x = np.random.default_rng(5).standard_normal(n).astype(np.float32)
    y = np.full(n, 7, np.float32)
    function(grid, block, (x, cudaemu.Out(y), np.int32(n)), N * 4, **options)
    return x, y


@pytest.mark.parametrize("flavour", cudaemu.FLAVOURS)
@pytest.mark.parametrize("name", CLEAN)
def test_clean_kernels_compute_and_nothing_is_found(name, flavour, tmp_path):
    body, wanted = CLEAN[name]
    function = module(tmp_path, body, flavour).get_function("kernel")
    for order in cudaemu.ORDERS:
        for seed in range(3 if order == "random" else 1):
            x, y = run(function, order=order, seed=seed)
            np.testing.assert_allclose(y, wanted(x), rtol=1e-6)


@pytest.mark.parametrize("order", cudaemu.ORDERS)
@pytest.mark.parametrize("name", BUGS)
def test_every_bug_is_found(name, order, tmp_path):
    body, right, wrong, kinds = BUGS[name]
    assert body.count(right) >= 1
    changed = body.replace(right, wrong, 1)
    function = module(tmp_path, changed, "check").get_function("kernel")
    with pytest.raises(cudaemu.Found) as caught:
        run(function, order=order)
    found = caught.value.findings
    assert {one.kind for one in found} & kinds, caught.value
    # In which line: one of the body's.
    lines = len(HEAD.splitlines()), len((HEAD + changed).splitlines()) + 1
    for one in found:
        if one.kind in kinds and one.kind != "output not written":
            assert one.now.file == "kernel.cu"
            assert lines[0] <= one.now.line <= lines[1]


@pytest.mark.parametrize("order", cudaemu.ORDERS)
@pytest.mark.parametrize("name", OF_BLOCKS)
def test_every_bug_of_several_blocks_is_found(name, order, tmp_path):
    body, right, wrong, kinds = OF_BLOCKS[name]
    n = 60 if "tail" in name else N
    clean = module(tmp_path, body, "check").get_function("kernel")
    x, y = run(clean, n, (2,), (32,), order=order)
    np.testing.assert_array_equal(x, y)
    function = module(tmp_path, body.replace(right, wrong, 1), "check").get_function("kernel")
    with pytest.raises(cudaemu.Found) as caught:
        run(function, n, (2,), (32,), order=order)
    assert {one.kind for one in caught.value.findings} & kinds, caught.value


def test_enough_kinds_of_bug():
    assert len(BUGS) + len(OF_BLOCKS) >= 38


def counted(folder, body):
    function = module(folder, body, "check").get_function("kernel")
    x, y = np.zeros(N, np.float32), np.zeros(N, np.float32)
    counts = function.count((1,), (N,), (x, y, np.int32(N)), N * 4)
    return counts, {(line.shared, line.write): line for line in counts.lines}


def test_coalesced_accesses_are_counted(tmp_path):
    counts, lines = counted(tmp_path, PLAIN)
    for write in (False, True):
        line = lines[False, write]
        assert (line.warps, line.bytes, line.sectors, line.least_sectors) == (2, 256, 8, 8)
    assert counts.moved == counts.compulsory == 512


def test_scattered_accesses_are_counted(tmp_path):
    counts, lines = counted(tmp_path, "y[t] = x[t * 8 % 64];")
    # 8 addresses, each in a sector of its own, by both warps.
    assert (lines[False, False].sectors, lines[False, False].least_sectors) == (16, 2)
    assert (counts.moved, counts.compulsory) == (512, 512)


def test_vectors_are_one_access(tmp_path):
    _, lines = counted(tmp_path, VECTORS)
    line = lines[False, False]
    assert (line.warps, line.bytes, line.sectors, line.least_sectors) == (1, 256, 8, 8)


@pytest.mark.parametrize(("index", "passes"), [("t", 1), ("t * 2 % 64", 2), ("t * 32 % 64", 2), ("0 * t", 1)])
def test_bank_conflicts_are_counted(index, passes, tmp_path):
    body = "__shared__ float held[64]; held[t] = x[t]; __syncthreads();\n y[t] = held[INDEX];".replace("INDEX", index)
    _, lines = counted(tmp_path, body)
    line = lines[True, False]
    assert (line.warps, line.passes, line.least_passes) == (2, 2 * passes, 2)


def test_vectors_in_shared_memory_take_a_quarter_of_a_warp_at_a_time(tmp_path):
    body = """
        __shared__ __align__(16) float held[64];
        held[t] = x[t];
        __syncthreads();
        float4 four = make_float4(0, 0, 0, 0);
        if (t < 16) four = reinterpret_cast<const float4*>(held)[t];
        y[t] = four.x;
    """
    _, lines = counted(tmp_path, body)
    line = lines[True, False]
    assert (line.warps, line.bytes, line.passes, line.least_passes) == (1, 256, 2, 2)


def test_counting_needs_the_checker(tmp_path):
    with pytest.raises(ValueError, match="flavour='result'"):
        module(tmp_path, PLAIN, "result").get_function("kernel").count((1,), (N,), (None, None, np.int32(1)))


def test_a_finding_names_line_thread_block_and_byte(tmp_path):
    function = module(tmp_path, GUARDED.replace("k < n", "k <= n"), "check").get_function("kernel")
    with pytest.raises(cudaemu.Found, match=r"out of bounds.*byte 240 of args\[0\].*kernel.cu:5") as caught:
        run(function, 60, (2,), (32,))
    (found,) = caught.value.findings
    assert (found.now.thread, found.now.block, found.size, found.now.write) == ((28, 0, 0), (1, 0, 0), 4, False)


def test_a_failed_launch_changes_no_array(tmp_path):
    function = module(tmp_path, "y[k] = 1; y[k + 1] = 2;", "check").get_function("kernel")
    y = np.full(N, 7, np.float32)
    with pytest.raises(cudaemu.Found):
        function((1,), (N,), (np.zeros(N, np.float32), y, np.int32(N)))
    assert (y == 7).all()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (((1,), (N,), ()), "takes 3, got 0"),
        (((0,), (N,), (1, 2, 3)), r"grid=\(0,\)"),
        (((1,), (2048,), (1, 2, 3)), "at most 1024 threads"),
        (((1,), (N,), (np.zeros((4, 4)).T, None, np.int32(1))), r"args\[0\] of kernel: needs a C-contiguous array"),
        (((1,), (N,), (None, None, 5)), r"args\[2\] of kernel: needs numpy.int32, got int"),
        (((1,), (N,), (None, None, np.int64(5))), "needs numpy.int32, got int64"),
    ],
)
def test_bad_launches_are_named(arguments, reason, tmp_path):
    function = module(tmp_path, PLAIN, "result").get_function("kernel")
    with pytest.raises((ValueError, TypeError), match=reason):
        function(*arguments)


def test_bad_modules_are_named(tmp_path):
    with pytest.raises(FileNotFoundError):
        cudaemu.Module(tmp_path / "none.cu")
    with pytest.raises(cudaemu.CompileError, match=r"kernel\.cu"):
        module(tmp_path, "y[k] = undeclared;", "result")
    with pytest.raises(ValueError, match="flavour='fast'"):
        module(tmp_path, PLAIN, "fast")
    with pytest.raises(ValueError, match="has the kernels kernel"):
        module(tmp_path, PLAIN, "result").get_function("other")


def test_a_cache_that_others_can_write_to_is_not_used(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("CUDAEMU_CACHE", str(folder))
    with pytest.raises(cudaemu.CompileError, match="name a folder by CUDAEMU_CACHE"):
        module(tmp_path, PLAIN, "result")
    folder.chmod(0o700)
    run(module(tmp_path, PLAIN, "result").get_function("kernel"))
    assert list(folder.glob("*.so"))


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "fastconv.cudaemu", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command(tmp_path):
    path = tmp_path / "kernel.cu"
    path.write_text(HEAD + GUARDED + "\n}\n")
    launch = ("--grid", 2, "--block", 32, "in:float32:60", "out:float32:60")
    status, stdout, stderr = command(path, *launch, "int:60")
    assert status == 0, stderr
    assert "kernel: nothing found" in stdout
    status, stdout, _ = command(path, *launch, "int:64")
    assert status == 1
    assert "out of bounds" in stdout
    status, _, stderr = command(path, *launch, "64")
    assert status == 2
    assert "'64': needs float:X" in stderr.splitlines()[-1]
