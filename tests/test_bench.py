"""`pytest --benchmark` as its users call it: in a child process, on the smallest rows, without other runtimes."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import pytest
from helpers import child

from fastconv import machine, testing
from fastconv.kernels.cuda import launch
from fastconv.measure import kept_bytes, scratch_bytes
from fastconv.registry import kernels
from fastconv.report import runs

OPS = ("linear", "linear_grad_input", "linear_grad_weight")

# The machine's limits take seconds to measure: all runs but one do with these.
LIMITS = """
from fastconv.peers import driver

driver.limits = lambda threads: {
    "fma": {"1": 1e11, str(threads): 1e11}, "copy": {"L2": 1e11, "L3": 1e11, "memory": 1e11}
}
"""

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

# A kernel that takes its process with it, in a round.
DYING = """
import os
from fastconv import reference
from fastconv.registry import kernel

calls = 0

@kernel("linear_grad_input/dying/cpu", limit=2.0, cost=lambda p: 1e9)
def dying(p, gy, w, gx, scratch):
    global calls
    calls += 1
    if calls == 8:
        os.write(2, b"out of luck\\n")
        os._exit(3)
    gx[:] = reference.linear_grad_input(w, gy)
"""

ROOT = Path(__file__).parents[1]
SHORT = "--benchmark-max-time=0.01"
INVENTED = ("-p", "invented_limits")


def run(*arguments, plugins=None, journal=None):
    """pytest with these arguments, in the repository's root, and with the modules in the folder `plugins`."""
    path = os.pathsep.join(map(str, filter(None, (plugins, os.environ.get("PYTHONPATH")))))
    more = ("--peers", "none", f"--journal={journal or os.devnull}") if "--benchmark" in arguments else ()
    return child("-m", "pytest", *arguments, *more, PYTHONPATH=path or None)


def collected(*arguments):
    """The ids of what pytest would run."""
    done = run("--collect-only", "-q", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.fixture
def plugins(tmp_path):
    """A folder with what stands above as modules."""
    for name, text in (("limits", LIMITS), ("wrong", WRONG), ("dying", DYING)):
        (tmp_path / f"invented_{name}.py").write_text(text)
    return tmp_path


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(stdout, JSON, lines of the journal) of three groups with our kernels and, of the forward pass, our layer."""
    folder = tmp_path_factory.mktemp("bench")
    path, journal = folder / "rows.json", folder / "journal.jsonl"
    columns = ("--benchmark-columns=median,rounds", "--benchmark-sort=name", "--benchmark-only")
    arguments = (f"--benchmark-json={path}", *columns, SHORT)
    done = run("--benchmark", *arguments, "-k", "lenet-fc3", journal=journal)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    return done.stdout, json.loads(path.read_text()), lines


def test_groups_are_a_case_and_an_operation(report):
    names = [(row["group"], row["param"]) for row in report[1]["benchmarks"]]
    wanted = [(f"lenet-fc3 {op}", f"{kernel.name}-lenet-fc3") for op in OPS for kernel in kernels(op)]
    wanted.append(("lenet-fc3 linear", "linear/fastconv-lenet-fc3"))
    assert sorted(names) == sorted(wanted)
    assert f"{len(wanted)} passed" in report[0]


def test_rows_carry_what_they_must_be_read_with(report):
    by_name = {kernel.name: kernel for kernel in kernels()}
    problem = testing.CASES["lenet-fc3"].problem
    here = machine.machine()
    for row in report[1]["benchmarks"]:
        notes = dict(row["extra_info"])
        own = by_name.get(notes["name"])
        rate = problem.flops / row["stats"]["median"]
        assert notes.pop("gflops") == pytest.approx(rate / 1e9)
        assert notes.pop("share_of_peak") == pytest.approx(rate / 1e9 / notes.pop("fma_peak_gflops"))
        assert notes.pop("gbytes_per_second") == pytest.approx(problem.bytes / row["stats"]["median"] / 1e9)
        assert notes.pop("steady") in (True, False)
        assert notes.pop("git")
        assert 0 < notes.pop("processors") < 3
        kernel = by_name[notes.pop("kernel")]
        arrays = testing.inputs(kernel.op, problem)
        oracle = testing.Oracle(kernel.op, problem, arrays)
        outputs = testing.poisoned_run(kernel, problem, arrays)
        assert notes.pop("error") == pytest.approx(oracle.largest_error(outputs))
        assert notes.pop("kernel_error") == pytest.approx(oracle.error(outputs))
        assert notes.pop("kernel_limit") == kernel.limit
        notes.pop("restless", None)
        if own is not None:
            assert notes.pop("scratch_bytes") == scratch_bytes(own, problem)
            assert notes.pop("kept_bytes") == kept_bytes(own, problem)
        if notes["chosen"]:
            assert notes.pop("goal") == {}
        assert notes.pop("chosen") == (own is None or (kernel.op != "linear" and kernel.algorithm == "gemm"))
        assert notes == {
            "name": own.name if own is not None else "linear/fastconv",
            "runtime": "fastconv",
            "role": "layer" if own is None else "kernel",
            "op": kernel.op,
            "case": "lenet-fc3",
            "problem": "64×84 → 10",
            "flops": problem.flops,
            "bytes": problem.bytes,
            "reproduce": f'pytest --benchmark -k "[{notes["name"]}-lenet-fc3]"',
            "machine": here.line(),
            "threads": here.threads,
            "threading_layer": here.threading_layer,
            "isa": here.isa,
        }


def test_the_machine_and_its_limits_stand_beside_the_rows(report):
    stdout, data, _ = report
    known, here = data["fastconv"], machine.machine()
    assert known["machine"]["line"] == here.line()
    assert known["machine"]["threads"] == here.threads
    assert known["machine"]["features"]
    assert len(known["limits"]) == 2
    for moment in known["limits"]:
        assert set(moment["fma"]) == {"1", str(here.threads)}
        assert set(moment["copy"]) == {"L2", "L3", "memory"}
        assert min(*moment["fma"].values(), *moment["copy"].values()) > 1e8
    assert known["groups"] == [f"lenet-fc3 {op}" for op in OPS]
    assert (known["untimed"], known["peers"], known["quick"]) == ([], {}, False)
    assert ["fc3", "lenet-fc3"] in known["networks"]["LeNet-5, 64 images"]
    summary = stdout[stdout.index("= fastconv =") :]
    assert here.line() in summary
    assert "lenet-fc3 linear" in summary


def test_reports_read_it(report):
    run = runs.read(report[1])
    assert list(run.groups) == [f"lenet-fc3 {op}" for op in OPS]
    assert [group.own.name for group in run.groups.values()] == [
        "linear/fastconv",
        *(f"{op}/gemm/cpu" for op in OPS[1:]),
    ]
    assert {group.verdict for group in run.groups.values()} == {"no peer"}


def test_the_times_are_those_of_the_journal(report):
    cells = {line["group"]: line["cells"] for line in report[2] if "group" in line}
    for row in report[1]["benchmarks"]:
        times = cells[row["group"]][row["extra_info"]["name"]]["times"]
        assert row["stats"]["rounds"] == len(times)
        # The timer adds times up, and pytest-benchmark subtracts.
        assert row["stats"]["min"] == pytest.approx(min(times), rel=1e-6)
        assert row["stats"]["median"] == pytest.approx(median(times), rel=1e-6)


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
    rows = {name for name in names if "/cpu-" in name}
    assert rows == {f"{kernel.name}-{case.name}" for kernel, case in testing.grid(small=False)}
    assert "network/fastconv-vgg16-1" in names


def test_quick_has_few_kernels_of_few_groups():
    names = [name.partition("[")[2].removesuffix("]") for name in collected("--benchmark", "--quick")]
    assert len([name for name in names if name.endswith("-vgg3_2") and name.startswith("conv2d/")]) in (3, 4)
    assert "conv2d/winograd_f4/cpu-vgg3_2" in names
    assert "conv2d/naive/cpu-vgg3_2" not in names
    assert not any("resnet-stem" in name for name in names)


def test_quick_leaves_the_chosen_row_in_every_group(monkeypatch):
    from bench.conftest import QUICK_KERNELS, quick
    from fastconv.peers.groups import PEERS, all_groups

    # On a CUDA device what kernels cost depends on it.
    monkeypatch.setattr(launch, "_cupy", launch.Emulated)
    for group in all_groups(tuple(PEERS)):
        few = quick(group)
        kept = [one for one in few.contenders if one.kernel is not None]
        assert len(kept) <= QUICK_KERNELS + 1
        assert few.chosen == group.chosen
        assert [one.name for one in few.contenders].count(few.chosen) == 1
        # Only kernels are left out.
        assert [one for one in few.contenders if one.kernel is None] == [
            one for one in group.contenders if one.kernel is None
        ]


def test_a_file_and_an_expression_choose_rows():
    found = collected("--benchmark", "bench/test_conv.py", "-k", "lenet and conv2d_grad_input and cpu")
    wanted = [k.name for k, case in testing.grid(small=False) if k.op == "conv2d_grad_input" and "lenet" in case.name]
    assert sorted(name.partition("[")[2].partition("-")[0] for name in found) == sorted(wanted)
    # As rows say how to measure them again: lstm-question-32 is another case.
    assert collected("--benchmark", "-k", "[lstm/rows/cpu-lstm-question]") == [
        "bench/test_recurrent.py::test_recurrent[lstm/rows/cpu-lstm-question]"
    ]


@pytest.mark.parametrize("options", [(), ("--benchmark-disable",)])
def test_a_row_over_its_limit_fails_and_has_no_speed(tmp_path, plugins, options):
    path = tmp_path / "rows.json"
    chosen = ("-k", "lenet-fc3 and linear/ and (gemm or wrong or lazy)", SHORT, *options)
    done = run("--benchmark", *INVENTED, "-p", "invented_wrong", *chosen, f"--benchmark-json={path}", plugins=plugins)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "2 failed" in done.stdout
    assert "linear/wrong/cpu on lenet-fc3: error " in done.stdout
    assert "linear/lazy/cpu on lenet-fc3: error inf is over the kernel's limit 2" in done.stdout
    if options:
        return
    table = done.stdout[done.stdout.index("benchmark 'lenet-fc3 linear': 1 tests") : done.stdout.index("Legend")]
    assert "gemm" in table
    assert "wrong" not in table
    assert "lazy" not in table
    run_of = runs.load(path)
    assert [row.name for row in run_of.rows if row.timed] == ["linear/gemm/cpu"]
    assert sorted(row.name for row in run_of.failures) == ["linear/lazy/cpu", "linear/wrong/cpu"]
    for notes in json.loads(path.read_text())["fastconv"]["untimed"]:
        # An infinite error is null in JSON.
        assert notes["error"] is None or notes["error"] > runs.ERROR_LIMIT
        assert notes["kernel_error"] is None or notes["kernel_error"] > notes["kernel_limit"]
        assert not {"gflops", "share_of_peak", "gbytes_per_second"} & notes.keys()


def test_a_crash_ends_the_rows_of_one_process_in_one_group(tmp_path, plugins):
    """All of them fail, a peer's too, with the last words of their process."""
    torch = tmp_path / "torch" / "bin" / "python"
    torch.parent.mkdir(parents=True)
    torch.write_text("#!/bin/sh\necho no libtorch >&2\nexit 1\n")
    torch.chmod(0o755)
    path = tmp_path / "rows.json"
    places = {"PYTHONPATH": tmp_path, "FASTCONV_PEERS": tmp_path}
    options = ("--peers=torch", f"--journal={os.devnull}", f"--benchmark-json={path}", SHORT, "-k", "lenet-fc3")
    done = child("-m", "pytest", "--benchmark", *INVENTED, "-p", "invented_dying", *options, **places)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    gone = ["linear_grad_input/dying/cpu", *(kernel.name for kernel in kernels("linear_grad_input"))]
    # Our layer has a process of its own.
    left = [kernel.name for op in ("linear", "linear_grad_weight") for kernel in kernels(op)] + ["linear/fastconv"]
    for count in (f"{len(gone) + len(OPS)} failed", f"{len(left)} passed"):
        assert count in done.stdout.splitlines()[-1]
    assert "skipped" not in done.stdout.splitlines()[-1]
    found = runs.load(path)
    absent = {row.name: row.absent for row in found.rows if not row.timed}
    assert absent == {
        **dict.fromkeys(gone, "crashed: out of luck"),
        **{f"{op}/torch": "crashed: no libtorch" for op in OPS},
    }
    assert "linear_grad_input/gemm/cpu on lenet-fc3: crashed: out of luck" in done.stdout
    assert "linear/torch on lenet-fc3: crashed: no libtorch" in done.stdout
    # A crash is no wrong result, and what was not measured is no opponent.
    assert not found.failures
    assert found.groups["lenet-fc3 linear"].verdict == "no peer"
    assert found.groups["lenet-fc3 linear_grad_input"].verdict == "FAIL"


def on_a_terminal(*arguments, **variables):
    """(exit status, stdout, what a terminal of 100 columns was sent by stderr) of Python with these arguments."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    environment = {**os.environ, "TERM": "xterm", **{name: str(value) for name, value in variables.items()}}
    command = [sys.executable, *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=slave, text=True)
    os.close(slave)
    sent: list[bytes] = []

    def listen():
        # Linux answers EIO once nobody has the other end open.
        with suppress(OSError):
            while piece := os.read(master, 65536):
                sent.append(piece)

    listener = threading.Thread(target=listen)
    listener.start()
    stdout, _ = process.communicate(timeout=300)
    listener.join(30)
    os.close(master)
    return process.returncode, stdout, b"".join(sent).decode()


def seen_bars(sent):
    """(done, of how many, text) of every bar that a terminal was sent."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent)
    return [(int(a), int(b), text.strip()) for a, b, text in re.findall(r"━+ +(\d+)/(\d+)([^\r\n]*)", plain)]


def test_progress_on_a_terminal_and_nowhere_else(plugins):
    options = ("--peers", "none", f"--journal={os.devnull}", SHORT, "-k", "lenet-fc3 and gemm")
    command = ("-m", "pytest", "--benchmark", *INVENTED, *options)
    status, stdout, sent = on_a_terminal(*command, PYTHONPATH=plugins)
    assert status == 0, stdout + sent
    bars = seen_bars(sent)
    assert [(done, groups) for done, groups, _ in dict.fromkeys((*bar[:2], "") for bar in bars)] == [
        (0, 3),
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    said = {text.partition(", about")[0] for _, _, text in bars}
    assert any("lenet-fc3 linear" in text for text in said), said
    assert any(re.search(r", about \d+ s left$", text) for _, _, text in bars), bars
    # Erased in the end, so that only the results stay.
    assert sent.endswith("\x1b[1A\x1b[2K"), sent[-80:]
    assert "━" not in stdout
    done = run("--benchmark", *INVENTED, SHORT, "-k", "lenet-fc3 and gemm and linear/", plugins=plugins)
    assert "━" not in done.stdout + done.stderr


def test_a_run_that_stops_early_reports_its_rows(tmp_path, plugins):
    path = tmp_path / "rows.json"
    chosen = ("-x", "-k", "lenet-fc3 and linear/ and (gemm or lazy)", SHORT)
    done = run("--benchmark", *INVENTED, "-p", "invented_wrong", *chosen, f"--benchmark-json={path}", plugins=plugins)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    (row,) = json.loads(path.read_text())["benchmarks"]
    assert row["extra_info"]["share_of_peak"] > 0


def measured_groups(journal):
    """The groups that are in a journal, as often as they were measured."""
    if not journal.exists():
        return []
    whole = journal.read_text().rpartition("\n")[0].split("\n")
    return [line["group"] for line in map(json.loads, filter(None, whole)) if "group" in line]


def test_a_killed_run_loses_nothing_and_goes_on(tmp_path, plugins):
    journal, path = tmp_path / "journal.jsonl", tmp_path / "rows.json"
    chosen = (*INVENTED, "-k", "lenet-fc3 and gemm", SHORT)
    command = [sys.executable, "-m", "pytest", "--benchmark", *chosen, "--peers", "none", f"--journal={journal}"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    killed = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(plugins)}, **silent)
    end = time.monotonic() + 120
    while not measured_groups(journal) and time.monotonic() < end and killed.poll() is None:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = measured_groups(journal)
    assert 1 <= len(before) < 3, before
    kept = journal.read_text().rpartition("\n")[0]
    done = run("--benchmark", *chosen, "--resume", f"--benchmark-json={path}", plugins=plugins, journal=journal)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(measured_groups(journal)) == sorted(f"lenet-fc3 {op}" for op in OPS)
    assert journal.read_text().startswith(kept + "\n")
    run_of = runs.load(path)
    assert len(run_of.groups) == 3
    # The machine was measured at the start of the first sitting, and at both ends of the second.
    assert len(run_of.limits) == 3
    # Of a group that other rows are asked of, all are measured again: in turn, or they say nothing of each other.
    chosen = (*INVENTED, "-k", "lenet-fc3 and linear/", SHORT)
    done = run("--benchmark", *chosen, "--resume", plugins=plugins, journal=journal)
    assert done.returncode == 0, done.stdout + done.stderr
    assert measured_groups(journal).count("lenet-fc3 linear") == 2


def test_another_run_is_not_resumed(tmp_path):
    journal = tmp_path / "journal.jsonl"
    journal.write_text('{"head": {"git": "of another revision"}}\n')
    done = run("--benchmark", "--resume", "-k", "lenet-fc3 and gemm", journal=journal)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "measure again without --resume" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("peers", "reason"), [("pytorch", "'pytorch' is not one of torch,"), ("torch,,x", "'x' is not one of torch")]
)
def test_peers_that_there_are_not(peers, reason):
    done = child("-m", "pytest", "--benchmark", "--collect-only", "--peers", peers)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert reason in done.stdout + done.stderr


def test_peers_that_are_not_installed(tmp_path):
    done = child("-m", "pytest", "--benchmark", "--collect-only", "--peers", "ncnn", FASTCONV_PEERS=tmp_path)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "ncnn is not installed here and has no environment in" in done.stdout + done.stderr


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


@pytest.fixture
def own_model(tmp_path):
    path = tmp_path / "my_model.py"
    path.write_text(
        "from fastconv import nn\n\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5))\n\n"
        "def nothing():\n    return 3\n"
    )
    return path


def bench(*arguments):
    return child("-m", "fastconv.cli", "bench", *arguments, "--peers", "none", "--quick", COLUMNS=200)


def test_a_layer_of_one_s_own(tmp_path):
    path = tmp_path / "mine.json"
    sizes = ("conv2d", 1, 3, 9, 9, 4, 3, "--padding", 1)
    done = bench(*sizes, "--algorithms", "direct,naive", "--json", path)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("conv2d/direct/cpu", "conv2d/naive/cpu", "conv2d/fastconv"):
        assert name in done.stdout
    assert "1×3×9×9 → 4, 3×3, padding 1" in done.stdout
    (group,) = runs.load(path).groups.values()
    assert len(group.rows) == 3
    assert all("fastconv" in row.reproduce and "--padding 1" in row.reproduce for row in group.rows)


def test_a_model_of_one_s_own(own_model):
    done = bench("--model", f"{own_model}:build", "--input", "2,1,8,8")
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("2×1×8×8 → 4, 3×3", "2×4×6×6, 2×2, stride 2", "2×36 → 5", "sum of the layers", "the model's own call"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "needs a problem, or --model and --input"),
        (["--model", "x.py:build"], "belong together"),
        (["--model", "x.py:build", "--input", "1,3"], "there is no file x.py"),
        (["--model", "x", "--input", "1,3"], "needs FILE.py:FUNCTION or one of"),
        (["--model", "{model}:none", "--input", "1,3"], "has no function none"),
        (["--model", "{model}:nothing", "--input", "1,3"], "returned int"),
        (["--model", "{model}:build", "--input", "1,3,x"], "needs a shape with the batch"),
        (["conv2d", "1", "2"], "needs 7"),
        (["linear", "1", "2", "3", "--algorithms", "winograd"], "algorithm='winograd': no kernel of linear"),
    ],
)
def test_bench_names_what_is_wrong(own_model, arguments, reason):
    done = bench(*(word.format(model=own_model) for word in arguments))
    assert done.returncode == 2
    assert reason in done.stderr.splitlines()[-1]
