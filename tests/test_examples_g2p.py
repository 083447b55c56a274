"""The g2p example: nn.GRU and nn.GRUCell with g2p-en's weights spell as its own code does."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
g2p = importlib.import_module("g2p")


@pytest.fixture(scope="module")
def net():
    return g2p.network()


@pytest.fixture(scope="module")
def theirs():
    return g2p.original()


def test_the_words_are_200_and_the_alphabets_theirs(theirs):
    assert len(g2p.WORDS) == len(set(g2p.WORDS)) == 200
    assert min(map(len, g2p.WORDS)) == 1
    assert max(map(len, g2p.WORDS)) == 24
    assert (theirs.graphemes, theirs.phonemes) == (g2p.GRAPHEMES, g2p.PHONEMES)


def test_all_words_have_the_same_phonemes(net, theirs):
    found = net(g2p.WORDS)
    assert found == [theirs.predict(word) for word in g2p.WORDS]
    assert {"fastconv": "F AE1 S K T AA2 N F", "knight": "N AY1 T"}.items() <= {
        word: " ".join(phonemes) for word, phonemes in zip(g2p.WORDS, found, strict=True)
    }.items()


def test_the_encoder_ends_in_their_states(net, theirs):
    expected = np.concatenate([g2p.state(theirs, word) for word in g2p.WORDS])
    # An error grows from letter to letter; theirs is 1.4e-6 from float64.
    np.testing.assert_allclose(net.encode(g2p.WORDS), expected, rtol=0, atol=2e-5)


def test_a_word_alone_is_spelled_as_in_a_batch(net):
    words = [g2p.WORDS[i] for i in (0, 101, 115, 150, 199)]
    assert [net([word])[0] for word in words] == net(words)


def test_the_writing_ends_after_20_phonemes(net, theirs):
    word = "antidisestablishmentarianismantidisestablishmentarianism"
    assert net([word]) == [theirs.predict(word)]
    assert len(net([word])[0]) <= g2p.MOST


def test_the_command_compares_given_words(capsys):
    assert g2p.main(["anthropocene", "borogoves"]) == 0
    assert "passed: 2 of 2 words have the same phonemes" in capsys.readouterr().out


def test_a_difference_is_an_exit_code(monkeypatch, capsys):
    def swapped():
        net = real()
        weight = net.decoder.weight_hh.detach().numpy()
        # Gates in the order z, r, n.
        r, z, n = np.split(weight, 3)
        net.load_state_dict({**net.state_dict(), "decoder.weight_hh": np.concatenate([z, r, n])})
        return net

    real = g2p.network
    monkeypatch.setattr(g2p, "network", swapped)
    assert g2p.main([]) == 1
    assert "MISSED: " in capsys.readouterr().out


@pytest.mark.parametrize("word", ["Word", "naïve", "two words", ""])
def test_what_is_no_word_is_named(word, capsys):
    with pytest.raises(SystemExit):
        g2p.main([word])
    assert f"{word!r} is not of the letters a to z" in capsys.readouterr().err
