"""Bugs for gemm.cu."""

MODULES = ("linear", "conv_winograd")

BUGS = {
    "no barrier in the product": ("gemm", "        __syncthreads();\n", ""),
    "the next part not waited for": ("gemm", "__pipeline_wait_prior(0);", "__pipeline_wait_prior(1);"),
    "into the half that is read": (
        "gemm",
        "bring<B_BY_K, TILE>(part_b[part ^ 1],",
        "bring<B_BY_K, TILE>(part_b[part],",
    ),
    "rows past the end": ("gemm", "row + r < rows && k0 + k < depth", "k0 + k < depth", "product.cuh"),
    "a sum past its end": ("gemm", "row + r < rows && k0 + k < depth", "row + r < rows", "product.cuh"),
    "columns past the end": ("gemm", "if (n < columns) c[", "if (n <= columns) c["),
    "the first of several products": ("gemm", "    b += blockIdx.z * b_batch;\n", ""),
    "the bias of a row": ("gemm", "__ldg(bias + n)", "__ldg(bias + m)"),
}
