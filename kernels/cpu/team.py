"""The team of threads that kernels share.

    parallel(worker, team, *args)

runs a *worker*, an @njit function (counter, thread, *args) that takes one piece of work after another until `take`
finds none. Each thread first takes what lies in its own share, so that it meets again what it has in its caches from
the call before, and then what is left of the others'.

The calling thread is number 0 and works at once. Helpers, plain Python threads that wait inside compiled code without
the GIL, join when they see the job. The caller never waits for a helper that has not begun: on a machine whose other
cores are busy it simply does all pieces itself. When it finds no piece left it closes the job and waits for the
helpers still in it.

A helper that sees no job for a while parks in Python until the next call wakes it. After a helper was woken for
nothing, or made the caller wait long, callers do without for a while: on a machine with other things to do, fewer
threads are faster. One job runs at a time; a thread that finds the team taken works alone. After a fork the child
starts a team of its own.
"""

from __future__ import annotations

import atexit
import os
import threading
import time

import llvmlite.ir as ir
import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastconv import threads
from fastconv.kernels.cpu.host import ARM64, X86
from fastconv.kernels.cpu.jit import inner, njit

# The mailbox is one int64 array; what different threads write stands on different cache lines (8 elements).
# EPOCH counts jobs; OPEN is the epoch of the job that may be joined, or 0; ACTIVE counts helpers looking at or in it.
EPOCH, OPEN, ACTIVE, JOB, STOP, OF_HELPER = 0, 8, 16, 24, 32, 40
# The job itself: address of its entry, of its arguments, and how many threads may take part.
ENTRY, ARGUMENTS, SIZE = JOB, JOB + 1, JOB + 2
# Each helper's own line: whether it is parked, and how many jobs it joined.
PARKED, JOINED = 0, 1

# A caller that waited longer than _LONG_WAIT seconds, and for more than _WAITING_SHARE of the whole call, had a helper
# whose core was taken away. Then, or when a helper was woken for nothing, callers work alone for _BACK_OFF seconds.
_LONG_WAIT, _WAITING_SHARE, _BACK_OFF = 0.0003, 0.5, 0.05

# Pauses, of about 10 to 40 ns each, that a helper waits for a next job before it parks.
_PATIENCE = 20_000

_I8P = ir.IntType(8).as_pointer()
_I64 = ir.IntType(64)


def _slot(context, b, array_type, array, index):
    return b.gep(context.make_array(array_type)(context, b, array).data, [index])


@intrinsic
def _read(typingctx, mailbox, index):
    """mailbox[index], sequentially consistent."""

    def codegen(context, b, sig, args):
        return b.load_atomic(_slot(context, b, sig.args[0], *args), "seq_cst", 8)

    return types.int64(mailbox, types.intp), codegen


@intrinsic
def _write(typingctx, mailbox, index, value):
    """mailbox[index] = value, sequentially consistent."""

    def codegen(context, b, sig, args):
        b.store_atomic(args[2], _slot(context, b, sig.args[0], *args[:2]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(mailbox, types.intp, types.int64), codegen


@intrinsic
def _add(typingctx, mailbox, index, value):
    """mailbox[index] += value, atomically."""

    def codegen(context, b, sig, args):
        b.atomic_rmw("add", _slot(context, b, sig.args[0], *args[:2]), args[2], "seq_cst")
        return context.get_dummy_value()

    return types.void(mailbox, types.intp, types.int64), codegen


@intrinsic
def _pause(typingctx):
    """Tell the processor that this thread only waits."""

    def codegen(context, b, sig, args):
        if X86:
            hint, values = "llvm.x86.sse2.pause", []
        elif ARM64:
            # Hint number 1 is YIELD.
            hint, values = "llvm.aarch64.hint", [ir.IntType(32)(1)]
        else:
            return context.get_dummy_value()
        signature = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        b.call(cgutils.get_or_insert_function(b.module, signature, hint), values)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _enter(typingctx, entry, arguments, thread):
    """Call the job's entry (arguments, thread)."""

    def codegen(context, b, sig, args):
        function = ir.FunctionType(ir.VoidType(), [_I8P, _I64])
        pointer = b.inttoptr(args[0], function.as_pointer())
        b.call(pointer, [b.inttoptr(args[1], _I8P), args[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.intp), codegen


@njit
def serve(mailbox, me, seen, patience):
    """Join job after job as helper number `me` until none came for `patience` pauses; returns the last epoch seen."""
    idle = 0
    while idle < patience and _read(mailbox, STOP) == 0:
        epoch = _read(mailbox, EPOCH)
        if epoch == seen:
            _pause()
            idle += 1
            continue
        seen, idle = epoch, 0
        # First be counted, then look whether the job is open: its owner first closes it, then looks who is counted.
        _add(mailbox, ACTIVE, 1)
        if _read(mailbox, OPEN) == epoch and me < mailbox[SIZE]:
            mailbox[OF_HELPER + 8 * me + JOINED] += 1
            _enter(mailbox[ENTRY], mailbox[ARGUMENTS], me)
        _add(mailbox, ACTIVE, -1)
    return seen


def _uncounted(context, b, ty, value):
    """An array as the worker gets it: without the object that counts references to it.

    The caller holds every array until the job is done. Counting them in inner loops is an atomic step each, on a cache
    line that all threads would fight for.
    """
    if not isinstance(ty, types.Array):
        return value
    array = context.make_array(ty)(context, b, value)
    array.meminfo = ir.Constant(array.meminfo.type, None)
    array.parent = ir.Constant(array.parent.type, None)
    return array._getvalue()


@intrinsic
def _job(typingctx, address, counter, args):
    """The job "worker at `address`, with (counter, thread, *args)": addresses of its entry and of what the entry needs.

    That lives in the caller's stack frame.
    """
    argument_types = (counter, types.intp, *args.types)

    def codegen(context, b, sig, values):
        target, first, rest = values
        first = _uncounted(context, b, counter, first)
        for k, ty in enumerate(args.types):
            rest = b.insert_value(rest, _uncounted(context, b, ty, b.extract_value(rest, k)), k)
        held = cgutils.alloca_once(b, ir.LiteralStructType([_I64, first.type, rest.type]))
        for field, value in enumerate((target, first, rest)):
            b.store(value, cgutils.gep_inbounds(b, held, 0, field))
        # The entry, a function of its own, unpacks what was put into this frame.
        name = b.module.get_unique_name("fastconv_job")
        entry = ir.Function(b.module, ir.FunctionType(ir.VoidType(), [_I8P, _I64]), name)
        entry.linkage = "internal"
        inside = ir.IRBuilder(entry.append_basic_block())
        packed = inside.bitcast(entry.args[0], held.type)
        fields = [inside.load(cgutils.gep_inbounds(inside, packed, 0, field)) for field in range(3)]
        function = context.call_conv.get_function_type(types.none, argument_types)
        pointer = inside.inttoptr(fields[0], function.as_pointer())
        unpacked = [inside.extract_value(fields[2], k) for k in range(len(args.types))]
        context.call_conv.call_function(
            inside, pointer, types.none, argument_types, [fields[1], entry.args[1], *unpacked]
        )
        inside.ret_void()
        return context.make_tuple(b, sig.return_type, [b.ptrtoint(value, _I64) for value in (entry, held)])

    return types.UniTuple(types.int64, 2)(types.int64, counter, args), codegen


@inner
def enter_alone(address, counter, *args):
    """Do all of a job on this thread."""
    entry, arguments = _job(address, counter, args)
    _enter(entry, arguments, 0)


@njit
def _alone(address, counter, *args):
    """`enter_alone`, for Python."""
    enter_alone(address, counter, *args)


@njit
def _lead(mailbox, team, address, counter, *args):
    """Open a job for `team` threads, work on it as number 0, close it, and wait for those still in it.

    Returns how many pauses it waited.
    """
    entry, arguments = _job(address, counter, args)
    mailbox[ENTRY], mailbox[ARGUMENTS], mailbox[SIZE] = entry, arguments, team
    epoch = mailbox[EPOCH] + 1
    _write(mailbox, OPEN, epoch)
    _write(mailbox, EPOCH, epoch)
    _enter(entry, arguments, 0)
    _write(mailbox, OPEN, 0)
    waited = 0
    while _read(mailbox, ACTIVE) != 0:
        _pause()
        waited += 1
    return waited


@intrinsic
def _next(typingctx, counter, index):
    """counter[index]++, atomically; returns the value before."""

    def codegen(context, b, sig, args):
        return b.atomic_rmw("add", _slot(context, b, sig.args[0], *args), _I64(1), "monotonic")

    return types.int64(counter, types.intp), codegen


# A counter's first line: the team's size, and whether one thread does the job alone.
TEAM, BY_ONE = 0, 1


def new_counter(team):
    """What a job's threads have in common: the team's size; a cache line for each thread in which `take` counts what is
    taken of its share; then the gate, and a line for each thread that says which step it has done."""
    counter = np.zeros(16 * (team + 1), np.int64)
    counter[TEAM] = team
    return counter


@inner
def take(counter, thread, pieces):
    """The next of `pieces` pieces for `thread`: of its own share while there are any, then of others' shares; or −1."""
    team = counter[TEAM]
    for k in range(team):
        part = thread + k
        if part >= team:
            part -= team
        start = pieces * part // team
        count = pieces * (part + 1) // team - start
        line = 8 * (part + 1)
        # A look costs less than an atomic step on a line that others are writing to.
        if counter[line] < count:
            taken = _next(counter, line)
            if taken < count:
                return start + taken
    return -1


@inner
def take_next(counter, thread, pieces, several, piece, end):
    """(piece, end): what comes after `piece`, −1 at first, of small pieces of which `several` are taken at a time.

    Those before `end` are this thread's. A piece of −1 says that none is left.
    """
    if piece + 1 < end:
        return piece + 1, end
    run = take(counter, thread, (pieces + several - 1) // several)
    if run < 0:
        return -1, -1
    return run * several, min(pieces, (run + 1) * several)


# What the gate says once it is decided; before, how many helpers have come.
_ALL, _ALONE = 2**40, -(2**40)
# Looks at another thread's line before one pauses between them, and pauses before one gives up the core between them.
_LOOKS, _PAUSES = 100, 3000

if os.name == "posix":
    _give_up_core = types.ExternalFunction("sched_yield", types.int32())
else:

    @inner
    def _give_up_core():
        _pause()


@intrinsic
def _publish(typingctx, lines, index, value):
    """lines[index] = value, after all that this thread has stored before."""

    def codegen(context, b, sig, args):
        b.store_atomic(args[2], _slot(context, b, sig.args[0], *args[:2]), "release", 8)
        return context.get_dummy_value()

    return types.void(lines, types.intp, types.int64), codegen


@intrinsic
def _look(typingctx, lines, index):
    """lines[index]; what its writer had stored before it is seen from now on."""

    def codegen(context, b, sig, args):
        return b.load_atomic(_slot(context, b, sig.args[0], *args), "acquire", 8)

    return types.int64(lines, types.intp), codegen


@inner
def gather(counter, thread, patience):
    """How many threads do this job step by step: all of the team, if all have come within `patience` pauses of the
    caller, else it alone; 0 for a helper that came too late, which has to leave."""
    team = counter[TEAM]
    gate = 8 * (team + 1)
    if thread == 0:
        if counter[BY_ONE]:
            return 1
        while patience > 0 and _read(counter, gate) < team - 1:
            _pause()
            patience -= 1
        all_here = _read(counter, gate) == team - 1
        _write(counter, gate, _ALL if all_here else _ALONE)
        return team if all_here else 1
    _add(counter, gate, 1)
    while True:
        said = _read(counter, gate)
        if said >= _ALL:
            return team
        if said < 0:
            return 0
        _pause()


@inner
def done_step(counter, thread, threads_here, step):
    """Say that this thread has done `step`, 1, 2, …"""
    if threads_here > 1:
        _publish(counter, 8 * (threads_here + 2 + thread), step)


@inner
def wait_for_step(counter, threads_here, step):
    """Wait until all threads have done `step`."""
    if threads_here == 1:
        return
    for other in range(threads_here):
        looks = 0
        while _look(counter, 8 * (threads_here + 2 + other)) < step:
            looks += 1
            if looks > _LOOKS:
                _pause()
            if looks > _PAUSES:
                # It has lost its core, perhaps to this very thread.
                _give_up_core()


class Team:
    """Helpers 1, 2, … of one process, started when first asked for."""

    def __init__(self) -> None:
        self.mailbox = np.zeros(OF_HELPER + 8 * (threads.available() + 1), np.int64)
        self.lock = threading.Lock()
        # Threads that a job may have, fewer once the system lets no more be started.
        self.most = threads.available()
        # Until this time (time.perf_counter) callers work alone.
        self.alone_until = 0.0
        self._pause_seconds = 0.0
        self._helpers: list[tuple[threading.Thread, threading.Event]] = []

    def run(self, team, address, counter, args) -> None:
        """Run the worker at `address` on up to `team` threads; the caller holds `lock`."""
        while len(self._helpers) < min(team, self.most) - 1:
            self._start()
        for number, (_, wake) in enumerate(self._helpers[: team - 1], start=1):
            if self.mailbox[OF_HELPER + 8 * number + PARKED]:
                wake.set()
        begun = time.perf_counter()
        waited = _lead(self.mailbox, team, address, counter, *args) * self._pause_seconds
        ended = time.perf_counter()
        if waited > _LONG_WAIT and waited > _WAITING_SHARE * (ended - begun):
            self.alone_until = ended + _BACK_OFF

    def _start(self) -> None:
        number = len(self._helpers) + 1
        # Compiled here, so that the helper does not wait for a compiler while it is needed; and how long is a pause?
        serve(self.mailbox, number, self.mailbox[EPOCH], 0)
        pauses = []
        for _ in range(5):
            begun = time.perf_counter()
            serve(self.mailbox, number, self.mailbox[EPOCH], 1000)
            pauses.append((time.perf_counter() - begun) / 1000)
        self._pause_seconds = min(pauses)
        wake = threading.Event()
        thread = threading.Thread(target=self._help, args=(number, wake), name=f"fastconv-{number}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The system's limit of threads: the work is done by those there are.
            self.most = number
        else:
            self._helpers.append((thread, wake))

    def _help(self, number: int, wake: threading.Event) -> None:
        # A helper that starts has been called for by the job during which it started.
        woken = False
        seen, mine = 0, self.mailbox[OF_HELPER + 8 * number :]
        while not self.mailbox[STOP]:
            joined = mine[JOINED]
            seen = serve(self.mailbox, number, seen, _PATIENCE)
            if woken and mine[JOINED] == joined:
                # Woken for nothing: it came too late, or took the very core that the caller was working on.
                self.alone_until = time.perf_counter() + _BACK_OFF
            wake.clear()
            mine[PARKED] = 1
            # A job posted before this look is seen now. One posted between it and a caller's own look at PARKED is
            # done without this helper, and the next one wakes it.
            if self.mailbox[EPOCH] == seen and not self.mailbox[STOP]:
                wake.wait()
                woken = True
            mine[PARKED] = 0

    def stop(self) -> None:
        """End the helpers: compiled code must not run while the interpreter is taken down."""
        self.mailbox[STOP] = 1
        for thread, wake in self._helpers:
            wake.set()
            thread.join(1.0)


_team = Team()


def _after_fork() -> None:
    # The child has none of its parent's threads; whatever was in the mailbox concerned them.
    global _team
    _team = Team()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(lambda: _team.stop())


_addresses: dict[tuple[object, ...], int] = {}


def _kind(argument):
    """What of an argument decides its Numba type; arguments are arrays, numbers and tuples of ints."""
    if isinstance(argument, np.ndarray):
        return (argument.dtype.char, argument.ndim, argument.flags.num)
    return len(argument) if isinstance(argument, tuple) else type(argument)


def _address(worker, counter, args):
    """The address of `worker` compiled for these arguments.

    Teams call workers by address, so that a worker is compiled once, not once for each way to call it.
    """
    key = (worker, *map(_kind, args))
    found = _addresses.get(key)
    if found is None:
        signature = (numba.typeof(counter), types.intp, *map(numba.typeof, args))
        worker.compile(signature)
        compiled = worker.overloads[signature]
        found = compiled.library.get_pointer_to_function(compiled.fndesc.mangled_name)
        _addresses[key] = found
    return found


def address_of(worker, *args):
    """Where `worker` is, compiled for a counter, a thread and `args`."""
    return _address(worker, new_counter(1), args)


def parallel(worker, team, *args):
    """Run worker(counter, thread, *args) on up to `team` threads, never on more than `threads.available()`."""
    parallel_at(_address(worker, new_counter(1), args), team, args)


def parallel_at(address, team, args):
    """`parallel`, of a worker whose address is known: finding it takes longer than a small job."""
    team = min(team, _team.most)
    counter = new_counter(team)
    if team > 1 and not threads.rests(_team.alone_until) and _team.lock.acquire(blocking=False):
        mine = _team
        try:
            mine.run(team, address, counter, args)
        finally:
            mine.lock.release()
    else:
        counter[BY_ONE] = 1
        _alone(address, counter, *args)


def counter_of_one():
    """The counter of a job that one thread does alone."""
    counter = new_counter(1)
    counter[BY_ONE] = 1
    return counter


# That of jobs that take no pieces, and so leave it as it is.
ONE = counter_of_one()


def alone_at(address, *args):
    """Run the worker at `address`, which takes no pieces, on the calling thread: the least that a call can take."""
    _alone(address, ONE, *args)
