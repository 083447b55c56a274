"""`fastconv report`: runs as a page, in the terminal, as markdown, and two of them against each other."""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from fastconv.report.compare import changes, drift
from fastconv.report.runs import BadRun, load


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "report",
        help="what `pytest --benchmark` or `fastconv bench` measured, as a page, in the terminal or as markdown",
        description="Report runs of `pytest --benchmark --benchmark-json=run.json` or `fastconv bench --json "
        "run.json`. Of several the newest is shown, and the others are its history.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN.json")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write the page, one file that needs no network"
    )
    parser.add_argument("--terminal", action="store_true", help="print the run (the default without -o and --markdown)")
    parser.add_argument("--markdown", action="store_true", help="print it for a pull request")
    parser.add_argument("--rows", action="store_true", help="print every row, not only every group")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="print what changed from the first of two runs to the second, beyond noise",
    )
    parser.add_argument(
        "--limit",
        type=float,
        metavar="RATIO",
        help="of --compare: exit with 1 if a row of ours became slower than that, FAIL or is gone (default: 1.10)",
    )


def write(text: str, path: Path) -> None:
    """Write the file so that at any moment it is the former one or this one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", suffix=".new", delete=False
    ) as file:
        new = Path(file.name)
    try:
        new.write_text(text, encoding="utf-8")
        # As any other new file: the temporary one is its owner's alone.
        umask = os.umask(0)
        os.umask(umask)
        new.chmod(0o666 & ~umask)
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Run it; 0, 1 for a regression. What is wrong with arguments or files is one line on stderr, and exit status 2."""
    places = [path.resolve() for path in args.runs]
    if len(set(places)) < len(places):
        parser.error(f"runs: {' '.join(map(str, args.runs))}: the same file twice")
    if args.output is not None and args.output.resolve() in places:
        parser.error(f"-o {args.output}: is one of the runs, and would be lost")
    if args.compare and len(places) != 2:
        parser.error(f"--compare: needs two runs, the older first, got {len(places)}")
    if args.limit is not None and not args.compare:
        parser.error("--limit: is of --compare")
    limit = 1.10 if args.limit is None else args.limit
    if not 1 < limit < math.inf:
        parser.error(f"--limit {limit:g}: needs a finite ratio over 1")
    # A pipe or terminal without "×" and "–" gets "?" for them.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        found = [load(path) for path in args.runs]
        if args.compare:
            return _compare(args, found, limit)
        found.sort(key=lambda one: one.when)
        if args.output is not None:
            from rich.console import Console

            from fastconv.report.html import page

            with Console(stderr=True).status(f"writing {args.output}"):
                write(page(found), args.output)
            print(f"{args.output}: {args.output.stat().st_size / 2**20:.1f} MiB")
        if args.markdown:
            from fastconv.report import markdown

            print(markdown.page(found[-1], args.rows), end="")
        if args.terminal or not (args.markdown or args.output is not None):
            from rich.console import Console

            from fastconv.report import terminal

            terminal.show(found[-1], Console(), args.rows)
    except BadRun as error:
        parser.error(str(error))
    except ModuleNotFoundError as error:
        parser.error(f"report needs {error.name}: pip install 'fastconv[report]'")
    except OSError as error:
        print(f"fastconv report: {error}", file=sys.stderr)
        return 2
    return 0


def _compare(args: argparse.Namespace, found: list[Any], limit: float) -> int:
    old, new = found
    noise = drift(old, new)
    rows = changes(old, new, noise)
    if args.markdown:
        from fastconv.report import markdown

        print(markdown.comparison(old, new, rows, noise, limit), end="")
    else:
        from rich.console import Console

        from fastconv.report import terminal

        terminal.show_changes(old, new, rows, noise, limit, Console())
    return 1 if any(change.regression(limit) for change in rows) else 0
