"""Write README's results from a run: `make bench-full readme`, or `python tools/readme.py RUN.json`.

Replaces the block between the two marks. A quick run, or one whose machine's limits moved, is refused.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from fastconv.report import runs

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- results: written by `make bench-full readme` -->", "<!-- end of results -->"

GROUPS = (
    *(f"{name} conv2d" for name in ("vgg1_1", "vgg1_2", "vgg2_2", "vgg3_2", "vgg4_2", "vgg5")),
    *(f"{name} conv2d" for name in ("resnet-stem", "resnet-1x1", "resnet-stride-2", "alexnet-conv2", "depthwise")),
    *(f"{name} conv2d" for name in ("lenet-conv1", "lenet-conv2")),
    "vgg3_2 conv2d_grad_input",
    "vgg3_2 conv2d_grad_weight",
    "pool-2x2-112 max_pool2d",
    "vgg-pool4 max_pool2d",
    "gemm-512 linear",
    "vgg-fc6 linear",
    "lstm-question lstm",
    "gru-128-16 gru",
    "vgg16-1 network",
    "vgg3_2-4 gradients",
    "lenet5-64 step",
    "lstm_1 network",
    "lstm_32 network",
    "gru_32 gradients",
    "gru_32 training",
    "bilstm_lengths network",
)


def figure(seconds: float) -> str:
    """Milliseconds to three digits."""
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def row(group: runs.Group) -> str:
    """A table row: the kernel that `auto` chose, its time, and the best peer's."""
    own, peer, ratio = group.own, group.best_peer(), group.ratio()
    if own is None or not own.valid:
        raise SystemExit(f"{group.name}: {own.failure or own.absent if own is not None else 'was not measured'}")
    share = f"{100 * own.share:.0f} %" if own.share == own.share else ""
    cells = (
        group.name,
        own.problem,
        f"`{own.kernel}`" if own.kernel else "",
        f"{figure(own.seconds)} ({figure(own.low)}–{figure(own.high)})",
        share,
        f"{own.error:.0e}",
        f"{peer.runtime} {figure(peer.seconds)}" if peer is not None else "",
        f"{ratio:.2f}" if ratio is not None else "",
    )
    return "| " + " | ".join(cells) + " |"


def results(run: runs.Run) -> str:
    """The block of text."""
    found = runs.summary(run)
    limits = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in run.ceiling.items())
    versions = ", ".join(dict.fromkeys(run.peers.values()))
    lines = [
        BEGIN,
        "",
        f"{run.date[:10]}, revision {run.git}, {run.machine}. Limits: {limits} (GFLOP/s, GB/s). Peers: {versions}.",
        "",
    ]
    lines += [line for warning in run.warnings for line in (f"Warning: {warning}.", "")]
    if found.to_best is not None and found.worst is not None and found.best is not None:
        torch = f", {found.to_torch:.2f} of PyTorch's over {found.torch_cases}" if found.to_torch is not None else ""
        lines += [
            f"Over all {found.cases} groups with a peer, fastconv's time is {found.to_best:.2f} of the best peer's "
            f"(geometric mean{torch}): from {found.best[1]:.2f} ({found.best[0]}) to {found.worst[1]:.2f} "
            f"({found.worst[0]}); {len(found.won)} won, {len(found.ties)} ties, {len(found.lost)} lost, "
            f"{len(found.failed)} FAIL.",
            "",
            f"<details><summary>Lost</summary>{', '.join(found.lost) or 'none'}</details>",
            "",
        ]
    lines += [
        "| case, operation | problem | chosen kernel | ms (quartiles) | of FMA peak | error | best peer, ms | ratio |",
        "|---|---|---|---|---|---|---|---|",
        *(row(run.groups[name]) for name in GROUPS),
        "",
        END,
    ]
    return "\n".join(lines)


def main() -> None:
    run = runs.load(sys.argv[1])
    missing = [name for name in GROUPS if name not in run.groups]
    if run.quick or missing:
        raise SystemExit(
            f"{run.path}: needs a full run, this one has no {', '.join(missing) or 'more than a few rounds'}"
        )
    moved = [name for name, share in run.moved.items() if share > runs.DRIFT]
    if moved:
        raise SystemExit(f"{run.path}: {', '.join(moved)} moved during the run: run again on a quiet machine")
    text = README.read_text(encoding="utf-8")
    block = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if not block.search(text):
        raise SystemExit(f"{README}: has no block from {BEGIN!r} to {END!r}")
    README.write_text(block.sub(lambda _: results(run), text), encoding="utf-8")


if __name__ == "__main__":
    main()
