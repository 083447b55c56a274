"""How much of a loss at the last of 200 steps reaches the steps before it, in an RNN, a GRU and an LSTM.

    python examples/vanishing_gradients.py

Prints ‖∂L/∂x(t)‖ over the distance T − t and draws it to out/vanishing_gradients.png. All layers have the same sizes
and input and are not trained. Each is shown as torch initialises it, where even an LSTM forgets half of its state in
each step, and as it can be made: with a bias that keeps the gate of its memory open (Gers, Schmidhuber & Cummins 2000),
or, for the RNN, which has no gate, with recurrent weights so large that its gradient explodes. Then the two ends of one
and the same product, 0.99^1000 and 1.01^1000, by back-propagation through 1000 steps, and how clipping (Pascanu,
Mikolov & Bengio 2013) bounds a step of SGD where the gradient explodes. The argument: Hochreiter 1991; Bengio, Simard &
Frasconi 1994. Everything is float64: in float32 the smallest of these gradients would be 0.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import fastconv
from fastconv import nn, optim

INPUTS, HIDDEN, BATCH = 16, 64, 8
# Okabe & Ito's colours, which all eyes tell apart.
COLORS = {nn.RNN: "#D55E00", nn.GRU: "#009E73", nn.LSTM: "#0072B2"}


class Line(NamedTuple):
    """A layer, what it is called, and ‖∂L/∂x(t)‖ (T) at the distances T − t = 0, 1, …, over that at 0."""

    layer: nn.Module
    name: str
    initial: bool
    norms: np.ndarray


def with_open_gate(layer: nn.Module, bias: float) -> nn.Module:
    """The layer with `bias` added to its forget gate (LSTM) or update gate (GRU), the second of its gates in both."""
    values = layer.bias_ih_l0.detach().numpy().copy()
    values[HIDDEN : 2 * HIDDEN] += bias
    layer.load_state_dict({**layer.state_dict(), "bias_ih_l0": values})
    return layer


def with_radius(layer: nn.RNN, radius: float) -> nn.RNN:
    """The layer with `radius` times an orthogonal matrix as its recurrent weights."""
    matrix, _ = np.linalg.qr(fastconv.randn(HIDDEN, HIDDEN, dtype=np.float64).numpy())
    layer.load_state_dict({**layer.state_dict(), "weight_hh_l0": radius * matrix})
    return layer


def layers(bias: float, radius: float) -> list[tuple[nn.Module, str, bool]]:
    """Layers of one size, their names, and whether they are as initialised."""

    def make(kind: type) -> nn.Module:
        return kind(INPUTS, HIDDEN, dtype=np.float64)

    return [
        (with_radius(make(nn.RNN), radius), f"RNN, recurrent weights {radius:g} × orthogonal", False),
        (with_open_gate(make(nn.LSTM), bias), f"LSTM, forget gate's bias + {bias:g}", False),
        (with_open_gate(make(nn.GRU), bias), f"GRU, update gate's bias + {bias:g}", False),
        (make(nn.RNN), "RNN, as initialised", True),
        (make(nn.LSTM), "LSTM, as initialised", True),
        (make(nn.GRU), "GRU, as initialised", True),
    ]


def back_propagate(layer: nn.Module, steps: int, seed: int) -> np.ndarray:
    """‖∂L/∂x(t)‖ (T) for L = a random weighted sum of h(T) and random x; the gradients of the parameters stay."""
    random = np.random.default_rng(seed)
    x = fastconv.tensor(random.normal(size=(steps, BATCH, INPUTS)), requires_grad=True)
    weights = random.normal(size=(BATCH, HIDDEN))
    outputs, _ = layer(x)
    (outputs[-1] * weights).sum().backward()
    return np.linalg.norm(x.grad.numpy(), axis=(1, 2))


def lines(steps: int, seed: int, bias: float, radius: float, console: Console) -> list[Line]:
    """All layers' norms over distance."""
    fastconv.manual_seed(seed)
    found = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for layer, name, initial in progress.track(layers(bias, radius), description="back-propagating"):
            norms = back_propagate(layer, steps, seed)[::-1]
            found.append(Line(layer, name, initial, norms / norms[0]))
    return found


def product(factor: float, steps: int) -> float:
    """∂h(T)/∂h(0) of an RNN of one unit that multiplies its state by `factor` in each step, by back-propagation."""
    layer = nn.RNN(1, 1, nonlinearity="relu", bias=False, dtype=np.float64)
    layer.load_state_dict({"weight_ih_l0": np.zeros((1, 1)), "weight_hh_l0": np.full((1, 1), factor)})
    h = fastconv.tensor(np.ones((1, 1, 1)), requires_grad=True)
    _, last = layer(fastconv.tensor(np.zeros((steps, 1, 1))), h)
    last.sum().backward()
    return h.grad.item()


def step(layer: nn.Module, rate: float, most: float | None) -> tuple[float, np.ndarray]:
    """The norm of the parameters' gradients, and the change by a step of SGD, clipped to a norm of `most` unless None.

    The parameters and their gradients are put back afterwards.
    """
    parameters = list(layer.parameters())
    before = [(p.detach().numpy().copy(), p.grad.numpy().copy()) for p in parameters]
    norm = float(nn.utils.clip_grad_norm_(parameters, math.inf if most is None else most))
    optim.SGD(parameters, lr=rate).step()
    change = np.concatenate(
        [(p.detach().numpy() - old).ravel() for p, (old, _) in zip(parameters, before, strict=True)]
    )
    for p, (values, gradient) in zip(parameters, before, strict=True):
        p.data.copy_(values)
        p.grad.copy_(gradient)
    return norm, change


def table(found: list[Line], distances: list[int]) -> Table:
    """The norms at some distances."""
    shown = Table(title="‖∂L/∂x(t)‖ over that of the last step")
    shown.add_column("T − t", no_wrap=True)
    for distance in distances:
        shown.add_column(str(distance), justify="right", no_wrap=True)
    for line in found:
        shown.add_row(line.name, *(f"{line.norms[distance]:.1e}" for distance in distances))
    return shown


def draw(found: list[Line], path: Path) -> None:
    """The norms over the distance, on a logarithmic axis."""
    figure = Figure(figsize=(8.5, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for line in found:
        color, style = COLORS[type(line.layer)], "--" if line.initial else "-"
        axes.plot(line.norms, color=color, linestyle=style, linewidth=2.0, label=line.name)
    smallest = float(np.finfo(np.float32).tiny)
    if any(line.norms.min() < smallest for line in found):
        axes.axhline(smallest, color="0.6", linewidth=1)
        axes.annotate(
            "smallest normal float32: below, kernels take 0",
            (0, smallest),
            (2, 3),
            textcoords="offset points",
            color="0.4",
            fontsize=9,
        )
    axes.set_yscale("log")
    # Ticks at whole multiples of some decades, so that 1 is one of them.
    low, high = (math.log10(value) for value in axes.get_ylim())
    apart = 10 if high - low > 30 else 2 if high - low > 8 else 1
    axes.yaxis.set_major_locator(FixedLocator([10.0**n for n in range(-300, 301, apart) if low <= n <= high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0, len(found[0].norms) - 1)
    axes.set_xlabel("steps back from the loss, T − t")
    axes.set_ylabel("‖∂L/∂x(t)‖  /  ‖∂L/∂x(T)‖")
    figure.suptitle(
        f"Gradients back through {len(found[0].norms)} steps: {HIDDEN} units, not trained, loss at the last step"
    )
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), columnspacing=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def at_least_two(text: str) -> int:
    """A command line's number, 2 or more."""
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError(f"{number} is not 2 or more")
    return number


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=at_least_two, default=200)
    parser.add_argument("--bias", type=float, default=3.0, help="added to the gate that keeps the memory")
    parser.add_argument("--radius", type=float, default=2.0, help="of the exploding RNN's recurrent weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/vanishing_gradients.png"))
    args = parser.parse_args(arguments)
    console = Console(width=None if Console().is_terminal else 140)

    found = lines(args.steps, args.seed, args.bias, args.radius, console)
    wanted = sorted({0, 1, 10, 50, 100, args.steps - 1})
    console.print(table(found, [distance for distance in wanted if distance < args.steps]))
    draw(found, args.out)
    console.print(f"drawn to {args.out}\n", highlight=False)

    console.print("One unit, 1000 steps, ∂h(1000)/∂h(0) by back-propagation:")
    for factor in (0.99, 1.01):
        console.print(f"  {factor}^1000 = {product(factor, 1000):,.7g}, by math.pow {math.pow(factor, 1000):,.7g}")

    rate, most = 0.1, 1.0
    exploding = found[0]
    console.print(f"\nA step of SGD with rate {rate:g}, {exploding.name}:")
    norm, free = step(exploding.layer, rate, None)
    _, clipped = step(exploding.layer, rate, most)
    lengths = np.linalg.norm(free), np.linalg.norm(clipped)
    cosine = float(free @ clipped / lengths[0] / lengths[1])
    console.print(f"  gradients' norm {norm:.1e}: the parameters would move by {lengths[0]:.1e}")
    console.print(f"  clipped to a norm of {most:g}: by {lengths[1]:.3f}; cosine between the two steps {cosine:.6f}")


if __name__ == "__main__":
    main()
