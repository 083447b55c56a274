"""Bugs for rnn_persistent.cu."""

MODULES = ("rnn_persistent",)

BUGS = {
    "no barrier before the first step": (
        "persistent",
        "    __syncthreads();\n\n    const float* old",
        "\n    const float* old",
    ),
    "no barrier between steps": ("persistent", "        __syncthreads();\n        old = next;", "        old = next;"),
    "h(t) over h(t - 1)": ("persistent", "now % 2 ? 0 : h * sequences", "0"),
    "U not whole": ("persistent", "k < h * line / 4;", "k < h * line / 4 - 1;"),
    "a sequence of nobody": ("persistent", "if (m0 + s < b) y[", "if (m0 + s <= b) y["),
    "the state of the end is lost": ("persistent", "at[s].runs ? after : before", "after"),
    "columns of a neighbour": (
        "persistent",
        "weights + k * line + threadIdx.x * 4",
        "weights + k * line + (threadIdx.x ^ 1) * 4",
    ),
    "the end of the step before": ("persistent", "hn[state + e] = old[", "hn[state + e] = states["),
    "no barrier on the way back": ("persistent_back", "__syncthreads();\n        if (unit >= h)", "if (unit >= h)"),
    "dz(t) over dz(t + 1)": ("persistent_back", "old = next, next = free;", "old = next;"),
    "the last step's product": ("persistent_back", "now + 1 < steps ? width : 0", "width"),
    "a sequence of nobody on the way back": ("persistent_back", "if (m < b) {", "if (m <= b) {"),
    "h0's gradient without its product": ("persistent_back", "now >= (gh0 ? -1 : 0)", "now >= 0"),
}
