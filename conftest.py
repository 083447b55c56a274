"""`pytest` runs the tests; `pytest --benchmark` runs bench/ through pytest-benchmark, whose own options stay usable."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent / "bench"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("fastconv").addoption(
        "--benchmark",
        action="store_true",
        help="run the benchmarks in bench/ instead of the tests; takes pytest-benchmark's options and -k",
    )


def pytest_configure(config: pytest.Config) -> None:
    paths = [Path(config.invocation_params.dir, name.split("::")[0]).resolve() for name in config.option.file_or_dir]
    if not config.getoption("benchmark"):
        if any(BENCH in (path, *path.parents) for path in paths):
            raise pytest.UsageError("bench/ holds benchmarks: run them with pytest --benchmark")
        return
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("--benchmark needs pytest-benchmark: pip install -e '.[bench]'")
    if not paths:
        config.args[:] = [str(BENCH)]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # `pytest .` means the tests, too. None leaves the decision to pytest.
    return True if collection_path == BENCH and not config.getoption("benchmark") else None
