"""The page's plots as Vega-Lite specifications. Colours are the page's CSS variables, so that they follow its theme.

Points are drawn by what a row is: what `auto` chose, another kernel of ours, a peer, or FAIL. They read one data set,
"rows", which the page gives them. `focus`, a parameter of the plots, is "" or the name of a case or of a kind of work:
all else then fades, and a case gets labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastconv.report.runs import ASIDE, ERROR_LIMIT, LAYER, PEER, Row, Run, geometric_mean

Spec = dict[str, Any]

CLASSES = ("fastconv, chosen by auto", "fastconv, other kernels", "other runtimes", "FAIL")
COLOURS = ("var(--own)", "var(--own-soft)", "var(--peer)", "var(--fail)")
SHAPES = ("circle", "circle", "diamond", "cross")
# In pixels, on phones and on wider plots.
SIZES = ((40, 24, 24, 36), (80, 46, 42, 60))

# Where exact results stand on a logarithmic axis of errors, and results that are wrong altogether.
EXACT, WRONG = 1e-9, 1.0

CONFIG: Spec = {
    "background": None,
    "font": "system-ui, sans-serif",
    "padding": 2,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 11,
        "gridColor": "var(--line)",
        "domainColor": "var(--line-strong)",
        "tickColor": "var(--line-strong)",
        "labelOverlap": "greedy",
    },
    "text": {"fontSize": 10, "fill": "var(--muted)"},
    "style": {"guide-label": {"fill": "var(--muted)"}},
}


def three(value: float) -> str:
    """Three significant digits, never an exponent."""
    if not math.isfinite(value) or value == 0:
        return "0" if value == 0 else "–"
    digits = 2 - math.floor(math.log10(abs(float(f"{value:.3g}"))))
    return f"{value:,.{max(digits, 0)}f}"


def duration(seconds: float) -> str:
    """Milliseconds to three digits; microseconds below 20 µs."""
    return f"{three(seconds * 1e6)} µs" if seconds < 20e-6 else f"{three(seconds * 1e3)} ms"


def percent(share: float) -> str:
    return "–" if not math.isfinite(share) else f"{100 * share:.{1 if share < 0.0095 else 0}f} %"


def error(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-")


def kind(op: str) -> str:
    """What sort of work an operation is, by which the page is filtered."""
    if op in ("network", "step", "gradients", "training", "start"):
        return "whole"
    return "gradient" if "grad" in op else "forward"


def label(row: Row) -> str:
    """What a row is called beside those of its group."""
    if row.role == LAYER and row.kernel:
        return f"fastconv ({row.kernel.split('/')[1]})"
    return row.algorithm


def _class(row: Row) -> str:
    if row.failure:
        return CLASSES[3]
    if row.role == PEER:
        return CLASSES[2]
    return CLASSES[0] if row.chosen else CLASSES[1]


def rows(run: Run) -> list[Spec]:
    """The data set: rows that have a time, other work left out, and what stands in front last.

    flop_byte, gflops: where a row is credited with both. speed: beside what `auto` chose in its group; off: its error.
    """
    found = []
    for group in run.groups.values():
        own = group.own if group.own is not None and group.own.valid else group.fastest_kernel
        for row in group.rows:
            if not row.timed or row.role == ASIDE:
                continue
            point = _point(run, row)
            if row.flops and row.bytes:
                point |= {"flop_byte": _short(row.intensity), "gflops": _short(row.rate / 1e9)}
            if own is not None and not math.isnan(row.error):
                point |= {"speed": _short(own.seconds / row.seconds), "off": _short(min(max(row.error, EXACT), WRONG))}
            found.append(point)
    return sorted(found, key=lambda point: (CLASSES.index(point["class"]) in (0, 3), point["class"] != CLASSES[2]))


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _point(run: Run, row: Row) -> Spec:
    share, bound = run.of_limit(row)
    found = {
        "case": row.case,
        "kind": kind(row.op),
        "op": row.op,
        "row": label(row),
        "class": _class(row),
        "time": f"{duration(row.seconds)} ({duration(row.low)} – {duration(row.high)})",
        "error": error(row.error),
    }
    if bound:
        found["limit"] = f"{percent(share)} ({bound})"
    if row.flops:
        found["rate"] = f"{three(row.rate / 1e9)} GFLOP/s"
    if row.bytes:
        found["moved"] = f"{three(row.traffic / 1e9)} GB/s"
    if row.failure:
        found["fail"] = row.failure
    return found


TOOLTIP = [
    {"field": name, "title": title}
    for name, title in {
        "row": "row",
        "case": "case",
        "op": "operation",
        "time": "time (quartiles)",
        "rate": "credited",
        "moved": "traffic",
        "limit": "of the limit",
        "error": "error",
        "fail": "FAIL",
    }.items()
]

FOCUS = "focus == '' || datum.case == focus || datum.kind == focus"


def _points(x: str, y: str) -> list[Spec]:
    """The layers of points and, where one case is in focus, their names."""
    shared: Spec = {"x": {"field": x, "type": "quantitative"}, "y": {"field": y, "type": "quantitative"}}
    looks: Spec = {"fill": COLOURS, "shape": SHAPES}
    # A scale whose range depends on the width is one that Vega-Lite cannot compile.
    sizes = [
        {"test": f"datum.class == '{name}'", "value": {"expr": f"width < 500 ? {small} : {large}"}}
        for name, small, large in zip(CLASSES, *SIZES, strict=True)
    ]
    marks: Spec = {
        **shared,
        **{
            # The page has a legend of its own, which fits any width.
            name: {
                "field": "class",
                "type": "nominal",
                "legend": None,
                "scale": {"domain": CLASSES, "range": values},
            }
            for name, values in looks.items()
        },
        "size": {"condition": sizes, "value": 26},
        "opacity": {"condition": {"test": FOCUS, "value": 0.85}, "value": 0.05},
        "tooltip": TOOLTIP,
    }
    names: Spec = {**shared, "text": {"field": "row", "type": "nominal"}}
    return [
        {
            "data": {"name": "rows"},
            "transform": [{"filter": f"isValid(datum.{x})"}],
            "layer": [
                {"mark": {"type": "point", "stroke": "var(--page)", "strokeWidth": 0.6}, "encoding": marks},
                {
                    "transform": [{"filter": "focus == datum.case"}],
                    "mark": {"type": "text", "align": "left", "dx": 8, "fontSize": 10, "fill": "var(--ink)"},
                    "encoding": names,
                },
            ],
        }
    ]


def _span(points: Sequence[Spec], name: str, room: float) -> tuple[float, float]:
    values = [point[name] for point in points]
    return min(values) / room, max(values) * room


def _log(name: str, low: float, high: float, title: str, form: str = "~g", grid: bool = False) -> Spec:
    """A channel on a logarithmic axis with ticks at powers of ten, and at 2 and 5 times these where they are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(powers) < 5 else (1,)
    ticks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
    scale = {"type": "log", "domain": [low, high], "nice": False, "clamp": True}
    guide = {"title": title, "format": form, "grid": grid, "values": ticks}
    return {"field": name, "type": "quantitative", "scale": scale, "axis": guide}


def roofline(run: Run, points: Sequence[Spec]) -> Spec | None:
    """GFLOP/s by flops a byte, log–log, below what was measured of the machine; None where no row has both."""
    points = [point for point in points if "gflops" in point]
    if not points:
        return None
    peaks = {f"FMA on {n} thread{'s' * (n > 1)}": rate / 1e9 for n, rate in run.peak.items()}
    copies = {f"copy in {level}": rate / 1e9 for level, rate in run.bandwidth.items()}
    top = max(peaks.values())
    (low, high), (bottom, ceiling) = _span(points, "flop_byte", 2.5), _span(points, "gflops", 1.7)
    high, ceiling = max(high, 4 * top / min(copies.values())), max(ceiling, 1.7 * top)
    roofs: list[Spec] = []
    names: list[Spec] = []
    for name, rate in peaks.items():
        roofs += [{"roof": name, "x": x, "y": rate} for x in (rate / max(copies.values()), high)]
        names.append({"x": top / min(copies.values()), "y": rate, "text": f"{name} {three(rate)} GFLOP/s"})
    for place, (name, rate) in enumerate(copies.items()):
        start = max(low, bottom / rate)
        roofs += [{"roof": name, "x": x, "y": x * rate} for x in (start, top / rate)]
        text = f"{name} {three(rate)} GB/s"
        names.append({"x": start * 1.15, "y": start * 1.15 * rate, "slope": text, "above": place == 0})
    # Along a line of slope 1 whatever the plot's size.
    decades = math.log10(ceiling / bottom), math.log10(high / low)
    along = {"expr": f"-180 / PI * atan2(height / {decades[0]:.4f}, width / {decades[1]:.4f})"}
    x = _log("x", low, high, "flops a byte of compulsory traffic")
    y = _log("y", bottom, ceiling, "GFLOP/s", grid=True)

    def written(field: str, test: str, **mark: Any) -> Spec:
        return {
            "data": {"values": names},
            "transform": [{"filter": test}],
            "mark": {"type": "text", "aria": False, **mark},
            "encoding": {"x": x, "y": y, "text": {"field": field, "type": "nominal"}},
        }

    lines: Spec = {
        "data": {"values": roofs},
        "mark": {"type": "line", "stroke": "var(--roof)", "strokeWidth": 1.4, "aria": False},
        "encoding": {"x": x, "y": y, "detail": {"field": "roof", "type": "nominal"}},
    }
    slopes: Spec = {"angle": along, "align": "left"}
    return {
        **_plot(440, "Roofline: GFLOP/s by flops a byte, below the machine's measured limits"),
        "layer": [
            lines,
            written("text", "datum.text", align="left", baseline="bottom", dy=-3),
            written("slope", "datum.slope && datum.above", baseline="bottom", dy=-3, **slopes),
            written("slope", "datum.slope && !datum.above", baseline="top", dy=4, **slopes),
            *_points("flop_byte", "gflops"),
        ],
    }


def errors(points: Sequence[Spec]) -> Spec | None:
    """Error by speed beside what `auto` chose in the same group; None without such rows."""
    points = [point for point in points if "speed" in point]
    if not points:
        return None
    (low, high), (least, most) = _span(points, "speed", 1.3), _span(points, "off", 2)
    x = _log("x", low, high, "speed beside what auto chose (right: faster)")
    y = _log("y", least, max(3e-5, most), "error", ".0e", grid=True)
    return {
        **_plot(340, "Error by speed"),
        "layer": [
            {
                "data": {"values": [{"x": low, "y": ERROR_LIMIT, "text": f"limit of a peer {ERROR_LIMIT:g}"}]},
                "encoding": {"x": x, "y": y},
                "layer": [
                    {"mark": {"type": "rule", "stroke": "var(--fail)", "strokeDash": [5, 4]}, "encoding": {"x": None}},
                    {
                        "mark": {"type": "text", "align": "left", "baseline": "bottom", "dx": 4, "dy": -3},
                        "encoding": {"text": {"field": "text", "type": "nominal"}},
                    },
                ],
            },
            *_points("speed", "off"),
        ],
    }


@dataclass(frozen=True, slots=True)
class Track:
    """fastconv's time for one group through the runs, by each run's FMA peak: (run's number, median, quartiles)
    as shares of the newest median. Runs where its row does not count are left out."""

    name: str
    points: tuple[tuple[int, float, float, float], ...]

    @property
    def change(self) -> tuple[float, float, float] | None:
        """Newest by the run before: the median's ratio, and the least and most that the quartiles allow."""
        if len(self.points) < 2:
            return None
        (_, before, low, high), (_, now, least, most) = self.points[-2:]
        return now / before, least / high, most / low

    @property
    def verdict(self) -> str:
        """ "faster", "slower", or "within noise"."""
        if self.change is None:
            return "new"
        _, low, high = self.change
        return "within noise" if low <= 1 <= high else "faster" if high < 1 else "slower"


def tracks(runs: Sequence[Run]) -> list[Track]:
    """Of every group of the newest run that counts there, and first the geometric mean of those that count in all."""
    found = []
    for name, newest in runs[-1].groups.items():
        if newest.own is None or not newest.own.valid:
            continue
        points = []
        for number, run in enumerate(runs):
            own = run.groups[name].own if name in run.groups else None
            if own is not None and own.valid:
                peak = own.peak if math.isfinite(own.peak) else run.peak[max(run.peak)]
                points.append((number, own.seconds * peak, own.low * peak, own.high * peak))
        unit = points[-1][1]
        found.append(Track(name, tuple((n, t / unit, low / unit, high / unit) for n, t, low, high in points)))
    whole = [track for track in found if len(track.points) == len(runs)]
    if whole:
        columns = [
            [geometric_mean(track.points[n][k] for track in whole) or 0.0 for k in (1, 2, 3)] for n in range(len(runs))
        ]
        mean = tuple((n, *column) for n, column in enumerate(columns))
        found.insert(0, Track(f"geometric mean of {len(whole)} groups", mean))  # type: ignore[arg-type]
    return found


def history(runs: Sequence[Run], found: Sequence[Track]) -> Spec:
    """One track through the runs with its quartiles; `focus` is its name."""
    points = [
        {
            "track": track.name,
            "run": f"{number + 1}",
            "date": runs[number].date[:16].replace("T", " "),
            "git": runs[number].git,
            "y": time,
            "low": low,
            "high": high,
            "shown": f"{time:.3f} ({low:.3f} – {high:.3f})",
        }
        for track in found
        for number, time, low, high in track.points
    ]
    titles = {"track": "of", "date": "date", "git": "revision", "shown": "time (quartiles)"}
    tooltip = [{"field": name, "title": title} for name, title in titles.items()]
    scale = {"zero": False, "nice": True, "padding": 12}
    y = {"field": "y", "type": "quantitative", "scale": scale, "axis": {"title": "time, newest = 1", "tickCount": 5}}
    axis = {"title": "run", "labelAngle": 0, "grid": False}
    plot = _plot(240, "History of fastconv's times")
    plot["params"] = [{"name": "focus", "value": found[0].name}]
    band = {"type": "area", "fill": "var(--own)", "opacity": 0.16, "aria": False}
    return {
        **plot,
        "data": {"values": points},
        "transform": [{"filter": "datum.track == focus"}],
        "encoding": {"x": {"field": "run", "type": "ordinal", "axis": axis, "sort": None}},
        "layer": [
            {"mark": band, "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}}},
            {
                "mark": {"type": "line", "stroke": "var(--own)", "strokeWidth": 2, "aria": False},
                "encoding": {"y": y},
            },
            {
                "mark": {"type": "point", "fill": "var(--own)", "stroke": "var(--page)", "size": 70, "opacity": 1},
                "encoding": {"y": y, "tooltip": tooltip},
            },
        ],
    }


def _plot(height: int, description: str) -> Spec:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": description,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "params": [{"name": "focus", "value": ""}],
        "config": CONFIG,
    }
