"""Run test_kernels.py in a process that Numba has been told is another host: child_host.py NAME, a key of HOSTS."""

import sys

import numpy as np
import pytest
from helpers import HERE, HOSTS

from fastconv.kernels.cpu.jit import njit
from fastconv.kernels.cpu.simd import fma, load, store
from fastconv.machine import machine


@njit
def probe(x, y):
    store(y, 0, fma(load(x, 0), load(x, 0), load(y, 0)))


def main(name):
    host = HOSTS[name]
    assert machine().isa == host.isa, f"compiled for {machine().isa}, not {host.isa}"
    assert machine().cpu_name == host.cpu
    x, y = np.full(16, 3, np.float32), np.full(16, 1, np.float32)
    probe(x, y)
    assert y[0] == 10
    (code,) = probe.inspect_asm().values()
    assert host.uses in code, f"no {host.uses} in the code of a vector FMA"
    for other in host.without:
        assert other not in code, f"{other} in code for {host.isa}"
    print("host:", machine().line(), flush=True)
    # What has nothing to do with the host is left out.
    chosen = "not no_slower and not loose and not (nan_and_inf and float64)"
    return pytest.main(["-q", str(HERE / "test_kernels.py"), "-k", chosen])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
