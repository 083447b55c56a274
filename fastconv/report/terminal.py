"""Runs in the terminal, by rich: summary, a line for each group, and if asked for every row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastconv.report import cells
from fastconv.report.cells import milliseconds
from fastconv.report.compare import Change
from fastconv.report.runs import Run

__all__ = ["milliseconds", "show", "show_changes"]

_STYLES = {"won": "green", "tie": "yellow", "lost": "red", "FAIL": "bold red", "fails": "bold red"}
_STYLES |= {"slower": "red", "gone": "red", "faster": "green", "mended": "green"}
_LEFT = ("case, operation", "row", "kernel", "best peer", "")


def _draw(console: Console, title: str, headers: Sequence[str], lines: Iterable[Sequence[str]], style: int) -> None:
    """A table; where it is not a terminal, or one that is too narrow for it, columns as wide as they need to be."""
    table = [tuple(headers), *map(tuple, lines)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    if console.is_terminal and sum(widths) + 3 * len(widths) <= console.width:
        drawn = Table(title=escape(title), title_justify="left")
        for name in headers:
            drawn.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=True)
        for line in table[1:]:
            drawn.add_row(*map(escape, line), style=_STYLES.get(line[style].split(",")[0].split(":")[0]))
        console.print(drawn)
        return
    console.print(escape(title), soft_wrap=True, highlight=False, style="bold")
    for number, line in enumerate(table):
        aligned = (
            text.ljust(width) if name in _LEFT else text.rjust(width)
            for name, text, width in zip(headers, line, widths, strict=True)
        )
        look = "bold" if not number else _STYLES.get(line[style].split(",")[0].split(":")[0])
        console.print(escape("  ".join(aligned).rstrip()), soft_wrap=True, highlight=False, style=look)


def show(run: Run, console: Console, rows: bool = False) -> None:
    """Print a run. rows: every row, group by group."""
    for warning in run.warnings:
        console.print(escape(f"WARNING: {warning}"), style="yellow", soft_wrap=True, highlight=False)
    for line in (*cells.facts(run), *cells.sentences(run)):
        console.print(escape(line), soft_wrap=True, highlight=False)
    console.print()
    if rows:
        for group in run.groups.values():
            text = next((row.problem for row in group.rows if row.problem), "")
            _draw(console, f"{group.name}: {text}", cells.ROW_HEADERS, cells.rows_of(group), -1)
            console.print()
    lines = [cells.of_group(group) for group in run.groups.values()]
    _draw(console, "milliseconds unless said otherwise", cells.GROUP_HEADERS, lines, -1)
    for row in run.failures:
        console.print(
            escape(f"FAIL {row.group}: {row.name}: {row.failure}"), style="red", soft_wrap=True, highlight=False
        )
    for group in run.groups.values():
        for words, value, kept in group.goals:
            if not kept:
                text = f"{group.name}: {value:.3g}, goal {words}: short"
                console.print(escape(text), soft_wrap=True, highlight=False)


def show_changes(old: Run, new: Run, changes: Sequence[Change], limit: float, console: Console) -> None:
    """Print what changed beyond noise between two runs, regressions over `limit` first."""
    for run in (old, new):
        for warning in run.warnings:
            console.print(escape(f"WARNING: {run.path}: {warning}"), style="yellow", soft_wrap=True, highlight=False)
        console.print(escape(f"{run.path}: {run.date}, revision {run.git}"), soft_wrap=True, highlight=False)
    console.print(f"{len(changes)} rows: {cells.counts(changes)}", highlight=False)
    seen = [change for change in changes if change.kind != "same"]
    seen.sort(key=lambda change: not change.regression(limit))
    if seen:
        title = f"beyond noise; a regression is slower than {limit:g}, FAIL or gone"
        _draw(console, title, cells.CHANGE_HEADERS, map(cells.of_change, seen), -1)
    count = sum(change.regression(limit) for change in changes)
    text, style = (f"{count} regressions", "red") if count else ("no regressions", "green")
    console.print(text, style=style, highlight=False)
