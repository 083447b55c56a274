"""`pytest --benchmark` as its users call it: in a child process, on the smallest rows."""

import json
import os

import pytest
from helpers import child

from fastconv import machine, testing
from fastconv.measure import scratch_bytes
from fastconv.registry import kernels

OPS = ("linear", "linear_grad_input", "linear_grad_weight")

# Kernels that must fail: a wrong product, and one that stops writing once it has been right.
WRONG = """
from fastconv import reference
from fastconv.registry import kernel

calls = 0

@kernel("linear/wrong/cpu", limit=2.0, cost=lambda p: 1e9)
def wrong(p, x, w, b, y, scratch):
    y[:] = reference.linear(x, w, b)
    y[-1, -1] += 0.001

@kernel("linear/lazy/cpu", limit=2.0, cost=lambda p: 1e9)
def lazy(p, x, w, b, y, scratch):
    global calls
    calls += 1
    if calls < 5:
        y[:] = reference.linear(x, w, b)
"""


def run(*arguments, plugins=None):
    """pytest with these arguments, in the repository's root, and with the modules in the folder `plugins`."""
    path = os.pathsep.join(map(str, filter(None, (plugins, os.environ.get("PYTHONPATH")))))
    return child("-m", "pytest", *arguments, PYTHONPATH=path or None)


def collected(*arguments):
    """The ids of what pytest would run."""
    done = run("--collect-only", "-q", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(stdout, JSON) of three rows."""
    path = tmp_path_factory.mktemp("bench") / "rows.json"
    arguments = (f"--benchmark-json={path}", "--benchmark-columns=median,rounds", "--benchmark-sort=name")
    done = run("--benchmark", *arguments, "-k", "lenet-fc3 and gemm")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(path.read_text())


def test_groups_are_a_case_and_an_operation(report):
    assert [(row["group"], row["param"]) for row in report[1]["benchmarks"]] == [
        (f"lenet-fc3 {op}", f"{op}/gemm/cpu-lenet-fc3") for op in OPS
    ]
    assert "3 passed" in report[0]


def test_rows_carry_what_they_must_be_read_with(report):
    by_name = {kernel.name: kernel for kernel in kernels()}
    problem = testing.CASES["lenet-fc3"].problem
    here = machine.machine()
    for row in report[1]["benchmarks"]:
        notes = dict(row["extra_info"])
        kernel = by_name[notes["kernel"]]
        arrays = testing.inputs(kernel.op, problem)
        outputs = testing.poisoned_run(kernel, problem, arrays)
        rate = problem.flops / row["stats"]["median"]
        assert notes.pop("gflops") == pytest.approx(rate / 1e9)
        assert notes.pop("share_of_peak") == pytest.approx(rate / 1e9 / notes.pop("fma_peak_gflops"))
        assert notes.pop("gbytes_per_second") == pytest.approx(problem.bytes / row["stats"]["median"] / 1e9)
        assert notes.pop("steady") in (True, False)
        assert notes.pop("git")
        assert notes == {
            "kernel": kernel.name,
            "op": kernel.op,
            "case": "lenet-fc3",
            "flops": problem.flops,
            "bytes": problem.bytes,
            "scratch_bytes": scratch_bytes(kernel, problem),
            "error": testing.error(kernel.op, problem, arrays, outputs),
            "largest_error": testing.largest_error(kernel.op, problem, arrays, outputs),
            "limit": kernel.limit,
            "machine": here.line(),
            "threads": here.threads,
            "threading_layer": here.threading_layer,
            "isa": here.isa,
        }


def test_the_machine_and_its_peak_stand_beside_the_rows(report):
    stdout, data = report
    known, peak = data["fastconv"], data["fastconv"]["fma_peak"]
    assert known["machine"] == machine.machine().line()
    assert 0 < peak["start"] <= peak["best"]
    assert 0 < peak["end"] <= peak["best"]
    summary = stdout[stdout.index("= fastconv =") :]
    assert known["machine"] in summary
    assert f"{peak['start'] / 1e9:.0f} GFLOP/s at start, {peak['end'] / 1e9:.0f} at end" in summary


def test_the_errors_of_winograd_are_printed():
    done = run("--benchmark", "-k", "conv2d/winograd and vgg5")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout[done.stdout.index("computed in tiles") :].splitlines()
    errors = {words[0]: float(words[1]) for words in map(str.split, lines) if words and "winograd" in words[0]}
    assert sorted(errors) == [*(f"conv2d/winograd_f{m}/cpu" for m in (2, 4, 6)), "conv2d/winograd_row/cpu"]
    assert 0 < errors["conv2d/winograd_f2/cpu"] < 3e-6
    assert 0 < errors["conv2d/winograd_f4/cpu"] < 3e-6 < errors["conv2d/winograd_f6/cpu"]


def test_benchmarks_options_choose_the_columns(report):
    header = next(line for line in report[0].splitlines() if line.startswith("Name (time in"))
    assert header.split()[-2:] == ["Median", "Rounds"]
    assert "StdDev" not in header


def test_plain_pytest_collects_tests_alone():
    found = collected()
    assert found
    assert all(name.startswith("tests/") for name in found)


def test_every_kernel_and_bench_case_is_a_row():
    found = collected("--benchmark")
    assert all(name.startswith("bench/") for name in found)
    names = [name.partition("[")[2].removesuffix("]") for name in found]
    assert len(names) == len(set(names))
    rows = {name for name in names if "/torch-" not in name}
    assert rows == {f"{kernel.name}-{case.name}" for kernel, case in testing.grid(small=False)}


def test_a_file_and_an_expression_choose_rows():
    found = collected("--benchmark", "bench/test_conv.py", "-k", "lenet and conv2d_grad_input and not torch")
    wanted = [k.name for k, case in testing.grid(small=False) if k.op == "conv2d_grad_input" and "lenet" in case.name]
    assert sorted(name.partition("[")[2].partition("-")[0] for name in found) == sorted(wanted)


def test_a_row_over_its_limit_fails_and_has_no_speed(tmp_path):
    (tmp_path / "wrong_kernels.py").write_text(WRONG)
    path = tmp_path / "rows.json"
    chosen = ("-k", "lenet-fc3 and linear/ and (gemm or wrong or lazy)", "--benchmark-max-time=0.01")
    done = run("--benchmark", "-p", "wrong_kernels", *chosen, f"--benchmark-json={path}", plugins=tmp_path)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "2 failed" in done.stdout
    assert "linear/wrong/cpu on lenet-fc3: error " in done.stdout
    assert "linear/lazy/cpu on lenet-fc3: error inf is over its limit 2" in done.stdout
    table = done.stdout[done.stdout.index("benchmark 'lenet-fc3 linear': 1 tests") : done.stdout.index("Legend")]
    assert "gemm" in table
    assert "wrong" not in table
    assert "lazy" not in table
    assert [row["extra_info"]["kernel"] for row in json.loads(path.read_text())["benchmarks"]] == ["linear/gemm/cpu"]


def test_a_run_that_stops_early_reports_its_rows(tmp_path):
    (tmp_path / "wrong_kernels.py").write_text(WRONG)
    path = tmp_path / "rows.json"
    chosen = ("-x", "-k", "lenet-fc3 and linear/ and not naive and not torch", "--benchmark-max-time=0.01")
    done = run("--benchmark", "-p", "wrong_kernels", *chosen, f"--benchmark-json={path}", plugins=tmp_path)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    (row,) = json.loads(path.read_text())["benchmarks"]
    assert row["extra_info"]["share_of_peak"] > 0


def test_a_run_without_timing_still_checks_values(tmp_path):
    (tmp_path / "wrong_kernels.py").write_text(WRONG)
    chosen = ("-k", "lenet-fc3 and linear/ and (gemm or wrong)", "--benchmark-disable")
    done = run("--benchmark", "-p", "wrong_kernels", *chosen, plugins=tmp_path)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout


def test_without_pytest_benchmark_there_are_tests_and_a_clear_error():
    # What pytest sees of a plugin that is not installed is what it sees of one that is switched off.
    assert collected("-p", "no:benchmark", "tests/test_bench.py")
    done = run("-p", "no:benchmark", "--benchmark")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--benchmark needs pytest-benchmark: pip install -e '.[bench]'" in done.stderr


def test_a_path_into_bench_needs_the_option():
    done = run("bench/test_conv.py")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "run them with pytest --benchmark" in done.stderr
