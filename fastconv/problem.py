"""What a kernel is asked to do: frozen, hashable problems.

All argument checking and every output-size formula of the library live in this file. A problem that exists is valid;
kernels trust it. Every error names the argument, its value and what is allowed.

Letters, the same everywhere: n images, c input channels, h w input size, o output channels, kh kw kernel size,
oh ow output size, groups; padding is (top, bottom, left, right), because SAME padding need not be symmetric.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

IntPair: TypeAlias = "int | Sequence[int]"
Padding: TypeAlias = "int | Sequence[int] | str"

DTYPES = ("float32", "float64")
# What a convolution may do to its outputs; "" is nothing.
ACTIVATIONS = ("", "relu", "sigmoid", "tanh")
_DTYPE_OF = {"f": "float32", "d": "float64"}

# Index arithmetic in kernels is int64; a single extent stays below this so that products of two never overflow.
_MAX_EXTENT = 2**31 - 1
# What processors can address.
_MOST_BYTES = 2**47


def _integer(name: str, value: object, minimum: int, whole: object = None) -> int:
    shown = value if whole is None else whole
    if type(value) is not int:
        if isinstance(value, bool) or not _like_int(value):
            raise TypeError(f"{name}={shown!r}: needs an int >= {minimum} and < 2**31, got {type(value).__name__}")
        value = operator.index(value)  # type: ignore[arg-type]
    if not minimum <= value <= _MAX_EXTENT:
        raise ValueError(f"{name}={shown!r}: needs an int >= {minimum} and < 2**31")
    return value


def _like_int(value: object) -> bool:
    if type(value) is int:
        return True
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        # Arrays have __index__, too, but only those of a single integer work.
        return False
    return True


def integer(name: str, value: object, minimum: int = 1) -> int:
    """`value` as an int of at least `minimum`, or a TypeError/ValueError that names the argument `name`."""
    return _integer(name, value, minimum)


def pair(name: str, value: object, minimum: int = 1) -> tuple[int, int]:
    """`value`, an int or a pair (height, width) of ints of at least `minimum`, as a pair."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name}={value!r}: needs an int or a pair (height, width), got {len(value)} values")
        return (_integer(name, value[0], minimum, value), _integer(name, value[1], minimum, value))
    if isinstance(value, bool) or not _like_int(value):
        raise TypeError(f"{name}={value!r}: needs an int or a pair (height, width), got {type(value).__name__}")
    number = _integer(name, value, minimum)
    return (number, number)


def boolean(name: str, value: object) -> bool:
    """`value` if it is True or False, else a TypeError that names the argument `name`."""
    if value is True or value is False:
        return value
    raise TypeError(f"{name}={value!r}: needs True or False, got {type(value).__name__}")


def known_dtype(dtype: object) -> str:
    """`dtype` if it is the name of a supported one, else a TypeError or ValueError."""
    if not isinstance(dtype, str):
        raise TypeError(f"dtype={dtype!r}: needs one of {', '.join(DTYPES)}, got {type(dtype).__name__}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: needs one of {', '.join(DTYPES)}")
    return dtype


def known_activation(activation: object) -> str:
    """`activation` if it is the name of one, else a TypeError or ValueError."""
    if not isinstance(activation, str):
        raise TypeError(
            f"activation={activation!r}: needs one of {', '.join(map(repr, ACTIVATIONS))}, "
            f"got {type(activation).__name__}"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: needs one of {', '.join(map(repr, ACTIVATIONS))}")
    return activation


def shape(name: str, value: object, axes: str) -> tuple[int, ...]:
    """`value` as a shape with the axes named in `axes` (such as "N C H W"), every extent >= 0."""
    names = axes.split()
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name}={value!r}: needs a shape ({', '.join(names)}), got {type(value).__name__}")
    if len(value) != len(names):
        raise ValueError(f"{name}={tuple(value)}: needs {len(names)} dimensions ({', '.join(names)}), got {len(value)}")
    return tuple(_integer(name, extent, 0, value) for extent in value)


def same_dtype(**arrays: Any) -> str:
    """The common dtype of the named arrays, float32 or float64; TypeError names the array that differs."""
    first = ""
    for name, array in arrays.items():
        dtype = _DTYPE_OF.get(array.dtype.char, "")
        if not dtype or not array.dtype.isnative:
            raise TypeError(f"{name}: dtype {array.dtype} is not supported, needs one of {', '.join(DTYPES)}")
        first = first or dtype
        if dtype != first:
            raise TypeError(f"{name}: dtype {dtype} differs from {next(iter(arrays))}'s {first}; they must be the same")
    return first


def output_size(size: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> int:
    """floor((size + before + after - dilation*(kernel-1) - 1) / stride) + 1: VALID windows over a padded axis.

    Source: torch.nn.Conv2d, "Shape".
    """
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """(before, after) such that the output size is ceil(size / stride); the odd element goes after.

    Source: TensorFlow's SAME rule (tf.nn, "Notes on padding"); for stride 1 it is torch's padding='same'.
    """
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def conv_padding(
    padding: object, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """`padding` (int, pair, 'same', 'valid' or (top, bottom, left, right)) as (top, bottom, left, right)."""
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0, 0, 0)
        if padding == "same":
            vertical = same_padding(size[0], kernel[0], stride[0], dilation[0])
            return vertical + same_padding(size[1], kernel[1], stride[1], dilation[1])
        raise ValueError(f"padding={padding!r}: needs an int, a pair (height, width), 'same' or 'valid'")
    if isinstance(padding, (tuple, list)) and len(padding) == 4:
        top, bottom, left, right = (_integer("padding", value, 0, padding) for value in padding)
        return (top, bottom, left, right)
    ph, pw = pair("padding", padding, 0)
    return (ph, ph, pw, pw)


@dataclass(frozen=True, slots=True)
class ConvProblem:
    """A 2-D cross-correlation, torch.nn.Conv2d's: y[n,o] = b[o] + Σ_c corr2d(x[n,c], w[o,c]), and its two gradients.

    With an epilogue y = activation(b + Σ + z), z if `add`: "relu" is max(y, 0), "sigmoid" 1/(1 + e^−y), "tanh" and ""
    what they say. Such a problem has no gradients: they are those of the parts.
    Arrays: x (n, c, h, w), w (o, c/groups, kh, kw), b (o), y and z (n, o, oh, ow).
    """

    n: int
    c: int
    h: int
    w: int
    o: int
    kh: int
    kw: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = False
    dtype: str = "float32"
    activation: str = ""
    add: bool = False

    @classmethod
    def make(
        cls,
        input_shape: object,
        weight_shape: object,
        *,
        stride: object = 1,
        padding: object = 0,
        dilation: object = 1,
        groups: object = 1,
        bias: bool = False,
        dtype: str = "float32",
        activation: str = "",
        add: bool = False,
    ) -> ConvProblem:
        """The problem with these torch.nn.Conv2d arguments; ValueError or TypeError names the argument at fault."""
        n, c, h, w = shape("input", input_shape, "N C H W")
        o, cg, kh, kw = shape("weight", weight_shape, "O C/groups KH KW")
        strides, dilations = pair("stride", stride), pair("dilation", dilation)
        group = integer("groups", groups)
        if kh < 1 or kw < 1:
            raise ValueError(f"weight={(o, cg, kh, kw)}: needs a kernel of at least 1×1, got {kh}×{kw}")
        if o < 1 or o % group:
            raise ValueError(f"groups={group}: needs a divisor of the {o} output channels")
        if c < 1 or c != cg * group:
            raise ValueError(
                f"input={(n, c, h, w)}: needs {cg * group} channels for weight {(o, cg, kh, kw)} "
                f"and groups={group}, got {c}"
            )
        pads = conv_padding(padding, (h, w), (kh, kw), strides, dilations)
        checked = (boolean("bias", bias), known_dtype(dtype), known_activation(activation), boolean("add", add))
        problem = cls(n, c, h, w, o, kh, kw, strides, pads, dilations, group, *checked)
        if h < 1 or w < 1 or problem.oh < 1 or problem.ow < 1:
            top, bottom, left, right = pads
            raise ValueError(
                f"input={(n, c, h, w)}: with padding {pads} it is {h + top + bottom}×{w + left + right}, smaller than "
                f"the kernel, which spans {dilations[0] * (kh - 1) + 1}×{dilations[1] * (kw - 1) + 1}"
            )
        if n * o * problem.oh * problem.ow * itemsize(dtype) > _MOST_BYTES:
            raise ValueError(f"padding={padding!r}: the output {problem.output_shape} is larger than any memory")
        return problem

    @property
    def oh(self) -> int:
        return output_size(self.h, self.kh, self.stride[0], self.padding[0], self.padding[1], self.dilation[0])

    @property
    def ow(self) -> int:
        return output_size(self.w, self.kw, self.stride[1], self.padding[2], self.padding[3], self.dilation[1])

    @property
    def cg(self) -> int:
        """Input channels of one group."""
        return self.c // self.groups

    @property
    def og(self) -> int:
        """Output channels of one group."""
        return self.o // self.groups

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return (self.n, self.c, self.h, self.w)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.o, self.cg, self.kh, self.kw)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return (self.n, self.o, self.oh, self.ow)

    @property
    def epilogue(self) -> bool:
        """Whether anything is done to the outputs beyond the convolution and its bias."""
        return self.add or bool(self.activation)

    @property
    def flops(self) -> int:
        """2 × multiply-adds of the direct algorithm, padding counted: the credit of every algorithm."""
        return 2 * self.n * self.o * self.oh * self.ow * self.cg * self.kh * self.kw

    @property
    def bytes(self) -> int:
        """Compulsory traffic: x, w, y and z once each."""
        words = self.n * self.c * self.h * self.w + self.o * self.cg * self.kh * self.kw
        return itemsize(self.dtype) * (words + (1 + self.add) * self.n * self.o * self.oh * self.ow)


@dataclass(frozen=True, slots=True)
class PoolProblem:
    """2-D max or average pooling with torch.nn's arguments, and its gradient.

    Arrays: x (n, c, h, w), y (n, c, oh, ow).
    """

    n: int
    c: int
    h: int
    w: int
    kh: int
    kw: int
    oh: int
    ow: int
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int] = (1, 1)
    count_include_pad: bool = True
    divisor_override: int = 0
    dtype: str = "float32"

    @classmethod
    def make(
        cls,
        input_shape: object,
        kernel_size: object,
        *,
        stride: object = None,
        padding: object = 0,
        dilation: object = 1,
        ceil_mode: object = False,
        count_include_pad: object = True,
        divisor_override: object = None,
        dtype: str = "float32",
    ) -> PoolProblem:
        """The problem with these torch.nn.MaxPool2d / AvgPool2d arguments; padding may also be 'same' or 'valid'."""
        n, c, h, w = shape("input", input_shape, "N C H W")
        kernel = pair("kernel_size", kernel_size)
        strides = kernel if stride is None else pair("stride", stride)
        dilations = pair("dilation", dilation)
        ceil = boolean("ceil_mode", ceil_mode)
        include = boolean("count_include_pad", count_include_pad)
        divisor = 0 if divisor_override is None else integer("divisor_override", divisor_override)
        pads = conv_padding(padding, (h, w), kernel, strides, dilations)
        if not isinstance(padding, str) and (max(pads[:2]) > kernel[0] // 2 or max(pads[2:]) > kernel[1] // 2):
            raise ValueError(f"padding={padding!r}: needs at most half of kernel_size {kernel}")
        oh = pool_output_size(h, kernel[0], strides[0], pads[0], pads[1], dilations[0], ceil)
        ow = pool_output_size(w, kernel[1], strides[1], pads[2], pads[3], dilations[1], ceil)
        if h < 1 or w < 1 or c < 1 or oh < 1 or ow < 1:
            raise ValueError(
                f"input={(n, c, h, w)}: needs at least one channel and a size of at least the window "
                f"{dilations[0] * (kernel[0] - 1) + 1}×{dilations[1] * (kernel[1] - 1) + 1} less the padding {pads}"
            )
        return cls(n, c, h, w, *kernel, oh, ow, strides, pads, dilations, include, divisor, known_dtype(dtype))

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return (self.n, self.c, self.h, self.w)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return (self.n, self.c, self.oh, self.ow)

    @property
    def flops(self) -> int:
        """One operation per window element."""
        return self.n * self.c * self.oh * self.ow * self.kh * self.kw

    @property
    def bytes(self) -> int:
        """Compulsory traffic: x and y once each."""
        return itemsize(self.dtype) * self.n * self.c * (self.h * self.w + self.oh * self.ow)


def pool_output_size(size: int, kernel: int, stride: int, before: int, after: int, dilation: int, ceil: bool) -> int:
    """Number of pooling windows on one axis; with `ceil` a last, partial window counts too.

    Source: torch.nn.MaxPool2d, "Shape": when ceil_mode is true, a window may run off the end, but not start in the
    right padding.
    """
    if not ceil:
        return output_size(size, kernel, stride, before, after, dilation)
    count = -(-(size + before + after - dilation * (kernel - 1) - 1) // stride) + 1
    return count - 1 if (count - 1) * stride >= size + before else count


@dataclass(frozen=True, slots=True)
class LinearProblem:
    """y = x wᵀ + b, torch.nn.Linear's, and its two gradients. Arrays: x (m, i), w (o, i), b (o), y (m, o)."""

    m: int
    i: int
    o: int
    bias: bool = False
    dtype: str = "float32"

    @classmethod
    def make(
        cls, input_shape: object, weight_shape: object, *, bias: bool = False, dtype: str = "float32"
    ) -> LinearProblem:
        """The problem with these shapes, x (m, in_features) and w (out_features, in_features)."""
        m, i = shape("input", input_shape, "M in_features")
        o, wi = shape("weight", weight_shape, "out_features in_features")
        if i != wi or i < 1 or o < 1:
            raise ValueError(f"input={(m, i)}: needs {wi} features (at least 1) for weight {(o, wi)}, got {i}")
        return cls(m, i, o, boolean("bias", bias), known_dtype(dtype))

    @property
    def input_shape(self) -> tuple[int, int]:
        return (self.m, self.i)

    @property
    def weight_shape(self) -> tuple[int, int]:
        return (self.o, self.i)

    @property
    def output_shape(self) -> tuple[int, int]:
        return (self.m, self.o)

    @property
    def flops(self) -> int:
        """2 × multiply-adds."""
        return 2 * self.m * self.i * self.o

    @property
    def bytes(self) -> int:
        """Compulsory traffic: x, w and y once each."""
        return itemsize(self.dtype) * (self.m * self.i + self.o * self.i + self.m * self.o)


# Recurrent cells: how many gates each has, one after the other in its weights, and how many arrays (rows, h) of each
# step it saves for the way back. What they are is said where they are written: kernels/cpu/rnn_cells.py.
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
SAVED = {"lstm": 7, "gru": 5, "rnn": 2}


@dataclass(frozen=True, slots=True)
class RecurrentProblem:
    """One recurrent layer, torch.nn.LSTM's, GRU's or RNN's, in one direction or both, and its gradient.

    Arrays, D directions, G gates: x (t, b, i), or (b, t, i) if batch_first; w_ih (D, G·h, i), w_hh (D, G·h, h), b_ih
    and b_hh (D, G·h) if bias; h0, c0 (D, b, h) if state; p (D, 3·h) if peephole; lengths (b), int64, if ragged;
    y (t, b, D·h) or (b, t, D·h), the directions beside each other; hn, cn (D, b, h). c0, cn and p are an LSTM's only.
    relu: an RNN's activation, else tanh. linear: an LSTM's h = o·c, else o·tanh(c).
    """

    cell: str
    t: int
    b: int
    i: int
    h: int
    directions: int = 1
    bias: bool = True
    state: bool = False
    ragged: bool = False
    batch_first: bool = False
    relu: bool = False
    peephole: bool = False
    linear: bool = False
    dtype: str = "float32"

    @classmethod
    def make(
        cls,
        cell: str,
        input_shape: object,
        hidden_size: object,
        *,
        directions: object = 1,
        bias: object = True,
        state: object = False,
        ragged: object = False,
        batch_first: object = False,
        relu: object = False,
        peephole: object = False,
        linear: object = False,
        dtype: str = "float32",
    ) -> RecurrentProblem:
        """The problem with these arguments of torch.nn.LSTM, GRU or RNN; cell is "lstm", "gru" or "rnn"."""
        if cell not in GATES:
            raise ValueError(f"cell={cell!r}: needs one of {', '.join(GATES)}")
        first = boolean("batch_first", batch_first)
        one, two, i = shape("input", input_shape, "B T input_size" if first else "T B input_size")
        t, b = (two, one) if first else (one, two)
        if i < 1:
            raise ValueError(f"input={(one, two, i)}: needs at least 1 feature")
        h, d = integer("hidden_size", hidden_size), integer("directions", directions)
        if d > 2:
            raise ValueError(f"directions={d}: needs 1 or 2")
        options = {"relu": relu, "peephole": peephole, "linear": linear}
        flags = {name: boolean(name, flag) for name, flag in options.items()}
        for name, flag in flags.items():
            if flag and cell != ("rnn" if name == "relu" else "lstm"):
                raise ValueError(f"{name}=True: a {cell} cell has no such option")
        rest = (boolean("bias", bias), boolean("state", state), boolean("ragged", ragged), first)
        return cls(cell, t, b, i, h, d, *rest, flags["relu"], flags["peephole"], flags["linear"], known_dtype(dtype))

    @property
    def gates(self) -> int:
        return GATES[self.cell]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.b, self.t, self.i) if self.batch_first else (self.t, self.b, self.i)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        width = self.directions * self.h
        return (self.b, self.t, width) if self.batch_first else (self.t, self.b, width)

    @property
    def state_shape(self) -> tuple[int, int, int]:
        return (self.directions, self.b, self.h)

    @property
    def weight_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of w_ih, w_hh and the biases."""
        rows = (self.directions, self.gates * self.h)
        return (*rows, self.i), (*rows, self.h), rows if self.bias else (0,)

    @property
    def saved_shape(self) -> tuple[int, ...]:
        """Of what the forward pass in training saves: (D, rows of x, arrays, h)."""
        return (self.directions, self.t * self.b, SAVED[self.cell], self.h)

    @property
    def flops(self) -> int:
        """2 × multiply-adds of the products, padding of short sequences counted."""
        return 2 * self.directions * self.t * self.b * self.gates * self.h * (self.i + self.h)

    @property
    def bytes(self) -> int:
        """Compulsory traffic: x, weights and y once each."""
        weights = self.directions * self.gates * self.h * (self.i + self.h)
        return itemsize(self.dtype) * (weights + self.t * self.b * (self.i + self.directions * self.h))


Problem: TypeAlias = ConvProblem | PoolProblem | LinearProblem | RecurrentProblem


@lru_cache(maxsize=4096)
def of_gradients(p: ConvProblem | LinearProblem) -> ConvProblem | LinearProblem:
    """The problem of the gradients of `p`, which have no bias."""
    return replace(p, bias=False)


def itemsize(dtype: str) -> int:
    """Bytes of one element of a supported dtype."""
    return {"float32": 4, "float64": 8}[dtype]
