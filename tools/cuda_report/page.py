"""The report as one HTML file that needs no network, in the look and with the scripts of fastconv.report."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fastconv.report import html
from fastconv.report.charts import kind, percent, three

from .devices import DEVICES
from .gather import Report
from .terminal import microseconds

HERE = Path(__file__).parent


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters |= {
        "microseconds": microseconds,
        "kind": kind,
        "percent": percent,
        "three": three,
        "order": html.order,
    }
    return found


def _inlined(name: str) -> Markup:
    """A file of the report of the benchmarks."""
    return Markup((html.TEMPLATES / name).read_text(encoding="utf-8"))


def page(report: Report) -> str:
    """The page. Accesses that take more than the least come first."""
    accesses = sorted((one for every in report.counted for one in every.accesses), key=lambda one: -one.share)
    text = (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            devices=DEVICES,
            accesses=accesses,
            problems={every.kernel: every.problem for every in report.counted},
            style=_inlined("report.css"),
            datatables=_inlined("vendor/dataTables.min.js"),
            script=_inlined("report.js"),
        )
    )
    return "\n".join(line.strip() for line in text.splitlines() if line.strip()) + "\n"
