"""Bugs for gemm.cu."""

MODULES = ("linear", "conv_winograd", "conv_winograd_weight")

BUGS = {
    "no barrier in the product": ("gemm", "        __syncthreads();\n", ""),
    "the next part not waited for": ("gemm", "__pipeline_wait_prior(0);", "__pipeline_wait_prior(1);"),
    "into the half that is read": (
        "gemm",
        "of_b.bring(part_b[part ^ 1]);",
        "of_b.bring(part_b[part]);",
    ),
    "rows past the end": ("gemm", "rows_left = rows - r;", "rows_left = rows;", "product.cuh"),
    "a sum past its end": ("gemm", "depth_left = depth - k;", "depth_left = depth;", "product.cuh"),
    "a part without end": ("gemm", "        depth_left -= TILE_K;\n", "", "product.cuh"),
    "columns past the end": ("gemm", "if (n < columns) c[", "if (n <= columns) c["),
    "the first of several products": ("gemm", "    b += blockIdx.z * b_batch;\n", ""),
    "the bias of a row": ("gemm", "__ldg(bias + n)", "__ldg(bias + m)"),
}
