"""One runtime in a process of its own: reads a JSON line, does what it says, answers with a JSON line.

    python -m bench.peers.worker RUNTIME THREADS

{"do": "hello"} -> version, threads; {"do": "build", "folder"} -> nothing, or cannot: the reason;
{"do": "turn", "discard", "calls", "repeat"} -> seconds, a list of `calls` times of one call,
processors (how many were busy), settled, settling;
{"do": "outputs", "file"} -> kernel, and the last call's outputs in an .npz. Between commands it sleeps on its pipe.

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

from bench.peers.work import Prepared, Unsupported


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
    """The work that is prepared now, and its last outputs."""

    def __init__(self, runtime: str, count: int) -> None:
        self.module = importlib.import_module(f"bench.peers.runtimes.{runtime}")
        self.threads = self.module.threads(count)
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        self.prepared: Prepared | None = None
        self.last: Any = None

    def hello(self) -> dict[str, Any]:
        return {"version": self.module.version(), "threads": self.threads}

    def build(self, folder: str) -> dict[str, Any]:
        # The former work's memory goes first: of large networks there is not room for two.
        self.prepared = self.last = None
        if self.folder is not None:
            self.folder.cleanup()
        self.folder = tempfile.TemporaryDirectory()
        place = Path(folder)
        work = json.loads((place / "work.json").read_text(encoding="utf-8"))
        with np.load(place / "arrays.npz") as file:
            arrays = {name: file[name] for name in file.files}
        try:
            self.prepared = self.module.build(work, arrays, self.folder.name)
        except Unsupported as reason:
            return {"cannot": str(reason)}
        return {}

    def turn(self, discard: int, calls: int, repeat: int = 1) -> dict[str, Any]:
        call, clock = self.prepared.call, time.perf_counter
        begun, used = clock(), time.process_time()
        for _ in range(discard):
            self.last = call()
        seconds = []
        for _ in range(calls):
            if repeat == 1:
                start = clock()
                self.last = call()
                seconds.append(clock() - start)
            else:
                # Shorter than the clock can tell: many calls are one time.
                start = clock()
                for _ in range(repeat):
                    call()
                seconds.append((clock() - start) / repeat)
        if repeat > 1:
            self.last = call()
        # How many processors worked, on average: a runtime's word on its threads is not always to be had.
        busy = (time.process_time() - used) / (clock() - begun)
        return {"seconds": seconds, "processors": busy, **settle()}

    def outputs(self, file: str) -> dict[str, Any]:
        np.savez(file, *self.prepared.read(self.last))
        return {"kernel": self.prepared.kernel()}


def main() -> None:
    runtime, count = sys.argv[1], int(sys.argv[2])
    # Runtimes print to stdout: that goes to stderr, and the answers to where stdout was.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # As many processors as threads: JAX takes its threads from this, and has no other setting.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    session = Session(runtime, count)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(session, command.pop("do"))(**command)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
