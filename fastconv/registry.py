"""Which kernel serves a problem: the table of kernels, the choice, and its explanation.

A kernel has one name, `op/algorithm/backend` such as `conv2d/im2col/cpu`, and registers itself:

    @kernel("conv2d/im2col/cpu", limit=1.0, scratch=..., unsupported=..., cost=...)
    def run(p, x, w, b, z, y, scratch): ...

Files in kernels/<backend>/ are imported when the backend is first used, so that adding a kernel is adding a file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fastconv import choices, threads
from fastconv.problem import GATES, ConvProblem, LinearProblem, PoolProblem, Problem, RecurrentProblem, boolean

if TYPE_CHECKING:
    from fastconv.measure import Explanation


class Unsupported(ValueError):  # noqa: N818 - the word design.md and every message use
    """A valid problem that the named algorithm cannot do; the message says which algorithm and why."""


@dataclass(frozen=True, slots=True)
class Op:
    """An operation: its problem type, the names of the arrays a kernel reads and writes, in call order, and which of
    those it reads are weights, of which something may be prepared."""

    problem: type[Problem]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[str, ...] = ("w",)


def _recurrent_ops(cell: str) -> dict[str, Op]:
    """The three of a cell: in evaluation, in training, where it saves what the way back needs, and the way back."""
    weights = ("w_ih", "w_hh", "b_ih", "b_hh", "p")
    forward = ("x", *weights, "h0", "c0", "lengths")
    back = ("x", "w_ih", "w_hh", "p", "saved", "gy", "ghn", "gcn", "lengths")
    gradients = ("gx", "gw_ih", "gw_hh", "gb_ih", "gb_hh", "gp", "gh0", "gc0")
    return {
        cell: Op(RecurrentProblem, forward, ("y", "hn", "cn"), weights),
        f"{cell}_train": Op(RecurrentProblem, forward, ("y", "hn", "cn", "saved"), weights),
        f"{cell}_grad": Op(RecurrentProblem, back, gradients, ("w_ih", "w_hh")),
    }


OPS: Mapping[str, Op] = {
    "conv2d": Op(ConvProblem, ("x", "w", "b", "z"), ("y",)),
    "conv2d_grad_input": Op(ConvProblem, ("gy", "w"), ("gx",)),
    "conv2d_grad_weight": Op(ConvProblem, ("x", "gy"), ("gw",)),
    "max_pool2d": Op(PoolProblem, ("x",), ("y",)),
    "max_pool2d_with_indices": Op(PoolProblem, ("x",), ("y", "indices")),
    "max_pool2d_grad": Op(PoolProblem, ("x", "gy"), ("gx",)),
    "avg_pool2d": Op(PoolProblem, ("x",), ("y",)),
    "avg_pool2d_grad": Op(PoolProblem, ("gy",), ("gx",)),
    "linear": Op(LinearProblem, ("x", "w", "b"), ("y",)),
    "linear_grad_input": Op(LinearProblem, ("gy", "w"), ("gx",)),
    "linear_grad_weight": Op(LinearProblem, ("x", "gy"), ("gw",)),
    **{name: op for cell in GATES for name, op in _recurrent_ops(cell).items()},
}

BACKENDS = ("cpu", "cuda")


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """One way to do one operation on one backend.

    run(p, *inputs, *outputs, scratch) writes every element of every output. Arrays are C-contiguous and of p.dtype;
    an absent bias or z is an array of no elements; `scratch` is an uninitialised 1-D array of scratch(p) elements.
    A kernel with `prepare` also takes u=, a 1-D array of prepared(p) elements that prepare(p, *weights, u) has written:
    what it makes of the weights, done once for many calls. It depends on nothing but them and what of p says how they
    are read (groups, bias), and prepare_cost(p) of the cost is its. spread is how many outputs a NaN or inf of the data
    may reach beyond those that it belongs to, on either side, because outputs are computed in tiles.
    ready(p), where there is one, is `run` of p with all worked out that depends on nothing else, for small problems.
    unsupported(p) is the reason why the kernel cannot do p, or None. cost(p) is its predicted time in flops at the
    machine's FMA peak. limit is the most its error may be, in the units of fastconv.testing.error.
    """

    op: str
    algorithm: str
    backend: str
    run: Callable[..., None]
    limit: float
    scratch: Callable[[Any], int]
    unsupported: Callable[[Any], str | None]
    cost: Callable[[Any], float]
    prepare: Callable[..., None] | None = None
    prepared: Callable[[Any], int] = lambda p: 0
    prepare_cost: Callable[[Any], float] = lambda p: 0.0
    spread: int = 0
    ready: Callable[[Any], Callable[..., None]] | None = None

    @property
    def name(self) -> str:
        return f"{self.op}/{self.algorithm}/{self.backend}"


_kernels: dict[str, Kernel] = {}
_loaded: set[str] = set()
_loading = Lock()


def kernel(
    name: str,
    *,
    limit: float,
    cost: Callable[[Any], float],
    scratch: Callable[[Any], int] = lambda p: 0,
    unsupported: Callable[[Any], str | None] = lambda p: None,
    prepare: Callable[..., None] | None = None,
    prepared: Callable[[Any], int] = lambda p: 0,
    prepare_cost: Callable[[Any], float] = lambda p: 0.0,
    spread: int = 0,
    ready: Callable[[Any], Callable[..., None]] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register the decorated function as the kernel `name`; see Kernel for what the arguments mean."""
    op, algorithm, backend = parts if len(parts := name.split("/")) == 3 else ("", "", "")
    if op not in OPS or algorithm in ("", "auto") or backend not in BACKENDS:
        raise ValueError(f"name={name!r}: needs op/algorithm/backend, op in {tuple(OPS)}, backend in {BACKENDS}")
    if name in _kernels:
        raise ValueError(f"name={name!r}: registered twice, by {_kernels[name].run.__module__} before")

    def register(run: Callable[..., None]) -> Callable[..., None]:
        weights = (prepare, prepared, prepare_cost, spread, ready)
        _kernels[name] = Kernel(op, algorithm, backend, run, limit, scratch, unsupported, cost, *weights)
        _automatic.cache_clear()
        _named_kernel.cache_clear()
        _epoch[0] += 1
        return run

    return register


def _load(backend: str) -> None:
    if backend in _loaded:
        return
    with _loading:
        if backend in _loaded:
            return
        try:
            package = importlib.import_module(f"fastconv.kernels.{backend}")
        except ModuleNotFoundError as error:
            if error.name != "fastconv.kernels":
                raise
            raise ModuleNotFoundError(
                "fastconv.kernels is not installed: run `pip install -e .`", name=error.name
            ) from error
        for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
            importlib.import_module(f"{package.__name__}.{module}")
        _loaded.add(backend)


def kernels(op: str | None = None, backend: str = "cpu") -> list[Kernel]:
    """Every registered kernel of `backend`, of one operation if `op` is given, by name."""
    if op is not None and op not in OPS:
        raise ValueError(f"op={op!r}: needs one of {', '.join(OPS)}")
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: needs one of {', '.join(BACKENDS)}")
    _load(backend)
    return [k for _, k in sorted(_kernels.items()) if k.backend == backend and op in (None, k.op)]


_named: ContextVar[Mapping[str, str]] = ContextVar("fastconv_use", default=MappingProxyType({}))
_measures: ContextVar[bool] = ContextVar("fastconv_use_measure", default=False)


class use:  # noqa: N801 - called like a function, as torch.no_grad is
    """Let the named kernels serve their operations wherever `algorithm` is "auto", or let "auto" measure.

    `use("conv2d/direct", "max_pool2d/naive")` holds from the call on, in this thread or task; as a context manager
    until the block ends. "conv2d/implicit/cuda" names it for CuPy arrays alone, "…/cpu" for NumPy's; without a backend
    it is for both. `use()` names nothing: every operation is chosen automatically again, and nothing is
    measured. A named kernel that cannot do a problem raises Unsupported; it is never replaced.

    `use(measure=True)` leaves the names as they are. From then on, the first time that a problem is chosen
    automatically on the CPU, the kernels that can do it within the precision are timed on random data of its sizes,
    for some tenths of a second, and the fastest serves it. What was measured is remembered, on disk too: on this CPU
    and with these kernel sources it is chosen at once, by later processes as well, and whether they measure or not. A
    number of threads and weights that are kept prepared are measured for themselves.
    """

    def __init__(self, *names: str, measure: bool | None = None) -> None:
        chosen: dict[str, str] = {} if not names and measure is None else dict(_named.get())
        for name in names:
            op, _, rest = name.partition("/") if isinstance(name, str) else ("", "", "")
            algorithm, _, backend = rest.partition("/")
            # CUDA's kernels are only looked at where the CPU has none of that name.
            backends = [backend] if backend in BACKENDS else [] if backend else BACKENDS
            known = op in OPS and any(algorithm in {k.algorithm for k in kernels(op, one)} for one in backends)
            if not known or name.endswith("/"):
                shown = BACKENDS if backend == "" else ("cuda",) if backend == "cuda" else ("cpu",)
                every = [k for one in shown for k in kernels(op if op in OPS else None, one)]
                available = ", ".join(dict.fromkeys(f"{k.op}/{k.algorithm}" for k in every))
                raise ValueError(f"name={name!r}: needs op/algorithm, one of {available}")
            for one in [backend] if backend else BACKENDS:
                chosen[f"{op}/{one}"] = algorithm
        measures = _measures.get() and bool(names) if measure is None else boolean("measure", measure)
        self._tokens: tuple[Token[Mapping[str, str]], Token[bool]] = (_named.set(chosen), _measures.set(measures))

    def __enter__(self) -> use:
        return self

    def __exit__(self, *_: object) -> None:
        _named.reset(self._tokens[0])
        _measures.reset(self._tokens[1])


# The largest error limit that "auto" may choose, in the units of fastconv.testing.error.
PRECISIONS: Mapping[str, float] = {"strict": 1.0, "default": 3.0, "fast": 100.0}

_precision: ContextVar[str] = ContextVar("fastconv_precision", default="default")


class precision:  # noqa: N801 - called like a function, as torch.no_grad is
    """How much rounding the automatic choice may accept, from the call on or until the `with` block ends.

    "strict": kernels that round no worse than a plain sum, F(2×2) among them; "default": also Winograd's F(4×4);
    "fast": also F(6×6). Tensor cores, which round inputs to 11 bits and fewer, must be named. Named algorithms are not
    affected. ValueError for another name.
    """

    def __init__(self, name: str) -> None:
        if name not in PRECISIONS:
            raise ValueError(f"name={name!r}: needs one of {', '.join(PRECISIONS)}")
        self._token: Token[str] = _precision.set(name)

    def __enter__(self) -> precision:
        return self

    def __exit__(self, *_: object) -> None:
        _precision.reset(self._token)


def setting() -> tuple[object, ...]:
    """What the choice of a kernel depends on besides the problem: while it is the same, so is the choice."""
    return _named.get(), _precision.get(), _measures.get(), threads.get_num_threads(), _epoch[0]


# Counts what changes choices: kernels registered, measurements and tunings that arrived.
_epoch = [0]


def allowed_limit() -> float:
    """The largest error limit that "auto" may choose here and now."""
    return PRECISIONS[_precision.get()]


def choose(op: str, problem: Problem, algorithm: str = "auto", backend: str = "cpu", *, kept: bool = False) -> Kernel:
    """The kernel that serves `problem`: the named algorithm, or for "auto" the one `use` names, or the fastest.

    The fastest is the one that was fastest when the kernels were measured on this problem, else the one of the smallest
    predicted time. kept: whether what a kernel prepares of the weights is kept, so that calls do not pay for it.
    Raises Unsupported if a named algorithm cannot do the problem, ValueError if there is none of that name.
    """
    return choose_and_say(op, problem, algorithm, backend, kept)[0]


def choose_and_say(op: str, problem: Problem, algorithm: str, backend: str, kept: bool) -> tuple[Kernel, str]:
    """What `choose` chooses, and why: "named", "used", "measured", "tuned" or "model"."""
    if not isinstance(algorithm, str):
        raise TypeError(
            f"algorithm={algorithm!r}: needs the name of an algorithm or 'auto', got {type(algorithm).__name__}"
        )
    if algorithm != "auto":
        return _named_kernel(op, problem, algorithm, backend, _place(backend)), "named"
    algorithm = _named.get().get(f"{op}/{backend}", "auto")
    if algorithm != "auto":
        return _named_kernel(op, problem, algorithm, backend, _place(backend)), "used"
    now = allowed_limit(), threads.get_num_threads(), _measures.get()
    return _automatic(op, problem, backend, kept, *now, _place(backend))


def _place(backend: str) -> object:
    """What kernels may ask of the device: what it is like."""
    if backend == "cpu":
        return None
    from fastconv.kernels.cuda import launch

    return launch.assumed()


@lru_cache(maxsize=4096)
def _named_kernel(op: str, problem: Problem, algorithm: str, backend: str, place: object) -> Kernel:
    found = {k.algorithm: k for k in kernels(op, backend)}
    if algorithm not in found:
        raise ValueError(f"algorithm={algorithm!r}: {op} on {backend} needs 'auto' or one of {', '.join(found)}")
    chosen = found[algorithm]
    reason = chosen.unsupported(problem)
    if reason is not None:
        raise Unsupported(f"{chosen.name}: {reason}")
    return chosen


@lru_cache(maxsize=4096)
def _automatic(
    op: str, problem: Problem, backend: str, kept: bool, limit: float, team: int, measures: bool, place: object
) -> tuple[Kernel, str]:
    able = [k for k in kernels(op, backend) if k.unsupported(problem) is None and k.limit <= limit]
    key = choices.problem_key(op, problem, team, kept)
    if not able:
        raise Unsupported(f"{op} on {backend}: no kernel can do {problem} within the precision allowed here")
    if measures and backend == "cpu" and problem.flops and len(able) > 1:
        _measure_once(key, able, problem, kept)
    seconds = choices.recall(key)
    timed = [(taken, k.name, k) for k in able if (taken := seconds.get(k.name)) is not None]
    if timed:
        return min(timed)[2], "measured"
    chosen = min(able, key=lambda k: (predicted(k, problem, kept), k.name))
    return chosen, "tuned" if chosen.name in choices.recall(choices.tuning_key(team)) else "model"


def predicted(kernel: Kernel, problem: Problem, kept: bool = False) -> float:
    """The time that the model predicts, in flops at the FMA peak: the kernel's cost times what a tuning found.

    kept: without what preparing the weights costs.
    """
    factor = choices.recall(choices.tuning_key(threads.get_num_threads())).get(kernel.name) or 1.0
    return factor * (kernel.cost(problem) - kept * kernel.prepare_cost(problem))


def remember(key: str, record: choices.Record) -> None:
    """Remember what was measured, so that it counts from the next choice on."""
    choices.remember(key, record)
    _automatic.cache_clear()
    _epoch[0] += 1


def _measure_once(key: str, able: list[Kernel], problem: Problem, kept: bool) -> None:
    """Measure the kernels on the problem, unless it is known of all of them what they took."""
    from fastconv.measure import race

    # Measuring chooses no kernel by measuring.
    token = _measures.set(False)
    try:
        with choices.measuring:
            if not all(kernel.name in choices.recall(key) for kernel in able):
                remember(key, race(able, problem, kept=kept))
    finally:
        _measures.reset(token)


def has_meaning(op: str, problem: Problem) -> bool:
    """Whether `op` can have these arguments: it has this type of problem, dilation is max pooling's alone, and so are
    activations and additions the forward convolution's."""
    if isinstance(problem, ConvProblem) and problem.epilogue and op != "conv2d":
        return False
    if isinstance(problem, PoolProblem) and op.startswith("avg") and problem.dilation != (1, 1):
        return False
    if isinstance(problem, RecurrentProblem) and op.partition("_")[0] != problem.cell:
        return False
    return isinstance(problem, OPS[op].problem)


def operations(problem: Problem) -> list[str]:
    """The operations that a problem of this type has: forward first, then the gradients."""
    cell = problem.cell if isinstance(problem, RecurrentProblem) else ""
    return [name for name, op in OPS.items() if isinstance(problem, op.problem) and name.startswith(cell)]


def explain(
    target: Any,
    x: Any = None,
    *,
    measure: bool = False,
    ops: Iterable[str] | None = None,
    kept: bool | None = None,
    backend: str | None = None,
) -> Explanation:
    """Every candidate kernel for a problem, or for a layer and its input, and which one is chosen and why.

    `target` is a Problem, or a layer with `.problem(x)`; `x` is the layer's input. kept: whether prepared weights are
    kept; None: as the layer does, in evaluation. backend: "cpu" or "cuda"; None: that of x, else "cpu". Printed, the
    result is a table with the choice and its reason (the layer named it, `use` did, it was measured, a tuned model
    predicts it, or the model as shipped), predicted time, scratch memory, kept memory and, with measure=True, measured
    time, GFLOP/s, share of the CPU's measured or the device's computed peak, and error against float64. A kernel that
    cannot do the problem is listed with the reason. RuntimeError for "cuda" without a device.
    """
    from fastconv import device
    from fastconv.measure import explain_problem

    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: needs one of {', '.join(BACKENDS)}")
    backend = backend or device.backend(getattr(x, "_array", x))
    algorithm, shown = "auto", None
    if isinstance(target, Problem):
        problem = target
    elif hasattr(target, "problem"):
        if x is None:
            raise ValueError("x=None: explaining a layer needs its input")
        problem, shown = target.problem(x), target.operations
        algorithm = getattr(target, "algorithm", "auto")
        kept = hasattr(target, "_kept") and not target.training if kept is None else kept
    else:
        raise TypeError(f"target={target!r}: needs a problem or a layer that is served by kernels")
    able = [op for op in operations(problem) if has_meaning(op, problem)]
    chosen = list(ops if ops is not None else able if shown is None else [op for op in shown if op in able])
    if not chosen or any(op not in able for op in chosen):
        raise ValueError(f"ops={ops!r}: needs some of {', '.join(able)}")
    return explain_problem(problem, chosen, algorithm, measured=measure, kept=bool(kept), backend=backend)
