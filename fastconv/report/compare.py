"""Two runs of the same machine, row by row: what changed beyond noise.

What no change of ours can have moved says what the machine did between two runs: the rows of peers of one version, and
the FMA peak, which had their turns in the same rounds as ours. In each group the median of their changes is the drift,
and times of the new run are divided by it. (The FMA peak alone is not enough: it stays where it is while other work on
the machine takes the caches and the memory.) How far peers stray from the drift of their own group is the noise of
these two runs, whatever its cause.

A change counts if both hold: the rows' quartile ranges, after the drift, do not overlap; and the ratio of medians is
outside of the noise band, which is the largest of LEAST, what 19 of 20 rows of peers keep to, and the sum of both rows'
quartile distances as shares of their medians. Of a hundred rows that nobody touched a few may still pass: that is what
a limit is for. Where there are too few peers to tell, the second is UNKNOWN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from fastconv.report.runs import KERNEL, LAYER, PEER, BadRun, Group, Row, Run

# Runs of one unchanged program differ by so much even when nothing disturbs them.
LEAST = 0.03

# The noise band where fewer than FEWEST rows of peers are in both runs.
UNKNOWN, FEWEST = 0.10, 20


@dataclass(frozen=True, slots=True)
class Change:
    """A row in two runs. ratio: its time now by that before, without the machine's drift; noise: the ratios from
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


@dataclass(frozen=True, slots=True)
class Drift:
    """What two runs differ by in what we did not change: by group, and `usual`, their median, for a group that has
    nothing to tell by. band: the noise; rows: how many rows of peers it is of."""

    groups: dict[str, float]
    usual: float
    band: float
    rows: int

    def of(self, group: str) -> float:
        """How many times as long things take in the new run."""
        return self.groups.get(group, self.usual)

    @property
    def sentence(self) -> str:
        """For the face of a comparison."""
        if self.rows < FEWEST:
            return f"noise: ± {100 * self.band:.0f} % assumed: {self.rows} rows of peers are too few to tell it by"
        return (
            f"noise: ± {100 * self.band:.0f} %, which 19 of 20 rows of peers keep to ({self.rows} rows); "
            f"the machine took {self.usual:.2f} times as long as before"
        )


def drift(old: Run, new: Run) -> Drift:
    """What the machine did between two runs."""
    versions = {name for name in old.peers.keys() & new.peers.keys() if old.peers[name] == new.peers[name]}
    known = {(row.group, row.name): row for row in old.rows}
    groups: dict[str, float] = {}
    strayed = []
    for name, group in new.groups.items():
        pairs = [(before, row) for row in group.rows if (before := _same_work(known, row)) and _both(before, row)]
        peers = [
            math.log(row.seconds / before.seconds)
            for before, row in pairs
            if row.role == PEER and row.runtime in versions
        ]
        peaks = [math.log(a.peak / b.peak) for a, b in pairs if a.peak == a.peak and b.peak == b.peak][:1]
        if not peers + peaks:
            continue
        groups[name] = math.exp(median(peers + peaks))
        for number, change in enumerate(peers):
            others = peers[:number] + peers[number + 1 :] + peaks
            if others:
                strayed.append(abs(change - median(others)))
    usual = median(groups.values()) if groups else 1.0
    if len(strayed) < FEWEST:
        return Drift(groups, usual, UNKNOWN, len(strayed))
    widest = sorted(strayed)[math.ceil(0.95 * len(strayed)) - 1]
    return Drift(groups, usual, max(LEAST, math.expm1(widest)), len(strayed))


def _both(before: Row, after: Row) -> bool:
    return before.valid and after.valid


def _same_work(known: dict[tuple[str, str], Row], row: Row) -> Row | None:
    """The row's former self, or None if there is none, or its case was of other sizes."""
    before = known.get((row.group, row.name))
    return before if before is not None and before.problem == row.problem else None


def changes(old: Run, new: Run, found: Drift | None = None) -> list[Change]:
    """Every row that is in one of the runs, in the new run's order, then those that are gone; where `auto` chooses
    another kernel for what has no layer, its choice as a row of its own.

    found: `drift` of the two. BadRun if the runs are of different machines or numbers of threads, whose times say
    nothing about each other.
    """
    for name in ("processor", "isa", "threads"):
        first, second = old.details.get(name), new.details.get(name)
        if first != second:
            raise BadRun(f"{old.path} and {new.path}: {name} {first!r} and {second!r}, which cannot be compared")
    found = found or drift(old, new)
    known = {(row.group, row.name): row for row in old.rows}
    rows = [_change(row.name, _same_work(known, row), row, found) for row in new.rows]
    for name, group in new.groups.items():
        if name in old.groups:
            rows += _choice(old.groups[name], group, found)
    kept = {(row.group, row.name) for row in new.rows}
    lost = [row for key, row in known.items() if key not in kept and row.valid]
    # A group that the new run did not measure at all is not gone: it was not asked for; nor were, in a quick run, the
    # kernels that are not chosen.
    lost = [row for row in lost if row.group in new.groups and not (new.quick and row.role == KERNEL)]
    return rows + [Change(row.group, row.name, "gone", row, None) for row in lost]


def _choice(old: Group, new: Group, found: Drift) -> Sequence[Change]:
    """The change from the kernel that `auto` chose to the one that it chooses now, where no layer's row has it."""
    before, after = old.own, new.own
    if before is None or after is None or before.name == after.name or before.problem != after.problem:
        return ()
    if KERNEL not in (before.role, after.role) or not _both(before, after):
        return ()
    return (_change(f"auto: {before.algorithm} → {after.algorithm}", before, after, found),)


def _change(name: str, before: Row | None, after: Row, found: Drift) -> Change:
    if after.failure and not (before is not None and before.failure):
        return Change(after.group, name, "fails", before, after)
    if before is None:
        return Change(after.group, name, "new" if after.valid else "same", before, after)
    if not _both(before, after):
        kind = "gone" if before.valid else "same" if not after.valid else "mended" if before.failure else "new"
        return Change(after.group, name, kind, before, after)
    pace = found.of(after.group)
    ratio = after.seconds / pace / before.seconds
    noise = max(found.band, before.spread + after.spread)
    apart = after.low / pace > before.high or after.high / pace < before.low
    beyond = not 1 / (1 + noise) <= ratio <= 1 + noise
    kind = ("slower" if ratio > 1 else "faster") if apart and beyond else "same"
    return Change(after.group, name, kind, before, after, ratio, noise)
