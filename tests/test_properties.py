"""hypothesis draws problems; every kernel that supports one agrees with the reference on it.

Derandomized: the same problems every time. Sizes are small, but meet every remainder of vectors, tiles and strides.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastconv import testing
from fastconv.problem import ConvProblem, LinearProblem, PoolProblem, RecurrentProblem, output_size
from fastconv.reference import pool_output_size
from fastconv.registry import kernels, operations

DTYPE = st.sampled_from(["float32", "float64"])


def often(count):
    """Settings for `count` drawn problems."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        # The fixture holds a number of threads for all examples alike.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def sizes(largest, common=(1, 2, 3)):
    """1 … largest, small ones often."""
    return st.one_of(st.sampled_from(common), st.integers(1, largest))


pairs = st.tuples


@st.composite
def windows(draw, paddings, extra, dilations=(1, 2, 3)):
    """(size, kernel, stride, padding, dilation) of two axes such that at least one window fits."""
    kernel = draw(pairs(sizes(5), sizes(5)))
    stride = draw(pairs(sizes(4), sizes(4)))
    dilation = draw(pairs(st.sampled_from(dilations), st.sampled_from(dilations)))
    padding = draw(paddings(kernel))
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if padding == "same":
        least = (1, 1)
    elif padding == "valid":
        least = tuple(span)
    else:
        top, bottom, left, right = padding if len(padding) == 4 else (padding[0],) * 2 + (padding[1],) * 2
        least = (max(1, span[0] - top - bottom), max(1, span[1] - left - right))
    size = tuple(low + draw(st.integers(0, more)) for low, more in zip(least, extra, strict=True))
    return size, kernel, stride, padding, dilation


def conv_paddings(kernel):
    numbers = st.integers(0, 4)
    return st.one_of(
        pairs(numbers, numbers), pairs(numbers, numbers, numbers, numbers), st.sampled_from(["same", "valid"])
    )


def pool_paddings(kernel):
    """At most half the kernel, or torch and this library refuse it."""
    return st.one_of(
        pairs(st.integers(0, kernel[0] // 2), st.integers(0, kernel[1] // 2)), st.sampled_from(["same", "valid"])
    )


@st.composite
def conv_problems(draw):
    size, kernel, stride, padding, dilation = draw(windows(conv_paddings, (9, 40)))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    cg, og = draw(sizes(9)), draw(sizes(20, (1, 2, 3, 4, 8)))
    return ConvProblem.make(
        (draw(sizes(3)), cg * groups, *size),
        (og * groups, cg, *kernel),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        dtype=draw(DTYPE),
    )


@st.composite
def pool_problems(draw, dilations=(1, 2, 3)):
    size, kernel, stride, padding, dilation = draw(windows(pool_paddings, (9, 70), dilations))
    ceil = draw(st.booleans())
    problem = PoolProblem.make(
        (draw(sizes(3)), draw(sizes(4)), *size),
        kernel,
        stride=draw(st.sampled_from([stride, None])),
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil,
        count_include_pad=draw(st.booleans()),
        divisor_override=draw(st.sampled_from([None, None, 1, 7])),
        dtype=draw(DTYPE),
    )
    # The reference counts windows one by one.
    for extent, counted, axis in ((problem.h, problem.oh, 0), (problem.w, problem.ow, 1)):
        before, after = problem.padding[2 * axis : 2 * axis + 2]
        step, window = problem.stride[axis], (problem.kh, problem.kw)[axis]
        assert counted == pool_output_size(extent, window, step, before, after, problem.dilation[axis], ceil)
    return problem


@st.composite
def linear_problems(draw):
    m, i, o = (draw(sizes(largest)) for largest in (40, 90, 120))
    return LinearProblem.make((m, i), (o, i), bias=draw(st.booleans()), dtype=draw(DTYPE))


@st.composite
def recurrent_problems(draw):
    cell = draw(st.sampled_from(["lstm", "gru", "rnn"]))
    t, b, i = draw(sizes(20)), draw(sizes(60, (1, 1, 2, 3, 6, 7))), draw(sizes(40))
    flags = ["bias", "state", "ragged", "batch_first", *{"lstm": ["peephole", "linear"], "rnn": ["relu"]}.get(cell, [])]
    options = {name: draw(st.booleans()) for name in flags}
    shape = (b, t, i) if options["batch_first"] else (t, b, i)
    directions = draw(st.sampled_from([1, 2]))
    hidden = draw(sizes(90, (1, 2, 15, 16, 17, 64)))
    return RecurrentProblem.make(cell, shape, hidden, directions=directions, dtype=draw(DTYPE), **options)


def check(problem, threads, team):
    """Every operation of the problem by every kernel that supports it."""
    threads.set_num_threads(team)
    ran = 0
    for op in operations(problem):
        if not testing.has_meaning(op, problem):
            continue
        arrays = testing.inputs(op, problem)
        for kernel in kernels(op):
            if kernel.unsupported(problem) is None:
                with threads.eager():
                    outputs = testing.poisoned_run(kernel, problem, arrays)
                error = testing.error(op, problem, arrays, outputs)
                assert error <= kernel.limit, f"{kernel.name} has error {error}, limit {kernel.limit}"
                ran += 1
    assert ran >= len(operations(problem)) - 2


TEAM = st.sampled_from([1, 2])


@given(problem=conv_problems(), team=TEAM)
@often(300)
def test_convolution(problem, team, threads):
    check(problem, threads, team)


@given(problem=pool_problems(), team=TEAM)
@often(150)
def test_pooling(problem, team, threads):
    check(problem, threads, team)


@given(problem=pool_problems(dilations=(1,)), team=TEAM)
@often(100)
def test_pooling_without_dilation(problem, team, threads):
    """Average pooling has no other."""
    check(problem, threads, team)


@given(problem=linear_problems(), team=TEAM)
@often(150)
def test_linear(problem, team, threads):
    check(problem, threads, team)


@given(problem=recurrent_problems(), team=TEAM)
@often(300)
def test_recurrent(problem, team, threads):
    check(problem, threads, team)


# Output sizes, against definitions.


@given(size=st.integers(1, 60), kernel=sizes(7), stride=sizes(6), dilation=sizes(4))
@often(300)
def test_same_padding_gives_one_output_a_stride(size, kernel, stride, dilation):
    problem = ConvProblem.make(
        (1, 1, size, 1), (1, 1, kernel, 1), stride=(stride, 1), padding="same", dilation=(dilation, 1)
    )
    top, bottom = problem.padding[:2]
    assert problem.oh == -(-size // stride)
    assert 0 <= bottom - top <= 1, "the odd row goes after"
    # No more than is needed: without its last row of padding the last window would not fit.
    if bottom:
        assert output_size(size, kernel, stride, top, bottom - 1, dilation) < problem.oh


@given(size=st.integers(1, 60), kernel=sizes(7), stride=sizes(6), padding=st.integers(0, 5), dilation=sizes(4))
@often(300)
def test_output_size_counts_windows(size, kernel, stride, padding, dilation):
    windows = pool_output_size(size, kernel, stride, padding, padding, dilation)
    arguments = {"stride": (1, stride), "padding": (0, padding), "dilation": (1, dilation)}
    if windows:
        assert ConvProblem.make((1, 1, 1, size), (1, 1, 1, kernel), **arguments).ow == windows
    else:
        with pytest.raises(ValueError, match="smaller than the kernel"):
            ConvProblem.make((1, 1, 1, size), (1, 1, 1, kernel), **arguments)
