"""Runs as one HTML file that needs no network: what is best for a layer, how far it is from the limit, who is faster.

The template writes every figure as text, so that the page can be read, searched and printed without its scripts. Plots
are Vega-Lite, inlined by vl-convert; sorting and filtering are DataTables, in templates/vendor.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fastconv.report import charts
from fastconv.report.charts import duration, three
from fastconv.report.runs import ASIDE, ERROR_LIMIT, PEER, Group, Row, Run, Summary, summary

TEMPLATES = Path(__file__).parent / "templates"

KINDS = {"forward": "forward passes", "gradient": "gradients", "whole": "networks, training, starts"}

# A bar of ratios ends at this factor to either side.
WIDEST = 4.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A row as a bar, in per cent of the widest. over: it is longer than the scale of its group."""

    row: Row
    width: float
    low: float
    high: float
    over: bool


def bars(group: Group) -> list[Bar]:
    """The fastest first, then what is FAIL, then what has no time.

    The scale ends at the slowest peer, or at five times fastconv: what is slower than that runs out of it.
    """
    times = [row.seconds for row in group.rows if row.timed]
    unit = group.own.seconds if group.own is not None and group.own.valid else min(times, default=1.0)
    used = max((row.seconds for row in group.rows if row.valid and row.role in (PEER, ASIDE)), default=math.inf)
    scale = 1.06 * max(unit, min(used, 5 * unit))

    def part(seconds: float) -> float:
        return min(100.0, 100 * seconds / scale) if seconds > 0 else 0.0

    def place(row: Row) -> tuple[bool, bool, float]:
        return not row.timed, bool(row.failure), row.seconds if row.timed else 0.0

    return [
        Bar(row, part(row.seconds), part(row.low), part(row.high), row.seconds > scale)
        for row in sorted(group.rows, key=place)
    ]


def words(ratio: float) -> str:
    """A ratio of times as a sentence says it."""
    if 0.995 < ratio < 1.005:
        return "as fast"
    return f"{three(1 / ratio)}× faster" if ratio < 1 else f"{three(ratio)}× slower"


def ratio(value: float) -> str:
    return f"{value:.2f}×" if value < 10 else f"{three(value)}×"


def lean(value: float) -> tuple[float, float]:
    """(left end, width) in per cent of a bar that leaves the middle, where both are as fast, to the faster side."""
    way = max(-1.0, min(1.0, math.log(value) / math.log(WIDEST)))
    return 50 + min(0.0, 50 * way), abs(50 * way)


def size(count: float) -> str:
    """Bytes in KiB or MiB."""
    return "0" if not count else f"{three(count / 2**20)} MiB" if count >= 2**20 else f"{three(count / 2**10)} KiB"


def status(row: Row) -> str:
    """How a row is to be read, in a word."""
    if row.failure:
        return "FAIL"
    if not row.timed:
        return "absent"
    return "ok" if row.steady else "unsteady"


def anchor(case: str) -> str:
    """The id of a case's part of the page."""
    return "case-" + "".join(letter if letter.isalnum() or letter in "-_" else f".{ord(letter):x}" for letter in case)


def order(value: float | None) -> str:
    """What a cell is sorted by; "" stands behind all numbers, upwards and downwards."""
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def spark(track: charts.Track, count: int) -> dict[str, Any]:
    """A track as lines of an SVG of 120 × 28: its band of quartiles, its medians, its last point."""
    low = min(point[2] for point in track.points)
    high = max(point[3] for point in track.points)
    # A few per cent are drawn as a few per cent, not blown up to the height of the picture.
    middle, span = (low + high) / 2, max(high - low, 0.1)

    def place(number: int, value: float) -> str:
        x = 4 + 112 * number / max(count - 1, 1)
        return f"{x:.1f},{14 - 22 * (value - middle) / span:.1f}"

    above = [place(point[0], point[3]) for point in track.points]
    below = [place(point[0], point[2]) for point in reversed(track.points)]
    medians = [place(point[0], point[1]) for point in track.points]
    return {"band": " ".join(above + below), "line": " ".join(medians), "last": medians[-1].split(",")}


def shared(runs: Sequence[Run]) -> list[Summary]:
    """What stands on top of each run, over the groups that can be compared with a peer in all of them."""
    common = set.intersection(*({n for n, group in run.groups.items() if group.ratio() is not None} for run in runs))
    return [summary(replace(run, rows=tuple(row for row in run.rows if row.group in common))) for run in runs]


def embedded(value: Any) -> Markup:
    """JSON inside of a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


@lru_cache(maxsize=1)
def _vega() -> str:
    return vl_convert.javascript_bundle()  # type: ignore[call-arg]


def _script(text: str, name: str) -> Markup:
    if "</script" in text.lower() or "<!--" in text:
        raise ValueError(f"{name} cannot stand inside of a script element")
    return Markup(text)


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "duration": duration,
        "percent": charts.percent,
        "error": charts.error,
        "label": charts.label,
        "kind": charts.kind,
        "three": three,
        "ratio": ratio,
        "words": words,
        "lean": lean,
        "size": size,
        "status": status,
        "anchor": anchor,
        "order": order,
        "bars": bars,
        "embedded": embedded,
    }
    return found


def page(runs: Sequence[Run]) -> str:
    """The page of the newest run, which comes last; those before it are its history. ValueError of none."""
    if not runs:
        raise ValueError("runs: there is none")
    run = runs[-1]
    cases: dict[str, list[Group]] = {}
    for group in run.groups.values():
        cases.setdefault(group.case, []).append(group)
    points = charts.rows(run)
    plots = {"roofline": charts.roofline(run, points), "errors": charts.errors(points)}
    tracks = charts.tracks(runs) if len(runs) > 1 else []
    if tracks:
        plots["history"] = charts.history(runs, tracks)
    goals = [(group, *goal) for group in run.groups.values() for goal in group.goals]
    versions = {
        "Vega-Lite": vl_convert.get_vegalite_versions()[-1],
        "Vega": vl_convert.get_vega_version(),
        "DataTables": "3.1.5",
    }
    vendored = (TEMPLATES / "vendor" / "dataTables.min.js").read_text(encoding="utf-8")
    text = (
        _environment()
        .get_template("report.html")
        .render(
            run=run,
            runs=runs,
            summary=summary(run),
            shared=shared(runs),
            cases=cases,
            networks=[run.network(name) for name in run.networks],
            kinds=KINDS,
            goals=goals,
            plots={name: plot for name, plot in plots.items() if plot is not None},
            datasets={"rows": points},
            tracks=tracks,
            spark=spark,
            error_limit=ERROR_LIMIT,
            versions=versions,
            vega=_script(_vega(), "vega") if any(plots.values()) else "",
            datatables=_script(vendored, "dataTables.min.js"),
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=_script((TEMPLATES / "report.js").read_text(encoding="utf-8"), "report.js"),
        )
    )
    # Indentation is a tenth of a long page.
    markup, start, scripts = text.partition('<script type="application/json"')
    return re.sub(r"\n\s+", "\n", markup).lstrip() + start + scripts
