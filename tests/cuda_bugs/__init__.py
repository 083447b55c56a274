"""Bugs for the CUDA kernels: what is changed to what. Every one must be found (test_cuda_kernels.py).

A file here for each .cu file: BUGS = {what is wrong: (kernel that has it, what is right, what is wrong)}, with a fourth
entry where the change is in a header. `right` stands once in the file, or is followed by what makes it so. The kernels
of MODULES, of kernels/cuda, then do all small cases; of what these leave out works() says whether it is right, first.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, NamedTuple


class Bug(NamedTuple):
    """A bug for a kernel of the file `of`: in `file`, which it is or includes, `right` becomes `wrong`."""

    of: str
    kernel: str
    right: str
    wrong: str
    file: str


FILES: dict[str, Any] = {
    f"{info.name}.cu": importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)
}
BUGS = {
    f"{of} {name}": Bug(of, kernel, right, wrong, *(header or [of]))
    for of, module in FILES.items()
    for name, (kernel, right, wrong, *header) in module.BUGS.items()
}
