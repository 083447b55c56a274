"""A run of the benchmarks as its JSON holds it: rows, groups, limits, and who is faster by how much.

Every view reads runs through this file, so that they cannot disagree on what counts: a row over its error limit is FAIL
and takes part in no comparison and no mean; a ratio is of medians of one run; of fastconv the row that counts is the
one that `auto` chose, never the best of several in hindsight.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

# What the JSON has under "fastconv": a change that makes old files unreadable raises it.
SCHEMA = 1

# max|y − ref| / max|ref|: a runtime that is further off has not done the work in float32.
ERROR_LIMIT = 1e-5

# By so much of itself a limit of the machine may move during a run.
DRIFT = 0.15

# Roles of rows: one of our kernels, our layer as its users call it, another runtime; and our layer on other work that
# the row of its group is read with, which takes part in no comparison.
KERNEL, LAYER, PEER, ASIDE = "kernel", "layer", "peer", "aside"


def failure(role: str, error: float, kernel_error: float | None, kernel_limit: float | None) -> str:
    """Why a row with these errors is FAIL, or "". A kernel keeps the limit that it declares, all others ERROR_LIMIT."""
    if kernel_error is not None and kernel_limit is not None and not kernel_error <= kernel_limit:
        return f"error {kernel_error:.3g} is over the kernel's limit {kernel_limit:g}"
    if role != KERNEL and not error <= ERROR_LIMIT:
        return f"error {error:.1e} is over {ERROR_LIMIT:g}"
    return ""


class BadRun(ValueError):  # noqa: N818 - what the file is
    """A file that is no run of these benchmarks; the message names it and what is wrong."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contender in one group. Times in seconds: median, quartiles, shortest; nan and 0 rounds where it has none.

    error: max|y − ref| / max|ref|. kernel_error: the error in the units of kernel_limit, None for peers. absent: why
    there is no time, or "". chosen: the row that stands for fastconv in its group.
    """

    group: str
    case: str
    op: str
    name: str
    runtime: str
    role: str
    chosen: bool = False
    kernel: str = ""
    seconds: float = math.nan
    low: float = math.nan
    high: float = math.nan
    shortest: float = math.nan
    rounds: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    scratch: int = 0
    error: float = math.nan
    kernel_error: float | None = None
    kernel_limit: float | None = None
    peak: float = math.nan
    steady: bool = True
    problem: str = ""
    reproduce: str = ""
    absent: str = ""
    goal: Mapping[str, float] = field(default_factory=dict)

    @property
    def algorithm(self) -> str:
        """What the row is called among those of its group: "winograd_f4", "torch"."""
        return self.name.split("/")[1]

    @property
    def failure(self) -> str:
        """Why the row is FAIL, or ""."""
        return "" if self.absent else failure(self.role, self.error, self.kernel_error, self.kernel_limit)

    @property
    def timed(self) -> bool:
        return self.seconds > 0

    @property
    def valid(self) -> bool:
        """Whether the row's time counts."""
        return self.timed and not self.failure

    @property
    def rate(self) -> float:
        """flop/s; those of the direct algorithm, whatever the kernel does. nan where there are none."""
        return self.flops / self.seconds if self.flops else math.nan

    @property
    def share(self) -> float:
        """Of the FMA peak measured in the same run."""
        return self.rate / self.peak

    @property
    def traffic(self) -> float:
        """Bytes a second of the compulsory traffic, every array once."""
        return self.bytes / self.seconds if self.bytes else math.nan

    @property
    def intensity(self) -> float:
        """flops a byte of the compulsory traffic: where the row stands on the roofline's axis."""
        return self.flops / self.bytes if self.bytes else math.nan

    @property
    def spread(self) -> float:
        """Distance of the quartiles as a share of the median."""
        return (self.high - self.low) / self.seconds


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one operation on one case, which were measured in turn."""

    name: str
    case: str
    op: str
    rows: tuple[Row, ...]

    @property
    def own(self) -> Row | None:
        """The row that stands for fastconv, also if it is FAIL."""
        return next((row for row in self.rows if row.chosen), None)

    @property
    def fastest_kernel(self) -> Row | None:
        """Of our kernels and layer, the fastest that counts."""
        return min(
            (r for r in self.rows if r.role in (KERNEL, LAYER) and r.valid), key=lambda r: r.seconds, default=None
        )

    @property
    def peers(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.role == PEER)

    @property
    def other_kernel(self) -> Row | None:
        """The kernel that was faster than the one `auto` chose, or None: it may be so by chance."""
        own, best = self.own, self.fastest_kernel
        if own is None or not own.valid or best is None:
            return None
        return best if best.seconds < own.seconds and best.kernel != own.kernel else None

    def best_peer(self, runtimes: Iterable[str] = ()) -> Row | None:
        """The fastest peer that counts, of `runtimes` if any are named (a name stands for all that begin with it)."""
        wanted = tuple(runtimes)
        rivals = [row for row in self.peers if row.valid and (not wanted or row.runtime.startswith(wanted))]
        return min(rivals, key=lambda row: row.seconds, default=None)

    def ratio(self, runtimes: Iterable[str] = ()) -> float | None:
        """fastconv's time by that of the best peer (below 1: fastconv is faster), or None."""
        own, peer = self.own, self.best_peer(runtimes)
        return own.seconds / peer.seconds if own is not None and own.valid and peer is not None else None

    @property
    def verdict(self) -> str:
        """ "won", "lost", "tie" (quartiles overlap), "FAIL" (fastconv's row), "no peer", "not run" (fastconv)."""
        own, peer = self.own, self.best_peer()
        if own is None:
            return "not run"
        if not own.valid:
            return "FAIL"
        if peer is None:
            return "no peer"
        if own.low <= peer.high and peer.low <= own.high:
            return "tie"
        return "won" if own.seconds < peer.seconds else "lost"

    @property
    def goals(self) -> list[tuple[str, float, bool]]:
        """What is asked of fastconv here: (in words, what was found, whether that keeps it); those that could be seen.

        Of time by the best peer's, or by torch's, of seconds and of the share of the FMA peak.
        """
        own = self.own
        if own is None or not own.valid:
            return []
        asides = [row for row in self.rows if row.role == ASIDE and row.valid]
        # Work with lengths does the share of the dense work's flops that is no padding.
        known = own.flops and asides and asides[0].flops
        step = (own.seconds / own.flops) / (asides[0].seconds / asides[0].flops) if known else None
        found: list[tuple[str, float | None, float, bool]] = []
        for name, bar in own.goal.items():
            match name:
                case "ratio":
                    found.append((f"≤ {bar:.2f}× the best peer", self.ratio(), bar, False))
                case "ratio_to_torch":
                    found.append((f"≤ {bar:.2f}× torch", self.ratio(("torch",)), bar, False))
                case "seconds":
                    words = f"≤ {bar * 1e6:g} µs" if bar < 1e-3 else f"≤ {bar:g} s"
                    found.append((words, own.seconds, bar, False))
                case "share":
                    found.append((f"≥ {100 * bar:.0f} % of the FMA peak", own.share, bar, True))
                case "per_step":
                    found.append((f"≤ {bar:.2f}× a step without padding", step, bar, False))
        return [(words, value, value >= bar if least else value <= bar) for words, value, bar, least in found if value]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the machine did at one moment: flop/s by number of threads, bytes a second (read and written) by level."""

    time: str
    fma: Mapping[int, float]
    copy: Mapping[str, float]

    @property
    def all(self) -> dict[str, float]:
        """Every limit by a name to print."""
        return {
            **{f"FMA on {n}": rate for n, rate in self.fma.items()},
            **{f"copy in {k}": v for k, v in self.copy.items()},
        }


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a network in a run: the forward group and those of its gradients, as far as they were measured."""

    name: str
    case: str
    forward: Group | None
    gradients: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """A network as its layers in order. Sums are over layers whose row of fastconv counts; of two alike, over both."""

    name: str
    layers: tuple[Layer, ...]

    @property
    def counted(self) -> list[Group]:
        """The forward groups that sums are over."""
        groups = [layer.forward for layer in self.layers if layer.forward is not None]
        return [group for group in groups if group.own is not None and group.own.valid]

    @property
    def seconds(self) -> float:
        """fastconv's time for all of them."""
        return math.fsum(group.own.seconds for group in self.counted if group.own is not None)

    @property
    def best_peer(self) -> tuple[str, float] | None:
        """(runtime, seconds) of the single peer that takes least for all of them, of those that have done all."""
        sums: dict[str, list[float]] = {}
        for group in self.counted:
            for row in group.peers:
                if row.valid:
                    sums.setdefault(row.runtime, []).append(row.seconds)
        whole = {name: math.fsum(times) for name, times in sums.items() if len(times) == len(self.counted)}
        return min(whole.items(), key=lambda item: item[1], default=None)


@dataclass(frozen=True)
class Run:
    """All of a file. limits: at the start, at the end, and where the run was taken up again."""

    path: str
    date: str
    git: str
    machine: str
    details: Mapping[str, Any]
    threads: int
    peers: Mapping[str, str]
    limits: tuple[Limits, ...]
    quick: bool
    rows: tuple[Row, ...]
    # Of each network its layers in order, each (name of the layer, case).
    networks: Mapping[str, tuple[tuple[str, str], ...]]

    @property
    def when(self) -> datetime:
        """The date with its time zone, UTC where it has none: what runs are sorted by."""
        found = datetime.fromisoformat(self.date)
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)

    @cached_property
    def groups(self) -> dict[str, Group]:
        """By name, in the order of the run."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.group, []).append(row)
        return {name: Group(name, rows[0].case, rows[0].op, tuple(rows)) for name, rows in found.items()}

    @property
    def peak(self) -> dict[int, float]:
        """The FMA peak by number of threads, flop/s, at its best during the run."""
        return {n: max(moment.fma[n] for moment in self.limits) for n in self.limits[0].fma}

    @property
    def bandwidth(self) -> dict[str, float]:
        """What a copy reads and writes a second by level, bytes, at its best during the run."""
        return {level: max(moment.copy[level] for moment in self.limits) for level in self.limits[0].copy}

    def of_limit(self, row: Row) -> tuple[float, str]:
        """The row's share of what the roofline of FMA peak and memory allows it, and which of both bounds it; (nan, "")
        if it is credited with no work. Beyond 1 is an algorithm of fewer flops, or arrays that stay in a cache."""
        shares = {"FMA": row.share, "memory": row.traffic / self.bandwidth.get("memory", math.nan)}
        known = [(share, name) for name, share in shares.items() if share == share]
        return max(known, default=(math.nan, ""))

    def network(self, name: str) -> Network:
        """The layers of one of `networks`. Of a case's operations the first is its forward pass."""

        def layer(shown: str, case: str) -> Layer:
            groups = [group for group in self.groups.values() if group.case == case]
            forward = next((group for group in groups if "grad" not in group.op), None)
            gradients = [group for group in groups if forward and group.op.startswith(f"{forward.op}_grad")]
            return Layer(shown, case, forward, tuple(gradients))

        return Network(name, tuple(layer(*names) for names in self.networks[name]))

    @property
    def ceiling(self) -> dict[str, float]:
        """Every limit at its best during the run: other work on the machine only ever lowers what it is seen to do."""
        return {name: max(moment.all[name] for moment in self.limits) for name in self.limits[0].all}

    @property
    def moved(self) -> dict[str, float]:
        """By how much of itself each limit moved during the run."""
        worst = {name: min(moment.all[name] for moment in self.limits) for name in self.limits[0].all}
        return {name: 1 - worst[name] / best for name, best in self.ceiling.items()}

    @property
    def warnings(self) -> list[str]:
        """What must stand on the face of every view."""
        lines = [
            f"{name} moved by {100 * share:.0f} % during this run: something else ran on the machine; run again"
            for name, share in self.moved.items()
            if share > DRIFT
        ]
        restless = sum(row.timed and not row.steady for row in self.rows)
        if restless:
            lines.append(
                f"{restless} of {sum(row.timed for row in self.rows)} rows are unsteady: their times say little"
            )
        if self.quick:
            lines.append("a quick run: few rounds of few cases, to see that it works, not to quote")
        return lines

    @property
    def failures(self) -> list[Row]:
        return [row for row in self.rows if row.failure]


def geometric_mean(values: Iterable[float]) -> float | None:
    """Of positive numbers; None of none."""
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else None


@dataclass(frozen=True, slots=True)
class Summary:
    """What stands on top of a report. Ratios are fastconv's time by a peer's: below 1 fastconv is faster."""

    cases: int
    to_best: float | None
    to_torch: float | None
    torch_cases: int
    worst: tuple[str, float] | None
    best: tuple[str, float] | None
    won: tuple[str, ...]
    lost: tuple[str, ...]
    ties: tuple[str, ...]
    failed: tuple[str, ...]
    alone: tuple[str, ...]


def summary(run: Run) -> Summary:
    """Over all groups that have a valid row of fastconv and of a peer."""
    ratios = {name: ratio for name, group in run.groups.items() if (ratio := group.ratio()) is not None}
    torch = [ratio for group in run.groups.values() if (ratio := group.ratio(("torch",))) is not None]
    verdicts = {name: group.verdict for name, group in run.groups.items()}

    def of(verdict: str) -> tuple[str, ...]:
        return tuple(name for name, found in verdicts.items() if found == verdict)

    return Summary(
        len(ratios),
        geometric_mean(ratios.values()),
        geometric_mean(torch),
        len(torch),
        max(ratios.items(), key=lambda item: item[1], default=None),
        min(ratios.items(), key=lambda item: item[1], default=None),
        of("won"),
        of("lost"),
        of("tie"),
        of("FAIL"),
        of("no peer"),
    )


def _text(value: Any) -> str:
    """A text to show. Files come from anywhere: what is in them must not move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


def _row(notes: Mapping[str, Any], group: str, stats: Mapping[str, Any] | None) -> Row:
    times: dict[str, Any] = {}
    if stats is not None:
        keys = {"seconds": "median", "low": "q1", "high": "q3", "shortest": "min"}
        times = {name: float(stats[key]) for name, key in keys.items()}
        times["rounds"] = int(stats["rounds"])
    absent, role = _text(notes.get("absent", "")), str(notes["role"])
    # JSON has no infinity, which is what the error of a wrong shape is. What nobody compared counts for nothing.
    error = math.nan if absent else math.inf
    found, limit = (notes.get(name) for name in ("kernel_error", "kernel_limit"))
    if role == KERNEL and not absent:
        found, limit = error if found is None else found, 0.0 if limit is None else limit
    return Row(
        group=_text(group),
        case=_text(notes["case"]),
        op=_text(notes["op"]),
        name=_text(notes["name"]),
        runtime=_text(notes["runtime"]),
        role=role,
        chosen=bool(notes.get("chosen", False)),
        kernel=_text(notes.get("kernel", "")),
        flops=float(notes.get("flops") or 0.0),
        bytes=float(notes.get("bytes") or 0.0),
        scratch=int(notes.get("scratch_bytes") or 0),
        error=error if notes.get("error") is None else float(notes["error"]),
        kernel_error=None if found is None else float(found),
        kernel_limit=None if limit is None else float(limit),
        peak=float(notes.get("fma_peak_gflops") or math.nan) * 1e9,
        steady=bool(notes.get("steady", True)),
        problem=_text(notes.get("problem", "")),
        reproduce=_text(notes.get("reproduce", "")),
        absent=absent,
        goal={name: float(value) for name, value in (notes.get("goal") or {}).items()},
        **times,
    )


def read(data: Any, path: str = "") -> Run:
    """The run in a parsed JSON file. BadRun names what is missing or wrong."""
    where = f"{path}: " if path else ""
    if not isinstance(data, dict) or "benchmarks" not in data:
        raise BadRun(f"{where}is no JSON of pytest-benchmark: it has no 'benchmarks'")
    head = data.get("fastconv")
    if not isinstance(head, dict):
        raise BadRun(f"{where}is of pytest-benchmark, but not of fastconv's benchmarks: it has no 'fastconv'")
    if head.get("schema") != SCHEMA:
        raise BadRun(f"{where}has schema={head.get('schema')!r}: this version of fastconv reads {SCHEMA}")
    try:
        rows = [_row(entry["extra_info"], entry["group"], entry["stats"]) for entry in data["benchmarks"]]
        rows += [_row(notes, notes["group"], None) for notes in head["untimed"]]
        order = {_text(name): k for k, name in enumerate(head["groups"])}
        rows.sort(key=lambda row: order[row.group])
        limits = tuple(
            Limits(
                _text(moment["time"]),
                {int(n): float(rate) for n, rate in moment["fma"].items()},
                {_text(level): float(rate) for level, rate in moment["copy"].items()},
            )
            for moment in head["limits"]
        )
        networks = {
            _text(name): tuple((_text(layer), _text(case)) for layer, case in layers)
            for name, layers in head["networks"].items()
        }
        run = Run(
            path,
            _text(data["datetime"]),
            _text(head["git"]),
            _text(head["machine"]["line"]),
            head["machine"],
            int(head["machine"]["threads"]),
            {_text(name): _text(version) for name, version in head["peers"].items()},
            limits,
            bool(head["quick"]),
            tuple(rows),
            networks,
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadRun(f"{where}is damaged: {type(error).__name__}: {error}") from error
    wrong = _wrong(run)
    if wrong:
        raise BadRun(f"{where}{wrong}")
    return run


def _wrong(run: Run) -> str:
    """What views could not be made of, or ""."""
    if not run.rows:
        return "has no rows"
    if not run.limits:
        return "has no limits of the machine"
    try:
        _ = run.when
    except ValueError:
        return f"has the date {run.date!r}, which is none"
    for moment in run.limits:
        if moment.all.keys() != run.limits[0].all.keys() or not moment.fma:
            return "has limits of the machine that do not belong together"
        for name, rate in moment.all.items():
            if not 0 < rate < math.inf:
                return f"has {name} = {rate}: needs a positive number"
    for group in run.groups.values():
        if sum(row.chosen for row in group.rows) > 1:
            return f"has several rows of {group.name} that stand for fastconv"
    seen = set()
    for row in run.rows:
        key = (row.group, row.name)
        if key in seen:
            return f"has {row.group}: {row.name} twice"
        seen.add(key)
        if row.absent and row.rounds:
            return f"has {row.group}: {row.name} with times, and with a reason why it has none"
        if row.error < 0 or (row.kernel_error or 0) < 0:
            return f"has {row.group}: {row.name} with a negative error"
        if "/" not in row.name or row.role not in (KERNEL, LAYER, PEER, ASIDE):
            return f"has a row name={row.name!r}, role={row.role!r}, which is none of these benchmarks"
        if row.rounds:
            times = (row.shortest, row.low, row.seconds, row.high)
            if not all(0 < time < math.inf for time in times) or list(times) != sorted(times):
                return f"has {row.group}: {row.name} with times {times}: needs positive ones, min ≤ q1 ≤ median ≤ q3"
        elif row.timed:
            return f"has {row.group}: {row.name} with times of no rounds"
        for value in (row.flops, row.bytes, row.scratch):
            if not 0 <= value < 1e30:
                return f"has {row.group}: {row.name} with {value} flops, bytes or bytes of scratch"
        if math.isinf(row.peak) or row.peak <= 0:
            return f"has {row.group}: {row.name} with an FMA peak of {row.peak}"
    return ""


def load(path: str | Path) -> Run:
    """The run in a file. BadRun if it is not there, no JSON, or of something else."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadRun(f"{path}: cannot be read: {error}") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRun(f"{path}: is no JSON: {error}") from error
    return read(data, str(path))
