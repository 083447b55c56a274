"""Print torchvision's networks as test_models.py records them: TORCHVISION. Needs torchvision==0.29.1.

Run by hand: python tests/golden/make_models.py
"""

import hashlib

import torch
from torchvision import models

VGGS = [f"vgg{depth}{end}" for end in ("", "_bn") for depth in (11, 13, 16, 19)]


def main():
    # On the meta device: shapes alone, no memory.
    with torch.device("meta"):
        nets = {"alexnet": models.alexnet()}
        nets |= {name: getattr(models, name)(init_weights=False) for name in VGGS}
        nets["googlenet"] = models.GoogLeNet(init_weights=False, aux_logits=False)
        nets["googlenet aux_logits"] = models.GoogLeNet(init_weights=False)
    for name, net in nets.items():
        lines = [f"{key} {tuple(tensor.shape)}" for key, tensor in net.state_dict().items()]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
        print(f'    "{name}": ({sum(p.numel() for p in net.parameters()):_}, {len(lines)}, "{digest}"),')


if __name__ == "__main__":
    main()
