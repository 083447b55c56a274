"""Bugs for implicit.cu."""

MODULES = ("conv_implicit",)

BUGS = {
    "no barrier": ("implicit", "        __syncthreads();\n", ""),
    "a barrier too early": (
        "implicit",
        "        __pipeline_wait_prior(0);\n        // All have",
        "        __syncthreads();\n        __pipeline_wait_prior(0);\n        if (step % 2)\n        // All have",
    ),
    "nothing waited for": ("implicit", "__pipeline_wait_prior(0);", "__pipeline_wait_prior(1);"),
    "the half that is read": ("implicit", "bring((step + 1) % 2,", "bring(step % 2,"),
    "weights past the end": ("implicit", "bool there = first_o + o < row;", "bool there = true;"),
    "padding above only": ("implicit", "(unsigned)(u0 + at.z) < (unsigned)width", "u0 + at.z >= 0"),
    "a channel too many": ("implicit", "if (o >= o_count) continue;", "if (o > o_count) continue;"),
    "vectors across images": ("implicit", "oi * oj == 1 && plane % 4 == 0 &&", "oi * oj == 1 &&"),
    "vectors of outputs apart": ("implicit", "oi * oj == 1 && plane % 4 == 0 &&", "plane % 4 == 0 &&"),
    "the other half's pixels": ("implicit", "sum[r] + half * 4", "sum[r]"),
    "places of the first grid": ("implicit", "__ldg(table + q0 + q)", "__ldg(table + q0 - grid.first + q)"),
    "weights of the first grid": ("implicit", "w + ((q0 + q) * row", "w + ((q0 - grid.first + q) * row"),
    "outputs of a grid too near": ("implicit", "grid.first_column + j * oj", "grid.first_column + j"),
    "all parts in one place": ("implicit", "    y += grid.part * ((size_t)images * o_count * oh * ow);\n", ""),
    "a part too few": ("sum_parts", "part < parts_count; part++", "part < parts_count - 1; part++"),
    "the first part again": ("sum_parts", "(size_t)part * count + k", "k"),
    "the bias of a pixel": ("sum_parts", "bias + k / plane % o_count", "bias + k % o_count"),
    "packed in a line": ("pack", "(size_t)k * apart", "k"),
    "weights of no place": ("pack", "first >= 0 && k < count ?", "k < count ?"),
    "zeros not written": ("pack", "if (k >= row) return;", "if (k >= count) return;"),
    "packed past the end": ("pack", "if (k >= row) return;", "if (k > row) return;"),
}
