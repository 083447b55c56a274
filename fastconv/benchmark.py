"""`fastconv bench`: a layer or a model of one's own, by every kernel and every peer that is installed, in one table.

The engine is that of `pytest --benchmark`, and so are the rules; what is found can be kept as JSON and reported.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import creation, models, nn
from fastconv.autograd import no_grad
from fastconv.nn import init
from fastconv.nn.embedding import Embedding
from fastconv.problem import Problem
from fastconv.registry import kernels
from fastconv.report import runs


def load_model(place: str, options: dict[str, Any]) -> nn.Module:
    """The model that FILE.py:FUNCTION builds, or one of fastconv.models; ValueError names what is wrong."""
    if place in models.BUILDERS:
        with init.skipped():
            return models.BUILDERS[place](**options)
    file, _, name = place.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ValueError(f"model={place!r}: needs FILE.py:FUNCTION or one of {', '.join(models.BUILDERS)}")
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"model={place!r}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # As for a script: what lies beside it can be imported.
    sys.path.insert(0, str(path.resolve().parent))
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise ValueError(f"model={place!r}: {path} has no function {name}")
    model = getattr(module, name)(**options)
    if not isinstance(model, nn.Module):
        raise ValueError(f"model={place!r}: {name}() returned {type(model).__name__}, needs a fastconv.nn.Module")
    return model


def layers(model: nn.Module, shape: Sequence[int]) -> list[tuple[str, str, Problem]]:
    """(name, operation, problem) of every call of a layer that has kernels, in the order of the calls, for an input of
    random numbers of this shape. A recurrent layer of several layers is several."""
    names = {module: name for name, module in model.named_modules()}
    found: list[tuple[str, str, Problem]] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        kind: Any = module
        depth = getattr(module, "num_layers", 1)
        for number in range(depth):
            problem = kind.problem(inputs[0], number) if depth > 1 else kind.problem(inputs[0])
            name = names[module] or type(module).__name__
            found.append((f"{name} layer {number}" if depth > 1 else name, kind.operations[0], problem))

    first = next((module for module in model.modules() if not module._modules), model)
    generator = np.random.default_rng(0)
    if isinstance(first, Embedding):
        x = generator.integers(0, first.num_embeddings, tuple(shape))
    else:
        x = generator.standard_normal(tuple(shape)).astype(np.float32)
    with_kernels = [m for m in model.modules() if hasattr(m, "problem") and hasattr(m, "operations")]
    hooks = [module.register_forward_hook(note) for module in with_kernels]
    try:
        with no_grad():
            model.eval()(x if isinstance(first, Embedding) else creation.from_numpy(x))
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ValueError(f"model: {type(model).__name__} has no layer that kernels serve")
    return found


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int, str], None]]:
    """A bar on stderr if that is a terminal: tell(how many are done, text)."""
    if not sys.stderr.isatty():
        yield lambda done, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, text: bar.update(task, completed=done, description=text)


def measure(
    wanted: Sequence[tuple[str, str, Problem]],
    peers: str | None,
    algorithms: Sequence[str] | None,
    quick: bool,
    command: str,
    networks: dict[str, list[tuple[str, str]]] | None = None,
) -> dict[str, Any]:
    """The JSON of a run of (case, operation, problem)s.

    peers: as driver.chosen takes them. algorithms: of ours, None for all. ValueError names a peer or an algorithm
    that there is none of.
    """
    from fastconv.peers import driver, groups
    from fastconv.peers.record import Record, git_revision

    chosen_peers = driver.chosen(peers)
    for name in algorithms or ():
        if not any(kernel.algorithm == name for _, op, _ in wanted for kernel in kernels(op)):
            raise ValueError(f"algorithm={name!r}: no kernel of {', '.join(dict.fromkeys(op for _, op, _ in wanted))}")
    budget = driver.Budget.quick() if quick else driver.Budget()
    record = Record(git_revision(Path(__file__).parent), quick, networks=networks or {})
    with tempfile.TemporaryDirectory() as place, _progress(len(wanted)) as tell:
        pool = driver.Pool(lambda name: driver.Worker(name, record.machine.threads, Path(place)))
        try:
            tell(0, "measuring the machine")
            record.limits.append(record.limits_now())
            for number, (case, op, problem) in enumerate(wanted):
                group = groups.of_problem(case, problem, op, chosen_peers)
                rows = [
                    one
                    for one in group.contenders
                    if one.kernel is None or algorithms is None or one.kernel.algorithm in algorithms
                ]
                group = replace(group, contenders=tuple(rows))
                peak = (lambda of=group: driver.fma_peak(budget, of)) if group.flops else None
                found = driver.measure(group, rows, pool, budget, lambda text, k=number: tell(k, text), peak)
                for one in rows:
                    record.add(group, one, found, command)
            record.about = {name: said["version"] for name, said in pool.about.items() if name in groups.PEERS}
            record.limits.append(record.limits_now())
        finally:
            pool.close()
    data: dict[str, Any] = record.json()
    return data


def whole(model: nn.Module, shape: Sequence[int], seconds: float = 2.0) -> tuple[float, float, float]:
    """Median and quartiles in seconds of the model's own call in evaluation, as it is, on an array of this shape."""
    from fastconv import threads

    first = next((module for module in model.modules() if not module._modules), model)
    generator = np.random.default_rng(0)
    x: Any = generator.standard_normal(tuple(shape)).astype(np.float32)
    if isinstance(first, Embedding):
        x = generator.integers(0, first.num_embeddings, tuple(shape))
    model.eval()
    times: list[float] = []
    with threads.measuring():
        model(x)
        end = time.perf_counter() + seconds
        while len(times) < 5 or time.perf_counter() < end:
            start = time.perf_counter()
            model(x)
            times.append(time.perf_counter() - start)
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
    return float(middle), float(low), float(high)


def show_layers(run: runs.Run, call: tuple[float, float, float], console: Any) -> None:
    """Print a model's layers in order: the kernel that is chosen, its time, the fastest, and the best peer. call: the
    median and quartiles of the model's own call, in seconds."""
    from rich.table import Table

    from fastconv.report.cells import milliseconds

    (model, order), *_ = run.networks.items()
    of_case = {group.case: group for group in run.groups.values()}
    table = Table(title=f"{model}: milliseconds, alone and in evaluation", title_justify="left")
    for title in ("layer", "problem", "chosen", "ms", "of peak", "fastest", "best peer", "ms", "ratio"):
        table.add_column(title, justify="right" if title in ("ms", "of peak", "ratio") else "left", overflow="fold")
    total = 0.0
    for name, case in order:
        group = of_case[case]
        own, fastest, peer, ratio = group.own, group.fastest_kernel, group.best_peer(), group.ratio()
        row = [name, group.rows[0].problem]
        if own is None or not own.valid:
            row += ["", "FAIL: " + (own.failure or own.absent if own is not None else "not measured"), "", ""]
        else:
            total += own.seconds
            share = f"{100 * own.share:.0f} %" if own.share == own.share else ""
            best = fastest.algorithm if fastest is not None and fastest.role == runs.KERNEL else ""
            chosen = (own.kernel or own.name).split("/")[1]
            row += [chosen, milliseconds(own.seconds), share, "" if best == chosen else best]
        row += [peer.runtime, milliseconds(peer.seconds)] if peer is not None else ["", ""]
        table.add_row(*row, f"{ratio:.2f}" if ratio is not None else "")
    console.print(run.machine, highlight=False)
    for warning in run.warnings:
        console.print(f"WARNING: {warning}", style="yellow", highlight=False)
    console.print(table)
    middle, low, high = map(milliseconds, call)
    console.print(f"sum of the layers {milliseconds(total)} ms; the model's own call {middle} ms ({low}–{high})")


def save(data: dict[str, Any], path: Path) -> None:
    """Write the JSON so that at any moment the file is the former one or this one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(data, indent=1), encoding="utf-8")
    os.replace(new, path)
