"""Runs and their views: what counts, what does not, and what is no run at all. The page itself: test_report_html.py."""

import copy
import json
import math
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_samples import sample
from rich.console import Console

from fastconv import cli
from fastconv.report import cells, compare, markdown, runs, terminal

GROUP = "vgg3_2 conv2d"
ONE = (GROUP,)


def loaded(**options):
    return runs.read(sample(**options))


def entries(data, group=GROUP):
    return [entry for entry in data["benchmarks"] if entry["group"] == group]


def timed(data, name, seconds, spread=0.01):
    """Set the times of a row of GROUP."""
    (entry,) = (entry for entry in entries(data) if entry["extra_info"]["name"] == name)
    low, high = seconds * (1 - spread), seconds * (1 + spread)
    entry["stats"] |= {"median": seconds, "q1": low, "q3": high, "min": low, "rounds": 10}
    return entry


def shown(view, width=200, **options):
    console = Console(file=StringIO(), width=width, **options)
    view(console)
    return console.file.getvalue()


@pytest.fixture
def known():
    """GROUP alone, with our layer at 2 ms, ncnn at 4, torch at 5 and channels_last at 8."""
    data = sample(only=ONE)
    for entry in entries(data):
        timed(data, entry["extra_info"]["name"], 0.1)
    for name, seconds in (("fastconv", 2e-3), ("ncnn", 4e-3), ("torch", 5e-3), ("torch_channels_last", 8e-3)):
        timed(data, f"conv2d/{name}", seconds)
    return data


def test_ratios_are_of_the_chosen_row_and_the_best_peer(known):
    # A kernel that was faster than what auto chose changes no ratio.
    timed(known, "conv2d/winograd_f2/cpu", 1e-3)
    run = runs.read(known)
    group = run.groups[GROUP]
    assert group.ratio() == pytest.approx(0.5)
    assert group.ratio(("torch",)) == pytest.approx(0.4)
    assert group.best_peer().runtime == "ncnn"
    assert group.fastest_kernel.name == "conv2d/winograd_f2/cpu"
    assert group.verdict == "won"
    found = runs.summary(run)
    assert (found.cases, found.to_best, found.to_torch) == (1, pytest.approx(0.5), pytest.approx(0.4))
    assert found.worst == found.best == (GROUP, pytest.approx(0.5))


@pytest.mark.parametrize(("seconds", "verdict"), [(2e-3, "won"), (4.01e-3, "tie"), (3.99e-3, "tie"), (6e-3, "lost")])
def test_verdicts(known, seconds, verdict):
    timed(known, "conv2d/fastconv", seconds)
    assert runs.read(known).groups[GROUP].verdict == verdict


def test_a_peer_over_the_limit_wins_nothing(known):
    timed(known, "conv2d/mnn", 1e-6)["extra_info"]["error"] = 2e-5
    run = runs.read(known)
    assert run.groups[GROUP].ratio() == pytest.approx(0.5)
    assert [row.name for row in run.failures] == ["conv2d/mnn"]
    for text in (shown(lambda c: terminal.show(run, c, rows=True)), markdown.page(run, rows=True)):
        assert "conv2d/mnn: error 2.0e-05 is over 1e-05" in text
    notes = {cell[0]: cell[-1] for cell in cells.rows_of(run.groups[GROUP])}
    assert notes["conv2d/mnn"].startswith("FAIL: ")


def test_a_row_of_ours_over_its_limit_is_fail_in_every_view(known):
    entry = timed(known, "conv2d/fastconv", 2e-3)
    known["benchmarks"].remove(entry)
    known["fastconv"]["untimed"].append(entry["extra_info"] | {"error": 1e-3, "group": GROUP, "absent": ""})
    run = runs.read(known)
    assert run.groups[GROUP].verdict == "FAIL"
    found = runs.summary(run)
    assert (found.cases, found.to_best, found.failed) == (0, None, (GROUP,))
    reason = "error 1.0e-03 is over 1e-05"
    for text in (shown(lambda c: terminal.show(run, c)), markdown.page(run)):
        assert reason in text
        assert "FAIL" in text
        assert "2.00" not in text
    old = runs.read(sample(only=ONE))
    (change,) = (c for c in compare.changes(old, run) if c.name == "conv2d/fastconv")
    assert (change.kind, change.regression(1.1)) == ("fails", True)


def test_a_kernel_keeps_its_own_limit():
    assert runs.failure("kernel", 1e-4, 0.5, 1.0) == ""
    assert runs.failure("kernel", 1e-7, 1.5, 1.0) == "error 1.5 is over the kernel's limit 1"
    assert runs.failure("kernel", 1e-7, math.nan, 1.0)
    assert runs.failure("peer", 1e-5, None, None) == ""
    assert runs.failure("peer", math.nan, None, None)
    assert runs.failure("layer", 1e-7, 2.0, 1.0)


def test_goals(known):
    entry = timed(known, "conv2d/fastconv", 2e-3)
    entry["extra_info"]["goal"] = {"ratio": 0.6, "ratio_to_torch": 0.3, "seconds": 1e-3, "share": 0.01}
    entry["extra_info"] |= {"flops": 2e-3 * 23e9, "fma_peak_gflops": 230}
    kept = [(round(value, 4), ok) for _, value, ok in runs.read(known).groups[GROUP].goals]
    assert kept == [(0.5, True), (0.4, False), (0.002, False), (0.1, True)]


def test_warnings():
    assert loaded().warnings == []
    found = loaded(moved=True, quick=True).warnings
    assert "FMA on 1 moved by 30 % during this run" in found[0]
    assert "a quick run" in found[-1]
    assert "WARNING: FMA on 1 moved by 30 %" in shown(lambda c: terminal.show(loaded(moved=True), c))


def test_geometric_mean():
    assert runs.geometric_mean([2, 8]) == pytest.approx(4)
    assert runs.geometric_mean([]) is None


@pytest.mark.parametrize("width", [60, 80, 120, 300])
def test_a_terminal_of_any_width_is_kept_to(width):
    run = loaded(failed=["conv2d/torch", "linear/fastconv"])
    slow = loaded(slower={"conv2d/fastconv": 2.0})
    drift = compare.drift(run, slow)
    changes = compare.changes(run, slow, drift)

    def views(console):
        terminal.show(run, console, rows=True)
        terminal.show_changes(run, slow, changes, drift, 1.1, console)

    text = shown(views, width, force_terminal=True, color_system=None)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for row in run.rows:
        assert row.name in text
    group = run.groups[GROUP]
    for cell in cells.of_group(group):
        assert cell in text
    # A FAIL is seen from far away.
    coloured = shown(lambda c: terminal.show(run, c, rows=True), width, force_terminal=True, color_system="standard")
    assert any("linear/fastconv" in line and "\x1b[1;31m" in line for line in coloured.splitlines())


@pytest.mark.parametrize("width", [60, 80, 120, 300])
def test_terminal_leaves_nothing_out(width):
    run = loaded()
    text = shown(lambda console: terminal.show(run, console, rows=True), width)
    assert "…" not in text
    for row in run.rows:
        assert row.name in text
    for group in run.groups:
        assert group in text


def test_markdown_is_escaped(known):
    timed(known, "conv2d/mnn", 1.0)
    known["fastconv"]["untimed"].append(
        entries(known)[0]["extra_info"]
        | {"name": "conv2d/x|y", "absent": "a <b>|`c`\nd", "group": GROUP, "role": "peer"}
    )
    text = markdown.page(runs.read(known), rows=True)
    assert "a &lt;b&gt;\\|`c` d" in text
    tables = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("| conv2d/")]
    assert len({line.count("|") for line in tables}) == 1


def slow_down(entries, factor):
    """As other work on the machine does, on all contenders and the peak that has its turns with them."""
    for entry in entries:
        entry["stats"] |= {key: factor * entry["stats"][key] for key in ("min", "q1", "median", "q3")}
        if "fma_peak_gflops" in entry["extra_info"]:
            entry["extra_info"]["fma_peak_gflops"] /= factor


def found(old, new):
    """(row, kind, whether it is a regression) of what is not the same."""
    return [(c.name, c.kind, c.regression(1.1)) for c in compare.changes(old, new) if c.kind != "same"]


def test_noise_is_no_change():
    old, new = loaded(seed=1), loaded(seed=2)
    assert {change.kind for change in compare.changes(old, new)} == {"same"}


def test_a_slower_row_is_a_regression_and_a_slower_machine_is_not():
    name = "conv2d/winograd_f4/cpu"
    slow = loaded(seed=2, slower={("vgg3_2", name): 1.5})
    found = [c for c in compare.changes(loaded(seed=1), slow) if c.kind != "same"]
    assert [(c.group, c.name, c.kind) for c in found] == [(GROUP, name, "slower")]
    assert found[0].ratio == pytest.approx(1.5, rel=0.03)
    assert found[0].regression(1.1)
    assert not found[0].regression(1.6)
    data = sample(seed=1)
    slow_down(data["benchmarks"], 2)
    assert {c.kind for c in compare.changes(loaded(seed=1), runs.read(data))} == {"same"}


def test_a_slower_peer_is_no_regression():
    slow = loaded(seed=2, slower={"conv2d/ncnn": 2.0})
    found = [c for c in compare.changes(loaded(seed=1), slow) if c.kind == "slower"]
    assert found
    assert not any(c.regression(1.1) for c in found)


def test_a_slow_minute_is_no_regression():
    data = sample()
    slow_down(entries(data), 1.3)
    assert found(loaded(), runs.read(data)) == []


def test_the_band_is_what_peers_stray_by():
    # In each group of seven peers one strays by 30 %: more than one row in twenty.
    data = sample()
    for entry in data["benchmarks"]:
        if entry["extra_info"]["runtime"] == "ncnn":
            slow_down([entry], 1.3)
    assert compare.drift(loaded(), loaded()).band == compare.LEAST
    drift = compare.drift(loaded(), runs.read(data))
    assert drift.band == pytest.approx(0.3)
    assert drift.of(GROUP) == drift.usual == 1
    slow = loaded(slower={("vgg3_2", "conv2d/fastconv"): 1.2})
    assert found(loaded(), slow) == [("conv2d/fastconv", "slower", True)]
    noisy = sample(
        slower={("vgg3_2", "conv2d/fastconv"): 1.2, **{f"{op}/ncnn": 1.3 for op in ("conv2d", "max_pool2d")}}
    )
    assert "conv2d/fastconv" not in [name for name, *_ in found(loaded(), runs.read(noisy))]


def test_without_peers_noise_is_assumed():
    def alone(**options):
        data = sample(only=ONE, **options)
        data["benchmarks"] = [entry for entry in data["benchmarks"] if entry["extra_info"]["role"] != "peer"]
        return data

    drift = compare.drift(runs.read(alone()), runs.read(alone()))
    assert (drift.band, drift.rows) == (compare.UNKNOWN, 0)
    assert "too few" in drift.sentence
    # The peak still tells of a slower machine.
    slow = alone()
    slow_down(slow["benchmarks"], 1.5)
    assert found(runs.read(alone()), runs.read(slow)) == []
    # And peers of another version say nothing.
    data = sample()
    data["fastconv"]["peers"] = dict.fromkeys(data["fastconv"]["peers"], "another")
    assert compare.drift(loaded(), runs.read(data)).rows == 0


def test_a_crash_in_place_of_a_fail_mends_nothing():
    name = "conv2d/im2col/cpu"
    data = sample(only=ONE, failed=[name])
    before = runs.read(data)
    crashed = copy.deepcopy(data)
    for notes in crashed["fastconv"]["untimed"]:
        notes["absent"] = "crashed: exit code -11"
    assert found(before, runs.read(crashed)) == []
    assert found(loaded(only=ONE), runs.read(crashed)) == [(name, "gone", True)]
    assert found(before, loaded(only=ONE)) == [(name, "mended", False)]


def test_a_choice_of_a_slower_kernel_is_a_regression():
    group = "vgg3_2 conv2d_grad_input"
    data = sample(only=[group])
    for entry in data["benchmarks"]:
        entry["extra_info"]["chosen"] = entry["extra_info"]["name"].endswith("/naive/cpu")
    assert found(loaded(only=[group]), runs.read(data)) == [("auto: winograd_f4 → naive", "slower", True)]


def test_another_problem_under_the_same_name_is_new():
    data = sample(only=ONE)
    for entry in data["benchmarks"]:
        entry["extra_info"]["problem"] = "8×256×56×56 → 256, 3×3, padding 1"
        slow_down([entry], 8)
    kinds = {(kind, regression) for _, kind, regression in found(loaded(only=ONE), runs.read(data))}
    assert kinds == {("new", False)}


def test_a_quick_run_was_not_asked_for_all_kernels():
    data = sample(only=ONE, quick=True)
    data["benchmarks"] = [entry for entry in data["benchmarks"] if "/cpu" not in entry["extra_info"]["name"]]
    assert found(loaded(only=ONE), runs.read(data)) == []


def test_gone_and_new_rows():
    data = sample()
    gone = next(entry for entry in entries(data) if entry["extra_info"]["name"] == "conv2d/im2col/cpu")
    data["benchmarks"].remove(gone)
    full, less = loaded(), runs.read(data)
    assert [(c.kind, c.regression(1.1)) for c in compare.changes(full, less) if c.kind != "same"] == [("gone", True)]
    assert [(c.kind, c.regression(1.1)) for c in compare.changes(less, full) if c.kind != "same"] == [("new", False)]
    # A run of fewer groups has no regression in those that it was not asked for.
    assert {c.kind for c in compare.changes(full, loaded(only=ONE))} == {"same"}


def test_runs_of_different_machines_are_not_compared():
    data = sample()
    data["fastconv"]["machine"]["threads"] = 4
    with pytest.raises(runs.BadRun, match="threads 2 and 4"):
        compare.changes(loaded(), runs.read(data))


def _paths(value, path=()):
    """Every place in a parsed JSON file."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _paths(part, (*path, key))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _paths(part, (*path, number))


SMALL = sample(only=ONE)
PATHS = list(_paths(SMALL))
JUNK = st.one_of(
    st.none(), st.text(max_size=3), st.integers(-2, 2), st.just([]), st.just({}), st.floats(), st.just("delete")
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(PATHS), JUNK)
def test_damaged_data_is_a_run_or_a_bad_run(path, junk):
    data = copy.deepcopy(SMALL)
    place = data
    for key in path[:-1]:
        place = place[key]
    if junk == "delete":
        del place[path[-1]]
    else:
        place[path[-1]] = junk
    try:
        run = runs.read(data, "run.json")
    except runs.BadRun:
        return
    shown(lambda console: terminal.show(run, console, rows=True))
    markdown.page(run, rows=True)


BROKEN = {
    "empty": (b"", "is no JSON"),
    "binary": (b"\xff\x00\x01", "cannot be read"),
    "deep": (b"[" * 100_000, "is no JSON"),
    "digits": (b"1" * 5000, "is no JSON"),
    "list": (b"[]", "it has no 'benchmarks'"),
    "foreign": (b'{"benchmarks": [], "version": "5"}', "not of fastconv's benchmarks"),
    "schema": (b'{"benchmarks": [], "fastconv": {"schema": 99}}', "schema=99"),
    "damaged": (b'{"benchmarks": [], "fastconv": {"schema": 1}}', "is damaged: KeyError"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_run(tmp_path, capsys, name):
    content, reason = BROKEN[name]
    path = tmp_path / f"{name}.json"
    path.write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", str(path), "-o", str(tmp_path / "out.html")])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert reason in said
    assert str(path) in said
    assert not (tmp_path / "out.html").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"median": math.nan}, "needs positive ones"),
        ({"median": -1.0}, "needs positive ones"),
        ({"rounds": 0}, "times of no rounds"),
        ({"q1": 9e9}, "min ≤ q1"),
    ],
)
def test_times_that_cannot_be(change, reason):
    data = sample(only=ONE)
    entries(data)[0]["stats"] |= change
    with pytest.raises(runs.BadRun, match=reason):
        runs.read(data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"absent": "no memory"}, "with times, and with a reason"),
        ({"error": -1.0}, "a negative error"),
        ({"chosen": True}, "several rows"),
        ({"scratch_bytes": 10**40}, "bytes of scratch"),
    ],
)
def test_notes_that_cannot_be(change, reason):
    data = sample(only=ONE)
    entries(data)[0]["extra_info"] |= change
    with pytest.raises(runs.BadRun, match=reason):
        runs.read(data)


@pytest.mark.parametrize("missing", ["kernel_error", "kernel_limit", "error"])
def test_what_nobody_compared_does_not_count(missing):
    data = sample(only=ONE)
    name = "conv2d/fastconv" if missing == "error" else "conv2d/winograd_f4/cpu"
    entry = timed(data, name, 1e-9)
    del entry["extra_info"][missing]
    run = runs.read(data)
    assert [row.name for row in run.failures] == [name]
    assert run.groups[GROUP].fastest_kernel.name != name


def test_dates_are_sorted_by_their_time_zones():
    early, late = loaded(date="2026-11-29T09:00:00+05:00"), loaded(date="2026-11-29T07:00:00")
    assert early.when < late.when
    with pytest.raises(runs.BadRun, match="the date 'yesterday'"):
        loaded(date="yesterday")


def test_nothing_in_a_file_moves_the_cursor():
    data = sample(only=ONE)
    data["fastconv"]["git"] = "\x1b[2Jgit\ud800"
    data["fastconv"]["untimed"].append(
        entries(data)[0]["extra_info"] | {"name": "conv2d/x", "group": GROUP, "absent": "[red]no\nmemory\x1b[0m"}
    )
    text = shown(lambda console: terminal.show(runs.read(data), console, rows=True))
    assert "\x1b" not in text
    assert "[red]no memory" in text
    assert text.encode()


def test_a_step_without_flops_has_no_goal_of_steps():
    data = sample(only=["bilstm_lengths network"])
    for entry in data["benchmarks"]:
        entry["extra_info"] |= {"flops": 0.0, "goal": {"per_step": 1.1} if entry["extra_info"]["chosen"] else {}}
    (group,) = runs.read(data).groups.values()
    assert group.goals == []


def test_a_row_twice():
    data = sample(only=ONE)
    data["benchmarks"].append(data["benchmarks"][0])
    with pytest.raises(runs.BadRun, match="twice"):
        runs.read(data)


@pytest.fixture
def files(tmp_path):
    def write(name, **options):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(sample(**options)))
        return str(path)

    return write


def test_the_command_writes_prints_and_compares(files, tmp_path, capsys):
    old = files("old", seed=1)
    new = files("new", seed=2, slower={"conv2d/winograd_f4/cpu": 1.4}, date="2026-11-30T07:00:00")
    page = tmp_path / "deep" / "report.html"
    assert cli.main(["report", new, old, "-o", str(page)]) == 0
    assert page.read_text().startswith("<!doctype html")
    # The newest is shown, whatever the order.
    assert "2026-11-30" in page.read_text()
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]
    assert cli.main(["report", old]) == 0
    assert "geometric mean" in capsys.readouterr().out
    assert cli.main(["report", "--markdown", old]) == 0
    assert "<details>" in capsys.readouterr().out
    assert cli.main(["report", "--compare", old, new, "--limit", "1.2"]) == 1
    assert "slower" in capsys.readouterr().out
    assert cli.main(["report", "--compare", "--markdown", old, new, "--limit", "1.6"]) == 0
    assert "0 regressions over 1.6" in capsys.readouterr().out
    assert cli.main(["report", "--compare", new, old]) == 0


def test_a_page_that_cannot_be_written_leaves_nothing(files, tmp_path, capsys):
    place = tmp_path / "page.html"
    (place / "full").mkdir(parents=True)
    assert cli.main(["report", files("old"), "-o", str(place)]) == 2
    assert "page.html" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.json", "page.html"]


@pytest.mark.parametrize("view", [(), ("--markdown",)])
def test_output_without_unicode(files, view):
    command = [sys.executable, "-m", "fastconv", "report", files("old"), *view]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"vgg3_2 conv2d" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["{old}", "{old}"], "the same file twice"),
        (["{old}", "-o", "{old}"], "would be lost"),
        (["--compare", "{old}"], "needs two runs"),
        (["{old}", "--limit", "2"], "is of --compare"),
        (["--compare", "{old}", "{new}", "--limit", "nan"], "finite ratio over 1"),
        (["--compare", "{old}", "{new}", "--limit", "0.9"], "finite ratio over 1"),
        (["{old}.none"], "cannot be read"),
    ],
)
def test_arguments_that_make_no_sense(files, capsys, arguments, reason):
    places = {"old": files("old"), "new": files("new")}
    before = Path(places["old"]).read_text()
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", *(word.format(**places) for word in arguments)])
    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err
    assert Path(places["old"]).read_text() == before


def test_the_core_needs_none_of_the_reports_packages():
    program = (
        "import sys\nfrom fastconv import cli\nimport fastconv.report.runs\n"
        "assert not {'rich', 'jinja2', 'vl_convert', 'pytest'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
