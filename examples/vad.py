"""Find speech by Silero VAD's trained Conv1d and LSTM, chunk by chunk as it would come from a microphone.

    python examples/vad.py                   30 s of two people talking, compared with ONNX Runtime
    python examples/vad.py --audio my.wav    your own, 16 bit, 16 kHz, one channel

Every 32 ms the network gets 512 samples and the 64 before them: a short-time Fourier transform as a convolution, four
convolutions, one step of an LSTM whose state goes on to the next chunk, and a probability. Its weights are those of the
silero-vad package's .onnx (Silero Team, https://github.com/snakers4/silero-vad); the recording and the times at which
its speakers speak are pyannote.audio's sample. Both are read out of wheels (see wheels.py). Exits with 1 if a
probability is more than 1e-5 from what ONNX Runtime makes of the package's own file.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
import wave
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import wheels
from onnx import numpy_helper
from rich.console import Console
from rich.table import Table

from fastconv import nn
from fastconv.nn import functional as F

RATE, CHUNK, CONTEXT = 16_000, 512, 64
FRAME, HOP, BINS, HIDDEN = 256, 128, 129, 128
# The largest difference of a probability from ONNX Runtime's.
CLOSE = 1e-5
# Below this a chunk is silence.
SPEECH = 0.5
# The weights are constants inside branches in the first, which the package's Python class takes, and the same by name
# in the second. The package's .safetensors holds others.
MODEL, WEIGHTS = "silero_vad/data/silero_vad.onnx", "silero_vad/data/silero_vad_16k_op15.onnx"


class SileroVAD(nn.Module):
    """Silero VAD for 16 kHz: x (batch, 64 + 512), state (h, c) or None -> probability of speech (batch), state."""

    def __init__(self) -> None:
        super().__init__()
        # Rows of a Fourier transform times a window: the cosines of all frequencies, then the sines.
        self.stft = nn.Conv1d(1, 2 * BINS, FRAME, stride=HOP, bias=False)
        self.encoder = nn.Sequential(
            nn.Conv1d(BINS, 128, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(128, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(64, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(64, HIDDEN, 3, padding=1),
            nn.ReLU(),
        )
        self.rnn = nn.LSTMCell(HIDDEN, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1)

    def forward(self, x: np.ndarray, state=None):
        x = F.pad(x[:, None], (0, CONTEXT), "reflect")
        waves = self.stft(x)
        magnitude = np.sqrt(waves[:, :BINS] ** 2 + waves[:, BINS:] ** 2)
        # Four frames at a distance of 128 samples, of which two convolutions with stride 2 leave one.
        h, c = self.rnn(self.encoder(magnitude)[:, :, 0], state)
        return F.sigmoid(self.score(F.relu(h)))[:, 0], (h, c)


def network() -> SileroVAD:
    """The network with the package's weights."""
    graph = onnx.load_model_from_string(wheels.read("silero-vad", WEIGHTS)).graph
    given = {tensor.name.removeprefix("model."): numpy_helper.to_array(tensor) for tensor in graph.initializer}
    state = {"stft.weight": given["stft.forward_basis_buffer"]}
    for kind in ("weight", "bias"):
        for i in range(4):
            # Between ours stand activations.
            state[f"encoder.{2 * i}.{kind}"] = given[f"encoder.{i}.reparam_conv.{kind}"]
        for gates in ("ih", "hh"):
            state[f"rnn.{kind}_{gates}"] = given[f"decoder.rnn.{kind}_{gates}"]
    # A convolution of one column is a linear layer.
    state["score.weight"], state["score.bias"] = (
        given["decoder.decoder.2.weight"][:, :, 0],
        given["decoder.decoder.2.bias"],
    )
    net = SileroVAD()
    net.load_state_dict(state)
    return net.eval()


def samples(file: bytes, name: str) -> np.ndarray:
    """The samples of a .wav as float32 in −1 … 1."""
    try:
        with wave.open(io.BytesIO(file)) as sound:
            found = (sound.getnchannels(), 8 * sound.getsampwidth(), sound.getframerate())
            frames = sound.readframes(sound.getnframes())
    except (wave.Error, EOFError) as error:
        raise SystemExit(f"{name}: not a .wav file that can be read: {error}") from None
    if found != (1, 16, RATE):
        raise SystemExit(
            f"{name}: {found[0]} channels, {found[1]} bit, {found[2]} Hz; needs 1 channel, 16 bit, {RATE} Hz"
        )
    return np.frombuffer(frames, "<i2").astype(np.float32) / 32768


def chunks(sound: np.ndarray):
    """One after another (1, 64 + 512): 512 samples, zeros after the last, with the 64 before them, zeros at first."""
    context = np.zeros(CONTEXT, np.float32)
    for start in range(0, len(sound), CHUNK):
        chunk = sound[start : start + CHUNK]
        chunk = np.concatenate([context, chunk, np.zeros(CHUNK - len(chunk), np.float32)])
        yield chunk[None]
        context = chunk[-CONTEXT:]


def stream(net: SileroVAD, sound: np.ndarray) -> np.ndarray:
    """The probability of speech in each chunk, which goes through the network before the next one is looked at."""
    state, found = None, []
    for chunk in chunks(sound):
        probability, state = net(chunk, state)
        found.append(probability[0])
    return np.array(found)


def session() -> onnxruntime.InferenceSession:
    """ONNX Runtime with the package's own file, set up as in its class OnnxWrapper."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(wheels.read("silero-vad", MODEL), options, ["CPUExecutionProvider"])


def expected(session: onnxruntime.InferenceSession, sound: np.ndarray) -> np.ndarray:
    """What `stream` gives, by ONNX Runtime."""
    state, found = np.zeros((2, 1, HIDDEN), np.float32), []
    for chunk in chunks(sound):
        probability, state = session.run(None, {"input": chunk, "state": state, "sr": np.array(RATE)})
        found.append(probability[0, 0])
    return np.array(found)


def annotated(count: int) -> np.ndarray:
    """Whether somebody speaks in the middle of each chunk of pyannote.audio's sample, as its people noted it."""
    middles = (np.arange(count) + 0.5) * CHUNK / RATE
    speaks = np.zeros(count, bool)
    for line in wheels.read("pyannote.audio", "pyannote/audio/sample/sample.rttm").decode().splitlines():
        start, length = map(float, line.split()[3:5])
        speaks |= (middles >= start) & (middles < start + length)
    return speaks


def pieces(speech: np.ndarray) -> list[tuple[float, float]]:
    """Start and end in seconds of each run of chunks with speech."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], speech, [False]]).astype(int)))
    return [(start * CHUNK / RATE, end * CHUNK / RATE) for start, end in edges.reshape(-1, 2)]


def bars(values: np.ndarray, width: int = 120) -> str:
    """The values 0 … 1 as a line of `width` bars, each the mean of its share of them."""
    means = [part.mean() for part in np.array_split(values, min(width, len(values)))]
    return "".join(" ▁▂▃▄▅▆▇█"[round(8 * float(mean))] for mean in means)


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 1 if a probability differs from ONNX Runtime's by more than 1e-5."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audio", type=Path, help="a .wav of 16 bit, 16 kHz and one channel")
    args = parser.parse_args(arguments)
    console = Console(width=None if Console().is_terminal else 140)

    if args.audio:
        sound = samples(args.audio.read_bytes(), str(args.audio))
    else:
        sound = samples(wheels.read("pyannote.audio", "pyannote/audio/sample/sample.wav"), "sample.wav")
    if not len(sound):
        raise SystemExit(f"{args.audio}: no samples")
    net, theirs = network(), session()
    # Once ahead, so that compiling is not timed.
    stream(net, sound[: 2 * CHUNK])
    begun = time.perf_counter()
    found = stream(net, sound)
    between = time.perf_counter()
    reference = expected(theirs, sound)
    taken = [1e6 * seconds / len(found) for seconds in (between - begun, time.perf_counter() - between)]
    apart = float(np.abs(found - reference).max())

    console.print(f"{len(sound) / RATE:.1f} s, {len(found)} chunks, from the left to the right:")
    console.print(f"speech    {bars(found)}", highlight=False)
    speech = found >= SPEECH
    if not args.audio:
        noted = annotated(len(found))
        console.print(f"annotated {bars(noted.astype(float))}", highlight=False)
        console.print(
            f"{(speech == noted).mean():.1%} of the chunks as annotated, silence {(~noted).mean():.1%} of them"
        )
    shown = Table(title=f"Speech, probability ≥ {SPEECH}")
    for name in ("from s", "to s", "probability"):
        shown.add_column(name, justify="right", no_wrap=True)
    for start, end in pieces(speech):
        mean = found[round(start * RATE / CHUNK) : round(end * RATE / CHUNK)].mean()
        shown.add_row(f"{start:.2f}", f"{end:.2f}", f"{mean:.3f}")
    console.print(shown)
    console.print(f"a chunk of {1e3 * CHUNK / RATE:.0f} ms takes {taken[0]:.0f} µs, by ONNX Runtime {taken[1]:.0f} µs")
    passed = apart <= CLOSE
    console.print(
        f"{'passed' if passed else 'MISSED'}: probabilities differ from ONNX Runtime's by at most {apart:.1e} "
        f"(needs {CLOSE:.0e}) in {len(found)} chunks"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
