"""How CPU kernels are compiled and cached.

`@njit` compiles a function on first call, releases the GIL in it, and caches it on disk in fastconv.cache's folder;
`@inner` is for functions that only other kernels call.
"""

from __future__ import annotations

import hashlib
import pickle

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from fastconv import cache

# No nnan, no ninf: NaN and inf travel.
FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}


# What reading a pickle that was cut short or altered may raise.
_DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    MemoryError,
    OverflowError,
)


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
        except _DAMAGED:
            return None

    def _save_overload(self, sig, data):
        try:
            try:
                super()._save_overload(sig, data)
            except _DAMAGED:
                # Saving reads the index first; one that cannot be read is begun anew.
                self.flush()
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
