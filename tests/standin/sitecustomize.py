"""A process that has this folder on its path, and tests/, has the stand-in for CuPy from its start."""

import sys

import cupy_standin

sys.modules["cupy"] = cupy_standin.module
