"""Where compiled kernels are kept between processes.

One folder per version of the library and of Numba, kernel sources and CPU: a changed line in any kernel file, or
another CPU, compiles afresh. Numba's cache entries are pickles, so the folder must belong to the user and be closed to
everyone else.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

KEPT_FOLDERS = 4
KEPT_BYTES = 512 * 2**20

# Only folders of this name that hold this file are ever removed: the place around them may be the user's own.
_PREFIX, _MARK = "kernels-", ".made-by-fastconv"


def root() -> Path:
    """$FASTCONV_CACHE_DIR, or fastconv in $XDG_CACHE_HOME, or ~/.cache/fastconv."""
    chosen = os.environ.get("FASTCONV_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "fastconv"


@lru_cache(maxsize=1)
def source_stamp() -> str:
    """A hash over every CPU kernel source: a change in one file may change what another compiles to."""
    from fastconv.kernels import cpu

    digest = hashlib.sha256()
    for folder in sorted(cpu.__path__):
        for path in sorted(Path(folder).glob("*.py")):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1)
def folder() -> Path | None:
    """This process's cache folder, made private to the user, or None if no safe place can be had."""
    from fastconv.kernels.cpu.host import CPU_NAME, FEATURES

    cpu = hashlib.sha256(" ".join([CPU_NAME, *sorted(FEATURES)]).encode()).hexdigest()[:8]
    made_by = f"{version('fastconv')}-numba{version('numba')}"
    place = root() / f"{_PREFIX}{made_by}-{source_stamp()}-{CPU_NAME}-{cpu}"
    try:
        # The mode of makedirs holds for the last folder only, and a usual umask would leave the root open to a group.
        place.parent.parent.mkdir(parents=True, exist_ok=True)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
        if not all(_private(path) for path in (place.parent, place)) or not os.access(place, os.W_OK):
            return None
        (place / _MARK).touch()
        os.utime(place)
    except OSError:
        return None
    prune(place)
    return place


def _private(path: Path) -> bool:
    """Whether only this user can write to `path`."""
    if os.name != "posix":
        return True
    status = path.stat()
    return status.st_uid == os.getuid() and not stat.S_IMODE(status.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)


def size(place: Path) -> int:
    """Bytes of the files in `place`, subfolders included."""
    total = 0
    for base, _, names in os.walk(place):
        for name in names:
            try:
                total += os.stat(os.path.join(base, name)).st_size
            except FileNotFoundError:
                # Another process pruned it between the listing and now.
                continue
    return total


def prune(current: Path) -> None:
    """Remove the folders longest unused, beyond KEPT_FOLDERS or KEPT_BYTES; never `current`, nor what is not ours."""
    others = []
    for path in current.parent.glob(f"{_PREFIX}*"):
        try:
            if path != current and (path / _MARK).is_file():
                others.append((path.stat().st_mtime, path))
        except OSError:
            # Another process removed it meanwhile.
            continue
    used = size(current)
    for place, (_, path) in enumerate(sorted(others, reverse=True), start=1):
        used += size(path)
        if place >= KEPT_FOLDERS or used > KEPT_BYTES:
            shutil.rmtree(path, ignore_errors=True)
