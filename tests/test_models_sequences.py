"""The networks of sequences: what comes out, what padding does not do, summaries, and each of them learning a task."""

import string

import numpy as np
import pytest

import fastconv
from fastconv import Tensor, cli, models, nn, optim
from fastconv.models import BMES, bmes_tags, bmes_words

LENGTHS = [5, 1, 6, 3]


def words(seed=0, size=9, shape=(4, 6)):
    return np.random.default_rng(seed).integers(0, size, shape)


def padded(x, lengths=LENGTHS):
    """`x` with other words beyond the lengths."""
    return np.where(np.arange(x.shape[1]) < np.array(lengths)[:, None], x, (x + 1) % 9)


def made(name):
    """A small network in float32, the same each time."""
    fastconv.manual_seed(0)
    sizes = {
        "lstm_tagger": {"vocab_size": 9, "num_tags": 4},
        "lstm_classifier": {"vocab_size": 9, "num_classes": 3},
        "seq2seq": {"source_size": 9, "target_size": 7, "max_length": 8},
    }[name]
    return models.BUILDERS[name](**sizes, embed_size=5, hidden_size=6, num_layers=2).eval()


def near(a, b, terms=1024):
    """The same but for the rounding of sums of so many terms of about 1."""
    np.testing.assert_allclose(a, b, rtol=0, atol=np.finfo(np.float32).eps * terms**0.5)


# What comes out


def test_shapes_kinds_and_keys():
    x = words()
    for name, shape in ("lstm_tagger", (4, 6, 4)), ("lstm_classifier", (4, 3)):
        net = made(name)
        y = net(x)
        assert isinstance(y, np.ndarray)
        assert (y.shape, y.dtype) == (shape, np.float32)
        assert isinstance(net(Tensor(x)), Tensor)
        np.testing.assert_array_equal(net(Tensor(x)).detach(), net(x.astype(np.int32)))
        assert [key.split(".")[0] for key in net.state_dict()] == ["embedding"] + ["lstm"] * (
            16 if name == "lstm_tagger" else 8
        ) + ["fc"] * 2
    net = made("seq2seq")
    assert net(x, words(1, 7, (4, 3))).shape == (4, 3, 7)
    assert isinstance(net(Tensor(x), words(1, 7, (4, 3))), Tensor)
    assert list(dict.fromkeys(key.split(".")[0] for key in net.state_dict())) == [
        "source_embedding",
        "encoder",
        "target_embedding",
        "decoder",
        "fc",
    ]


def test_a_bidirectional_classifier_joins_the_ends_of_both_directions():
    fastconv.manual_seed(0)
    net, x = models.LSTMClassifier(9, 2, 5, 4, 2, bidirectional=True), words()
    y, _ = net.lstm(net.embedding(x), lengths=LENGTHS)
    ends = np.concatenate([y[range(4), np.array(LENGTHS) - 1, :4], y[:, 0, 4:]], 1)
    near(net(x, LENGTHS), net.fc(ends))


def test_no_sequences_and_no_steps():
    for name, shape in ("lstm_tagger", (0, 6, 4)), ("lstm_classifier", (0, 3)):
        assert made(name)(words(shape=(0, 6))).shape == shape
    assert made("lstm_tagger")(words(shape=(2, 0))).shape == (2, 0, 4)
    assert made("lstm_classifier")(words(shape=(2, 0))).shape == (2, 3)
    assert made("seq2seq").write(words(shape=(0, 6))) == []
    assert len(made("seq2seq").write(words(shape=(2, 0)))) == 2


@pytest.mark.parametrize("name", ["lstm_tagger", "lstm_classifier", "seq2seq"])
def test_padding_has_no_influence_and_each_sequence_is_as_alone(name):
    net, x = made(name), words()
    target = words(1, 7, (4, 3))
    call = (lambda x, t, n: net(x, t, lengths=n)) if name == "seq2seq" else (lambda x, t, n: net(x, n))
    y = call(x, target, LENGTHS)
    other = call(padded(x), target, LENGTHS)
    for i, n in enumerate(LENGTHS):
        alone = call(x[i : i + 1, :n], target[i : i + 1], None)[0]
        steps = slice(n) if name == "lstm_tagger" else slice(None)
        near(y[i][steps], alone)
        np.testing.assert_array_equal(y[i][steps], other[i][steps])


@pytest.mark.parametrize("name", ["lstm_tagger", "seq2seq"])
def test_the_loss_is_the_mean_over_all_steps_but_padding(name):
    net, x = made(name), words()
    target = np.where(np.arange(6) < np.array(LENGTHS)[:, None], words(2, 4), -100)
    scores = net(Tensor(x), LENGTHS) if name == "lstm_tagger" else net(Tensor(x), target, lengths=LENGTHS)
    loss = net.loss(scores, target)
    logp = nn.functional.log_softmax(scores.detach().numpy(), -1).astype(np.float64)
    each = [-logp[i, t, target[i, t]] for i, n in enumerate(LENGTHS) for t in range(n)]
    near(loss.item(), np.mean(each))
    near(net.loss(scores, Tensor(target)).item(), np.mean(each))
    loss.backward()
    assert all(p.grad is not None and np.isfinite(p.grad.numpy()).all() for p in net.parameters())
    assert net.loss(scores.detach().numpy(), target) == np.float32(loss.item())


def test_prediction_marks_what_is_beyond_a_sequence():
    net, x = made("lstm_tagger"), words()
    scores = net(x, LENGTHS)
    for lengths in LENGTHS, np.array(LENGTHS), Tensor(np.array(LENGTHS)):
        tags = net.predict(Tensor(x), lengths)
        assert tags.dtype == np.int64
        for i, n in enumerate(LENGTHS):
            assert tags[i].tolist() == scores[i, :n].argmax(-1).tolist() + [-100] * (6 - n)
    assert (net.predict(x) >= 0).all()


def test_dropout_is_for_training_only():
    fastconv.manual_seed(0)
    nets = [
        models.LSTMTagger(9, 4, 5, 6, dropout=0.5),
        models.LSTMClassifier(9, 4, 5, 6, dropout=0.5),
        models.Seq2Seq(9, 7, 5, 6, dropout=0.5, max_length=2),
    ]
    for net in nets:
        assert not np.array_equal(net(words()), net(words()))
        net.eval()
        np.testing.assert_array_equal(net(words()), net(words()))


# Tags of words


def test_bmes_tags_of_words_and_words_of_tags():
    text = ["研究", "生命", "的", "起源", "自然科学"]
    tags = bmes_tags(text)
    assert "".join(BMES[tag] for tag in tags) == "BEBESBEBMME"
    assert bmes_words("".join(text), tags) == text
    assert bmes_words("".join(text), np.array([*tags, -100, -100])) == text
    assert bmes_words([1, 2, 3], [0, 2, 3]) == [[1, 2], [3]]
    assert (bmes_tags([]), bmes_words("", [])) == ([], [])


@pytest.mark.parametrize(
    ("tags", "expected"),
    [("MMMM", ["abcd"]), ("BBSM", ["a", "b", "c", "d"]), ("MEEB", ["ab", "c", "d"]), ("BMBM", ["ab", "cd"])],
)
def test_tags_that_make_no_sense_give_words_all_the_same(tags, expected):
    assert bmes_words("abcd", [BMES.index(tag) for tag in tags]) == expected


# Writing


def test_a_target_is_seen_one_step_late_and_the_state_is_carried():
    net, x, target = made("seq2seq"), words(), np.array([[3, 4, 1], [5, 1, -100], [2, 2, 1], [1, -100, -100]])
    scores = net(x, target, lengths=LENGTHS)
    y, state = net.encoder(net.source_embedding(x), lengths=LENGTHS)
    for step in range(3):
        seen = np.zeros(4, int) if not step else np.where(target < 0, 1, target)[:, step - 1]
        y, state = net.decoder(net.target_embedding(seen[:, None]), state)
        near(scores[:, step : step + 1], net.fc(y))
    # What is scored at a step does not depend on that step's target, nor on later ones.
    changed = np.where(np.arange(3) < 1, target, 6)
    np.testing.assert_array_equal(net(x, changed, lengths=LENGTHS)[:, :2], scores[:, :2])


def test_what_is_written_is_what_the_scores_say_when_it_is_the_target():
    net, x = made("seq2seq"), words()
    scores = net(x, lengths=LENGTHS)
    assert scores.shape[1] <= 8
    symbols = scores.argmax(-1)
    near(net(x, symbols, lengths=LENGTHS), scores)
    written = net.write(x, LENGTHS)
    for i, line in enumerate(written):
        whole = symbols[i].tolist()
        assert line == (whole[: whole.index(1)] if 1 in whole else whole)
        assert line == net.write(x[i : i + 1, : LENGTHS[i]])[0]
    assert net.write(Tensor(x), LENGTHS) == written
    recorded = net(Tensor(x), lengths=LENGTHS)
    near(recorded.detach(), scores)
    recorded.sum().backward()
    assert net.source_embedding.weight.grad is not None


def test_writing_ends_at_the_stop_symbol_of_all_or_at_max_length():
    net, x = made("seq2seq"), words()
    for p in net.fc.parameters():
        p.data.zero_()
    net.fc.bias.data[3] = 1
    assert net.write(x) == [[3] * 8] * 4
    net.fc.bias.data[1] = 2
    assert net.write(x) == [[]] * 4
    assert net(x).shape == (4, 1, 7)
    # One stops at once, the other never: the sign of its state's first unit says which.
    net.fc.weight.data[1, 0] = -1e4
    net.fc.bias.data[1] = 0
    y, _ = net.decoder(net.target_embedding(np.zeros((4, 1), int)), net.encoder(net.source_embedding(x))[1])
    for line, first in zip(net.write(x), y[:, 0, 0], strict=True):
        assert (line == []) == (first < 0)


# Learning


def trained(net, batches, loss, rate):
    """`net` after an Adam step, with gradients clipped to norm 1, on each of `batches`."""
    optimiser = optim.Adam(net.parameters(), lr=rate)
    for batch in batches:
        optimiser.zero_grad()
        loss(net, *batch).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    return net.eval()


# No word begins another, so that there is one way to cut a text, which may need characters on both sides to be seen.
LEXICON = ["a", "bc", "bd", "efg", "efh", "cab", "dach", "gegh", "hb"]


def texts(random, count, longest):
    """Texts of 1 to `longest` words, no spaces: characters (count, T), tags padded with −100, lengths, the words."""
    lines = [
        [LEXICON[k] for k in random.integers(len(LEXICON), size=n)] for n in random.integers(1, longest + 1, count)
    ]
    lengths = [len("".join(line)) for line in lines]
    x, tags = np.zeros((count, max(lengths)), np.int64), np.full((count, max(lengths)), -100)
    for i, line in enumerate(lines):
        x[i, : lengths[i]] = [string.ascii_lowercase.index(c) for c in "".join(line)]
        tags[i, : lengths[i]] = bmes_tags(line)
    return x, tags, lengths, lines


@pytest.mark.parametrize("seed", [0, 1])
def test_the_tagger_learns_to_cut_text_into_words(seed):
    random = np.random.default_rng(seed)
    fastconv.manual_seed(seed)
    net = trained(
        models.LSTMTagger(8, 4, 16, 32),
        (texts(random, 32, 7) for _ in range(50)),
        lambda net, x, tags, lengths, _: net.loss(net(Tensor(x), lengths), tags),
        0.02,
    )
    # Texts longer than any that it has seen.
    x, tags, lengths, lines = texts(random, 200, 12)
    found = net.predict(x, lengths)
    assert (found == tags)[tags != -100].mean() >= 0.99
    cut = [bmes_words("".join(line), row) for line, row in zip(lines, found, strict=True)]
    assert np.mean([a == b for a, b in zip(cut, lines, strict=True)]) >= 0.95


NOT, NEUTRAL = 8, range(9, 12)


def feelings(random, count):
    """Sentences of 3 to 10 words, 0 to 3 good, 4 to 7 bad, NOT: padded with words; whether they are good; lengths.

    NOT turns the next good or bad word around; sentences that come out even are drawn anew.
    """
    lengths = random.integers(3, 11, count)
    x, good = random.integers(0, 12, (count, 10)), np.empty(count, np.int64)
    for i, n in enumerate(lengths):
        total = 0
        while not total:
            x[i, :n], sign = random.integers(0, 12, n), 1
            for word in x[i, :n]:
                if word == NOT:
                    sign = -sign
                elif word not in NEUTRAL:
                    total += sign if word < 4 else -sign
                    sign = 1
        good[i] = total > 0
    return x, good, lengths


@pytest.mark.parametrize("seed", [0, 1])
def test_the_classifier_learns_what_a_sentence_feels_with_negation(seed):
    random = np.random.default_rng(seed)
    fastconv.manual_seed(seed)
    net = trained(
        models.LSTMClassifier(12, 2, 16, 32),
        (feelings(random, 64) for _ in range(250)),
        lambda net, x, good, lengths: nn.CrossEntropyLoss()(net(Tensor(x), lengths), good),
        0.02,
    )
    x, good, lengths = feelings(random, 500)
    assert (net(x, lengths).argmax(1) == good).mean() >= 0.95


def digits(random, count, seen):
    """1 to 4 digits, symbols 2 to 11, in a batch of 4 steps; them reversed, then 1; lengths. One in eight is unseen."""
    lengths = random.integers(1, 5, count)
    x, target = random.integers(2, 12, (count, 4)), np.full((count, 5), -100)
    for i, n in enumerate(lengths):
        while (x[i, :n] @ (1, 3, 5, 7)[:n] % 8 == 0) == seen:
            x[i, :n] = random.integers(2, 12, n)
        target[i, : n + 1] = [*x[i, :n][::-1], 1]
    return x, target, lengths


@pytest.mark.parametrize("seed", [0, 1])
def test_the_encoder_decoder_learns_to_write_backwards_and_when_to_stop(seed):
    random = np.random.default_rng(seed)
    fastconv.manual_seed(seed)
    net = trained(
        models.Seq2Seq(12, 12, 32, 64, max_length=10),
        (digits(random, 64, True) for _ in range(350)),
        lambda net, x, target, lengths: net.loss(net(Tensor(x), target, lengths=lengths), target),
        0.01,
    )
    x, target, lengths = digits(random, 300, False)
    right = [line == row[:n].tolist() for line, row, n in zip(net.write(x, lengths), target, lengths, strict=True)]
    assert np.mean(right) >= 0.9


# Summaries


def rows(found):
    return [(row.name, row.output_shape, row.parameters) for row in found.rows]


def test_summary_of_qst_encoder_has_time_before_the_batch():
    net = models.qst_encoder(qst_vocab_size=1000)
    found = fastconv.summary(net, (30,))
    assert rows(found) == [
        ("Embedding-1", [-1, 30, 300], 300_000),
        ("Tanh-2", [-1, 30, 300], 0),
        ("LSTM-3", [30, -1, 512], 3_768_320),
        ("Tanh-4", [-1, 2048], 0),
        ("Linear-5", [-1, 1024], 2_098_176),
    ]
    assert found.total_parameters == sum(p.numel() for p in net.parameters())
    assert found.input_mb == 30 * 8 / 2**20
    assert fastconv.summary(net, (30,), 16).rows[2].output_shape == [30, 16, 512]
    assert "              LSTM-3              [30, -1, 512]       3,768,320" in str(found).split("\n")


def test_summary_of_the_others():
    tagger = fastconv.summary(models.LSTMTagger(8, 4, 16, 32), (7,))
    assert rows(tagger)[2:] == [("LSTM-3", [-1, 7, 64], 12_800), ("Linear-4", [-1, 7, 4], 260)]
    classifier = fastconv.summary(models.LSTMClassifier(8, 2, 16, 32), (7,))
    assert rows(classifier)[2::2] == [("LSTM-3", [-1, 7, 32], 6400), ("Linear-5", [-1, 2], 66)]
    net = models.Seq2Seq(12, 11, 16, 32)
    both, one = fastconv.summary(net, [(7,), (8,)], 2), fastconv.summary(net, (7,))
    assert [row.output_shape for row in both.rows][::3] == [[2, 7, 16], [2, 8, 16], [2, 8, 11]]
    assert [row.output_shape for row in one.rows][::3] == [[-1, 7, 16], [-1, 1, 16], [-1, 1, 11]]
    assert both.total_parameters == one.total_parameters == sum(row.parameters for row in one.rows)
    assert both.input_mb == 2 * (7 + 8) * 8 / 2**20


def test_summary_of_recurrent_layers_cells_and_packed_sequences():
    for layer, shape in (
        (nn.RNN(3, 4, batch_first=True), [-1, 5, 4]),
        (nn.GRU(3, 4, 2, batch_first=True, bidirectional=True), [-1, 5, 8]),
        (nn.JordanRNN(3, 4, 2, batch_first=True), [-1, 5, 2]),
        (nn.LSTM(3, 4, batch_first=True, proj_size=2), [-1, 5, 2]),
    ):
        count = sum(p.numel() for p in layer.parameters())
        assert rows(fastconv.summary(layer, (5, 3))) == [(f"{type(layer).__name__}-1", shape, count)]
    assert rows(fastconv.summary(nn.LSTMCell(3, 4), (3,))) == [("LSTMCell-1", [[-1, 4], [-1, 4]], 144)]
    assert rows(fastconv.summary(nn.GRUCell(3, 4), (3,))) == [("GRUCell-1", [-1, 4], 108)]

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4)

        def forward(self, x):
            lengths = [x.shape[1]] * len(x)
            y, _ = self.lstm(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))
            return y.data

    assert rows(fastconv.summary(Packed(), (5, 3))) == [("LSTM-1", [-1, 4], 144)]


def test_summary_takes_the_dtype_that_it_is_told():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Linear(2, 3)
            self.table = nn.Embedding(5, 2)

        def forward(self, x):
            return self.scale(self.table(x))

    assert rows(fastconv.summary(Late(), (4,), dtypes=[np.int32]))[1] == ("Linear-2", [-1, 4, 3], 9)
    with pytest.raises(TypeError, match="dtype float32"):
        fastconv.summary(Late(), (4,))


def test_the_command_shows_networks_of_sequences(capsys):
    assert cli.main(["summary", "qst_encoder", "--options", "qst_vocab_size=1000", "--input", "30"]) == 0
    assert "Total params: 6,166,496" in capsys.readouterr().out
    assert cli.main(["summary", "seq2seq", "--options", "source_size=12", "target_size=12", "--input", "7"]) == 0
    assert "[-1, 1, 12]" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["summary", "qst_encoder", "--input", "30"])
    assert "qst_vocab_size" in capsys.readouterr().err


# Wrong arguments

SCORES = np.zeros((2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda: models.QstEncoder(0), ValueError, "qst_vocab_size=0"),
        (lambda: models.QstEncoder(9, 4, 4, 0, 4), ValueError, "num_layers=0"),
        (lambda: models.QstEncoder(9, 4, 4, 1, 4)(words()[0]), ValueError, r"question=\(6,\)"),
        (lambda: models.QstEncoder(9, 4, 4, 1, 4)([[1]]), TypeError, r"question=\[\[1\]\]"),
        (lambda: models.LSTMTagger(9, 0), ValueError, "num_tags=0"),
        (lambda: models.LSTMTagger(9, 4, dropout=2), ValueError, "p=2"),
        (lambda: made("lstm_tagger")(words()[0]), ValueError, r"words=\(6,\)"),
        (lambda: made("lstm_tagger")(words().astype(np.float32)), TypeError, "words: dtype float32"),
        (lambda: made("lstm_tagger")(words() + 1), IndexError, "index 9"),
        (lambda: made("lstm_tagger")(words(), [1, 2, 3]), ValueError, "lengths"),
        (lambda: made("lstm_tagger").predict(words(), [1, 2, 3, 7]), ValueError, "lengths"),
        (lambda: made("lstm_tagger").loss(SCORES, words(shape=(2, 4))), ValueError, r"tags=\(2, 4\)"),
        (lambda: made("lstm_tagger").loss(SCORES, np.full((2, 3), 4)), ValueError, "class 4"),
        (lambda: made("lstm_tagger").loss(SCORES, SCORES[0]), TypeError, "tags: dtype float32"),
        (lambda: models.LSTMClassifier(9, 2, bidirectional=1), TypeError, "bidirectional=1"),
        (lambda: made("lstm_classifier")(words(shape=(1, 2, 3))), ValueError, r"words=\(1, 2, 3\)"),
        (lambda: models.Seq2Seq(9, 7, start=7), ValueError, "start=7"),
        (lambda: models.Seq2Seq(9, 7, stop=-1), ValueError, "stop=-1"),
        (lambda: models.Seq2Seq(9, 7, stop="1"), TypeError, "stop='1'"),
        (lambda: models.Seq2Seq(9, 7, max_length=0), ValueError, "max_length=0"),
        (lambda: made("seq2seq")(words()[0]), ValueError, r"source=\(6,\)"),
        (lambda: made("seq2seq")(words(), words(shape=(3, 2))), ValueError, r"target=\(3, 2\)"),
        (lambda: made("seq2seq").loss(SCORES, words(shape=(2, 4))), ValueError, r"target=\(2, 4\)"),
        (lambda: bmes_tags(["ab", ""]), ValueError, r"words\[1\]=''"),
        (lambda: bmes_words("abc", [0, 2]), ValueError, "needs 3"),
        (lambda: bmes_words("abc", [0, 2, 4]), ValueError, "4 is not allowed"),
        (lambda: fastconv.summary(made("lstm_tagger"), (4,), dtypes="int64"), TypeError, "dtypes='int64'"),
        (lambda: fastconv.summary(made("lstm_tagger"), (4,), dtypes=[int, int]), ValueError, "needs 1 dtypes"),
        (lambda: fastconv.summary(made("seq2seq"), [(4,), (0,)]), ValueError, "input_size=0"),
        (lambda: fastconv.summary(made("seq2seq"), [(4,), 3]), TypeError, "input_size"),
    ],
)
def test_wrong_arguments_are_named(call, error, named):
    with pytest.raises(error, match=named):
        call()
