"""Connectionist temporal classification: labels without places in time. Source: torch.nn.CTCLoss; Graves et al. 2006.

A path gives every step a class, and B(path), which drops repetitions and then blanks, the labels that it means. The
loss is −log of the probability of all paths that mean the target. They are summed by forward and backward variables
over the extended target ∅ l₁ ∅ l₂ … ∅, in log space and float64, all of a batch at each step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

from fastconv.autograd import Array, Variable, array, is_array, record
from fastconv.device import is_cupy, name_of
from fastconv.nn.checks import check_classes, one_of, real, whole
from fastconv.nn.module import Module
from fastconv.problem import boolean

T = TypeVar("T")

REDUCTIONS = ("none", "mean", "sum")


def _batched(log_probs: Any) -> Array:
    """The array of log_probs as (T, N, C)."""
    a = real("log_probs", log_probs)
    if is_cupy(a):
        raise TypeError(f"log_probs: is on {name_of(a)}, needs an array on the CPU")
    if a.ndim not in (2, 3) or not a.shape[-1]:
        raise ValueError(f"log_probs={a.shape}: needs shape (T, N, C) or (T, C), at least one class")
    return a if a.ndim == 3 else a[:, None]


def _blank(blank: Any, classes: int) -> int:
    number = whole("blank", blank)
    if not 0 <= number < classes:
        raise ValueError(f"blank={blank!r}: needs a class from 0 to {classes - 1}")
    return number


def _lengths(name: str, values: Any, batch: int, most: int) -> Array:
    """`values`, one int a sequence as list, array or Tensor, or one int for a batch of one, as int64 (N,)."""
    given = array(values) if isinstance(values, Variable) or is_array(values) else np.array(values)
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(f"{name}={values!r:.60}: needs ints, got dtype {given.dtype}")
    if given.ndim > 1 or given.size != batch:
        raise ValueError(f"{name}={values!r:.60}: needs {batch} ints, one a sequence, got shape {given.shape}")
    wrong = given[(given < 0) | (given > most)]
    if wrong.size:
        raise ValueError(f"{name}={values!r:.60}: needs 0 to {most}, got {wrong[0]}")
    return given.reshape(batch).astype(np.int64)


def _labels(targets: Any, target_lengths: Any, batch: int, classes: int, blank: int) -> tuple[Array, Array]:
    """Targets of either form as (N, S) with blanks after their ends, and their lengths (N,)."""
    t = array(targets, "targets")
    if t.size and t.dtype.kind not in "iu":
        raise TypeError(f"targets: dtype {t.dtype} is not supported, needs an integer dtype")
    if t.ndim not in (1, 2) or (t.ndim == 2 and len(t) != batch):
        raise ValueError(f"targets={t.shape}: needs shape ({batch}, S), or one dimension for all targets joined")
    lengths = _lengths("target_lengths", target_lengths, batch, t.shape[-1])
    if t.ndim == 1 and lengths.sum() != len(t):
        raise ValueError(f"targets={t.shape}: needs {lengths.sum()} labels, the sum of target_lengths")
    longest = int(lengths.max(initial=0))
    used = np.arange(longest) < lengths[:, None]
    labels = np.full(used.shape, blank, np.int64)
    labels[used] = t if t.ndim == 1 else t[:, :longest][used]
    check_classes("targets", labels[used], classes)
    if (labels[used] == blank).any():
        raise ValueError(f"targets: label {blank} is not allowed, it is the blank")
    return labels, lengths


def _log_sum(a: Array, b: Array, c: Array) -> Array:
    """log(eᵃ + eᵇ + eᶜ), −inf for three of them; NaN travels."""
    top = np.maximum(np.maximum(a, b), c)
    # −inf less −inf would be NaN.
    top = np.where(top == -np.inf, 0, top)
    total: Array = top + np.log(np.exp(a - top) + np.exp(b - top) + np.exp(c - top))
    return total


class _Lattice:
    """All paths of a batch that mean its targets: places are those of the extended targets (N, P), P = 2S + 1."""

    def __init__(self, x: Array, labels: Array, lengths: Array, steps: Array, blank: int) -> None:
        total, batch, _ = x.shape
        self.lengths, self.steps = lengths, steps
        self.classes = np.full((batch, 2 * labels.shape[1] + 1), blank, np.int64)
        self.classes[:, 1::2] = labels
        self.places = self.classes.shape[1]
        # What a path's log probability gets for a step from two places before: nothing, or −inf where that place is
        # the same label, whose repetition without a blank would mean it once, or where it is a blank.
        self.skip = np.full(self.classes.shape, -np.inf)
        self.skip[:, 3::2][labels[:, 1:] != labels[:, :-1]] = 0
        self.logp = np.take_along_axis(x, self.classes[None], axis=2).astype(np.float64)
        # Two places that no path comes from stand before the others.
        self.forward = np.full((total, batch, self.places + 2), -np.inf)
        if total:
            self.forward[0, :, 2:4] = self.logp[0, :, :2]
        for t in range(1, total):
            before = self.forward[t - 1]
            self.forward[t, :, 2:] = self.logp[t] + _log_sum(before[:, 2:], before[:, 1:-1], before[:, :-2] + self.skip)

    def ends(self) -> Array:
        """0 at the places where a path may end, the last label and the blank after it, else −inf: (N, P)."""
        last = 2 * self.lengths[:, None]
        place = np.arange(self.places)
        return np.where((place == last) | (place == last - 1), 0, -np.inf)

    def loss(self) -> Array:
        """−log of the probability of all paths, (N,)."""
        # No step means no label.
        result = np.where(self.lengths == 0, 0, np.inf)
        some = np.flatnonzero(self.steps > 0)
        last = self.forward[self.steps[some] - 1, some, 2:]
        place = 2 * self.lengths[some, None]
        blank, label = (np.take_along_axis(last, np.maximum(place - i, 0), axis=1)[:, 0] for i in (0, 1))
        # A target without labels has one place.
        label = np.where(place[:, 0] > 0, label, -np.inf)
        result[some] = -np.logaddexp(blank, label)
        return result

    def occupancy(self, loss: Array, classes: int) -> Iterator[tuple[int, Array]]:
        """(t, how likely a path of the target is at each class then, (N, C)), from the last step to the first."""
        total, batch, _ = self.logp.shape
        ends = self.ends()
        into = (np.arange(batch)[:, None] * classes + self.classes).ravel()
        # Log probability of what follows a place; two places that no path leads to stand after the others.
        following = np.full((batch, self.places + 2), -np.inf)
        skip = np.full((batch, self.places), -np.inf)
        skip[:, :-2] = self.skip[:, 2:]
        for t in range(total - 1, -1, -1):
            backward = _log_sum(following[:, :-2], following[:, 1:-1], following[:, 2:] + skip)
            backward = np.where((self.steps == t + 1)[:, None], ends, backward)
            share = np.exp(self.forward[t, :, 2:] + backward + loss[:, None])
            yield t, np.bincount(into, share.ravel(), batch * classes).reshape(batch, classes)
            following[:, :-2] = backward + self.logp[t]


def ctc_loss(
    log_probs: T,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> T:
    """−log of the probability that log_probs give each target; (N,), their sum, or the mean of loss / target length.

    log_probs (T, N, C), or (T, C) for one sequence, float32 or float64: logarithms of probabilities, as log_softmax
    gives them. targets: (N, S), padded with anything, or all targets joined, (Σ target_lengths,); classes, none of
    them the blank. input_lengths and target_lengths: N ints, as list, array or Tensor. "mean" divides each loss by its
    target's length, or 1, and then takes the mean. A target that no path means, being too long, costs inf, or 0 if
    zero_infinity.

    The gradient is torch's: e^log_probs less the probability, given the target, of being at the class. This is that of
    log_softmax's *input*, which log_softmax leaves as it is; for other log_probs it is not the derivative, which lacks
    the first term. It is NaN for a loss of inf, and 0 for zero_infinity and beyond input_lengths. Where log_probs is
    −inf it is 0 (torch: NaN). Source: Graves et al. 2006; torch.nn.functional.ctc_loss.
    """
    one_of("reduction", reduction, REDUCTIONS)
    x = _batched(log_probs)
    total, batch, classes = x.shape
    number, forgiving = _blank(blank, classes), boolean("zero_infinity", zero_infinity)
    steps = _lengths("input_lengths", input_lengths, batch, total)
    labels, lengths = _labels(targets, target_lengths, batch, classes, number)
    # log 0 is the −inf of places that no path reaches.
    with np.errstate(all="ignore"):
        lattice = _Lattice(x, labels, lengths, steps, number)
        loss = lattice.loss()
    endless = np.isinf(loss)
    losses = np.where(endless, 0, loss) if forgiving else loss
    scale = 1 / (np.maximum(lengths, 1) * max(batch, 1)) if reduction == "mean" else np.ones(batch)
    y = losses
    if reduction != "none":
        # The mean of no sequences is NaN, as NumPy's and torch's are.
        y = np.asarray((losses * scale).sum() if batch or reduction == "sum" else np.nan)
    elif array(log_probs).ndim == 2:
        y = y.reshape(())
    shape, dtype = array(log_probs).shape, x.dtype

    def gradient(g: Array) -> Array:
        gx = np.empty(x.shape, dtype)
        # NaN and inf travel, and a float32 gradient of nothing may vanish.
        with np.errstate(all="ignore"):
            for t, share in lattice.occupancy(loss, classes):
                gx[t] = np.exp(x[t]) - share
            gx[:, ~np.isfinite(loss)] = np.nan
            gx *= (g * scale).astype(dtype).reshape(batch, 1)
        if forgiving:
            gx[:, endless] = 0
        gx[np.arange(total)[:, None] >= steps] = 0
        return gx.reshape(shape)

    y = y.astype(dtype)
    return record(log_probs, y if y.ndim else y[()], (log_probs, gradient, log_probs, lattice.forward))


def ctc_greedy_decode(log_probs: Any, input_lengths: Any = None, blank: int = 0) -> list[list[int]]:
    """B of the likeliest path of each sequence: the best class of every step, repetitions and then blanks dropped.

    log_probs (T, N, C), or (T, C) for one sequence, an array or Tensor; input_lengths: N ints, None for T.
    One list of classes a sequence. Source: Graves et al. 2006, best path decoding.
    """
    x = _batched(log_probs)
    total, batch, classes = x.shape
    number = _blank(blank, classes)
    steps = np.full(batch, total) if input_lengths is None else _lengths("input_lengths", input_lengths, batch, total)
    best = x.argmax(axis=2)
    new = np.ones(best.shape, bool)
    new[1:] = best[1:] != best[:-1]
    kept = new & (best != number) & (np.arange(total)[:, None] < steps)
    return [best[kept[:, n], n].tolist() for n in range(batch)]


class CTCLoss(Module):
    """−log of the probability that log_probs (T, N, C) or (T, C) give the targets. See nn.functional.ctc_loss.

    blank: the class that means no label. reduction: "mean", "sum" or "none". zero_infinity: whether targets that are
    too long for their input cost nothing instead of inf.
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__()
        self.blank = whole("blank", blank)
        self.reduction = one_of("reduction", reduction, REDUCTIONS)
        self.zero_infinity = boolean("zero_infinity", zero_infinity)

    def forward(self, log_probs: T, targets: Any, input_lengths: Any, target_lengths: Any) -> T:
        options = (self.blank, self.reduction, self.zero_infinity)
        return ctc_loss(log_probs, targets, input_lengths, target_lengths, *options)
