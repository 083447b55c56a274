"""What the kernels of recurrent layers share: where sequences lie, the end of a step, and how they are registered."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np

from fastconv import threads
from fastconv.kernels.cpu import rnn_pack
from fastconv.kernels.cpu.gemm import NO_BIAS as NOTHING
from fastconv.kernels.cpu.host import VECTOR_REGISTERS
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.rnn_cells import CELLS, option_of
from fastconv.kernels.cpu.rnn_pack import padded
from fastconv.kernels.cpu.simd import array_at, flat, lanes, quotient
from fastconv.kernels.cpu.team import ONE, address_of, alone_at, counter_of_one, enter_alone, parallel_at
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


# Fewer flops a step than these are sooner done by one thread than waited for by two, and so are fewer in a call.
_ALONE_BELOW, _CALL_ALONE_BELOW = 30_000, 1_000_000

# How many pauses the other threads are waited for when a call begins, for each flop of it, and at most.
_PATIENCE, _LONGEST = 2e-5, 3000


def stepping_team(p):
    """Threads worth using where they wait for each other after every step."""
    worth = p.flops >= max(_CALL_ALONE_BELOW, _ALONE_BELOW * p.t * p.directions) or threads.is_eager()
    return threads.team(p.flops, rnn_pack.tiles_of(p)) if worth else 1


def patience_of(p):
    """How many pauses the caller waits for the team to gather."""
    return 100 * _LONGEST if threads.is_eager() else int(min(_LONGEST, p.flops * _PATIENCE))


# A plan is what a worker needs to know in numbers, one int64 array: what is the same in all of them, in the order of
# _plan, from OWN on what a kernel adds, from TABLE on the table.
OWN, TABLE = 14, 20


def _plan(p, lengths, own, blocks):
    """The plan for a problem: `own` are the kernel's numbers, blocks the table's."""
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


def addresses(worker, dtype, extra):
    """Where a worker is, compiled for arrays of `dtype`; extra: how many int64 arrays it has beside the plan."""
    values, numbers = np.empty(1, dtype), np.empty(1, np.int64)
    return address_of(worker, *[values] * 8, *[numbers] * (1 + extra), values)


@njit
def _step(address, counter, fixed, x, h0, c0, hn, cn, work):
    """Run the worker at `address` on one step; fixed: where u, nothing and the plan are, and how long each is.

    A call takes some time for each of its arrays, and a step is short.
    """
    u, none = array_at(work, fixed[0], fixed[1]), array_at(work, fixed[2], fixed[3])
    plan, y = array_at(fixed, fixed[4], fixed[5]), flat(hn)
    enter_alone(address, counter, flat(x), u, flat(h0), flat(c0), y, y, flat(cn), none, plan, work)


def stride_of(p):
    """Rows of x from one step to the next."""
    return 1 if p.batch_first else p.b


def even(p):
    """The lengths of sequences that all have p.t steps."""
    return np.full(p.b, p.t)


@njit
def _fill_table(counter, thread, lengths, places, bins, sizes):
    """Write what `table` gives; bins: as many zeros as there are steps, and one more."""
    rows, steps, directions, blocks, width, pitch, stride = sizes
    # How many are longer than each length: a sort that keeps the order of those that are as long as each other.
    for r in range(rows):
        bins[lengths[r]] += 1
    longer = 0
    for n in range(steps, -1, -1):
        longer, bins[n] = longer + bins[n], longer
    each = quotient(rows, blocks)
    larger = rows - each * blocks
    for r in range(rows):
        length = lengths[r]
        rank = bins[length]
        bins[length] += 1
        # Dealt in turn, the longest first, so that all blocks have the same work and each has its longest first.
        turn = quotient(rank, blocks)
        block = rank - turn * blocks
        place = block * each + min(block, larger) + turn
        for d in range(directions):
            first, at = r * pitch + d * (length - 1) * stride, 4 * d * rows + place
            places[at], places[at + rows] = first * width, first
            places[at + 2 * rows], places[at + 3 * rows] = r, length


@njit
def _clear(counter, thread, lengths, a, sizes):
    """Write what `clear` says."""
    rows, steps, pitch, stride, width, directions = sizes
    for r in range(rows):
        for step in range(lengths[r], steps):
            for d in range(directions):
                at = (d * rows * steps + r * pitch + step * stride) * width
                for k in range(at, at + width):
                    a[k] = 0.0


@lru_cache
def _compiled(worker, sizes, *dtypes):
    """Where a worker is that takes flat arrays of these dtypes, then so many sizes."""
    return address_of(worker, *(np.empty(1, dtype) for dtype in dtypes), (1,) * sizes)


def _row_pitch(p):
    """Rows of x from one sequence to the next."""
    return p.t if p.batch_first else 1


def table(p, lengths, blocks, width):
    """For each direction, in the order of the blocks: where the first step of a sequence begins in an array with rows
    as x has them, `width` apart; the number of that row; the sequence's number; its length."""
    places = np.empty(p.directions * 4 * p.b, np.int64)
    sizes = (p.b, p.t, p.directions, blocks, width, _row_pitch(p), stride_of(p))
    alone_at(_compiled(_fill_table, 7, "int64", "int64", "int64"), lengths, places, np.zeros(p.t + 1, np.int64), sizes)
    return places


def clear(p, lengths, a, width, directions):
    """Zeros in a (directions, rows of x, width), flat, beyond the ends of sequences."""
    sizes = (p.b, p.t, _row_pitch(p), stride_of(p), width, directions)
    alone_at(_compiled(_clear, 6, "int64", p.dtype), lengths, a, sizes)


def prepare_cost(p):
    """Of packing, which moves each weight twice: about eight multiply-adds' time for each."""
    return 8.0 * rnn_pack.size(p)


def pointwise_cost(p):
    """Of the cells' arithmetic."""
    return 60.0 * p.t * p.b * p.directions * padded(p)


def _flat(a):
    return a if a.ndim == 1 else a.reshape(-1)


def register(
    algorithm, worker_of, plan, memory, cost, unsupported=lambda p: None, extra=lambda p, team: (), takes=False
):
    """Register a kernel for all cells, in evaluation and in training.

    worker_of(p): the worker. plan(p): the team, the kernel's own numbers and the blocks of its table, for the threads
    now set; extra(p, team): further int64 arrays for the worker; memory(p): the elements of scratch that it needs;
    cost(p): without what packing costs; takes: whether the worker takes pieces.
    """

    def scratch(p):
        return memory(p) + rnn_pack.size(p)

    def ready(p, training):
        address = addresses(worker_of(p), p.dtype, len(extra(p, 1)))
        own, packed, none = memory(p), rnn_pack.size(p), NOTHING[p.dtype]
        plans = {}

        def train(x, w_ih, w_hh, b_ih, b_hh, peephole, h0, c0, lengths, y, hn, cn, saved, scratch, u=None):
            if u is None:
                u = scratch[own:][:packed]
                rnn_pack.prepare(p, w_ih, w_hh, b_ih, b_hh, peephole, u)
            setting = threads.setting()
            known = plans.get(setting)
            if known is None:
                team, numbers, blocks = plan(p)
                known = team, _plan(p, lengths if p.ragged else even(p), numbers, blocks)
                if not p.ragged:
                    plans[setting] = known
            team, numbers = known
            if p.ragged:
                clear(p, lengths, _flat(y), p.directions * p.h, 1)
                if saved.size:
                    clear(p, lengths, _flat(saved), SAVED[p.cell] * p.h, p.directions)
            flat = [_flat(a) for a in (x, u, h0, c0, y, hn, cn, saved)]
            parallel_at(address, team, (*flat, numbers, *extra(p, team), scratch))

        def forward(x, w_ih, w_hh, b_ih, b_hh, peephole, h0, c0, lengths, y, hn, cn, scratch, u=None):
            train(x, w_ih, w_hh, b_ih, b_hh, peephole, h0, c0, lengths, y, hn, cn, none, scratch, u)

        def alone(u):
            """One step in one direction by the calling thread, with weights packed in u: call(x, h0, c0, hn, cn).

            Each (b, features), c0 and cn of no elements where the cell has none. None where a team does it.
            """
            team, numbers, _ = plan(p)
            if team > 1 or p.ragged or extra(p, 1):
                return None
            own_plan, size, dtype = _plan(p, even(p), numbers, 1), memory(p), np.dtype(p.dtype)
            held = (u, none, own_plan)
            fixed = np.array([number for a in held for number in (a.ctypes.data, a.size)], np.int64)

            # `fixed` has addresses only: what lies there lives as long as the call that is given it as `held`.
            def call(x, h0, c0, hn, cn, held=held):
                counter = counter_of_one() if takes else ONE
                _step(address, counter, fixed, x, h0, c0, hn, cn, np.empty(size, dtype))

            return call

        forward.alone = alone
        return train if training else forward

    for name in CELLS:
        for training in (False, True):
            make = lru_cache(maxsize=256)(partial(ready, training=training))
            options = {
                "limit": 1.0,
                "cost": lambda p: cost(p) + prepare_cost(p),
                "scratch": scratch,
                "unsupported": unsupported,
                "prepare": rnn_pack.prepare,
                "prepared": rnn_pack.size,
                "prepare_cost": prepare_cost,
                "ready": make,
            }
            full = f"{name}{'_train' * training}/{algorithm}/cpu"
            kernel(full, **options)(lambda p, *arrays, make=make, **made: make(p)(*arrays, **made))
