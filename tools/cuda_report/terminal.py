"""The report in the terminal, by rich."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastconv.report.charts import percent, three

from .bounds import Bound
from .code import Code
from .devices import DEVICES
from .gather import Report
from .memory import Access, Counted

CODE = ("build", "kernel", "threads", "registers", "shared KiB", "occupancy", "limited by", "product")
CODE += ("loads, stores", "integers", "rest")
BOUNDS = ("problem", "operation", "algorithm", "Mflop", "own", "MB", *(device.name for device in DEVICES))
MEMORY = ("kernel", "at", "source", "access", "counted", "least", "factor", "of its kernel's")
_LEFT = frozenset(("build", "kernel", "problem", "operation", "algorithm", "at", "source", "access"))


def microseconds(seconds: float) -> str:
    """Three digits; one unit for all, so that a column can be read down."""
    return f"{three(seconds * 1e6)} µs"


def code_row(code: Code) -> tuple[str, ...]:
    """Under CODE."""
    mix = code.mix
    shares = (percent(mix[name]) if mix else "" for name in ("memory", "integer", "rest"))
    product = f"{code.product} {percent(mix['product'])}" if code.product else ""
    usage = code.usage
    share, limiter = code.occupancy
    used = (str(code.threads), code.registers, f"{code.shared / 1024:.1f}")
    return (code.build, usage.kernel, *used, percent(share), limiter, product, *shares)


def bound_rows(bounds: Iterable[Bound]) -> Iterable[tuple[str, ...]]:
    """Under BOUNDS: kernels of one operation and problem that do the same arithmetic have a row together."""
    for (case, op), same in groupby(bounds, lambda one: (one.case, one.kernel.op)):
        alike: dict[tuple[object, ...], list[Bound]] = {}
        for one in same:
            alike.setdefault((one.own, *one.times.values()), []).append(one)
        for group in alike.values():
            one, names = group[0], ", ".join(bound.kernel.algorithm for bound in group)
            numbers = (three(one.flops / 1e6), three(one.own / 1e6), three(one.bytes / 1e6))
            times = (f"{microseconds(time.seconds)} {time.what}" for time in one.times.values())
            yield (case, op, names, *numbers, *times)


def memory_rows(counted: Iterable[Counted]) -> list[tuple[str, ...]]:
    """Under MEMORY: accesses that take more than the least, the worst first; what several kernels have in common, of
    the one where it is worst."""
    worse = sorted((one for every in counted for one in every.accesses if one.excess), key=lambda one: -one.share)
    alike: dict[tuple[object, ...], list[Access]] = {}
    for one in worse:
        alike.setdefault((one.code, one.file, one.line, one.what), []).append(one)
    rows = []
    for one, *others in alike.values():
        name = one.kernel + (f" and {len(others)} more" if others else "")
        numbers = (f"{one.units:,}", f"{one.least:,}", f"{one.factor:.2f}", percent(one.share))
        rows.append((name, f"{one.code}, {one.file}:{one.line}", one.text, one.what, *numbers))
    return rows


def _draw(console: Console, title: str, headers: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> None:
    table = Table(title=f"{title}: computed, not measured", caption=caption)
    for name in headers:
        table.add_column(name, justify="left" if name in _LEFT else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def show(report: Report, console: Console) -> None:
    """Print the report."""
    for architecture in report.architectures:
        rows = [code_row(code) for code in report.codes if code.architecture == architecture]
        _draw(console, architecture, CODE, rows, "product, loads, integers, rest: of the main loop's issue slots")
    caption = (
        "the larger of own flops by the data sheet's peak and bytes of all arrays by its bandwidth, and which it is\n"
    )
    caption += "own: of the kernel's algorithm; *: all arrays fit into L2, and memory is no limit if they are there"
    _draw(console, "the least time that a problem could take", BOUNDS, bound_rows(report.bounds), caption)
    every = [one for counted in report.counted for one in counted.accesses]
    least = sum(not one.excess for one in every)
    rows = memory_rows(report.counted)
    caption = "counted: sectors of global memory, passes over banks of shared memory; of its kernel's: those above the "
    caption += f"least, of all of the CUDA kernel\n{least} of {len(every)} accesses take the least"
    _draw(console, "memory, line by line", MEMORY, rows, caption)
