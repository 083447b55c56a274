"""The team of threads: everyone joins, pieces are done once, nobody waits for ever."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from fastconv import threads
from fastconv.kernels.cpu.jit import njit
from fastconv.kernels.cpu.team import new_counter, parallel, take


@njit
def _count(counter, thread, pieces, done, by, work):
    """Mark every piece done, and by whom; each takes `work` additions."""
    while True:
        piece = take(counter, thread, pieces)
        if piece < 0:
            break
        total = 0.0
        for k in range(work):
            total += k * done[piece]
        done[piece] += 1 + 0 * total
        by[8 * thread] += 1


@pytest.mark.parametrize("team", [1, 2, 5])
def test_every_piece_is_done_once(team):
    for pieces in (0, 1, 7, 1000):
        done, by = np.zeros(pieces + 1), np.zeros(8 * team)
        parallel(_count, team, pieces, done, by, 10)
        assert (done[:pieces] == 1).all()
        assert done[pieces] == 0
        assert by.sum() == pieces


def _helped(seconds):
    """Whether a helper takes part in work that goes on for `seconds`, however busy the machine is."""
    by, end = np.zeros(16), time.perf_counter() + seconds
    while not by[8] and time.perf_counter() < end:
        parallel(_count, 2, 5000, np.zeros(5000), by, 5000)
    return by[8] > 0


def test_helpers_take_part_in_long_work():
    assert _helped(20)


def test_a_parked_helper_is_woken():
    for _ in range(3):
        time.sleep(0.2)
        assert _helped(20)


def test_threads_of_python_share_the_team_or_work_alone():
    wrong = []

    def use():
        for _ in range(300):
            done = np.zeros(20)
            parallel(_count, 2, 20, done, np.zeros(16), 100)
            if not (done == 1).all():
                wrong.append(done)

    users = [threading.Thread(target=use) for _ in range(8)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert not wrong


def test_eager_is_undone_after_an_error():
    assert threads.team(10, 100) == 1
    with threads.eager():
        assert threads.team(10, 100) == threads.get_num_threads()
    with pytest.raises(KeyError), threads.eager():
        raise KeyError
    assert threads.team(10, 100) == 1


def test_a_process_with_helpers_ends_cleanly():
    program = (
        "import numpy as np, fastconv.functional as F\n"
        "from fastconv import threads\n"
        "with threads.eager(): F.linear(np.ones((40, 40)), np.ones((40, 40)))\n"
        "print('done')\n"
    )
    for _ in range(5):
        done = subprocess.run([sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@njit
def _take(counter, thread, pieces):
    return take(counter, thread, pieces)


@pytest.mark.parametrize("pieces", [0, 1, 2, 7, 8])
def test_a_thread_takes_its_share_then_what_is_left(pieces):
    counter = new_counter(3)
    shares = [range(pieces * t // 3, pieces * (t + 1) // 3) for t in range(3)]
    first = [_take(counter, 1, pieces) for _ in shares[1]]
    assert first == list(shares[1])
    rest = [_take(counter, 1, pieces) for _ in range(pieces - len(first))]
    assert rest == [*shares[2], *shares[0]]
    assert [_take(counter, t, pieces) for t in (0, 1, 2)] == [-1, -1, -1]


def test_helpers_do_not_rest_while_something_is_measured():
    later = time.perf_counter() + 1000
    assert threads.rests(later)
    with threads.measuring():
        assert not threads.rests(later)
    assert threads.rests(later)
