"""lstm/one, gru/one, rnn/one: recurrent layers on one sequence, the hidden units divided among the threads.

A step on one sequence is bound by reading U, every step anew. So each thread has some of the unit tiles for all steps:
it reads the same part of U again and again, which its own cache holds as far as it can, forwards on even steps and
backwards on odd ones, so that what was read last is read first. Reading leaves the multipliers idle for more than half
of the time. The products with x, which need no step to be over, use it: while a thread goes through a chunk of steps,
it makes x·W of the next chunk for its own tiles, an element of x after each few elements of h. A register tile has many
steps and few vectors, because each vector of W that is read for it takes its time from the reading of U. After each
step the threads wait for each other, by one store and one load each: h(t) is all that they exchange.
"""

from __future__ import annotations

from fastconv import threads
from fastconv.kernels.cpu.host import LINE, VECTOR_REGISTERS
from fastconv.kernels.cpu.jit import inner, njit
from fastconv.kernels.cpu.rnn_cells import CELLS, put
from fastconv.kernels.cpu.rnn_forward import (
    OWN,
    TABLE,
    patience_of,
    pointwise_cost,
    register,
    stepping_team,
)
from fastconv.kernels.cpu.rnn_pack import padded, tiles_of, width_of
from fastconv.kernels.cpu.simd import (
    add,
    flush_denormals,
    lanes,
    load,
    load_first,
    prefetch,
    quotient,
    restore_denormals,
    splat,
    store,
    store_first,
)
from fastconv.kernels.cpu.team import done_step, gather, wait_for_step
from fastconv.kernels.cpu.tiles import load_whole, outer_into, repeated, row_offsets, store_whole, zeros

# The register tile of products with x: so many steps, a chunk, and vectors, which divide those of an element, as leave
# registers for a step's own sums. The first chunk is half as long, because nothing hides its products.
if VECTOR_REGISTERS == 32:
    _LATER = {"lstm": (12, 2), "gru": (7, 3), "rnn": (12, 2)}
else:
    _LATER = {"lstm": (4, 2), "gru": (6, 1), "rnn": (4, 2)}

# Fewest elements of x whose products are made in one go: the tile is loaded and stored each time.
_LEAST = 16

# Bytes of U up to which a thread goes through them twice a step, half of h at a time, so that it need not wait. Of more
# its cache would not hold what it reads first in the next step.
_OWN_CACHE = 2**19


def _make_inputs(rows, cell):
    of_x, vectors = cell.of_x, cell.vectors

    @inner
    def inputs(x, u, work, xi, forth, n, features, at, bias, to):
        """work.flat[to:] = bias + x·W of n steps, which begin at xi, xi + forth, … in x."""
        tile = repeated(u, bias, rows, 4)
        starts = row_offsets(tile, n, forth)
        step = vectors * lanes(u)
        for k in range(features):
            tile = outer_into(tile, x, xi + k, starts, u, at + k * step, of_x)
        store_whole(tile, work, to, 4 * lanes(u), False)

    return inputs


def _make_whole(cell):
    of_x, of_h, vectors = cell.of_x, cell.of_h, cell.vectors

    @inner
    def whole(x, u, work, xi, hi, features, middle, depth, at, bias, to):
        """work.flat[to:] = a tile's sums of a single step, in the order in which `inputs` and two `half` make them."""
        tile, rest = repeated(u, bias, 1, 4), zeros(u, 1, 4)
        one, step = row_offsets(tile, 1, 0), vectors * lanes(u)
        for k in range(features):
            tile = outer_into(tile, x, xi + k, one, u, at + k * step, of_x)
        at += features * step
        for k in range(middle):
            tile = outer_into(tile, work, hi + k, one, u, at + k * step, of_h)
        for k in range(middle, depth):
            rest = outer_into(rest, work, hi + k, one, u, at + k * step, of_h)
        store_whole(tile, work, to, 4 * lanes(u), False)
        store_whole(rest, work, to, 4 * lanes(u), True)

    return whole


def _make_half(cell):
    of_h, vectors = cell.of_h, cell.vectors

    @inner
    def half(u, work, start, hi, begin, end, at, to):
        """work.flat[to:] = what stands at `start` + elements begin … end − 1 of h(t−1) times U."""
        tile = load_whole(work, start, 4 * lanes(u), 1, 4)
        one = row_offsets(tile, 1, 0)
        step = vectors * lanes(u)
        for k in range(begin, end):
            tile = outer_into(tile, work, hi + k, one, u, at + k * step, of_h)
        store_whole(tile, work, to, 4 * lanes(u), False)

    return half


def _make_both(cell):
    of_h, vectors = cell.of_h, cell.vectors
    rows, columns = _LATER[cell.name]
    of_x = (1 << columns) - 1

    @inner
    def both(u, work, start, hi, begin, end, at, to, xt, first, count, w_at, later_to):
        """`half`, and meanwhile what stands at later_to, of a later chunk, plus its elements first … of x times W."""
        ours = load_whole(work, start, 4 * lanes(u), 1, 4)
        later = load_whole(work, later_to, 4 * lanes(u), rows, columns)
        one, places = row_offsets(ours, 1, 0), row_offsets(later, rows, 1)
        step = vectors * lanes(u)
        each = quotient(end - begin, max(1, count))
        for k in range(count):
            later = outer_into(later, work, xt + (first + k) * rows, places, u, w_at + (first + k) * step, of_x)
            for j in range(begin + k * each, begin + k * each + each):
                ours = outer_into(ours, work, hi + j, one, u, at + j * step, of_h)
        for j in range(begin + count * each, end):
            ours = outer_into(ours, work, hi + j, one, u, at + j * step, of_h)
        store_whole(ours, work, to, 4 * lanes(u), False)
        store_whole(later, work, later_to, 4 * lanes(u), False)

    return both


@inner
def _add(work, one, other, to, width):
    """The four vectors work.flat[to:] = those at `one` + those at `other`."""
    for v in range(4):
        store(work, to + v * width, add(load(work, one + v * width), load(work, other + v * width)))


@inner
def _take_over(state, at, h, work, to, begin, end):
    """work.flat[to + k] = the state's unit k, for units from `begin` to `end`; zeros beyond h, or of no state."""
    for k in range(begin, end, lanes(work)):
        store(work, to + k, load_first(state, at + k, max(0, h - k if state.size else 0)))


@inner
def _hand_on(state, at, h, work, of, begin, end):
    """The opposite of _take_over, of those units that there are."""
    for k in range(begin, min(end, h) if state.size else begin, lanes(work)):
        put(state, at + k, load(work, of + k), h - k)


def _make_worker(cell):
    gates_of, step, tile_units, vectors = cell.gates_of, cell.step, cell.tile_units, cell.vectors
    rows, columns = _LATER[cell.name]
    first_rows = rows // 2
    groups = -(-vectors // columns)
    inputs, half, both = _make_inputs(first_rows, cell), _make_half(cell), _make_both(cell)

    @njit
    def one_worker(counter, thread, x, u, h0, c0, y, hn, cn, saved, plan, work):
        """Do this thread's unit tiles of all steps, one direction after the other."""
        steps, features, h, directions = plan[1], plan[2], plan[3], plan[4]
        stride, saves, option = plan[5], plan[6], plan[7]
        tiles, tile_size, biases, peepholes = plan[8], plan[9], plan[10], plan[11]
        patience = plan[OWN]
        team = gather(counter, thread, patience)
        if team == 0:
            return
        flushed = flush_denormals()
        width = lanes(u)
        units, gates = tile_units * width, 4 * width
        pitch = tiles * units
        begin, end = quotient(tiles * thread, team), quotient(tiles * (thread + 1), team)
        own_tiles = end - begin
        # Shared: h of two steps, c. Each tile's: x·W of a chunk and of the next, and a part of its sums. Each thread's:
        # h before the first step, four vectors of zeros, the rest of a tile's sums, and the next chunk's x.
        cells = 2 * pitch
        products = cells + pitch
        partial = products + tiles * 2 * rows * gates
        initial = partial + tiles * gates + thread * (pitch + 2 * gates + features * rows)
        nothing = initial + pitch
        rest = nothing + gates
        xt = rest + gates
        for v in range(4):
            store(work, nothing + v * width, splat(work, 0.0))
        # Sums over h are two, of the units that two threads have, whatever the team.
        middle = min(h, quotient(tiles, 2) * units)
        apart = team == 2 and own_tiles * vectors * width * h * work.itemsize <= _OWN_CACHE
        passed = 0
        for direction in range(directions):
            of_table = TABLE + 4 * direction
            start, length = plan[of_table], plan[of_table + 3]
            forth = (-stride if direction else stride) * features
            of_peepholes = peepholes + direction * tiles * 3 * width if peepholes else -1
            _take_over(h0, direction * h, h, work, initial, 0, pitch)
            _take_over(c0, direction * h, h, work, cells, begin * units, end * units)
            for tile in range(begin, end):
                place = direction * tiles + tile
                to, at = products + tile * 2 * rows * gates, place * tile_size
                if length:
                    n = min(first_rows, length)
                    inputs(x, u, work, start, forth, n, features, at, biases + place * gates, to)
            job = jobs = part = 0
            parts = 1
            for now in range(length):
                h_from = (now & 1) * pitch if now else initial
                h_to = (1 - (now & 1)) * pitch
                shift = -now * stride if direction else now * stride
                known = now or h0.size
                # Which chunk of steps, and the how manieth of it; the first chunk is half as long.
                chunk = quotient(now + rows - first_rows, rows)
                slot, chunk_steps = now + rows - first_rows - chunk * rows, rows
                if chunk == 0:
                    slot, chunk_steps = now, first_rows
                next_step = now - slot + chunk_steps
                later = max(0, min(rows, length - next_step))
                if slot == 0:
                    job = part = 0
                    jobs = own_tiles * groups if later else 0
                    parts = max(1, min(quotient(2 * chunk_steps, groups), quotient(features, _LEAST)))
                    # The next chunk's x, all steps of an element side by side. As vectors of one lane, because the
                    # compiler would spend half a second on scattering whole ones.
                    for r in range(rows if later else 0):
                        xi = start + (next_step + min(r, later - 1)) * forth
                        for k in range(features):
                            store_first(work, xt + k * rows + r, load_first(x, xi + k, 1), 1)
                if not apart:
                    wait_for_step(counter, team, passed)
                for phase in range(2 if apart else 1):
                    if phase == 1:
                        wait_for_step(counter, team, passed)
                        # The other's half comes from its cache: all lines at once.
                        for k in range(middle if thread == 0 else 0, h if thread == 0 else middle, LINE):
                            prefetch(work, h_from + k)
                    for turn in range(own_tiles):
                        tile = end - 1 - turn if now & 1 else begin + turn
                        at = (direction * tiles + tile) * tile_size + features * vectors * width
                        of_x = products + ((tile * 2 + (chunk & 1)) * rows + slot) * gates
                        part_to = partial + tile * gates
                        for order in range(phase, phase + 1 if apart else 2):
                            second = (order == 1) != (apart and thread == 1)
                            h_begin, h_end = middle if second else 0, h if second else middle
                            if not known:
                                h_end = h_begin
                            source, to = nothing if second else of_x, rest if order else part_to
                            if job < jobs:
                                which = quotient(job, groups)
                                group = job - which * groups
                                place = direction * tiles + begin + which
                                later_to = products + ((begin + which) * 2 + 1 - (chunk & 1)) * rows * gates
                                if part == 0 and group == 0:
                                    bias = repeated(u, biases + place * gates, rows, 4)
                                    store_whole(bias, work, later_to, gates, False)
                                column = group * columns * width
                                first = quotient(features * part, parts)
                                count = quotient(features * (part + 1), parts) - first
                                args = (xt, first, count, place * tile_size + column, later_to + column)
                                both(u, work, source, h_from, h_begin, h_end, at, to, *args)
                                part += 1
                                if part == parts:
                                    job += 1
                                    part = 0
                            else:
                                half(u, work, source, h_from, h_begin, h_end, at, to)
                            if order:
                                _add(work, part_to, rest, part_to, width)
                # The tiles' ends together, so that the processor finds enough to do.
                line = plan[of_table + 1] + shift
                for tile in range(begin, end):
                    peep = of_peepholes + tile * 3 * width if peepholes else -1
                    gates_of(work, partial + tile * gates, u, peep, cells + tile * units)
                for tile in range(begin, end):
                    unit = tile * units
                    peep = of_peepholes + tile * 3 * width if peepholes else -1
                    yi, si = (line * directions + direction) * h + unit, (direction * steps + line) * saves * h + unit
                    of_states = (h_from + unit, h_to + unit, cells + unit)
                    step(work, partial + tile * gates, u, peep, *of_states, y, yi, h - unit, saved, si, h, option)
                passed += 1
                done_step(counter, thread, team, passed)
            # The next direction begins with its own state, but in the same memory.
            wait_for_step(counter, team, passed if direction + 1 < directions else 0)
            last = (length & 1) * pitch if length else initial
            _hand_on(hn, direction * h, h, work, last, begin * units, end * units)
            _hand_on(cn, direction * h, h, work, cells, begin * units, end * units)
        restore_denormals(flushed)

    return one_worker


def _make_single(cell):
    gates_of, step, tile_units, whole = cell.gates_of, cell.step, cell.tile_units, _make_whole(cell)

    @njit
    def single_worker(counter, thread, x, u, h0, c0, y, hn, cn, saved, plan, work):
        """Do this thread's unit tiles of a single step, with the sums that one_worker makes: what a cell asks for."""
        features, h, directions = plan[2], plan[3], plan[4]
        saves, option, patience = plan[6], plan[7], plan[OWN]
        tiles, tile_size, biases, peepholes = plan[8], plan[9], plan[10], plan[11]
        team = gather(counter, thread, patience)
        if team == 0:
            return
        flushed = flush_denormals()
        width = lanes(u)
        units, gates = tile_units * width, 4 * width
        pitch = tiles * units
        begin, end = quotient(tiles * thread, team), quotient(tiles * (thread + 1), team)
        # Shared: h after the step, c, the tiles' sums. Each thread's: h before the step.
        cells = pitch
        sums = cells + pitch
        initial = sums + tiles * gates + thread * pitch
        middle = min(h, quotient(tiles, 2) * units)
        for direction in range(directions):
            of_table = TABLE + 4 * direction
            start, line, length = plan[of_table], plan[of_table + 1], plan[of_table + 3]
            of_peepholes = peepholes + direction * tiles * 3 * width if peepholes else -1
            _take_over(h0, direction * h, h, work, initial, 0, pitch)
            _take_over(c0, direction * h, h, work, cells, begin * units, end * units)
            of_h = (middle, h) if h0.size else (0, 0)
            for tile in range(begin, end if length else begin):
                place = direction * tiles + tile
                at, to = place * tile_size, sums + tile * gates
                whole(x, u, work, start, initial, features, *of_h, at, biases + place * gates, to)
            for tile in range(begin, end if length else begin):
                peep = of_peepholes + tile * 3 * width if peepholes else -1
                gates_of(work, sums + tile * gates, u, peep, cells + tile * units)
            for tile in range(begin, end if length else begin):
                unit = tile * units
                peep = of_peepholes + tile * 3 * width if peepholes else -1
                yi, si = (line * directions + direction) * h + unit, (direction + line) * saves * h + unit
                of_states = (initial + unit, unit, cells + unit)
                step(work, sums + tile * gates, u, peep, *of_states, y, yi, h - unit, saved, si, h, option)
            last = 0 if length else initial
            _hand_on(hn, direction * h, h, work, last, begin * units, end * units)
            _hand_on(cn, direction * h, h, work, cells, begin * units, end * units)
        restore_denormals(flushed)

    return single_worker


def _memory(p):
    """Elements of scratch without packed weights, for any number of threads."""
    gates = 4 * width_of(p)
    rows = _LATER[p.cell][0]
    of_threads = threads.available() * (padded(p) + 2 * gates + p.i * rows)
    return 3 * padded(p) + tiles_of(p) * (2 * rows + 1) * gates + of_threads


_WORKERS = {name: _make_worker(cell) for name, cell in CELLS.items()}
_SINGLE = {name: _make_single(cell) for name, cell in CELLS.items()}


def _plan(p):
    return stepping_team(p), (patience_of(p),), 1


def _cost(p):
    # Reading U at each step takes about as long as ten flops for each element.
    weights = 10.0 * p.t * p.directions * p.gates * p.h * p.h
    inputs = 1.5 * p.t * p.directions * p.gates * p.h * p.i
    return weights + inputs + pointwise_cost(p) + 40_000


def _worker_of(p):
    return (_SINGLE if p.t == 1 else _WORKERS)[p.cell]


def _unsupported(p):
    return None if p.b == 1 else f"{p.b} sequences, needs 1"


register("one", _worker_of, _plan, _memory, _cost, _unsupported)
