"""Bugs for dot.cu."""

MODULES = ("linear_dot",)

BUGS = {
    "a column too many": ("dot", "if (column >= columns) return;", "if (column > columns) return;"),
    "rows of w in pieces": ("dot", "w += (size_t)column * depth;", "w += (size_t)column * 4;"),
    "vectors of rows that are none": ("dot", "if (depth % 4 == 0) {", "if (depth % 4 <= 1) {"),
    "a row of x too many": ("dot", "if (r < rows) sum[r]", "if (r <= rows) sum[r]"),
    "half of the lanes": ("dot", "k = lane; k < depth; k += 32", "k = lane; k < depth; k += 64"),
    "the bias of a row": ("dot", "__ldg(bias + column)", "__ldg(bias + r)"),
}
