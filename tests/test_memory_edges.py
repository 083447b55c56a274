"""No kernel reads or writes outside of its arrays: they lie flush against unreadable pages, in a child process.

SIMD intrinsics bypass Numba's bounds check, so an overrun shows here or nowhere. Inputs are on read-only pages.
"""

import signal
from collections import Counter

import pytest
from helpers import DTYPES, HERE, HOSTS, child, children
from test_kernels import GRID

CHILD = HERE / "child_memory_edges.py"


def run(host):
    return child(CHILD, "grid", timeout=900, **({} if host == "native" else HOSTS[host].environment()))


@pytest.fixture(scope="module")
def runs(request):
    with children(request, "host", run) as futures:
        yield futures


@pytest.mark.parametrize("host", ["native", *HOSTS])
def test_kernels_stay_inside_their_arrays(host, runs):
    result = runs[host].result()
    assert result.returncode == 0, f"last: {result.stdout[-200:]}\n{result.stderr[-5_000:]}"
    *lines, last = result.stdout.splitlines()
    # Both ends, one thread and two.
    times = Counter("-".join(line.split()[:3]) for line in lines)
    assert set(times.values()) == {4}
    assert last == f"ran {len(lines)}"
    missing = {parameter.id for parameter in GRID} ^ times.keys()
    assert not missing


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["read-after", "read-before", "write-after", "write-before", "write-input"])
def test_one_element_outside_is_caught(mode, dtype):
    right = child(CHILD, f"{mode}-{dtype}")
    assert right.returncode == 0, right.stderr
    assert right.stdout.split() == ["compiled", "survived"]
    wrong = child(CHILD, f"{mode}-{dtype}", "wrong")
    assert wrong.stdout.split() == ["compiled"]
    assert wrong.returncode in (-signal.SIGSEGV, -signal.SIGBUS), (wrong.returncode, wrong.stderr)
