"""Bugs for rnn.cu and, of a cell's arithmetic, rnn_cell.cuh."""

MODULES = ("rnn_steps",)

_CELL = "rnn_cell.cuh"
BUGS = {
    "no barrier in a step": ("step", "        __syncthreads();\n", ""),
    "a step's next part not waited for": ("step", "__pipeline_wait_prior(0);", "__pipeline_wait_prior(1);"),
    "a state of nobody": ("step", "if (m >= b) continue;", "if (m > b) continue;"),
    "a unit of nobody": ("step", "if (first >= h) return;", "if (first > h) return;"),
    "the state of the end is lost": ("step", "at.runs ? after : before", "after"),
    "the first direction's U": ("step", "    u += (size_t)d * h * line;\n", ""),
    "the state of the end goes on": ("step", "bool runs = now < length;", "bool runs = now <= length;", _CELL),
    "the peephole of c before": ("step", "to_o += peephole[2 * h] * c", "to_o += peephole[2 * h] * old", _CELL),
    "packed by gates": (
        "pack",
        "w_hh[((size_t)(d * GATES + gate) * h + unit) * h + k]",
        "w_hh[((size_t)(d * h + unit) * GATES + gate) * h + k]",
    ),
    "the rest not zero": ("pack", "if (place >= line) return;", "if (place >= line - 1) return;"),
}
