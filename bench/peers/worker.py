"""One runtime in a process of its own: reads a JSON line, does what it says, answers with a JSON line.

Started by `driver.Worker` with the arguments RUNTIME THREADS.

{"do": "hello"} -> version, threads; {"do": "clear"} forgets all that was built; {"do": "build", "folder", "slot",
"options"} -> nothing, or cannot: the reason; {"do": "turn", "slot", "discard", "calls", "repeat", "poison"} -> seconds,
a list of `calls` times of one call, processors (how many were busy), settled, settling; {"do": "outputs", "slot",
"file"} -> kernel, and the last call's outputs in an .npz. Between commands it sleeps on its pipe.

Any exception but Unsupported ends the process, with the traceback on stderr: the driver shows it and goes on.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from .work import Arrays, Prepared, Unsupported


def settle(longest: float = 1.0) -> dict[str, Any]:
    """Wait until this process uses no processor time any more, `longest` seconds at most: whether, and how long.

    Thread pools spin for a while after work. They do it here, in the worker's own turn, so that no runtime needs
    other settings than its users have, and none disturbs the next.
    """
    start, settled = time.perf_counter(), False
    while not settled and time.perf_counter() - start < longest:
        before = time.process_time()
        time.sleep(0.003)
        settled = time.process_time() - before < 0.0005
    return {"settled": settled, "settling": time.perf_counter() - start}


class Session:
    """What is prepared now, by slot, and its last outputs."""

    def __init__(self, runtime: str, count: int) -> None:
        self.module = importlib.import_module(f".runtimes.{runtime}", __package__)
        self.threads = self.module.threads(count)
        self.folders: list[tempfile.TemporaryDirectory[str]] = []
        self.prepared: dict[str, Prepared] = {}
        self.last: dict[str, Any] = {}
        self.read: tuple[str, dict[str, Any], Arrays] | None = None

    def hello(self) -> dict[str, Any]:
        return {"version": self.module.version(), "threads": self.threads}

    def clear(self) -> dict[str, Any]:
        # Of large networks there is not room for two.
        self.prepared, self.last, self.read = {}, {}, None
        for folder in self.folders:
            folder.cleanup()
        self.folders = []
        return {}

    def given(self, folder: str) -> tuple[dict[str, Any], Arrays]:
        """The work and arrays in a folder, read once for all slots."""
        if self.read is None or self.read[0] != folder:
            place = Path(folder)
            with np.load(place / "arrays.npz") as file:
                arrays = {name: file[name] for name in file.files}
            self.read = folder, json.loads((place / "work.json").read_text(encoding="utf-8")), arrays
        return self.read[1:]

    def build(self, folder: str, slot: str = "", options: dict[str, Any] | None = None) -> dict[str, Any]:
        work, arrays = self.given(folder)
        self.folders.append(tempfile.TemporaryDirectory())
        try:
            self.prepared[slot] = self.module.build(work, arrays, self.folders[-1].name, **(options or {}))
        except Unsupported as reason:
            return {"cannot": str(reason)}
        return {}

    def turn(self, discard: int, calls: int, repeat: int = 1, slot: str = "", poison: bool = False) -> dict[str, Any]:
        prepared, clock = self.prepared[slot], time.perf_counter
        call, last = prepared.call, None
        begun, used = clock(), time.process_time()
        for _ in range(discard):
            last = call()
        seconds = []
        for number in range(calls):
            if poison and number == calls - 1:
                prepared.poison()
            if prepared.timed is not None:
                taken, last = prepared.timed(repeat)
                seconds.append(taken / repeat)
            elif repeat == 1:
                start = clock()
                last = call()
                seconds.append(clock() - start)
            else:
                # Shorter than the clock can tell: many calls are one time.
                start = clock()
                for _ in range(repeat):
                    call()
                seconds.append((clock() - start) / repeat)
        self.last[slot] = call() if repeat > 1 else last
        # How many processors worked, on average: a runtime's word on its threads is not always to be had.
        busy = (time.process_time() - used) / (clock() - begun)
        return {"seconds": seconds, "processors": busy, **settle()}

    def outputs(self, file: str, slot: str = "") -> dict[str, Any]:
        np.savez(file, *self.prepared[slot].read(self.last[slot]))
        return {"kernel": self.prepared[slot].kernel()}


def main(runtime: str, count: int) -> None:
    # Runtimes print to stdout: that goes to stderr, and the answers to where stdout was.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # As many processors as threads: JAX takes its threads from this, and has no other setting.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    session = Session(runtime, count)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(session, command.pop("do"))(**command)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
