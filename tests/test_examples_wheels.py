"""What the examples read out of wheels: fetched once, verified always, and an error that says what is missing."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
wheels = importlib.import_module("wheels")


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """An empty folder in place of out/wheels."""
    monkeypatch.setattr(wheels, "FOLDER", tmp_path / "wheels")
    wheels.fetched.cache_clear()
    yield tmp_path / "wheels"
    wheels.fetched.cache_clear()


@pytest.mark.parametrize("package", wheels.WHEELS)
def test_every_wheel_is_there_and_as_large_as_it_says(package):
    path = wheels.fetched(package)
    assert path.stat().st_size / 1e6 == pytest.approx(wheels.WHEELS[package].megabytes, abs=0.06)


def test_a_wheel_is_fetched_once(elsewhere, capsys):
    sound = wheels.read("pyannote.audio", "pyannote/audio/sample/sample.wav")
    assert sound[:4] == b"RIFF"
    assert "fetching pyannote.audio 4.0.7, 0.9 MB" in capsys.readouterr().err
    wheels.fetched.cache_clear()
    assert wheels.read("pyannote.audio", "pyannote/audio/sample/sample.wav") == sound
    assert capsys.readouterr().err == ""
    assert [path.name for path in elsewhere.iterdir()] == [wheels.WHEELS["pyannote.audio"].name]


def test_another_file_is_not_used(elsewhere):
    elsewhere.mkdir()
    (elsewhere / wheels.WHEELS["aeon"].name).write_bytes(b"not what was meant")
    with pytest.raises(SystemExit, match=r"aeon-1\.6\.0-py3-none-any\.whl: SHA-256 .*, needs d0522708.*nothing"):
        wheels.read("aeon", "aeon/__init__.py")


def test_a_fetched_file_that_is_another_is_not_kept(elsewhere, monkeypatch):
    wheel = replace(wheels.WHEELS["pyannote.audio"], sha256="0" * 64)
    monkeypatch.setitem(wheels.WHEELS, "pyannote.audio", wheel)
    with pytest.raises(SystemExit, match="needs 0000"):
        wheels.fetched("pyannote.audio")
    assert list(elsewhere.iterdir()) == []


def test_without_an_index_the_error_says_what_to_do(elsewhere, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(SystemExit) as stopped:
        wheels.fetched("g2p-en")
    message = str(stopped.value)
    assert "No matching distribution found for g2p-en==2.1.0" in message
    assert f"put g2p_en-2.1.0-py3-none-any.whl into {elsewhere}" in message
    assert list(elsewhere.iterdir()) == []
