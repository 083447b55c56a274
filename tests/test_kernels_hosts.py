"""test_kernels.py once more on hosts with less: AVX2, and SSE4 without fused multiply-add, each in a child process.

Numba is told so by NUMBA_CPU_NAME and NUMBA_CPU_FEATURES; the child proves it by the code of a vector operation.
"""

import re

import pytest
import test_kernels
from helpers import HERE, HOSTS, child, children


def run(name):
    return child(HERE / "child_host.py", name, timeout=1200, **HOSTS[name].environment())


@pytest.fixture(scope="module")
def runs(request):
    with children(request, "name", run) as futures:
        yield futures


@pytest.mark.parametrize("name", HOSTS)
def test_kernels_on_a_smaller_host(name, runs, capsys):
    result = runs[name].result()
    report = f"{result.stdout[-20_000:]}\n{result.stderr[-5_000:]}"
    assert result.returncode == 0, report
    (line,) = re.findall(r"^host: (.*)$", result.stdout, re.MULTILINE)
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (\w+)", result.stdout.splitlines()[-1])}
    with capsys.disabled():
        print(f"\n{name}: {result.stdout.splitlines()[-1]} on {line}")
    assert counts.keys() <= {"passed", "deselected"}, report
    # Every kernel on every case, several times over: nothing was left out on the way.
    assert counts["passed"] > 3 * len(test_kernels.GRID), report
