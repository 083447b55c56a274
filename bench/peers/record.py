"""What a run has found, as its JSON has it: rows with what they are to be read with, the machine and its limits."""

from __future__ import annotations

import datetime
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from fastconv import device, machine
from fastconv.report import runs

from . import driver
from .driver import Measured
from .groups import Contender, Group, scratch

# A median further above the shortest round is that of a disturbed row.
SPREAD = 1.5


def now() -> str:
    """The time as JSON has it."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def git_revision(folder: Path) -> str:
    """The checked-out commit, "-dirty" if files differ from it; "unknown" outside of a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def statistics(times: list[float]) -> dict[str, float]:
    """What reports read of a row's times, by pytest-benchmark's names."""
    low, middle, high = quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"median": middle, "q1": low, "q3": high, "min": min(times), "rounds": len(times)}


@dataclass
class Record:
    """Rows by (group, name), the machine's limits of every sitting, and the FMA peaks (flop/s) of all rounds."""

    git: str
    quick: bool = False
    machine: machine.Machine = field(default_factory=machine.machine)
    limits: list[dict[str, Any]] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    networks: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    peaks: list[float] = field(default_factory=list)
    notes: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    stats: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)

    def limits_now(self) -> dict[str, Any]:
        """Measure the machine's limits."""
        return {"time": now(), **driver.limits(self.machine.threads)}

    def add(self, group: Group, one: Contender, measured: Measured, reproduce: str) -> dict[str, Any]:
        """Keep a row; what it is to be read with. A row of ours over its limit keeps its error and has no times."""
        cell, peaks = measured.cells[one.name], measured.peaks
        self.peaks += peaks
        found: dict[str, Any] = {
            "name": one.name,
            "case": group.case,
            "op": group.op,
            "runtime": one.runtime if one.role == runs.PEER else "fastconv",
            "role": one.role,
            "chosen": one.name == group.chosen,
            "kernel": cell.get("kernel", ""),
            "problem": group.text,
            "flops": group.dense_flops if one.role == runs.ASIDE else group.flops,
            "bytes": group.bytes,
            "reproduce": reproduce,
            "machine": device.line() if group.backend == "cuda" else self.machine.line(),
            "threads": self.machine.threads,
            "threading_layer": self.machine.threading_layer,
            "isa": self.machine.isa,
            "git": self.git,
        }
        if one.kernel is not None and group.problem is not None:
            found["scratch_bytes"], found["kept_bytes"] = scratch(one.kernel, group.problem)
        if found["chosen"]:
            found["goal"] = dict(group.goal)
        names = ("error", "kernel_error", "kernel_limit", "processors", "restless")
        # JSON has no infinity, which is what the error of a wrong shape or of NaN is.
        found |= {name: None if cell[name] == math.inf else cell[name] for name in names if name in cell}
        if peaks:
            found["fma_peak_gflops"] = median(peaks) / 1e9
        self.notes[group.name, one.name] = found
        absent = cell.get("cannot") or (f"crashed: {cell['crashed']}" if "crashed" in cell else "")
        failure = "" if absent else self.failure(found)
        if absent or (failure and one.role != runs.PEER):
            found |= {"group": group.name, "absent": absent}
            return found
        self.stats[group.name, one.name] = stats = statistics(cell["times"])
        seconds = stats["median"]
        settled = seconds <= SPREAD * stats["min"] and not cell.get("restless")
        # The machine's limits are those of float32.
        slow = peaks and group.dtype == "float32" and median(peaks) < (1 - runs.DRIFT) * self.best_peak
        found["steady"] = settled and not slow
        if group.bytes:
            found["gbytes_per_second"] = group.bytes / seconds / 1e9
        if found["flops"]:
            found["gflops"] = found["flops"] / seconds / 1e9
            if peaks:
                found["share_of_peak"] = found["gflops"] / found["fma_peak_gflops"]
        return found

    def failure(self, notes: Mapping[str, Any]) -> str:
        """Why a row with these notes is FAIL, or ""."""
        errors = (notes.get(name, math.nan) for name in ("error", "kernel_error"))
        error, of_kernel = (math.inf if value is None else value for value in errors)
        limit = notes.get("kernel_limit")
        return runs.failure(notes["role"], error, None if limit is None else of_kernel, limit)

    @property
    def best_peak(self) -> float:
        """The machine's: other work on it only ever lowers what it is seen to do."""
        return max([*self.peaks, *(moment["fma"][str(self.machine.threads)] for moment in self.limits)], default=0.0)

    def head(self) -> dict[str, Any]:
        """What the JSON has under "fastconv"."""
        from fastconv.kernels.cpu import host

        here = {**asdict(self.machine), "line": self.machine.line(), "features": sorted(host.FEATURES)}
        cases = {notes["case"] for notes in self.notes.values()}
        return {
            "schema": runs.SCHEMA,
            "machine": here,
            "git": self.git,
            "quick": self.quick,
            "peers": self.about,
            "limits": self.limits,
            "groups": list(dict.fromkeys(group for group, _ in self.notes)),
            "untimed": [notes for key, notes in self.notes.items() if key not in self.stats],
            "networks": {
                name: layers for name, layers in self.networks.items() if any(case in cases for _, case in layers)
            },
        }

    def json(self) -> dict[str, Any]:
        """The file, by pytest-benchmark's layout as far as reports read it."""
        timed = [
            {"group": group, "name": name, "extra_info": self.notes[group, name], "stats": stats}
            for (group, name), stats in self.stats.items()
        ]
        return {"benchmarks": timed, "datetime": now(), "fastconv": self.head()}

    def run(self) -> runs.Run:
        """The run as reports see it."""
        return runs.read(self.json())
