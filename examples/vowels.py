"""Tell nine speakers apart by how they say "ae": a bidirectional LSTM or a GRU on series of unequal lengths.

    python examples/vowels.py                bidirectional LSTM, needs 95.5 % of the test series within 30 s
    python examples/vowels.py --cell gru     GRU, needs 93 %

JapaneseVowels, 270 series to train with and 370 to test, of 7 to 29 steps of 12 LPC cepstrum coefficients: Kudo, Toyama
& Shimbo, "Multidimensional Curve Classification Using Passing-Through Regions", 1999. They are read out of the wheel of
aeon (see wheels.py). A batch is padded to one length, and `lengths=` tells the layer where each series ends. Exits with
1 if the accuracy or the time is missed.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import wheels
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import fastconv
from fastconv import machine, nn, optim
from fastconv.nn.utils.rnn import pad_sequence

SPEAKERS, CHANNELS, LONGEST = 9, 12, 29
# What the share of right answers must be, and the seconds of training.
BARS = {"lstm": 0.955, "gru": 0.93}
SECONDS = 30.0

Series = tuple[np.ndarray, np.ndarray, np.ndarray]


def series(part: str) -> Series:
    """Of "TRAIN" or "TEST": series padded with 0, float32 (29, n, 12), their lengths and speakers 0 … 8, int64 (n)."""
    text = wheels.read("aeon", f"aeon/datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts").decode()
    # After the header one series a line: its channels, and at last its class, between colons.
    lines = [line.split(":") for line in text.split("@data")[1].split()]
    each = [np.array([channel.split(",") for channel in channels], np.float32).T for *channels, _ in lines]
    padded = np.zeros((LONGEST, len(each), CHANNELS), np.float32)
    padded[: max(map(len, each))] = pad_sequence(each)
    return padded, np.array([len(x) for x in each]), np.array([int(line[-1]) - 1 for line in lines])


def data() -> tuple[Series, Series]:
    """What to train and to test with; each channel has mean 0 and deviation 1 over the steps to train with."""
    train, test = series("TRAIN"), series("TEST")
    valid = train[0][np.arange(LONGEST)[:, None] < train[1]]
    mean, deviation = valid.mean(axis=0), valid.std(axis=0)
    # The padding becomes something other than 0, which no result may depend on.
    return tuple(((x - mean) / deviation, lengths, speakers) for x, lengths, speakers in (train, test))


class Speakers(nn.Module):
    """Scores of the speakers: a recurrent layer, the mean of its outputs over a series' steps, a linear layer.

    x (T, batch, 12), lengths (batch) -> (batch, 9).
    """

    def __init__(self, cell: str, hidden: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        bidirectional = cell == "lstm"
        self.recurrent = (nn.LSTM if cell == "lstm" else nn.GRU)(CHANNELS, hidden, bidirectional=bidirectional)
        self.dropout = nn.Dropout(dropout)
        self.scores = nn.Linear(hidden * (1 + bidirectional), SPEAKERS)

    def forward(self, x, lengths: np.ndarray):
        outputs, _ = self.recurrent(x, lengths=lengths)
        # Outputs beyond a series' end are 0, so that the sum is one over its own steps.
        mean = outputs.sum(0) / lengths[:, None].astype(np.float32)
        return self.scores(self.dropout(mean))


def accuracy(net: nn.Module, test: Series) -> float:
    """The share of the series that the network, in evaluation mode, gives to the right speaker."""
    x, lengths, speakers = test
    net.eval()
    right = (net(x, lengths).argmax(axis=1) == speakers).mean()
    net.train()
    return float(right)


def train(
    net: nn.Module, series: Series, epochs: int, batch: int, rate: float, noise: float, console: Console
) -> list[float]:
    """Train with Adam, a cosine-shaped learning rate and noise on the series; the mean loss of each epoch."""
    x, lengths, speakers = series
    optimizer = optim.Adam(net.parameters(), lr=rate)
    criterion = nn.CrossEntropyLoss()
    random = np.random.default_rng(0)
    losses = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("training", total=epochs)
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
            shuffled = random.permutation(len(speakers))
            total = 0.0
            for start in range(0, len(speakers), batch):
                chosen = shuffled[start : start + batch]
                # Few series are to train with: with noise no two epochs see the same.
                given = x[:, chosen] + random.normal(0, noise, (len(x), len(chosen), CHANNELS)).astype(np.float32)
                optimizer.zero_grad()
                loss = criterion(net(fastconv.from_numpy(given), lengths[chosen]), speakers[chosen])
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                total += loss.item() * len(chosen)
            losses.append(total / len(speakers))
            progress.update(task, advance=1, description=f"training, loss {losses[-1]:.4f}")
    return losses


def table(predicted: np.ndarray, test: Series) -> Table:
    """For each speaker, how many series are told right and for whom the others are taken."""
    _, lengths, speakers = test
    shown = Table(title="Test series")
    for name in ("speaker", "series", "steps", "right", "share"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("taken for", no_wrap=True)
    for speaker in range(SPEAKERS):
        own = speakers == speaker
        counts = np.bincount(predicted[own], minlength=SPEAKERS)
        others = ", ".join(f"{other + 1} ({counts[other]}×)" for other in np.flatnonzero(counts) if other != speaker)
        steps = f"{lengths[own].min()}–{lengths[own].max()}"
        share = f"{counts[speaker] / own.sum():.3f}"
        shown.add_row(str(speaker + 1), str(own.sum()), steps, str(counts[speaker]), share, others)
    return shown


def at_least_one(text: str) -> int:
    """A command line's number, 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 1 if the accuracy or the time is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", choices=tuple(BARS), default="lstm", help="lstm, which is bidirectional, or gru")
    parser.add_argument("--epochs", type=at_least_one, default=40)
    parser.add_argument("--batch", type=at_least_one, default=32)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--noise", type=float, default=0.3, help="deviation of the noise, where a channel's is 1")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    console = Console(width=None if Console().is_terminal else 140)

    training, test = data()
    fastconv.manual_seed(args.seed)
    net = Speakers(args.cell)
    count = sum(parameter.numel() for parameter in net.parameters())
    console.print(f"{net.recurrent}, {count:,} parameters, seed {args.seed}")
    console.print(f"{len(training[2])} series to train with, {len(test[2])} to test; {machine.machine().line()}")

    begun = time.perf_counter()
    losses = train(net, training, args.epochs, args.batch, args.rate, args.noise, console)
    taken = time.perf_counter() - begun
    console.print(f"loss {losses[0]:.3f} → {losses[-1]:.4f} in {args.epochs} epochs")

    net.eval()
    console.print(table(net(*test[:2]).argmax(axis=1), test))
    score, bar = accuracy(net, test), BARS[args.cell]
    passed = score >= bar and taken <= SECONDS
    console.print(
        f"{'passed' if passed else 'MISSED'}: test accuracy {score:.4f} (needs {bar}) after {taken:.1f} s of training, "
        f"compiling included (needs {SECONDS:.0f})"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
