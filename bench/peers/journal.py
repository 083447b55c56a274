"""What a run has measured so far, a line for each group: a run that is killed loses nothing, and --resume goes on.

The first line of the file says what the run is of. Lines are only ever appended, and one that
was cut short is not read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .driver import Measured


class CannotResume(ValueError):  # noqa: N818 - what happened
    """The file is of another run; the message says what differs."""


class Journal:
    """The file of one run. head: what must be the same for measurements to stand side by side."""

    def __init__(self, path: Path, head: dict[str, Any], resume: bool = False) -> None:
        self.path = path
        self.groups: dict[str, Measured] = {}
        # The machine's limits at the start and the end of each sitting, and the peers' versions.
        self.limits: list[dict[str, Any]] = []
        self.about: dict[str, str] = {}
        if resume and path.exists():
            self._read(head)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"head": head}) + "\n", encoding="utf-8")

    def _read(self, head: dict[str, Any]) -> None:
        text = self.path.read_text(encoding="utf-8")
        whole = text.rpartition("\n")[0]
        lines = []
        for number, line in enumerate(whole.split("\n"), 1):
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise CannotResume(f"{self.path}: line {number} is damaged: {error}") from error
        if not lines or not isinstance(lines[0], dict) or "head" not in lines[0]:
            raise CannotResume(f"{self.path}: is no journal of a run")
        before = lines[0]["head"]
        for name in head:
            if before.get(name) != head[name]:
                raise CannotResume(
                    f"{self.path}: was measured with {name} {before.get(name)!r}, and this run has {head[name]!r}; "
                    "measure again without --resume"
                )
        for line in lines[1:]:
            if "group" in line:
                self.groups[line["group"]] = Measured(line["cells"], line["peaks"])
            self.limits += [line["limits"]] if "limits" in line else []
            self.about |= line.get("about", {})
        if whole + "\n" != text:
            # Else the next line would be joined to the one that was cut short.
            os.truncate(self.path, len((whole + "\n").encode()))

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def add(self, group: str, measured: Measured, about: dict[str, str]) -> None:
        """Keep what was measured of a group."""
        self.groups[group], self.about = measured, self.about | about
        self._append({"group": group, "cells": measured.cells, "peaks": measured.peaks, "about": about})

    def add_limits(self, limits: dict[str, Any]) -> None:
        """Keep the machine's limits of now."""
        self.limits.append(limits)
        self._append({"limits": limits})
