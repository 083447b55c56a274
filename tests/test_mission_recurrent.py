"""The lessons' recurrent networks, with the numbers they print, through the public API.

The snippets stand as in the lessons, only their import lines changed. What a formula says is computed beside it in
float64, one unit after the other, without the library.
"""

import itertools

import numpy as np
import pytest

import fastconv as torch
import fastconv.nn.functional as F
from fastconv import models, nn, optim
from fastconv.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

T, B, I, H, O = 6, 3, 4, 5, 2  # noqa: E741


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def made(layer, *sizes, **options):
    """A layer in float64, the same each time."""
    torch.manual_seed(0)
    return layer(*sizes, **options, dtype="float64")


def count(module):
    return sum(p.numel() for p in module.parameters())


def near(actual, expected):
    """The same to twelve digits."""
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else actual
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def sigma(a):
    return 1 / (1 + np.exp(-a))


# Elman and Jordan


def bptt(w, x, gy):
    """Outputs of Elman's network, or with weight_ho of Jordan's, and the gradients of Σ y·gy, by their formulas.

    Elman: h(t) = tanh(W_ih·x + b_ih + W_hh·h(t−1) + b_hh), y = h. Jordan: y = W_ho·h + b_ho is what comes back in
    place of h(t−1). Back through time, e(t) = gy(t) + W_hhᵀ·d(t+1) is the gradient of what comes back, and
    d(t) = (1 − h²)·e(t), for Jordan (1 − h²)·W_hoᵀ·e(t), that of what tanh sees.
    """
    jordan, steps, batch = "weight_ho" in w, len(x), x.shape[1]
    back = np.zeros((batch, w["weight_hh"].shape[1]))
    seen, hidden, y = [], [], []
    for t in range(steps):
        seen.append(back)
        h = np.tanh(x[t] @ w["weight_ih"].T + w["bias_ih"] + back @ w["weight_hh"].T + w["bias_hh"])
        back = h @ w["weight_ho"].T + w["bias_ho"] if jordan else h
        hidden.append(h)
        y.append(back)
    g = {name: np.zeros_like(value) for name, value in w.items()} | {"x": np.zeros_like(x)}
    d = np.zeros((batch, len(w["weight_hh"])))
    for t in reversed(range(steps)):
        e = gy[t] + d @ w["weight_hh"]
        if jordan:
            g["weight_ho"] += e.T @ hidden[t]
            g["bias_ho"] += e.sum(0)
            e = e @ w["weight_ho"]
        d = (1 - hidden[t] ** 2) * e
        g["weight_ih"] += d.T @ x[t]
        g["weight_hh"] += d.T @ seen[t]
        g["bias_ih"] += d.sum(0)
        g["bias_hh"] += d.sum(0)
        g["x"][t] = d @ w["weight_ih"]
    return np.stack(y), g


@pytest.mark.parametrize(("layer", "sizes"), [(nn.RNN, (I, H)), (nn.JordanRNN, (I, H, O))])
def test_elman_and_jordan_with_back_propagation_through_time(layer, sizes):
    rnn, x = made(layer, *sizes), numbers(T, B, I)
    gy = numbers(T, B, sizes[-1], seed=1)
    w = {name.removesuffix("_l0"): value for name, value in rnn.state_dict().items()}
    expected, g = bptt(w, x, gy)
    leaf = torch.Tensor(x, requires_grad=True)
    y, last = rnn(leaf)
    y.backward(gy)
    near(y, expected)
    near(last[0], expected[-1])
    near(leaf.grad, g.pop("x"))
    for name, value in g.items():
        near(getattr(rnn, f"{name}_l0").grad, value)


def test_jordans_state_is_the_output_and_elmans_the_hidden_layer():
    assert nn.JordanRNN(I, H, O).weight_hh_l0.shape == (H, O)
    assert nn.RNN(I, H).weight_hh_l0.shape == (H, H)


# LSTM and GRU


def lstm(w, x, activation=np.tanh, peephole="", h=None, c=None):
    """h and c of every step by the formulas: what the gates see, and hidden = o·σ_h(c)."""
    batch = x.shape[1]
    h = np.zeros((batch, w["weight_hh"].shape[1])) if h is None else h
    c = np.zeros_like(h) if c is None else c
    hs, cs = [], []
    for t in range(len(x)):
        a = x[t] @ w["weight_ih"].T + w["bias_ih"] + w["bias_hh"]
        a += (c if peephole == "full" else h) @ w["weight_hh"].T
        if "weight_ch" in w:
            a += c @ w["weight_ch"].T
        i, f, g, o = np.split(a, 4, axis=1)
        if peephole == "diagonal":
            p_i, p_f, p_o = np.split(w["weight_pc"], 3)
            i, f = i + p_i * c, f + p_f * c
        c = sigma(f) * c + sigma(i) * np.tanh(g)
        if peephole == "diagonal":
            o = o + p_o * c
        h = sigma(o) * activation(c)
        hs.append(h)
        cs.append(c)
    return np.stack(hs), np.stack(cs)


LSTMS = {
    "tanh": ({}, {}),
    "linear": ({"activation": "linear"}, {"activation": lambda c: c}),
    "peephole diagonal": ({"peephole": "diagonal"}, {"peephole": "diagonal"}),
    "peephole [x, c(t−1)]": ({"peephole": "full"}, {"peephole": "full"}),
    "FC-LSTM": ({"fully_connected": True}, {}),
}


@pytest.mark.parametrize("name", LSTMS)
def test_lstm(name):
    options, by_formula = LSTMS[name]
    layer, x = made(nn.LSTM, I, H, **options), numbers(T, B, I)
    w = {name.removesuffix("_l0"): value for name, value in layer.state_dict().items()}
    h, c = numbers(2, B, H, seed=1)
    hs, cs = lstm(w, x, h=h, c=c, **by_formula)
    y, (h_n, c_n) = layer(x, (h[None], c[None]))
    near(y, hs)
    near(h_n[0], hs[-1])
    near(c_n[0], cs[-1])


def test_lstms_hidden_state_is_o_tanh_c():
    layer, x = made(nn.LSTM, I, H), numbers(1, B, I)
    _, (h, c) = layer(x)
    w, b = layer.weight_ih_l0.detach().numpy(), (layer.bias_ih_l0 + layer.bias_hh_l0).detach().numpy()
    o = sigma(x[0] @ w[3 * H :].T + b[3 * H :])
    near(h[0], o * np.tanh(c[0]))
    assert not np.allclose(h[0], np.tanh(o * c[0]))


def test_a_memory_that_is_written_kept_reset_and_read():
    # x2 = 1 writes x1, x2 = −1 resets, x3 = 1 reads; tanh of a thousandth is that thousandth, and σ(±10) nearly 1 or 0.
    layer = nn.LSTM(3, 1, activation="linear", dtype="float64")
    layer.weight_ih_l0.data[:] = np.array([[0, 100, 0], [0, 100, 0], [1e-3, 0, 0], [0, 0, 100]])
    layer.weight_hh_l0.data.zero_()
    layer.bias_ih_l0.data[:] = np.array([-10, 10, 0, -10])
    layer.bias_hh_l0.data.zero_()
    x = np.array([[1, 0, 0], [3, 1, 0], [2, 0, 0], [4, 1, 0], [2, 0, 0], [1, 0, 1], [3, -1, 0], [6, 1, 0], [1, 0, 1]])
    y, (_, c) = layer(x.astype(np.float64))
    np.testing.assert_allclose(1000 * y[:, 0], [0, 0, 0, 0, 0, 7, 0, 0, 6], rtol=0, atol=0.01)
    np.testing.assert_allclose(1000 * c[0], [6], rtol=0, atol=0.01)


def test_peepholes_of_each_form_see_what_they_should():
    x, h, c = numbers(1, B, I), numbers(B, H, seed=1)[None], numbers(B, H, seed=2)[None]
    # [x, c(t−1)]: the h before has no influence, and there are no more parameters than without.
    full = made(nn.LSTM, I, H, peephole="full")
    near(full(x, (h, c))[0], full(x, (0 * h, c))[0])
    assert not np.allclose(full(x, (h, c))[0], full(x, (h, 0 * c))[0])
    assert count(full) == count(nn.LSTM(I, H))
    # Diagonal: of i and f the c before, of o the new one; three numbers a unit.
    diagonal, plain = made(nn.LSTM, I, H, peephole="diagonal"), made(nn.LSTM, I, H)
    assert count(diagonal) == count(plain) + 3 * H
    plain.load_state_dict(diagonal.state_dict(), strict=False)
    diagonal.weight_pc_l0.data[: 2 * H] = 0
    _, (of_new, after) = diagonal(x, (h, c))
    y, (_, same) = plain(x, (h, c))
    near(after, same)
    logit = np.log(y / (np.tanh(same) - y)) + diagonal.weight_pc_l0.detach().numpy()[2 * H :] * same
    near(of_new, sigma(logit) * np.tanh(same))
    # [x, h(t−1), c(t−1)]: with weight_ch of zeros it is the plain LSTM.
    fully = made(nn.LSTM, I, H, fully_connected=True)
    assert count(fully) == count(plain) + 4 * H * H
    plain.load_state_dict(fully.state_dict(), strict=False)
    fully.weight_ch_l0.data.zero_()
    near(fully(x, (h, c))[0], plain(x, (h, c))[0])


@pytest.mark.parametrize("reset_after", [True, False])
def test_gru(reset_after):
    layer, x, h = made(nn.GRU, I, H, reset_after=reset_after), numbers(T, B, I), numbers(B, H, seed=1)
    y, h_n = layer(x, h[None])
    w = {name.removesuffix("_l0"): np.split(value, 3) for name, value in layer.state_dict().items()}
    of_x, of_h, b_x, b_h = (w[name] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    for t in range(T):
        r, z = (sigma(x[t] @ of_x[k].T + b_x[k] + h @ of_h[k].T + b_h[k]) for k in (0, 1))
        seen = r * (h @ of_h[2].T + b_h[2]) if reset_after else (r * h) @ of_h[2].T + b_h[2]
        new = np.tanh(x[t] @ of_x[2].T + b_x[2] + seen)
        h = (1 - z) * new + z * h
        near(y[t], h)
    near(h_n[0], h)


@pytest.mark.parametrize("options", [{}, {"num_layers": 3}, {"bidirectional": True}, {"bias": False}])
def test_a_gru_has_three_quarters_of_the_lstms_parameters(options):
    with nn.init.skipped():
        assert 4 * count(nn.GRU(300, 512, **options)) == 3 * count(nn.LSTM(300, 512, **options))


# Directions and layers


@pytest.mark.parametrize(
    ("layer", "parameters"), [(nn.RNN, 3_983_360), (nn.LSTM, 15_933_440), (nn.GRU, 11_950_080)], ids=repr
)
def test_three_bidirectional_layers(layer, parameters):
    net = layer(300, 512, num_layers=3, bidirectional=True)
    assert count(net) == parameters
    y, state = net(numbers(2, 3, 300).astype(np.float32))
    assert y.shape == (2, 3, 1024)
    for each in state if isinstance(state, tuple) else [state]:
        assert each.shape == (6, 3, 512)


@pytest.mark.parametrize("layer", [nn.RNN, nn.LSTM, nn.GRU])
def test_layers_and_directions_are_made_of_single_ones(layer):
    net, x = made(layer, I, H, num_layers=2, bidirectional=True), numbers(T, B, I)
    states = []
    y = x
    for number in range(2):
        parts = []
        for suffix in "", "_reverse":
            one = made(layer, y.shape[2], H)
            names = {name: name.replace("_l0", f"_l{number}{suffix}") for name in one.state_dict()}
            one.load_state_dict({name: net.state_dict()[other] for name, other in names.items()})
            out, state = one(y[::-1] if suffix else y)
            parts.append(out[::-1] if suffix else out)
            states.append(state[0] if isinstance(state, tuple) else state)
        y = np.concatenate(parts, -1)
    out, state = net(x)
    near(out, y)
    near(state[0] if isinstance(state, tuple) else state, np.concatenate(states))


# QstEncoder


class QstEncoder(nn.Module):
    def __init__(self, qst_vocab_size, word_embed_size, embed_size, num_layers, hidden_size):
        super(QstEncoder, self).__init__()  # noqa: UP008
        self.word2vec = nn.Embedding(qst_vocab_size, word_embed_size)
        self.tanh = nn.Tanh()
        self.lstm = nn.LSTM(word_embed_size, hidden_size, num_layers)
        self.fc = nn.Linear(2 * num_layers * hidden_size, embed_size)

    def forward(self, question):
        qst_vec = self.word2vec(question)
        qst_vec = self.tanh(qst_vec)
        qst_vec = qst_vec.transpose(0, 1)
        _, (hidden, cell) = self.lstm(qst_vec)
        qst_feature = torch.cat((hidden, cell), 2)
        qst_feature = qst_feature.transpose(0, 1)
        qst_feature = qst_feature.reshape(qst_feature.size()[0], -1)
        qst_feature = self.tanh(qst_feature)
        qst_feature = self.fc(qst_feature)
        return qst_feature  # noqa: RET504


def test_qst_encoder_as_printed():
    torch.manual_seed(0)
    net = QstEncoder(qst_vocab_size=200, word_embed_size=300, embed_size=1024, num_layers=2, hidden_size=512)
    assert count(net.lstm) == 3_768_320
    assert (net.fc.in_features, count(net.word2vec)) == (2048, 60_000)
    shapes = {}
    for name, module in (("word2vec", net.word2vec), ("lstm", net.lstm), ("fc", net.fc)):
        module.register_forward_hook(lambda module, inputs, output, name=name: shapes.update({name: (inputs, output)}))
    question = torch.tensor(np.random.default_rng(0).integers(0, 200, (4, 30)))
    feature = net(question)
    assert shapes["word2vec"][1].shape == (4, 30, 300)
    assert shapes["lstm"][0][0].shape == (30, 4, 300)
    assert [state.shape for state in shapes["lstm"][1][1]] == [(2, 4, 512)] * 2
    assert shapes["fc"][0][0].shape == (4, 2048)
    assert feature.shape == (4, 1024)
    feature.sum().backward()
    assert all(np.isfinite(p.grad.numpy()).all() and p.grad.numpy().any() for p in net.parameters())
    # The library's own is the same, and takes arrays.
    own = models.QstEncoder(200)
    assert own.load_state_dict(net.state_dict()).missing_keys == []
    given = own(question.numpy())
    assert isinstance(given, np.ndarray)
    np.testing.assert_allclose(given, feature.detach().numpy(), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(own(question).detach().numpy(), feature.detach().numpy())


# Vanishing and exploding gradients


@pytest.mark.parametrize(("w", "digits", "expected"), [(0.99, 5, 4e-5), (1.01, 0, 20_959)])
def test_a_thousand_steps_of_one_weight(w, digits, expected):
    assert round(w**1000, digits) == expected
    rnn = nn.RNN(1, 1, nonlinearity="relu", bias=False, dtype="float64")
    rnn.weight_hh_l0.data.fill_(w)
    h = torch.Tensor(np.ones((1, 1, 1)), requires_grad=True)
    _, last = rnn(torch.Tensor(np.zeros((1000, 1, 1))), h)
    last.sum().backward()
    for value in last, h.grad:
        np.testing.assert_allclose(value.item(), w**1000, rtol=1e-10)
    # d w^1000 / dw
    np.testing.assert_allclose(rnn.weight_hh_l0.grad.item(), 1000 * w**999, rtol=1e-10)


def norms_per_step(layer, steps=200):
    """How large the gradient of the last output is in the input of each step."""
    x = torch.Tensor(numbers(steps, B, I), requires_grad=True)
    y, _ = layer(x)
    y[-1].sum().backward()
    return np.linalg.norm(x.grad.numpy(), axis=(1, 2))


def test_gradients_vanish_in_an_rnn_and_stay_in_an_lstm_whose_forget_gate_is_open():
    rnn, lstm = made(nn.RNN, I, 16), made(nn.LSTM, I, 16)
    lstm.bias_ih_l0.data[16:32] = 5
    of_rnn, of_lstm = norms_per_step(rnn), norms_per_step(lstm)
    assert of_rnn[0] < 1e-20 * of_rnn[-1]
    assert 1e-3 < of_lstm[0] / of_lstm[-1] < 10
    # In an RNN a step back costs the same factor again and again: its logarithm falls along a line.
    slope = np.diff(np.log(of_rnn)[:150])
    assert np.log(of_rnn[150] / of_rnn[0]) > 0.9 * np.abs(slope).sum() > 0


def test_gradients_explode_and_are_clipped():
    rnn = made(nn.RNN, I, 16, nonlinearity="relu", bias=False)
    rnn.weight_hh_l0.data[:] = 1.1 * np.eye(16)
    of_rnn = norms_per_step(rnn, 100)
    assert of_rnn[0] > 1e3 * of_rnn[-1]
    before = {name: p.grad.numpy().copy() for name, p in rnn.named_parameters()}
    total = np.sqrt(sum((g**2).sum() for g in before.values()))
    assert total > 1e3
    np.testing.assert_allclose(nn.utils.clip_grad_norm_(rnn.parameters(), 1.0).item(), total, rtol=1e-12)
    for name, p in rnn.named_parameters():
        # torch's 1e-6 in the divisor.
        np.testing.assert_allclose(p.grad.numpy(), before[name] / (total + 1e-6), rtol=1e-12)
    np.testing.assert_allclose(nn.utils.get_total_norm([p.grad for p in rnn.parameters()]).item(), 1, rtol=1e-6)
    nn.utils.clip_grad_value_(rnn.parameters(), 0.01)
    assert max(np.abs(p.grad.numpy()).max() for p in rnn.parameters()) == 0.01


# CTC

SYMBOLS = "∅好棒"


def path(text):
    """log_probs (T, C) whose likeliest path is `text`."""
    return F.log_softmax(np.eye(len(SYMBOLS), dtype=np.float32)[[SYMBOLS.index(s) for s in text.split()]] * 3, -1)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("好 ∅ ∅ 棒 ∅ ∅", "好棒"),
        ("好 ∅ 棒 ∅ 棒", "好棒棒"),
        ("好 好 ∅ 棒 棒 棒", "好棒"),
        ("∅ 好 棒 棒 ∅ 棒", "好棒棒"),
        ("∅ ∅", ""),
    ],
)
def test_ctc_collapses_repetitions_and_drops_blanks(text, meant):
    (labels,) = F.ctc_greedy_decode(path(text))
    assert "".join(SYMBOLS[label] for label in labels) == meant
    # What it means is likelier than anything else of that length.
    x, losses = path(text), {}
    for target in itertools.product((1, 2), repeat=len(meant)):
        loss = F.ctc_loss(x, np.array(target, np.int64), [len(x)], [len(target)], reduction="sum")
        losses["".join(SYMBOLS[label] for label in target)] = loss
    assert min(losses, key=losses.get) == meant


def test_ctc_loss_is_the_sum_over_all_paths():
    x = F.log_softmax(numbers(4, 3), -1)
    total = 0.0
    for steps in np.ndindex(3, 3, 3, 3):
        kept = [s for t, s in enumerate(steps) if s and (not t or steps[t - 1] != s)]
        if kept == [1, 2]:
            total += np.exp(sum(x[t, s] for t, s in enumerate(steps)))
    near(F.ctc_loss(x, np.array([1, 2]), [4], [2], reduction="sum"), -np.log(total))


def spoken(random, batch):
    """1 to 3 labels of classes 1 to 3, each spoken for 1 to 3 noisy frames after 1 or 2 of silence: x (T, N, 4)."""
    targets = [random.integers(1, 4, n) for n in random.integers(1, 4, batch)]
    frames = []
    for target in targets:
        kinds = [k for label in target for k in [0] * random.integers(1, 3) + [label] * random.integers(1, 4)]
        frames.append(np.eye(4)[kinds] + 0.2 * random.standard_normal((len(kinds), 4)))
    x = nn.utils.rnn.pad_sequence([f.astype(np.float32) for f in frames])
    return x, np.concatenate(targets), [len(f) for f in frames], [len(t) for t in targets]


def test_ctc_trains_a_network_that_is_not_told_when_a_label_is_spoken():
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    rnn, fc = nn.LSTM(4, 16, bidirectional=True), nn.Linear(32, 4)
    optimizer, criterion = optim.Adam([*rnn.parameters(), *fc.parameters()], lr=0.02), nn.CTCLoss()
    losses = []
    for _ in range(150):
        x, targets, input_lengths, target_lengths = spoken(random, 32)
        optimizer.zero_grad()
        log_probs = fc(rnn(torch.Tensor(x), lengths=input_lengths)[0]).log_softmax(2)
        loss = criterion(log_probs, targets, input_lengths, target_lengths)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    x, targets, input_lengths, target_lengths = spoken(random, 200)
    found = F.ctc_greedy_decode(F.log_softmax(fc(rnn(x, lengths=input_lengths)[0]), 2), input_lengths)
    wanted = np.split(targets, np.cumsum(target_lengths)[:-1])
    assert np.mean([a == b.tolist() for a, b in zip(found, wanted, strict=True)]) >= 0.9


# Many to one, many to many, sequence to sequence: here of layers and cells, in test_models_sequences.py as models


def train(parameters, steps, loss):
    optimizer = optim.Adam(parameters, lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def test_many_to_one():
    # Whether 1 came before 2 among symbols that mean nothing.
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    embedding, gru, fc = nn.Embedding(8, 8), nn.GRU(8, 16, batch_first=True), nn.Linear(16, 2)

    def task(batch):
        x, y = random.integers(3, 8, (batch, 12)), random.integers(0, 2, batch)
        for row, first in zip(x, y, strict=True):
            row[np.sort(random.choice(12, 2, replace=False))] = (1, 2) if first else (2, 1)
        return x, y

    def loss():
        x, y = task(32)
        _, h = gru(embedding(torch.Tensor(x)))
        return nn.CrossEntropyLoss()(fc(h[-1]), y)

    train([*embedding.parameters(), *gru.parameters(), *fc.parameters()], 200, loss)
    x, y = task(300)
    assert (fc(gru(embedding(x))[1][-1]).argmax(1) == y).mean() >= 0.95


VERBS, CITIES, MONTHS, DAYS = ("arrive", "leave"), ("Taipei", "Paris", "Beijing"), ("May", "November"), ("2nd", "3rd")
WORDS = {w: i for i, w in enumerate([*VERBS, "will", "I", "on", "at", *CITIES, *MONTHS, *DAYS])}
SLOTS = {"other": 0, "destination": 1, "departure": 2, "time": 3}


def test_many_to_many_fills_slots():
    # The same city is a destination after "arrive" and a departure after "leave": a network needs memory to know.
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    embedding, rnn, fc = nn.Embedding(len(WORDS), 8), nn.RNN(8, 16), nn.Linear(16, len(SLOTS))

    def task(batch):
        x, y = np.zeros((7, batch), np.int64), np.zeros((7, batch), np.int64)
        for n in range(batch):
            verb, city, month, day = (str(random.choice(kind)) for kind in (VERBS, CITIES, MONTHS, DAYS))
            x[:, n] = [WORDS[w] for w in ("I", "will", verb, city, "on", month, day)]
            y[3, n] = SLOTS["destination" if verb == "arrive" else "departure"]
            y[5:, n] = SLOTS["time"]
        return x, y

    def loss():
        x, y = task(16)
        scores = fc(rnn(embedding(torch.Tensor(x)))[0])
        return nn.CrossEntropyLoss()(scores.reshape(-1, len(SLOTS)), y.reshape(-1))

    train([*embedding.parameters(), *rnn.parameters(), *fc.parameters()], 120, loss)
    x, y = task(200)
    assert (fc(rnn(embedding(x))[0]).argmax(-1) == y).mean() >= 0.99


def test_sequence_to_sequence_writes_until_its_stop_symbol():
    # 1 to 3 digits after a start, each one larger, and the stop: the decoder is a cell, the loop ours.
    start, stop, longest = 10, 11, 3
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    embedding, encoder, cell, fc = nn.Embedding(12, 16), nn.GRU(16, 64), nn.GRUCell(16, 64), nn.Linear(64, 12)

    def task(batch):
        lengths = random.integers(1, longest + 1, batch)
        x = random.integers(0, 10, (longest, batch))
        y = np.where(np.arange(longest + 1)[:, None] < lengths, np.vstack([(x + 1) % 10, x[:1]]), stop)
        return x, y, lengths

    def loss():
        x, y, lengths = task(32)
        _, h = encoder(embedding(torch.Tensor(x)), lengths=lengths)
        h, seen, scores = h[0], np.full(32, start), []
        for t in range(longest + 1):
            h = cell(embedding(torch.Tensor(seen)), h)
            scores.append(fc(h))
            seen = y[t]
        counted = np.where(np.arange(longest + 1)[:, None] <= lengths, y, -100)
        return nn.CrossEntropyLoss()(torch.cat(scores), counted.reshape(-1))

    def write(x):
        h, seen, written = encoder(embedding(x[:, None]))[1][0], start, []
        while len(written) < 8:
            h = cell(embedding(np.array([seen])), h)
            seen = int(fc(h).argmax())
            if seen == stop:
                break
            written.append(seen)
        return written

    train([p for m in (embedding, encoder, cell, fc) for p in m.parameters()], 500, loss)
    x, _, lengths = task(100)
    right = [write(x[:n, i]) == ((x[:n, i] + 1) % 10).tolist() for i, n in enumerate(lengths)]
    assert np.mean(right) >= 0.9


# Sequences of unequal lengths

LENGTHS = [5, 2, 7, 1]


def both(layer, x, gy, gh, **how):
    """y, the states' first, and the gradients of Σ y·gy + Σ h·gh: of the input and by the names of the parameters."""
    layer.zero_grad()
    leaf = torch.Tensor(x, requires_grad=True)
    given = leaf
    if "packed" in how:
        given, how = pack_padded_sequence(leaf, how["packed"], enforce_sorted=False), {}
    y, h = layer(given, **how)
    if isinstance(y, tuple):
        y, _ = pad_packed_sequence(y)
    h = h[0] if isinstance(h, tuple) else h
    ((y * gy).sum() + (h * gh).sum()).backward()
    return y.detach().numpy(), h.detach().numpy(), leaf.grad.numpy(), {n: p.grad for n, p in layer.named_parameters()}


@pytest.mark.parametrize("how", ["lengths", "packed"])
@pytest.mark.parametrize(
    ("layer", "sizes"), [(nn.RNN, (I, H)), (nn.LSTM, (I, H)), (nn.GRU, (I, H)), (nn.JordanRNN, (I, H, O))]
)
def test_a_batch_of_unequal_lengths_is_each_sequence_alone(layer, sizes, how):
    net = made(layer, *sizes, num_layers=2, bidirectional=True)
    # What stands beyond a sequence's end must not matter, not even NaN.
    x = np.where(np.arange(7)[:, None, None] < np.array(LENGTHS)[:, None], numbers(7, 4, I), np.nan)
    gy, gh = numbers(7, 4, 2 * sizes[-1], seed=1), numbers(4, 4, sizes[-1], seed=2)
    y, h, gx, gw = both(net, x, gy, gh, **{how: LENGTHS})
    gw = {name: g.numpy().copy() for name, g in gw.items()}
    total = {name: np.zeros_like(g) for name, g in gw.items()}
    for i, n in enumerate(LENGTHS):
        one = slice(i, i + 1)
        y1, h1, gx1, gw1 = both(net, x[:n, one], gy[:n, one], gh[:, one])
        near(y[:n, one], y1)
        near(h[:, one], h1)
        near(gx[:n, one], gx1)
        assert not y[n:, i].any()
        assert not gx[n:, i].any()
        for name, g in gw1.items():
            total[name] += g.numpy()
    for name, g in gw.items():
        near(g, total[name])
