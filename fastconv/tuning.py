"""The model fitted to this machine: one factor for each kernel, by which its cost is multiplied.

Kernels are measured on a fixed set of problems; a factor is the least squares of log time, so it is the geometric mean
of measured over predicted times. Whether that chooses better is asked of each problem with the factors of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from fastconv import choices, machine, testing, threads
from fastconv.measure import race
from fastconv.problem import GATES, ConvProblem, LinearProblem, PoolProblem, Problem, RecurrentProblem
from fastconv.registry import OPS, PRECISIONS, Kernel, has_meaning, kernels, remember

Sizes = tuple[int, ...]

# n c h w o, kernel, stride, padding, dilation, groups: what real layers lie between, and what few kernels are for.
_CONVOLUTIONS: tuple[tuple[Sizes, int, int, int, int, int], ...] = (
    ((1, 4, 10, 10, 4), 3, 1, 1, 1, 1),
    ((1, 16, 56, 56, 32), 3, 1, 1, 1, 1),
    ((1, 64, 112, 112, 64), 3, 1, 1, 1, 1),
    ((8, 64, 14, 14, 64), 3, 1, 1, 1, 1),
    ((1, 512, 7, 7, 512), 3, 1, 1, 1, 1),
    ((1, 32, 28, 28, 64), 3, 2, 1, 1, 1),
    ((1, 64, 28, 28, 128), 3, 1, 2, 2, 1),
    ((1, 64, 28, 28, 64), 3, 1, 1, 1, 4),
    ((1, 24, 28, 28, 48), 5, 1, 2, 1, 1),
    ((4, 96, 28, 28, 32), 1, 1, 0, 1, 1),
    ((1, 512, 14, 14, 128), 1, 2, 0, 1, 1),
    ((1, 3, 224, 224, 64), 16, 16, 0, 1, 1),
    ((8, 3, 32, 32, 32), 4, 4, 0, 1, 1),
    ((1, 32, 112, 112, 32), 3, 2, 1, 1, 32),
    ((1, 240, 28, 28, 240), 5, 1, 2, 1, 240),
    ((8, 64, 7, 7, 64), 7, 1, 3, 1, 64),
    ((32, 16, 8, 8, 32), 3, 1, 1, 1, 1),
    ((48, 3, 12, 12, 12), 4, 1, 0, 1, 1),
)
# n c h w, window, stride, padding.
_POOLINGS: tuple[tuple[Sizes, int, int, int], ...] = (
    ((1, 16, 28, 28), 2, 2, 0),
    ((1, 64, 56, 56), 3, 1, 1),
    ((8, 32, 14, 14), 5, 2, 2),
    ((1, 512, 7, 7), 7, 7, 0),
)
# m in out.
_PRODUCTS: tuple[Sizes, ...] = ((1, 512, 1000), (16, 64, 64), (128, 1024, 256), (1, 4096, 4096))
# t b i, hidden: one sequence, few and many, of small and of large layers.
_RECURRENCES: tuple[tuple[Sizes, int], ...] = (
    ((20, 1, 32), 64),
    ((50, 1, 128), 256),
    ((10, 1, 512), 512),
    ((25, 2, 64), 128),
    ((20, 4, 128), 256),
    ((30, 6, 48), 96),
    ((10, 16, 64), 128),
    ((20, 64, 40), 80),
)


def problems() -> list[Problem]:
    """What kernels are measured on: the bench cases and what lies between them."""
    found: list[Problem] = [case.problem for case in testing.CASES.values() if not case.small]
    for (n, c, h, w, o), k, stride, padding, dilation, groups in _CONVOLUTIONS:
        options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        found.append(ConvProblem.make((n, c, h, w), (o, c // groups, k, k), **options))
    found += [PoolProblem.make(sizes, window, stride=s, padding=p) for sizes, window, s, p in _POOLINGS]
    found += [LinearProblem.make((m, i), (o, i)) for m, i, o in _PRODUCTS]
    found += [RecurrentProblem.make(cell, shape, hidden) for cell in GATES for shape, hidden in _RECURRENCES]
    return found


@dataclass(frozen=True, slots=True)
class Fit:
    """One operation's fit.

    By kernel its factor, the spread e^σ of measured over predicted times, and on how many problems it was measured.
    before and after: the regret, chosen ÷ best time (geometric mean and worst), of the model as shipped and of factors
    that are fitted, for each problem, without it. own: whether each kernel has a factor of its own.
    """

    op: str
    factors: Mapping[str, float]
    spreads: Mapping[str, float]
    counts: Mapping[str, int]
    before: tuple[float, float]
    after: tuple[float, float]
    own: bool


def tune(
    ops: Sequence[str] = tuple(OPS), seconds: float = 60.0, report: Callable[[str], None] = lambda text: None
) -> list[Fit]:
    """Measure, fit and remember the factors of the kernels of `ops`, in about `seconds`, for the threads now set.

    Factors that would choose worse than the model as shipped are not taken: then all kernels of the operation get one
    factor, which changes predicted times and no choice. `report(what is measured)` is called before each problem.
    ValueError for an unknown operation or no time.
    """
    if not ops or any(op not in OPS for op in ops):
        raise ValueError(f"ops={ops!r}: needs some of {', '.join(OPS)}")
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds={seconds!r}: needs a positive number")
    work = [(op, problem) for op in dict.fromkeys(ops) for problem in problems() if has_meaning(op, problem)]
    ratios: dict[str, dict[Problem, dict[Kernel, float]]] = {}
    for number, (op, problem) in enumerate(work, start=1):
        report(f"{number}/{len(work)} {op} {problem}")
        able = [kernel for kernel in kernels(op) if kernel.unsupported(problem) is None]
        taken = race(able, problem, seconds / len(work))
        peak = machine.fma_rate(problem.dtype, seconds=0.0)
        found = {k: time * peak / k.cost(problem) for k in able if (time := taken[k.name]) is not None}
        ratios.setdefault(op, {})[problem] = found
    fits = [_fit(op, found) for op, found in ratios.items()]
    factors: dict[str, float | None] = {}
    for fit in fits:
        factors.update(fit.factors)
    remember(choices.tuning_key(threads.get_num_threads()), factors)
    return fits


def _mean(ratios: Sequence[float]) -> float:
    """The geometric mean, which is the factor of least squares in log time; 1 of nothing."""
    return math.exp(fmean(map(math.log, ratios))) if ratios else 1.0


def _factors(op: str, ratios: Sequence[Mapping[Kernel, float]]) -> dict[str, float]:
    """Every kernel's factor; one that was not measured has that of all measured together."""
    common = _mean([ratio for found in ratios for ratio in found.values()])
    return {k.name: _mean([found[k] for found in ratios if k in found] or [common]) for k in kernels(op)}


def _regret(problem: Problem, ratios: Mapping[Kernel, float], factors: Mapping[str, float]) -> float:
    """Chosen ÷ best time on a problem, of the kernels that "auto" may take, if the model has these factors."""
    allowed = [kernel for kernel in ratios if kernel.limit <= PRECISIONS["default"]]
    chosen = min(allowed, key=lambda k: (factors[k.name] * k.cost(problem), k.name))
    return ratios[chosen] * chosen.cost(problem) / min(ratios[k] * k.cost(problem) for k in allowed)


def _fit(op: str, ratios: Mapping[Problem, Mapping[Kernel, float]]) -> Fit:
    shipped = {kernel.name: 1.0 for kernel in kernels(op)}
    before = [_regret(p, found, shipped) for p, found in ratios.items()]
    after = [
        _regret(p, found, _factors(op, [others for q, others in ratios.items() if q != p]))
        for p, found in ratios.items()
    ]
    own = _mean(after) <= _mean(before)
    factors = _factors(op, list(ratios.values()))
    spreads, counts = {}, {}
    for kernel in kernels(op):
        logs = [math.log(found[kernel]) for found in ratios.values() if kernel in found]
        spreads[kernel.name], counts[kernel.name] = math.exp(pstdev(logs)) if logs else 1.0, len(logs)
    if not own:
        factors = dict.fromkeys(factors, _mean([ratio for found in ratios.values() for ratio in found.values()]))
    return Fit(op, factors, spreads, counts, (_mean(before), max(before)), (_mean(after), max(after)), own)


def table(fits: Sequence[Fit]) -> list[str]:
    """The fits as lines of text: every kernel with its factor, then every operation with its regret."""
    kernel_rows: list[tuple[str, ...]] = [("kernel", "factor", "spread", "problems")]
    regret_rows: list[tuple[str, ...]] = [("operation", "before", "worst", "after", "worst", "factors")]
    for fit in fits:
        for name, factor in fit.factors.items():
            kernel_rows.append((name, f"{factor:.3g}", f"×÷{fit.spreads[name]:.2f}", str(fit.counts[name])))
        numbers = tuple(f"{number:.3f}" for number in (*fit.before, *fit.after))
        regret_rows.append((fit.op, *numbers, "one a kernel" if fit.own else "one for all: own ones choose worse"))
    regret = "regret: chosen ÷ best time, before and, of problems that were left out of the fit, after"
    return [*_aligned(kernel_rows), "", regret, *_aligned(regret_rows)]


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines
