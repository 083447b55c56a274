"""Write kernels/cuda/cuda_budgets.json: what nvcc and NVRTC need today. `python tools/cuda_budgets.py [FILE.cu …]`.

A budget is, of a kernel in a build, the most registers and shared memory of both on all architectures and the least
occupancy. It is set anew where a kernel changes on purpose; tests/test_cuda_compile.py holds every build to it.
"""

from __future__ import annotations

import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product

from fastconv.cudaemu import static
from fastconv.kernels.cuda import builds, launch


def main() -> None:
    wanted = sys.argv[1:] or list(builds.BUILDS)
    unknown = [file for file in wanted if file not in builds.BUILDS]
    if unknown:
        raise SystemExit(f"{unknown[0]}: needs some of {', '.join(builds.BUILDS)}")
    of_builds = [((f, d), a) for f in wanted for d in builds.BUILDS[f] for a in builds.architectures(f, d)]
    jobs = [(*job, compiler) for job, compiler in product(of_builds, (static.nvcc, static.nvrtc))]
    with ThreadPoolExecutor(2) as pool:
        usages = list(pool.map(lambda job: job[2](launch.HERE / job[0][0], job[0][1], job[1]), jobs))
    budgets: dict[str, dict[str, dict[str, float]]] = {}
    for ((file, defines), architecture, _), found in zip(jobs, usages, strict=True):
        for usage in found:
            of_build = budgets.setdefault(builds.name(file, defines), {})
            now = of_build.setdefault(usage.kernel, {"registers": 0, "shared": 0, "occupancy": 1.0})
            share = static.occupancy(usage, builds.threads(usage.kernel), architecture)[0]
            now["registers"] = max(now["registers"], math.ceil(usage.registers / 8) * 8)
            now["shared"] = max(now["shared"], usage.shared)
            now["occupancy"] = min(now["occupancy"], math.floor(share * 1000) / 1000)
    path = launch.HERE / "cuda_budgets.json"
    names = {builds.name(file, defines) for file, every in builds.BUILDS.items() for defines in every}
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    budgets = {name: budget for name, budget in (before | budgets).items() if name in names}
    path.write_text(json.dumps(budgets, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{path}: {len(budgets)} builds")


if __name__ == "__main__":
    main()
