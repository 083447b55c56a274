"""Time and check kernels: the numbers behind explain, the comparison tables and the benchmarks.

Contenders run in turn, A B C A B C …, so that drift of the machine meets all alike; times are medians with quartiles;
the error is that of the very output that was timed. On a CUDA device times are those between two of its events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import quantiles

from fastconv import device, functional, machine, testing, threads
from fastconv.functional import Array
from fastconv.problem import Problem, itemsize
from fastconv.registry import OPS, Kernel, allowed_limit, choose_and_say, kernels, predicted

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
    def traffic(self) -> float:
        """Bytes a second of the compulsory traffic, every array once: what bounds depthwise layers and pooling."""
        return self.problem.bytes / self.seconds

    @property
    def passed(self) -> bool:
        """Whether the error is within the kernel's limit; if not, its speed means nothing."""
        return self.error <= self.kernel.limit


def scratch_bytes(kernel: Kernel, problem: Problem) -> int:
    """Bytes of scratch that the kernel asks for."""
    return kernel.scratch(problem) * itemsize(problem.dtype)


def kept_bytes(kernel: Kernel, problem: Problem) -> int:
    """Bytes of what the kernel prepares of the weights."""
    return kernel.prepared(problem) * itemsize(problem.dtype)


class _Call:
    """A kernel with arrays of its own, called once already; calling it again returns the seconds that it took.

    kept: with prepared weights, prepared before.
    """

    def __init__(self, kernel: Kernel, problem: Problem, arrays: tuple[Array, ...], kept: bool) -> None:
        self.kernel = kernel
        made = {}
        if kept and kernel.prepare is not None:
            made["u"] = functional.aligned(kernel.prepared(problem), problem.dtype)
            op = OPS[kernel.op]
            kernel.prepare(problem, *(arrays[op.inputs.index(name)] for name in op.weights), made["u"])
        self.outputs = testing.poisoned_run(kernel, problem, arrays, **made)
        scratch = functional.aligned(kernel.scratch(problem), problem.dtype)
        self._run = partial(kernel.run, problem, *arrays, *self.outputs, scratch, **made)

    def __call__(self) -> float:
        with threads.measuring():
            start = time.perf_counter()
            self._run()
            return time.perf_counter() - start


class _DeviceCall:
    """A CUDA kernel, as `_Call` is a CPU kernel; the seconds are those between two events of the device."""

    def __init__(self, kernel: Kernel, problem: Problem, arrays: tuple[Array, ...], kept: bool) -> None:
        self.kernel = kernel
        xp = device.cupy()
        given = tuple(xp.asarray(array) for array in arrays)
        call = functional.bound(kernel, problem)
        made = {}
        if kept and kernel.prepare is not None:
            made["u"] = xp.empty(kernel.prepared(problem), problem.dtype)
            op = OPS[kernel.op]
            kernel.prepare(problem, *(given[op.inputs.index(name)] for name in op.weights), made["u"])
        self.outputs = tuple(y.get() for y in call.compute(given, **made))
        self._run = partial(call.compute, given, **made)

    def __call__(self) -> float:
        return device.seconds(self._run)[0]


def _call(kernel: Kernel, problem: Problem, arrays: tuple[Array, ...], kept: bool) -> _Call | _DeviceCall:
    return (_DeviceCall if kernel.backend == "cuda" else _Call)(kernel, problem, arrays, kept)


def _peak(backend: str, dtype: str) -> float:
    """Flop/s: of the CPU as measured now, of a CUDA device as computed."""
    return device.peak(dtype) if backend == "cuda" else machine.fma_rate(dtype, seconds=0.0)


def race(
    contenders: Sequence[Kernel], problem: Problem, seconds: float = 0.3, seed: int = 0, kept: bool = False
) -> dict[str, float | None]:
    """The shortest of a few times of each kernel of one operation, in turn, by name; for choosing, errors unchecked.

    All runs together take about `seconds`, however many; each kernel is called twice at least, and no more when it
    takes ten times as long as the fastest, or twice as long after three rounds: a single time may be the scheduler's.
    None for those that are not run, as the model predicts more than ten times the fastest's time and a good part of
    `seconds`. kept: with prepared weights.
    """
    peak = machine.fma_rate(problem.dtype, seconds=0.0)
    expected = {kernel.name: predicted(kernel, problem, kept) / peak for kernel in contenders}
    most = max(10 * min(expected.values()), seconds / 6)
    best: dict[str, float | None] = {kernel.name: None for kernel in contenders}
    arrays = testing.inputs(contenders[0].op, problem, seed)
    calls = [_Call(kernel, problem, arrays, kept) for kernel in contenders if expected[kernel.name] <= most]
    times = {call.kernel.name: call() for call in calls}
    spent, rounds = sum(times.values()), 1
    while len(calls) > 1 and spent < seconds and rounds < _MOST:
        slow = min(times.values()) * (10 if rounds < 3 else 2)
        calls = [call for call in calls if times[call.kernel.name] < slow]
        for call in calls:
            taken = call()
            times[call.kernel.name] = min(times[call.kernel.name], taken)
            spent += taken
        rounds += 1
    return {**best, **times}


def compare(
    contenders: Sequence[Kernel],
    problem: Problem,
    seconds: float = 0.2,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
    kept: bool = False,
) -> list[Measurement]:
    """Measure kernels of one operation and backend on one problem, in turn, for about `seconds` each and at least
    five rounds.

    `tick` is called after each kernel's first call, which may compile. kept: kernels that prepare the weights are
    timed with prepared ones, as a layer in evaluation runs them.
    """
    if not contenders:
        return []
    arrays = testing.inputs(contenders[0].op, problem, seed)
    calls = []
    for kernel in contenders:
        calls.append(_call(kernel, problem, arrays, kept))
        tick()
    times: list[list[float]] = [[] for _ in calls]
    peaks = [_peak(contenders[0].backend, problem.dtype)]
    busy = list(range(len(calls)))
    spent = [0.0] * len(calls)
    while busy:
        for k in busy:
            times[k].append(calls[k]())
            spent[k] += times[k][-1]
        busy = [k for k in busy if len(times[k]) < _FEWEST or (spent[k] < seconds and len(times[k]) < _MOST)]
    peaks.append(_peak(contenders[0].backend, problem.dtype))
    results = []
    for call, taken in zip(calls, times, strict=True):
        kernel = call.kernel
        low, middle, high = quantiles(taken, n=4)
        rate = problem.flops / middle
        error = testing.error(kernel.op, problem, arrays, call.outputs)
        share = rate / max(peaks)
        results.append(Measurement(kernel, problem, middle, low, high, len(taken), rate, share, error))
    return results


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kernel as explain shows it: why it cannot, or its prediction and, if measured, its measurement.

    why: of the chosen one, "named", "used", "measured", "tuned" or "model"; of one whose limit is over what "auto" may
    take, "over precision". kept: bytes of prepared weights.
    """

    kernel: Kernel
    chosen: bool
    reason: str | None
    predicted: float
    scratch: int
    measurement: Measurement | None
    why: str = ""
    kept: int = 0


@dataclass(frozen=True, slots=True)
class Explanation:
    """Every candidate of every operation of a problem; str() is a table."""

    problem: Problem
    candidates: tuple[Candidate, ...]
    machine: str

    def __str__(self) -> str:
        return "\n".join([str(self.problem), self.machine, *table(self.candidates)])


def explain_problem(
    problem: Problem, ops: Sequence[str], algorithm: str, measured: bool, kept: bool = False, backend: str = "cpu"
) -> Explanation:
    """See fastconv.explain; `algorithm` is the one that a layer names for its forward operation.

    kept: whether the layer keeps what the forward kernel prepares of the weights.
    """
    on_device = backend == "cuda"
    peak = device.peak(problem.dtype) if on_device else machine.fma_rate(problem.dtype)
    candidates = []
    for op in ops:
        backwards = "_grad" in op
        keeps = kept and not backwards
        chosen, why = choose_and_say(op, problem, "auto" if backwards else algorithm, backend, keeps)
        able = [kernel for kernel in kernels(op, backend) if kernel.unsupported(problem) is None]
        results = {m.kernel.name: m for m in compare(able, problem, kept=keeps)} if measured and problem.flops else {}
        for kernel in kernels(op, backend):
            reason = kernel.unsupported(problem)
            candidate = Candidate(kernel, False, reason, 0.0, 0, None)
            if reason is None:
                candidate = Candidate(
                    kernel,
                    kernel == chosen,
                    None,
                    predicted(kernel, problem, keeps) / peak,
                    scratch_bytes(kernel, problem),
                    results.get(kernel.name),
                    why if kernel == chosen else "over precision" * (kernel.limit > allowed_limit()),
                    kept_bytes(kernel, problem) if keeps else 0,
                )
            candidates.append(candidate)
    return Explanation(problem, tuple(candidates), device.line() if on_device else machine.machine().line())


HEADERS = (
    "kernel",
    "chosen",
    "predicted ms",
    "ms",
    "quartiles",
    "GFLOP/s",
    "% of peak",
    "GB/s",
    "scratch KiB",
    "kept KiB",
    "error",
    "limit",
)


def row(candidate: Candidate) -> tuple[str, ...]:
    """A candidate's cells under HEADERS. An error over its limit is FAIL and gets no speed."""
    kernel, m = candidate.kernel, candidate.measurement
    mark = f"← {candidate.why}".strip() if candidate.chosen else candidate.why
    if candidate.reason is not None:
        return (kernel.name, mark, "–", candidate.reason, *[""] * 8)
    known = (kernel.name, mark, f"{candidate.predicted * 1e3:.3f}")
    memory = (f"{candidate.scratch / 1024:.0f}", f"{candidate.kept / 1024:.0f}" if candidate.kept else "")
    if m is None:
        return (*known, "", "", "", "", "", *memory, "", f"{kernel.limit:g}")
    if not m.passed:
        return (*known, "FAIL", "", "", "", "", *memory, f"{m.error:.2f}", f"{kernel.limit:g}")
    spread = f"{m.low * 1e3:.3f}–{m.high * 1e3:.3f}"
    speed = (f"{m.seconds * 1e3:.3f}", spread, f"{m.rate / 1e9:.1f}", f"{100 * m.share:.0f}", f"{m.traffic / 1e9:.1f}")
    return (*known, *speed, *memory, f"{m.error:.2f}", f"{kernel.limit:g}")


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
