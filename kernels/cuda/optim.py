"""Steps of SGD and Adam on contiguous float32 arrays in place, one launch each: optim.cu.

They do what fastconv.optim's do, whose options these are.
"""

from math import sqrt

from fastconv.kernels.cuda.launch import launch, out, spread

BUILDS = {"optim.cu": [{}]}

_THREADS = 256


def sgd(p, g, v, *, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False, first=False):
    """A step of p by its gradient g. v: the momentum's buffer, None without momentum; the first step only writes it."""
    buffer = out(v) if v is not None and first else v
    numbers = (float(lr), float(momentum), 1.0 - dampening, float(weight_decay))
    args = (p, g, buffer, p.size, *numbers, bool(nesterov), bool(maximize), bool(first))
    launch("optim.cu", "sgd", (spread(p.size, _THREADS),), (_THREADS,), args)


def adam(p, g, m, v, step, *, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, maximize=False):
    """Step number `step`, from 1, of p by its gradient g. m, v: the moving means of g and g², zeros at first."""
    beta1, beta2 = map(float, betas)
    size, scale = float(lr) / (1 - beta1**step), sqrt(1 - beta2**step)
    numbers = (size, 1 - beta1, beta2, 1 - beta2, scale, float(eps), float(weight_decay))
    args = (p, g, m, v, p.size, *numbers, bool(maximize))
    launch("optim.cu", "adam", (spread(p.size, _THREADS),), (_THREADS,), args)
