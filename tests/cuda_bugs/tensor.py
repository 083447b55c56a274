"""Bugs for tensor.cu."""

from formats import ROUNDED

from fastconv import testing
from fastconv.problem import ConvProblem
from fastconv.registry import kernels, operations

# More than a block of channels, of pixels and of a sum, and less; several shares of pixels; planes and rows that are no
# multiples of anything.
PROBLEMS = (
    ConvProblem.make((2, 7, 9, 11), (5, 7, 3, 2), padding=(1, 0), bias=True, activation="tanh", add=True),
    ConvProblem.make((3, 5, 9, 8), (37, 5, 1, 1), stride=(2, 3)),
    ConvProblem.make((1, 67, 5, 7), (133, 67, 2, 3), dilation=(1, 2), padding=(2, 2)),
    ConvProblem.make((3, 2, 17, 19), (5, 2, 3, 3), stride=(1, 2), padding=1),
    ConvProblem.make((1, 1, 1, 1), (1, 1, 1, 1)),
)


def error(op, format, problem):
    """The error of one format's kernel against the operation in float64 on what its inputs are in the format: nothing
    but float32's sums is left of it."""
    kernel = next(k for k in kernels(op, "cuda") if k.algorithm == f"implicit_{format}")
    arrays = testing.inputs(op, problem)
    outputs = testing.poisoned_run(kernel, problem, arrays)
    rounded = (*(ROUNDED[format](array) for array in arrays[:2]), *arrays[2:])
    return testing.Oracle(op, problem, rounded).error(outputs)


def served(problem):
    """The operations of a problem that have kernels for tensor cores which can do it."""
    found = [k for op in operations(problem) for k in kernels(op, "cuda") if k.algorithm == "implicit_half"]
    return [k.op for k in found if testing.serves(k, problem)]


def right(*ops):
    """Whether the kernels of these operations are right."""
    every = [(op, format, p) for format in ROUNDED for p in PROBLEMS for op in served(p) if op in ops]
    return all(error(op, format, problem) <= 1 for op, format, problem in every)


def works():
    """Whether the kernels are right."""
    return right("conv2d", "conv2d_grad_input")


BUGS = {
    "no barrier": ("tensor", "        __syncthreads();\n        const bool more", "        const bool more"),
    "no barrier before the sums": ("tensor", "    __syncthreads();\n    if (!multiplies)", "    if (!multiplies)"),
    "nothing waited for": ("tensor", "__pipeline_wait_prior(0);", "__pipeline_wait_prior(1);"),
    "the half that is read": ("tensor", "if (more) put_x(part ^ 1);", "if (more) put_x(part);"),
    "weights past the end": ("tensor", "first_o + row < o_count", "first_o + row <= o_count"),
    "padding on one side only": ("tensor", "(unsigned)(u0 + at.z) < (unsigned)width", "u0 + at.z >= 0"),
    "another lane's pixel": ("tensor", "sums[k][lane]", "sums[k][lane ^ 1]"),
    "a channel too many": ("tensor", "|| o >= o_count) break", "|| o > o_count) break"),
    "a pixel too many": ("tensor", "if (p >= pixels ||", "if (p > pixels ||"),
    "lanes that do not come": ("tensor", "        if (multiplies)\n", "        if (multiplies && pixel < pixels)\n"),
    "sums written while they are read": ("tensor", "        }\n        __syncwarp();\n", "        }\n"),
    "sums read before they are there": ("tensor", "    __syncwarp();\n", "", "tensor.cuh"),
    "sums by columns": ("tensor", "wmma::mem_row_major", "wmma::mem_col_major", "tensor.cuh"),
    "pixels by rows": ("tensor", "wmma::col_major", "wmma::row_major", "tensor.cuh"),
    "half of a part multiplied": ("tensor", "q < TILE_Q; q += STEP", "q < STEP; q += STEP"),
    "lines that are no multiples of 16 bytes": ("tensor", "LINE (5 * PIECE)", "LINE (5 * PIECE + 2)", "tensor.cuh"),
    "cut, not rounded": ("tensor", "return wmma::__float_to_tf32(x);", "return x;", "tensor.cuh"),
    "weights turned": (
        "round_weights",
        "((size_t)of * c_count + row) * taps",
        "((size_t)row * o_count + of) * taps",
    ),
    "zeros not written": ("round_weights", "if (q >= depth)", "if (q >= (flip ? o_count : c_count) * taps)"),
    "read past the end": ("round_weights", "of < (flip ? o_count : c_count)", "of <= (flip ? o_count : c_count)"),
}
