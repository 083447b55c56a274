"""Record what PyTorch computes of sequences, in sequences.json beside this file, for test_embedding.py, test_ctc.py,
test_conv1d.py, test_layernorm.py, test_rnn_utils.py and test_clip_grad.py. Needs torch==2.13.0 (CPU).

Run by hand: python tests/golden/make_sequences.py

Keys and values are make_golden's: inputs are multiples of 1/8, exact in float32, and torch computes in float64.
"""

import json
from pathlib import Path

import make_golden as golden
import torch
import torch.nn.functional as F
from make_golden import INF, NAN, differentiate, eighths, record
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence


def integers(top, *shape):
    return torch.randint(0, top, shape, generator=golden.generator)


def embeddings():
    def embedding(name, indices, w_shape, **args):
        w = eighths(*w_shape)
        leaf = w.clone().requires_grad_()
        y = F.embedding(indices, leaf, **args)
        gy = eighths(*y.shape)
        y.backward(gy)
        record(name, "embedding", args, x=indices, w=w, gy=gy, y=y.detach(), gw=leaf.grad, new_w=leaf.detach())

    embedding("embedding_plain", integers(7, 4, 3), (7, 5))
    embedding("embedding_one", integers(7), (7, 2))
    embedding("embedding_padding", integers(3, 3, 5), (5, 2), padding_idx=1)
    embedding("embedding_padding_from_the_end", integers(3, 11), (3, 4), padding_idx=-1)
    embedding("embedding_by_frequency", integers(4, 3, 6), (6, 3), scale_grad_by_freq=True)
    embedding("embedding_by_frequency_padding", integers(3, 9), (4, 3), padding_idx=2, scale_grad_by_freq=True)
    embedding("embedding_max_norm", integers(4, 7), (6, 3), max_norm=1.5)
    embedding("embedding_max_norm_1", integers(4, 7), (6, 3), max_norm=2.0, norm_type=1.0)
    embedding("embedding_max_norm_3", integers(4, 7), (6, 3), max_norm=1.25, norm_type=3.0, padding_idx=0)


def ctc_losses():
    def ctc(name, x, targets, steps, lengths, through_softmax=False, **args):
        def call(x):
            logp = x.log_softmax(-1) if through_softmax else x
            return F.ctc_loss(logp, targets, steps, lengths, **args)

        op = "ctc_of_logits" if through_softmax else "ctc"
        numbers = {"steps": torch.tensor(steps), "lengths": torch.tensor(lengths)}
        record(name, op, args, target=targets, **numbers, **differentiate(call, x=x))

    def logs(*shape):
        return eighths(*shape) - 2.5

    padded = torch.tensor([[1, 2, 3], [2, 2, 0], [3, 0, 0]])
    joined = torch.tensor([1, 2, 3, 2, 2, 3])
    for reduction in ("none", "mean", "sum"):
        ctc(f"ctc_{reduction}", logs(7, 3, 5), padded, [7, 6, 4], [3, 2, 1], reduction=reduction)
        ctc(f"ctc_joined_{reduction}", logs(6, 3, 4), joined, [6, 5, 2], [3, 2, 1], reduction=reduction)
        ctc(f"ctc_logits_{reduction}", eighths(7, 3, 5), padded, [7, 6, 4], [3, 2, 1], True, reduction=reduction)
    for reduction in ("none", "mean"):
        ctc(f"ctc_single_{reduction}", logs(5, 4), torch.tensor([3, 1]), [5], [2], reduction=reduction)
    ctc("ctc_blank", logs(6, 2, 4), torch.tensor([[0, 1, 0], [2, 2, 1]]), [6, 6], [3, 3], blank=3, reduction="none")
    ctc("ctc_no_labels", logs(4, 2, 3), torch.tensor([[0, 0], [1, 2]]), [4, 3], [0, 2], reduction="none")
    ctc("ctc_no_labels_mean", logs(4, 2, 3), torch.tensor([[0, 0], [1, 2]]), [4, 3], [0, 2])
    ctc("ctc_no_labels_at_all", logs(4, 2, 3), torch.zeros(2, 0, dtype=torch.long), [4, 3], [0, 0], reduction="sum")
    ctc("ctc_no_steps", logs(4, 3, 3), torch.tensor([[1, 1], [1, 2], [2, 1]]), [0, 0, 4], [0, 1, 2], reduction="none")
    # Repeated labels need a blank between them: three of them five steps.
    tight = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 2, 3]])
    ctc("ctc_just_enough", logs(5, 3, 4), tight, [5, 5, 3], [3, 3, 3], reduction="none")
    for forgiving in (False, True):
        args = {"zero_infinity": forgiving}
        ctc(f"ctc_too_long_{forgiving}", logs(5, 3, 4), tight, [4, 5, 2], [3, 3, 3], reduction="none", **args)
        ctc(f"ctc_too_long_mean_{forgiving}", logs(5, 3, 4), tight, [4, 5, 2], [3, 3, 3], **args)
    wild = logs(5, 2, 4)
    # Beyond a sequence's end anything may stand.
    wild[3:, 0] = NAN
    ctc("ctc_nan_after_the_end", wild, torch.tensor([[1, 2], [3, 1]]), [3, 5], [2, 2], reduction="none")
    wild = logs(5, 2, 4)
    wild[2, 0, 1] = NAN
    ctc("ctc_nan", wild, torch.tensor([[1, 2], [3, 1]]), [5, 5], [2, 2], reduction="none")
    long = logs(60, 2, 8)
    ctc("ctc_long", long, integers(7, 2, 25) + 1, [60, 55], [25, 20], reduction="none")


def line_convolutions():
    def conv(name, x_shape, w_shape, bias=True, **args):
        inputs = {"x": eighths(*x_shape), "w": eighths(*w_shape)} | ({"b": eighths(w_shape[0])} if bias else {})
        record(name, "conv1d", args, **differentiate(lambda x, w, b=None: F.conv1d(x, w, b, **args), **inputs))

    def layer(name, x_shape, **args):
        made = nn.Conv1d(**args).double()
        w, b = eighths(*made.weight.shape), eighths(*made.bias.shape)

        def call(x, w, b):
            return torch.func.functional_call(made, {"weight": w, "bias": b}, x)

        record(name, "Conv1d", args, **differentiate(call, x=eighths(*x_shape), w=w, b=b))

    conv("conv1d_plain", (2, 3, 9), (4, 3, 3))
    conv("conv1d_no_bias", (1, 2, 8), (3, 2, 2), bias=False)
    conv("conv1d_one", (2, 5, 7), (3, 5, 1))
    conv("conv1d_stride", (2, 3, 11), (2, 3, 4), stride=3)
    conv("conv1d_padding", (1, 2, 5), (3, 2, 5), padding=2)
    conv("conv1d_dilation", (2, 2, 11), (3, 2, 3), dilation=4)
    conv("conv1d_groups", (2, 4, 7), (6, 2, 3), groups=2)
    conv("conv1d_depthwise", (1, 3, 9), (6, 1, 4), groups=3, stride=2, padding=1)
    conv("conv1d_all", (2, 4, 13), (2, 2, 3), stride=2, padding=3, dilation=2, groups=2)
    conv("conv1d_same", (1, 2, 6), (3, 2, 4), padding="same", dilation=2)
    conv("conv1d_valid", (1, 2, 6), (3, 2, 4), padding="valid")
    conv("conv1d_unbatched", (3, 7), (2, 3, 3), padding=1)
    conv("conv1d_kernel_of_the_length", (2, 3, 4), (2, 3, 4))
    for mode in ("reflect", "replicate", "circular"):
        common = {"in_channels": 2, "out_channels": 3, "kernel_size": 4, "padding_mode": mode}
        layer(f"conv1d_{mode}", (2, 2, 7), padding=2, stride=2, **common)
        layer(f"conv1d_{mode}_same", (2, 2, 7), padding="same", **common)


def layer_norms():
    def layer_norm(name, x_shape, shape, weight=True, bias=True, **args):
        inputs = {"x": eighths(*x_shape)}
        inputs |= {"w": eighths(*shape)} if weight else {}
        inputs |= {"b": eighths(*shape)} if bias else {}

        def call(x, w=None, b=None):
            return F.layer_norm(x, shape, w, b, **args)

        record(name, "layer_norm", args | {"normalized_shape": shape}, **differentiate(call, **inputs))

    layer_norm("layer_norm_rows", (4, 7), [7])
    layer_norm("layer_norm_batch", (2, 3, 5), [5], eps=0.125)
    layer_norm("layer_norm_several", (3, 2, 4, 3), [2, 4, 3])
    layer_norm("layer_norm_plain", (2, 3, 6), [3, 6], weight=False, bias=False)
    layer_norm("layer_norm_no_bias", (5, 4), [4], bias=False)
    layer_norm("layer_norm_no_weight", (5, 4), [4], weight=False)
    layer_norm("layer_norm_one_sample", (6,), [6])
    layer_norm("layer_norm_one_element", (3, 1), [1])


def packings():
    def pack(name, x, lengths, enforce_sorted=True, batch_first=False, **back):
        leaf = x.clone().requires_grad_()
        packed = pack_padded_sequence(leaf, lengths, batch_first, enforce_sorted)
        gy = eighths(*packed.data.shape)
        packed.data.backward(gy, retain_graph=True)
        indices = {key: getattr(packed, key) for key in ("batch_sizes", "sorted_indices", "unsorted_indices")}
        padded, counts = pad_packed_sequence(packed, batch_first, **back)
        args = {"batch_first": batch_first, "enforce_sorted": enforce_sorted, "back": back}
        arrays = {"lengths": torch.tensor(lengths), "y": packed.data.detach(), "gx": leaf.grad, **indices}
        record(name, "pack", args, x=x, gy=gy, padded=padded.detach(), counts=counts, **arrays)

    pack("pack_sorted", eighths(5, 3, 2), [5, 3, 2])
    pack("pack_unsorted", eighths(5, 4, 2), [2, 5, 1, 2], False)
    pack("pack_batch_first", eighths(3, 4, 2, 2), [4, 4, 1], True, True, padding_value=-1.5)
    pack("pack_batch_first_unsorted", eighths(4, 3), [1, 3, 2, 3], False, True, total_length=5)
    pack("pack_shorter_than_the_batch", eighths(6, 2, 3), [2, 3], False, total_length=6, padding_value=2.0)

    def pad(name, *shapes, **args):
        sequences = [eighths(*shape) for shape in shapes]
        record(name, "pad", args, y=pad_sequence(sequences, **args))
        golden.cases[name]["sequences"] = [sequence.tolist() for sequence in sequences]

    pad("pad_plain", (2, 3), (4, 3), (1, 3))
    pad("pad_batch_first", (2,), (4,), batch_first=True, padding_value=-0.5)
    pad("pad_left", (2, 2), (3, 2), (1, 2), padding_side="left", padding_value=7.0)


def clippings():
    def clip(name, function, gradients, *args):
        leaves = [torch.zeros_like(g).requires_grad_() for g in gradients]
        for leaf, g in zip(leaves, gradients, strict=True):
            leaf.grad = g.clone()
        total = function(leaves, *args)
        record(name, "clip", {"function": function.__name__, "args": args}, total=total)
        golden.cases[name]["before"] = [g.tolist() for g in gradients]
        golden.cases[name]["after"] = [leaf.grad.tolist() for leaf in leaves]

    for norm_type in (1.0, 2.0, 3.5, INF):
        clip(f"clip_norm_{norm_type}", clip_grad_norm_, [eighths(3, 4), eighths(5)], 1.5, norm_type)
    clip("clip_norm_small", clip_grad_norm_, [eighths(3), eighths(2, 2)], 1000.0)
    clip("clip_norm_to_zero", clip_grad_norm_, [eighths(3)], 0.0)
    clip("clip_norm_with_nan", clip_grad_norm_, [torch.tensor([1.0, NAN]).double(), eighths(2)], 1.0)
    clip("clip_norm_with_inf", clip_grad_norm_, [torch.tensor([1.0, INF]).double(), eighths(2)], 1.0)
    clip("clip_value", clip_grad_value_, [eighths(3, 3), torch.tensor([NAN, INF, -INF]).double()], 0.75)


def main():
    if torch.__version__.split("+")[0] != golden.VERSION:
        raise SystemExit(f"needs torch {golden.VERSION}, got {torch.__version__}")
    golden.generator.manual_seed(20240601)
    torch.set_num_threads(1)
    for make in (embeddings, ctc_losses, line_convolutions, layer_norms, packings, clippings):
        make()
    path = Path(__file__).with_name("sequences.json")
    lines = [f"{json.dumps(name)}:{json.dumps(case, separators=(',', ':'))}" for name, case in golden.cases.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{len(lines)} cases, {path.stat().st_size} bytes in {path.name}")


if __name__ == "__main__":
    main()
