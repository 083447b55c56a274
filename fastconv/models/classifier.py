"""A class for a whole sequence, many to one: what a sentence feels about its matter, say.

Source: Dai & Le 2015, "Semi-supervised Sequence Learning", its LSTM without the first training.
"""

from __future__ import annotations

from typing import Any

from fastconv import nn, ops
from fastconv.models.words import numbers
from fastconv.problem import boolean, integer


class LSTMClassifier(nn.Module):
    """Words, an LSTM, and a linear layer on its last layer's h at each sequence's own end.

    words (B, T), integers from 0 to vocab_size − 1, an array or a Tensor -> scores before softmax, the same kind,
    (B, num_classes). lengths: B ints from 0 to T, None for T; what stands beyond a sequence's length has no influence.
    bidirectional: h of the reverse direction, which ends at the first word, is joined to the other's.
    dropout, in training, of the words, between layers and of h.
    Submodules embedding, dropout, lstm, fc.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        embed_size: int = 64,
        hidden_size: int = 64,
        num_layers: int = 1,
        dropout: float = 0.0,
        *,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        units, classes = integer("hidden_size", hidden_size), integer("num_classes", num_classes)
        both = boolean("bidirectional", bidirectional)
        self.embedding = nn.Embedding(integer("vocab_size", vocab_size), integer("embed_size", embed_size))
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(embed_size, units, num_layers, batch_first=True, dropout=dropout, bidirectional=both)
        self.fc = nn.Linear((1 + both) * units, classes)

    def forward(self, words: Any, lengths: Any = None) -> Any:
        numbers("words", words)
        _, (h, _) = self.lstm(self.dropout(self.embedding(words)), lengths=lengths)
        last = ops.cat([h[-2], h[-1]], -1) if self.lstm.bidirectional else h[-1]
        return self.fc(self.dropout(last))


def lstm_classifier(**options: Any) -> LSTMClassifier:
    """LSTMClassifier; options are its, vocab_size and num_classes among them."""
    return LSTMClassifier(**options)
