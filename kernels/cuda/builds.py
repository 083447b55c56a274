"""How the .cu files are compiled: every set of defines that a launch may ask for."""

from itertools import product

_REALS = [{"REAL": "float"}, {"REAL": "double"}]

BUILDS: dict[str, list[dict[str, object]]] = {
    "direct.cu": _REALS,
    "gemm.cu": [
        {"TILE": tile, "A_BY_K": a, "B_BY_K": b} for tile, (a, b) in product((64, 128), ((1, 1), (1, 0), (0, 0)))
    ],
    "implicit.cu": [{"TILE_O": o, "TILE_P": pixels, "TILE_Q": 16} for o, pixels in ((128, 128), (64, 256))],
    "pointwise.cu": [{"FUNCTION": number} for number in (1, 2, 3)],
    "pool.cu": _REALS,
    "rnn.cu": [{"CELL": cell, "ROWS": rows} for cell, rows in product((0, 1, 2), (16, 64))],
    "weight.cu": [{}],
    "winograd.cu": [{"M": 2}, {"M": 4}],
}

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")


def name(file: str, defines: dict[str, object]) -> str:
    """What a build is called: gemm.cu TILE=64 …"""
    return " ".join([file, *(f"{key}={value}" for key, value in defines.items())])
