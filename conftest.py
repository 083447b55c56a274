"""`pytest` runs the tests; `pytest --benchmark` runs bench/ through pytest-benchmark, whose own options stay usable."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent / "bench"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastconv")
    group.addoption(
        "--benchmark",
        action="store_true",
        help="run the benchmarks in bench/ instead of the tests; takes pytest-benchmark's options and -k",
    )
    group.addoption("--quick", action="store_true", help="few rounds of few benchmarks: to see, not to quote")
    group.addoption(
        "--peers", metavar="A,B", help="the other runtimes to measure, or none (default: all that are installed)"
    )
    group.addoption(
        "--journal",
        type=Path,
        default=Path("out/journal.jsonl"),
        metavar="FILE",
        help="where benchmarks are kept as they are measured; say it with = (default: %(default)s)",
    )
    group.addoption("--resume", action="store_true", help="go on with the run in the journal, which was interrupted")


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
    from fastconv.peers import driver

    try:
        driver.chosen(config.option.peers)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


NO_DEVICE = "no device"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        from fastconv import device

        if not device.available():
            pytest.skip(NO_DEVICE)


def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, str] | None:
    """What waits for a CUDA device is no skipped test: it has a place of its own in the summary."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    return (NO_DEVICE, "n", "NO DEVICE") if report.skipped and reason == f"Skipped: {NO_DEVICE}" else None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # `pytest .` means the tests, too. None leaves the decision to pytest.
    return True if collection_path == BENCH and not config.getoption("benchmark") else None
