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
        "activated(z ? total + z[to] : total, activation)",
        "activated(total, activation) + (z ? z[to] : 0)",
    ),
    "strides not asked for": (
        "direct_grad_input",
        "if (i < 0 || i % sh || i / sh >= oh)",
        "if (i < 0 || i / sh >= oh)",
    ),
    "outputs that are not there": ("direct_grad_input", "|| j / sw >= ow)", ")"),
    "parts read too early": (
        "direct_grad_weight",
        "        __syncthreads();\n        if (threadIdx.x == 0) {",
        "        if (threadIdx.x == 0) {",
    ),
    "a lane that does not come": (
        "direct_grad_weight",
        "        for (int step = 16; step; step /= 2) total",
        "        if (threadIdx.x < oh * ow) for (int step = 16; step; step /= 2) total",
    ),
    "half of the warp's sum": ("direct_grad_weight", "int step = 16;", "int step = 8;"),
}
