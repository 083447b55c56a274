"""How CPU kernels are compiled, cached and spread over threads.

`@njit` compiles a function on first call and caches it on disk in fastconv.cache's folder; `@inner` is for functions
that only other kernels call. A *worker* is an @njit function whose first arguments are a shared counter, from which it
takes one piece of work after another, and the number of its thread; `parallel(worker, team, *args)` runs it.
"""

from __future__ import annotations

import hashlib
import pickle

import numba
import numpy as np
from numba import prange, types
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.extending import intrinsic

from fastconv import cache

# No nnan, no ninf: NaN and inf travel.
FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}


class _Locator(_CacheLocator):
    """Puts a function's cache entries into fastconv's folder, whose name already carries sources and CPU."""

    def __init__(self, place, py_func, py_file):
        self._place, self._py_file, self._line = place, py_file, py_func.__code__.co_firstlineno
        # A kernel may also live outside of kernels/cpu, whose sources the folder's name knows.
        with open(py_file, "rb") as source:
            self._stamp = hashlib.sha256(source.read()).hexdigest()

    @classmethod
    def from_function(cls, py_func, py_file):
        return cls(cache.folder(), py_func, py_file)

    def get_cache_path(self):
        return str(self._place)

    def get_source_stamp(self):
        return self._stamp

    def get_disambiguator(self):
        return str(self._line)


class _Impl(CompileResultCacheImpl):
    _locator_classes = (_Locator,)


class _Cache(FunctionCache):
    """Numba's function cache in our folder; a damaged or unwritable entry means compiling, never failing."""

    _impl_class = _Impl

    def _load_overload(self, sig, target_context):
        try:
            return super()._load_overload(sig, target_context)
        except (pickle.UnpicklingError, EOFError, OSError, ValueError, AttributeError, ImportError):
            return None

    def _save_overload(self, sig, data):
        try:
            super()._save_overload(sig, data)
        except OSError:
            self.disable()


def _cached(dispatcher):
    if cache.folder() is not None:
        dispatcher._cache = _Cache(dispatcher.py_func)
    return dispatcher


def njit(function):
    """Compile `function` for the CPU on first call; cached."""
    return _cached(numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy")(function))


def inner(function):
    """Like `njit` for functions that only other kernels call: inlined into each caller, and not cached alone.

    A call that is not inlined passes every array as seven numbers, which takes longer than many a small loop.
    """
    return numba.njit(nogil=True, forceinline=True, fastmath=FASTMATH, error_model="numpy")(function)


def region(function):
    """Like `njit`, with `prange` loops spread over the threads."""
    return _cached(numba.njit(nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")(function))


@intrinsic
def _call(typingctx, address, counter, thread, args):
    """Call the compiled worker at `address` with (counter, thread, *args)."""
    argument_types = (counter, types.intp, *args.types)

    def codegen(context, builder, sig, values):
        target, first, number, rest = values
        function_type = context.call_conv.get_function_type(types.none, argument_types)
        pointer = builder.inttoptr(target, function_type.as_pointer())
        unpacked = [builder.extract_value(rest, k) for k in range(len(args.types))]
        context.call_conv.call_function(builder, pointer, types.none, argument_types, [first, number, *unpacked])
        return context.get_dummy_value()

    return types.void(address, counter, types.intp, args), codegen


@region
def _team(team, address, counter, args):
    for thread in prange(team):
        _call(address, counter, thread, args)


_addresses: dict[tuple[object, ...], int] = {}


def _kind(argument):
    """What of an argument decides its Numba type; arguments are arrays, numbers and tuples of ints."""
    if isinstance(argument, np.ndarray):
        return (argument.dtype.char, argument.ndim)
    return len(argument) if isinstance(argument, tuple) else type(argument)


def _address(worker, counter, args):
    """The address of `worker` compiled for these arguments.

    The parallel region calls workers by address, so that a worker is compiled once, not once for each way to call it.
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


def parallel(worker, team, *args):
    """Run worker(counter, thread, *args) on threads 0 … team−1; the counter starts at 0 and is shared."""
    counter = np.zeros(1, np.int64)
    if team == 1:
        worker(counter, 0, *args)
    else:
        _team(team, _address(worker, counter, args), counter, args)
