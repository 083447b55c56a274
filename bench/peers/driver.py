"""Starts the workers, gives them their turns, and keeps what they measured."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fastconv import machine, testing
from fastconv.registry import OPS, kernels

from . import cases, expected
from .groups import ALL_PEERS, CUDA, DENSE, KERNELS, OWN, Contender, Given, Group, for_kernels, write
from .work import program

# A time shorter than SHORT is taken of as many calls as last SAMPLE; a call longer than LONG has few turns. Seconds.
SHORT, SAMPLE, LONG = 20e-6, 1e-3, 0.25
# Seconds of calls that a turn begins with and that are not timed, at least one call.
AWAKE = 0.01

# However long a group takes, it has so many rounds; a contender whose call is LONG has no more, and never needs them.
FEWEST_ROUNDS, ROUNDS_OF_LONG = 5, 3

# A worker that does not answer for so many seconds is ended: compiling a network takes a minute at most.
PATIENCE = 600.0

# The module whose presence in this interpreter says that a peer can run in it.
_MODULES = {"torch_channels_last": "torch", "torch_cuda": "torch", "mnn": "MNN"}


class Crashed(Exception):  # noqa: N818 - what happened to the worker
    """The worker is gone; the message is the last that it said."""


class Asked(Protocol):
    """What the driver needs of a worker: answers to the commands of worker.py."""

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]: ...

    def close(self) -> None: ...


def environments() -> Path:
    """The folder of the peers' environments: FASTCONV_PEERS, or .bench where the command is run."""
    return Path(os.environ.get("FASTCONV_PEERS", ".bench")).absolute()


def interpreter(runtime: str) -> str | None:
    """The Python that a runtime runs in: that of its environment, else this one if it is installed here, else None."""
    if runtime in (OWN, KERNELS, CUDA, DENSE):
        return sys.executable
    path = environments() / ALL_PEERS[runtime] / "bin" / "python"
    if path.exists():
        return str(path)
    return sys.executable if find_spec(_MODULES.get(runtime, runtime)) is not None else None


def installed() -> tuple[str, ...]:
    """The peers that can run here."""
    return tuple(name for name in ALL_PEERS if interpreter(name) is not None)


def chosen(names: str | None) -> tuple[str, ...]:
    """The peers "A,B" or "none", or None for all that are installed. ValueError names one that there is none of."""
    there = installed()
    if names is None:
        return there
    wanted = [name for name in names.split(",") if name not in ("", "none")]
    for name in wanted:
        if name not in ALL_PEERS:
            raise ValueError(f"--peers: {name!r} is not one of {','.join(ALL_PEERS)}, none")
    for name in wanted:
        if name not in there:
            raise ValueError(
                f"--peers: {name} is not installed here and has no environment in {environments()}: make bench-env, "
                "or name their folder by the variable FASTCONV_PEERS"
            )
    return tuple(name for name in ALL_PEERS if name in wanted)


class Worker:
    """A process of worker.py."""

    def __init__(self, runtime: str, threads: int, folder: Path, **environment: str) -> None:
        count = str(threads)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "NPROC")
        variables = {**os.environ, **dict.fromkeys(names, count), "JAX_PLATFORMS": "cpu", **environment}
        self.log = folder / f"{runtime}.log"
        python = interpreter(runtime)
        if python is None:
            raise FileNotFoundError(f"{runtime} is neither installed here nor has an environment in {environments()}")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, "-c", program("worker", runtime, threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
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
class Budget:
    """How long things are measured: rounds of a group, seconds of a turn, the seconds after which a group has no more
    than FEWEST_ROUNDS, and rounds of starts."""

    rounds: int = 8
    turn: float = 0.05
    seconds: float = 40.0
    starts: int = 5

    @classmethod
    def quick(cls) -> Budget:
        """To see that it works, not to report."""
        return cls(3, 0.03, 5.0, 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """A turn: calls that are not timed, calls that are, and of how many calls one time is."""

    discard: int
    calls: int
    repeat: int
    rounds: int

    @classmethod
    def of(cls, once: float, budget: Budget) -> Plan:
        """For a call that takes `once` seconds."""
        if once > LONG:
            return cls(0, 1, 1, min(budget.rounds, ROUNDS_OF_LONG))
        repeat = 1 if once > SHORT else round(SAMPLE / max(once, 1e-7))
        calls = max(1, min(50, round(budget.turn / (once * repeat)))) if once else 50
        # The first calls of a turn find other runtimes' data in the caches and the threads asleep; some milliseconds
        # pass until helpers that share an interpreter's lock with their caller are awake.
        return cls(max(1, calls // 4, round(AWAKE / max(once, 1e-6))), calls, repeat, budget.rounds)


class Check:
    """Compares the outputs of contenders with float64."""

    def __init__(self, group: Group, given: Given) -> None:
        self.oracle = testing.Oracle(group.op, group.problem, given.inputs) if group.problem is not None else None
        self.group = group
        if self.oracle is not None:
            self.wanted = list(self.oracle.wanted)
        else:
            assert given.work is not None
            self.wanted = expected.outputs(given.work, given.arrays)

    def __call__(self, one: Contender, got: list[np.ndarray], kernel: str, cell: dict[str, Any]) -> None:
        """Note in `cell` the largest error so far, and of our kernels, also a layer's, the one their limit is for."""
        if one.role == "kernel":
            assert self.oracle is not None
            error = self.oracle.largest_error(tuple(got))
        else:
            # A peer has no last c of a GRU, where a kernel has an array of no elements.
            error = expected.error(got, [array for array in self.wanted if array.size])
        # The maximum of a number and NaN is the one that stands first.
        cell["error"] = max(cell.get("error", 0.0), float("inf") if np.isnan(error) else error)
        if kernel and self.oracle is not None:
            cell["kernel"] = kernel
            known = kernels(self.group.op, self.group.backend)
            limit = next(one.limit for one in known if one.name == kernel)
            if one.role != "kernel":
                # Layers leave out what has no elements.
                parts = iter(got)
                got = [next(parts) if array.size else array for array in self.wanted]
            error = self.oracle.error(tuple(got))
            cell["kernel_error"], cell["kernel_limit"] = max(cell.get("kernel_error", 0.0), error), limit


def outputs(worker: Asked, slot: str, folder: Path) -> tuple[list[np.ndarray], str]:
    """The last call's outputs, and what did the work."""
    path = folder / "outputs.npz"
    kernel = worker.ask("outputs", file=str(path), slot=slot)["kernel"]
    with np.load(path) as file:
        found = [file[name] for name in file.files]
    path.unlink()
    return found, kernel


def put(group: Group, given: Given, runtimes: Iterable[str], folder: Path) -> None:
    """Write a group's work where these runtimes read it."""
    for runtime in set(runtimes):
        if runtime in (KERNELS, CUDA):
            assert group.problem is not None
            named = dict(zip(OPS[group.op].inputs, given.inputs, strict=True))
            write(for_kernels(group.op, group.problem), named, folder / "kernels")
        elif runtime == DENSE:
            assert group.dense is not None
            write(group.dense, cases.arrays(group.dense), folder / "dense")
        elif not (folder / "work").exists():
            assert given.work is not None
            write(given.work, given.arrays, folder / "work")


@dataclass(slots=True)
class Measured:
    """Of a group: a cell for each row, with `times` and error, or `cannot` or `crashed` with the reason; and the FMA
    peaks (flop/s) that the machine had in its rounds."""

    cells: dict[str, dict[str, Any]]
    peaks: list[float]


def measure(
    group: Group,
    contenders: Iterable[Contender],
    pool: Pool,
    budget: Budget,
    tell: Callable[[str], None] = lambda text: None,
    peak: Callable[[], float] | None = None,
) -> Measured:
    """Contenders have their turns A B C A B C …, as many rounds as the budget says, or fewer (not below FEWEST_ROUNDS)
    once its seconds are over. `peak` has a turn in each round, too."""
    rows = {one.name: one for one in contenders}
    found = Measured({name: {} for name in rows}, [])
    cells = found.cells
    times: dict[str, list[float]] = {name: [] for name in rows}
    plans: dict[str, Plan] = {}
    given = Given.of(group)
    check = Check(group, given)
    dense = None
    if any(one.runtime == DENSE for one in rows.values()):
        assert group.dense is not None
        dense = expected.outputs(group.dense, cases.arrays(group.dense))

    def attempt(one: Contender, action: Callable[[Contender, Asked], None]) -> None:
        """A crash is the end of this process's rows in this group, and of nothing else."""
        try:
            action(one, pool.get(one.runtime))
        except Crashed as reason:
            pool.drop(one.runtime)
            together = [name for name, row in rows.items() if row.runtime == one.runtime and name in plans]
            for name in {one.name, *together}:
                plans.pop(name, None)
                cells[name] = {"crashed": str(reason)}

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        put(group, given, [one.runtime for one in rows.values()], folder)

        def compare(one: Contender, worker: Asked) -> None:
            got, kernel = outputs(worker, one.slot, folder)
            if one.runtime == DENSE:
                assert dense is not None
                cells[one.name]["error"] = expected.error(got, dense)
            else:
                check(one, got, kernel, cells[one.name])

        def prepare(one: Contender, worker: Asked) -> None:
            own = one.kernel
            options = {} if own is None else {"kernel": own.name, "module": own.run.__module__}
            answer = worker.ask("build", folder=str(folder / one.folder), slot=one.slot, options=options)
            if "cannot" in answer:
                cells[one.name]["cannot"] = answer["cannot"]
                return
            # The first call may compile; it and the next are both of new inputs.
            worker.ask("turn", slot=one.slot, discard=0, calls=1, poison=True)
            # Of a step of training only the first is comparable: the next starts from other weights.
            compare(one, worker)
            once = worker.ask("turn", slot=one.slot, discard=0, calls=1)["seconds"]
            if once[0] <= LONG:
                once = worker.ask("turn", slot=one.slot, discard=0, calls=3)["seconds"]
            plans[one.name] = Plan.of(min(once), budget)

        def turn(one: Contender, worker: Asked) -> None:
            plan = plans[one.name]
            arguments = {"discard": plan.discard, "calls": plan.calls, "repeat": plan.repeat, "poison": True}
            answer = worker.ask("turn", slot=one.slot, **arguments)
            times[one.name] += answer["seconds"]
            cells[one.name]["processors"] = round(answer["processors"], 2)
            if not answer["settled"]:
                cells[one.name]["restless"] = True

        def finish(one: Contender, worker: Asked) -> None:
            if group.op != "step":
                compare(one, worker)
            cells[one.name]["times"] = times[one.name]

        for name in dict.fromkeys(one.runtime for one in rows.values()):
            try:
                pool.get(name).ask("clear")
            except Crashed:
                # It starts again below, and says why it cannot.
                pool.drop(name)
        for one in rows.values():
            tell(f"{group.name}: preparing {one.name}")
            attempt(one, prepare)
        start = time.monotonic()
        for number in range(budget.rounds):
            if number >= FEWEST_ROUNDS and time.monotonic() - start > budget.seconds:
                break
            tell(f"{group.name}: round {number + 1} of {budget.rounds}")
            if peak is not None:
                found.peaks.append(peak())
            for name in list(plans):
                if name in plans and number < plans[name].rounds:
                    attempt(rows[name], turn)
        for name in list(plans):
            attempt(rows[name], finish)
    return found


def measure_starts(
    group: Group,
    contenders: Iterable[Contender],
    start: Callable[..., Asked],
    budget: Budget,
    tell: Callable[[str], None] = lambda text: None,
) -> Measured:
    """As `measure`, of new processes: seconds from a worker's start until its first call has returned.

    `start` takes a name and the folder for compiled code. Interpreter, imports and reading the arrays are included.
    """
    rows = {one.name: one for one in contenders}
    cells: dict[str, dict[str, Any]] = {name: {} for name in rows}
    times: dict[str, list[float]] = {name: [] for name in rows}
    given = Given.of(group)
    check = Check(group, given)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        put(group, given, [one.runtime for one in rows.values()], folder)

        def once(one: Contender, cache: str) -> float:
            begun = time.perf_counter()
            worker = start(one.runtime, cache)
            try:
                worker.ask("build", folder=str(folder / one.folder))
                answer = worker.ask("turn", discard=0, calls=1)
                # The answer comes after the worker has come to rest, so the call's own end is not the answer's.
                taken = time.perf_counter() - begun - answer["settling"]
                got, kernel = outputs(worker, "", folder)
                check(one, got, kernel, cells[one.name])
            finally:
                worker.close()
            return taken

        filled = str(folder / "filled")
        for number in range(budget.starts + 1):
            for name, one in rows.items():
                if "crashed" in cells[name]:
                    continue
                tell(f"{group.name}: start {number} of {budget.starts}, {name}")
                cache = filled if group.fresh == "filled" else str(folder / f"empty{number}")
                # The first round fills the caches, and the system's cache of files.
                try:
                    taken = once(one, cache)
                except Crashed as reason:
                    cells[name] = {"crashed": str(reason)}
                    continue
                times[name] += [taken] if number else []
        for name, cell in cells.items():
            if "crashed" not in cell:
                cell["times"] = times[name]
    return Measured(cells, [])


def fma_peak(budget: Budget, group: Group) -> float:
    """What the machine does now in the group's dtype, in flop/s, in about the time of a turn."""
    return machine.fma_rate(group.dtype, seconds=budget.turn)


def limits(threads: int) -> dict[str, Any]:
    """What the machine does now: flop/s for each number of threads, bytes per second from each level of memory."""
    counts = sorted({1, threads})
    return {
        "fma": {str(count): machine.fma_rate(count=count, seconds=0.3) for count in counts},
        "copy": machine.copy_rates(threads, seconds=0.2),
    }


def start_of(threads: int, folder: Path) -> Callable[..., Worker]:
    """What starts a worker for `measure_starts`."""

    def start(name: str, cache: str) -> Worker:
        # Modules' bytecode is kept, as it is for installed packages, also where this environment says not to.
        bytecode = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
        return Worker(name, threads, folder, FASTCONV_CACHE_DIR=cache, **bytecode)

    return start
