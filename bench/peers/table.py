"""The report: who is best, by how much, and whether that is enough."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from math import prod
from typing import Any

from bench.peers.cases import VGG_LAYERS, VGG_LAYERS_BAR, Case
from bench.peers.recurrent import steps

OWN, OWN_DENSE = "fastconv", "fastconv_dense"

# max|y − ref| / max|ref|: a runtime that is further off has not done the work in float32.
ERROR_LIMIT = 1e-5

Cells = Mapping[str, Mapping[str, Any]]


def valid(cell: Mapping[str, Any]) -> bool:
    """Whether a cell has a time that counts."""
    return "seconds" in cell and cell["error"] <= ERROR_LIMIT


def failure(cell: Mapping[str, Any]) -> str:
    """What is wrong with fastconv's cell, or nothing."""
    if "seconds" not in cell:
        return str(cell.get("crashed") or cell.get("cannot") or "not measured")
    if not cell["error"] <= ERROR_LIMIT:
        return f"error {cell['error']:.1e} over {ERROR_LIMIT:g}"
    if not cell.get("kernel_error", 0.0) <= cell.get("kernel_limit", 0.0):
        return f"{cell['kernel']}: error {cell['kernel_error']:.2f} over its limit {cell['kernel_limit']:g}"
    return ""


def share(case: Case, cell: Mapping[str, Any]) -> float | None:
    """Of the FMA peak in the case's own rounds, what a runtime's usual call reached; None where that says nothing."""
    if case.flops is None or "peak" not in cell or not valid(cell):
        return None
    return float(case.flops / cell["seconds"] / cell["peak"])


def per_step(case: Case, cells: Cells) -> float:
    """fastconv's time for a step that is no padding by its time for a step of the dense work; both must be valid."""
    assert case.dense is not None
    own, dense = (cells[name]["seconds"] for name in (OWN, OWN_DENSE))
    return float((own / steps(case.work)) / (dense / steps(case.dense)))


def verdict(case: Case, cells: Cells) -> dict[str, Any]:
    """best (the fastest valid peer, or None), ratio to it (or None), verdict, reason.

    The verdict: PASS, short, FAIL, "no peer" where a ratio is asked for and there is none, "no bar".
    """
    rivals = {name: cell for name, cell in cells.items() if case.against is None or name in case.against}
    peers = {name: cell["seconds"] for name, cell in rivals.items() if name not in (OWN, OWN_DENSE) and valid(cell)}
    best = min(peers, key=peers.__getitem__) if peers else None
    wrong = failure(cells.get(OWN, {}))
    if not wrong and case.dense is not None and failure(cells.get(OWN_DENSE, {})):
        wrong = f"without padding: {failure(cells.get(OWN_DENSE, {}))}"
    if wrong:
        return {"best": best, "ratio": None, "verdict": "FAIL", "reason": wrong}
    own = cells[OWN]["seconds"]
    ratio = own / peers[best] if best is not None else None
    if case.ratio is not None and ratio is None:
        return {"best": None, "ratio": None, "verdict": "no peer", "reason": ""}
    if case.ratio is None and case.seconds is None and case.share is None:
        return {"best": best, "ratio": ratio, "verdict": "no bar", "reason": ""}
    kept = (case.ratio is None or ratio <= case.ratio) and (case.seconds is None or own <= case.seconds)
    # A share that was not measured is not kept.
    kept = kept and (case.share is None or (share(case, cells[OWN]) or 0.0) >= case.share)
    kept = kept and (case.per_step is None or per_step(case, cells) <= case.per_step)
    return {"best": best, "ratio": ratio, "verdict": "PASS" if kept else "short", "reason": ""}


def figure(seconds: float) -> str:
    """Milliseconds to three digits; other units are named."""
    if seconds < 20e-6:
        return f"{seconds * 1e6:.2f} µs"
    if seconds >= 10:
        return f"{seconds:.1f} s"
    digits = 3 if seconds < 0.01 else 1 if seconds < 0.1 else 0
    return f"{seconds * 1e3:.{digits}f}"


def bar(case: Case) -> str:
    """What is asked of fastconv."""
    bars = [f"≤ {case.ratio:.2f}×"] if case.ratio is not None else []
    if case.seconds is not None:
        bars.append(f"≤ {case.seconds * 1e6:g} µs" if case.seconds < 1e-3 else f"≤ {case.seconds:g} s")
    if case.share is not None:
        bars.append(f"≥ {100 * case.share:.0f} % of peak")
    if case.per_step is not None:
        bars.append(f"≤ {case.per_step:.2f}× a dense step")
    return ", ".join(bars)


def _short(text: str, length: int = 18) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def cell_text(name: str, cell: Mapping[str, Any] | None) -> str:
    """A runtime's cell: its time, or why it has none."""
    if cell is None:
        return "–"
    if "seconds" not in cell:
        return _short(str(cell.get("cannot") or f"crashed: {cell.get('crashed', '?')}"))
    if name == OWN:
        return f"{figure(cell['seconds'])} ({figure(cell['low'])}–{figure(cell['high'])})"
    return figure(cell["seconds"]) + ("" if valid(cell) else f" error {cell['error']:.0e}")


def rows(cases: Mapping[str, Case], results: Mapping[str, Cells], peers: list[str]) -> list[list[str]]:
    """The header and a row for each case that has been measured; fastconv's share of the peak if some have flops."""
    shares = ["of peak"] if any(cases[name].flops is not None for name in results) else []
    table = [["case", "fastconv (quartiles)", "kernel", *shares, *peers, "best peer", "ratio", "bar", ""]]
    for name, cells in results.items():
        case, judged = cases[name], verdict(cases[name], cells)
        ratio = "" if judged["ratio"] is None else f"{judged['ratio']:.2f}"
        kernel = cells.get(OWN, {}).get("kernel", "").split("/")[1:2]
        own = cell_text(OWN, cells.get(OWN))
        others = [cell_text(peer, cells.get(peer)) for peer in peers]
        found = share(case, cells.get(OWN, {}))
        reached = ["" if found is None else f"{100 * found:.0f} %"] if shares else []
        middle = ["".join(kernel), *reached, *others]
        table.append([name, own, *middle, judged["best"] or "", ratio, bar(case), judged["verdict"]])
    return table


def geometric_mean(cases: Mapping[str, Case], results: Mapping[str, Cells]) -> float | None:
    """Of the five VGG layers' ratios, or None if one of them has none."""
    ratios = [verdict(cases[name], results[name])["ratio"] if name in results else None for name in VGG_LAYERS]
    known = [ratio for ratio in ratios if ratio is not None]
    return prod(known) ** (1 / len(known)) if len(known) == len(ratios) else None


def notes(cases: Mapping[str, Case], results: Mapping[str, Cells]) -> list[str]:
    """What does not fit into a cell: whole reasons, failures, restless runtimes, comparisons of several cases."""
    lines = []
    for name, cells in results.items():
        case, reason = cases[name], verdict(cases[name], cells)["reason"]
        if reason:
            lines.append(f"{name}: FAIL, {reason}")
        elif case.dense is not None:
            found, outcome = per_step(case, cells), "PASS" if per_step(case, cells) <= case.per_step else "short"
            dense = f"{figure(cells[OWN_DENSE]['seconds'])} without padding"
            lines.append(f"{name}: {found:.2f}× a dense step ({dense}), bar ≤ {case.per_step:.2f}: {outcome}")
        for peer, cell in cells.items():
            if "crashed" in cell:
                lines.append(f"{name}: {peer} crashed: {cell['crashed']}")
            if cell.get("restless"):
                lines.append(f"{name}: {peer} used the processor after its turn: it may have disturbed the others")
    mean = geometric_mean(cases, results)
    if mean is not None:
        outcome = "PASS" if mean <= VGG_LAYERS_BAR else "short"
        lines.append(f"geometric mean of {', '.join(VGG_LAYERS)}: {mean:.2f}, bar ≤ {VGG_LAYERS_BAR:.2f}: {outcome}")
    return lines


def print_rows(table: list[list[str]]) -> None:
    """To stdout: with colours and lines on a terminal, as plain text elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        drawn = Table(title="milliseconds unless said otherwise")
        for k, name in enumerate(table[0]):
            drawn.add_column(name, justify="left" if k in (0, 2) else "right", overflow="fold")
        colours = {"PASS": "green", "short": "yellow", "FAIL": "red"}
        for line in table[1:]:
            drawn.add_row(*line, style=colours.get(line[-1]))
        Console().print(drawn)
        return
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print("milliseconds unless said otherwise")
    for line in table:
        aligned = (
            text.ljust(width) if k in (0, 2) else text.rjust(width)
            for k, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(aligned).rstrip())
