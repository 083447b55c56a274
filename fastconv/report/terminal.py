"""Runs in the terminal, by rich: summary, a line for each group, and if asked for every row."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastconv.report import cells
from fastconv.report.cells import milliseconds
from fastconv.report.compare import Change, Drift
from fastconv.report.runs import Run

__all__ = ["milliseconds", "show", "show_changes"]

_STYLES = {"won": "green", "tie": "yellow", "lost": "red", "FAIL": "bold red", "fails": "bold red"}
_STYLES |= {"slower": "red", "gone": "red", "faster": "green", "mended": "green"}
_LEFT = ("case, operation", "row", "kernel", "best peer", "")


def _look(line: Sequence[str]) -> str | None:
    """The style of a line by its last cell, or by a FAIL in the place of a figure."""
    return _STYLES.get(line[-1].split(",")[0].split(":")[0], _STYLES["FAIL"] if "FAIL" in line else None)


def _say(console: Console, text: str, style: str | None = None) -> None:
    """A line of text; a terminal gets it broken between words, a pipe as it is."""
    console.print(escape(text), style=style, soft_wrap=not console.is_terminal, highlight=False)


def _draw(console: Console, title: str, headers: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """A table; on a terminal that is too narrow for it each line as a paragraph, elsewhere as plain text."""
    table = [tuple(headers), *map(tuple, lines)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    if not console.is_terminal:
        console.print(escape(title), soft_wrap=True, highlight=False)
        for line in table:
            aligned = (
                text.ljust(width) if name in _LEFT else text.rjust(width)
                for name, text, width in zip(headers, line, widths, strict=True)
            )
            console.print(escape("  ".join(aligned).rstrip()), soft_wrap=True, highlight=False)
    elif sum(widths) + 3 * len(widths) < console.width:
        drawn = Table(title=escape(title), title_justify="left")
        for name in headers:
            drawn.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=True)
        for line in table[1:]:
            drawn.add_row(*map(escape, line), style=_look(line))
        console.print(drawn)
    else:
        _say(console, title, "bold")
        for line in table[1:]:
            _say(console, f"{line[0]}: {line[-1]}" if line[-1] else line[0], _look(line) or "bold")
            cells = [f"{name} {text}" for name, text in zip(headers[1:-1], line[1:-1], strict=True) if text]
            # A figure stays on the line of its name.
            text = ", ".join(cell.replace(" ", "\0") for cell in cells)
            for part in textwrap.wrap(text, max(console.width - 4, 20), break_on_hyphens=False):
                _say(console, "    " + part.replace("\0", " "))


def show(run: Run, console: Console, rows: bool = False) -> None:
    """Print a run. rows: every row, group by group."""
    for warning in run.warnings:
        _say(console, f"WARNING: {warning}", "yellow")
    for line in (*cells.facts(run), *cells.sentences(run)):
        _say(console, line)
    console.print()
    if rows:
        for group in run.groups.values():
            text = next((row.problem for row in group.rows if row.problem), "")
            _draw(console, f"{group.name}: {text}", cells.ROW_HEADERS, cells.rows_of(group))
            console.print()
    lines = [cells.of_group(group) for group in run.groups.values()]
    _draw(console, "milliseconds unless said otherwise", cells.GROUP_HEADERS, lines)
    for row in run.failures:
        _say(console, f"FAIL {row.group}: {row.name}: {row.failure}", "red")
    for group in run.groups.values():
        for words, value, kept in group.goals:
            if not kept:
                _say(console, f"{group.name}: {value:.3g}, goal {words}: short")


def show_changes(old: Run, new: Run, changes: Sequence[Change], drift: Drift, limit: float, console: Console) -> None:
    """Print what changed beyond noise between two runs, regressions over `limit` first."""
    for run in (old, new):
        for warning in run.warnings:
            _say(console, f"WARNING: {run.path}: {warning}", "yellow")
        _say(console, f"{run.path}: {run.date}, revision {run.git}")
    _say(console, drift.sentence)
    _say(console, f"{len(changes)} rows: {cells.counts(changes)}")
    seen = [change for change in changes if change.kind != "same"]
    seen.sort(key=lambda change: not change.regression(limit))
    if seen:
        title = f"beyond noise; a regression is slower than {limit:g}, FAIL or gone"
        _draw(console, title, cells.CHANGE_HEADERS, map(cells.of_change, seen))
    count = sum(change.regression(limit) for change in changes)
    text, style = (f"{count} regressions", "red") if count else ("no regressions", "green")
    console.print(text, style=style, highlight=False)
