"""The tape: reverse-mode differentiation over arrays, by torch's rules.

A recorded operation is a Node; a Node knows, for every input that requires a gradient, where that gradient goes and the
function that computes it. `backward` walks the Nodes from the newest to the oldest, so no graph is too deep.

What stands on the tape is a Variable; fastconv.Tensor is a Variable with torch.Tensor's methods. Operations are written
once, for arrays and Tensors alike (fastconv.ops, fastconv.views, fastconv.nn.functional): each computes on arrays and
hands the result to `record`, which returns it as what the input was.

Source: PyTorch, "Autograd mechanics"; where it raises RuntimeError for a wrong use of the tape, so does this.
"""

from __future__ import annotations

import heapq
import itertools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from fastconv.device import array_module as array_module
from fastconv.device import foreign, is_cupy
from fastconv.memory import is_own

if TYPE_CHECKING:
    from fastconv.tensors import Tensor

Array: TypeAlias = npt.NDArray[Any]
Gradient: TypeAlias = Callable[[Array], Array]

# An array or a Tensor; the same kind comes back.
T = TypeVar("T")


def is_array(x: object) -> bool:
    """Whether `x` is a NumPy or CuPy array."""
    return isinstance(x, np.ndarray) or is_cupy(x)


def array(x: Any, name: str = "input") -> Array:
    """The array of a Tensor; an array as it is, of another library on a CUDA device as CuPy's over the same memory.

    TypeError for anything else names the argument `name`.
    """
    if isinstance(x, Variable):
        return x._array
    if is_array(x):
        return cast(Array, x)
    found = foreign(x)
    if found is None:
        raise TypeError(f"{name}={x!r:.60}: needs a NumPy array or a fastconv.Tensor, got {type(x).__name__}")
    return cast(Array, found)


class _Mode(threading.local):
    recording = True


_mode = _Mode()


def is_grad_enabled() -> bool:
    """Whether operations are recorded in this thread."""
    return _mode.recording


@contextmanager
def _set_recording(recording: bool) -> Iterator[None]:
    before = _mode.recording
    _mode.recording = recording
    try:
        yield
    finally:
        _mode.recording = before


def no_grad() -> Any:
    """Context manager and decorator: nothing is recorded inside, in this thread. Source: torch.no_grad."""
    return _set_recording(False)


def enable_grad() -> Any:
    """Context manager and decorator: record inside, also within no_grad. Source: torch.enable_grad."""
    return _set_recording(True)


def _holders_of_a_local() -> int:
    only = object()
    return sys.getrefcount(only)


# What sys.getrefcount says of an object that only a local variable holds; Python versions differ.
_ONE_HOLDER = _holders_of_a_local()

_versions = itertools.count()
_orders = itertools.count()


class Version:
    """What tells one state of an array's memory from another; shared by every Tensor over that memory.

    No number is given out twice, so two memories never show the same one after either has changed.
    """

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = next(_versions)

    def bump(self) -> None:
        self.number = next(_versions)


class Node:
    """One recorded operation.

    edges: for each input that requires a gradient, where it goes and the function that gives it; None once backward
    has let the arrays go that they hold. saved: the versions of the tensors that they read. holds: whether they hold
    arrays at all.
    """

    __slots__ = ("edges", "holds", "order", "saved")

    def __init__(self, edges: list[Edge], saved: list[tuple[Version, int]], holds: bool) -> None:
        self.order = next(_orders)
        self.edges: list[Edge] | None = edges
        self.saved = saved
        self.holds = holds


Edge: TypeAlias = "tuple[Node | Variable, Gradient]"


class Variable:
    """An array and its place on the tape: all that the tape knows of a Tensor."""

    __slots__ = ("__weakref__", "_array", "_base", "_node", "_requires_grad", "_state", "grad")

    def __init__(self, values: Array, state: Version | None = None) -> None:
        self._array = values
        self._state = state or Version()
        self._node: Node | None = None
        # For a view: whose view, and that tensor's Node when the view was taken.
        self._base: tuple[Variable, Node | None] | None = None
        self._requires_grad = False
        self.grad: Tensor | None = None

    def _result(self, values: Any) -> Tensor:
        """The Tensor of what an operation on this one gave, not recorded yet."""
        raise NotImplementedError

    @property
    def requires_grad(self) -> bool:
        return self._requires_grad or self._node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Say whether `.grad` is wanted. TypeError if the dtype is no float, RuntimeError for False on a result."""
        if requires_grad and self._array.dtype.kind != "f":
            raise TypeError(
                f"requires_grad=True: dtype {self._array.dtype} cannot require a gradient, needs a float dtype"
            )
        if self._node is not None and not requires_grad:
            raise RuntimeError("requires_grad=False: needs a leaf; use .detach() on the result of a recorded operation")
        self._requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made it."""
        return self._node is None

    @property
    def grad_fn(self) -> Node | None:
        """The recorded operation that made it, if any."""
        return self._node

    @property
    def _version(self) -> int:
        """Changes whenever the values may have changed: in-place operations, `.data`, optimisers, load_state_dict."""
        return self._state.number

    def _is_exclusive(self) -> bool:
        """Whether nobody else holds the array or a view of it, so that `_version` tells of every change."""
        # Two references: this tensor's and the argument's.
        return is_own(self._array) and sys.getrefcount(self._array) == 2

    def _is_recorded(self) -> bool:
        """Whether an operation on this tensor belongs on the tape."""
        if self._base is not None and self._base[0]._node is not self._base[1]:
            raise RuntimeError(
                "this tensor is a view of one that a recorded operation has since changed in place; take the view again"
            )
        return self._requires_grad or self._node is not None

    def _accumulate(self, pending: dict[Any, Array]) -> None:
        """Add the gradient that `pending` has for this tensor, and take it out."""
        g = pending.pop(self)
        if self.grad is None:
            if not (sys.getrefcount(g) == _ONE_HOLDER and is_own(g) and self._is_like(g)):
                # A copy: the gradient may be a view, or be shared with another tensor.
                g = array_module(g).array(g, dtype=self._array.dtype, order="C")
            self.grad = self._result(g)
        else:
            self.grad._array += g
            self.grad._state.bump()

    def _is_like(self, g: Array) -> bool:
        """Whether `g` is what a gradient of this tensor is stored as."""
        return type(g) is np.ndarray and g.dtype == self._array.dtype and g.flags.carray

    def _check_change(self, result: Variable) -> None:
        """RuntimeError or TypeError if this tensor may not become `result` in place."""
        if not result.requires_grad:
            return
        if self._requires_grad and self._node is None:
            raise RuntimeError("a leaf Tensor that requires grad is being used in an in-place operation")
        if self._base is not None:
            raise RuntimeError("a recorded in-place operation on a view; index and change the tensor it is a view of")
        if self._array.dtype.kind != "f":
            raise TypeError(
                f"dtype {self._array.dtype} cannot take a value that requires a gradient, needs a float dtype"
            )

    def _changed(self, result: Variable) -> Self:
        """This tensor, whose memory now holds the values of `result`."""
        self._state.bump()
        if result._node is not None:
            self._node = result._node
        return self

    def _in_place(self, operation: Callable[..., Any], *others: Any) -> Self:
        """Put operation(self, *others) into this tensor's memory."""
        old: Variable = self
        if _mode.recording and any(isinstance(v, Variable) and v.requires_grad for v in (self, *others)):
            # What the operation saves must be the values before the change.
            old = self._result(self._array.copy())
            old._node, old._requires_grad = self._node, self._requires_grad
        result: Variable = operation(old, *(old if other is self else other for other in others))
        self._check_change(result)
        a, new = self._array, result._array
        if new.shape != a.shape:
            raise RuntimeError(f"an in-place operation on shape {a.shape} cannot give shape {new.shape}")
        if not np.can_cast(new.dtype, a.dtype, "same_kind"):
            raise TypeError(f"dtype {new.dtype} cannot be put into a tensor of dtype {a.dtype} in place")
        a[...] = new
        return self._changed(result)


def is_recorded(x: Any, *others: Any) -> bool:
    """Whether `record` would put an operation on input `x` and `others` on the tape."""
    sources = (x, *others) if isinstance(x, Variable) and _mode.recording else ()
    return any(isinstance(source, Variable) and source._is_recorded() for source in sources)


def record(x: T, y: Any, *edges: tuple[Any, ...]) -> T:
    """`y`, the array that an operation gave, as what its input `x` is: an array, or a Tensor on the tape.

    An edge is (input, gradient, *saved). `gradient` maps the gradient of y to that of `input` and is called only if
    `input` requires one; `saved` is what it reads: Tensors (and y, if it reads the result), which make backward raise
    if they have been changed in place since, and arrays, which backward lets go.
    """
    if not isinstance(x, Variable):
        return cast(T, y)
    out = x._result(y)
    if _mode.recording:
        targets: list[Edge] = []
        versions: list[tuple[Version, int]] = []
        holds = False
        for edge in edges:
            source = edge[0]
            if not isinstance(source, Variable) or not source._is_recorded():
                continue
            targets.append((source._node or source, edge[1]))
            for saved in edge[2:]:
                held = out if saved is y else saved
                if isinstance(held, Variable):
                    versions.append((held._state, held._state.number))
                    holds = True
                else:
                    holds = holds or is_array(held)
        if targets:
            out._node = Node(targets, versions, holds)
    return cast(T, out)


class _Parts:
    """Gradients of some of the results of one operation, by their numbers, until the operation has all of them."""

    __slots__ = ("of",)

    def __init__(self, of: dict[int, Array]) -> None:
        self.of = of

    def __add__(self, other: _Parts) -> _Parts:
        shared = {number: self.of[number] + g for number, g in other.of.items() if number in self.of}
        return _Parts(self.of | other.of | shared)


def record_all(
    x: Any,
    results: Sequence[Any],
    inputs: Sequence[Any],
    gradients: Callable[[list[Array | None]], Sequence[Array]],
    *saved: Any,
) -> tuple[Any, ...]:
    """The arrays that one operation gave together, as what its input `x` is: arrays, or Tensors on the tape.

    `gradients` maps the gradients of the results, None for one that nothing depends on, to those of `inputs`, all in
    one call; `saved` is what it reads, as in `record`.
    """
    if not isinstance(x, Variable):
        return tuple(results)
    outs = tuple(x._result(y) for y in results)
    sources = [(k, source) for k, source in enumerate(inputs) if isinstance(source, Variable)]
    wanted = [(k, source) for k, source in sources if source._is_recorded()] if _mode.recording else []
    if not wanted:
        return outs
    found: list[Any] = [None, None]

    def gradient(k: int) -> Gradient:
        def of_input(parts: Any) -> Array:
            if found[0] is not parts:
                found[:] = parts, list(gradients([parts.of.get(number) for number in range(len(outs))]))
            g, found[1][k] = found[1][k], None
            if k == wanted[-1][0]:
                found[:] = None, None
            return cast(Array, g)

        return of_input

    versions = [(a._state, a._state.number) for a in saved if isinstance(a, Variable)]
    joint = Node([(source._node or source, gradient(k)) for k, source in wanted], versions, True)

    def part(number: int) -> Gradient:
        return lambda g: cast(Array, _Parts({number: g}))

    for number, out in enumerate(outs):
        out._node = Node([(joint, part(number))], [], False)
    return outs


def record_view(x: T, y: Any, gradient: Gradient) -> T:
    """`y`, which may lie in the memory of `x`, as what `x` is; `gradient` maps the gradient of y to that of x."""
    out = record(x, y, (x, gradient))
    if isinstance(x, Variable) and isinstance(out, Variable) and array_module(y).may_share_memory(y, x._array):
        out._state = x._state
        # A view of a view that is out of date is out of date itself.
        out._base = x._base or (x, x._node)
    return out


def backward(root: Variable, gradient: Array, retain_graph: bool = False) -> None:
    """Add d(root)/d(leaf), times `gradient`, to the `.grad` of every leaf that requires one; see Tensor.backward."""
    pending = _gradients(root, gradient, retain_graph)
    # Only now, so that a backward that raises leaves every .grad as it was.
    for leaf in list(pending):
        leaf._accumulate(pending)


def _gradients(root: Variable, gradient: Array, retain_graph: bool) -> dict[Variable, Array]:
    """d(root)/d(leaf), times `gradient`, for every leaf that requires one."""
    start = root._node or root
    pending: dict[Node | Variable, Array] = {start: gradient}
    # A Node is newer than all that it was computed from: newest first means each has its whole gradient when it is met.
    queue = [(-start.order, start)] if isinstance(start, Node) else []
    while queue:
        node = heapq.heappop(queue)[1]
        g = pending.pop(node)
        if node.edges is None:
            raise RuntimeError(
                "backward a second time through a graph whose saved arrays have been freed; "
                "call the first backward with retain_graph=True"
            )
        if any(state.number != number for state, number in node.saved):
            raise RuntimeError(
                "a tensor needed for gradient computation has been modified by an in-place operation "
                "since the forward pass saved it"
            )
        for target, gradient_of in node.edges:
            part = gradient_of(g)
            if target in pending:
                pending[target] = pending[target] + part
                continue
            pending[target] = part
            if isinstance(target, Node):
                heapq.heappush(queue, (-target.order, target))
        if node.holds and not retain_graph:
            node.edges = None
    return cast("dict[Variable, Array]", pending)
