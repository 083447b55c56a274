"""Executes CUDA kernels on the CPU and checks what they do: unchanged .cu files, NumPy arrays, no GPU.

    from fastconv import cudaemu

    module = cudaemu.Module("saxpy.cu", flavour="check")
    module.get_function("saxpy")((4,), (256,), (x, cudaemu.Out(y), numpy.float32(2), numpy.int32(n)))

docs/cuda.md says what it shows and what it cannot.
"""

from fastconv.cudaemu.executor import (
    FLAVOURS,
    KINDS,
    ORDERS,
    CompileError,
    Counts,
    Finding,
    Found,
    Function,
    Line,
    Module,
    Out,
    Place,
    kernel_names,
)

__all__ = [
    "FLAVOURS",
    "KINDS",
    "ORDERS",
    "CompileError",
    "Counts",
    "Finding",
    "Found",
    "Function",
    "Line",
    "Module",
    "Out",
    "Place",
    "kernel_names",
]
