"""What several test files share: child processes and the smaller hosts that one machine can stand in for."""

import os
import platform
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DTYPES = ("float32", "float64")


def child(*arguments, timeout=300, **environment):
    """Run Python with these arguments in a process of its own; environment values of None are removed.

    An argument with line breaks is a program: it is preceded by -c.
    """
    # What a child measures is not one of several workers' tests.
    alone = {"PYTEST_XDIST_WORKER": None, "PYTEST_XDIST_WORKER_COUNT": None}
    variables = {**os.environ, **alone, **environment}
    command = [sys.executable, "-X", "faulthandler"]
    for argument in map(str, arguments):
        command += ["-c", argument] if "\n" in argument else [argument]
    return subprocess.run(
        command,
        env={name: str(value) for name, value in variables.items() if value is not None},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@contextmanager
def children(request, parameter, run):
    """A future of run(value) for each value of the parameter in the chosen tests of this module, all at once.

    Children mostly compile, on one processor each.
    """
    mine = [item for item in request.session.items if item.module is request.module and hasattr(item, "callspec")]
    values = dict.fromkeys(item.callspec.params[parameter] for item in mine if parameter in item.callspec.params)
    with ThreadPoolExecutor(len(values)) as pool:
        yield {value: pool.submit(run, value) for value in values}


def succeed(*arguments, **environment):
    """The standard output of a child that must exit with 0; what it printed is in the failure."""
    result = child(*arguments, **environment)
    assert result.returncode == 0, f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def meets(worker):
    """Whether a worker's threads wait for each other at every step: each then has its own part of the work."""
    from fastconv.kernels.cpu import team

    function = worker.py_func
    return "gather" in function.__code__.co_names and function.__globals__.get("gather") is team.gather


def worker_at(address):
    """The worker that `team.address_of` found at this address."""
    from fastconv.kernels.cpu import team

    return next(key[0] for key, found in team._addresses.items() if found == address)


def together(worker, size, arguments):
    """Run a worker on a team whose threads have all come before number 0 begins."""
    from fastconv.kernels.cpu import team

    counter = team.new_counter(size)
    helpers = [threading.Thread(target=worker, args=(counter, n, *arguments)) for n in range(1, size)]
    for helper in helpers:
        helper.start()
    end = time.monotonic() + 60
    while counter[8 * (size + 1)] < size - 1:
        assert time.monotonic() < end, f"{worker} waits for nobody"
        time.sleep(0.0001)
    worker(counter, 0, *arguments)
    for helper in helpers:
        helper.join()


@contextmanager
def handing_over(hand_over):
    """Let hand_over(worker, size, arguments) do what kernels give to a team."""
    from fastconv.kernels.cpu import team

    loaded = [module for name, module in sys.modules.items() if name.startswith("fastconv.kernels.cpu.")]
    replaced = {
        "parallel": lambda worker, size, *arguments: hand_over(worker, size, arguments),
        "parallel_at": lambda address, size, arguments: hand_over(worker_at(address), size, arguments),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, replacement in replaced.items():
            users = [m for m in loaded if m is not team and getattr(m, name, None) is getattr(team, name)]
            assert users
            for module in users:
                patch.setattr(module, name, replacement)
        yield


def last_first(worker, size, arguments):
    """Let the last thread of the team find all the work and the others none."""
    from fastconv.kernels.cpu import team

    if meets(worker):
        together(worker, size, arguments)
        return
    counter = team.new_counter(size)
    for thread in reversed(range(size)):
        worker(counter, thread, *arguments)


def last_thread_first():
    """Let the last thread of every team find all the work and the others none: a real team leaves that to chance.

    Of workers whose threads wait for each other, let all threads come, which a real team leaves to chance too.
    """
    return handing_over(last_first)


@dataclass(frozen=True)
class Host:
    """A processor that Numba is told to compile for, and how to see in its code that it did."""

    cpu: str
    features: str
    isa: str
    # What this machine must have to run its code, in LLVM's names.
    needs: tuple[str, ...]
    # What a fused multiply-add of whole vectors compiles to, and what it must not contain.
    uses: str
    without: tuple[str, ...]

    def environment(self):
        """The variables that make a child process this host, or none where this machine cannot be it."""
        from llvmlite.binding import get_host_cpu_features

        machine = platform.machine()
        if machine.lower() not in ("x86_64", "amd64"):
            pytest.fail(f"{self.isa} code needs an x86-64 machine, this is {machine}")
        here = get_host_cpu_features()
        missing = [name for name in self.needs if not here.get(name)]
        if missing:
            pytest.fail(f"{self.isa} code cannot run here: this machine has no {', '.join(missing)}")
        return {"NUMBA_CPU_NAME": self.cpu, "NUMBA_CPU_FEATURES": self.features}


_SSE4 = "+64bit,+cmov,+cx8,+cx16,+fxsr,+mmx,+sahf,+popcnt,+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2"
_AVX2 = "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe,+xsave"

HOSTS = {
    "avx2": Host("haswell", f"{_SSE4},{_AVX2}", "AVX2+FMA", ("avx2", "fma", "bmi2"), "ymm", ("zmm",)),
    "sse4": Host("nehalem", _SSE4, "SSE", ("sse4.2", "popcnt"), "xmm", ("ymm", "zmm", "vfmadd")),
}
