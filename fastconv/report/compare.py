"""Two runs of the same machine, row by row: what changed beyond noise.

Machines drift, so times of different runs are not compared as they are: each run's times count in units of its machine,
whose speed is the geometric mean of what its FMA peak and its copies in memory did. A change counts if both hold:
the rows' quartile ranges, in those units, do not overlap; and the ratio of medians is outside of the noise band, which
is the sum of both rows' quartile distances as shares of their medians, at least LEAST, and by how much the machine's
limits moved relative to each other from one run to the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastconv.report.runs import KERNEL, LAYER, BadRun, Row, Run, geometric_mean

# Runs of one unchanged program differ by so much even when nothing disturbs them.
LEAST = 0.03


@dataclass(frozen=True, slots=True)
class Change:
    """A row in two runs. ratio: its time now by that before, both in units of their machine; noise: the ratios from
    1/(1 + noise) to 1 + noise say nothing. kind: "faster", "slower", "same", "new", "gone", "fails", "mended"."""

    group: str
    name: str
    kind: str
    before: Row | None
    after: Row | None
    ratio: float = math.nan
    noise: float = math.nan

    def regression(self, limit: float) -> bool:
        """Whether a row of ours is FAIL or missing now, or slower beyond noise and by more than `limit`."""
        row = self.after or self.before
        if row is None or row.role not in (KERNEL, LAYER):
            return False
        return self.kind in ("fails", "gone") or (self.kind == "slower" and self.ratio > limit)


def speeds(old: Run, new: Run) -> tuple[float, float]:
    """(how many times as fast the machine is in the new run, by how much its limits disagree on that)."""
    before, after = old.ceiling, new.ceiling
    shared = [
        after[name] / before[name] for name in before if name in after and name.startswith(("FMA", "copy in mem"))
    ]
    mean = geometric_mean(shared) or 1.0
    return mean, max((abs(math.log(ratio / mean)) for ratio in shared), default=0.0)


def changes(old: Run, new: Run) -> list[Change]:
    """Every row that is in one of the runs, in the new run's order, then those that are gone.

    BadRun if the runs are of different machines or numbers of threads, whose times say nothing about each other.
    """
    for name in ("processor", "isa", "threads"):
        first, second = old.details.get(name), new.details.get(name)
        if first != second:
            raise BadRun(f"{old.path} and {new.path}: {name} {first!r} and {second!r}, which cannot be compared")
    speed, disagreement = speeds(old, new)
    known = {(row.group, row.name): row for row in old.rows}
    found = []
    for row in new.rows:
        before = known.pop((row.group, row.name), None)
        found.append(_change(before, row, speed, disagreement))
    # A group that the new run did not measure at all is not gone: it was not asked for.
    groups = {row.group for row in new.rows}
    found += [Change(row.group, row.name, "gone", row, None) for row in known.values() if row.group in groups]
    return found


def _change(before: Row | None, after: Row, speed: float, disagreement: float) -> Change:
    names = (after.group, after.name)
    if after.failure and not (before is not None and before.failure):
        return Change(*names, "fails", before, after)
    if before is None:
        return Change(*names, "new", before, after)
    if before.failure and not after.failure:
        return Change(*names, "mended", before, after)
    if not before.valid or not after.valid:
        kind = "gone" if before.valid else "new" if after.valid else "same"
        return Change(*names, kind, before, after)
    ratio = after.seconds * speed / before.seconds
    noise = max(LEAST, before.spread + after.spread, disagreement)
    apart = after.low * speed > before.high or after.high * speed < before.low
    beyond = not 1 / (1 + noise) <= ratio <= 1 + noise
    kind = ("slower" if ratio > 1 else "faster") if apart and beyond else "same"
    return Change(*names, kind, before, after, ratio, noise)
