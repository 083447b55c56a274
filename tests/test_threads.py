"""Kernels called from several Python threads, after a fork, and on any number of threads; and the team they share."""

import threading

import numpy as np
import pytest
from helpers import succeed

from fastconv import functional, get_num_threads, set_num_threads, testing
from fastconv.registry import OPS, choose

# Work of several kinds at once, large enough for a team each: OP -> (problem, inputs).
PROBLEMS = """
from fastconv import testing
from fastconv.problem import ConvProblem, LinearProblem, PoolProblem, RecurrentProblem
from fastconv.registry import OPS, choose, kernels

MADE = {
    ConvProblem: ConvProblem.make((3, 8, 30, 29), (16, 8, 3, 3), padding=1, bias=True),
    PoolProblem: PoolProblem.make((6, 32, 21, 26), 3, stride=2, padding=1),
    LinearProblem: LinearProblem.make((70, 300), (90, 300), bias=True),
    "lstm": RecurrentProblem.make("lstm", (20, 1, 40), 100, directions=2, state=True, peephole=True),
    "gru": RecurrentProblem.make("gru", (9, 5, 40), 90, ragged=True),
    "rnn": RecurrentProblem.make("rnn", (7, 30, 40), 130),
}
WORK = [(op, MADE.get(OPS[op].problem) or MADE[op.partition("_")[0]]) for op in OPS]

def able(op, problem):
    return [kernel for kernel in kernels(op) if kernel.unsupported(problem) is None]
"""

# Ten Python threads, each on other operations, all starting at once.
MANY = (
    PROBLEMS
    + """
import threading
from fastconv import functional

barrier = threading.Barrier(10)
wrong, done = [], []

def work(number):
    barrier.wait()
    for round in range(5):
        for op, problem in WORK[number::10]:
            arrays = testing.inputs(op, problem, seed=number)
            outputs = functional.run(op, problem, "auto", *arrays)
            error = testing.error(op, problem, arrays, outputs)
            if not error <= choose(op, problem).limit:
                wrong.append((op, number, round, error))
    done.append(number)

def main():
    started = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert not wrong, wrong
    assert sorted(done) == list(range(10)), done
"""
)

# The parent computes on a team, forks, and both go on. `more` is what only the child does.
FORK = (
    PROBLEMS
    + """
import os
import warnings
import fastconv
from fastconv import functional, threads

first = {}

def right():
    # Right the first time, and the same every time after.
    for op, problem in WORK:
        arrays = testing.inputs(op, problem)
        for kernel in able(op, problem):
            outputs = functional.run(op, problem, kernel.algorithm, *arrays)
            bits = [y.tobytes() for y in outputs]
            if kernel.name not in first:
                assert testing.error(op, problem, arrays, outputs) <= kernel.limit, kernel.name
                first[kernel.name] = bits
            assert bits == first[kernel.name], kernel.name

def more():
    pass

def fork(work):
    # Python 3.12 warns of every fork with threads about; that is the point here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the forked child ended with status {status}"

def generations():
    right()
    more()
    fork(right)
    right()

def main():
    right()
    fork(generations)
    right()
"""
)

EAGERLY = """
from fastconv import threads

with threads.eager():
    main()
"""


def run(program, **environment):
    """Run main() of a program in a child, with a team for every call; its standard output."""
    return succeed(f"{program}\n{EAGERLY}", timeout=120, **environment)


LAYERS = pytest.mark.parametrize("layer", [None, "workqueue"], ids=["numba-default", "numba-workqueue"])


@LAYERS
@pytest.mark.parametrize("count", [2, 5])
def test_python_threads_at_once(layer, count):
    run(MANY, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=count)


@LAYERS
def test_forked_child_computes(layer):
    run(FORK, NUMBA_NUM_THREADS=2, NUMBA_THREADING_LAYER=layer)


def test_forked_child_measures():
    program = f"""{FORK}
def more():
    text = str(fastconv.explain(MADE[ConvProblem], measure=True))
    print("conv2d_grad_weight/im2col/cpu" in text, flush=True)
    from fastconv.machine import describe
    print("FMA peak" in describe(), flush=True)
"""
    assert run(program, NUMBA_NUM_THREADS=2).split() == ["True", "True"]


def test_fork_while_other_threads_compute():
    run(
        f"""{FORK}
import threading

def busy(stop):
    op, problem = WORK[0]
    arrays = testing.inputs(op, problem)
    while not stop.is_set():
        functional.run(op, problem, "auto", *arrays)

def main():
    right()
    stop = threading.Event()
    started = [threading.Thread(target=busy, args=(stop,)) for _ in range(3)]
    for thread in started:
        thread.start()
    for _ in range(3):
        fork(right)
    stop.set()
    for thread in started:
        thread.join()
""",
        NUMBA_NUM_THREADS=2,
    )


# The team itself: every piece of every job is done once, by the time the job returns, whoever does it.

TEAM = """
import time
import numpy as np
from numba import njit
from fastconv.kernels.cpu.team import parallel, take

@njit(nogil=True)
def work(counter, thread, done, by, spin, tiny, halves):
    # Each piece takes `spin` steps, notes how often it was done and by whom, and computes with a denormal result.
    while True:
        piece = take(counter, thread, done.size)
        if piece < 0:
            break
        x = 1.0 + piece
        for _ in range(spin):
            x = x * 0.999 + 1e-3
        done[piece] += 1 if x > 0 else 2
        by[piece] = thread
        halves[piece] = tiny[0] * 0.25

tiny = np.full(1, np.finfo(np.float64).tiny)

def job(team, pieces, spin=0):
    # Arrays of this job alone: what comes late writes to memory that the next job has.
    done, by, halves = np.zeros(pieces, np.int64), np.full(pieces, -1), np.zeros(pieces)
    parallel(work, team, done, by, spin, tiny, halves)
    assert (done == 1).all(), done
    assert ((by >= 0) & (by < team)).all(), by
    assert (halves == tiny[0] * 0.25).all() and halves[0] > 0
    return set(by.tolist())
"""


def test_every_piece_is_done_once():
    succeed(
        f"""{TEAM}
for round in range(12_000):
    job(1 + round % 7, 1 + round % 23, spin=round % 3 * 20)
    if round % 3000 == 0:
        # Long enough for helpers to park.
        time.sleep(0.05)
# Few and long pieces: a helper is still in its last one when the caller has no more.
for round in range(600):
    job(2 + round % 3, 3, spin=20_000)
""",
        NUMBA_NUM_THREADS=7,
    )


def test_every_piece_is_done_once_from_several_threads():
    succeed(
        f"""{TEAM}
import threading

wrong = []

def jobs(seed):
    try:
        for round in range(2000):
            job(1 + (round + seed) % 4, 1 + (seed + round) % 17, spin=20)
    except BaseException as error:
        wrong.append(error)

started = [threading.Thread(target=jobs, args=(seed,)) for seed in range(6)]
for thread in started:
    thread.start()
for thread in started:
    thread.join()
assert not wrong, wrong
""",
        NUMBA_NUM_THREADS=4,
    )


def test_helpers_help():
    """A second thread joins long jobs, after a pause too; after a kernel it flushes no denormals either."""
    succeed(
        f"""{TEAM}
from fastconv import testing, threads

kernel, case = next(pair for pair in testing.grid(small=True) if pair[0].name == "conv2d/direct/cpu")
for pause in (0, 0.2):
    seen = set()
    end = time.monotonic() + 60
    with threads.eager():
        while seen != {{0, 1}} and time.monotonic() < end:
            testing.poisoned_run(kernel, case.problem, testing.inputs(kernel.op, case.problem))
            time.sleep(pause)
            seen |= job(2, 40, spin=100_000)
    assert seen == {{0, 1}}, seen
""",
        NUMBA_NUM_THREADS=2,
    )


def test_idle_helpers_use_no_processor():
    succeed(
        f"""{TEAM}
job(3, 50, spin=10_000)
time.sleep(0.3)
start = time.process_time()
time.sleep(1.0)
assert time.process_time() - start < 0.2
""",
        NUMBA_NUM_THREADS=3,
    )


@pytest.mark.parametrize(
    "ending", ["pass", "raise SystemExit(0)", "threading.Thread(target=forever, daemon=True).start()"]
)
def test_the_interpreter_ends(ending):
    """With helpers spinning, and with a daemon thread in the middle of its jobs."""
    succeed(
        f"""{TEAM}
import threading

def forever():
    while True:
        job(2, 10, spin=10_000)

job(2, 10)
{ending}
""",
        NUMBA_NUM_THREADS=2,
        timeout=60,
    )


def test_one_thread():
    program = f"""{PROBLEMS}
from fastconv import functional, get_num_threads, set_num_threads, threads
assert get_num_threads() == threads.available() == 1
for op, problem in WORK:
    arrays = testing.inputs(op, problem)
    for kernel in able(op, problem):
        outputs = functional.run(op, problem, kernel.algorithm, *arrays)
        assert testing.error(op, problem, arrays, outputs) <= kernel.limit, kernel.name
try:
    set_num_threads(2)
except ValueError as error:
    print(error)
"""
    assert "count=2" in succeed(program, NUMBA_NUM_THREADS=1)


def test_bits_do_not_depend_on_many_threads():
    """Teams of 1, 2, 3 and 7: shares that do not divide the work."""
    program = f"""{PROBLEMS}
from dataclasses import replace
from fastconv import threads
assert threads.available() == 7
count = 0
cases = [(kernel, case.problem) for kernel, case in testing.grid(small=True)]
cases += [(kernel, problem) for op, problem in WORK for kernel in able(op, problem)]
for kernel, problem in cases:
    if kernel.algorithm == "naive":
        continue
    arrays = testing.inputs(kernel.op, problem)
    results = set()
    for team in (1, 2, 3, 7):
        threads.set_num_threads(team)
        with threads.eager():
            results.add(b"".join(y.tobytes() for y in testing.poisoned_run(kernel, problem, arrays)))
    assert len(results) == 1, (kernel.name, problem)
    count += 1
assert count > 100
"""
    succeed(program, NUMBA_NUM_THREADS=7)


def test_scratch_fits_whatever_another_thread_sets(threads):
    """Another Python thread may change the number of threads between sizing the scratch and using it."""
    for kernel, case in testing.grid(small=True):
        threads.set_num_threads(1)
        before = kernel.scratch(case.problem)
        threads.set_num_threads(2)
        sizes = (before, kernel.scratch(case.problem))
        assert sizes[0] == sizes[1], (
            f"{kernel.name} on {case.name}: {sizes[0]} elements on one thread, {sizes[1]} on two"
        )


def test_threads_of_python_have_their_own_scratch():
    """Two threads in kernels that use scratch at once, each many times; neither sees the other's."""
    problem = testing.CASES["conv-many-channels"].problem
    jobs = [(testing.inputs("conv2d", problem, seed), []) for seed in range(2)]
    alone = [functional.run("conv2d", problem, "im2col", *arrays)[0].tobytes() for arrays, _ in jobs]

    def work(arrays, found):
        for _ in range(100):
            found.append(functional.run("conv2d", problem, "im2col", *arrays)[0].tobytes())

    started = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    for (_, found), wanted in zip(jobs, alone, strict=True):
        assert len(found) == 100
        assert set(found) == {wanted}


def test_set_num_threads(threads):
    assert get_num_threads() == threads.available()
    for count in range(1, threads.available() + 1):
        set_num_threads(count)
        assert get_num_threads() == count
    set_num_threads(np.int64(1))
    assert get_num_threads() == 1


@pytest.mark.parametrize(
    ("count", "error"),
    [(0, ValueError), (-1, ValueError), (100_000, ValueError), (2**40, ValueError)]
    + [(value, TypeError) for value in (1.0, "1", None, True, [1], (1, 2), np.float32(1))],
)
def test_set_num_threads_errors(threads, count, error):
    former = get_num_threads()
    with pytest.raises(error) as raised:
        set_num_threads(count)
    assert "count" in str(raised.value)
    assert repr(count) in str(raised.value)
    assert get_num_threads() == former


def test_every_operation_is_among_the_work():
    names = {}
    exec(PROBLEMS, names)
    assert {op for op, _ in names["WORK"]} == set(OPS)
    assert all(choose(op, problem).name for op, problem in names["WORK"])
