"""Bugs for winograd.cu."""

MODULES = ("conv_winograd",)

BUGS = {
    "a weight's windows not turned": (
        "transform_weights",
        "flip ? 8 - r * 3 - s :",
        "flip ? r * 3 + s :",
    ),
    "channels exchanged": ("transform_weights", "+ k) * m_count + m] =", "+ m) * k_count + k] ="),
    "padding of a tile read": (
        "transform_input",
        "(unsigned)(u0 + s) < (unsigned)width",
        "u0 + s < width",
    ),
    "tiles too far apart": ("transform_input", "int v0 = i * M - top,", "int v0 = i * (M + 1) - top,"),
    "rows beyond the output": ("transform_output", "i * M + r >= oh ||", "i * M + r > oh ||"),
    "products of another channel": (
        "transform_output",
        "products[((size_t)(r * A + s) * m_count + m)",
        "products[((size_t)(r * A + s) * m_count + m / 2)",
    ),
}
