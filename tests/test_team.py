"""The team of threads: everyone joins, pieces are done once, nobody waits for ever."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from fastconv import threads
from fastconv.kernels.cpu import team as teams
from fastconv.kernels.cpu.jit import njit
from fastconv.kernels.cpu.team import BY_ONE, done_step, gather, new_counter, parallel, take, wait_for_step


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


# Threads that wait for each other after every step.


@njit
def _gather(counter, thread, patience):
    return gather(counter, thread, patience)


@njit
def _done(counter, thread, here, step):
    done_step(counter, thread, here, step)


@njit
def _wait(counter, here, step):
    wait_for_step(counter, here, step)


@njit
def _steps(counter, thread, patience, steps, values, seen):
    """Each thread adds up what all wrote in the step before; `seen` says how many took part, and who came too late."""
    here = gather(counter, thread, patience)
    seen[8 * thread] = here
    if here == 0:
        return
    for step in range(steps):
        total = 1
        if step:
            for other in range(here):
                total += values[((step - 1) & 1) * 64 + 8 * other]
        values[(step & 1) * 64 + 8 * thread] = total % 1000003
        done_step(counter, thread, here, step + 1)
        wait_for_step(counter, here, step + 1)


def _summed(steps, here):
    """What every thread has after the last step."""
    value = 0
    for step in range(steps):
        value = (1 + (here * value if step else 0)) % 1000003
    return value


def _on_threads(size, *arguments):
    """_steps on a counter of its own, by plain threads that have all come before number 0 begins."""
    counter = new_counter(size)
    helpers = [threading.Thread(target=_steps, args=(counter, n, *arguments)) for n in range(1, size)]
    for helper in helpers:
        helper.start()
    while counter[8 * (size + 1)] < size - 1:
        time.sleep(0.0001)
    _steps(counter, 0, *arguments)
    for helper in helpers:
        helper.join(60)
        assert not helper.is_alive()


# More threads than there are cores lose theirs in the middle of steps.
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_nobody_goes_on_before_all_have_done_a_step(size):
    for steps in (1, 2, 200):
        values, seen = np.zeros(128, np.int64), np.zeros(64, np.int64)
        _on_threads(size, 10**9, steps, values, seen)
        assert (seen[: 8 * size : 8] == size).all()
        assert (values[((steps - 1) & 1) * 64 :][: 8 * size : 8] == _summed(steps, size)).all()


def test_a_helper_that_comes_late_leaves():
    counter = new_counter(3)
    assert _gather(counter, 0, 5) == 1
    assert _gather(counter, 1, 5) == 0
    assert _gather(counter, 2, 0) == 0


def test_one_of_two_helpers_is_not_enough():
    counter, said = new_counter(3), []
    helper = threading.Thread(target=lambda: said.append(_gather(counter, 1, 0)))
    helper.start()
    while counter[8 * 4] < 1:
        time.sleep(0.0001)
    assert _gather(counter, 0, 1000) == 1
    helper.join(60)
    assert said == [0]
    assert _gather(counter, 2, 0) == 0


def test_all_that_come_in_time_work():
    counter, said = new_counter(2), []
    helper = threading.Thread(target=lambda: said.append(_gather(counter, 1, 0)))
    helper.start()
    assert _gather(counter, 0, 10**9) == 2
    helper.join(60)
    assert said == [2]


def test_a_caller_alone_waits_for_nobody():
    counter = new_counter(2)
    counter[BY_ONE] = 1
    begun = time.perf_counter()
    assert _gather(counter, 0, 10**12) == 1
    _done(counter, 0, 1, 1)
    _wait(counter, 1, 1)
    assert time.perf_counter() - begun < 5
    # Nothing was written where others would read.
    assert counter.tolist() == [2, 1, *[0] * 46]


def test_a_step_is_waited_for_until_it_is_done():
    counter, waited = new_counter(2), []
    _done(counter, 0, 2, 3)
    waiting = threading.Thread(target=lambda: waited.append(_wait(counter, 2, 3)))
    waiting.start()
    _done(counter, 1, 2, 2)
    time.sleep(0.05)
    assert waiting.is_alive()
    _done(counter, 1, 2, 3)
    waiting.join(60)
    assert not waiting.is_alive()


def test_the_real_team_gathers_and_goes_through_steps():
    """Whether all come is left to the machine; either way everything is done, and now and then they do come."""
    together, end = 0, time.perf_counter() + 20
    while together < 20 and time.perf_counter() < end:
        values, seen = np.zeros(128, np.int64), np.zeros(64, np.int64)
        with threads.eager():
            parallel(_steps, 2, 300_000, 50, values, seen)
        assert seen[0] in (1, 2)
        assert seen[8] in ((0,) if seen[0] == 1 else (2,))
        assert values[64] == _summed(50, seen[0])
        together += seen[0] == 2
    assert together == 20


def test_a_team_that_is_taken_leaves_the_caller_alone():
    with teams._team.lock:
        values, seen = np.zeros(128, np.int64), np.zeros(64, np.int64)
        with threads.eager():
            parallel(_steps, 2, 10**12, 50, values, seen)
    assert seen[:16:8].tolist() == [1, 0]
    assert values[64] == _summed(50, 1)
