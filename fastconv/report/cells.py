"""What the terminal and markdown views say of rows, groups, runs and changes, as plain text."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fastconv.report.compare import Change
from fastconv.report.runs import ASIDE, PEER, Group, Row, Run, summary


def milliseconds(seconds: float) -> str:
    """Three digits; below 20 µs and from 10 s on with the unit, else milliseconds."""
    if not seconds > 0:
        return ""
    if seconds < 20e-6:
        return f"{seconds * 1e6:.3g} µs"
    if seconds >= 10:
        return f"{seconds:.3g} s"
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def quartiles(row: Row) -> str:
    return f"{milliseconds(row.seconds)} ({milliseconds(row.low)}–{milliseconds(row.high)})"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if math.isfinite(value) else ""


def _rate(value: float) -> str:
    return f"{value / 1e9:.3g}" if math.isfinite(value) else ""


def _error(row: Row) -> str:
    return f"{row.error:.0e}" if not math.isnan(row.error) else ""


GROUP_HEADERS = (
    "case, operation",
    "kernel",
    "ms (quartiles)",
    "of peak",
    "GB/s",
    "error",
    "best peer",
    "ms",
    "ratio",
    "",
)


def of_group(group: Group) -> tuple[str, ...]:
    """A group's cells under GROUP_HEADERS."""
    own, peer, ratio = group.own, group.best_peer(), group.ratio()
    rival = (peer.runtime, milliseconds(peer.seconds)) if peer is not None else ("", "")
    if own is None:
        return (group.name, "", "", "", "", "", *rival, "", group.verdict)
    kernel = (own.kernel or (own.name if own.role == "kernel" else "")).split("/")
    shown = kernel[1] if len(kernel) > 1 else ""
    if not own.valid:
        return (group.name, shown, own.failure or own.absent, "", "", _error(own), *rival, "", "FAIL")
    kept = [ok for _, _, ok in group.goals]
    goal = "" if not kept else ", goal" if all(kept) else ", short of goal"
    return (
        group.name,
        shown,
        quartiles(own),
        _share(own.share),
        _rate(own.traffic),
        _error(own),
        *rival,
        f"{ratio:.2f}" if ratio is not None else "",
        group.verdict + goal,
    )


ROW_HEADERS = ("row", "ms (quartiles)", "GFLOP/s", "of peak", "GB/s", "scratch KiB", "error", "×", "")


def of_row(row: Row, unit: float) -> tuple[str, ...]:
    """A row's cells under ROW_HEADERS; unit: what × is a multiple of. A row of ours that is FAIL has no speed."""
    scratch = f"{row.scratch / 1024:.0f}" if row.role == "kernel" else ""
    if row.failure and row.role != PEER:
        return (row.name, "FAIL", "", "", "", scratch, _error(row), "", row.failure)
    if not row.timed:
        return (row.name, "", "", "", "", scratch, "", "", row.absent)
    notes = [f"FAIL: {row.failure}"] * bool(row.failure) + ["unsteady"] * (not row.steady)
    notes += ["chosen"] * row.chosen + ["other work"] * (row.role == ASIDE)
    rates = (_rate(row.rate), _share(row.share), _rate(row.traffic))
    times = f"{row.seconds / unit:.2f}" if row.role != ASIDE and not row.failure else ""
    return (row.name, quartiles(row), *rates, scratch, _error(row), times, ", ".join(notes))


def rows_of(group: Group) -> list[tuple[str, ...]]:
    """All rows of a group, the fastest first, then what does not count, then what has no time."""
    unit = min((row.seconds for row in group.rows if row.valid and row.role != ASIDE), default=math.nan)

    def place(row: Row) -> tuple[bool, bool, float]:
        return not row.timed, bool(row.failure), row.seconds if row.timed else 0.0

    return [of_row(row, unit) for row in sorted(group.rows, key=place)]


def sentences(run: Run) -> list[str]:
    """The summary."""
    found = summary(run)
    lines = []
    if found.to_best is not None and found.best is not None and found.worst is not None:
        lines.append(
            f"fastconv takes {found.to_best:.2f} of the best peer's time (geometric mean of {found.cases} groups), "
            f"from {found.best[1]:.2f} ({found.best[0]}) to {found.worst[1]:.2f} ({found.worst[0]})"
        )
    if found.to_torch is not None:
        lines.append(f"and {found.to_torch:.2f} of PyTorch's (the faster of its layouts, {found.torch_cases} groups)")
    counts = (("won", found.won), ("lost", found.lost), ("ties", found.ties), ("FAIL", found.failed))
    lines.append(", ".join(f"{len(names)} {word}" for word, names in counts) + f", {len(found.alone)} without a peer")
    for word, names in (("lost", found.lost), ("FAIL", found.failed)):
        if names:
            lines.append(f"{word}: {', '.join(names)}")
    return lines


def facts(run: Run) -> list[str]:
    """What a run is of."""
    fma = ", ".join(f"{rate / 1e9:.0f} GFLOP/s on {n}" for n, rate in run.peak.items())
    copies = ", ".join(f"{level} {rate / 1e9:.0f}" for level, rate in run.bandwidth.items())
    moved = max(run.moved.values(), default=0.0)
    return [
        f"{run.date}, revision {run.git}",
        run.machine,
        f"FMA peak {fma}; copies read and write, GB/s: {copies}; moved by {100 * moved:.0f} % at most",
        f"peers: {', '.join(dict.fromkeys(run.peers.values())) or 'none'}",
    ]


CHANGE_HEADERS = ("case, operation", "row", "before", "now", "ratio", "noise", "")


def of_change(change: Change) -> tuple[str, ...]:
    """A change's cells under CHANGE_HEADERS."""

    def time(row: Row | None) -> str:
        return "" if row is None else (row.failure and "FAIL") or row.absent or milliseconds(row.seconds)

    numbers = ("", "")
    if not math.isnan(change.ratio):
        numbers = (f"{change.ratio:.2f}", f"± {100 * change.noise:.0f} %")
    return (change.group, change.name, time(change.before), time(change.after), *numbers, change.kind)


def counts(changes: Iterable[Change]) -> str:
    """How many of each kind."""
    found: dict[str, int] = {}
    for change in changes:
        found[change.kind] = found.get(change.kind, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in found.items()) or "no rows"
