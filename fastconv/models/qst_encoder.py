"""A question as one vector. Source: the lessons' QstEncoder; Antol et al. 2015, "VQA: Visual Question Answering"."""

from __future__ import annotations

from typing import Any

from fastconv import nn, ops, views
from fastconv.models.words import numbers
from fastconv.problem import integer


class QstEncoder(nn.Module):
    """Words, tanh, an LSTM, and its last h and c of all layers through tanh and a linear layer.

    question (B, T), integers from 0 to qst_vocab_size − 1, an array or a Tensor -> the same kind, (B, embed_size).
    The LSTM is time-major: the words (B, T, word_embed_size) go in as (T, B, word_embed_size); h and c, each
    (num_layers, B, hidden_size), become (B, num_layers·2·hidden_size), layer by layer, h before c.
    Submodules word2vec, tanh, lstm, fc; with these defaults lstm has 3,768,320 parameters.
    """

    def __init__(
        self,
        qst_vocab_size: int,
        word_embed_size: int = 300,
        embed_size: int = 1024,
        num_layers: int = 2,
        hidden_size: int = 512,
    ) -> None:
        super().__init__()
        layers, units = integer("num_layers", num_layers), integer("hidden_size", hidden_size)
        self.word2vec = nn.Embedding(
            integer("qst_vocab_size", qst_vocab_size), integer("word_embed_size", word_embed_size)
        )
        self.tanh = nn.Tanh()
        self.lstm = nn.LSTM(word_embed_size, units, layers)
        self.fc = nn.Linear(2 * layers * units, integer("embed_size", embed_size))

    def forward(self, question: Any) -> Any:
        batch = len(numbers("question", question))
        words = self.tanh(self.word2vec(question))
        _, (hidden, cell) = self.lstm(views.transpose(words, 0, 1))
        feature = views.transpose(ops.cat((hidden, cell), 2), 0, 1)
        return self.fc(self.tanh(views.reshape(feature, (batch, -1))))


def qst_encoder(**options: Any) -> QstEncoder:
    """QstEncoder; options are its, qst_vocab_size among them."""
    return QstEncoder(**options)
