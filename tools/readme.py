"""Write README's results: measure now, on this machine, and replace the block between the two marks.

make readme
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path

from fastconv import machine, measure, testing
from fastconv.registry import choose, kernels, operations

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- results: written by `make readme` -->", "<!-- end of results -->"
CASES = ("lenet-conv1", "lenet-conv2", "lenet-pool1", "lenet-fc1", "vgg3_2", "gemm-512")


def rows(name: str) -> list[str]:
    """A table row for each operation of a case: its chosen kernel, against the naive one."""
    problem = testing.CASES[name].problem
    lines = []
    for op in operations(problem):
        contenders = [kernel for kernel in kernels(op) if testing.serves(kernel, problem)]
        if ("gemm" in name and op != "linear") or op.startswith("avg") or not contenders:
            continue
        found = {m.kernel.algorithm: m for m in measure.compare(contenders, problem, 0.3)}
        best, naive = found[choose(op, problem).algorithm], found["naive"]
        if not best.passed:
            raise SystemExit(f"{best.kernel.name}: error {best.error} over its limit {best.kernel.limit}")
        spread = f"{best.low * 1e3:.3g}–{best.high * 1e3:.3g}"
        cells = (
            name,
            f"`{best.kernel.name}`",
            f"{best.seconds * 1e3:.3g} ({spread})",
            f"{best.rate / 1e9:.3g}",
            f"{100 * best.share:.0f} %",
            f"{measure.scratch_bytes(best.kernel, problem) / 1024:.0f}",
            f"{best.error:.2f}",
            f"{naive.seconds / best.seconds:.0f}×",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def results() -> str:
    """The block of text."""
    lines = [
        BEGIN,
        "",
        f"{datetime.date.today()}, {machine.machine().line()}.",
        f"Packed matrix product, {machine.product_share()}.",
        "",
        "| case | chosen kernel | ms (quartiles) | GFLOP/s | of FMA peak | scratch KiB | error | naive takes |",
        "|---|---|---|---|---|---|---|---|",
        *(row for name in CASES for row in rows(name)),
        "",
        END,
    ]
    return "\n".join(lines)


def main() -> None:
    text = README.read_text(encoding="utf-8")
    block = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if not block.search(text):
        raise SystemExit(f"{README}: has no block from {BEGIN!r} to {END!r}")
    README.write_text(block.sub(lambda _: results(), text), encoding="utf-8")


if __name__ == "__main__":
    main()
