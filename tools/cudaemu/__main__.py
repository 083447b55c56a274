"""`python -m fastconv.cudaemu FILE.cu --kernel NAME --grid 4 --block 256 ARGUMENT …`: check one launch.

An argument is float:0.5, int:7, in:float32:1024 (random, read only), out:float32:32,32 (to be written) or
inout:float32:1024 (random). Exit status 1 if anything is found.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv.cudaemu.executor import FLAVOURS, ORDERS, CompileError, Found, Module, Out


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def argument(text: str, generator: np.random.Generator) -> Any:
    """What an argument of the command stands for. ValueError for anything else."""
    kind, _, rest = text.partition(":")
    if kind in ("float", "int"):
        return np.float32(rest) if kind == "float" else np.int32(rest)
    dtype, _, shape = rest.partition(":")
    if kind not in ("in", "out", "inout") or not shape:
        raise ValueError(f"{text!r}: needs float:X, int:X, in:DTYPE:SHAPE, out:DTYPE:SHAPE or inout:DTYPE:SHAPE")
    wanted = np.dtype(dtype)
    if kind == "out":
        return Out(np.empty(_sizes(shape), wanted))
    values = generator.standard_normal(_sizes(shape))
    return (values if wanted.kind == "f" else values * 100).astype(wanted)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser("python -m fastconv.cudaemu", description=__doc__)
    parser.add_argument("file", help="a .cu file")
    parser.add_argument("--kernel", help="default: the only one")
    parser.add_argument("--grid", type=_sizes, default=(1,))
    parser.add_argument("--block", type=_sizes, default=(256,))
    parser.add_argument("--shared", type=int, default=0, help="bytes of dynamic shared memory")
    parser.add_argument("-D", dest="defines", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--flavour", choices=FLAVOURS, default="check")
    parser.add_argument("--order", choices=ORDERS, default="random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("arguments", nargs="*", help="what the kernel is given: see above")
    args = parser.parse_intermixed_args(argv)
    generator = np.random.default_rng(args.seed)
    try:
        defines = dict(word.partition("=")[::2] for word in args.defines)
        module = Module(args.file, defines, args.flavour)
        if args.kernel is None and len(module.kernels) != 1:
            raise ValueError(f"--kernel: needs one of {', '.join(module.kernels) or 'none, for the file has none'}")
        function = module.get_function(args.kernel or module.kernels[0])
        given = [argument(text, generator) for text in args.arguments]
        looked = function(args.grid, args.block, given, args.shared, order=args.order, seed=args.seed)
    except Found as found:
        print(found)
        return 1
    except (ValueError, TypeError, OSError, CompileError) as error:
        parser.error(str(error))
    print(f"{function.name}: nothing found, {looked} loads and stores looked at")
    for value in given:
        if isinstance(value, Out):
            print(value.array)
    return 0


if __name__ == "__main__":
    sys.exit(main())
