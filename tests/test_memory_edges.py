"""No kernel reads or writes outside of its arrays: they lie flush against unreadable pages, in a child process.

SIMD intrinsics bypass Numba's bounds check, so an overrun shows here or nowhere. Inputs are on read-only pages.
"""

import signal
from collections import Counter

import pytest
from helpers import DTYPES, HERE, HOSTS, child
from test_kernels import GRID

CHILD = HERE / "child_memory_edges.py"


def environment(host):
    return {} if host == "native" else HOSTS[host].environment()


@pytest.mark.parametrize("host", ["native", *HOSTS])
def test_kernels_stay_inside_their_arrays(host):
    result = child(CHILD, "grid", timeout=600, **environment(host))
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
