"""Bugs for the CUDA kernels: in which file what is changed to what. Every one must be found (test_cuda_kernels.py).

A bug is (file, kernel that has it, what is right, what is wrong). `right` stands once in the file, or is followed by
what makes it so.
"""

BUGS = {
    # pool.cu
    "a place further": ("pool.cu", "max_pool", "y[to] = value;", "y[to + 1] = value;"),
    "the last of equal maxima": ("pool.cu", "max_pool", "v > most || v != v", "v >= most || v != v"),
    "windows reach before the plane": ("pool.cu", "max_pool", "return {start + begin * step", "return {start"),
    "windows reach behind the plane": (
        "pool.cu",
        "avg_pool",
        "min(kernel, (size - start + step - 1) / step)",
        "kernel",
    ),
    "rows counted as columns": (
        "pool.cu",
        "avg_pool",
        "s < columns.count; s++) total",
        "s < rows.count; s++) total",
    ),
    "a column's scale for a row": (
        "pool.cu",
        "avg_pool",
        "REAL scale = row_scale[i] * column_scale[j];",
        "REAL scale = row_scale[j] * column_scale[i];",
    ),
    "places of another plane": (
        "pool.cu",
        "max_pool_places",
        "places[((size_t)plane * oh + i) * ow + j] =",
        "places[(size_t)i * ow + j] =",
    ),
    "places of the first row missing": (
        "pool.cu",
        "max_pool_places",
        "        places[((size_t)plane * oh + i) * ow + j] =",
        "        if (i) places[((size_t)plane * oh + i) * ow + j] =",
    ),
    "a window too many": ("pool.cu", "max_pool_grad", "min((u + before) / stride, count - 1)", "(u + before) / stride"),
    "gradients set, not added": ("pool.cu", "max_pool_grad", "total += gy[window];", "total = gy[window];"),
    "gradients by the window's row alone": (
        "pool.cu",
        "avg_pool_grad",
        "(row_scale[i] * column_scale[j])",
        "row_scale[i]",
    ),
    "a gradient past the row": ("pool.cu", "avg_pool_grad", "(low + stride - 1) / stride", "low / stride - 1"),
    # pointwise.cu
    "the tail twice": (
        "pointwise.cu",
        "activate",
        "k = n / 4 * 4 + first; k < n; k += step) y[k]",
        "k = first; k < n; k += step) y[k]",
    ),
    "a vector too many": (
        "pointwise.cu",
        "activate",
        "for (int k = first; k < n / 4; k += step) {\n        float4 v = reinterpret_cast<const float4*>(x)",
        "for (int k = first; k <= n / 4; k += step) {\n        float4 v = reinterpret_cast<const float4*>(x)",
    ),
    "a third lane for a fourth": ("pointwise.cu", "activate", "value_of(v.w)", "value_of(v.z)"),
    "vectors from an odd place": ("pointwise.cu", "gradient", "const float4*>(gy)[k]", "const float4*>(gy + 1)[k]"),
    "no tail": ("pointwise.cu", "gradient", "k < n; k += step) gx[k]", "k < n / 4 * 4; k += step) gx[k]"),
    # implicit.cu
    "no barrier": ("implicit.cu", "implicit", "        __syncthreads();\n", ""),
    "a barrier too early": (
        "implicit.cu",
        "implicit",
        "        __pipeline_wait_prior(0);\n        // All have",
        "        __syncthreads();\n        __pipeline_wait_prior(0);\n        if (step % 2)\n        // All have",
    ),
    "nothing waited for": ("implicit.cu", "implicit", "__pipeline_wait_prior(0);", "__pipeline_wait_prior(1);"),
    "the half that is read": ("implicit.cu", "implicit", "bring((step + 1) % 2,", "bring(step % 2,"),
    "weights past the end": ("implicit.cu", "implicit", "q0 + q < depth && first_o + o < row", "q0 + q < depth"),
    "a sum too deep": (
        "implicit.cu",
        "implicit",
        "bool there = q0 + q < depth && first_o + o < row;",
        "bool there = first_o + o < row;",
    ),
    "padding above only": ("implicit.cu", "implicit", "(unsigned)(u0 + at.z) < (unsigned)width", "u0 + at.z >= 0"),
    "a channel too many": ("implicit.cu", "implicit", "if (o >= o_count) continue;", "if (o > o_count) continue;"),
    "vectors across images": (
        "implicit.cu",
        "implicit",
        "bool whole = plane % 4 == 0 && p + 3 < pixels;",
        "bool whole = p + 3 < pixels;",
    ),
    "the other half's pixels": ("implicit.cu", "implicit", "sum[r] + half * 4", "sum[r]"),
    "packed by columns": (
        "implicit.cu",
        "pack",
        "int tap = q % taps, of = q / taps;",
        "int tap = q / taps, of = q % taps;",
    ),
    "zeros not written": (
        "implicit.cu",
        "pack",
        "if (o >= row) return;",
        "if (o >= (flip ? c_count : o_count)) return;",
    ),
    "packed past the end": ("implicit.cu", "pack", "if (o >= row) return;", "if (o > row) return;"),
    # direct.cu
    "padding read": (
        "direct.cu",
        "direct",
        "if ((unsigned)v < (unsigned)h && (unsigned)u < (unsigned)width)\n                        total += weight",
        "if ((unsigned)v < (unsigned)h)\n                        total += weight",
    ),
    "channels of the first group": ("direct.cu", "direct", "(size_t)(o / og) * cg) * h", "(size_t)(o / cg) * cg) * h"),
    "the activation before z": (
        "direct.cu",
        "direct",
        "activated(z ? total + z[to] : total, activation)",
        "activated(total, activation) + (z ? z[to] : 0)",
    ),
    "strides not asked for": (
        "direct.cu",
        "direct_grad_input",
        "if (i < 0 || i % sh || i / sh >= oh)",
        "if (i < 0 || i / sh >= oh)",
    ),
    "outputs that are not there": ("direct.cu", "direct_grad_input", "|| j / sw >= ow)", ")"),
    "parts read too early": (
        "direct.cu",
        "direct_grad_weight",
        "        __syncthreads();\n        if (threadIdx.x == 0) {",
        "        if (threadIdx.x == 0) {",
    ),
    "a lane that does not come": (
        "direct.cu",
        "direct_grad_weight",
        "        for (int step = 16; step; step /= 2) total",
        "        if (threadIdx.x < oh * ow) for (int step = 16; step; step /= 2) total",
    ),
    "half of the warp's sum": ("direct.cu", "direct_grad_weight", "int step = 16;", "int step = 8;"),
    # gemm.cu
    "no barrier in the product": ("gemm.cu", "gemm", "        __syncthreads();\n", ""),
    "the next part not waited for": ("gemm.cu", "gemm", "__pipeline_wait_prior(0);", "__pipeline_wait_prior(1);"),
    "into the half that is read": (
        "gemm.cu",
        "gemm",
        "bring<B_BY_K, TILE>(part_b[part ^ 1],",
        "bring<B_BY_K, TILE>(part_b[part],",
    ),
    "rows past the end": ("product.cuh", "gemm", "row + r < rows && k0 + k < depth", "k0 + k < depth"),
    "a sum past its end": ("product.cuh", "gemm", "row + r < rows && k0 + k < depth", "row + r < rows"),
    "columns past the end": ("gemm.cu", "gemm", "if (n < columns) c[", "if (n <= columns) c["),
    "the bias of a row": ("gemm.cu", "gemm", "__ldg(bias + n)", "__ldg(bias + m)"),
    # rnn.cu
    "no barrier in a step": ("rnn.cu", "step", "        __syncthreads();\n", ""),
    "a step's next part not waited for": ("rnn.cu", "step", "__pipeline_wait_prior(0);", "__pipeline_wait_prior(1);"),
    "a state of nobody": ("rnn.cu", "step", "if (m >= b) continue;", "if (m > b) continue;"),
    "a unit of nobody": ("rnn.cu", "step", "if (unit >= h) continue;", "if (unit > h) continue;"),
    "read from the end of the longest": ("rnn.cu", "step", "length - 1 - now : now", "steps - 1 - now : now"),
    "the state of the end goes on": ("rnn.cu", "step", "bool active = now < length;", "bool active = now <= length;"),
    "the state of the end is lost": ("rnn.cu", "step", "                h_new[state] = before;\n", ""),
    "the padding not cleared": ("rnn.cu", "step", "                y[of * y_line + y_first + unit] = 0.0f;\n", ""),
    "the peephole of c before": ("rnn.cu", "step", "peephole[2 * h + unit] * next", "peephole[2 * h + unit] * old"),
    "packed by gates": (
        "rnn.cu",
        "pack",
        "w_hh[(size_t)(gate * h + unit) * h + k]",
        "w_hh[(size_t)(unit * gates + gate) * h + k]",
    ),
    "a gate that there is not": ("rnn.cu", "pack", "gate < gates && unit < h ?", "unit < h ?"),
    "the rest not zero": ("rnn.cu", "pack", "if (place >= line) return;", "if (place >= line - 1) return;"),
}
