"""The command `fastconv`: what this machine is, what kernels there are and which is chosen, compiling ahead,
and what layers a network has."""

from __future__ import annotations

import argparse
import ast
import logging
import math
import shlex
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastconv import device, machine, models, testing, tuning
from fastconv.nn import init
from fastconv.problem import DTYPES, GATES, ConvProblem, LinearProblem, PoolProblem, Problem, RecurrentProblem
from fastconv.registry import BACKENDS, OPS, explain, has_meaning, operations
from fastconv.report import command, runs
from fastconv.summarize import Summary, summary
from fastconv.warmup import Warmed, warmup

_SHAPES = {
    "conv2d": "N C H W O KH [KW]",
    "max_pool2d": "N C H W KH [KW]",
    "avg_pool2d": "N C H W KH [KW]",
    "linear": "M IN OUT",
    **dict.fromkeys(GATES, "T B IN HIDDEN"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastconv", description=__doc__)
    parser.add_argument("--version", action="version", version=f"fastconv {version('fastconv')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="CPU features, threads, cache, measured peaks, the CUDA device")
    info.add_argument("--no-measure", action="store_true", help="do not measure peaks")

    warm = commands.add_parser(
        "warmup",
        help="compile every kernel now and fill the cache",
        description="Compile every kernel now and fill the cache; seconds of each, and of what was compiled for it.",
    )
    warm.add_argument("--dtype", action="append", choices=DTYPES, help="only this dtype (may be given twice)")
    warm.add_argument("--tune", action="store_true", help="then measure kernels and fit what `auto` chooses by")
    warm.add_argument("--ops", nargs="+", choices=OPS, metavar="OP", help=f"tune only these of {', '.join(OPS)}")
    warm.add_argument("--seconds", type=float, help="how long tuning measures, about (default: 60)")

    problems = "Problems: " + "; ".join(f"{op} {sizes}" for op, sizes in _SHAPES.items()) + "; or a case's name."
    shown = commands.add_parser("explain", help="every kernel for a problem, and which is chosen", description=problems)
    _add_problem(shown, None)
    shown.add_argument("--kept", action="store_true", help="as a layer in evaluation, which keeps prepared weights")
    shown.add_argument("--measure", action="store_true", help="run every kernel: time, GFLOP/s, share of peak, error")
    shown.add_argument("--backend", choices=BACKENDS, default="cpu", help="whose kernels (default: cpu)")

    timed = commands.add_parser(
        "bench",
        help="every kernel and every installed peer on a layer or a model of your own",
        description="Measure a layer, or all layers of a model, by every kernel and every other runtime that is "
        "installed here or has an environment in .bench, in turn, each runtime in a process of its own. " + problems,
    )
    _add_problem(timed, "?")
    timed.add_argument("--gradients", action="store_true", help="the gradients, too")
    timed.add_argument("--model", metavar="FILE.py:FUNCTION", help="what builds a model, or a model of fastconv.models")
    timed.add_argument("--input", metavar="N,C,H,W", help="the model's input, with the batch")
    timed.add_argument("--options", nargs="+", default=[], metavar="name=value", help="what the model is built with")
    timed.add_argument("--peers", metavar="A,B", help="the other runtimes, or none (default: all that are installed)")
    timed.add_argument("--algorithms", metavar="A,B", help="of ours (default: all)")
    timed.add_argument("--quick", action="store_true", help="three rounds: to see, not to quote")
    timed.add_argument("--json", type=Path, metavar="FILE", help="keep what is found for `fastconv report`")

    command.add(commands)

    listed = commands.add_parser("summary", help="the layers of a network: output shapes, parameters, memory")
    listed.add_argument("model", help=f"one of: {', '.join(models.BUILDERS)}")
    listed.add_argument(
        "--options", nargs="+", default=[], metavar="name=value", help="the model's options, such as num_classes=10"
    )
    listed.add_argument("--input", required=True, metavar="C,H,W", help="the input's shape without the batch")
    listed.add_argument("--batch-size", type=int, default=-1, help="images (default: -1, any number)")
    return parser


def _add_problem(parser: argparse.ArgumentParser, many: str | None) -> None:
    """The arguments that name a problem; many: "?" where there need not be one."""
    names = f"{', '.join(_SHAPES)}, or one of: {', '.join(testing.CASES)}"
    parser.add_argument("problem", nargs=many, help=names)
    parser.add_argument("sizes", nargs="*", type=int)
    for name in ("stride", "padding", "dilation"):
        parser.add_argument(
            f"--{name}", nargs="+", default=None, help="an int or two" + ("; same" * (name == "padding"))
        )
    parser.add_argument("--groups", type=int, default=None)
    parser.add_argument("--dtype", choices=DTYPES, default=None)


def _options(words: Sequence[str]) -> dict[str, Any]:
    """name=value words as arguments."""
    options: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise ValueError(f"options={word!r}: needs name=value with a number, True, False or None") from error
    return options


def _sizes(text: str, example: str) -> tuple[int, ...]:
    size = text.split(",")
    if not all(n.strip().isdecimal() for n in size):
        raise ValueError(f"input={text!r}: needs {example}")
    return tuple(map(int, size))


def _summary(args: argparse.Namespace) -> Summary:
    """What `fastconv summary` shows."""
    if args.model not in models.BUILDERS:
        raise ValueError(f"model={args.model!r}: needs one of {', '.join(models.BUILDERS)}")
    options, size = _options(args.options), _sizes(args.input, "a shape without the batch, such as 3,224,224")
    with init.skipped():
        model = models.BUILDERS[args.model](**options)
    return summary(model, size, args.batch_size)


def _window(values: Sequence[str] | None, default: object) -> object:
    """An option's words as the argument a problem takes: an int, a pair or a name."""
    if values is None:
        return default
    numbers = [int(value) if value.lstrip("-").isdigit() else value for value in values]
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _problem(args: argparse.Namespace) -> tuple[Problem, list[str] | None]:
    """The problem that the words of `fastconv explain` name, and the operations to show (None: all)."""
    given = {name for name in ("stride", "padding", "dilation", "groups") if getattr(args, name) is not None}
    if args.problem in testing.CASES:
        if given or args.sizes or args.dtype:
            raise ValueError(f"problem={args.problem!r}: a case has its own sizes and options, and takes no others")
        return testing.CASES[args.problem].problem, None
    args.dtype = args.dtype or "float32"
    if args.problem not in _SHAPES:
        raise ValueError(f"problem={args.problem!r}: needs one of {', '.join(_SHAPES)}, or a case's name")
    names, sizes = _SHAPES[args.problem].split(), args.sizes
    if names[-1] == "[KW]" and len(sizes) == len(names) - 1:
        sizes = [*sizes, sizes[-1]]
    if len(sizes) != len(names):
        raise ValueError(f"sizes={sizes}: {args.problem} needs {len(names)}: {' '.join(names)}")
    taken = {
        "conv2d": {"stride", "padding", "dilation", "groups"},
        "max_pool2d": {"stride", "padding", "dilation"},
        "avg_pool2d": {"stride", "padding"},
    }.get(args.problem, set())
    for name in sorted(given - taken):
        raise ValueError(f"{name}={getattr(args, name)!r}: {args.problem} has no {name}")
    if args.problem == "linear":
        return LinearProblem.make(tuple(sizes[:2]), (sizes[2], sizes[1]), dtype=args.dtype), None
    if args.problem in GATES:
        t, b, features, hidden = sizes
        return RecurrentProblem.make(args.problem, (t, b, features), hidden, dtype=args.dtype), None
    padding, dilation = _window(args.padding, 0), _window(args.dilation, 1)
    if args.problem == "conv2d":
        n, c, h, w, o, kh, kw = sizes
        groups = 1 if args.groups is None else args.groups
        if groups < 1 or c % groups:
            raise ValueError(f"groups={groups}: needs a divisor of the {c} input channels")
        weight = (o, c // groups, kh, kw)
        stride = _window(args.stride, 1)
        options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return ConvProblem.make((n, c, h, w), weight, **options, dtype=args.dtype), None
    stride = _window(args.stride, None)
    pool = PoolProblem.make(
        tuple(sizes[:4]), tuple(sizes[4:]), stride=stride, padding=padding, dilation=dilation, dtype=args.dtype
    )
    kind = args.problem[:3]
    return pool, [op for op in operations(pool) if op.startswith(kind) and has_meaning(op, pool)]


def _waiting(text: str) -> AbstractContextManager[object]:
    """Something that moves on a terminal while one waits, if rich is installed."""
    try:
        from rich.console import Console
    except ImportError:
        return nullcontext()
    return Console(stderr=True).status(text)


def _bench(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """`fastconv bench`."""
    try:
        from rich.console import Console

        from fastconv.report import terminal
    except ImportError as error:
        parser.error(f"bench needs {error.name}: pip install 'fastconv[bench]'")
    from fastconv import benchmark

    networks: dict[str, list[tuple[str, str]]] = {}
    model = None
    try:
        if (args.model is None) == (args.problem is None):
            raise ValueError("needs a problem, or --model and --input")
        if (args.model is None) != (args.input is None):
            raise ValueError("--model and --input belong together")
        if args.model is not None:
            shape = _sizes(args.input, "a shape with the batch, such as 1,3,224,224")
            model = benchmark.load_model(args.model, _options(args.options))
            found = benchmark.layers(model, shape)
            first: dict[Problem, str] = {}
            networks = {args.model: [(name, first.setdefault(problem, name)) for name, _, problem in found]}
            wanted = [(name, op, problem) for name, op, problem in found if first[problem] == name]
        else:
            problem, ops = _problem(args)
            name = args.problem if args.problem in testing.CASES else "layer"
            ops = [op for op in ops or operations(problem) if has_meaning(op, problem)]
            wanted = [(name, op, problem) for op in ops[: None if args.gradients else 1]]
        algorithms = None if args.algorithms is None else args.algorithms.split(",")
        command = shlex.join(["fastconv", *sys.argv[1:]])
        data = benchmark.measure(wanted, args.peers, algorithms, args.quick, command, networks)
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    if args.json is not None:
        benchmark.save(data, args.json)
    run, console = runs.read(data), Console()
    if model is None:
        terminal.show(run, console, rows=True)
    else:
        with _waiting("measuring the model's own call"):
            call = benchmark.whole(model, shape)
        benchmark.show_layers(run, call, console)
    return 1 if any(row.role != runs.PEER for row in run.failures) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command == "info":
        print(machine.describe(measured=not args.no_measure))
        try:
            print(f"device: {device.line()}")
        except RuntimeError as error:
            print(f"device: none. {error}")
    elif args.command == "warmup":
        if not args.tune and (args.ops or args.seconds is not None):
            parser.error("--ops and --seconds are for --tune")
        if args.seconds is not None and not 0 < args.seconds < math.inf:
            parser.error(f"seconds={args.seconds}: needs a positive number")
        # Every line says what has been compiled.
        logging.getLogger("fastconv").setLevel(logging.ERROR)
        functions: list[tuple[str, float]] = []

        def report(warmed: Warmed) -> None:
            functions.extend(warmed.functions)
            print(f"{warmed.seconds:6.2f} s  {warmed.name}", flush=True)
            for name, taken in warmed.functions:
                print(f"{taken:17.2f} s  {name}")

        seconds = warmup(args.dtype or DTYPES, report)
        print(f"{seconds:6.2f} s in all, {len(functions)} functions compiled")
        if functions:
            name, taken = max(functions, key=lambda function: function[1])
            print(f"{taken:6.2f} s the longest of them, {name}")
        if args.tune:
            fits = tuning.tune(args.ops or tuple(OPS), args.seconds or 60.0, lambda text: print(text, file=sys.stderr))
            print(*tuning.table(fits), sep="\n")
    elif args.command == "report":
        return command.run(parser, args)
    elif args.command == "bench":
        return _bench(parser, args)
    elif args.command == "summary":
        try:
            print(_summary(args))
        except (ValueError, TypeError) as error:
            parser.error(str(error))
    else:
        try:
            problem, ops = _problem(args)
        except (ValueError, TypeError) as error:
            parser.error(str(error))
        if args.backend == "cuda":
            try:
                device.cupy()
            except RuntimeError as error:
                parser.error(f"--backend cuda: {error}")
        with _waiting("measuring every kernel") if args.measure else nullcontext():
            explained = explain(problem, measure=args.measure, ops=ops, kept=args.kept, backend=args.backend)
        print(explained)
    return 0


if __name__ == "__main__":
    sys.exit(main())
