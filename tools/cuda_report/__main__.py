"""`python -m tools.cuda_report [sm_XX …]`, or make cuda-report: tables in the terminal, and a page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from fastconv.cudaemu import CompileError, Found, static
from fastconv.registry import kernels

from . import page, terminal
from .code import BUILDS
from .devices import DEVICES
from .gather import gather, launched


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser("python -m tools.cuda_report", description=__doc__)
    default = [device.architecture for device in DEVICES]
    help_ = f"what to compile for (default: {' '.join(default)}, of the devices that problems are bounded on)"
    parser.add_argument("architectures", nargs="*", metavar="sm_XX", help=help_)
    parser.add_argument("-k", default="", metavar="TEXT", help="only kernels whose names have it, and what they launch")
    parser.add_argument("-o", type=Path, default=Path("out/cuda.html"), metavar="FILE", help="default: %(default)s")
    parser.add_argument("--terminal", action="store_true", help="no page")
    args = parser.parse_args(argv)
    for name in args.architectures:
        if name not in static.LIMITS:
            parser.error(f"{name}: needs some of {', '.join(static.LIMITS)}")
    chosen = [kernel for kernel in kernels(None, "cuda") if args.k in kernel.name]
    if not chosen:
        names = ", ".join(kernel.name for kernel in kernels(None, "cuda"))
        parser.error(f"-k {args.k}: no kernel has it in its name, of {names}")
    if not args.terminal and args.o.is_dir():
        parser.error(f"-o {args.o}: a folder, needs a file")
    console = Console(width=None if sys.stdout.isatty() else 200)
    try:
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("compiling", total=None)
            step = lambda doing, of: progress.update(task, description=doing, total=of, advance=1)  # noqa: E731
            # All builds are of all kernels, launched by one of the registry or not.
            used = {one.build for one in launched(chosen)}
            builds = [name for name in BUILDS if name in used or not args.k]
            report = gather(chosen, builds, args.architectures or default, step)
        terminal.show(report, console)
        if not args.terminal:
            args.o.parent.mkdir(parents=True, exist_ok=True)
            args.o.write_text(page.page(report), encoding="utf-8")
            print(args.o)
    except (CompileError, Found, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
