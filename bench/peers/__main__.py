"""Measure fastconv against the other runtimes and print the table: `make bench-conv`, `make bench-rnn`."""

from __future__ import annotations

import argparse
import datetime
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers import cases, cases_rnn, driver, table
from bench.peers.cases import Case
from fastconv import machine, threads

# The peaks may move by so much of themselves before the run is said to be disturbed.
DRIFT = 0.15


@dataclass(frozen=True, slots=True)
class Set:
    """Cases that are measured together, and the peers that can do them."""

    cases: Mapping[str, Case]
    peers: tuple[str, ...]


SETS: Mapping[str, Set] = {
    "conv": Set(cases.CASES, ("torch", "torch_channels_last", "onnxruntime", "openvino", "jax", "ncnn", "mnn")),
    "rnn": Set(cases_rnn.CASES, ("torch", "onnxruntime", "openvino", "jax", "keras")),
}


def _at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


def arguments() -> argparse.Namespace:
    def of(field: str, between: str) -> str:
        return "; ".join(f"{name}: {between.join(getattr(one, field))}" for name, one in SETS.items())

    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--set", default="conv", choices=SETS, help="convolution and pooling, or recurrent layers")
    parser.add_argument("--cases", default="", metavar="REGEX", help=f"which, of {of('cases', ' ')}")
    parser.add_argument("--peers", default="", metavar="A,B", help=f"which, of {of('peers', ',')}")
    parser.add_argument("--rounds", type=_at_least_one, default=15, help="turns that each runtime has in a case")
    parser.add_argument("--seconds", type=float, default=40.0, help="after so long a case has no more than 5 rounds")
    parser.add_argument("--threads", type=_at_least_one, default=2)
    parser.add_argument("--quick", action="store_true", help="3 rounds: to see that it works, not to report")
    parser.add_argument("--json", "--out", type=Path, dest="out", metavar="FILE", help="results, after every case")
    parser.add_argument("--resume", action="store_true", help="keep the cases that FILE has already")
    options = parser.parse_args()
    chosen = SETS[options.set]
    options.chosen = {name: case for name, case in chosen.cases.items() if re.search(options.cases, name)}
    if not options.chosen:
        parser.error(f"--cases {options.cases!r}: matches none of {' '.join(chosen.cases)}")
    options.peers = options.peers.split(",") if options.peers else list(chosen.peers)
    for name in options.peers:
        if name not in chosen.peers:
            parser.error(f"--peers: {name!r} is not one of {','.join(chosen.peers)}")
    if options.resume and options.out is None:
        parser.error("--resume: needs --json FILE")
    return options


def tell(text: str) -> None:
    """Progress, on stderr: one line that is written over on a terminal."""
    print(f"\r\x1b[K{text}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr)
    sys.stderr.flush()


def run(options: argparse.Namespace, pool: driver.Pool, folder: Path, report: dict[str, Any]) -> None:
    """Measure the chosen cases into report["results"]."""
    rounds, fresh_rounds = (3, 1) if options.quick else (options.rounds, 5)

    def start(name: str, cache: str) -> driver.Worker:
        # Modules' bytecode is kept, as it is for installed packages, also where this environment says not to.
        bytecode = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
        return driver.Worker(name, options.threads, folder, FASTCONV_CACHE_DIR=cache, **bytecode)

    def cells(case: Case) -> dict[str, dict[str, Any]]:
        dense = [driver.OWN_DENSE] if case.dense is not None else []
        names = [driver.OWN, *dense, *(name for name in options.peers if case.peers is None or name in case.peers)]
        if case.fresh:
            return driver.measure_fresh(case, names, start, fresh_rounds, tell)
        return driver.measure(case, names, pool, rounds, options.seconds, tell, driver.fma_peak)

    for name, case in options.chosen.items():
        if name in report["results"]:
            continue
        report["results"][name] = cells(case)
        report["verdicts"][name] = table.verdict(case, report["results"][name])
        report["peers"] = pool.about
        if options.out:
            driver.save(report, options.out)
    tell("")


def main() -> None:
    options = arguments()
    known = SETS[options.set].cases
    threads.set_num_threads(options.threads)
    kept = driver.load(options.out) if options.resume else {}
    line = machine.machine().line()
    tell("measuring the machine")
    report: dict[str, Any] = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": line,
        "threads": options.threads,
        "peers": {},
        "peaks": {"start": driver.peaks()},
        "results": {name: cells for name, cells in kept.items() if name in known},
        "verdicts": {name: table.verdict(known[name], cells) for name, cells in kept.items() if name in known},
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pool = driver.Pool(lambda name: driver.Worker(name, options.threads, folder))
        try:
            run(options, pool, folder, report)
        finally:
            pool.close()
    report["peaks"]["end"] = driver.peaks()
    report["notes"] = table.notes(known, report["results"])
    if options.out:
        driver.save(report, options.out)

    print(line)
    for name, about in pool.about.items():
        print(f"  {name}: {about['version']}, {about['threads']} threads")
    first, last = report["peaks"]["start"], report["peaks"]["end"]
    print(f"FMA peak {first['fma'] / 1e9:.0f} GFLOP/s at start, {last['fma'] / 1e9:.0f} at end")
    for name, share in driver.moved(first, last).items():
        if share > DRIFT:
            print(f"WARNING: the {name} peak moved by {100 * share:.0f} %: something else ran here; run again")
    print()
    table.print_rows(table.rows(known, report["results"], options.peers))
    print("\n".join(report["notes"]))


if __name__ == "__main__":
    main()
