"""The command `fastconv`, called as a function and as a program."""

import os
import subprocess
import sys

import pytest

from fastconv import cli, testing
from fastconv.registry import kernels


def output(capsys, *words):
    assert cli.main(words) == 0
    return capsys.readouterr().out


def test_info_says_what_results_must_be_read_with(capsys):
    text = output(capsys, "info")
    for word in ("processor", "compiled for", "CPU features", "threads", "cache size", "FMA peak float32", "copy"):
        assert word in text
    assert "512³ float32" in text
    assert "% of the FMA peak" in text


def test_info_without_measuring_is_without_peaks(capsys):
    assert "GFLOP/s" not in output(capsys, "info", "--no-measure")


def test_explain_lists_every_kernel_of_a_problem(capsys):
    text = output(capsys, "explain", "conv2d", "2", "6", "9", "8", "4", "3", "2", "--groups", "2", "--padding", "same")
    for op in ("conv2d", "conv2d_grad_input", "conv2d_grad_weight"):
        for kernel in kernels(op):
            assert kernel.name in text
    assert text.count("←") == 3
    assert "padding=(1, 1, 0, 1)" in text


def test_explain_measures_and_shows_errors_within_limits(capsys):
    text = output(capsys, "explain", "linear-odd", "--measure")
    rows = [line.split() for line in text.splitlines() if line.startswith("linear")]
    assert len(rows) == sum(len(kernels(op)) for op in ("linear", "linear_grad_input", "linear_grad_weight"))
    for cells in rows:
        error, limit = map(float, cells[-2:])
        assert 0 <= error <= limit


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_explain_of_a_recurrent_layer(capsys, cell):
    text = output(capsys, "explain", cell, "4", "1", "5", "7", "--measure", "--dtype", "float64")
    assert f"cell='{cell}', t=4, b=1, i=5, h=7" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith(cell)}
    assert set(rows) == {k.name for op in (cell, f"{cell}_train", f"{cell}_grad") for k in kernels(op)}
    for name, cells in rows.items():
        if "/units/" in name:
            assert "1 sequences, needs 2" in " ".join(cells)
        else:
            error, limit = map(float, cells[-2:])
            assert 0 <= error <= limit
    assert text.count("←") == 3
    assert "GFLOP/s" in text
    assert "kept KiB" in output(capsys, "explain", cell, "4", "3", "5", "7", "--kept")


def test_explain_of_one_pooling_shows_it_alone(capsys):
    text = output(capsys, "explain", "avg_pool2d", "1", "2", "8", "9", "3", "2", "--stride", "1", "2")
    assert "avg_pool2d_grad/planes/cpu" in text
    assert "max_pool2d" not in text


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["conv2d", "1", "2"], "sizes=[1, 2]"),
        (["convolution"], "problem='convolution'"),
        (["lstm", "1", "2", "3"], "T B IN HIDDEN"),
        (["gru", "1", "2", "3", "0"], "hidden_size=0"),
        (["rnn", "1", "2", "3", "4", "--stride", "2"], "rnn has no stride"),
        (["conv2d", "1", "3", "2", "2", "4", "3", "3"], "input=(1, 3, 2, 2)"),
        (["conv2d", "1", "3", "8", "8", "4", "3", "3", "--groups", "2"], "groups=2"),
        (["conv2d", "1", "3", "8", "8", "4", "3", "3", "--stride", "0"], "stride=0"),
        (["conv2d", "1", "3", "8", "8", "4", "3", "3", "--padding", "full"], "padding='full'"),
        (["conv2d", "1", "3", "8", "8", "4", "3", "x"], "invalid int"),
    ],
)
def test_wrong_words_end_with_a_line_that_names_them(capsys, words, named):
    with pytest.raises(SystemExit) as end:
        cli.main(["explain", *words])
    assert end.value.code == 2
    assert named in capsys.readouterr().err


def test_it_is_a_program():
    done = subprocess.run([sys.executable, "-m", "fastconv.cli", "--help"], capture_output=True, text=True, check=True)
    for command in ("info", "warmup", "explain"):
        assert command in done.stdout


def test_warmup_compiles_every_kernel_for_a_dtype(capsys):
    text = output(capsys, "warmup", "--dtype", "float32")
    for kernel in kernels():
        assert f"{kernel.name} float32" in text
    assert "float64" not in text
    assert "s in all" in text


def test_warmup_says_how_long_each_function_took_to_compile(tmp_path):
    program = (
        "import fastconv.warmup as w; from fastconv.registry import kernels\n"
        "w.kernels = lambda: [k for k in kernels() if k.name == 'conv2d/winograd_f2/cpu']\n"
        "from fastconv import cli; cli.main(['warmup', '--dtype', 'float32'])"
    )
    environment = {**os.environ, "FASTCONV_CACHE_DIR": str(tmp_path)}

    def lines():
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    first, again = lines(), lines()
    # One for each stride.
    named = [line for line in first[:-2] if line.endswith("conv_winograd._convolve float32")]
    assert len(named) == 2
    slowest = max(float(line.split()[0]) for line in named)
    assert 0.1 < slowest == float(first[-1].split()[0])
    assert [line.split("  ")[-1] for line in again[:1]] == ["conv2d/winograd_f2/cpu float32"]
    assert "0 functions" in again[-1]


def test_every_case_has_a_kernel_that_is_chosen(capsys):
    for name in list(testing.CASES)[:3]:
        assert "←" in output(capsys, "explain", name)
