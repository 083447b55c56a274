"""Bugs for direct.cu."""

MODULES = ("conv_direct",)

BUGS = {
    "padding read": (
        "direct",
        "if ((unsigned)v < (unsigned)h && (unsigned)u < (unsigned)width)\n                        total += weight",
        "if ((unsigned)v < (unsigned)h)\n                        total += weight",
    ),
    "channels of the first group": ("direct", "(size_t)(o / og) * cg) * h", "(size_t)(o / cg) * cg) * h"),
    "the activation before z": (
        "direct",
        "        if (z) total += z[to];\n        y[to] = activation ? activated(total, activation) : total;",
        "        y[to] = (activation ? activated(total, activation) : total) + (z ? z[to] : 0);",
    ),
    "strides not asked for": (
        "direct_grad_input",
        "if (i < 0 || i % sh || i / sh >= oh)",
        "if (i < 0 || i / sh >= oh)",
    ),
    "outputs that are not there": ("direct_grad_input", "|| j / sw >= ow)", ")"),
    "every thread's sum": ("direct_grad_weight", "if (threadIdx.x == 0) gw[number] = total;", "gw[number] = total;"),
    "a thread that does not come": (
        "direct_grad_weight",
        "        total = over_block<Sum>(total);",
        "        if (threadIdx.x < oh * ow) total = over_block<Sum>(total);",
    ),
    "half of the warp's sum": ("direct_grad_weight", "int step = 16;", "int step = 8;", "reduce.cuh"),
}
