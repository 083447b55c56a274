"""Bugs for weight.cu."""

MODULES = ("conv_weight",)

BUGS = {
    "no barrier between pixels": ("weight", "        __syncthreads();\n        if", "        if"),
    "pixels not waited for": ("weight", "__pipeline_wait_prior(0);", "__pipeline_wait_prior(1);"),
    "pixels of the next share": (
        "weight",
        "min(pixels, (int)(blockIdx.z + 1) * share)",
        "min(pixels, (int)(blockIdx.z + 2) * share)",
    ),
    "rows that do not end": ("weight", "if (++i == oh) i = 0,", "if (++i == oh)"),
    "a row too few": ("weight", "j >= ow; j -= ow)", "j > ow; j -= ow)"),
    "images that do not end": ("weight", "of_x += image, of_g", "of_g"),
    "q of another row": ("weight", "const int4 at = places[row + e * ROWS];", "const int4 at = places[row + e];"),
    "places read too early": ("weight", "    __syncthreads();\n    int pixel =", "    int pixel ="),
    "channels past the end": ("weight", "there ? o_count - first_o - row : 0;", "there ? o_count - first_o : 0;"),
    "the first shares only": ("sum_shares", "share < shares; share++", "share < shares - 1; share++"),
    "a sum past the weights": ("sum_shares", "if (k >= count) return;", "if (k > count) return;"),
}
