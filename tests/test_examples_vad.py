"""The VAD example: Silero's network on nn.Conv1d and nn.LSTMCell agrees with its own runtime on real speech."""

import importlib
import io
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from fastconv import nn
from fastconv.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
vad = importlib.import_module("vad")
wheels = importlib.import_module("wheels")


@pytest.fixture(scope="module")
def net():
    return vad.network()


@pytest.fixture(scope="module")
def sound():
    return vad.samples(wheels.read("pyannote.audio", "pyannote/audio/sample/sample.wav"), "sample.wav")


@pytest.fixture(scope="module")
def found(net, sound):
    return vad.stream(net, sound)


def wav(samples, channels=1, width=2, rate=16_000):
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(samples)
    return file.getvalue()


def test_all_30_seconds_agree_with_onnx_runtime(sound, found):
    assert sound.shape == (480_000,)
    expected = vad.expected(vad.session(), sound)
    assert found.shape == expected.shape == (938,)
    assert np.abs(found - expected).max() <= 1e-5
    # Speech and silence are both there: what agrees is not a constant.
    assert expected.min() < 0.01
    assert expected.max() > 0.99


def test_speech_is_where_people_noted_it(found):
    noted = vad.annotated(len(found))
    assert 0.2 < (~noted).mean() < 0.3
    assert ((found >= vad.SPEECH) == noted).mean() > 0.97


def test_one_call_of_lstm_gives_the_stream(net, sound, found):
    x = F.pad(np.concatenate(list(vad.chunks(sound)))[:, None], (0, vad.CONTEXT), "reflect")
    waves = net.stft(x)
    features = net.encoder(np.sqrt(waves[:, : vad.BINS] ** 2 + waves[:, vad.BINS :] ** 2))
    assert features.shape == (938, 128, 1)
    layer = nn.LSTM(vad.HIDDEN, vad.HIDDEN)
    layer.load_state_dict({f"{name}_l0": value for name, value in net.rnn.state_dict().items()})
    outputs, _ = layer(np.ascontiguousarray(features.transpose(0, 2, 1)))
    at_once = F.sigmoid(net.score(F.relu(outputs[:, 0])))[:, 0]
    np.testing.assert_allclose(at_once, found, rtol=0, atol=1e-5)


def test_streams_side_by_side_do_not_meet(net, sound, found):
    # The second stream is the first, ten chunks later.
    first, second = (list(vad.chunks(sound[start : start + 40 * vad.CHUNK])) for start in (0, 10 * vad.CHUNK))
    state, probabilities = None, []
    for pair in zip(first, second, strict=True):
        probability, state = net(np.concatenate(pair), state)
        probabilities.append(probability)
    np.testing.assert_allclose(np.array(probabilities)[:, 0], found[:40], rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        np.array(probabilities)[:, 1], vad.stream(net, sound[10 * vad.CHUNK : 50 * vad.CHUNK]), rtol=0, atol=1e-5
    )


def test_chunks_carry_64_samples_and_end_in_zeros():
    sound = np.arange(1, 701, dtype=np.float32)
    first, second = vad.chunks(sound)
    assert first.shape == second.shape == (1, 576)
    np.testing.assert_array_equal(first[0], np.concatenate([np.zeros(64), np.arange(1, 513)]))
    np.testing.assert_array_equal(second[0], np.concatenate([np.arange(449, 701), np.zeros(324)]))


def test_the_command_takes_a_recording(tmp_path, sound, capsys):
    path = tmp_path / "talk.wav"
    path.write_bytes(wav((sound[160_000:208_000] * 32768).astype("<i2").tobytes()))
    assert vad.main(["--audio", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "3.0 s, 94 chunks" in printed
    assert "passed: probabilities differ from ONNX Runtime's by at most" in printed


def test_a_difference_is_an_exit_code(monkeypatch, capsys):
    def wrong():
        net = real()
        weight = net.rnn.weight_ih.detach().numpy()
        # ONNX's order of gates: i, o, f, g.
        i, f, g, o = np.split(weight, 4)
        net.load_state_dict({**net.state_dict(), "rnn.weight_ih": np.concatenate([i, o, f, g])})
        return net

    real = vad.network
    monkeypatch.setattr(vad, "network", wrong)
    assert vad.main([]) == 1
    assert "MISSED: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"RIFF, but no more", "talk.wav: not a .wav file that can be read"),
        (b"", "talk.wav: not a .wav file that can be read"),
        (wav(bytes(8), rate=8000), "talk.wav: 1 channels, 16 bit, 8000 Hz; needs 1 channel, 16 bit, 16000 Hz"),
        (wav(bytes(8), channels=2), "talk.wav: 2 channels, 16 bit, 16000 Hz; needs 1 channel"),
        (wav(bytes(8), width=1), "talk.wav: 1 channels, 8 bit"),
        (wav(b""), "talk.wav: no samples"),
    ],
)
def test_other_files_are_named(tmp_path, file, message):
    path = tmp_path / "talk.wav"
    path.write_bytes(file)
    with pytest.raises(SystemExit) as stopped:
        vad.main(["--audio", str(path)])
    assert message in str(stopped.value)
