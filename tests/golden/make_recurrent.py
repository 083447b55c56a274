"""Record what PyTorch's recurrent layers compute, in recurrent.json beside this file. Needs torch==2.13.0 (CPU).

Run by hand: python tests/golden/make_recurrent.py

Inputs are multiples of 1/8, exact in float32; torch computes in float64. A case: "op" and "args" say which layer,
"repr" what it prints, "lengths" (or null) how it was packed (enforce_sorted=False), "state" its state_dict, "x", "hx"
(a list of states, empty for none given), "gy", "gh" (a list, the gradients of the states at the end) go in; "y", "hn",
"gx", "ghx" and "gradients" (by parameter) come out. Of packed sequences x, y, gx and gy are padded with zeros.
"""

import json
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

VERSION = "2.13.0"
generator = torch.Generator()
cases = {}


def eighths(*shape, top=8):
    return torch.randint(-top, top + 1, shape, generator=generator).double() / 8


def values(tensors):
    return [tensor.tolist() for tensor in tensors]


def record(name, op, x_shape, states, lengths=None, **args):
    """states: the shapes of hx, none for no hx."""
    layer = getattr(nn, op)(**args).double().train()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(eighths(*parameter.shape))
    x = eighths(*x_shape)
    first = args.get("batch_first", False)
    if lengths is not None:
        for i, length in enumerate(lengths):
            (x[i, length:] if first else x[length:, i]).zero_()
    x.requires_grad_()
    hx = [eighths(*shape).requires_grad_() for shape in states]
    given = (tuple(hx) if len(hx) > 1 else hx[0]) if hx else None
    if op.endswith("Cell"):
        hn = layer(x, given)
        hn = list(hn) if isinstance(hn, tuple) else [hn]
        outputs = hn
    else:
        if lengths is None:
            y, hn = layer(x, given)
        else:
            packed, hn = layer(pack_padded_sequence(x, lengths, first, enforce_sorted=False), given)
            y, _ = pad_packed_sequence(packed, first, total_length=x.shape[1 if first else 0])
        hn = list(hn) if isinstance(hn, tuple) else [hn]
        outputs = [y, *hn]
    gs = [eighths(*output.shape) for output in outputs]
    sum((g * output).sum() for g, output in zip(gs, outputs, strict=True)).backward()
    cell = op.endswith("Cell")
    cases[name] = {
        "op": op,
        "args": args,
        "repr": repr(layer),
        "lengths": lengths,
        "state": {key: value.tolist() for key, value in layer.state_dict().items()},
        "x": x.tolist(),
        "hx": values(hx),
        "gy": None if cell else gs[0].tolist(),
        "gh": values(gs if cell else gs[1:]),
        "y": None if cell else outputs[0].tolist(),
        "hn": values(hn),
        "gx": x.grad.tolist(),
        "ghx": values(h.grad for h in hx),
        "gradients": {key: value.grad.tolist() for key, value in layer.named_parameters()},
    }


def main():
    if torch.__version__.split("+")[0] != VERSION:
        raise SystemExit(f"needs torch {VERSION}, got {torch.__version__}")
    generator.manual_seed(20240229)
    torch.set_num_threads(1)
    size = {"input_size": 2, "hidden_size": 3}
    for op, count in (("RNN", 1), ("LSTM", 2), ("GRU", 1)):
        low = op.lower()
        record(f"{low}_plain", op, (4, 3, 2), [], **size)
        record(f"{low}_states", op, (4, 2, 2), [(1, 2, 3)] * count, **size, bias=False)
        record(f"{low}_unbatched", op, (4, 2), [(2, 3)] * count, **size, bidirectional=True, batch_first=True)
        record(
            f"{low}_stack",
            op,
            (2, 3, 2),
            [(4, 2, 3)] * count,
            **size,
            num_layers=2,
            bidirectional=True,
            batch_first=True,
        )
        record(f"{low}_packed", op, (4, 4, 2), [(2, 4, 3)] * count, [2, 4, 1, 3], **size, bidirectional=True)
        record(f"{low}_packed_stack", op, (3, 4, 2), [], [3, 4, 1], **size, num_layers=2, batch_first=True)
        record(f"{low}_cell", f"{op}Cell", (3, 2), [(3, 3)] * count, **size)
        record(f"{low}_cell_no_bias", f"{op}Cell", (3, 2), [], **size, bias=False)
        record(f"{low}_cell_unbatched", f"{op}Cell", (2,), [(3,)] * count, **size)
    record("rnn_relu", "RNN", (4, 3, 2), [(2, 3, 3)], **size, nonlinearity="relu", bidirectional=True)
    record("rnn_cell_relu", "RNNCell", (3, 2), [(3, 3)], **size, nonlinearity="relu")
    record("lstm_proj", "LSTM", (4, 3, 2), [(1, 3, 2), (1, 3, 3)], **size, proj_size=2)
    record(
        "lstm_proj_stack",
        "LSTM",
        (3, 2, 2),
        [(4, 2, 1), (4, 2, 3)],
        [3, 2],
        **size,
        proj_size=1,
        num_layers=2,
        bidirectional=True,
    )
    path = Path(__file__).with_name("recurrent.json")
    lines = ",\n".join(f"{json.dumps(name)}:{json.dumps(case, separators=(',', ':'))}" for name, case in cases.items())
    path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    print(f"{len(cases)} cases, {path.stat().st_size} bytes in {path.name}")


if __name__ == "__main__":
    main()
