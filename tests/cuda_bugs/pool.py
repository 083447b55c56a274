"""Bugs for pool.cu."""

MODULES = ("pool",)

BUGS = {
    "a place further": ("max_pool", "y[to] = value;", "y[to + 1] = value;"),
    "the last of equal maxima": ("max_pool", "v > most || v != v", "v >= most || v != v"),
    "windows reach before the plane": ("max_pool", "return {start + begin * step", "return {start"),
    "windows reach behind the plane": (
        "avg_pool",
        "min(kernel, (size - start + step - 1) / step)",
        "kernel",
    ),
    "rows counted as columns": (
        "avg_pool",
        "s < columns.count; s++) total",
        "s < rows.count; s++) total",
    ),
    "a column's scale for a row": (
        "avg_pool",
        "REAL scale = row_scale[i] * column_scale[j];",
        "REAL scale = row_scale[j] * column_scale[i];",
    ),
    "places of another plane": (
        "max_pool_places",
        "places[((size_t)plane * oh + i) * ow + j] =",
        "places[(size_t)i * ow + j] =",
    ),
    "places of the first row missing": (
        "max_pool_places",
        "        places[((size_t)plane * oh + i) * ow + j] =",
        "        if (i) places[((size_t)plane * oh + i) * ow + j] =",
    ),
    "a window too many": ("max_pool_grad", "min((u + before) / stride, count - 1)", "(u + before) / stride"),
    "gradients set, not added": ("max_pool_grad", "total += gy[window];", "total = gy[window];"),
    "gradients by the window's row alone": (
        "avg_pool_grad",
        "(row_scale[i] * column_scale[j])",
        "row_scale[i]",
    ),
    "a gradient past the row": ("avg_pool_grad", "(low + stride - 1) / stride", "low / stride - 1"),
}
