"""fastconv.testing for recurrent problems: random inputs, and the oracle's results laid out as kernels give them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastconv import reference_rnn
from fastconv.functional import Array
from fastconv.problem import SAVED, RecurrentProblem
from fastconv.registry import OPS


def shapes(p: RecurrentProblem) -> dict[str, tuple[int, ...]]:
    """The shape of every input that a recurrent operation may have, in the order in which `inputs` draws them."""
    found = dict(zip(("w_ih", "w_hh", "b_ih"), p.weight_shapes, strict=True))
    found["b_hh"] = found["b_ih"]
    found |= {"x": p.input_shape, "gy": p.output_shape, "h0": p.state_shape if p.state else (0,)}
    found |= {"ghn": p.state_shape, "p": (p.directions, 3 * p.h) if p.peephole else (0,)}
    found["c0"] = found["h0"] if p.cell == "lstm" else (0,)
    found["gcn"] = p.state_shape if p.cell == "lstm" else (0,)
    return found | {"lengths": (p.b if p.ragged else 0,), "saved": p.saved_shape}


def inputs(op: str, p: RecurrentProblem, generator: np.random.Generator) -> tuple[Array, ...]:
    """Random inputs of `op`: standard normal, weights so small that sums are of the order of 1, lengths from 0 to t."""
    found: dict[str, Array] = {}
    # A state that is not among the inputs of the way back is there all the same: what was saved is made with it.
    for name, shape in shapes(p).items():
        if name == "lengths":
            found[name] = generator.integers(0, p.t + 1, shape)
        elif name != "saved":
            weights = name[0] in "wbp"
            values = generator.standard_normal(shape) / (math.sqrt(max(p.i, p.h)) if weights else 1)
            found[name] = values.astype(p.dtype)
    if "saved" in OPS[op].inputs:
        found["saved"] = saved(p, found).astype(p.dtype)
    return tuple(found[name] for name in OPS[op].inputs)


def _of_direction(p: RecurrentProblem, given: dict[str, Array], d: int) -> tuple[Any, tuple[Any, ...]]:
    """The cell of direction d, and the arguments of reference_rnn's passes."""
    peephole = given["p"][d] if p.peephole else None
    cell: Any = reference_rnn.Gru()
    if p.cell != "gru":
        cell = reference_rnn.Lstm(peephole, p.linear) if p.cell == "lstm" else reference_rnn.Rnn(p.relu)
    x = given["x"].swapaxes(0, 1) if p.batch_first else given["x"]
    biases = [given[name][d] if p.bias else None for name in ("b_ih", "b_hh")]
    states = [given[name][d] if given[name].size else None for name in ("h0", "c0")]
    lengths = given["lengths"] if p.ragged else None
    return cell, (x, given["w_ih"][d], given["w_hh"][d], *biases, *states, lengths, bool(d))


def saved(p: RecurrentProblem, given: dict[str, Array]) -> Array:
    """What the forward pass saves, in float64; see kernels/cpu/rnn_cells.py."""
    result = np.zeros((p.directions, p.t, p.b, SAVED[p.cell], p.h))
    for d in range(p.directions):
        cell, arguments = _of_direction(p, given, d)

        def keep(rows: Array, times: Array, before: Array, step: Any, d: int = d) -> None:
            if p.cell == "lstm":
                i, f, g, o, c, _, s = step
                parts = (i, f, g, o, c, s, before)
            else:
                parts = (*step[:4], before) if p.cell == "gru" else (step[0], before)
            for k, part in enumerate(parts):
                result[d, times, rows, k] = part

        reference_rnn.forward(cell, *arguments, keep=keep)
    if p.batch_first:
        result = result.swapaxes(1, 2)
    return np.ascontiguousarray(result).reshape(p.saved_shape)


def expected(op: str, p: RecurrentProblem, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """The outputs of `op` in float64, by fastconv.reference_rnn.

    Of the way back only with what `inputs` of the same problem has as states and biases: they are in `saved`.
    """
    given = dict(zip(OPS[op].inputs, arrays, strict=True))
    none = np.empty(0)
    if op.endswith("grad"):
        return _gradients(p, given)
    results = [reference_rnn.forward(*_flat(_of_direction(p, given, d))) for d in range(p.directions)]
    y = np.concatenate([y for y, _, _ in results], axis=2)
    y = y.swapaxes(0, 1) if p.batch_first else y
    cn = np.stack([c for _, _, c in results]) if p.cell == "lstm" else none
    out = (y, np.stack([h for _, h, _ in results]), cn)
    return (*out, saved(p, given)) if op.endswith("train") else out


def _flat(pair: tuple[Any, tuple[Any, ...]]) -> tuple[Any, ...]:
    return (pair[0], *pair[1])


def _gradients(p: RecurrentProblem, given: dict[str, Array]) -> tuple[Array, ...]:
    kept = given["saved"].reshape(p.directions, *p.input_shape[:2], SAVED[p.cell], p.h)
    if p.batch_first:
        kept = kept.swapaxes(1, 2)
    gy = given["gy"].swapaxes(0, 1) if p.batch_first else given["gy"]
    lstm = p.cell == "lstm"
    found: list[dict[str, Array]] = []
    # What was saved holds all that biases and states did.
    blank = {name: np.empty(0) for name in ("h0", "c0")} | dict.fromkeys(("b_ih", "b_hh"), given["w_ih"][..., 0])
    for d in range(p.directions):
        cell, arguments = _of_direction(
            p, {**given, **blank, "b_ih": given["w_ih"][..., 0], "b_hh": given["w_ih"][..., 0]}, d
        )
        tape = _tape(p, kept[d].astype(np.float64), arguments[0].shape, arguments[7], bool(d))
        part = gy[..., d * p.h : (d + 1) * p.h]
        gcn = given["gcn"][d] if lstm else None
        found.append(reference_rnn.backward_over(cell, tape, part, given["ghn"][d], gcn, *arguments[:3]))
    gx = sum(each["gx"] for each in found)
    stacked = {name: np.stack([each[name] for each in found]) for name in found[0] if name != "gx"}
    none = np.empty(0)
    biases = [stacked["gb_ih"], stacked["gb_hh"]] if p.bias else [none, none]
    states = [stacked["gh0"] if p.state else none, stacked["gc0"] if p.state and lstm else none]
    peepholes = stacked["gp"] if p.peephole else none
    gx = gx.swapaxes(0, 1) if p.batch_first else gx  # type: ignore[union-attr]
    return (gx, stacked["gw_ih"], stacked["gw_hh"], *biases, peepholes, *states)


def _tape(p: RecurrentProblem, kept: Array, shape: Any, lengths: Any, reverse: bool) -> list[Any]:
    """The steps as reference_rnn keeps them, from what was saved."""
    tape = []
    for rows, times in reference_rnn.steps(shape[0], shape[1], lengths, reverse):
        values = [kept[times, rows, k] for k in range(SAVED[p.cell])]
        if p.cell == "lstm":
            i, f, g, o, c, s, before = values
            step: Any = (i, f, g, o, c, f * c + i * g, s)
        elif p.cell == "gru":
            *_, before = values
            step = tuple(values)
        else:
            step, before = (values[0],), values[1]
        tape.append((rows, times, before, step))
    return tape


def terms(op: str, p: RecurrentProblem) -> int:
    """How many products at most are summed into one element of the output, and what counts as such.

    A step ends with some products, and with functions that may be off by 3 ulp: as much as the sum of 16.
    """
    return 16 + (max(p.t * p.b, p.gates * p.h) if op.endswith("grad") else p.i + p.h)


def _least_scales(op: str, p: RecurrentProblem, arrays: tuple[Array, ...]) -> list[float]:
    """For each output what it is measured by at least: see `error`."""
    if not op.endswith("grad"):
        return [1.0] * len(OPS[op].outputs)
    largest = {
        name: float(np.max(np.abs(a[np.isfinite(a)]), initial=0.0))
        for name, a in zip(OPS[op].inputs, arrays, strict=True)
    }
    of_gates = max(largest[name] for name in ("gy", "ghn", "gcn"))
    factors = {"gx": largest["w_ih"], "gw_ih": largest["x"], "gh0": largest["w_hh"]}
    return [of_gates * factors.get(name, 1.0) for name in OPS[op].outputs]


def error(
    op: str, p: RecurrentProblem, arrays: tuple[Array, ...], wanted: tuple[Array, ...], outputs: tuple[Array, ...]
) -> float:
    """max over all outputs of max |y − ref| / (eps · √terms · scale); see fastconv.testing.error.

    scale: the largest |ref|, but on the way forth, where functions bound what goes into the next step and their
    arguments are of the order of 1, at least 1; on the way back at least the largest gradient that is given times the
    largest of what it meets, since 1 − s² of a gate may be a small difference. What a step is off by, later ones take
    up and forget about as fast as the rest.
    """
    worst = 0.0
    for y, ref, least in zip(outputs, wanted, _least_scales(op, p, arrays), strict=True):
        y = y.astype(np.float64)
        finite = np.isfinite(ref)
        if y.shape != ref.shape or not np.array_equal(y[~finite], ref[~finite], equal_nan=True):
            return float("inf")
        difference = float(np.max(np.abs(y[finite] - ref[finite]), initial=0.0))
        scale = max(float(np.max(np.abs(ref[finite]), initial=0.0)), least)
        if difference:
            unit = float(np.finfo(p.dtype).eps) * math.sqrt(terms(op, p)) * scale
            worst = max(worst, difference / unit if unit and np.isfinite(difference) else float("inf"))
    return worst
