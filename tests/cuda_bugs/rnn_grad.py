"""Bugs for rnn_grad.cu and, of a cell's arithmetic, rnn_back.cuh."""

MODULES = ("rnn_grad",)

BUGS = {
    "no barrier on the way back": ("back", "        __syncthreads();\n", ""),
    "the next part not waited for": ("back", "__pipeline_wait_prior(0);", "__pipeline_wait_prior(1);"),
    "a sequence of nobody": ("back", "if (m >= b) continue;", "if (m > b) continue;"),
    "a unit of nobody": ("back", "if (unit >= h) continue;", "if (unit > h) continue;"),
    "both directions read forth": (
        "back",
        "place_of(m, now, lengths, steps, d,",
        "place_of(m, now, lengths, steps, 0,",
    ),
    "the first direction's U": ("back", "    w_hh += (size_t)d * width * h;\n", ""),
    "peepholes of c before": ("back", "of.dz[3] * (f * old + i * g)", "of.dz[3] * old", "rnn_back.cuh"),
    "dc before the forget gate": ("back", "    dc *= f;\n", "", "rnn_back.cuh"),
    "batch first as time first": ("unpadded", "m = time_stride == 1 ? row / steps : row % b", "m = row % b"),
    "not to the end": ("unpadded", "k < count;", "k < count - 1;"),
}
