"""A sequence from a sequence: read all of one, then write until the stop symbol.

Source: Sutskever, Vinyals & Le 2014, "Sequence to Sequence Learning with Neural Networks"; Cho et al. 2014.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import nn, ops, views
from fastconv.autograd import Array, array, record
from fastconv.models.words import number, numbers
from fastconv.nn.checks import whole
from fastconv.problem import integer


class Seq2Seq(nn.Module):
    """An LSTM reads the source, another begins with its state and writes; a linear layer scores the symbols.

    source (B, T), integers from 0 to source_size − 1, an array or a Tensor; lengths: B ints from 0 to T, None for T.
    With a target (B, S), integers from 0 to target_size − 1 of which each sequence's last is `stop`, padded with
    ignore_index: scores before softmax (B, S, target_size), as what the source is. At each step the decoder sees the
    target's symbol of the step before (teacher forcing), at the first `start`; `loss` compares the scores with it.
    Without one the decoder sees what it wrote itself, the symbol of the highest score, until all sequences of the
    batch have written `stop` or max_length symbols: scores (B, S, target_size), S as long as that took.
    `write` gives the symbols themselves.
    dropout, in training, of the embedded symbols and between layers.
    Submodules source_embedding, encoder, target_embedding, decoder, dropout, fc.
    """

    def __init__(
        self,
        source_size: int,
        target_size: int,
        embed_size: int = 64,
        hidden_size: int = 64,
        num_layers: int = 1,
        dropout: float = 0.0,
        *,
        start: int = 0,
        stop: int = 1,
        max_length: int = 64,
        ignore_index: int = -100,
    ) -> None:
        super().__init__()
        size, units = integer("target_size", target_size), integer("hidden_size", hidden_size)
        self.source_embedding = nn.Embedding(integer("source_size", source_size), integer("embed_size", embed_size))
        self.encoder = nn.LSTM(embed_size, units, num_layers, batch_first=True, dropout=dropout)
        self.target_embedding = nn.Embedding(size, embed_size)
        self.decoder = nn.LSTM(embed_size, units, num_layers, batch_first=True, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(units, size)
        self.start, self.stop = number("start", start, size), number("stop", stop, size)
        self.max_length = integer("max_length", max_length)
        self.ignore_index = whole("ignore_index", ignore_index)

    def forward(self, source: Any, target: Any = None, *, lengths: Any = None) -> Any:
        batch = len(numbers("source", source))
        _, state = self.encoder(self.dropout(self.source_embedding(source)), lengths=lengths)
        if target is None:
            return self._scores(source, state)
        given = numbers("target", target)
        if len(given) != batch:
            raise ValueError(f"target={given.shape}: needs {batch} sequences, as source has")
        before = np.full(given.shape, self.start, np.int64)
        # Padding is seen only after the end, where nothing is counted: any symbol will do.
        before[:, 1:] = np.where(given == self.ignore_index, self.stop, given)[:, :-1]
        scores, _ = self._decode(record(source, before), state)
        return scores

    def _decode(self, symbols: Any, state: Any) -> tuple[Any, Any]:
        """The scores (B, S, target_size) of what follows each of `symbols` (B, S), and the state after the last."""
        y, state = self.decoder(self.dropout(self.target_embedding(symbols)), state)
        return self.fc(y), state

    def _scores(self, source: Any, state: Any) -> Any:
        """The scores of what is written, symbol by symbol, the state carried from each to the next."""
        symbols = np.full((len(array(source)), 1), self.start, np.int64)
        stopped = np.zeros(symbols.shape, bool)
        parts: list[Any] = []
        while len(parts) < self.max_length and not (parts and stopped.all()):
            scores, state = self._decode(record(source, symbols), state)
            parts.append(scores)
            symbols = array(scores).argmax(-1)
            stopped |= symbols == self.stop
        return ops.cat(parts, 1)

    def loss(self, scores: Any, target: Any) -> Any:
        """Cross-entropy of scores (B, S, target_size) and target (B, S), its mean over all but ignore_index."""
        wanted, given = array(scores, "scores").shape, numbers("target", target)
        if given.shape != wanted[:-1]:
            raise ValueError(f"target={given.shape}: needs shape {wanted[:-1]}, one symbol a step of scores {wanted}")
        flat = views.reshape(scores, (-1, wanted[-1]))
        return nn.functional.cross_entropy(flat, given.reshape(-1), ignore_index=self.ignore_index)

    def write(self, source: Any, lengths: Any = None) -> list[list[int]]:
        """What it writes for each source: symbols up to its first `stop`, that left out; nothing is recorded."""
        written: Array = self(numbers("source", source), lengths=lengths).argmax(-1)
        return [line[: line.index(self.stop)] if self.stop in line else line for line in written.tolist()]


def seq2seq(**options: Any) -> Seq2Seq:
    """Seq2Seq; options are its, source_size and target_size among them."""
    return Seq2Seq(**options)
