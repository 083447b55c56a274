"""Measure fastconv against the other runtimes and print the table: `make bench-conv`, or python -m bench.peers."""

from __future__ import annotations

import argparse
import datetime
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.peers import driver, table
from bench.peers.cases import CASES, Case
from fastconv import machine, threads

# The peaks may move by so much of themselves before the run is said to be disturbed.
DRIFT = 0.15


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in driver.PEERS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(driver.PEERS)}")
    return names


def _at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--cases", default="", metavar="REGEX", help=f"which, of: {' '.join(CASES)}")
    parser.add_argument("--peers", type=_names, default=list(driver.PEERS), help="a,b of " + ",".join(driver.PEERS))
    parser.add_argument("--rounds", type=_at_least_one, default=15, help="turns that each runtime has in a case")
    parser.add_argument("--seconds", type=float, default=40.0, help="after so long a case has no more than 5 rounds")
    parser.add_argument("--threads", type=_at_least_one, default=2)
    parser.add_argument("--quick", action="store_true", help="3 rounds: to see that it works, not to report")
    parser.add_argument("--json", "--out", type=Path, dest="out", metavar="FILE", help="results, after every case")
    parser.add_argument("--resume", action="store_true", help="keep the cases that FILE has already")
    options = parser.parse_args()
    options.chosen = {name: case for name, case in CASES.items() if re.search(options.cases, name)}
    if not options.chosen:
        parser.error(f"--cases {options.cases!r}: matches none of {' '.join(CASES)}")
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
        names = [driver.OWN, *(name for name in options.peers if case.peers is None or name in case.peers)]
        if case.fresh:
            return driver.measure_fresh(case, names, start, fresh_rounds, tell)
        return driver.measure(case, names, pool, rounds, options.seconds, tell)

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
        "results": {name: cells for name, cells in kept.items() if name in CASES},
        "verdicts": {name: table.verdict(CASES[name], cells) for name, cells in kept.items() if name in CASES},
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pool = driver.Pool(lambda name: driver.Worker(name, options.threads, folder))
        try:
            run(options, pool, folder, report)
        finally:
            pool.close()
    report["peaks"]["end"] = driver.peaks()
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
    table.print_rows(table.rows(CASES, report["results"], options.peers))
    print("\n".join(table.notes(CASES, report["results"])))


if __name__ == "__main__":
    main()
