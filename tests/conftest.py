"""Set up before Numba is imported, and what tests of threads put back."""

import os

import pytest

# Teams of two are tested on machines with one CPU too: Numba only looks at this when it is first imported.
if len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)) < 2:
    os.environ.setdefault("NUMBA_NUM_THREADS", "2")


@pytest.fixture
def threads(monkeypatch):
    """fastconv.threads; the number of threads is put back afterwards."""
    from fastconv import threads

    monkeypatch.setattr(threads, "_limit", None)
    return threads


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    """Choices are those of the model as shipped, whatever was measured or tuned on this machine."""
    from fastconv import choices

    monkeypatch.setattr(choices, "path", lambda: None)
    monkeypatch.setattr(choices, "_known", {})
    monkeypatch.setattr(choices, "_read", 0)
