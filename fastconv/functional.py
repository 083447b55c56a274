"""The array level: arrays in, arrays out, forward and gradients; nothing is recorded.

NumPy arrays of float32 or float64, any strides, read-only or not; or CuPy arrays and those of other libraries on a CUDA
device, of which CuPy arrays come. All arrays of a call have one dtype and are on one device. Every function takes
`algorithm`: "auto", or the name of one that `fastconv.registry.kernels(op, backend)` lists. Sizes and argument rules
are torch.nn's (see fastconv.problem), and padding may also be "same" (TensorFlow's rule, strided too), "valid" or, for
convolution, (top, bottom, left, right).

Raises ValueError or TypeError that names the argument, its value and what is allowed; Unsupported when a named
algorithm cannot do the problem.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial, wraps
from math import prod
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from fastconv import device
from fastconv import problem as problems
from fastconv.memory import SMALLEST, block, empty
from fastconv.problem import (
    ConvProblem,
    IntPair,
    LinearProblem,
    Padding,
    PoolProblem,
    Problem,
    RecurrentProblem,
)
from fastconv.registry import OPS, Kernel, choose

Array: TypeAlias = npt.NDArray[Any]

# The most scratch a thread keeps between calls, in bytes.
_KEPT_SCRATCH = 32 * 2**20


def _checked(**arrays: object) -> str:
    """The common dtype of the named arrays; TypeError if one is no array, of another dtype or on another device."""
    on_device = False
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
            if not device.is_cupy(array):
                kinds = "a NumPy array without a mask or a CuPy array"
                raise TypeError(f"{name}: needs {kinds}, got {type(array).__name__}")
            on_device = True
    if on_device:
        device.check_together(arrays)
    return problems.same_dtype(**arrays)


_F = TypeVar("_F", bound=Callable[..., Any])


def _adopting(function: _F) -> _F:
    """The function, taking arrays of other libraries on a CUDA device too."""

    @wraps(function)
    def adopted(*args: Any, **kwargs: Any) -> Any:
        return function(*map(_adopt, args), **{name: _adopt(value) for name, value in kwargs.items()})

    return cast(_F, adopted)


def _adopt(value: Any) -> Any:
    if value is None or isinstance(value, (np.ndarray, int, str, tuple)):
        return value
    found = device.foreign(value)
    return value if found is None else found


def prepared(array: Array) -> Array:
    """`array` as kernels take it: C-contiguous, aligned, and of a type Numba need not compile again for."""
    if type(array) is np.ndarray:
        flags = array.flags
        if flags.c_contiguous and flags.aligned and flags.writeable:
            return array
    elif device.is_cupy(array):
        return cast(Array, device.prepared(array))
    array = np.require(array, requirements=("C", "A"))
    if not array.flags.writeable and array.size:
        # Numba compiles a second version for read-only arrays. Kernels never write to inputs, so alias it instead.
        buffer = (ctypes.c_byte * array.nbytes).from_address(array.ctypes.data)
        return np.ndarray(array.shape, array.dtype, buffer)  # type: ignore[arg-type]
    return array


def aligned(elements: int, dtype: str) -> Array:
    """An uninitialised 1-D array that starts on a cache line, so that kernels can keep threads off each other's."""
    return block(elements * problems.itemsize(dtype)).view(dtype)


class _Workspace(threading.local):
    """Scratch memory that a thread keeps between calls: fresh pages cost more than many a kernel.

    Taken and given back, so that a call within a call (from a signal handler, say) has scratch of its own.
    """

    def __init__(self) -> None:
        self.kept: Array | None = None

    def take(self, nbytes: int) -> Array:
        """An uninitialised array of at least `nbytes` on a cache line, nobody else's until it is given back."""
        kept, self.kept = self.kept, None
        return kept if kept is not None and kept.nbytes >= nbytes else aligned(-(-nbytes // 4), "float32")

    def give(self, memory: Array) -> None:
        """Keep the memory for the next call, unless it is too much to keep."""
        if memory.nbytes <= _KEPT_SCRATCH:
            self.kept = memory


_workspace = _Workspace()


class Kept:
    """What kernels prepared of the weights of one layer, kept until these change.

    The owner says by `state`, any hashable, which values the weights have; a new state forgets all.
    """

    def __init__(self) -> None:
        self._state: object = None
        self._made: dict[str, Array] = {}

    def of(self, state: object) -> Kept:
        """Itself, with nothing in it that was made in another state."""
        if state != self._state:
            self._made.clear()
            self._state = state
        return self

    def weights(self, kernel: Kernel, problem: Problem, weights: Sequence[Array]) -> Array:
        """What `kernel` prepares of the weights, made now or before."""
        made = self._made.get(kernel.name)
        if made is None:
            assert kernel.prepare is not None
            elements = kernel.prepared(problem)
            on_device = kernel.backend == "cuda"
            made = device.cupy().empty(elements, problem.dtype) if on_device else aligned(elements, problem.dtype)
            kernel.prepare(problem, *weights, made)
            if on_device:
                # Other streams may be the next to read it.
                device.cupy().cuda.get_current_stream().synchronize()
            self._made[kernel.name] = made
        return made

    def get(self, kernel: Kernel) -> Array | None:
        """What `kernel` prepared, None if it has not."""
        return self._made.get(kernel.name)

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return sum(made.nbytes for made in self._made.values())

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        # A copy of a layer makes its own.
        return Kept, ()


def output_shapes(op: str, problem: Problem) -> list[tuple[tuple[int, ...], str]]:
    """Shape and dtype of every output of `op`."""
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "y": (problem.output_shape, problem.dtype),
        "gx": (problem.input_shape, problem.dtype),
        "indices": (problem.output_shape, "int64"),
    }
    if isinstance(problem, RecurrentProblem):
        w_ih, w_hh, bias = problem.weight_shapes
        lstm = problem.cell == "lstm"
        cell_shape = problem.state_shape if lstm else (0,)
        given = problem.state_shape if problem.state else (0,)
        others = {"hn": problem.state_shape, "cn": cell_shape, "saved": problem.saved_shape, "gw_ih": w_ih}
        others |= {"gw_hh": w_hh, "gb_ih": bias, "gb_hh": bias, "gh0": given, "gc0": given if lstm else (0,)}
        others["gp"] = (problem.directions, 3 * problem.h) if problem.peephole else (0,)
        shapes |= {name: (shape, problem.dtype) for name, shape in others.items()}
    elif not isinstance(problem, PoolProblem):
        shapes["gw"] = (problem.weight_shape, problem.dtype)
    return [shapes[name] for name in OPS[op].outputs]


def _wanted_shapes(op: str, problem: Problem, unwanted: frozenset[str]) -> list[tuple[tuple[int, ...], str]]:
    """`output_shapes`, of no elements for those that nobody wants."""
    shapes = zip(OPS[op].outputs, output_shapes(op, problem), strict=True)
    return [((0,) if name in unwanted else shape, dtype) for name, (shape, dtype) in shapes]


class Bound:
    """A CPU kernel and a problem, and what of a call depends on nothing else."""

    __slots__ = ("empty", "kernel", "nbytes", "none", "outputs", "problem", "run", "simple", "weights")

    def __init__(self, kernel: Kernel, problem: Problem, unwanted: frozenset[str] = frozenset()) -> None:
        self.kernel, self.problem = kernel, problem
        self.outputs = [
            (np.empty if prod(shape) * np.dtype(dtype).itemsize < SMALLEST else empty, shape, np.dtype(dtype))
            for shape, dtype in _wanted_shapes(kernel.op, problem, unwanted)
        ]
        self.none = _NO_ELEMENTS[problem.dtype]
        # No images: nothing to do, and a sum over nothing is zero.
        self.empty = problem.flops == 0
        self.nbytes = 0 if self.empty else kernel.scratch(problem) * problems.itemsize(problem.dtype)
        self.run = partial(kernel.run, problem) if kernel.ready is None else kernel.ready(problem)
        op = OPS[kernel.op]
        self.weights = [op.inputs.index(name) for name in op.weights] if kernel.prepare is not None else None
        # For one output and nothing else, when Python's own time is most of a call's: arrays in, that output out.
        self.simple: Callable[..., Array] | None = None
        if not (self.empty or self.nbytes or self.weights is not None or len(self.outputs) > 1):
            run, none, (new, shape, dtype) = self.run, self.none, self.outputs[0]

            def simple(*arrays: Array) -> Array:
                y = new(shape, dtype)
                run(*arrays, y, none)
                return y

            self.simple = simple

    def __call__(self, arrays: tuple[Array, ...], kept: Kept | None = None) -> tuple[Array, ...]:
        """The outputs for these arrays, which are as kernels take them; see `run` for `kept`."""
        if self.simple is not None:
            return (self.simple(*arrays),)
        if self.empty:
            return tuple(np.zeros(shape, dtype) for _, shape, dtype in self.outputs)
        made = {}
        if kept is not None and self.weights is not None:
            made["u"] = kept.weights(self.kernel, self.problem, [arrays[k] for k in self.weights])
        return self.compute(arrays, **made)

    def compute(self, arrays: tuple[Array, ...], **made: Array) -> tuple[Array, ...]:
        """The outputs for these arrays, of which there are some; made: u=, what the kernel prepared."""
        outputs = tuple([new(shape, dtype) for new, shape, dtype in self.outputs])
        memory = _workspace.take(self.nbytes)
        try:
            scratch = memory[: self.nbytes // 4].view(self.problem.dtype)
            self.run(*arrays, *outputs, scratch, **made)
        finally:
            _workspace.give(memory)
        return outputs


_NO_ELEMENTS = {dtype: np.empty(0, dtype) for dtype in problems.DTYPES}


@lru_cache(maxsize=4096)
def bound(kernel: Kernel, problem: Problem, unwanted: frozenset[str] = frozenset()) -> Any:
    """The kernel bound to the problem; outputs that are unwanted have no elements, and the kernel leaves them out.

    A Bound, or for a CUDA kernel a device.Bound, which is called in the same way.
    """
    if kernel.backend == "cuda":
        return device.Bound(kernel, problem, _wanted_shapes(kernel.op, problem, unwanted))
    return Bound(kernel, problem, unwanted)


def run(
    op: str, problem: Problem, algorithm: str, *inputs: Array | None, kept: Kept | None = None
) -> tuple[Array, ...]:
    """Do `op` with the kernel chosen for `problem`; `inputs` in the order of OPS[op].inputs, None for an absent one.

    kept: where what the kernel prepares of w stays for the next call; None if it need not.
    """
    chosen = bound(choose(op, problem, algorithm, device.backend(inputs[0]), kept=kept is not None), problem)
    given = tuple([chosen.none if array is None else prepared(array) for array in inputs])
    return cast("tuple[Array, ...]", chosen(given, kept))


def _expect(name: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name}={array.shape}: needs shape {shape}")


def _expect_bias(b: Array | None, channels: int) -> None:
    if b is not None and b.shape != (channels,):
        raise ValueError(f"b={b.shape}: needs shape ({channels},), one value an output channel")


def conv2d_problem(
    x: Array,
    w: Array,
    b: Array | None,
    stride: IntPair,
    padding: Padding,
    dilation: IntPair,
    groups: int,
    activation: str = "",
    z: Array | None = None,
) -> ConvProblem:
    """What `conv2d` with these arguments asks of a kernel."""
    dtype = _checked(x=x, w=w) if b is None else _checked(x=x, w=w, b=b)
    if z is not None:
        _checked(x=x, z=z)
    p = ConvProblem.make(
        x.shape,
        w.shape,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=b is not None,
        dtype=dtype,
        activation=activation,
        add=z is not None,
    )
    _expect_bias(b, p.o)
    if z is not None:
        _expect("z", z, p.output_shape)
    return p


@_adopting
def conv2d(
    x: Array,
    w: Array,
    b: Array | None = None,
    stride: IntPair = 1,
    padding: Padding = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    *,
    activation: str = "",
    z: Array | None = None,
    algorithm: str = "auto",
    kept: Kept | None = None,
) -> Array:
    """y[n,o,i,j] = b[o] + Σ_{c,r,s} w[o,c,r,s] · x[n, c, i·sh + r·dh − top, j·sw + s·dw − left], zeros outside x.

    x (N, C, H, W), w (O, C/groups, KH, KW), b (O) -> y (N, O, OH, OW). Source: torch.nn.functional.conv2d.
    With z (N, O, OH, OW) and activation "relu", "sigmoid" or "tanh" the result is activation(y + z), in the same pass
    over y. kept: what a layer keeps of its weights between calls.
    """
    p = conv2d_problem(x, w, b, stride, padding, dilation, groups, activation, z)
    return run("conv2d", p, algorithm, x, w, b, z, kept=kept)[0]


@_adopting
def conv2d_grad_input(
    input_size: tuple[int, ...],
    w: Array,
    gy: Array,
    stride: IntPair = 1,
    padding: Padding = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
) -> Array:
    """The gradient of Σ gy·conv2d(x, w) with respect to x.

    input_size (N, C, H, W), w (O, C/groups, KH, KW), gy (N, O, OH, OW) -> gx (N, C, H, W).
    Source: torch.nn.grad.conv2d_input.
    """
    dtype = _checked(w=w, gy=gy)
    p = ConvProblem.make(
        input_size, w.shape, stride=stride, padding=padding, dilation=dilation, groups=groups, dtype=dtype
    )
    _expect("gy", gy, p.output_shape)
    return run("conv2d_grad_input", p, algorithm, gy, w)[0]


@_adopting
def conv2d_grad_weight(
    x: Array,
    weight_size: tuple[int, ...],
    gy: Array,
    stride: IntPair = 1,
    padding: Padding = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
) -> Array:
    """The gradient of Σ gy·conv2d(x, w) with respect to w.

    x (N, C, H, W), weight_size (O, C/groups, KH, KW), gy (N, O, OH, OW) -> gw (O, C/groups, KH, KW).
    Source: torch.nn.grad.conv2d_weight.
    """
    dtype = _checked(x=x, gy=gy)
    p = ConvProblem.make(
        x.shape, weight_size, stride=stride, padding=padding, dilation=dilation, groups=groups, dtype=dtype
    )
    _expect("gy", gy, p.output_shape)
    return run("conv2d_grad_weight", p, algorithm, x, gy)[0]


def max_pool2d_problem(
    x: Array, kernel_size: IntPair, stride: IntPair | None, padding: Padding, dilation: IntPair, ceil_mode: bool
) -> PoolProblem:
    """What `max_pool2d` with these arguments asks of a kernel."""
    dtype = _checked(x=x)
    return PoolProblem.make(
        x.shape, kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode, dtype=dtype
    )


@_adopting
def max_pool2d(
    x: Array,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: Padding = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    *,
    algorithm: str = "auto",
) -> Array:
    """y[n,c,i,j] = the largest x in window (i, j), NaN if there is one; padding counts as −inf.

    x (N, C, H, W) -> y (N, C, OH, OW). Source: torch.nn.functional.max_pool2d.
    """
    p = max_pool2d_problem(x, kernel_size, stride, padding, dilation, ceil_mode)
    return run("max_pool2d", p, algorithm, x)[0]


@_adopting
def max_pool2d_with_indices(
    x: Array,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: Padding = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    *,
    algorithm: str = "auto",
) -> tuple[Array, Array]:
    """max_pool2d and where each maximum stands: (y, indices), indices int64, h·W + w within the channel's plane.

    Of equal values the first in reading order counts; of NaNs the last. Source: torch, return_indices=True.
    """
    p = max_pool2d_problem(x, kernel_size, stride, padding, dilation, ceil_mode)
    y, indices = run("max_pool2d_with_indices", p, algorithm, x)
    return y, indices


@_adopting
def max_pool2d_grad(
    x: Array,
    gy: Array,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: Padding = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    *,
    algorithm: str = "auto",
) -> Array:
    """The gradient of Σ gy·max_pool2d(x) with respect to x: each gy goes to where its window's maximum stands.

    x (N, C, H, W), gy (N, C, OH, OW) -> gx (N, C, H, W).
    """
    p = max_pool2d_problem(x, kernel_size, stride, padding, dilation, ceil_mode)
    _checked(x=x, gy=gy)
    _expect("gy", gy, p.output_shape)
    return run("max_pool2d_grad", p, algorithm, x, gy)[0]


def avg_pool2d_problem(
    input_size: tuple[int, ...],
    dtype: str,
    kernel_size: IntPair,
    stride: IntPair | None,
    padding: Padding,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> PoolProblem:
    """What `avg_pool2d` with these arguments asks of a kernel."""
    return PoolProblem.make(
        input_size,
        kernel_size,
        stride=stride,
        padding=padding,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
        dtype=dtype,
    )


@_adopting
def avg_pool2d(
    x: Array,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    algorithm: str = "auto",
) -> Array:
    """y[n,c,i,j] = the sum of x over window (i, j), divided by the window's size.

    The size counts padding if count_include_pad, but never what lies beyond it; divisor_override replaces it.
    x (N, C, H, W) -> y (N, C, OH, OW). Source: torch.nn.functional.avg_pool2d.
    """
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    p = avg_pool2d_problem(x.shape, _checked(x=x), *options)
    return run("avg_pool2d", p, algorithm, x)[0]


@_adopting
def avg_pool2d_grad(
    input_size: tuple[int, ...],
    gy: Array,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    algorithm: str = "auto",
) -> Array:
    """The gradient of Σ gy·avg_pool2d(x) with respect to x.

    input_size (N, C, H, W), gy (N, C, OH, OW) -> gx (N, C, H, W).
    """
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    p = avg_pool2d_problem(input_size, _checked(gy=gy), *options)
    _expect("gy", gy, p.output_shape)
    return run("avg_pool2d_grad", p, algorithm, gy)[0]


def linear_problem(x: Array, w: Array, b: Array | None) -> LinearProblem:
    """What `linear` with these arguments asks of a kernel."""
    dtype = _checked(x=x, w=w) if b is None else _checked(x=x, w=w, b=b)
    p = LinearProblem.make(x.shape, w.shape, bias=b is not None, dtype=dtype)
    _expect_bias(b, p.o)
    return p


@_adopting
def linear(x: Array, w: Array, b: Array | None = None, *, algorithm: str = "auto", kept: Kept | None = None) -> Array:
    """y = x wᵀ + b. x (M, in), w (out, in), b (out) -> y (M, out).

    kept: what a layer keeps of its weights between calls. Source: torch.nn.functional.linear.
    """
    return run("linear", linear_problem(x, w, b), algorithm, x, w, b, kept=kept)[0]


@_adopting
def linear_grad_input(w: Array, gy: Array, *, algorithm: str = "auto") -> Array:
    """gx = gy w, the gradient of Σ gy·linear(x, w) with respect to x. w (out, in), gy (M, out) -> gx (M, in)."""
    dtype = _checked(w=w, gy=gy)
    rows, _ = problems.shape("gy", gy.shape, "M out_features")
    _, features = problems.shape("w", w.shape, "out_features in_features")
    p = LinearProblem.make((rows, features), w.shape, dtype=dtype)
    _expect("gy", gy, p.output_shape)
    return run("linear_grad_input", p, algorithm, gy, w)[0]


@_adopting
def linear_grad_weight(x: Array, gy: Array, *, algorithm: str = "auto") -> Array:
    """gw = gyᵀ x, the gradient of Σ gy·linear(x, w) with respect to w. x (M, in), gy (M, out) -> gw (out, in)."""
    dtype = _checked(x=x, gy=gy)
    _, features = problems.shape("x", x.shape, "M in_features")
    _, outputs = problems.shape("gy", gy.shape, "M out_features")
    p = LinearProblem.make(x.shape, (outputs, features), dtype=dtype)
    _expect("gy", gy, p.output_shape)
    return run("linear_grad_weight", p, algorithm, x, gy)[0]


def _recurrent_problem(
    cell: str,
    x: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None,
    b_hh: Array | None,
    p: Array | None,
    states: Sequence[tuple[str, Array | None]],
    lengths: Array | None,
    options: dict[str, bool],
) -> RecurrentProblem:
    """What a recurrent layer with these arguments asks of a kernel."""
    given = {"b_ih": b_ih, "b_hh": b_hh, "p": p, **dict(states)}
    dtype = _checked(x=x, w_ih=w_ih, w_hh=w_hh, **{name: a for name, a in given.items() if a is not None})
    directions, _rows, hidden = problems.shape("w_hh", w_hh.shape, "directions gates·hidden_size hidden_size")
    if (b_ih is None) is not (b_hh is None):
        raise ValueError(f"b_hh={b_hh if b_hh is None else b_hh.shape}: needs both biases or none")
    problem = RecurrentProblem.make(
        cell,
        x.shape,
        hidden,
        directions=directions,
        bias=b_ih is not None,
        state=any(a is not None for _, a in states),
        ragged=lengths is not None,
        peephole=p is not None,
        dtype=dtype,
        **options,
    )
    wanted = dict(zip(("w_ih", "w_hh", "b_ih"), problem.weight_shapes, strict=True))
    wanted["b_hh"] = wanted["b_ih"]
    wanted |= {"p": (directions, 3 * hidden), **{name: problem.state_shape for name, _ in states}}
    for name, a in {"w_ih": w_ih, "w_hh": w_hh, **given}.items():
        if a is not None:
            _expect(name, a, wanted[name])
        elif problem.state and name in dict(states):
            raise ValueError(f"{name}=None: needs shape {problem.state_shape}, with the other state")
    if lengths is not None:
        if lengths.dtype != np.int64 or lengths.shape != (problem.b,):
            raise ValueError(f"lengths={lengths.dtype} {lengths.shape}: needs int64 of shape ({problem.b},)")
        if device.is_cupy(x):
            device.check_together({"x": x, "lengths": lengths})
        if lengths.size and not 0 <= lengths.min() <= lengths.max() <= problem.t:
            raise ValueError(f"lengths={lengths.min()} to {lengths.max()}: needs 0 to {problem.t}")
    return problem


@_adopting
def lstm(
    x: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    p: Array | None = None,
    h0: Array | None = None,
    c0: Array | None = None,
    lengths: Array | None = None,
    *,
    batch_first: bool = False,
    linear: bool = False,
    algorithm: str = "auto",
    kept: Kept | None = None,
) -> tuple[Array, Array, Array]:
    """(y, h, c) of one LSTM layer: i, f, o = σ(a), g = tanh(a), c(t) = f·c(t−1) + i·g, h(t) = o·tanh(c(t)), with
    a = w_ih·x(t) + b_ih + w_hh·h(t−1) + b_hh.

    x (T, B, I), or (B, T, I) if batch_first; w_ih (D, 4·H, I), w_hh (D, 4·H, H) and the biases (D, 4·H) of D
    directions, gates in the order i, f, g, o; h0, c0 (D, B, H), both or none; p (D, 3·H), what i and f see of c(t−1)
    and o of c(t); lengths (B), int64 -> y (T, B, D·H), h and c (D, B, H) at each sequence's end. linear: h(t) = o·c(t).
    Source: torch.nn.LSTM. Gradients are those of nn.LSTM.
    """
    options = {"batch_first": batch_first, "linear": linear}
    problem = _recurrent_problem("lstm", x, w_ih, w_hh, b_ih, b_hh, p, [("h0", h0), ("c0", c0)], lengths, options)
    y, hn, cn = _recur(problem, algorithm, kept, x, w_ih, w_hh, b_ih, b_hh, p, h0, c0, lengths)
    return y, hn, cn


@_adopting
def gru(
    x: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    h0: Array | None = None,
    lengths: Array | None = None,
    *,
    batch_first: bool = False,
    algorithm: str = "auto",
    kept: Kept | None = None,
) -> tuple[Array, Array]:
    """(y, h) of one GRU layer: r, z = σ(w_ih·x(t) + b_ih + w_hh·h(t−1) + b_hh), h(t) = (1 − z)·n + z·h(t−1), with
    n = tanh(w_in·x(t) + b_in + r·(w_hn·h(t−1) + b_hn)).

    Arguments and results as lstm's, with three gates in the order r, z, n. Source: torch.nn.GRU.
    """
    problem = _recurrent_problem(
        "gru", x, w_ih, w_hh, b_ih, b_hh, None, [("h0", h0)], lengths, {"batch_first": batch_first}
    )
    y, hn, _ = _recur(problem, algorithm, kept, x, w_ih, w_hh, b_ih, b_hh, None, h0, None, lengths)
    return y, hn


@_adopting
def rnn(
    x: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    h0: Array | None = None,
    lengths: Array | None = None,
    *,
    batch_first: bool = False,
    relu: bool = False,
    algorithm: str = "auto",
    kept: Kept | None = None,
) -> tuple[Array, Array]:
    """(y, h) of one layer of Elman's network: h(t) = tanh(w_ih·x(t) + b_ih + w_hh·h(t−1) + b_hh), or max(0, ·) if relu.

    Arguments and results as lstm's, with one gate. Source: torch.nn.RNN.
    """
    options = {"batch_first": batch_first, "relu": relu}
    problem = _recurrent_problem("rnn", x, w_ih, w_hh, b_ih, b_hh, None, [("h0", h0)], lengths, options)
    y, hn, _ = _recur(problem, algorithm, kept, x, w_ih, w_hh, b_ih, b_hh, None, h0, None, lengths)
    return y, hn


def _recur(p: RecurrentProblem, algorithm: str, kept: Kept | None, *inputs: Array | None) -> tuple[Array, ...]:
    """The kernel's (y, h, c); of no steps, no outputs and the states as they were."""
    if p.t == 0:
        xp = device.array_module(inputs[0])
        states = [xp.zeros(p.state_shape, p.dtype) if a is None else a.copy() for a in inputs[6:8]]
        return xp.zeros(p.output_shape, p.dtype), *states
    return run(p.cell, p, algorithm, *inputs, kept=kept)
