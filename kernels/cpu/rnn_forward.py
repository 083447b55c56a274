"""What the kernels of recurrent layers share: where sequences lie, the end of a step, and how they are registered."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu import rnn_pack
from fastconv.kernels.cpu.gemm import NO_BIAS as NOTHING
from fastconv.kernels.cpu.host import VECTOR_REGISTERS
from fastconv.kernels.cpu.jit import inner
from fastconv.kernels.cpu.rnn_cells import CELLS, option_of
from fastconv.kernels.cpu.rnn_pack import padded
from fastconv.kernels.cpu.simd import lanes
from fastconv.kernels.cpu.team import address_of
from fastconv.problem import SAVED
from fastconv.registry import kernel

# Rows of a register tile, of which four vectors are summed: what leaves registers for the weights and a broadcast.
MOST, FEWER = (6, 4) if VECTOR_REGISTERS == 32 else (2, 1)


@inner
def rows_of(left):
    """How many rows the next tile has for the `left` that remain, so that few are computed in vain."""
    return MOST if left > 2 * FEWER or FEWER < left <= MOST else FEWER


def make_finish(cell):
    """The end of a step for `n` rows from `row` on and one unit tile, whose sums are at `buffer` in work.

    places: where in the table the rows' numbers are, and what to add to them at this step; where in work h(t−1), h(t)
    and c begin, rows `pitch` apart; where the direction's peepholes begin in u, or −1. sizes: direction, directions,
    the direction's first row of saved, saves, h, option.
    """
    gates_of, step, tile_units = cell.gates_of, cell.step, cell.tile_units

    @inner
    def finish(tile, row, n, buffer, work, u, y, saved, table, places, sizes):
        numbers, shift, h_from, h_to, cells, pitch, peepholes = places
        direction, directions, first, saves, h, option = sizes
        width = lanes(work)
        unit = tile * tile_units * width
        peep = peepholes + tile * 3 * width if peepholes >= 0 else -1
        for r in range(n):
            gates_of(work, buffer + r * 4 * width, u, peep, cells + (row + r) * pitch + unit)
        for r in range(n):
            place = (row + r) * pitch + unit
            line = table[numbers + row + r] + shift
            yi, si = (line * directions + direction) * h + unit, (first + line) * saves * h + unit
            of_states = (h_from + place, h_to + place, cells + place)
            step(work, buffer + r * 4 * width, u, peep, *of_states, y, yi, h - unit, saved, si, h, option)

    return finish


# Fewer flops a step than these are sooner done by one thread than waited for by two.
_ALONE_BELOW = 30_000

# How many pauses the other threads are waited for when a call begins, for each flop of it, and at most.
_PATIENCE, _LONGEST = 2e-5, 3000


def stepping_team(p):
    """Threads worth using where they wait for each other after every step."""
    worth = p.flops >= _ALONE_BELOW * p.t * p.directions or threads.is_eager()
    return threads.team(p.flops, rnn_pack.tiles_of(p)) if worth else 1


def patience_of(p):
    """How many pauses the caller waits for the team to gather."""
    return 100 * _LONGEST if threads.is_eager() else int(min(_LONGEST, p.flops * _PATIENCE))


# A plan is what a worker needs to know in numbers, one int64 array: what is the same in all of them, in the order of
# _plan, from OWN on what a kernel adds, from TABLE on the table.
OWN, TABLE = 14, 20


def plan_of(p, lengths, team, own, blocks):
    """The plan for a problem: `own` are the kernel's numbers, blocks the table's."""
    return _plan(p, lengths, team, own, blocks) if p.ragged else _even_plan(p, team, own, blocks)


@lru_cache(maxsize=1024)
def _even_plan(p, team, own, blocks):
    return _plan(p, even(p), team, own, blocks)


def _plan(p, lengths, team, own, blocks):
    tile, biases, peepholes, _ = rnn_pack.layout(p)
    of_layout = (rnn_pack.tiles_of(p), tile, biases, peepholes if p.peephole else 0)
    of_problem = (p.b, p.t, p.i, p.h, p.directions, stride_of(p), SAVED[p.cell], option_of(p))
    numbers = [*of_problem, *of_layout]
    places = table(p, lengths, blocks, p.i)
    plan = np.zeros(TABLE + places.size, np.int64)
    plan[: len(numbers)] = numbers
    plan[OWN : OWN + len(own)] = own
    plan[TABLE:] = places
    return plan


@lru_cache(maxsize=64)
def addresses(worker, dtype, extra):
    """Where a worker is, compiled for arrays of `dtype`; extra: how many int64 arrays it has beside the plan."""
    values, numbers = np.empty(1, dtype), np.empty(1, np.int64)
    return address_of(worker, *[values] * 8, *[numbers] * (1 + extra), values)


def stride_of(p):
    """Rows of x from one step to the next."""
    return 1 if p.batch_first else p.b


def even(p):
    """The lengths of sequences that all have p.t steps."""
    return np.full(p.b, p.t)


def table(p, lengths, blocks, width):
    """For each direction, in the order of the blocks: where the first step of a sequence begins in an array with rows
    as x has them, `width` apart; the number of that row; the sequence's number; its length."""
    # Dealt in turn, the longest first, so that all blocks have the same work and each has its longest first.
    longest_first = np.argsort(-lengths, kind="stable")
    order = np.concatenate([longest_first[block::blocks] for block in range(blocks)])
    own = lengths[order]
    places = np.empty((p.directions, 4, p.b), np.int64)
    for d in range(p.directions):
        first = order * (p.t if p.batch_first else 1) + d * (own - 1) * stride_of(p)
        places[d] = first * width, first, order, own
    return places.reshape(-1)


def prepare_cost(p):
    """Of packing, which moves each weight twice: about eight multiply-adds' time for each."""
    return 8.0 * rnn_pack.size(p)


def pointwise_cost(p):
    """Of the cells' arithmetic."""
    return 60.0 * p.t * p.b * p.directions * padded(p)


def register(algorithm, run, memory, cost, unsupported=lambda p: None):
    """Register `run` for all cells, in evaluation and in training.

    run(p, arrays, lengths, scratch): arrays are flat, x, packed weights, h0, c0, y, hn, cn, saved; memory(p): the
    elements of scratch that it needs; cost(p): without what packing costs.
    """

    def scratch(p):
        return memory(p) + rnn_pack.size(p)

    def forward(p, x, w_ih, w_hh, b_ih, b_hh, peephole, h0, c0, lengths, y, hn, cn, scratch, u=None):
        train(p, x, w_ih, w_hh, b_ih, b_hh, peephole, h0, c0, lengths, y, hn, cn, NOTHING[p.dtype], scratch, u)

    def train(p, x, w_ih, w_hh, b_ih, b_hh, peephole, h0, c0, lengths, y, hn, cn, saved, scratch, u=None):
        if u is None:
            u = scratch[memory(p) :][: rnn_pack.size(p)]
            rnn_pack.prepare(p, w_ih, w_hh, b_ih, b_hh, peephole, u)
        if p.ragged and lengths.min(initial=p.t) < p.t:
            # What stands beyond the ends of sequences is zero.
            y.fill(0)
            saved.fill(0)
        arrays = [array.reshape(-1) for array in (x, u, h0, c0, y, hn, cn, saved)]
        run(p, arrays, lengths, scratch)

    for name in CELLS:
        options = {
            "limit": 1.0,
            "cost": lambda p: cost(p) + prepare_cost(p),
            "scratch": scratch,
            "unsupported": unsupported,
            "prepare": rnn_pack.prepare,
            "prepared": rnn_pack.size,
            "prepare_cost": prepare_cost,
        }
        kernel(f"{name}/{algorithm}/cpu", **options)(forward)
        kernel(f"{name}_train/{algorithm}/cpu", **options)(train)
