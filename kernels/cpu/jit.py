"""How CPU kernels are compiled and cached.

`@njit` compiles a function on first call, releases the GIL in it, and caches it on disk in fastconv.cache's folder;
`@inner` is for functions that only other kernels call. What is compiled, and so is waited for, is logged: to stderr,
unless the program has set up `logging` otherwise.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import time

import numba
from numba.core import event
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, _CacheLocator

from fastconv import cache

_log = logging.getLogger("fastconv")

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


class _Files(IndexDataCacheFile):
    """Index and data files that begin with a hash of the rest: what was cut short or altered is as if not there.

    The data are machine code, which must not run with a bit flipped.
    """

    def _read(self, path):
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            return None
        size = hashlib.sha256().digest_size
        return content[size:] if hashlib.sha256(content[size:]).digest() == content[:size] else None

    def _write(self, path, value):
        content = self._dump(value)
        with self._open_for_write(path) as file:
            file.write(hashlib.sha256(content).digest() + content)

    def _load_index(self):
        content = self._read(self._index_path)
        stamp, overloads = (None, {}) if content is None else pickle.loads(content)
        return overloads if stamp == self._source_stamp else {}

    def _save_index(self, overloads):
        self._write(self._index_path, (self._source_stamp, overloads))

    def _load_data(self, name):
        content = self._read(self._data_path(name))
        if content is None:
            raise OSError(f"{name} is missing or damaged")
        return pickle.loads(content)

    def _save_data(self, name, data):
        self._write(self._data_path(name), data)


def _contents(function):
    """What a function closes over: names of functions, each followed by what it closes over itself, and numbers."""
    for cell in function.__closure__ or ():
        held = cell.cell_contents
        if hasattr(held, "py_func"):
            yield f"{held.py_func.__module__}.{held.py_func.__qualname__}"
            yield from _contents(held.py_func)
        else:
            yield repr(held)
    yield "."


class _Cache(FunctionCache):
    """Numba's function cache in our folder and files; one that cannot be written to means compiling, never failing."""

    _impl_class = _Impl

    def __init__(self, py_func):
        super().__init__(py_func)
        locator = self._impl.locator
        self._cache_file = _Files(locator.get_cache_path(), self._impl.filename_base, locator.get_source_stamp())

    def _index_key(self, sig, codegen):
        # A function made for others by a factory is known by their names: Numba's own key would be their pickles, which
        # no two processes make alike. What the names stand for, the folder's name says.
        named = "\n".join([self._py_func.__code__.co_code.hex(), *_contents(self._py_func)])
        return sig, codegen.magic_tuple(), hashlib.sha256(named.encode()).hexdigest()

    def _save_overload(self, sig, data):
        try:
            super()._save_overload(sig, data)
        except OSError:
            self.disable()


class _Notice(event.Listener):
    """Says what is compiled: a first call takes seconds, and whoever waits should know what for. Keeps how long."""

    def __init__(self):
        self._workers = set()
        self._begun = {}

    def add(self, dispatcher):
        self._workers.add(dispatcher)
        return dispatcher

    def on_start(self, begun):
        dispatcher = begun.data["dispatcher"]
        if dispatcher not in self._workers:
            return
        dtypes = {str(ty.dtype) for ty in begun.data["args"] if isinstance(ty, numba.types.Array)}
        floats = " ".join(sorted(name for name in dtypes if name.startswith("float")))
        if floats:
            name = f"{dispatcher.py_func.__module__.rpartition('.')[2]}.{dispatcher.py_func.__name__}"
            kept = "once for this CPU" if cache.folder() is not None else "for this process: it has no cache folder"
            _log.warning("fastconv: compiling %s for %s, %s", name, floats, kept)
            self._begun[dispatcher] = f"{name} {floats}", time.perf_counter()

    def on_end(self, ended):
        name, begun = self._begun.pop(ended.data["dispatcher"], ("", 0.0))
        if name:
            COMPILED.append((name, time.perf_counter() - begun))


# The functions that this process has compiled, with their dtypes, and seconds.
COMPILED = []

_notice = _Notice()
event.register("numba:compile", _notice)


def _cached(dispatcher):
    # A function typed at a prompt has no source file to know it by.
    if cache.folder() is not None and os.path.isfile(dispatcher.py_func.__code__.co_filename):
        dispatcher._cache = _Cache(dispatcher.py_func)
    return dispatcher


_OPTIONS = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy", "no_cfunc_wrapper": True}
# Nobody counts references to arrays: callers hold them. Counting would be a call wherever an array changes hands, and
# around each call all that registers hold is stored and loaded again.
_UNCOUNTED = {"_nrt": False}


def njit(function):
    """Compile `function` for the CPU on first call; cached. It cannot make arrays."""
    return _notice.add(_cached(numba.njit(**_OPTIONS, **_UNCOUNTED)(function)))


def allocating(function):
    """Like `njit`, for functions that make arrays."""
    return _notice.add(_cached(numba.njit(**_OPTIONS)(function)))


def inner(function):
    """Like `njit` for functions that only other kernels call: inlined into each caller, and not cached alone.

    Never to be called from Python, for which it has no entry.

    A call that is not inlined passes every array as seven numbers, which takes longer than many a small loop.
    """
    return numba.njit(forceinline=True, no_cpython_wrapper=True, **_OPTIONS, **_UNCOUNTED)(function)
