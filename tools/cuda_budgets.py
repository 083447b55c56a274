"""Write kernels/cuda/cuda_budgets.json: what nvcc and NVRTC need today. `python tools/cuda_budgets.py`.

A budget is, of a kernel in a build, the most registers and shared memory of both on all architectures and the least
occupancy. It is set anew where a kernel changes on purpose; tests/test_cuda_compile.py holds every build to it.
"""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from itertools import product

from fastconv.cudaemu import static
from fastconv.kernels.cuda import builds, launch

THREADS = 256


def main() -> None:
    of_builds = [(f, d) for f, every in builds.BUILDS.items() for d in every]
    jobs = list(product(of_builds, builds.ARCHITECTURES, (static.nvcc, static.nvrtc)))
    with ThreadPoolExecutor(2) as pool:
        usages = list(pool.map(lambda job: job[2](launch.HERE / job[0][0], job[0][1], job[1]), jobs))
    budgets: dict[str, dict[str, dict[str, float]]] = {}
    for ((file, defines), architecture, _), found in zip(jobs, usages, strict=True):
        for usage in found:
            of_build = budgets.setdefault(builds.name(file, defines), {})
            now = of_build.setdefault(usage.kernel, {"registers": 0, "shared": 0, "occupancy": 1.0})
            share = static.occupancy(usage, THREADS, architecture)[0]
            now["registers"] = max(now["registers"], math.ceil(usage.registers / 8) * 8)
            now["shared"] = max(now["shared"], usage.shared)
            now["occupancy"] = min(now["occupancy"], math.floor(share * 1000) / 1000)
    path = launch.HERE / "cuda_budgets.json"
    path.write_text(json.dumps(budgets, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{path}: {len(budgets)} builds")


if __name__ == "__main__":
    main()
