"""What can be computed of the CUDA kernels without a GPU, as tables in the terminal and as a page: `make cuda-report`.

`code.py`: registers, occupancy and main loops, as nvcc compiles them; `bounds.py`: the least time that problems could
take on the devices of `devices.py`; `memory.py`: how warps touch memory, as the executor counts it; `terminal.py` and
`page.py` show them. Computed, not measured: nothing here says how fast a kernel is.
"""
