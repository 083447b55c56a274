"""Spell English words in phonemes by the trained GRUs of g2p-en, on nn.GRU and nn.GRUCell, and compare with its own.

    python examples/g2p.py                   200 words, all compared with g2p-en's own NumPy code
    python examples/g2p.py anthropocene …    your words, lower-case letters

An encoder reads the letters, a decoder starts with its last state and writes one phoneme of ARPAbet after another until
its stop symbol. g2p-en looks words of CMU's dictionary up there; here the network speaks all of them. Weights and code:
Park & Kim, https://github.com/Kyubyong/g2p, read out of its wheel (see wheels.py). Exits with 1 if a word differs.
"""

from __future__ import annotations

import argparse
import importlib
import io
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import wheels
from rich.console import Console
from rich.table import Table

from fastconv import nn
from fastconv.nn.utils.rnn import pad_sequence

# Common words, odd ones, long ones, names, words that no dictionary of 2019 had, loans and single letters.
WORDS = """
the of and you that was for are with his they have this from one had word but what some were there use your each which
their time will way about many then write would like these her make thing see him two look more day could come did my
sound water call who people over know than first may down side been now find any new work part take get place made
live where after back little only round man year came show every good give our under name very through just form
thought laugh enough tough bough cough knight psalm colonel yacht choir island rhythm queue receipt subtle isle
anthropomorphic bureaucracy characteristically chrysanthemum conscientious entrepreneur hippopotamus incomprehensible
internationalization kaleidoscope mischievous onomatopoeia phenomenological pneumonoultramicroscopic questionnaire
rendezvous sphygmomanometer superstitious thermodynamics worcestershire xylophone zucchini
alexandria beethoven copenhagen dostoevsky eyjafjallajokull fitzgerald guadalupe hokkaido kierkegaard massachusetts
nietzsche pythagoras reykjavik schwarzenegger tchaikovsky wittgenstein yosemite zimbabwe
activationist backpropagation blockchain chatbot convolutional cryptocurrency deepfake emoji fastconv frumious
hyperparameter jabberwocky kubernetes livestream mansplain metaverse numba overfitting podcaster pytorch quokka selfie
almond archipelago bourgeois catastrophe debris ennui facade gnocchi jalapeno liaison maneuver pseudonym raspberry
salmon slithy snowclone softmax staycation tensor twerking unfriend vorpal winograd zoneout zwitterion a i
""".split()  # noqa: SIM905

GRAPHEMES = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
# Vowels carry their stress: 0 none, 1 primary, 2 secondary.
PHONEMES = """
<pad> <unk> <s> </s> AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D DH EH0 EH1 EH2 ER0
ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 OY0 OY1 OY2 P R S SH T TH UH0 UH1 UH2 UW
UW0 UW1 UW2 V W Y Z ZH
""".split()  # noqa: SIM905
START, STOP = PHONEMES.index("<s>"), PHONEMES.index("</s>")
# The decoder writes no more than this, as in g2p-en.
MOST = 20


class G2P(nn.Module):
    """g2p-en's network: letters are read by a GRU, phonemes written by another that begins with its last state."""

    def __init__(self, embedding: int = 256, hidden: int = 256) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(GRAPHEMES), embedding)
        self.encoder = nn.GRU(embedding, hidden)
        self.phonemes = nn.Embedding(len(PHONEMES), embedding)
        self.decoder = nn.GRUCell(embedding, hidden)
        self.scores = nn.Linear(hidden, len(PHONEMES))

    def encode(self, words: list[str]) -> np.ndarray:
        """The encoder's state (batch, 256) after the letters of each word and its end."""
        spelled = [np.array([GRAPHEMES.index(letter) for letter in [*word, "</s>"]]) for word in words]
        _, last = self.encoder(self.letters(pad_sequence(spelled)), lengths=[len(letters) for letters in spelled])
        return last[0]

    def forward(self, words: list[str]) -> list[list[str]]:
        """The phonemes of all words, which are written side by side."""
        h = self.encode(words)
        written = np.full((MOST, len(words)), STOP)
        last, stopped = np.full(len(words), START), np.zeros(len(words), bool)
        for step in range(MOST):
            h = self.decoder(self.phonemes(last), h)
            last = written[step] = self.scores(h).argmax(axis=1)
            # What a word goes on with after its stop symbol is cut off below.
            stopped |= last == STOP
            if stopped.all():
                break
        return [[PHONEMES[i] for i in line[: np.append(line == STOP, True).argmax()]] for line in written.T]


def network() -> G2P:
    """The network with g2p-en's weights, whose GRUs have torch's gate order r, z, n and both of its biases."""
    net = G2P()
    with np.load(io.BytesIO(wheels.read("g2p-en", "g2p_en/checkpoint20.npz"))) as given:
        state = {"letters.weight": given["enc_emb"], "phonemes.weight": given["dec_emb"]}
        for name in ("w_ih", "w_hh", "b_ih", "b_hh"):
            ours = name.replace("w_", "weight_").replace("b_", "bias_")
            state[f"encoder.{ours}_l0"] = given[f"enc_{name}"]
            state[f"decoder.{ours}"] = given[f"dec_{name}"]
        state |= {"scores.weight": given["fc_w"], "scores.bias": given["fc_b"]}
    net.load_state_dict(state)
    return net.eval()


def original():
    """g2p-en's own G2p, its code as it lies in the wheel.

    What it imports for numbers, dictionary and parts of speech (NLTK, inflect) is stood in for: `predict`, the network,
    uses none of it, and NLTK would fetch corpora.
    """
    absent = ("nltk", "nltk.corpus", "nltk.tokenize", "inflect")
    with tempfile.TemporaryDirectory() as folder:
        wheels.unpack("g2p-en", folder)
        with (
            mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in absent}),
            mock.patch.object(sys, "path", [folder, *sys.path]),
            mock.patch.object(sys, "dont_write_bytecode", True),
            warnings.catch_warnings(),
        ):
            # Of escapes in its regular expressions.
            warnings.simplefilter("ignore")
            module = importlib.import_module("g2p_en.g2p")
            theirs = module.G2p()
        theirs.variables.close()
    if Path(module.__file__).parents[1] != Path(folder):
        raise SystemExit(f"{module.__file__} was imported in place of the wheel's")
    return theirs


def word(text: str) -> str:
    """A command line's word."""
    if not re.fullmatch("[a-z]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the letters a to z")
    return text


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 1 if a word's phonemes differ from g2p-en's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", type=word, metavar="WORD")
    args = parser.parse_args(arguments)
    words = args.words or WORDS
    console = Console(width=None if Console().is_terminal else 140)

    net, theirs = network(), original()
    # Once ahead, so that compiling is not timed.
    net(words)
    begun = time.perf_counter()
    found = net(words)
    ours_taken = time.perf_counter() - begun
    begun = time.perf_counter()
    expected = [theirs.predict(word) for word in words]
    theirs_taken = time.perf_counter() - begun

    same = [ours == other for ours, other in zip(found, expected, strict=True)]
    shown = Table(title=f"{net.encoder} reads, {net.decoder} writes")
    for name in ("word", "phonemes", "g2p-en's own", ""):
        shown.add_column(name, no_wrap=True)
    # Of the many that agree the last are the strange ones.
    for i in range(len(words)):
        if not same[i] or len(words) - i <= 30:
            shown.add_row(words[i], " ".join(found[i]), " ".join(expected[i]), "same" if same[i] else "DIFFERS")
    console.print(shown)

    states = np.concatenate([state(theirs, word) for word in words])
    apart = float(np.abs(net.encode(words) - states).max())
    console.print(f"largest difference of the encoder's last states: {apart:.1e}")
    console.print(
        f"all words in one batch of unequal lengths {1e3 * ours_taken:.1f} ms, "
        f"g2p-en word by word {1e3 * theirs_taken:.1f} ms"
    )
    console.print(f"{'passed' if all(same) else 'MISSED'}: {sum(same)} of {len(words)} words have the same phonemes")
    return 0 if all(same) else 1


def state(theirs, word: str) -> np.ndarray:
    """The last state (1, 256) of g2p-en's own encoder."""
    weights = (theirs.enc_w_ih, theirs.enc_w_hh, theirs.enc_b_ih, theirs.enc_b_hh)
    return theirs.gru(theirs.encode(word), len(word) + 1, *weights)[:, -1]


if __name__ == "__main__":
    sys.exit(main())
