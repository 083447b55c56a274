"""What nvcc and NVRTC make of the CUDA kernels: no warning, no spill, and inside the budgets.

They differ, and users have NVRTC, in CuPy. Fails where one of them is absent.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastconv.cudaemu import CompileError, kernel_names, static
from fastconv.kernels.cuda import builds, launch

BUDGETS = json.loads((launch.HERE / "cuda_budgets.json").read_text(encoding="utf-8"))
PTXAS = """\
ptxas info    : 77 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_80'
ptxas info    : Function properties for first
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 4096 bytes smem, 400 bytes cmem[0]
ptxas info    : Compiling entry function 'second' for 'sm_80'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, 400 bytes cmem[0]
"""


COMPILERS = {"nvcc": static.nvcc, "nvrtc": static.nvrtc}


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("file", builds.BUILDS)
def test_every_build_is_inside_its_budget(file, compiler):
    jobs = [(defines, name) for defines in builds.BUILDS[file] for name in builds.architectures(file, defines)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda job: COMPILERS[compiler](launch.HERE / file, *job), jobs))
    wanted = set(kernel_names((launch.HERE / file).read_text(encoding="utf-8")))
    for (defines, architecture), usages in zip(jobs, found, strict=True):
        assert {usage.kernel for usage in usages} == wanted
        for usage in usages:
            budget = BUDGETS[builds.name(file, defines)][usage.kernel]
            at = f"{usage} of {defines} on {architecture}"
            assert usage.spilled == 0, at
            assert usage.registers <= budget["registers"], at
            assert usage.shared <= budget["shared"], at
            assert static.occupancy(usage, builds.threads(usage.kernel), architecture)[0] >= budget["occupancy"], at


# Products of which a thread has 8 × 8 results.
PRODUCTS = [
    *(("implicit", build) for build in builds.BUILDS["implicit.cu"]),
    *(("gemm", build) for build in builds.BUILDS["gemm.cu"] if build["TILE"] == 128),
    *(("weight", build) for build in builds.BUILDS["weight.cu"] if build != {"TILE_O": 64, "TILE_Q": 64}),
]


@pytest.mark.parametrize(("kernel", "build"), PRODUCTS, ids=str)
def test_products_multiply_most_of_the_time(kernel, build):
    """Of the instructions of their main loop, 16 steps of the sum; each takes one issue slot."""
    loop = static.main_loops(launch.HERE / f"{kernel}.cu", build, "sm_80")[kernel]
    assert loop["FFMA"] == 64 * 16
    assert loop["FFMA"] >= 0.75 * loop.total(), loop


def test_the_main_loop_is_the_one_with_most_products():
    sass = """
.L_x_0:
        /*0000*/                   FFMA R1, R2, R3, R1 ;
        /*0010*/              @!P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0020*/                   LDS.128 R4, [R5] ;
        /*0030*/                   FFMA R1, R2, R3, R1 ;
        /*0040*/              @!P1 FFMA.FTZ R1, R2, R3, R1 ;
        /*0050*/               @P0 BRA `(.L_x_1) ;
        /*0060*/                   EXIT ;
"""
    assert static.main_loop(sass) == {"LDS": 1, "FFMA": 2, "BRA": 1}
    assert not static.main_loop("        /*0000*/                   EXIT ;")


def test_every_file_has_builds_and_budgets():
    files = {path.name for path in launch.HERE.glob("*.cu")}
    assert files == set(builds.BUILDS)
    names = {builds.name(file, defines) for file, every in builds.BUILDS.items() for defines in every}
    assert names == set(BUDGETS)


def test_what_ptxas_says_is_read():
    assert static.parse(PTXAS) == [static.Usage("first", 40, 4096, 16), static.Usage("second", 255, 0, 0)]


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_warning_is_an_error(compiler, tmp_path):
    path = tmp_path / "warns.cu"
    path.write_text('extern "C" __global__ void kernel(float* y) { int unused = 3; y[0] = 1; }')
    with pytest.raises(CompileError, match="unused"):
        COMPILERS[compiler](path, {}, "sm_80")


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "architecture", "share", "limiter"),
    [
        # NVIDIA's occupancy calculator gives these.
        (32, 0, 256, "sm_80", 1.0, "threads"),
        (128, 0, 256, "sm_80", 0.25, "registers"),
        (40, 0, 256, "sm_80", 0.75, "registers"),
        (32, 32 * 1024, 256, "sm_80", 0.5, "shared memory"),
        (32, 0, 32, "sm_80", 0.5, "blocks"),
        (255, 0, 256, "sm_75", 0.25, "registers"),
    ],
)
def test_occupancy(registers, shared, threads, architecture, share, limiter):
    usage = static.Usage("kernel", registers, shared, 0)
    assert static.occupancy(usage, threads, architecture) == (share, limiter)
