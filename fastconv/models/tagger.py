"""A tag for every word, many to many: slots of a sentence, or B, M, E and S for where words begin and end.

Source: Huang, Xu & Yu 2015, "Bidirectional LSTM-CRF Models for Sequence Tagging", without the CRF; tags of words:
Chen et al. 2015, "Long Short-Term Memory Neural Networks for Chinese Word Segmentation".
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv import nn, views
from fastconv.autograd import Array, array
from fastconv.models.words import numbers
from fastconv.nn.checks import whole
from fastconv.problem import integer

# Beginning, middle and end of a word of several characters, and a word of a single one; a tag is its place here.
BMES = "BMES"


class LSTMTagger(nn.Module):
    """Words, a bidirectional LSTM, and at every step a linear layer.

    words (B, T), integers from 0 to vocab_size − 1, an array or a Tensor -> scores before softmax, the same kind,
    (B, T, num_tags). lengths: B ints from 0 to T, None for T; what stands beyond a sequence's length has no influence
    on the scores before it. ignore_index: the tag of what is no word; `loss` does not count it.
    dropout, in training, of the words and between layers.
    Submodules embedding, dropout, lstm, fc.
    """

    def __init__(
        self,
        vocab_size: int,
        num_tags: int,
        embed_size: int = 64,
        hidden_size: int = 64,
        num_layers: int = 1,
        dropout: float = 0.0,
        *,
        ignore_index: int = -100,
    ) -> None:
        super().__init__()
        units, tags = integer("hidden_size", hidden_size), integer("num_tags", num_tags)
        self.embedding = nn.Embedding(integer("vocab_size", vocab_size), integer("embed_size", embed_size))
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(embed_size, units, num_layers, batch_first=True, dropout=dropout, bidirectional=True)
        self.fc = nn.Linear(2 * units, tags)
        self.ignore_index = whole("ignore_index", ignore_index)

    def forward(self, words: Any, lengths: Any = None) -> Any:
        numbers("words", words)
        y, _ = self.lstm(self.dropout(self.embedding(words)), lengths=lengths)
        return self.fc(y)

    def loss(self, scores: Any, tags: Any) -> Any:
        """Cross-entropy of scores (B, T, num_tags) and tags (B, T), its mean over all tags but ignore_index."""
        wanted, given = array(scores, "scores").shape, numbers("tags", tags)
        if given.shape != wanted[:-1]:
            raise ValueError(f"tags={given.shape}: needs shape {wanted[:-1]}, one tag a step of scores {wanted}")
        flat = views.reshape(scores, (-1, wanted[-1]))
        return nn.functional.cross_entropy(flat, given.reshape(-1), ignore_index=self.ignore_index)

    def predict(self, words: Any, lengths: Any = None) -> Array:
        """The best tag of every word, int64 (B, T), ignore_index beyond a sequence's length; nothing is recorded."""
        words = numbers("words", words)
        tags: Array = self(words, lengths).argmax(-1)
        if lengths is not None:
            ends = array(lengths) if not isinstance(lengths, (list, tuple)) else np.array(lengths)
            tags[np.arange(tags.shape[1]) >= ends[:, None]] = self.ignore_index
        return tags


def bmes_tags(words: Sequence[Sequence[Any]]) -> list[int]:
    """The tags of the characters of `words`, one after the other, as numbers in BMES.

    ValueError for a word without characters.
    """
    tags: list[int] = []
    for i, word in enumerate(words):
        if not len(word):
            raise ValueError(f"words[{i}]={word!r}: needs at least one character")
        tags += [3] if len(word) == 1 else [0] + [1] * (len(word) - 2) + [2]
    return tags


def bmes_words(text: Sequence[Any], tags: Any) -> list[Any]:
    """`text` cut into the words that `tags` say, numbers in BMES, of which those beyond the text are left out.

    A word ends after E or S and before B or S, so that any tags give words. ValueError for fewer tags than characters
    and for numbers that are no tag.
    """
    given = [int(tag) for tag in tags][: len(text)]
    if len(given) < len(text):
        raise ValueError(f"tags: needs {len(text)}, one a character, got {len(given)}")
    wrong = [tag for tag in given if not 0 <= tag < len(BMES)]
    if wrong:
        raise ValueError(f"tags: {wrong[0]} is not allowed, needs 0 to {len(BMES) - 1}, a place in {BMES!r}")
    starts = [i for i in range(len(text)) if not i or BMES[given[i - 1]] in "ES" or BMES[given[i]] in "BS"]
    return [text[start:end] for start, end in itertools.pairwise([*starts, len(text)])]


def lstm_tagger(**options: Any) -> LSTMTagger:
    """LSTMTagger; options are its, vocab_size and num_tags among them."""
    return LSTMTagger(**options)
