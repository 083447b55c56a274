"""Starts the workers, gives them their turns, and keeps what they measured."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Protocol

import numpy as np

from bench.peers import expected
from bench.peers.cases import Case, arrays

ROOT = Path(__file__).parents[2]
OWN = "fastconv"
# fastconv once more, for a case's dense work.
OWN_DENSE = "fastconv_dense"

# Each peer and the environment below .bench it runs in; fastconv runs in this one.
PEERS: Mapping[str, str] = {
    "torch": "torch",
    "torch_channels_last": "torch",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "jax": "jax",
    "ncnn": "ncnn",
    "mnn": "mnn",
    "keras": "keras",
}

# A turn lasts about so long, and a time shorter than SHORT is taken of as many calls as last SAMPLE. In seconds.
TURN, SHORT, SAMPLE = 0.05, 20e-6, 1e-3

# However long a case takes, it has so many rounds.
FEWEST_ROUNDS = 5

# A worker that does not answer for so many seconds is ended: compiling a network takes a minute at most.
PATIENCE = 600.0


class Crashed(Exception):  # noqa: N818 - what happened to the worker
    """The worker is gone; the message is the last that it said."""


class Asked(Protocol):
    """What the driver needs of a worker: answers to the commands of bench.peers.worker."""

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]: ...

    def close(self) -> None: ...


def python(peer: str) -> str:
    """The interpreter that a runtime runs in."""
    if peer in (OWN, OWN_DENSE):
        return sys.executable
    path = ROOT / ".bench" / PEERS[peer] / "bin" / "python"
    if not path.exists():
        raise FileNotFoundError(f"{path}: {peer} has no environment, run `make bench-env`")
    return str(path)


class Worker:
    """A process of bench.peers.worker."""

    def __init__(self, peer: str, threads: int, folder: Path, **environment: str) -> None:
        count = str(threads)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "NPROC")
        variables = {**os.environ, **dict.fromkeys(names, count), "JAX_PLATFORMS": "cpu", **environment}
        self.log = folder / f"{peer}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python(peer), "-m", "bench.peers.worker", peer, count],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=variables,
            )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for its answer. Crashed if there is none."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Crashed(self.last_words()) from None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        if not ready:
            self.close()
            raise Crashed(f"no answer to {do} for {PATIENCE:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise Crashed(self.last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def last_words(self) -> str:
        code = self.process.wait(timeout=60)
        lines = self.log.read_text(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1] if said and code > 0 else f"exit code {code}"

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Pool:
    """Workers by name: each starts when it is first needed, and again after a crash."""

    def __init__(self, start: Callable[[str], Asked]) -> None:
        self._start = start
        self._running: dict[str, Asked] = {}
        # What each said of itself: version and threads.
        self.about: dict[str, dict[str, Any]] = {}

    def get(self, name: str) -> Asked:
        if name not in self._running:
            self._running[name] = self._start(name)
            self.about[name] = self._running[name].ask("hello")
        return self._running[name]

    def drop(self, name: str) -> None:
        if name in self._running:
            self._running.pop(name).close()

    def close(self) -> None:
        for name in list(self._running):
            self.drop(name)


@dataclass(frozen=True, slots=True)
class Plan:
    """A turn: calls that are not timed, calls that are, and of how many calls one time is."""

    discard: int
    calls: int
    repeat: int

    @classmethod
    def of(cls, once: float) -> Plan:
        """For a call that takes `once` seconds."""
        repeat = 1 if once > SHORT else round(SAMPLE / max(once, 1e-7))
        calls = max(1, min(200, round(TURN / (once * repeat)))) if once else 200
        # The first calls of a turn find other runtimes' data in the caches and the threads asleep.
        return cls(max(1, calls // 4), calls, repeat)


def put(case: Case, folder: Path) -> dict[str, np.ndarray]:
    """Write a case where its workers read it; its arrays."""
    data = arrays(case.work)
    (folder / "work.json").write_text(json.dumps(case.work), encoding="utf-8")
    np.savez(folder / "arrays.npz", **data)
    return data


def _read(worker: Asked, folder: Path) -> tuple[list[np.ndarray], str]:
    path = folder / "outputs.npz"
    kernel = worker.ask("outputs", file=str(path))["kernel"]
    with np.load(path) as file:
        found = [file[name] for name in file.files]
    path.unlink()
    return found, kernel


def statistics(seconds: list[float]) -> dict[str, Any]:
    """Median, quartiles and count."""
    low, middle, high = quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    return {"seconds": middle, "low": low, "high": high, "count": len(seconds)}


class Check:
    """Compares the outputs of a case with float64."""

    def __init__(self, case: Case, data: dict[str, np.ndarray]) -> None:
        self.case, self.data = case, data
        self.wanted = expected.outputs(case.work, data)

    def __call__(self, name: str, worker: Asked, folder: Path, cell: dict[str, Any]) -> None:
        """Note in `cell` the largest error so far, and for fastconv's kernels the one that their limit is for."""
        got, kernel = _read(worker, folder)
        cell["error"] = max(cell.get("error", 0.0), expected.error(got, self.wanted))
        if name == OWN and kernel:
            cell["kernel"] = kernel
            if self.case.problem is not None:
                error, limit = expected.kernel_error(self.case.problem, kernel, self.data, got[0])
                cell["kernel_error"], cell["kernel_limit"] = max(cell.get("kernel_error", 0.0), error), limit


def measure(
    case: Case,
    names: Iterable[str],
    pool: Pool,
    rounds: int,
    seconds: float,
    tell: Callable[[str], None],
    peak: Callable[[], float] | None = None,
) -> dict[str, dict[str, Any]]:
    """A cell for each runtime: its times and error, or `cannot` or `crashed` with the reason.

    Runtimes have their turns A B C A B C …, `rounds` times, or fewer (not below FEWEST_ROUNDS) once `seconds` are over.
    Of a case with flops, `peak`, flop/s of the machine, has a turn in each round too; cells hold its median.
    """
    limits: list[float] = []
    cells: dict[str, dict[str, Any]] = {name: {} for name in names}
    times: dict[str, list[float]] = {name: [] for name in cells}
    plans: dict[str, Plan] = {}

    def attempt(name: str, action: Callable[[Asked], None]) -> None:
        """A crash is the end of this runtime in this case, and of nothing else."""
        try:
            action(pool.get(name))
        except Crashed as reason:
            pool.drop(name)
            plans.pop(name, None)
            cells[name] = {"crashed": str(reason)}

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        dense = folder / "dense"
        usual = Check(case, put(case, folder)), folder
        of_name: dict[str, tuple[Check, Path]] = {}
        if case.dense is not None:
            dense.mkdir()
            same = replace(case, work=case.dense)
            of_name[OWN_DENSE] = Check(same, put(same, dense)), dense

        def check(name: str, worker: Asked) -> None:
            compare, own_folder = of_name.get(name, usual)
            compare(name, worker, own_folder, cells[name])

        def prepare(name: str, worker: Asked) -> None:
            answer = worker.ask("build", folder=str(of_name.get(name, usual)[1]))
            if "cannot" in answer:
                cells[name]["cannot"] = answer["cannot"]
                return
            worker.ask("turn", discard=0, calls=1)
            # Of a step of training only the first is comparable: the next starts from other weights.
            check(name, worker)
            plans[name] = Plan.of(min(worker.ask("turn", discard=0, calls=3)["seconds"]))

        def turn(name: str, worker: Asked) -> None:
            plan = plans[name]
            answer = worker.ask("turn", discard=plan.discard, calls=plan.calls, repeat=plan.repeat)
            times[name] += answer["seconds"]
            cells[name]["processors"] = round(answer["processors"], 2)
            if not answer["settled"]:
                cells[name]["restless"] = True

        def finish(name: str, worker: Asked) -> None:
            if case.work["kind"] != "step":
                check(name, worker)
            cells[name].update(statistics(times[name]))
            if limits:
                cells[name]["peak"] = median(limits)

        for name in cells:
            tell(f"{case.name}: preparing {name}")
            attempt(name, lambda worker, name=name: prepare(name, worker))
        start = time.monotonic()
        for number in range(rounds):
            if number >= FEWEST_ROUNDS and time.monotonic() - start > seconds:
                break
            tell(f"{case.name}: round {number + 1} of {rounds}")
            if case.flops is not None and peak is not None:
                limits.append(peak())
            for name in list(plans):
                attempt(name, lambda worker, name=name: turn(name, worker))
        for name in list(plans):
            attempt(name, lambda worker, name=name: finish(name, worker))
    return cells


def measure_fresh(
    case: Case,
    names: Iterable[str],
    start: Callable[..., Asked],
    rounds: int,
    tell: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """As `measure`, of new processes: seconds from a worker's start until its first call has returned.

    `start` takes a name and the folder for compiled code. Interpreter, imports and reading the arrays are included.
    """
    cells: dict[str, dict[str, Any]] = {name: {} for name in names}
    times: dict[str, list[float]] = {name: [] for name in cells}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        check = Check(case, put(case, folder))

        def once(name: str, cache: str) -> float:
            begun = time.perf_counter()
            worker = start(name, cache)
            try:
                worker.ask("build", folder=place)
                answer = worker.ask("turn", discard=0, calls=1)
                # The answer comes after the worker has come to rest, so the call's own end is not the answer's.
                taken = time.perf_counter() - begun - answer["settling"]
                check(name, worker, folder, cells[name])
            finally:
                worker.close()
            return taken

        filled = str(folder / "filled")
        for number in range(rounds + 1):
            for name in list(cells):
                if "crashed" in cells[name]:
                    continue
                tell(f"{case.name}: start {number} of {rounds}, {name}")
                cache = filled if case.fresh == "filled" else str(folder / f"empty{number}")
                # The first round fills the caches, and the system's cache of files.
                try:
                    taken = once(name, cache)
                except Crashed as reason:
                    cells[name] = {"crashed": str(reason)}
                    continue
                times[name] += [taken] if number else []
        for name, cell in cells.items():
            if times[name] and "crashed" not in cell:
                cell.update(statistics(times[name]))
    return cells


def fma_peak() -> float:
    """What the machine does now, in flop/s, in about the time of a turn."""
    from fastconv import machine

    return machine.fma_rate(seconds=TURN)


def peaks() -> dict[str, float]:
    """What the machine does now: flop/s, and bytes per second from each level of memory."""
    from fastconv import machine

    return {"fma": machine.fma_rate(seconds=0.2), **machine.copy_rates()}


def moved(start: Mapping[str, float], end: Mapping[str, float]) -> dict[str, float]:
    """By how much of itself each peak differs between start and end of a run."""
    return {name: 1 - min(start[name], end[name]) / max(start[name], end[name]) for name in start}


def save(report: dict[str, Any], path: Path) -> None:
    """Write the report so that at any moment the file is the former one or this one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(report, indent=1), encoding="utf-8")
    os.replace(new, path)


def load(path: Path) -> dict[str, Any]:
    """The results of an interrupted run, by case; none if there is no such file."""
    if not path.exists():
        return {}
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["results"]
    return results
