"""What can be computed of the CUDA kernels without a GPU: `make cuda-report`, or python tools/cuda_report.py [sm_XX …].

For each build and kernel: registers, shared memory, occupancy and what limits it, and the instructions of the main
loop, as nvcc compiles it. Computed, not measured: nothing here says how fast a kernel is.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from fastconv.cudaemu import static
from fastconv.kernels.cuda import builds, launch

THREADS = 256
LOADS = ("LDG", "LDS", "LDGSTS", "STS", "STG", "LDC", "ULDC")


def row(build: str, usage: static.Usage, loop: dict[str, int], architecture: str) -> tuple[str, ...]:
    """One kernel's line."""
    share, limiter = static.occupancy(usage, THREADS, architecture)
    total, products = sum(loop.values()), loop.get("FFMA", 0)
    mix = ("", "", "")
    if products:
        loads = sum(loop.get(name, 0) for name in LOADS)
        mix = (f"{products} ({products / total:.0%})", f"{loads / total:.0%}", f"{1 - (products + loads) / total:.0%}")
    numbers = (str(usage.registers), f"{usage.shared / 1024:.1f}", f"{share:.0%}", limiter)
    return (build, usage.kernel, *numbers, *mix)


def main() -> None:
    wanted = sys.argv[1:] or ["sm_80", "sm_90", "sm_120"]
    unknown = [name for name in wanted if name not in builds.ARCHITECTURES]
    if unknown:
        raise SystemExit(f"{unknown[0]}: needs some of {', '.join(builds.ARCHITECTURES)}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    for architecture in wanted:
        title = f"{architecture}: computed, not measured"
        table = Table(title=title, caption="FFMA, loads, rest: of the main loop")
        for number, name in enumerate(
            ("build", "kernel", "registers", "shared KiB", "occupancy", "limited by", "FFMA", "loads", "rest")
        ):
            table.add_column(name, justify="left" if number < 2 else "right")
        with console.status(f"compiling for {architecture}"):
            for file, every in builds.BUILDS.items():
                for defines in every:
                    path = launch.HERE / file
                    usages = {usage.kernel: usage for usage in static.nvcc(path, defines, architecture)}
                    for kernel, loop in static.main_loops(path, defines, architecture).items():
                        table.add_row(*row(builds.name(file, defines), usages[kernel], loop, architecture))
        console.print(table)


if __name__ == "__main__":
    main()
