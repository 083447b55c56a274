"""What is measured in turn: our kernels, our layer and the peers, on one operation and problem or one piece of work."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import testing
from fastconv.problem import GATES, LinearProblem, PoolProblem, Problem, RecurrentProblem, itemsize
from fastconv.registry import OPS, Kernel, choose, kernels, operations

from . import cases, recurrent
from .cases import Case
from .work import Arrays

# The process of our layers, the one of our kernels, that of our CUDA kernels, and the one of a case's dense work.
OWN, KERNELS, CUDA, DENSE = "fastconv", "kernels", "cuda", "fastconv_dense"

# Each peer and the environment below the folder of environments it runs in; ours run in this one.
PEERS: Mapping[str, str] = {
    "torch": "torch",
    "torch_channels_last": "torch",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "jax": "jax",
    "ncnn": "ncnn",
    "mnn": "mnn",
    "keras": "keras",
}
# On a CUDA device: cuDNN and cuBLAS, through a PyTorch of CUDA. It is looked for where PyTorch is.
DEVICE_PEERS: Mapping[str, str] = {"torch_cuda": "torch"}
ALL_PEERS = {**PEERS, **DEVICE_PEERS}
OF_IMAGES = ("torch", "torch_channels_last", "onnxruntime", "openvino", "jax", "ncnn", "mnn")
OF_MATRICES = ("torch", "onnxruntime", "openvino", "jax", "ncnn", "mnn")
OF_SERIES = ("torch", "onnxruntime", "openvino", "jax", "keras")

# What follows a case's name where it is done on a device.
ON_DEVICE = "-cuda"

# Operations that are a layer's forward pass.
FORWARD = ("conv2d", "max_pool2d", "avg_pool2d", "linear", *GATES)


@dataclass(frozen=True, slots=True)
class Contender:
    """A row: its name, its process, its role in reports, and for one of our kernels which."""

    name: str
    runtime: str
    role: str
    kernel: Kernel | None = None

    @property
    def slot(self) -> str:
        return self.name

    @property
    def folder(self) -> str:
        """Where below the group's folder its work lies."""
        return {KERNELS: "kernels", CUDA: "kernels", DENSE: "dense"}.get(self.runtime, "work")


@dataclass(frozen=True)
class Group:
    """Contenders that are measured in turn.

    work: what layers and peers do, None where they cannot be asked for it; problem: what kernels do. flops and bytes
    are what rows are credited with, 0 where that says nothing. goal: what is asked of fastconv, see cases.Case.
    backend: "cuda" for work on a device, whose rows and times are its own.
    """

    name: str
    case: str
    op: str
    contenders: tuple[Contender, ...]
    problem: Problem | None = None
    work: dict[str, Any] | None = None
    dense: dict[str, Any] | None = None
    flops: float = 0.0
    bytes: float = 0.0
    fresh: str = ""
    quick: bool = False
    text: str = ""
    goal: Mapping[str, Any] = field(default_factory=dict)
    backend: str = "cpu"

    @property
    def dtype(self) -> str:
        return self.problem.dtype if self.problem is not None else "float32"

    @property
    def dense_flops(self) -> float:
        """Of the work without padding."""
        return recurrent.flops(self.dense) if self.dense is not None else 0.0

    @property
    def chosen(self) -> str:
        """The name of the row that stands for fastconv."""
        layer = next((one.name for one in self.contenders if one.role == "layer"), None)
        if layer is not None or self.problem is None:
            return layer or ""
        return choose(self.op, self.problem, backend=self.backend).name


def describe(problem: Problem, batch: bool = True) -> str:
    """A problem in a few words: sizes as N×C×H×W or T×B×features."""
    p: Any = problem
    if isinstance(problem, LinearProblem):
        return f"{p.m}×{p.i} → {p.o}"
    if isinstance(problem, RecurrentProblem):
        t, b = (p.t, p.b)
        more = [", both directions"] * (p.directions == 2) + [", lengths"] * p.ragged
        return f"{t}×{b}×{p.i} → {p.h}" + "".join(more)
    size = "×".join(map(str, p.input_shape))
    same = [name for name in ("stride", "dilation") if getattr(p, name) != (1, 1)]
    more = [f"{name} {_pair(getattr(p, name))}" for name in same]
    if any(p.padding):
        top, bottom, left, right = p.padding
        more.append("padding " + (_pair((top, left)) if (top, left) == (bottom, right) else str(p.padding)))
    if isinstance(problem, PoolProblem):
        return ", ".join([f"{size}, {p.kh}×{p.kw}", *more])
    more += [f"groups {p.groups}"] * (p.groups > 1) + [p.activation] * bool(p.activation) + ["addition"] * p.add
    return ", ".join([f"{size} → {p.o}, {p.kh}×{p.kw}", *more])


def _pair(values: tuple[int, int]) -> str:
    return str(values[0]) if values[0] == values[1] else f"{values[0]}×{values[1]}"


def layers(op: str, problem: Problem) -> list[dict[str, Any]]:
    """The layer that `op` is of, and its activation; ValueError where peers' layers have no such thing."""
    p: Any = problem
    if problem.dtype != "float32":
        raise ValueError(f"{problem.dtype}, and peers are asked for float32")
    if isinstance(problem, LinearProblem):
        return [{"op": "linear", "in": p.i, "out": p.o, "bias": p.bias}]
    if isinstance(problem, RecurrentProblem):
        if p.ragged:
            raise ValueError("lengths, which have cases of their own")
        if p.peephole or p.linear or p.relu or p.state or p.batch_first or not p.bias:
            raise ValueError("an option that not all peers have")
        sizes = {"in": p.i, "hidden": p.h, "layers": 1, "bidirectional": p.directions == 2}
        return [{"op": p.cell, **sizes}]
    top, bottom, left, right = p.padding
    if (top, left) != (bottom, right):
        raise ValueError(f"padding {p.padding}, which differs before and after")
    window = {"kernel": [p.kh, p.kw], "stride": list(p.stride), "padding": [top, left], "dilation": list(p.dilation)}
    if isinstance(problem, PoolProblem):
        sizes = ((p.h, p.kh, top, 0, p.oh), (p.w, p.kw, left, 1, p.ow))
        if any((n + 2 * pad - p.dilation[k] * (size - 1) - 1) // p.stride[k] + 1 != o for n, size, pad, k, o in sizes):
            raise ValueError("sizes that are rounded up")
        if op.startswith("avg") and (p.divisor_override or (not p.count_include_pad and any(p.padding))):
            raise ValueError("a divisor that not all peers have")
        return [{"op": op[:3] + "pool", **window}]
    if p.add:
        raise ValueError("an addition, which peers do in a further layer")
    conv = {"op": "conv", "in": p.c, "out": p.o, **window, "groups": p.groups, "bias": p.bias}
    return [conv, *([{"op": p.activation}] if p.activation else [])]


def _work(op: str, problem: Problem) -> dict[str, Any]:
    """The work that is `op` on the problem; ValueError as `layers`, or where only we have such an operation."""
    found = {"shape": list(problem.input_shape), "layers": layers(op, problem)}
    if op in FORWARD:
        return {"kind": "forward", **found}
    if isinstance(problem, RecurrentProblem):
        raise ValueError("what is saved in training is each runtime's own")
    return {"kind": "operation", "op": op, **found}


def names(op: str, problem: Problem, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """The inputs of `op` by the names that they have in work."""
    if op not in FORWARD:
        return dict(inputs)
    found = {"x": inputs["x"]}
    if isinstance(problem, RecurrentProblem):
        for d, ending in enumerate(("_l0", "_l0_reverse")[: problem.directions]):
            for name, ours in zip(recurrent.PARAMETERS, ("w_ih", "w_hh", "b_ih", "b_hh"), strict=True):
                found[f"0.{name}{ending}"] = inputs[ours][d]
    elif not isinstance(problem, PoolProblem):
        found |= {"0.weight": inputs["w"]} | ({"0.bias": inputs["b"]} if problem.bias else {})
    return found


def _peers(op: str, problem: Problem) -> tuple[str, ...]:
    if op not in FORWARD:
        return ("torch",) if isinstance(problem, LinearProblem) else cases.TRAINING
    if isinstance(problem, RecurrentProblem):
        return OF_SERIES
    return OF_MATRICES if isinstance(problem, LinearProblem) else OF_IMAGES


def of_problem(
    case: str, problem: Problem, op: str, installed: tuple[str, ...], quick: bool = False, goal: Mapping[str, Any] = {}
) -> Group:
    """All that can do `op` on the problem: every kernel, our layer, and those of the installed peers."""
    rows = [
        Contender(kernel.name, KERNELS, "kernel", kernel) for kernel in kernels(op) if testing.serves(kernel, problem)
    ]
    work = None
    try:
        work = _work(op, problem)
    except ValueError:
        pass
    else:
        rows += [Contender(f"{op}/{OWN}", OWN, "layer")] * (op in FORWARD)
        rows += [Contender(f"{op}/{name}", name, "peer") for name in _peers(op, problem) if name in installed]
    shown = (problem.flops, problem.bytes)
    return Group(f"{case} {op}", case, op, tuple(rows), problem, work, None, *shown, "", quick, describe(problem), goal)


def of_device(case: str, problem: Problem, op: str, installed: tuple[str, ...]) -> Group:
    """All that can do `op` on the problem on a CUDA device: every kernel, and PyTorch."""
    able = [kernel for kernel in kernels(op, "cuda") if testing.serves(kernel, problem)]
    rows = [Contender(kernel.name, CUDA, "kernel", kernel) for kernel in able]
    work = None
    try:
        work = _work(op, problem)
    except ValueError:
        pass
    else:
        rows += [Contender(f"{op}/{name}", name, "peer") for name in DEVICE_PEERS if name in installed]
    case = f"{case}{ON_DEVICE}"
    shown = (problem.flops, problem.bytes)
    more = {"text": describe(problem), "backend": "cuda"}
    return Group(f"{case} {op}", case, op, tuple(rows), problem, work, None, *shown, **more)


def of_case(case: Case, installed: tuple[str, ...]) -> Group:
    """A piece of work: our layers against the peers' that take part."""
    kind = "start" if case.fresh else {"forward": "network"}.get(case.work["kind"], case.work["kind"])
    rows = [Contender(f"{kind}/{OWN}", OWN, "layer")]
    rows += [Contender(f"{kind}/{DENSE}", DENSE, "aside")] * (case.dense is not None)
    usual = OF_SERIES if recurrent.is_recurrent(case.work) else OF_IMAGES
    takes = [name for name in usual if case.peers is None or name in case.peers]
    rows += [Contender(f"{kind}/{name}", name, "peer") for name in takes if name in installed]
    flops = case.flops or 0.0
    text = "×".join(map(str, case.work["shape"])) + f", {case.text}"
    more = (None, case.work, case.dense, flops, 0.0, case.fresh, case.quick, text, case.goal)
    return Group(f"{case.name} {kind}", case.name, kind, tuple(rows), *more)


def all_groups(installed: tuple[str, ...]) -> Iterator[Group]:
    """Every group of `pytest --benchmark`: bench cases by operation, here and on a CUDA device, then whole networks,
    training and starts."""
    for name, case in testing.CASES.items():
        if case.small:
            continue
        for op in operations(case.problem):
            if any(testing.serves(kernel, case.problem) for kernel in kernels(op)):
                quick = f"{name} {op}" in cases.QUICK
                yield of_problem(name, case.problem, op, installed, quick, cases.GOALS.get(f"{name} {op}", {}))
    for name, case in testing.CASES.items():
        for op in operations(case.problem):
            if not case.small and any(testing.serves(kernel, case.problem) for kernel in kernels(op, "cuda")):
                yield of_device(name, case.problem, op, installed)
    for case in cases.all_cases():
        yield of_case(case, installed)


def scratch(kernel: Kernel, problem: Problem) -> tuple[int, int]:
    """Bytes of scratch that a kernel asks for, and of what it prepares of the weights."""
    size = itemsize(problem.dtype)
    return kernel.scratch(problem) * size, kernel.prepared(problem) * size


def write(work: Mapping[str, Any], arrays: Arrays, folder: Path) -> None:
    """Put work where a worker reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "work.json").write_text(json.dumps(work), encoding="utf-8")
    np.savez(folder / "arrays.npz", **arrays)


def for_kernels(op: str, problem: Problem) -> dict[str, Any]:
    """A problem as the worker of kernels reads it."""
    return {"op": op, "problem": type(problem).__name__, "fields": asdict(problem)}


@dataclass(frozen=True)
class Given:
    """The inputs of a group: by the names of operations, and by those of work."""

    inputs: tuple[np.ndarray, ...]
    work: dict[str, Any] | None
    arrays: Arrays

    @classmethod
    def of(cls, group: Group, seed: int = 0) -> Given:
        """Random; the same for kernels, layers and peers."""
        if group.problem is None:
            assert group.work is not None
            return cls((), group.work, cases.arrays(group.work, seed))
        inputs = testing.inputs(group.op, group.problem, seed)
        named = dict(zip(OPS[group.op].inputs, inputs, strict=True))
        return cls(inputs, group.work, names(group.op, group.problem, named))
