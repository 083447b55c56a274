"""Bugs for weight.cu."""

MODULES = ("conv_weight",)

BUGS = {
    "no barrier between pixels": ("weight", "        __syncthreads();\n", ""),
    "pixels not waited for": ("weight", "__pipeline_wait_prior(0);", "__pipeline_wait_prior(1);"),
    "pixels of the next share": (
        "weight",
        "min(pixels, (int)(blockIdx.z + 1) * share)",
        "min(pixels, (int)(blockIdx.z + 2) * share)",
    ),
    "rows that do not end": ("weight", "if (++i == plane / ow) i = 0, n++;", "++i;"),
    "a row too few": ("weight", "j >= ow; j -= ow)", "j > ow; j -= ow)"),
    "q of another row": ("weight", "int q = first_q + row + e * 16;", "int q = first_q + row + e;"),
    "the first shares only": ("sum_shares", "share < shares; share++", "share < shares - 1; share++"),
    "a sum past the weights": ("sum_shares", "if (k >= count) return;", "if (k > count) return;"),
}
