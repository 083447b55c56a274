"""Bugs for winograd_weight.cu."""

MODULES = ("conv_winograd_weight",)

BUGS = {
    "padding of the input read": ("tiles_of_input", "(unsigned)(u + s) < (unsigned)width", "u + s < width"),
    "tiles that are not there": ("tiles_of_input", "if (number >= tiles) return {0,", "if (number > tiles) return {0,"),
    "the padding twice": ("tiles_of_input", "tile.i - top, tile.j - left", "tile.i - 2 * top, tile.j - left"),
    "tiles beyond the last share": ("tiles_of_input", "int of = number / share;", "int of = (number + 1) / share;"),
    "a gradient's tiles too far apart": ("tiles_of_gradient", "oh, ow, tile.i, tile.j)", "oh, ow, tile.i + 1, tile.j)"),
    "gradients of another channel": (
        "tiles_of_gradient",
        "gy + ((size_t)tile.n * k_count + k)",
        "gy + ((size_t)tile.n * k_count + k / 2)",
    ),
    "gradients of the first image": (
        "tiles_of_gradient",
        "gy + ((size_t)tile.n * k_count + k)",
        "gy + (size_t)k",
    ),
    "products of the first share": ("windows", "share < shares; share++) sum", "share < 1; share++) sum"),
    "windows on their side": ("windows", "out[tap / 3][tap % 3]", "out[tap % 3][tap / 3]"),
    "windows past the end": ("windows", "if (k >= count) return;", "if (k > count) return;"),
}
