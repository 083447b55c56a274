"""CPU kernels: Numba on the SIMD types of simd.py. Every file here that registers a kernel is found by itself."""
