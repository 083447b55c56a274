"""Adding a kernel is adding a file: it is then tested, benchmarked and explained with no other edit.

A copy of the project gets one file more and is installed; tests and benchmarks run from a folder that holds them alone,
where nothing but the installation can be imported as fastconv.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

TOY = '''
"""conv2d/toy: the reference, rounded."""

from fastconv import reference
from fastconv.registry import kernel


@kernel("conv2d/toy/cpu", limit=4.0, cost=lambda p: 1e12)
def run(p, x, w, b, z, y, scratch):
    geometry = p.stride, p.padding, p.dilation, p.groups
    y[:] = reference.conv2d(x, w, b if p.bias else None, *geometry, p.activation, z if p.add else None)
'''


@dataclass(frozen=True)
class Checkout:
    """A folder with tests/ and bench/, and the place where the fastconv they use is installed."""

    folder: Path
    site: Path
    cache: Path

    def python(self, *arguments):
        """What Python prints for these arguments; it must succeed."""
        environment = {**os.environ, "PYTHONPATH": str(self.site), "FASTCONV_CACHE_DIR": str(self.cache)}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def collected(self, *arguments):
        """The ids that name the toy kernel, of those pytest would run."""
        lines = self.python("-m", "pytest", "--collect-only", "-q", *arguments).splitlines()
        return [line for line in lines if "[conv2d/toy/cpu-" in line]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    base = tmp_path_factory.mktemp("toy")
    source, folder, site = base / "source", base / "checkout", base / "site"
    generated = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for place, names in (
        (source, ("pyproject.toml", "README.md", "fastconv", "kernels", "bench", "tools")),
        (folder, ("pyproject.toml", "conftest.py", "tests", "bench")),
    ):
        place.mkdir()
        for name in names:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, place / name, ignore=generated)
            else:
                shutil.copy(ROOT / name, place)
    (source / "kernels/cpu/toy.py").write_text(TOY)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")
    checkout = Checkout(folder, site, base / "cache")
    checkout.python("-m", "pip", "install", *options, "--target", str(site), str(source))
    # An editable installation of this checkout may be there, too; the copy must win.
    program = "import fastconv, fastconv.kernels; print(fastconv.__file__, fastconv.kernels.__file__, sep='\\n')"
    assert all(Path(line).is_relative_to(site) for line in checkout.python("-c", program).splitlines())
    return checkout


def test_it_is_tested(toy):
    ids = toy.collected("tests/test_kernels.py")
    assert ids
    one = next(name for name in ids if "conv-edge-detector-float32" in name)
    assert "1 passed" in toy.python("-m", "pytest", one)


def test_it_is_benchmarked(toy):
    names = [name.partition("[")[2].removesuffix("]") for name in toy.collected("--benchmark")]
    assert "conv2d/toy/cpu-lenet-conv1" in names
    printed = toy.python("-m", "pytest", "--benchmark", "-k", "toy and lenet-conv2", "--peers", "none")
    assert "benchmark 'lenet-conv2 conv2d': 1 tests" in printed
    assert "test_conv[conv2d/toy/cpu-lenet-conv2]" in printed


def test_it_is_explained(toy):
    program = (
        "from fastconv import explain, nn; import numpy;"
        "print(explain(nn.Conv2d(3, 5, 3), numpy.zeros((1, 3, 9, 8), numpy.float32)))"
    )
    lines = toy.python("-c", program).splitlines()
    assert [line.split()[0] for line in lines if "/toy/" in line] == ["conv2d/toy/cpu"]
