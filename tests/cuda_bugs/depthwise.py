"""Bugs for depthwise.cu."""

MODULES = ("conv_depthwise",)

BUGS = {
    "a row's last element for the next row's first": (
        "depthwise",
        "there && s < count && (unsigned)(u + s * STEP) < (unsigned)width ?",
        "there && s < count ?",
    ),
    "a result too few in registers": (
        "depthwise",
        "|| (v - r) / S >= ROWS) continue;",
        "|| (v - r) / S >= ROWS - 1) continue;",
    ),
    "a channel's windows for the next": (
        "depthwise",
        "const int o = plane % o_count;",
        "const int o = (plane + 1) % o_count;",
    ),
    "x of another multiplier": ("depthwise", "(size_t)(plane / og) * h", "(size_t)plane * h"),
    "rows past the end": ("depthwise", "if (i0 + t >= oh) break;", "if (i0 + t > oh) break;"),
    "the columns' dilation for rows": (
        "depthwise",
        "v0 + t * sh + r * dh, u0 + s * dw",
        "v0 + t * sh + r * dw, u0 + s * dw",
    ),
    "taps of another remainder": ("depthwise_grad_input", "s0 = (u + left) % S;", "s0 = (u + left + 1) % S;"),
    "rows of another remainder": ("depthwise_grad_input", "* ROWS - top % sh;", "* ROWS;"),
    "a row above the first": ("depthwise_grad_input", "if (v0 + t >= 0 && v0 + t < h)", "if (v0 + t < h)"),
    "the last of several outputs": (
        "depthwise_grad_input",
        "(plane % c_count * og + q) * kh",
        "(plane % c_count * og) * kh",
    ),
    "outputs in the wrong direction": ("depthwise_grad_input", "s += next_s, j -= back_j", "s += next_s, j += back_j"),
    "taps that no output meets": ("depthwise_grad_input", "s += next_s,", "s++,"),
    "sums read too early": (
        "depthwise_grad_weight",
        "    __syncthreads();\n    if (t < side * side)",
        "    if (t < side * side)",
    ),
    "a warp's sum left out": ("depthwise_grad_weight", "int k = 1; k < warps", "int k = 2; k < warps"),
    "the pieces of other shares": (
        "depthwise_grad_weight",
        "piece < pieces; piece += gridDim.y",
        "piece < pieces; piece++",
    ),
    "images past the end": ("depthwise_grad_weight", "if (n >= images || i0", "if (n > images || i0"),
    "outputs that are not there": ("depthwise_grad_weight", "g[t] = i0 + t < oh ?", "g[t] = i0 + t <= oh ?"),
    "the last share left out": ("sum_shares", "share < shares; share++", "share < shares - 1; share++"),
    "shares of another weight": ("sum_shares", "(size_t)share * count + k", "(size_t)share * count + k / 2"),
    "weights past the end": ("sum_shares", "if (k >= count) return;", "if (k > count) return;"),
}
