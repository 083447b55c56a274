"""CUDA kernels: .cu files, and for each a module that registers what it does and computes its launches."""
