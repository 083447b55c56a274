"""Bugs for tensor_weight.cu."""

from cuda_bugs.tensor import right


def works():
    """Whether the kernel is right."""
    return right("conv2d_grad_weight")


BUGS = {
    "no barrier": ("tensor_weight", "        __syncthreads();\n        const bool more", "        const bool more"),
    "no barrier before the sums": ("tensor_weight", "    __syncthreads();\n    if (!mult", "    if (!mult"),
    "the half that is read": ("tensor_weight", "put(held[part ^ 1] + TILE)", "put(held[part] + TILE)"),
    "pixels past the end": ("tensor_weight", "bool there = pixel < end", "bool there = pixel <= end"),
    "channels past the end": ("tensor_weight", "pixel < end && o < o_count ?", "pixel < end && o <= o_count ?"),
    "the table past its end": ("tensor_weight", "q < q_count ? __ldg(table", "q <= q_count ? __ldg(table"),
    "a step too far": ("tensor_weight", "j >= ow; j -= ow)", "j > ow; j -= ow)"),
    "an image's rows": ("tensor_weight", "if (++i == oh)", "if (++i > oh)"),
    "a share's place": ("tensor_weight", "(size_t)blockIdx.z * o_count * q_count", "(size_t)blockIdx.z * q_count"),
    "a q too many": ("tensor_weight", "if (q < q_count && o", "if (q <= q_count && o"),
    "one half multiplied twice": ("tensor_weight", "multiply(of_g, of_x, STEP, sum)", "multiply(of_g, of_x, 0, sum)"),
    "sums begun with something": ("tensor_weight", "    clear(sum);\n", ""),
}
