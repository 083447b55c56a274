"""What was measured of kernels on this CPU, remembered in memory and, between processes, on disk.

A record is a key and numbers by kernel name: of a problem the seconds that each kernel took (None: left out, hopelessly
slow), of a tuning the factors of the model. The file lies in the cache's folder, so it is private and of one CPU and
one set of kernel sources. It is lines of JSON that are only ever appended, each in one write: processes lose nothing
of each other's, a later line adds to an earlier one of its key, and a line that is damaged is passed over.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from threading import RLock
from typing import Any, TypeAlias

from fastconv import cache
from fastconv.problem import Problem

Record: TypeAlias = Mapping[str, float | None]

_lock = RLock()
_known: dict[str, dict[str, float | None]] = {}
# How far the file has been read.
_read = 0

# Held while kernels are measured: two threads that measure at once would measure each other.
measuring = RLock()


def _after_fork() -> None:
    """The thread that held a lock may not be in the child."""
    global _lock, measuring
    _lock, measuring = RLock(), RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def problem_key(op: str, problem: Problem, threads: int, kept: bool) -> str:
    """The key of what kernels took for a problem, with prepared weights if these are kept."""
    return f"{op} {problem!r} threads={threads} kept={kept}"


def tuning_key(threads: int) -> str:
    """The key of the model's factors."""
    return f"tuning threads={threads}"


def path() -> Path | None:
    """The file, or None if there is no safe place for it."""
    folder = cache.folder()
    return None if folder is None else folder / "choices.jsonl"


def recall(key: str) -> Record:
    """What is known under `key`, by this process or any other; nothing is an empty record."""
    with _lock:
        _refresh()
        return dict(_known.get(key, {}))


def remember(key: str, record: Record) -> None:
    """Add to what is known under `key`, here and, if there is a safe place, on disk."""
    with _lock:
        _known.setdefault(key, {}).update(record)
    place = path()
    if place is None:
        return
    # The first line break ends a line that another process, killed meanwhile, may have left half written.
    line = "\n" + json.dumps({"key": key, "record": dict(record)}) + "\n"
    try:
        file = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)
    except OSError:
        # A full disk, or a folder that was pruned: it stays in memory.
        return


def _refresh() -> None:
    """Read what was appended since the last time."""
    global _read
    place = path()
    try:
        size = 0 if place is None else place.stat().st_size
        if place is None or size == _read:
            return
        start = _read if size > _read else 0
        with open(place, "rb") as file:
            file.seek(start)
            # Another process may be writing its line just now: what follows the last line break is for the next time.
            text = file.read()
            text = text[: text.rfind(b"\n") + 1]
    except OSError:
        return
    for line in text.splitlines():
        record = _parsed(line)
        if record is not None:
            _known.setdefault(record[0], {}).update(record[1])
    _read = start + len(text)


def _parsed(line: bytes) -> tuple[str, dict[str, float | None]] | None:
    """A line's key and record, or None if it is not what `remember` writes."""
    try:
        entry: Any = json.loads(line)
        key, record = entry["key"], entry["record"]
        numbers = {name: None if number is None else float(number) for name, number in record.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    sound = isinstance(key, str) and all(number is None or 0 < number < math.inf for number in numbers.values())
    return (key, numbers) if sound else None
