"""Benchmarks, generated from registry × CASES: one row a kernel and case, PyTorch beside them when it is installed.

Rows of one operation on one case form a group. Every row's error is that of the output its last timed call wrote, over
NaN; a row over its limit fails and has no speed. A row takes about --benchmark-max-time at most, and
--benchmark-min-rounds at least.
"""

from __future__ import annotations

import hashlib
import math
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch_peer

from fastconv import functional, machine, testing, threads
from fastconv.measure import scratch_bytes
from fastconv.problem import Problem
from fastconv.registry import kernels, operations

PEER = "torch"

# More rounds, or seconds where rounds are short, do not settle a median further.
ENOUGH_ROUNDS, ENOUGH_SECONDS = 200, 0.02

# A row whose rounds are longer than --benchmark-max-time has this many: naive kernels on large cases take seconds.
SLOW_ROUNDS = 3

# How far the machine's peak may move before the summary warns, and around a row before its time is called unsteady.
DRIFT = 0.15

# A median further above the shortest round is that of a disturbed row.
SPREAD = 1.5


@dataclass(slots=True)
class Row:
    """A measured row: seconds, the lower of the peaks before and after it, and pytest-benchmark's notes on it."""

    median: float
    shortest: float
    peak: float
    notes: dict[str, Any]


@dataclass(slots=True)
class Run:
    """What a run knows: its machine, the FMA peaks it saw (flop/s), and its rows by group and name."""

    machine: machine.Machine
    git: str
    peaks: list[float]
    rows: dict[str, dict[str, Row]] = field(default_factory=dict)

    def finish(self) -> None:
        """Note on every row what takes the whole run to know: its share of the peak, and whether its time is steady."""
        self.peaks.append(machine.fma_rate())
        # Other work on the machine only ever lowers what it is seen to do, so the highest peak is the machine's.
        peak = max(self.peaks)
        for row in (row for group in self.rows.values() for row in group.values()):
            steady = row.peak >= (1 - DRIFT) * peak and row.median <= SPREAD * row.shortest
            rate = row.notes["flops"] / row.median
            row.notes.update(gflops=rate / 1e9, fma_peak_gflops=peak / 1e9, share_of_peak=rate / peak, steady=steady)
            row.notes["gbytes_per_second"] = row.notes["bytes"] / row.median / 1e9


RUN = pytest.StashKey[Run]()


def rows(problem: type[Problem]) -> Iterator[tuple[str, str]]:
    """(kernel name, case name) of every kernel on every bench case with this type of problem, a group at a time."""
    pairs = [(kernel, case) for kernel, case in testing.grid(small=False) if isinstance(case.problem, problem)]
    for (op, case), group in groupby(pairs, key=lambda pair: (pair[0].op, pair[1])):
        yield from ((kernel.name, case.name) for kernel, _ in group)
        if torch_peer.INSTALLED and torch_peer.unsupported(case.problem, op) is None:
            yield f"{op}/{PEER}", case.name


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    pairs = list(rows(metafunc.module.PROBLEM))
    metafunc.parametrize(("kernel", "case"), pairs, ids=["-".join(pair) for pair in pairs])


def git_revision(folder: Any) -> str:
    """The checked-out commit, "-dirty" if files differ from it; "unknown" outside of a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


@pytest.fixture(scope="session")
def run(pytestconfig: pytest.Config) -> Run:
    state = Run(machine.machine(), git_revision(pytestconfig.rootpath), [machine.fma_rate()])
    pytestconfig.stash[RUN] = state
    return state


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    # Around pytest-benchmark's, which writes the JSON before fixtures of an interrupted run are torn down.
    state = session.config.stash.get(RUN, None)
    if state is not None:
        state.finish()
    return (yield)


class Remembered:
    """fastconv.testing.expected, computed once for the rows of a group: the reference takes longer than they do."""

    def __init__(self) -> None:
        self._expected = testing.expected
        self._kept: dict[object, tuple[np.ndarray, ...]] = {}

    def __call__(self, op: str, problem: Problem, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        key = (op, problem, *(hashlib.sha256(array).digest() for array in arrays))
        if key not in self._kept:
            # A group needs two: of the inputs, and of their magnitudes.
            while len(self._kept) >= 2:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = self._expected(op, problem, arrays)
        return self._kept[key]


@pytest.fixture(autouse=True)
def all_threads() -> Iterator[None]:
    """Every row is of as many threads as it says."""
    with threads.measuring():
        yield


@pytest.fixture(scope="session", autouse=True)
def _remembered_expected() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testing, "expected", Remembered())
        yield


@dataclass(frozen=True, slots=True)
class Contender:
    """What a row times: a call without arguments that returns the outputs, and what fills those with NaN before."""

    call: Callable[[], tuple[np.ndarray, ...]]
    poison: Callable[[], None]
    limit: float
    scratch_bytes: int


def contender(name: str, problem: Problem, arrays: tuple[np.ndarray, ...]) -> Contender:
    """The kernel or peer `name` on these inputs."""
    op, algorithm = name.split("/")[:2]
    own = {kernel.algorithm: kernel for kernel in kernels(op)}
    if algorithm == PEER:
        call = torch_peer.contender(op, problem, arrays)
        return Contender(call, lambda: None, max(kernel.limit for kernel in own.values()), 0)
    kernel = own[algorithm]
    outputs = tuple(np.empty(shape, dtype) for shape, dtype in functional.output_shapes(op, problem))
    scratch = functional.aligned(kernel.scratch(problem), problem.dtype)

    def call() -> tuple[np.ndarray, ...]:
        kernel.run(problem, *arrays, *outputs, scratch)
        return outputs

    def poison() -> None:
        for array in (*outputs, scratch):
            array.fill(np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).min)

    return Contender(call, poison, kernel.limit, scratch_bytes(kernel, problem))


def rounds(seconds: float, longest: float, fewest: int) -> int:
    """How many rounds of `seconds` to time; `longest` and `fewest` are pytest-benchmark's max_time and min_rounds."""
    if seconds > longest:
        return min(fewest, SLOW_ROUNDS)
    enough = max(ENOUGH_ROUNDS, math.ceil(ENOUGH_SECONDS / seconds))
    return max(fewest, min(enough, math.ceil(longest / seconds)))


@pytest.fixture
def measure(benchmark: Any, run: Run, pytestconfig: pytest.Config) -> Callable[[str, str], None]:
    """Time one row, check what the timed call returned, and note what the row must be read with."""

    def row(name: str, case: str) -> None:
        op, problem = name.split("/")[0], testing.CASES[case].problem
        arrays = testing.inputs(op, problem)
        subject = contender(name, problem, arrays)
        # The first call may compile.
        subject.call()
        start = time.perf_counter()
        subject.call()
        once = time.perf_counter() - start
        options = pytestconfig.option
        count = rounds(once, float(options.benchmark_max_time), options.benchmark_min_rounds)
        left = iter(range(1 if benchmark.disabled else count, 0, -1))

        def before_round() -> None:
            # Only the last: filling outputs moves the caches that the other rounds are to find as they left them.
            if next(left) == 1:
                subject.poison()

        benchmark.group = f"{case} {op}"
        before = machine.fma_rate(seconds=0.0)
        outputs = benchmark.pedantic(subject.call, setup=before_round, rounds=count)
        after = machine.fma_rate(seconds=0.0)
        run.peaks.extend((before, after))

        error = testing.error(op, problem, arrays, outputs)
        benchmark.extra_info.update(
            kernel=name,
            op=op,
            case=case,
            flops=problem.flops,
            bytes=problem.bytes,
            scratch_bytes=subject.scratch_bytes,
            error=error,
            largest_error=testing.largest_error(op, problem, arrays, outputs),
            limit=subject.limit,
            machine=run.machine.line(),
            threads=run.machine.threads,
            threading_layer=run.machine.threading_layer,
            isa=run.machine.isa,
            git=run.git,
        )
        if not error <= subject.limit:
            benchmark.has_error = True
            if benchmark.stats is not None:
                # has_error keeps a row out of the JSON, having no times keeps it out of the tables.
                benchmark.stats.stats.data.clear()
            pytest.fail(f"{name} on {case}: error {error:.3g} is over its limit {subject.limit:g}", pytrace=False)
        if benchmark.stats is not None:
            times = benchmark.stats.stats
            measured = Row(times.median, times.min, min(before, after), benchmark.extra_info)
            run.rows.setdefault(benchmark.group, {})[name] = measured

    return row


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    # Not in machine_info: pytest-benchmark compares that between runs, and no two runs see the same peak.
    state = config.stash.get(RUN, None)
    if state is not None:
        peaks = {"start": state.peaks[0], "end": state.peaks[-1], "best": max(state.peaks)}
        peers = {PEER: torch_peer.VERSION} if torch_peer.INSTALLED else {}
        output_json["fastconv"] = {"machine": state.machine.line(), "git": state.git, "fma_peak": peaks, "peers": peers}


def of_tiles(rows: dict[str, dict[str, Row]]) -> Iterator[tuple[str, str, str]]:
    """Cells for each kernel that computes outputs in transformed tiles: its worst error and on which case."""
    names = {kernel.name for kernel in kernels() if kernel.spread}
    worst: dict[str, Row] = {}
    for row in (row for group in rows.values() for name, row in group.items() if name in names):
        name = row.notes["kernel"]
        if name not in worst or row.notes["largest_error"] > worst[name].notes["largest_error"]:
            worst[name] = row
    for name in sorted(worst):
        notes = worst[name].notes
        yield name, f"{notes['largest_error']:.1e}", notes["case"]


def columns(table: list[tuple[str, ...]], sides: str) -> Iterator[str]:
    """The lines of a table, cells aligned as `sides` says."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        yield "  ".join(f"{cell:{side}{width}}" for cell, width, side in zip(line, widths, sides, strict=True))


def versus_peer(rows: dict[str, dict[str, Row]]) -> Iterator[tuple[str, str, str, str, str]]:
    """Cells for each group that the peer is in: the fastest kernel against it, and a ratio only of steady times."""
    for group, members in rows.items():
        own = {name: row for name, row in members.items() if not name.endswith(f"/{PEER}")}
        peer = next((row for name, row in members.items() if name not in own), None)
        if peer is not None and own:
            name, best = min(own.items(), key=lambda item: item[1].median)
            steady = best.notes["steady"] and peer.notes["steady"]
            ratio = f"{peer.median / best.median:.2f}" if steady else "unsteady"
            yield group, name, f"{best.median * 1e3:.3f}", f"{peer.median * 1e3:.3f}", ratio


def without_peer() -> dict[str, list[str]]:
    """The operations that the peer has no rows of where it has some of the case, by the reason."""
    found: dict[str, list[str]] = {}
    for case in testing.CASES.values():
        if case.small or torch_peer.unsupported(case.problem) is not None:
            continue
        for op in operations(case.problem):
            reason = torch_peer.unsupported(case.problem, op)
            if reason is not None and op not in found.setdefault(reason, []):
                found[reason].append(op)
    return found


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    state = config.stash.get(RUN, None)
    if state is None:
        return
    write = terminalreporter.write_line
    terminalreporter.section("fastconv")
    write(state.machine.line())
    first, last, best = state.peaks[0], state.peaks[-1], max(state.peaks)
    write(f"FMA peak: {first / 1e9:.0f} GFLOP/s at start, {last / 1e9:.0f} at end, {best / 1e9:.0f} at best")
    if max(first, last) > (1 + DRIFT) * min(first, last):
        moved = 100 * (1 - min(first, last) / max(first, last))
        write(f"WARNING: the peak moved by {moved:.0f} %: something else ran on this machine; run again", yellow=True)
    rows = [row for group in state.rows.values() for row in group.values()]
    unsteady = sum(not row.notes["steady"] for row in rows)
    if unsteady:
        write(f"WARNING: {unsteady} of {len(rows)} rows are unsteady: their times say little; run again", yellow=True)
    errors = [("computed in tiles", "error / largest output", "case"), *of_tiles(state.rows)]
    if len(errors) > 1:
        for line in columns(errors, "<><"):
            write(line)
    if not torch_peer.INSTALLED:
        write("torch is not installed, so there are no peer rows; pip install torch adds them")
        return
    write(f"peer: torch {torch_peer.VERSION}, {state.machine.threads} threads, in this process")
    for case in testing.CASES.values():
        reason = None if case.small else torch_peer.unsupported(case.problem)
        if reason is not None:
            write(f"torch has no rows on {case.name}: {reason}")
    for reason, ops in without_peer().items():
        write(f"torch has no rows of {', '.join(ops)}: {reason}")
    table = [("group", "fastest kernel", "ms", "torch ms", "torch / kernel"), *versus_peer(state.rows)]
    if len(table) > 1:
        for line in columns(table, "<<>>>"):
            write(line)
