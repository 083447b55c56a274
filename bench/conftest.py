"""Benchmarks: a row for each kernel, layer and peer; rows of one operation on one case are a group, measured in turn.

The first row of a group that pytest comes to measures the whole group, by fastconv.peers.driver: each runtime in a
process of its own, turns A B C A B C …, outputs checked against float64. pytest-benchmark then gets each row's times
through its timer, and makes its tables, comparisons and JSON of them. A row of ours over its error limit fails and has
no speed; a peer's is shown with its error. What is measured is kept in a journal at once.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fastconv import device, testing
from fastconv.peers import driver
from fastconv.peers.groups import ALL_PEERS, PEERS, Contender, Group, all_groups
from fastconv.peers.journal import CannotResume, Journal
from fastconv.peers.record import Record, git_revision
from fastconv.registry import predicted
from fastconv.report import runs

# How many kernels of a group --quick measures, besides the chosen one: those of the smallest predicted times.
QUICK_KERNELS = 2


class Clock:
    """A timer that shows the seconds that rows have taken in their processes: what pytest-benchmark reads."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


def groups(config: pytest.Config) -> dict[str, Group]:
    """All groups by name, as the options ask for them."""
    found = config.stash.get(GROUPS, None)
    if found is None:
        found = {group.name: group for group in all_groups(driver.chosen(config.option.peers))}
        if config.option.quick:
            found = {name: quick(group) for name, group in found.items() if group.quick}
        config.stash[GROUPS] = found
    return found


def quick(group: Group) -> Group:
    """The group without the kernels that the model expects to be slow."""
    own = [one for one in group.contenders if one.kernel is not None]
    own.sort(key=lambda one: predicted(one.kernel, group.problem, kept=True))  # type: ignore[arg-type]
    kept = {one.name for one in own[:QUICK_KERNELS]} | {group.chosen}
    return replace(group, contenders=tuple(one for one in group.contenders if one.kernel is None or one.name in kept))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    of, backend = metafunc.module.PROBLEM, getattr(metafunc.module, "BACKEND", "cpu")
    pairs = [
        (one.name, group.case)
        for group in groups(metafunc.config).values()
        if group.backend == backend and (group.problem is None if of is None else isinstance(group.problem, of))
        for one in group.contenders
    ]
    gpu = [pytest.mark.gpu] if backend == "cuda" else []
    rows = [pytest.param(*pair, id="-".join(pair), marks=gpu) for pair in pairs]
    metafunc.parametrize(("kernel", "case"), rows)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=CLOCK))


@dataclass
class Sitting:
    """What a run of pytest knows: its record, its journal and its workers."""

    config: pytest.Config
    selected: dict[str, list[Contender]]
    record: Record
    budget: driver.Budget
    journal: Journal
    pool: driver.Pool
    folder: Path
    begun: float = field(default_factory=time.monotonic)

    def measured(self, group: Group) -> driver.Measured:
        """The group's measurements, made now unless the journal has them for all rows that are asked for."""
        kept, rows = self.journal.groups.get(group.name), self.selected[group.name]
        if kept is not None and all(one.name in kept.cells for one in rows):
            return kept
        with progress(self.config, self.begun, list(self.selected).index(group.name), len(self.selected)) as tell:
            if group.fresh:
                start = driver.start_of(self.record.machine.threads, self.folder)
                found = driver.measure_starts(group, rows, start, self.budget, tell)
            else:
                here = group.flops and group.backend == "cpu"
                peak = (lambda: driver.fma_peak(self.budget, group)) if here else None
                found = driver.measure(group, rows, self.pool, self.budget, tell, peak)
        about = {name: said["version"] for name, said in self.pool.about.items() if name in ALL_PEERS}
        self.journal.add(group.name, found, about)
        self.record.about = self.journal.about
        return found

    def measure_limits(self, done: int) -> None:
        """What the machine can do now, after `done` of the groups."""
        with progress(self.config, self.begun, done, len(self.selected)) as tell:
            tell("measuring the machine's limits")
            self.journal.add_limits(self.record.limits_now())

    def finish(self) -> None:
        """End the workers, and measure the machine once more."""
        self.pool.close()
        self.measure_limits(len(self.selected))


GROUPS = pytest.StashKey[dict[str, Group]]()
SITTING = pytest.StashKey[Sitting]()


class progress:  # noqa: N801 - used as a function
    """A bar on the terminal while a group is measured, which pytest's own lines do not see; nothing elsewhere."""

    def __init__(self, config: pytest.Config, begun: float, done: int, groups: int) -> None:
        self.capture = config.pluginmanager.getplugin("capturemanager")
        self.begun, self.done, self.groups = begun, done, groups
        self.bar: Any = None

    def _shown(self) -> Any:
        return self.capture.global_and_fixture_disabled() if self.capture is not None else nullcontext()

    def __enter__(self) -> Callable[[str], None]:
        with self._shown():
            if sys.stderr.isatty():
                from rich.console import Console
                from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

                columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
                console = Console(stderr=True)
                streams = {"redirect_stdout": False, "redirect_stderr": False}
                self.bar = Progress(*columns, console=console, transient=True, auto_refresh=False, **streams)
                print(file=sys.stderr)
                self.bar.start()
                self.task = self.bar.add_task("", total=self.groups, completed=self.done)
        return self._tell

    def _tell(self, text: str) -> None:
        if self.bar is not None:
            spent = time.monotonic() - self.begun
            rest = self.groups - self.done
            left = f", about {spent / self.done * rest:.0f} s left" if self.done and rest else ""
            with self._shown():
                self.bar.update(self.task, description=f"{text}{left}", refresh=True)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            with self._shown():
                self.bar.stop()


@pytest.fixture(scope="session")
def sitting(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Iterator[Sitting]:
    known = groups(pytestconfig)
    selected: dict[str, list[Contender]] = {}
    for item in request.session.items:
        parameters = getattr(item, "callspec", None)
        if item.get_closest_marker("gpu") is not None and not device.available():
            # It will say so, and be none that is measured.
            continue
        if parameters is not None and "kernel" in parameters.params:
            name, case = parameters.params["kernel"], parameters.params["case"]
            group = known[f"{case} {name.split('/')[0]}"]
            selected.setdefault(group.name, []).extend(one for one in group.contenders if one.name == name)
    options = pytestconfig.option
    budget = driver.Budget.quick() if options.quick else driver.Budget(turn=0.05 * float(options.benchmark_max_time))
    if options.benchmark_disable:
        budget = driver.Budget(1, 0.0, 0.0, 1)
    record = Record(git_revision(pytestconfig.rootpath), options.quick, networks=testing.NETWORKS)
    line = record.machine.line()
    head = {"schema": runs.SCHEMA, "git": record.git, "machine": line, "quick": options.quick, "turn": budget.turn}
    try:
        journal = Journal(options.journal, head, options.resume)
    except CannotResume as error:
        pytest.exit(f"--resume: {error}", returncode=pytest.ExitCode.USAGE_ERROR)
    record.limits, record.about = journal.limits, journal.about
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pool = driver.Pool(lambda name: driver.Worker(name, record.machine.threads, folder))
        state = Sitting(pytestconfig, selected, record, budget, journal, pool, folder)
        state.measure_limits(0)
        pytestconfig.stash[SITTING] = state
        try:
            yield state
        finally:
            pool.close()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    # Around pytest-benchmark's, which writes the JSON before fixtures of an interrupted run are torn down.
    state = session.config.stash.get(SITTING, None)
    if state is not None:
        state.finish()
    return (yield)


@pytest.fixture
def measure(benchmark: Any, sitting: Sitting) -> Callable[[str, str], None]:
    """Give pytest-benchmark a row's times, measuring its group if that is to be done, and note what to read it with."""

    def row(name: str, case: str) -> None:
        group = groups(sitting.config)[f"{case} {name.split('/')[0]}"]
        one = next(one for one in group.contenders if one.name == name)
        # Until it has times: else pytest-benchmark warns of a fixture that was not used, after Ctrl-C, too.
        benchmark.skipped = True
        found = sitting.measured(group)
        cell = found.cells[name]
        notes = sitting.record.add(group, one, found, f'pytest --benchmark -k "[{name}-{case}]"')
        if "absent" in notes:
            reason = f"{name} on {case}: {notes['absent'] or sitting.record.failure(notes)}"
            # What a peer cannot do is the same on every machine; that its process ended is news.
            if one.role == "peer" and "cannot" in cell:
                pytest.skip(reason)
            pytest.fail(reason, pytrace=False)
        times = iter(cell["times"])

        def replay() -> None:
            CLOCK.now += next(times)

        benchmark.group = group.name
        benchmark.extra_info.update(notes)
        CLOCK.now = 0.0
        benchmark.pedantic(replay, rounds=len(cell["times"]))

    return row


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    # Not in machine_info: pytest-benchmark compares that between runs, and no two runs see the same peak.
    state = config.stash.get(SITTING, None)
    if state is not None:
        output_json["fastconv"] = state.record.head()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    state = config.stash.get(SITTING, None)
    if state is None or not state.record.notes:
        return
    from rich.console import Console

    from fastconv.report import terminal

    terminalreporter.section("fastconv")
    missing = [name for name in PEERS if name not in driver.installed()]
    if missing and config.option.peers is None:
        terminalreporter.write_line(f"not installed, so not measured: {', '.join(missing)}; make bench-env makes them")
    terminal.show(state.record.run(), Console(file=sys.stdout))
