"""Bugs for optim.cu."""

import numpy as np

from fastconv import optim, tensor
from fastconv.kernels.cuda import optim as steps

SIZE = 300
CHOICES = (
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.2}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    (optim.Adam, {"lr": 0.1, "weight_decay": 0.2, "eps": 1e-3}),
    (optim.Adam, {"lr": 0.1, "betas": (0.5, 0.7), "maximize": True}),
)


def works():
    """Whether the kernels are right."""
    random = np.random.default_rng(2).standard_normal
    for make, options in CHOICES:
        p = tensor(random(SIZE).astype(np.float32), requires_grad=True)
        q, m, v = p.detach().numpy().copy(), np.zeros(SIZE, np.float32), np.zeros(SIZE, np.float32)
        optimizer = make([p], **options)
        for step in (1, 2, 3):
            g = random(SIZE).astype(np.float32)
            p.grad = tensor(g)
            optimizer.step()
            if make is optim.Adam:
                steps.adam(q, g, m, v, step, **options)
            else:
                steps.sgd(q, g, v if "momentum" in options else None, first=step == 1, **options)
        if not np.allclose(p.detach().numpy(), q, atol=1e-5):
            return False
    return True


BUGS = {
    "the first v is a share of g": ("sgd", "first ? g : v[k]", "first ? share * g : v[k]"),
    "the first v is read": ("sgd", "first ? g : v[k] * momentum + share * g", "v[k] * momentum + share * g"),
    "Nesterov's v without momentum": ("sgd", "nesterov ? g + momentum * moved : moved", "nesterov ? g + moved : moved"),
    "an element too many": (
        "sgd",
        "k < n; k += gridDim.x * THREADS) {\n        float g = slope(grad[k], p[k], weight_decay, maximize);\n"
        "        if",
        "k <= n; k += gridDim.x * THREADS) {\n        float g = slope(grad[k], p[k], weight_decay, maximize);\n"
        "        if",
    ),
    "decay grows": ("sgd", "g + weight_decay * p", "g - weight_decay * p"),
    "v kept as it was": ("adam", "        v[k] = square;\n", ""),
    "the mean as it was": ("adam", "p[k] -= size * mean", "p[k] -= size * m[k] * 0.9f"),
    "eps under the root": ("adam", "(sqrtf(square) / scale + eps)", "(sqrtf(square + eps) / scale)"),
    "g not squared": ("adam", "share2 * (g * g)", "share2 * fabsf(g)"),
}
