"""The report on the CUDA kernels: bounds worked by hand, figures of the functions, a page of one file."""

import re
import subprocess

import pytest

from fastconv import testing
from fastconv.cudaemu import static
from fastconv.kernels.cuda import builds, launch
from fastconv.problem import ConvProblem, LinearProblem, PoolProblem, RecurrentProblem
from fastconv.registry import kernels
from tools.cuda_report import __main__, bounds, code, gather, memory, page, terminal
from tools.cuda_report.devices import DEVICES

A100, H100, RTX_4090 = DEVICES
BY_NAME = {kernel.name: kernel for kernel in kernels(None, "cuda")}


def of_float32(launched):
    """In place of compiling what was launched."""
    assert launched
    return "float32"


@pytest.fixture(scope="module")
def bounded():
    return bounds.bounds(list(BY_NAME.values()), of_float32)


@pytest.fixture(scope="module")
def report():
    """Of two kernels, so that it takes seconds."""
    chosen = [BY_NAME["avg_pool2d/direct/cuda"], BY_NAME["conv2d/winograd_f4/cuda"]]
    used = {one.build for one in gather.launched(chosen)}
    return gather.gather(chosen, [name for name in code.BUILDS if name in used], ["sm_80"])


def bound_of(bounded, case, kernel):
    return next(one for one in bounded if (one.case, one.kernel.name) == (case, kernel))


def test_a_bound_by_hand(bounded):
    """vgg5: 512 channels of 14×14 to 512 by 3×3 windows, with a bias."""
    flops, size = 2 * 512 * 512 * 9 * 14 * 14, 4 * (2 * 512 * 14 * 14 + 512 * 512 * 9 + 512)
    direct = bound_of(bounded, "vgg5", "conv2d/direct/cuda")
    assert (direct.flops, direct.own, direct.bytes, direct.fewer) == (flops, flops, size, False)
    time = direct.times["A100"]
    assert (time.limit, time.in_cache) == ("float32", True)
    assert time.seconds == pytest.approx(flops / 19.5e12) == pytest.approx(47.43e-6, rel=1e-3)
    # F(4×4): 4 × 4 tiles of 6 × 6 elements, each a product of 512 × 512.
    winograd = bound_of(bounded, "vgg5", "conv2d/winograd_f4/cuda")
    assert (winograd.flops, winograd.own, winograd.fewer) == (flops, 2 * 16 * 36 * 512 * 512, True)
    assert winograd.times["A100"].seconds == pytest.approx(15.49e-6, rel=1e-3)
    # So few flops that an RTX 4090 would wait for its memory.
    time = winograd.times["RTX 4090"]
    assert (time.limit, time.seconds) == ("memory", pytest.approx(size / 1008e9))


def test_the_larger_of_two_bounds():
    assert bounds.least(19.5e12, 2039e9, "float32", A100) == bounds.Time(1.0, "float32", False)
    assert bounds.least(19.5e12, 2 * 2039e9, "float32", A100) == bounds.Time(2.0, "memory", False)
    assert bounds.least(312e12, 10, "float16", A100) == bounds.Time(1.0, "float16", True)
    assert bounds.least(0, 40 * 2**20, "float32", A100).in_cache
    assert not bounds.least(0, 40 * 2**20 + 1, "float32", A100).in_cache
    # Where all arrays fit into L2, memory may be no limit.
    assert [bounds.least(*given, "float32", A100).what for given in ((1, 9e6), (1, 9e9), (1e12, 9e6))] == [
        "memory*",
        "memory",
        "float32",
    ]


@pytest.mark.parametrize(
    ("op", "problem", "size"),
    [
        ("conv2d", ConvProblem.make((2, 3, 5, 7), (4, 3, 1, 1), bias=True, add=True), 4 * (210 + 12 + 4 + 280 + 280)),
        ("conv2d_grad_weight", ConvProblem.make((2, 3, 5, 7), (4, 3, 1, 1)), 4 * (210 + 280 + 12)),
        ("max_pool2d_with_indices", PoolProblem.make((1, 2, 4, 6), 2), 4 * 48 + 4 * 12 + 8 * 12),
        ("max_pool2d_grad", PoolProblem.make((1, 2, 4, 6), 2), 4 * (48 + 12 + 48)),
        ("linear", LinearProblem.make((3, 5), (7, 5)), 4 * (15 + 35 + 21)),
        # x, w_ih, w_hh, two biases, lengths; y, h, c.
        ("lstm", RecurrentProblem.make("lstm", (2, 3, 5), 7, ragged=True), 4 * (30 + 140 + 196 + 56 + 42 + 42) + 8 * 3),
    ],
)
def test_every_array_is_moved_once(op, problem, size):
    assert bounds.traffic(op, problem) == size


def test_the_way_back_of_a_recurrent_layer_has_its_products_twice():
    problem = RecurrentProblem.make("gru", (2, 3, 5), 7)
    assert bounds.flops("gru", problem) == 2 * 2 * 3 * 21 * (5 + 7)
    assert bounds.flops("gru_grad", problem) == 2 * bounds.flops("gru", problem)
    assert bounds.flops("conv2d_grad_input", testing.CASES["vgg5"].problem) == testing.CASES["vgg5"].problem.flops


def test_every_kernel_is_bounded_and_so_are_32_images(bounded):
    assert {one.kernel.name for one in bounded} == set(BY_NAME)
    one, many = (bound_of(bounded, case, "conv2d/direct/cuda") for case in ("vgg4_2", "vgg4_2 ×32"))
    assert many.flops == 32 * one.flops
    assert one.bytes < many.bytes < 32 * one.bytes
    assert bound_of(bounded, "vgg-fc6 ×32", "linear/gemm/cuda").flops == 2 * 32 * 25088 * 4096


@pytest.mark.parametrize("name", [name for name in BY_NAME if "winograd" in name])
def test_winograd_is_bounded_by_its_own_flops(name, bounded):
    m = int(name.partition("winograd_f")[2][0])
    one = bound_of(bounded, "vgg4_2", name)
    # Tiles of 28×28 outputs come out even.
    assert one.own == one.flops * (m + 2) ** 2 / (9 * m**2)


def test_launches_are_those_that_are_done():
    kernel, problem = BY_NAME["conv2d/winograd_f2/cuda"], testing.CASES["conv-many-channels"].problem

    class Both(launch.Emulated):
        def __call__(self, *given):
            recorder(*given)
            super().__call__(*given)

    recorder = bounds.Recorder()
    with launch.running(Both()):
        testing.poisoned_run(kernel, problem, testing.inputs("conv2d", problem))
    assert bounds.launches(kernel, problem) == tuple(recorder.launches)
    assert [one.kernel for one in recorder.launches][1:] == ["transform_input", "gemm", "transform_output"]


def test_what_is_launched_has_a_build():
    defines = next(iter(builds.BUILDS["winograd.cu"]))
    assert code.build("winograd.cu", dict(reversed(defines.items()))) == builds.name("winograd.cu", defines)
    with pytest.raises(ValueError, match=r"winograd.cu M=7: launched, but not"):
        code.build("winograd.cu", {"M": 7})


def test_builds_are_for_architectures_that_can_have_them(monkeypatch):
    monkeypatch.setitem(builds.NEEDS, "winograd.cu M=2", "sm_86")
    able = [name for name in static.LIMITS if code.is_for("winograd.cu M=2", name)]
    assert able == ["sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
    assert all(code.is_for("winograd.cu M=4", name) for name in static.LIMITS)


def test_what_tensor_cores_multiply():
    instructions = ("HMMA.1688.F32.TF32 R4", "HMMA.16816.F32.BF16 R4", "HMMA.16816.F32 R4", "FFMA R1")
    assert [static.precision(one) for one in instructions] == ["tf32", "bfloat16", "float16", ""]
    assert all(set(device.peaks) == {"float32", "tf32", "bfloat16", "float16"} for device in DEVICES)


def test_the_main_loop_is_where_tensor_cores_multiply():
    sass = """\
.L_x_0:
        /*0000*/                   FFMA R1, R2, R3, R1 ;
        /*0010*/                   FFMA R1, R2, R3, R1 ;
        /*0020*/               @P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0030*/                   HMMA.1688.F32.TF32 R4, R8, R12, R4 ;
        /*0040*/               @P1 BRA `(.L_x_1) ;
"""
    assert static.main_loop(sass) == {"HMMA": 1, "BRA": 1}


def test_the_mix_of_a_loop():
    usage = static.Usage("kernel", 32, 0, 0)
    loop = {"FFMA": 6, "LDS": 2, "ULDC": 1, "IMAD": 3, "UIADD3": 1, "BRA": 1, "FADD": 1, "LDGDEPBAR": 1}
    found = code.Code("build", "sm_80", usage, loop, "", 256)
    assert found.product == "FFMA"
    assert found.mix == {"product": 6 / 16, "memory": 3 / 16, "integer": 4 / 16, "rest": 3 / 16}
    assert code.Code("build", "sm_80", usage, {}, "", 256).mix == {}


def test_spills_are_shown(report):
    spilling = code.Code("build", "sm_80", static.Usage("kernel", 40, 0, 12), {}, "", 256)
    assert terminal.code_row(spilling)[3] == "40, 12 bytes spilled"
    assert "12 bytes spilled" in page.page(gather.Report(("sm_80",), (spilling,), report.bounds, report.counted))


def test_shared_memory_that_is_given_at_launch_counts():
    found = code.Code("build", "sm_80", static.Usage("kernel", 32, 1024, 0), {}, "", 128)
    assert found.occupancy == (1.0, "threads")
    asked = [bounds.Launch("build", "kernel", 1, 64, 1024), bounds.Launch("build", "kernel", 9, 128, 79 * 1024)]
    launched = gather._as_launched(found, [*asked, bounds.Launch("build", "other", 1, 512, 90 * 1024)])
    assert (launched.shared, launched.threads) == (80 * 1024, 128)
    assert launched.occupancy == (2 * 128 / 2048, "shared memory")


def test_accesses_are_those_that_the_executor_counts():
    kernel = BY_NAME["avg_pool2d/direct/cuda"]
    problem = memory.example(kernel)
    runner = launch.Emulated("check", device=memory.Counting().device)
    runner.counts = {}
    with launch.running(runner):
        testing.poisoned_run(kernel, problem, testing.inputs(kernel.op, problem))
    [counts] = runner.counts.values()
    found = memory.counted(kernel).accesses
    assert sum(one.units for one in found) == sum(line.sectors + line.passes for line in counts.lines)
    assert sum(one.share for one in found) == pytest.approx(
        1 - 1 / (sum(a.units for a in found) / sum(a.least for a in found))
    )
    assert [one.share for one in found] == sorted((one.share for one in found), reverse=True)
    for one in found:
        source = (launch.HERE / one.file).read_text(encoding="utf-8").splitlines()
        assert one.text == source[one.line - 1].strip()


@pytest.mark.parametrize("kernel", BY_NAME.values(), ids=BY_NAME)
def test_examples_are_served_and_small(kernel):
    problem = memory.example(kernel)
    assert testing.serves(kernel, problem)
    assert problem.flops < 60e6


def test_an_unknown_kind_of_problem_is_an_error():
    with pytest.raises(ValueError, match="str: nobody has said"):
        memory.smaller("lstm")


def test_the_page_is_one_file(report, tmp_path):
    text = page.page(report)
    assert not re.findall(r"""\b(?:src|href)=["'](?!#)|@import""", text)
    assert "url(" not in re.search("<style>.*?</style>", text, re.DOTALL)[0]
    assert "default-src 'none'" in text
    path = tmp_path / "cuda.html"
    path.write_text(text, encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", path.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # Its scripts have run to their end, and tables can be sorted.
    assert 'data-ready="yes"' in shown
    assert shown.count("dt-column-order") > 20


def test_the_page_has_every_kernel_and_says_what_it_is(report, bounded):
    text = page.page(gather.Report(report.architectures, report.codes, tuple(bounded), report.counted))
    tables = re.findall(r"<table.*?</table>", text, re.DOTALL)
    assert len(tables) == 4
    assert all("computed, not measured" in table for table in tables)
    for name in BY_NAME:
        assert f'title="{name}"' in tables[0], name
    rows = re.findall(r"<tr data-kind.*?</tr>", tables[0], re.DOTALL)
    assert len(rows) == len(bounded)
    assert all(str(device.source) in text for device in DEVICES)


def test_figures_of_the_page_are_those_of_the_functions(report):
    text = page.page(report)
    build = builds.name("winograd.cu", {"M": 4})
    path = launch.HERE / "winograd.cu"
    usage = next(one for one in static.nvcc(path, {"M": 4}, "sm_80") if one.kernel == "transform_input")
    loop = static.main_loops(path, {"M": 4}, "sm_80")["transform_input"]
    row = next(
        row
        for row in re.findall(r"<tr data-architecture.*?</tr>", text, re.DOTALL)
        if ">transform_input<" in row and f">{build}<" in row
    )
    share, limiter = static.occupancy(usage, builds.threads("transform_input"), "sm_80")
    assert f'data-label="registers" data-order="{usage.registers}">{usage.registers}<' in row
    assert f'data-order="{share:.6g}"' in row
    assert limiter in row
    assert f'data-label="products" data-order="{loop["FFMA"] / sum(loop.values()):.6g}"' in row
    worst = max((one for every in report.counted for one in every.accesses), key=lambda one: one.share)
    row = re.search(r"<tr data-memory.*?</tr>", text, re.DOTALL)[0]
    assert f"{worst.file}:{worst.line}" in row
    assert f">{worst.units:,}<" in row
    assert f">{worst.factor:.2f}<" in row


def test_the_command(capsys, tmp_path):
    path = tmp_path / "new" / "page.html"
    assert __main__.main(["-k", "avg_pool2d/direct", "-o", str(path), "sm_80"]) == 0
    said = capsys.readouterr().out
    assert said.count("computed, not measured") == 3
    assert said.splitlines()[-1] == str(path)
    time = next(line for line in said.splitlines() if "vgg-pool1 " in line)
    # 64 planes of 224×224 and of 112×112, by 2039 GB/s.
    assert f"{4 * 64 * (224**2 + 112**2) / 2039e9 * 1e6:.2f} µs memory*" in time
    assert "avg_pool" in path.read_text(encoding="utf-8")
    __main__.main(["-k", "avg_pool2d/direct", "--terminal", "sm_80"])
    assert ".html" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["sm_70"], "sm_70: needs some of sm_75, sm_80"),
        (["-k", "none/of/them"], "-k none/of/them: no kernel has it in its name"),
        (["-o", "/tmp"], "-o /tmp: a folder, needs a file"),
        (["--page"], "unrecognized arguments: --page"),
    ],
)
def test_errors_say_what_is_wrong(given, words, capsys):
    with pytest.raises(SystemExit) as stop:
        __main__.main(given)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_without_a_compiler_there_is_one_clear_error(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    code.compiled.cache_clear()
    assert __main__.main(["-k", "avg_pool2d/direct", "--terminal", "sm_80"]) == 1
    assert "nvcc is not here: install the CUDA toolkit" in capsys.readouterr().err
