"""Time and check kernels: the numbers behind explain, the comparison tables and the benchmarks.

Contenders run in turn, A B C A B C …, so that drift of the machine meets all alike; times are medians with quartiles;
the error is that of the very output that was timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles

from fastconv import functional, machine, testing, threads
from fastconv.problem import Problem, itemsize
from fastconv.registry import Kernel, choose, kernels

# Rounds that a contender runs at least and at most.
_FEWEST, _MOST = 5, 2000


@dataclass(frozen=True, slots=True)
class Measurement:
    """One kernel on one problem: seconds (median, quartiles, count), flop/s, share of the peak, error and its limit."""

    kernel: Kernel
    problem: Problem
    seconds: float
    low: float
    high: float
    count: int
    rate: float
    share: float
    error: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the kernel's limit; if not, its speed means nothing."""
        return self.error <= self.kernel.limit


def scratch_bytes(kernel: Kernel, problem: Problem) -> int:
    """Bytes of scratch that the kernel asks for."""
    return kernel.scratch(problem) * itemsize(problem.dtype)


def compare(
    contenders: Sequence[Kernel],
    problem: Problem,
    seconds: float = 0.2,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> list[Measurement]:
    """Measure kernels of one operation on one problem, in turn, for about `seconds` each and at least five rounds.

    `tick` is called after each kernel's first call, which may compile.
    """
    if not contenders:
        return []
    arrays = testing.inputs(contenders[0].op, problem, seed)
    calls = []
    for kernel in contenders:
        outputs = testing.poisoned_run(kernel, problem, arrays)
        scratch = functional.aligned(kernel.scratch(problem), problem.dtype)
        calls.append((kernel, outputs, scratch))
        tick()
    times: list[list[float]] = [[] for _ in calls]
    peaks = [machine.fma_rate(problem.dtype, seconds=0.0)]
    busy = list(range(len(calls)))
    spent = [0.0] * len(calls)
    while busy:
        for k in busy:
            kernel, outputs, scratch = calls[k]
            with threads.measuring():
                start = time.perf_counter()
                kernel.run(problem, *arrays, *outputs, scratch)
                times[k].append(time.perf_counter() - start)
            spent[k] += times[k][-1]
        busy = [k for k in busy if len(times[k]) < _FEWEST or (spent[k] < seconds and len(times[k]) < _MOST)]
    peaks.append(machine.fma_rate(problem.dtype, seconds=0.0))
    results = []
    for (kernel, outputs, _), taken in zip(calls, times, strict=True):
        low, middle, high = quantiles(taken, n=4)
        rate = problem.flops / middle
        error = testing.error(kernel.op, problem, arrays, outputs)
        share = rate / max(peaks)
        results.append(Measurement(kernel, problem, middle, low, high, len(taken), rate, share, error))
    return results


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kernel as explain shows it: why it cannot, or its prediction and, if measured, its measurement."""

    kernel: Kernel
    chosen: bool
    reason: str | None
    predicted: float
    scratch: int
    measurement: Measurement | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Every candidate of every operation of a problem; str() is a table."""

    problem: Problem
    candidates: tuple[Candidate, ...]
    machine: str

    def __str__(self) -> str:
        return "\n".join([str(self.problem), self.machine, *table(self.candidates)])


def explain_problem(
    problem: Problem, ops: Sequence[str], algorithm: str, measured: bool, kept: bool = False
) -> Explanation:
    """See fastconv.explain; `algorithm` is the one that a layer names for its forward operation.

    kept: whether the layer keeps what the forward kernel prepares of the weights.
    """
    peak = machine.fma_rate(problem.dtype)
    candidates = []
    for op in ops:
        backwards = "_grad" in op
        chosen = choose(op, problem, "auto" if backwards else algorithm, kept=kept and not backwards)
        able = [kernel for kernel in kernels(op) if kernel.unsupported(problem) is None]
        results = {m.kernel.name: m for m in compare(able, problem)} if measured and problem.flops else {}
        for kernel in kernels(op):
            reason = kernel.unsupported(problem)
            predicted = 0.0 if reason else kernel.cost(problem) / peak
            scratch = 0 if reason else scratch_bytes(kernel, problem)
            candidates.append(Candidate(kernel, kernel == chosen, reason, predicted, scratch, results.get(kernel.name)))
    return Explanation(problem, tuple(candidates), machine.machine().line())


HEADERS = (
    "kernel",
    "chosen",
    "predicted ms",
    "ms",
    "quartiles",
    "GFLOP/s",
    "% of peak",
    "scratch KiB",
    "error",
    "limit",
)


def row(candidate: Candidate) -> tuple[str, ...]:
    """A candidate's cells under HEADERS. An error over its limit is FAIL and gets no speed."""
    kernel, m = candidate.kernel, candidate.measurement
    mark = "←" if candidate.chosen else ""
    if candidate.reason is not None:
        return (kernel.name, mark, "–", candidate.reason, *[""] * 6)
    known = (kernel.name, mark, f"{candidate.predicted * 1e3:.3f}")
    scratch = f"{candidate.scratch / 1024:.0f}"
    if m is None:
        return (*known, "", "", "", "", scratch, "", f"{kernel.limit:g}")
    if not m.passed:
        return (*known, "FAIL", "", "", "", scratch, f"{m.error:.2f}", f"{kernel.limit:g}")
    spread = f"{m.low * 1e3:.3f}–{m.high * 1e3:.3f}"
    speed = (f"{m.seconds * 1e3:.3f}", spread, f"{m.rate / 1e9:.1f}", f"{100 * m.share:.0f}")
    return (*known, *speed, scratch, f"{m.error:.2f}", f"{kernel.limit:g}")


def table(candidates: Sequence[Candidate]) -> list[str]:
    """Candidates as lines of text, columns aligned; empty columns are left out."""
    cells = [HEADERS, *map(row, candidates)]
    kept = [k for k in range(len(HEADERS)) if any(line[k] for line in cells[1:])]
    # A reason runs over the columns of figures instead of widening its own.
    widths = {
        k: max(len(line[k]) for c, line in enumerate(cells) if c == 0 or not candidates[c - 1].reason) for k in kept
    }
    widths[0] = max(len(line[0]) for line in cells)
    lines = []
    for line in cells:
        text = line[0].ljust(widths[0])
        for k in kept[1:]:
            text += "  " + (line[k].ljust(widths[k]) if k == 1 else line[k].rjust(widths[k]))
        lines.append(text.rstrip())
    return lines
