"""Every kernel on every small case, float32 and float64, against the float64 reference.

A new kernel file is tested here with no edit: everything below goes over fastconv.testing.grid. The same tests run
again on smaller hosts in test_kernels_hosts.py.
"""

import dataclasses
import platform
import time
import zlib
from statistics import median

import numpy as np
import pytest
from helpers import DTYPES, handing_over, last_first, last_thread_first, meets

from fastconv import functional, testing
from fastconv.problem import ConvProblem, LinearProblem, PoolProblem, RecurrentProblem
from fastconv.registry import OPS, kernels, operations


def typed(problem, dtype):
    return dataclasses.replace(problem, dtype=dtype)


def over(pairs, dtypes=DTYPES):
    """(kernel, problem) parameters in these dtypes, named by kernel, case and dtype."""
    return [
        pytest.param(kernel, typed(case.problem, dtype), id=f"{kernel.name}-{case.name}-{dtype}")
        for dtype in dtypes
        for kernel, case in pairs
        if kernel.unsupported(typed(case.problem, dtype)) is None
    ]


def supporting(problems):
    """Every kernel with every one of the named problems that it supports."""
    return [
        (kernel, testing.Case(name, problem, False))
        for name, problem in problems.items()
        for op in operations(problem)
        for kernel in kernels(op)
        if testing.has_meaning(op, problem) and kernel.unsupported(problem) is None
    ]


def fast(parameters):
    """Without the naive kernels, which split, flush and share nothing."""
    return [parameter for parameter in parameters if parameter.values[0].algorithm != "naive"]


GRID = over(list(testing.grid(small=True)))

# Work that crosses the bounds at which kernels split it, which no small case does: several packed blocks of rows and
# columns, padded copies of one image at a time, more pixels than are gathered at once, more images than a share; more
# steps than are multiplied ahead, more sequences than go together, more weights than a thread's cache holds.
BLOCKS = fast(
    over(
        supporting(
            {
                "rows-and-columns": LinearProblem.make((2100, 3), (4200, 3), bias=True),
                "depth": LinearProblem.make((5, 1100), (3, 1100)),
                "large-planes": ConvProblem.make((3, 5, 260, 261), (2, 5, 3, 2), padding=1, bias=True),
                "many-images": ConvProblem.make((67, 3, 9, 7), (5, 3, 2, 3), padding=(0, 1), stride=(2, 1)),
                "many-groups": ConvProblem.make((2, 38, 13, 10), (57, 2, 3, 3), groups=19, padding=1),
                "deep-groups": ConvProblem.make((1, 262, 5, 9), (6, 131, 3, 2), groups=2, bias=True),
                "large-pool": PoolProblem.make((2, 3, 130, 261), (3, 2), stride=(2, 3), padding=1),
                "large-state": RecurrentProblem.make("lstm", (7, 1, 9), 290, directions=2),
                "more-steps": RecurrentProblem.make("gru", (33, 2, 5), 40, ragged=True, state=True, directions=2),
                "full-tile": RecurrentProblem.make("rnn", (19, 6, 40), 150, ragged=True, batch_first=True),
                "many-sequences": RecurrentProblem.make("lstm", (5, 210, 7), 40, ragged=True, directions=2),
            }
        ),
        dtypes=("float32",),
    )
)

# One case of each kind that takes long enough to be timed.
MIDDLE = fast(
    over(
        supporting(
            {
                "conv": ConvProblem.make((2, 16, 28, 28), (16, 16, 3, 3), padding=1),
                "linear": LinearProblem.make((64, 256), (96, 256)),
                "pool": PoolProblem.make((4, 16, 56, 56), 3, stride=2, padding=1),
                "lstm-one": RecurrentProblem.make("lstm", (20, 1, 48), 96, state=True),
                "lstm-few": RecurrentProblem.make("lstm", (10, 4, 48), 96, state=True),
                "gru": RecurrentProblem.make("gru", (8, 24, 48), 96, state=True),
                "rnn": RecurrentProblem.make("rnn", (12, 6, 48), 150, state=True),
            }
        )
    )
)


def test_the_grid_holds_every_kernel_and_every_small_case():
    pairs = list(testing.grid(small=True))
    assert {kernel.name for kernel, _ in pairs} == {kernel.name for kernel in kernels()}
    assert {case.name for _, case in pairs} == {case.name for case in testing.CASES.values() if case.small}
    assert {kernel.op for kernel in kernels()} == set(OPS)


def check(kernel, problem):
    arrays = testing.inputs(kernel.op, problem)
    before = [array.tobytes() for array in arrays]
    outputs = testing.poisoned_run(kernel, problem, arrays)
    assert [array.tobytes() for array in arrays] == before, "the kernel wrote to its inputs"
    assert testing.error(kernel.op, problem, arrays, outputs) <= kernel.limit


@pytest.mark.parametrize(("kernel", "problem"), GRID)
def test_agrees_with_the_reference(kernel, problem):
    check(kernel, problem)


@pytest.mark.parametrize(("kernel", "problem"), BLOCKS)
def test_agrees_with_the_reference_in_blocks(kernel, problem):
    check(kernel, problem)


@pytest.mark.parametrize(("kernel", "problem"), [*GRID, *BLOCKS])
def test_bits_do_not_depend_on_run_or_threads(kernel, problem, threads):
    arrays = testing.inputs(kernel.op, problem)
    results = []

    def run():
        results.append([output.tobytes() for output in testing.poisoned_run(kernel, problem, arrays)])

    with threads.eager():
        for count in (1, 2):
            threads.set_num_threads(count)
            run()
            run()
        with last_thread_first():
            run()
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize(("kernel", "problem"), MIDDLE)
def test_a_team_does_the_work(kernel, problem, threads):
    jobs = []

    def spy(worker, size, arguments):
        jobs.append((worker, size))
        last_first(worker, size, arguments)

    for count in (1, 2):
        jobs.clear()
        threads.set_num_threads(count)
        with threads.eager(), handing_over(spy):
            testing.poisoned_run(kernel, problem, testing.inputs(kernel.op, problem))
        # A phase with a single piece of work may run alone; the steps of several sequences are no such phase.
        assert max(size for _, size in jobs) == count
        steps = [size for worker, size in jobs if worker.py_func.__name__ in STEPS]
        # Threads that do not wait for each other have sequences of their own.
        most = count if kernel.algorithm in ("one", "units") else getattr(problem, "b", count)
        assert all(size == min(count, most) for size in steps)
        assert len(steps) == (isinstance(problem, RecurrentProblem) and kernel.algorithm != "stepwise")
        assert any(meets(worker) for worker, _ in jobs) == (kernel.algorithm in ("one", "units"))


# The workers of recurrent kernels that go through the steps.
STEPS = ("rows_worker", "units_worker", "one_worker", "single_worker", "bptt_worker")


# The operand that may hold NaN and inf. The other one, w or the weight gradient's gy, meets the zeros of the padding,
# where 0·NaN is NaN for a kernel that multiplies and nothing for one that leaves them out. In the same way recurrent
# weights meet the zeros of an absent state at the first step, and of the way back all that was saved is finite.
_DATA = {"conv2d_grad_input": ("gy",), "conv2d": ("x",), "conv2d_grad_weight": ("x",)}
for _cell in ("lstm", "gru", "rnn"):
    _DATA |= dict.fromkeys((_cell, f"{_cell}_train"), ("x", "b_ih", "b_hh", "h0", "c0"))
    _DATA[f"{_cell}_grad"] = ("gy", "ghn", "gcn")


def without_spread(kernel, problem, arrays, outputs):
    """The outputs with those that a NaN or inf may reach, though it does not belong there, replaced by the reference's.

    Where it does belong it must be, unless an activation makes a number of it.
    """
    if not kernel.spread:
        return outputs
    (wanted,) = testing.expected(kernel.op, problem, arrays)
    (before,) = testing.expected(kernel.op, dataclasses.replace(problem, activation=""), arrays)
    lost = ~np.isfinite(before)
    assert problem.activation or not np.isfinite(outputs[0][lost]).any()
    reached = np.zeros_like(lost)
    for n, c, i, j in np.argwhere(lost):
        rows, columns = (slice(max(0, at - kernel.spread), at + kernel.spread + 1) for at in (i, j))
        reached[n, c, rows, columns] = True
    return (np.where(reached, wanted, outputs[0]).astype(problem.dtype),)


@pytest.mark.parametrize(("kernel", "problem"), GRID)
def test_nan_and_inf_travel(kernel, problem):
    names = OPS[kernel.op].inputs
    generator = np.random.default_rng(zlib.crc32(kernel.name.encode()))
    for name in _DATA.get(kernel.op, names):
        which = names.index(name)
        size = testing.inputs(kernel.op, problem)[which].size
        places = (0, size - 1, int(generator.integers(size))) if size else ()
        for place, value in zip(places, generator.permutation([np.nan, np.inf, -np.inf]), strict=False):
            arrays = testing.inputs(kernel.op, problem)
            arrays[which].flat[place] = value
            outputs = testing.poisoned_run(kernel, problem, arrays)
            outputs = without_spread(kernel, problem, arrays, outputs)
            assert testing.error(kernel.op, problem, arrays, outputs) <= kernel.limit, (name, place, value)
        arrays = testing.inputs(kernel.op, problem)
        arrays[which][...] = np.nan
        outputs = testing.poisoned_run(kernel, problem, arrays)
        outputs = without_spread(kernel, problem, arrays, outputs)
        assert testing.error(kernel.op, problem, arrays, outputs) <= kernel.limit, (name, "all NaN")


def mutants(outputs, which):
    """Outputs with a mistake in one of them, by the name of the mistake."""
    y = outputs[which]
    place = np.unravel_index(np.argmax(np.abs(y)), y.shape)

    def mixed(wrong):
        return (*outputs[:which], wrong, *outputs[which + 1 :])

    def changed(edit):
        wrong = y.copy()
        edit(wrong)
        return mixed(wrong)

    def off(wrong):
        wrong[place] *= 1.001

    def unwritten(wrong):
        wrong[place] = np.nan

    def missing(wrong):
        wrong[place] = 0

    yield "largest element off by 0.001", changed(off)
    yield "largest element never written", changed(unwritten)
    yield "largest element zero", changed(missing)
    if not np.array_equal(np.roll(y, 1), y):
        yield "everything one place further", mixed(np.roll(y, 1))


@pytest.mark.parametrize(("kernel", "problem"), over(list(testing.grid(small=True)), dtypes=("float32",)))
def test_limits_are_not_loose(kernel, problem):
    arrays = testing.inputs(kernel.op, problem)
    outputs = testing.poisoned_run(kernel, problem, arrays)
    for which, name in enumerate(OPS[kernel.op].outputs):
        if name == "indices" or not outputs[which].any():
            continue
        for mistake, wrong in mutants(outputs, which):
            assert testing.error(kernel.op, problem, arrays, wrong) > kernel.limit, (name, mistake)


def test_wrong_indices_are_an_error():
    problem = testing.CASES["pool-2x2"].problem
    op = "max_pool2d_with_indices"
    arrays = testing.inputs(op, problem)
    y, indices = testing.poisoned_run(kernels(op)[0], problem, arrays)
    assert testing.error(op, problem, arrays, (y, indices)) == 0
    indices.flat[-1] += 1
    assert testing.error(op, problem, arrays, (y, indices)) == np.inf


# Denormal numbers.


def made_tiny(op, arrays, names=None):
    """The inputs, those of these names (None: all) denormal."""
    scaled = []
    for name, array in zip(OPS[op].inputs, arrays, strict=True):
        wanted = array.dtype.kind == "f" and (names is None or name in names)
        scale = np.finfo(array.dtype).tiny / 100 if wanted else 1
        scaled.append(array * np.asarray(scale, array.dtype))
    return tuple(scaled)


def timed(kernel, problem, contenders, outputs, scratch):
    # In the same memory for all: where arrays lie to each other can make a third of a small kernel's time.
    places = [functional.block(array.nbytes).view(array.dtype).reshape(array.shape) for array in contenders[0]]
    times = [[] for _ in contenders]
    for _ in range(25):
        for arrays, taken in zip(contenders, times, strict=True):
            for place, array in zip(places, arrays, strict=True):
                place[...] = array
            start = time.perf_counter()
            kernel.run(problem, *places, *outputs, scratch)
            taken.append(time.perf_counter() - start)
    return times


@pytest.mark.parametrize(("kernel", "problem"), MIDDLE)
def test_denormals_are_no_slower(kernel, problem, threads):
    threads.set_num_threads(1)
    normal = testing.inputs(kernel.op, problem)
    denormal = made_tiny(kernel.op, normal)
    first = (denormal[0], *normal[1:])
    outputs = testing.poisoned_run(kernel, problem, normal)
    scratch = functional.aligned(kernel.scratch(problem), problem.dtype)
    times = [[], [], []]
    # On a shared machine medians need more samples before they can be told apart: up to 30 rounds of 25.
    for _ in range(30):
        for taken, more in zip(times, timed(kernel, problem, (normal, denormal, first), outputs, scratch), strict=True):
            taken += more
        ratios = [median(taken) / median(times[0]) for taken in times[1:]]
        if max(ratios) <= 1.2:
            break
    assert max(ratios) <= 1.2


@pytest.mark.parametrize(("kernel", "problem"), [p for p in MIDDLE if "pool" not in p.values[0].op])
def test_denormals_are_flushed_in_kernels_and_only_there(kernel, problem, threads):
    small = np.full(64, np.finfo(problem.dtype).tiny, problem.dtype)
    names = OPS[kernel.op].inputs
    chosen = names[:1]
    if isinstance(problem, RecurrentProblem):
        # All that is added and not multiplied, so that a gate is 1/2 and a state nothing.
        chosen = _DATA[kernel.op]
    arrays = made_tiny(kernel.op, testing.inputs(kernel.op, problem), chosen)
    first = arrays[names.index(chosen[0])]
    assert (first != 0).mean() > 0.9
    threads.set_num_threads(2)
    with threads.eager():
        outputs = testing.poisoned_run(kernel, problem, arrays)
        with last_thread_first():
            outputs += testing.poisoned_run(kernel, problem, arrays)
    # Of what is saved for the way back, gates are 1/2.
    saved = [name == "saved" for name in OPS[kernel.op].outputs] * 2
    for output in (output for output, skipped in zip(outputs, saved, strict=True) if not skipped):
        if platform.machine().lower() in ("x86_64", "amd64"):
            assert (output == 0).all()
        else:
            # Elsewhere they are not flushed, and small numbers may come out.
            assert (np.abs(output) < np.finfo(problem.dtype).tiny * 100).all()
    assert (small / 4 > 0).all(), "denormals are still flushed in the calling thread"


# Through fastconv.functional.


def arguments(op, problem):
    """What a user passes to fastconv.functional beside the arrays to get `problem`."""
    if isinstance(problem, LinearProblem):
        return {}
    if isinstance(problem, RecurrentProblem):
        options = {"batch_first": problem.batch_first}
        further = {"lstm": {"linear": problem.linear}, "rnn": {"relu": problem.relu}}
        return options | further.get(problem.cell, {})
    given = {"stride": problem.stride, "padding": problem.padding}
    if isinstance(problem, ConvProblem):
        given |= {"dilation": problem.dilation, "groups": problem.groups}
        sizes = {"conv2d_grad_input": "input_size", "conv2d_grad_weight": "weight_size"}
        if op == "conv2d":
            given["activation"] = problem.activation
        if op in sizes:
            given[sizes[op]] = problem.input_shape if op == "conv2d_grad_input" else problem.weight_shape
        return given
    given["kernel_size"] = (problem.kh, problem.kw)
    floored = PoolProblem.make(problem.input_shape, dilation=problem.dilation, **given)
    given["ceil_mode"] = (floored.oh, floored.ow) != (problem.oh, problem.ow)
    if op.startswith("max"):
        return given | {"dilation": problem.dilation}
    if op == "avg_pool2d_grad":
        given["input_size"] = problem.input_shape
    divisor = problem.divisor_override or None
    return given | {"count_include_pad": problem.count_include_pad, "divisor_override": divisor}


def call(op, problem, arrays, algorithm="auto"):
    """The outputs of `op` by fastconv.functional."""
    if isinstance(problem, RecurrentProblem) and op != problem.cell:
        # Training and the way back have no function of their own: nn calls them so.
        return functional.run(op, problem, algorithm, *arrays)
    named = dict(zip(OPS[op].inputs, arrays, strict=True))
    if isinstance(problem, RecurrentProblem):
        absent = () if problem.cell == "lstm" else ("p", "c0")
        given = {"lengths": problem.ragged, "p": problem.peephole, "b_ih": problem.bias, "b_hh": problem.bias}
        given |= {"h0": problem.state, "c0": problem.state}
        named = {n: a if given.get(n, True) else None for n, a in named.items() if n not in absent}
    if "b" in named and not problem.bias:
        named["b"] = None
    if "z" in named and not problem.add:
        named["z"] = None
    result = getattr(functional, op)(**named, **arguments(op, problem), algorithm=algorithm)
    return result if isinstance(result, tuple) else (result,)


ORDINARY = {
    ConvProblem: ConvProblem.make(
        (2, 6, 9, 11), (4, 3, 3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, bias=True
    ),
    PoolProblem: PoolProblem.make((2, 3, 9, 11), (3, 2), stride=(2, 1), padding=(1, 0), ceil_mode=True),
    LinearProblem: LinearProblem.make((6, 7), (5, 7), bias=True),
    "lstm": RecurrentProblem.make("lstm", (5, 3, 4), 6, directions=2, state=True, ragged=True, peephole=True),
    "gru": RecurrentProblem.make("gru", (3, 5, 4), 7, directions=2, state=True, ragged=True, batch_first=True),
    "rnn": RecurrentProblem.make("rnn", (4, 1, 3), 9, state=True, ragged=True, relu=True),
}


def ordinary(op):
    """A problem of the operation in which every input has elements that can."""
    kind = OPS[op].problem
    problem = ORDINARY[op.partition("_")[0] if kind is RecurrentProblem else kind]
    return dataclasses.replace(problem, activation="tanh", add=True) if op == "conv2d" else problem


EVERY_OP = [(op, typed(ordinary(op), dtype)) for op in OPS for dtype in DTYPES]


def strided(array):
    wide = np.zeros([2 * extent for extent in array.shape], array.dtype)
    wide[tuple(slice(1, None, 2) for _ in array.shape)] = array
    return wide[tuple(slice(1, None, 2) for _ in array.shape)]


def transposed(array):
    return np.ascontiguousarray(array.T).T


def reversed_twice(array):
    back = tuple(slice(None, None, -1) for _ in array.shape)
    return np.ascontiguousarray(array[back])[back]


def channels_last(array):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1) if array.ndim > 1 else array


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def read_only_strided(array):
    view = strided(array)
    view.flags.writeable = False
    return view


def unaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned
    return view


def memory_mapped(array, mode="r"):
    """As a file of weights or images is opened: a read-only subclass of ndarray."""
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(array.tobytes())
        file.flush()
        return np.memmap(file.name, array.dtype, mode, shape=array.shape)


def from_bytes(array):
    """A read-only array whose memory belongs to a bytes object that nobody else keeps."""
    return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)


LAYOUTS = [
    strided,
    transposed,
    reversed_twice,
    channels_last,
    read_only,
    read_only_strided,
    unaligned,
    memory_mapped,
    from_bytes,
]


def absent(op, problem, outputs):
    """The outputs of no elements that fastconv.functional leaves out."""
    return [np.empty(shape, dtype) for shape, dtype in functional.output_shapes(op, problem)[len(outputs) :]]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize(("op", "problem"), EVERY_OP)
def test_any_layout_gives_the_same(op, problem, layout):
    arrays = testing.inputs(op, problem)
    wanted = call(op, problem, arrays)
    assert testing.error(op, problem, arrays, (*wanted, *absent(op, problem, wanted))) <= 2
    for changed in (k for k, array in enumerate(arrays) if array.size):
        mixed = tuple(layout(array) if k == changed else array for k, array in enumerate(arrays))
        assert np.array_equal(mixed[changed], arrays[changed])
        before = mixed[changed].copy()
        found = call(op, problem, mixed)
        assert [y.tobytes() for y in found] == [y.tobytes() for y in wanted]
        assert np.array_equal(mixed[changed], before)
        if layout in (read_only, read_only_strided, from_bytes):
            assert not mixed[changed].flags.writeable


@pytest.mark.parametrize(("op", "problem"), EVERY_OP)
def test_broadcast_inputs(op, problem):
    for changed, array in enumerate(testing.inputs(op, problem)):
        if not array.size:
            continue
        arrays = list(testing.inputs(op, problem))
        arrays[changed] = np.broadcast_to(array[:1, ..., :1] if array.ndim > 1 else array[:1], array.shape)
        solid = tuple(np.ascontiguousarray(a) for a in arrays)
        wanted = call(op, problem, solid)
        assert [y.tobytes() for y in call(op, problem, tuple(arrays))] == [y.tobytes() for y in wanted]


@pytest.mark.parametrize(("op", "problem"), EVERY_OP)
def test_outputs_are_the_callers_own(op, problem):
    arrays = testing.inputs(op, problem)
    first = call(op, problem, arrays)
    kept = [y.copy() for y in first]
    call(op, problem, testing.inputs(op, problem, seed=1))
    for y, copy in zip(first, kept, strict=True):
        assert y.flags.c_contiguous
        assert y.flags.writeable
        assert np.array_equal(y, copy)
        assert not any(np.shares_memory(y, array) for array in arrays)


def empty(problem):
    """`problem` without images, rows or sequences."""
    letter = {LinearProblem: "m", RecurrentProblem: "b"}.get(type(problem), "n")
    return dataclasses.replace(problem, **{letter: 0})


@pytest.mark.parametrize(("op", "problem"), EVERY_OP)
def test_zero_batch(op, problem):
    none = empty(problem)
    shapes = functional.output_shapes(op, none)
    for algorithm in ("auto", *(kernel.algorithm for kernel in kernels(op) if kernel.unsupported(none) is None)):
        outputs = call(op, none, testing.inputs(op, none), algorithm)
        outputs = (*outputs, *absent(op, none, outputs))
        assert [(y.shape, str(y.dtype)) for y in outputs] == shapes
        for name, y in zip(OPS[op].outputs, outputs, strict=True):
            if name.startswith(("gw", "gb", "gp")):
                assert y.size or not getattr(none, {"gb": "bias", "gp": "peephole"}.get(name[:2], ""), True)
                assert (y == 0).all()
            else:
                assert y.size == 0


GROUPED = ConvProblem.make((1, 2, 7, 9), (2, 1, 3, 3), padding=1, groups=2)


@pytest.mark.parametrize(
    "kernel", [k for k in kernels("conv2d") if k.unsupported(GROUPED) is None], ids=lambda k: k.algorithm
)
def test_a_nan_reaches_its_windows_only(kernel):
    x, w, _, _ = testing.inputs("conv2d", GROUPED)
    x[0, 1, 3, 4] = np.nan
    y = functional.conv2d(x, w, padding=1, groups=2, algorithm=kernel.algorithm)
    own, others = (np.zeros(y.shape, bool) for _ in range(2))
    own[0, 1, 2:5, 3:6] = True
    others[0, 1, max(0, 2 - kernel.spread) : 5 + kernel.spread, max(0, 3 - kernel.spread) : 6 + kernel.spread] = True
    assert np.isnan(y[own]).all()
    assert not np.isnan(y[~others]).any()


# Gradients against differences of the forward operation, in float64.

GRADIENTS = [
    pytest.param(kernel, typed(case.problem, "float64"), id=f"{kernel.name}-{case.name}")
    for kernel, case in testing.grid(small=True)
    # Recurrent layers are not linear: test_recurrent_kernels.py has theirs.
    if "_grad" in kernel.op and not isinstance(case.problem, RecurrentProblem)
]


@pytest.mark.parametrize(("kernel", "problem"), GRADIENTS)
def test_gradients_are_differences(kernel, problem):
    """⟨gradient, d⟩ = (f(a + d) − f(a − d)) / 2 along a random d, f = Σ gy · forward: exact, as f is linear here."""
    forward, _, with_respect_to = kernel.op.partition("_grad")
    generator = np.random.default_rng(5)
    arrays = dict(zip(OPS[forward].inputs, testing.inputs(forward, problem), strict=True))
    if forward == "max_pool2d":
        # Whole numbers, all different: a step of less than a half changes no maximum.
        arrays["x"] = generator.permutation(arrays["x"].size).reshape(arrays["x"].shape).astype(np.float64)
    gy = generator.standard_normal(problem.output_shape)
    given = {**arrays, "gy": gy}
    (gradient,) = call(kernel.op, problem, [given[name] for name in OPS[kernel.op].inputs], kernel.algorithm)
    moved = "w" if with_respect_to == "_weight" else "x"
    direction = generator.uniform(-0.25, 0.25, arrays[moved].shape)
    assert gradient.shape == direction.shape

    def total(step):
        there = {**arrays, moved: arrays[moved] + step * direction}
        (y,) = call(forward, problem, tuple(there.values()))
        return y

    difference = float(np.sum(gy * (total(1) - total(-1)))) / 2
    size = float(np.sum(np.abs(gy) * np.abs(total(1)))) + float(np.sum(np.abs(gradient * direction)))
    assert abs(difference - float(np.sum(gradient * direction))) <= 1e-13 * size
