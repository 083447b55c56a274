"""Runs as GitHub-flavoured markdown, for a pull request."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from fastconv.report import cells
from fastconv.report.compare import Change, Drift
from fastconv.report.runs import Run


def _text(cell: str) -> str:
    """A cell that ends neither its table nor its line, and is no HTML."""
    return html.escape(cell, quote=False).replace("|", "\\|").replace("\n", " ")


def _table(headers: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    rows = [headers, ["---"] * len(headers), *lines]
    return [
        "| " + " | ".join(cell if number == 1 else _text(cell) for cell in row) + " |"
        for number, row in enumerate(rows)
    ]


def _folded(title: str, lines: Sequence[str]) -> list[str]:
    return ["<details>", f"<summary>{_text(title)}</summary>", "", *lines, "", "</details>", ""]


def page(run: Run, rows: bool = False) -> str:
    """A run: warnings, summary, a line for each group, folded; rows: every row, too."""
    lines = [f"> **Warning**: {_text(warning)}" for warning in run.warnings]
    lines += ["", *(f"- {_text(line)}" for line in (*cells.sentences(run), *cells.facts(run))), ""]
    lines += [f"- **FAIL** {_text(f'{row.group}: {row.name}: {row.failure}')}" for row in run.failures]
    groups = _table(cells.GROUP_HEADERS, map(cells.of_group, run.groups.values()))
    lines += ["", *_folded(f"{len(run.groups)} groups; milliseconds unless said otherwise", groups)]
    if rows:
        for group in run.groups.values():
            lines += _folded(group.name, _table(cells.ROW_HEADERS, cells.rows_of(group)))
    return "\n".join(lines).strip() + "\n"


def comparison(old: Run, new: Run, changes: Sequence[Change], drift: Drift, limit: float) -> str:
    """What changed between two runs: regressions over `limit` in sight, the rest folded."""
    lines = [f"> **Warning**: {_text(f'{run.path}: {warning}')}" for run in (old, new) for warning in run.warnings]
    bad = [change for change in changes if change.regression(limit)]
    lines += ["", f"{len(bad)} regressions over {limit:g} of {len(changes)} rows: {cells.counts(changes)}", ""]
    lines += [f"- before: {_text(old.date)}, {_text(old.git)}; now: {_text(new.date)}, {_text(new.git)}"]
    lines += [f"- {_text(drift.sentence)}", ""]
    if bad:
        lines += [*_table(cells.CHANGE_HEADERS, map(cells.of_change, bad)), ""]
    rest = [change for change in changes if change.kind != "same" and change not in bad]
    if rest:
        lines += _folded(
            f"{len(rest)} other changes beyond noise", _table(cells.CHANGE_HEADERS, map(cells.of_change, rest))
        )
    return "\n".join(lines).strip() + "\n"
