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
    "weights past the end": ("implicit", "q0 + q < depth && first_o + o < row", "q0 + q < depth"),
    "a sum too deep": (
        "implicit",
        "bool there = q0 + q < depth && first_o + o < row;",
        "bool there = first_o + o < row;",
    ),
    "padding above only": ("implicit", "(unsigned)(u0 + at.z) < (unsigned)width", "u0 + at.z >= 0"),
    "a channel too many": ("implicit", "if (o >= o_count) continue;", "if (o > o_count) continue;"),
    "vectors across images": (
        "implicit",
        "bool whole = plane % 4 == 0 && p + 3 < pixels;",
        "bool whole = p + 3 < pixels;",
    ),
    "the other half's pixels": ("implicit", "sum[r] + half * 4", "sum[r]"),
    "packed by columns": (
        "pack",
        "int tap = q % taps, of = q / taps;",
        "int tap = q / taps, of = q % taps;",
    ),
    "zeros not written": (
        "pack",
        "if (o >= row) return;",
        "if (o >= (flip ? c_count : o_count)) return;",
    ),
    "packed past the end": ("pack", "if (o >= row) return;", "if (o > row) return;"),
}
