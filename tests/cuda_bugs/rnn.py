"""Bugs for rnn.cu."""

MODULES = ("rnn_steps",)

BUGS = {
    "no barrier in a step": ("step", "        __syncthreads();\n", ""),
    "a step's next part not waited for": ("step", "__pipeline_wait_prior(0);", "__pipeline_wait_prior(1);"),
    "a state of nobody": ("step", "if (m >= b) continue;", "if (m > b) continue;"),
    "a unit of nobody": ("step", "if (unit >= h) continue;", "if (unit > h) continue;"),
    "read from the end of the longest": ("step", "length - 1 - now : now", "steps - 1 - now : now"),
    "the state of the end goes on": ("step", "bool active = now < length;", "bool active = now <= length;"),
    "the state of the end is lost": ("step", "                h_new[state] = before;\n", ""),
    "the padding not cleared": ("step", "                y[of * y_line + y_first + unit] = 0.0f;\n", ""),
    "the peephole of c before": ("step", "peephole[2 * h + unit] * next", "peephole[2 * h + unit] * old"),
    "packed by gates": (
        "pack",
        "w_hh[(size_t)(gate * h + unit) * h + k]",
        "w_hh[(size_t)(unit * gates + gate) * h + k]",
    ),
    "a gate that there is not": ("pack", "gate < gates && unit < h ?", "unit < h ?"),
    "the rest not zero": ("pack", "if (place >= line) return;", "if (place >= line - 1) return;"),
}
