"""The cache of compiled kernels: private, bounded, and never a reason to fail; and what importing costs.

Children run with FASTCONV_CACHE_DIR in a temporary folder, so that nothing here touches the user's own.
"""

import os
import shutil
import stat
import subprocess
import sys
from statistics import median

import numpy as np
import pytest
from helpers import HOSTS, child, succeed

from fastconv import cache

# Two kernels that compile in well under a second each; the last line says what was compiled and what was found.
WORK = """
import numpy as np
from numba.core import event
from fastconv import cache, functional

x = np.arange(12, dtype=np.float32).reshape(3, 4)
w = np.ones((2, 4), np.float32)
with event.install_recorder("numba:compile") as recorder:
    y = functional.linear(x, w, algorithm="naive")
    z = functional.max_pool2d(x[None, None], (3, 2), 1, algorithm="naive")
assert y.tolist() == [[6, 6], [22, 22], [38, 38]], y
assert z.tolist() == [[[[9, 10, 11]]]], z
compiled = len([None for _, happened in recorder.buffer if happened.is_start])
print(cache.folder(), compiled)
"""


def work(place, **environment):
    """Run WORK with this cache folder: (the folder it used, or None, and how many functions it compiled)."""
    output = succeed(WORK, FASTCONV_CACHE_DIR=place, **environment)
    folder, compiled = output.split()
    return None if folder == "None" else folder, int(compiled)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "cache"


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def entries(folder):
    return sorted(name for name in os.listdir(folder) if name.endswith((".nbi", ".nbc")))


# Use.


def test_what_is_compiled_is_said_and_can_be_silenced(place):
    first, second = (child(WORK, FASTCONV_CACHE_DIR=place).stderr.splitlines() for _ in range(2))
    assert len(first) == 2
    assert all(line.startswith("fastconv: compiling ") for line in first)
    assert [line.split()[2:5] for line in sorted(first)] == [
        ["linear_naive._product", "for", "float32,"],
        ["pool_naive._max", "for", "float32,"],
    ]
    assert second == []
    quiet = "import logging\nlogging.getLogger('fastconv').setLevel(logging.ERROR)\n" + WORK
    assert child(quiet, FASTCONV_CACHE_DIR=place / "other").stderr == ""


def test_the_second_process_compiles_nothing(place):
    folder, compiled = work(place)
    assert compiled > 0
    before = entries(folder)
    assert before
    assert work(place) == (folder, 0)
    assert entries(folder) == before


def test_no_kernel_is_compiled_twice():
    """Every kernel, teams included, in the cache that all tests share: what one process compiled the next loads."""
    program = """
import dataclasses
from numba.core import event
from fastconv import testing, threads

threads.set_num_threads(2)
with event.install_recorder("numba:compile") as recorder, threads.eager():
    for kernel, case in testing.grid(small=True):
        for dtype in ("float32", "float64"):
            problem = dataclasses.replace(case.problem, dtype=dtype)
            testing.poisoned_run(kernel, problem, testing.inputs(kernel.op, problem))
print(*sorted({str(happened.data["dispatcher"]) for _, happened in recorder.buffer}), "end")
"""
    succeed(program, NUMBA_NUM_THREADS=2)
    assert succeed(program, NUMBA_NUM_THREADS=2).split() == ["end"]


# Functions that factories make of others: alike in name and code, told apart by what they close over.
FACTORIES = """
from fastconv.kernels.cpu.jit import inner, njit

def make_inner(number):
    @inner
    def add(x):
        return x[0] + number
    return add

@inner
def double(x):
    return 2 * x[0]

@inner
def negate(x):
    return -x[0]

def make_outer(function, factor):
    @inner
    def outer(x):
        return factor * function(x)
    return outer

def make(function, shift):
    @njit
    def worker(x):
        return function(x) + shift
    return worker

ADD = [make_inner(number) for number in (1, 2)]
WORKERS = [
    make(double, 0), make(negate, 0), make(double, 5), make(ADD[0], 0), make(ADD[1], 0),
    make(make_outer(double, 3), 0), make(make_outer(negate, 3), 0), make(make_outer(double, 4), 0),
    make(make_outer(ADD[0], 3), 0), make(make_outer(ADD[1], 3), 0),
    make(make_outer(make_outer(ADD[0], 3), 1), 0), make(make_outer(make_outer(ADD[1], 1), 3), 0),
]
"""
WANTED = [20, -10, 25, 11, 12, 60, -30, 80, 33, 36, 33, 36]


def test_functions_made_by_factories_are_told_apart_and_found_again(place, tmp_path):
    (tmp_path / "factories.py").write_text(FACTORIES)
    program = f"""
import sys
import numpy as np
from numba.core import event
sys.path.insert(0, {str(tmp_path)!r})
from factories import WORKERS

with event.install_recorder("numba:compile") as recorder:
    order = ORDER
    found = dict((k, float(WORKERS[k](np.full(4, 10.0, np.float32)))) for k in order)
assert [found[k] for k in range(len(WORKERS))] == {WANTED}, found
print(len([None for _, happened in recorder.buffer if happened.is_start]))
"""
    forth, back = "range(len(WORKERS))", "range(len(WORKERS) - 1, -1, -1)"
    assert int(succeed(program.replace("ORDER", forth), FASTCONV_CACHE_DIR=place)) >= len(WANTED)
    for order in (forth, back):
        assert int(succeed(program.replace("ORDER", order), FASTCONV_CACHE_DIR=place)) == 0
    # One of them first, and another source: nothing of the first is taken for it.
    other = tmp_path / "other"
    assert int(succeed(program.replace("ORDER", back), FASTCONV_CACHE_DIR=other)) >= len(WANTED)
    (tmp_path / "factories.py").write_text(FACTORIES.replace("return 2 * x[0]", "return 2 * x[0] + 0 * x[1]"))
    assert int(succeed(program.replace("ORDER", forth), FASTCONV_CACHE_DIR=place)) > 0


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCONV_CACHE_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.root() == tmp_path / "mine"
    monkeypatch.delenv("FASTCONV_CACHE_DIR")
    assert cache.root() == tmp_path / "xdg" / "fastconv"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.root() == tmp_path / "home" / ".cache" / "fastconv"


# Private to the user. On systems without POSIX permissions the folder lies in the user's profile.

posix = pytest.mark.skipif(os.name != "posix", reason="file permissions are POSIX's")


@pytest.fixture
def folder(place, monkeypatch):
    """cache.folder, asked afresh at every call, in this process."""
    monkeypatch.setenv("FASTCONV_CACHE_DIR", str(place))
    return cache.folder.__wrapped__


@posix
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077], ids=oct)
def test_the_folder_is_private(umask, place, folder):
    """Whatever the user's umask, 002 on many distributions; the folder above it too, or others could swap it."""
    former = os.umask(umask)
    try:
        made = folder()
    finally:
        os.umask(former)
    assert made is not None
    assert mode(made) == 0o700
    assert not mode(made.parent) & 0o022
    assert made.parent == place


@posix
@pytest.mark.parametrize("bits", [0o720, 0o702, 0o777], ids=oct)
@pytest.mark.parametrize("level", ["place", "folder"])
def test_a_folder_others_can_write_to_is_refused(bits, level, folder):
    made = folder()
    os.chmod(made if level == "folder" else made.parent, bits)
    assert folder() is None


@posix
@pytest.mark.parametrize("level", ["place", "folder"])
def test_a_folder_of_another_user_is_refused(level, folder, monkeypatch):
    made = folder()
    foreign = made if level == "folder" else made.parent
    real = os.stat

    def stat_as_foreign(path, *rest, **named):
        result = real(path, *rest, **named)
        if not isinstance(path, int) and os.fspath(path) == os.fspath(foreign):
            fields = list(result)
            fields[stat.ST_UID] += 1
            return os.stat_result(fields)
        return result

    monkeypatch.setattr(os, "stat", stat_as_foreign)
    assert foreign.stat().st_uid != os.getuid()
    assert folder() is None


@posix
def test_an_unsafe_folder_is_not_used_and_does_no_harm(place):
    """A planted entry is a pickle that would run: it is not opened, nothing is written, and kernels work."""
    folder, _ = work(place)
    before = {name: os.stat(f"{folder}/{name}").st_mtime_ns for name in entries(folder)}
    for name in before:
        with open(f"{folder}/{name}", "wb") as entry:
            entry.write(b"cos\nabort\n(tR.")
    os.chmod(folder, 0o777)
    found, compiled = work(place)
    assert found is None
    assert compiled > 0
    assert entries(folder) == sorted(before)


@pytest.mark.parametrize("home", ["/dev/null", "/proc/1"])
def test_no_place_for_a_cache(home):
    folder, compiled = work(None, HOME=home, XDG_CACHE_HOME=None)
    assert folder is None
    assert compiled > 0


@posix
def test_a_read_only_folder(place):
    folder, _ = work(place)
    shutil.rmtree(folder)
    os.mkdir(folder, 0o500)
    found, compiled = work(place)
    # The superuser may write everywhere.
    assert found == (folder if os.geteuid() == 0 else None)
    assert compiled > 0


def test_a_file_in_the_folders_place(place):
    place.write_text("mine")
    assert work(place)[0] is None
    assert place.read_text() == "mine"


def test_the_folder_vanishes_while_in_use(place):
    succeed(
        f"""
import shutil
from fastconv import cache
from fastconv.registry import kernels
kernels()
shutil.rmtree(cache.folder())
{WORK}
""",
        FASTCONV_CACHE_DIR=place,
    )


# Damage.


def emptied(content):
    return b""


def cut_short(content):
    return content[: len(content) // 2]


def cut_by_one(content):
    return content[:-1]


def noise(content):
    return np.random.default_rng(3).bytes(len(content))


def a_pickle_of_something_else(content):
    import pickle

    return pickle.dumps({"no": "entry"})


def version_and_noise(content):
    """The index begins with Numba's version; what follows is checked apart."""
    import pickle

    import numba

    return pickle.dumps(numba.__version__) + noise(content)


def flipped_at(part):
    def flipped(content):
        place = int(len(content) * part)
        return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]

    flipped.__name__ = f"a bit flipped at {part}"
    return flipped


DAMAGE = [emptied, cut_short, cut_by_one, noise, a_pickle_of_something_else, version_and_noise]
DAMAGE += [flipped_at(part) for part in (0.1, 0.5, 0.9)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache folder with WORK's entries in it; (its place, its folder)."""
    place = tmp_path_factory.mktemp("filled") / "cache"
    return place, work(place)[0]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__.replace("_", " "))
@pytest.mark.parametrize("kind", [".nbi", ".nbc"])
def test_damaged_entries_are_compiled_again(kind, damage, filled, tmp_path):
    """The result is right, nothing fails, and the next process finds whole entries again."""
    place, folder = filled
    copy = tmp_path / "cache"
    shutil.copytree(place, copy)
    here = copy / os.path.basename(folder)
    for name in entries(here):
        if name.endswith(kind):
            (here / name).write_bytes(damage((here / name).read_bytes()))
    assert work(copy)[0] == str(here)
    assert work(copy) == (str(here), 0)


# One folder per version, sources and CPU; bounded.


def test_other_sources_versions_and_hosts_have_other_folders(folder, monkeypatch, tmp_path):
    from fastconv.kernels import cpu
    from fastconv.kernels.cpu import host

    stamp = cache.source_stamp.__wrapped__
    monkeypatch.setattr(cache, "source_stamp", stamp)
    names = [folder().name]
    assert folder().name == names[0]
    monkeypatch.setattr(cache, "version", lambda name: "9.9.9")
    names.append(folder().name)
    monkeypatch.setattr(host, "CPU_NAME", "another")
    names.append(folder().name)
    monkeypatch.setattr(host, "FEATURES", host.FEATURES | {"+new"})
    names.append(folder().name)
    (tmp_path / "more").mkdir()
    (tmp_path / "more/kernel.py").write_text("A = 1\n")
    monkeypatch.setattr(cpu, "__path__", [*cpu.__path__, str(tmp_path / "more")])
    names.append(folder().name)
    (tmp_path / "more/kernel.py").write_text("A = 2\n")
    names.append(folder().name)
    assert len(set(names)) == len(names)
    assert all(os.sep not in name for name in names)


@pytest.mark.parametrize("host", HOSTS)
def test_a_smaller_host_has_another_folder(host, place):
    environment = HOSTS[host].environment()
    native, _ = work(place)
    smaller, compiled = work(place, **environment)
    assert smaller != native
    assert compiled > 0
    assert work(place, **environment) == (smaller, 0)
    assert work(place) == (native, 0)


@pytest.fixture
def old(folder, monkeypatch):
    """Make folders as the cache makes them for other sources: make(number, bytes) -> path, used long ago."""

    def make(number, size=10):
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(cache, "source_stamp", lambda: f"{number:016x}")
            elsewhere.setattr(cache, "KEPT_FOLDERS", 1000)
            elsewhere.setattr(cache, "KEPT_BYTES", 2**40)
            path = folder()
        (path / "linear._product-1.py311.nbi").write_bytes(b"0" * size)
        os.utime(path, (1_000_000 + number, 1_000_000 + number))
        return path

    return make


def test_the_number_of_folders_is_bounded(folder, old):
    made = [old(number) for number in range(10)]
    current = folder()
    assert current.exists()
    left = [path for path in made if path.exists()]
    assert left == made[-(cache.KEPT_FOLDERS - 1) :], "the ones used last stay"


def test_the_size_is_bounded(folder, old, monkeypatch):
    monkeypatch.setattr(cache, "KEPT_BYTES", 10_000)
    made = [old(number, 4_000) for number in range(3)]
    assert folder().exists()
    assert [path.exists() for path in made] == [False, True, True]
    monkeypatch.setattr(cache, "KEPT_BYTES", 100)
    assert folder().exists(), "the current one stays whatever its size"
    assert not any(path.exists() for path in made)


def test_a_folder_counts_as_used_when_it_is_used(folder, old):
    current = folder()
    os.utime(current, (1, 1))
    folder()
    assert current.stat().st_mtime > 1_000_000_000


def test_nothing_but_its_own_is_ever_removed(place, folder):
    """FASTCONV_CACHE_DIR may be a folder that holds other things."""
    others = [place / name for name in ("photos", "thesis", "src", "0.1.0", "a-b-c-d", ".git", "node_modules")]
    for number, path in enumerate(others):
        path.mkdir(parents=True, mode=0o700)
        (path / "work").write_bytes(b"0" * 1000)
        os.utime(path, (1_000_000 + number, 1_000_000 + number))
    os.chmod(place, 0o700)
    (place / "letter.txt").write_text("mine")
    assert folder() is not None
    assert [path.name for path in others if not (path / "work").exists()] == []
    assert (place / "letter.txt").exists()


def test_links_are_not_followed(place, folder, old, tmp_path):
    """Removing an old folder does not reach what a link in it points to."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/letter").write_text("mine")
    oldest = old(0)
    os.symlink(tmp_path / "outside", oldest / "link")
    os.utime(oldest, (1_000_000, 1_000_000))
    for number in range(1, 6):
        old(number)
    folder()
    assert not oldest.exists()
    assert (tmp_path / "outside/letter").exists()


def test_processes_that_prune_at_once(place):
    """Each makes folder after folder and removes the others': what one lists another may have removed."""
    together(
        """
import os
from fastconv import cache
for number in range(300):
    cache.source_stamp = lambda: f"{os.getpid()}{number:08}"
    cache.folder.__wrapped__()
""",
        place,
    )
    assert len(list(place.iterdir())) < 2 * cache.KEPT_FOLDERS


def test_processes_that_compile_at_once(place):
    """Several processes compile and save the same kernels in one folder."""
    together(WORK, place)
    assert work(place)[1] == 0


def together(program, place):
    """Run a program in four processes at once; all must succeed."""
    variables = {**os.environ, "FASTCONV_CACHE_DIR": str(place)}
    started = [
        subprocess.Popen([sys.executable, "-c", program], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    errors = [process.communicate(timeout=120)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0] * len(started), errors


# Importing.


def test_importing_compiles_nothing_and_loads_no_compiler():
    program = """
import sys
import fastconv
import fastconv.nn.functional
print(*sorted({"numba", "llvmlite", "cupy", "torch", "fastconv.kernels"} & set(sys.modules)), "end")
print(fastconv.nn.Conv2d(1, 2, 3))
fastconv.optim.SGD(fastconv.nn.Linear(2, 2).parameters(), lr=0.1)
print(*sorted({"numba", "llvmlite", "cupy", "torch", "fastconv.kernels"} & set(sys.modules)), "end")
"""
    lines = succeed(program).splitlines()
    assert lines[0] == lines[-1] == "end"


def test_importing_leaves_no_cache(place):
    succeed("import fastconv\nfastconv.nn.Linear(2, 3)\n", FASTCONV_CACHE_DIR=place)
    assert not place.exists()


def test_import_time():
    """`import fastconv` ≤ 1.3 × `import numba`, each in processes of its own, in turn."""
    times = {"fastconv": [], "numba": []}
    # The first round reads files that may not be in memory yet; it is not counted.
    for _ in range(8):
        for name, taken in times.items():
            program = f"import time\nstart = time.perf_counter()\nimport {name}\nprint(time.perf_counter() - start)\n"
            taken.append(float(succeed(program)))
    assert median(times["fastconv"][1:]) <= 1.3 * median(times["numba"][1:]), times


def test_warnings_do_not_come_with_importing():
    result = child("-W", "error", "import fastconv\nfrom fastconv.registry import kernels\nkernels()\n")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
