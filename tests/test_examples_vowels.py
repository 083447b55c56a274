"""The vowels example: its data are what their source says, and both cells reach their bars."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
vowels = importlib.import_module("vowels")


@pytest.fixture(scope="module")
def data():
    return vowels.data()


def test_the_data_are_those_of_the_archive(data):
    train, test = (vowels.series(part) for part in ("TRAIN", "TEST"))
    assert (train[0].shape, test[0].shape) == ((29, 270, 12), (29, 370, 12))
    assert train[0].dtype == test[0].dtype == np.float32
    assert (train[1].min(), train[1].max(), test[1].min(), test[1].max()) == (7, 26, 7, 29)
    assert np.bincount(train[2]).tolist() == [30] * 9
    assert np.bincount(test[2]).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    # The first and the last numbers of the first line, as they stand in the file.
    assert train[0][:3, 0, 0].tolist() == pytest.approx([1.860936, 1.891651, 1.939205])
    assert train[1][0] == 20
    seen = {x[:n].tobytes() for x, n in zip(train[0].transpose(1, 0, 2), train[1], strict=True)}
    assert len(seen) == 270
    assert not seen & {x[:n].tobytes() for x, n in zip(test[0].transpose(1, 0, 2), test[1], strict=True)}


def test_channels_are_scaled_by_the_steps_to_train_with(data):
    (x, lengths, _), _ = data
    valid = np.concatenate([x[:n, i] for i, n in enumerate(lengths)])
    np.testing.assert_allclose(valid.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(valid.std(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_scores_do_not_depend_on_padding(data, cell):
    fastconv.manual_seed(1)
    net = vowels.Speakers(cell).eval()
    assert isinstance(net.recurrent, nn.LSTM if cell == "lstm" else nn.GRU)
    assert net.recurrent.bidirectional is (cell == "lstm")
    x, lengths, _ = data[1]
    spoilt = np.where(np.arange(len(x))[:, None, None] < lengths[:, None], x, np.float32(np.nan))
    scores = net(spoilt, lengths)
    np.testing.assert_array_equal(scores, net(x, lengths))
    for i in (0, 17, 369):
        np.testing.assert_allclose(net(x[: lengths[i], i : i + 1], lengths[i : i + 1])[0], scores[i], atol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_training_reaches_its_bar_in_time(cell, capsys):
    assert vowels.main(["--cell", cell]) == 0
    printed = capsys.readouterr().out
    assert "passed: test accuracy 0.9" in printed
    assert f"(needs {vowels.BARS[cell]})" in printed
    assert vowels.BARS == {"lstm": 0.955, "gru": 0.93}


def test_a_missed_bar_is_an_exit_code(capsys):
    assert vowels.main(["--cell", "gru", "--epochs", "1"]) == 1
    assert "MISSED: test accuracy 0." in capsys.readouterr().out


def test_a_seed_gives_the_same_network_again(data):
    def losses():
        fastconv.manual_seed(3)
        return vowels.train(vowels.Speakers("gru"), data[0], 2, 32, 5e-3, 0.3, vowels.Console())

    assert losses() == losses()
