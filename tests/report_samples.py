"""Runs of the benchmarks for tests of reports. Every number is invented: nothing here was ever measured."""

from collections.abc import Collection, Mapping
from random import Random

PEAK = 230e9
LINE = "Invented CPU (znver4), AVX-512 512 bit, 2 threads (fastconv's own team), fastconv 0.1.0, numba 0.68.1"

VERSIONS = {
    "torch": "torch 2.9.0",
    "torch_channels_last": "torch 2.9.0",
    "onnxruntime": "onnxruntime 1.23.0",
    "openvino": "openvino 2025.3",
    "jax": "jax 0.8.0",
    "ncnn": "ncnn 1.0.2",
    "mnn": "MNN 3.3",
    "keras": "keras 3.12",
}
IMAGES = ("torch", "torch_channels_last", "onnxruntime", "openvino", "jax", "ncnn", "mnn")
MATRICES = ("torch", "onnxruntime", "openvino", "jax", "ncnn", "mnn")
SERIES = ("torch", "onnxruntime", "openvino", "jax", "keras")
TRAINING = ("torch", "torch_channels_last")

CONV = ("winograd_f4", "winograd_f2", "im2col", "direct", "naive")
SMALL = ("winograd_batch", "batch", "im2col", "direct", "naive")

NETWORKS = {
    "VGG16": [
        ["conv1_1", "vgg1_1"],
        ["conv1_2", "vgg1_2"],
        ["pool1", "vgg-pool1"],
        ["conv2_1", "vgg2_1"],
        ["conv2_2", "vgg2_2"],
        ["pool2", "vgg-pool2"],
        ["conv3_1", "vgg3_1"],
        ["conv3_2", "vgg3_2"],
        ["conv3_3", "vgg3_2"],
        ["conv4_1", "vgg4_1"],
        ["conv4_2", "vgg4_2"],
        ["conv4_3", "vgg4_2"],
        ["conv5_1", "vgg5"],
        ["conv5_2", "vgg5"],
        ["conv5_3", "vgg5"],
    ],
    "LeNet-5, 64 images": [
        ["conv1", "lenet-conv1"],
        ["pool1", "lenet-pool1"],
        ["conv2", "lenet-conv2"],
        ["fc1", "lenet-fc1"],
    ],
    "QstEncoder": [["lstm, layer 1", "lstm-question"], ["lstm, layer 2", "lstm-question-2"], ["fc", "question-fc"]],
}


def _convolutions():
    sizes = {
        "vgg1_1": (3, 64, 224),
        "vgg1_2": (64, 64, 224),
        "vgg2_1": (64, 128, 112),
        "vgg2_2": (128, 128, 112),
        "vgg3_1": (128, 256, 56),
        "vgg3_2": (256, 256, 56),
        "vgg4_1": (256, 512, 28),
        "vgg4_2": (512, 512, 28),
        "vgg5": (512, 512, 14),
    }
    for case, (c, o, side) in sizes.items():
        text = f"1×{c}×{side}×{side} → {o}, 3×3, padding 1"
        flops, moved = 18.0 * c * o * side**2, 4.0 * ((c + o) * side**2 + 9 * c * o)
        yield case, "conv2d", text, flops, moved, CONV, IMAGES
        if case in ("vgg2_2", "vgg3_2"):
            yield case, "conv2d_grad_input", text, flops, moved, CONV, IMAGES
            yield case, "conv2d_grad_weight", text, flops, moved, CONV, IMAGES
    for case, (c, o, side, text) in {
        "lenet-conv1": (1, 6, 28, "64×1×28×28 → 6, 5×5, padding 2"),
        "lenet-conv2": (6, 16, 10, "64×6×14×14 → 16, 5×5"),
    }.items():
        flops, moved = 64 * 50.0 * c * o * side**2, 256.0 * (c + o) * side**2
        yield case, "conv2d", text, flops, moved, SMALL, IMAGES
        yield case, "conv2d_grad_weight", text, flops, moved, SMALL, IMAGES


def _groups():
    """(case, operation, problem, flops, bytes, algorithms with the chosen one first, peers)."""
    yield from _convolutions()
    for case, c, side in (("vgg-pool1", 64, 224), ("vgg-pool2", 128, 112)):
        text = f"1×{c}×{side}×{side}, 2×2, stride 2"
        yield case, "max_pool2d", text, 0.75 * c * side**2, 5.0 * c * side**2, ("planes", "naive"), IMAGES
    yield "lenet-pool1", "max_pool2d", "64×6×28×28, 2×2, stride 2", 225792.0, 1505280.0, ("planes", "naive"), IMAGES
    yield "lenet-fc1", "linear", "64×400 → 120", 6144000.0, 325120.0, ("gemm", "naive"), MATRICES
    yield "question-fc", "linear", "32×2048 → 1024", 134217728.0, 8781824.0, ("gemm", "naive"), MATRICES
    lstms = {"lstm-question": (30, 1, 300), "lstm-question-2": (30, 1, 512), "lstm-question-32": (30, 32, 300)}
    for case, (t, b, i) in lstms.items():
        flops, moved = 8.0 * t * b * 512 * (i + 512), 4.0 * (4 * 512 * (i + 512) + t * b * (i + 512))
        yield case, "lstm", f"{t}×{b}×{i} → 512", flops, moved, ("fused", "stepwise"), SERIES
    yield "lstm-question-32", "lstm_grad", "30×32×300 → 512", 12.8e9, 40e6, ("bptt", "stepwise"), ()
    yield "gru-128-16", "gru", "64×16×128 → 128", 201326592.0, 1.8e6, ("fused", "stepwise"), SERIES
    text = "1×3×224×224, VGG16's features: 13 convolutions, 5 pools"
    yield "vgg16", "network", text, 30.7e9, 0.0, (), IMAGES
    yield "lenet5", "step", "64×1×28×28, LeNet-5, cross-entropy and SGD", 0.0, 0.0, (), TRAINING
    yield "bilstm_lengths", "network", "60×16×64, both directions, lengths", 2.1e9, 0.0, (), ("torch",)
    yield "conv_start", "start", "1×256×56×56, from python's start to the first output", 0.0, 0.0, (), ("torch",)


def _stats(seconds, noise, rounds):
    """As pytest-benchmark has them, of times that are invented, too."""
    low, high = seconds * (1 - noise.uniform(0.003, 0.02)), seconds * (1 + noise.uniform(0.003, 0.03))
    return {
        "min": low * 0.99,
        "max": high * 1.2,
        "mean": seconds * 1.005,
        "stddev": high - low,
        "rounds": rounds,
        "median": seconds,
        "iqr": high - low,
        "q1": low,
        "q3": high,
        "iqr_outliers": 0,
        "stddev_outliers": 0,
        "outliers": "0;0",
        "ld15iqr": low,
        "hd15iqr": high,
        "ops": 1 / seconds,
        "total": seconds * rounds,
        "iterations": 1,
    }


def _rows(case, op, flops, kernels, peers):
    """(name, role, runtime, kernel, chosen, reason why it has no time, seconds) of a group, the same in all runs."""
    fixed = Random(f"{case} {op}")
    usual = flops / (PEAK * fixed.uniform(0.5, 1.6)) if flops else fixed.uniform(2e-4, 4e-4)
    usual *= {"max_pool2d": 10, "start": 3000}.get(op, 1)
    forward = "grad" not in op
    chosen = f"{op}/{kernels[0]}/cpu" if kernels else ""
    for k, algorithm in enumerate(kernels):
        slower = 60.0 if algorithm == "naive" else 1 + 0.4 * k * fixed.uniform(0.5, 2)
        name = f"{op}/{algorithm}/cpu"
        yield name, "kernel", "fastconv", name, k == 0 and not forward, "", usual * slower
    if forward:
        yield f"{op}/fastconv", "layer", "fastconv", chosen, True, "", usual + 2e-6
    if case == "bilstm_lengths":
        yield f"{op}/fastconv_dense", "aside", "fastconv", "", False, "", usual * 1.7
    for peer in peers:
        reason = "no training" if not forward and peer not in TRAINING else ""
        yield f"{op}/{peer}", "peer", peer, "", False, reason, usual * fixed.uniform(0.9, 3.5)


def sample(
    *,
    seed: int = 0,
    date: str = "2026-11-29T07:00:00",
    quick: bool = False,
    slower: Mapping[str | tuple[str, str], float] | None = None,
    failed: Collection[str] = (),
    moved: bool = False,
    only: Collection[str] | None = None,
) -> dict:
    """What json.load gives of a run's file.

    Runs of all seeds are of the same kernels on the same machine, and differ by noise of 1 %. slower: factors by the
    row's name or by (case, name). failed: names of rows whose error is over the limit. moved: the machine's limits are
    30 % lower at the end. only: the names of the groups that there are.
    """
    entries, untimed, order, factors = [], [], [], dict(slower or {})
    for case, op, text, flops, moved_bytes, kernels, peers in _groups():
        group = f"{case} {op}"
        if only is not None and group not in only:
            continue
        order.append(group)
        for name, role, runtime, kernel, chosen, absent, usual in _rows(case, op, flops, kernels, peers):
            noise = Random(f"{seed} {group} {name}")
            factor = factors.get((case, name), factors.get(name, 1.0))
            seconds = usual * factor * noise.uniform(0.99, 1.01)
            bad = name in failed
            notes = {
                "name": name,
                "case": case,
                "op": op,
                "runtime": runtime,
                "role": role,
                "chosen": chosen,
                "kernel": kernel,
                "problem": text,
                "flops": flops * 1.9 if role == "aside" else flops,
                "bytes": moved_bytes,
                "reproduce": f'pytest --benchmark -k "{name}-{case}"',
                "machine": LINE,
                "threads": 2,
                "git": f"{seed:012x}",
            }
            if absent:
                untimed.append(notes | {"group": group, "absent": absent})
                continue
            notes["error"] = 0.01 if bad else noise.uniform(1e-7, 2e-6)
            if role == "kernel":
                notes |= {"scratch_bytes": noise.randrange(0, 2**22, 64), "kept_bytes": 0}
                notes |= {"kernel_error": 7.5 if bad else noise.uniform(0.01, 0.5)}
                notes |= {"kernel_limit": 3.0 if "_f4" in name else 1.0}
            if chosen:
                notes["goal"] = {"ratio": 0.8}
            # A row of ours that fails has no times, as bench/peers/record.py writes it.
            if bad and role != "peer":
                untimed.append(notes | {"group": group, "absent": ""})
                continue
            stats = _stats(seconds, noise, 3 if quick else noise.randrange(40, 300))
            if flops:
                notes["fma_peak_gflops"] = PEAK / 1e9 * noise.uniform(0.97, 1.0)
                notes["gflops"] = notes["flops"] / seconds / 1e9
            notes["steady"] = True
            entries.append(
                {
                    "group": group,
                    "name": f"test_{op}[{name}-{case}]",
                    "fullname": f"bench/test_conv.py::test_{op}[{name}-{case}]",
                    "params": {"kernel": name, "case": case},
                    "param": f"{name}-{case}",
                    "extra_info": notes,
                    "options": {"timer": "Clock", "warmup": False},
                    "stats": stats,
                }
            )
    end = 0.7 if moved else 0.99
    limits = {"fma": {"1": 116e9, "2": PEAK}, "copy": {"L2": 199e9, "L3": 163e9, "memory": 67e9}}
    head = {
        "schema": 1,
        "machine": {
            "processor": "Invented CPU",
            "isa": "AVX-512",
            "vector_bits": 512,
            "cpu_name": "znver4",
            "threads": 2,
            "threading_layer": "fastconv's own team",
            "versions": "fastconv 0.1.0, numba 0.68.1",
            "line": LINE,
            "features": ["avx2", "avx512f", "fma"],
        },
        "git": f"{seed:012x}",
        "quick": quick,
        "peers": dict(VERSIONS),
        "limits": [
            {"time": date, **limits},
            {"time": date, **{kind: {k: v * end for k, v in rates.items()} for kind, rates in limits.items()}},
        ],
        "groups": order,
        "untimed": untimed,
        "networks": {name: [list(layer) for layer in layers] for name, layers in NETWORKS.items()},
    }
    return {
        "machine_info": {"node": "invented", "python_version": "3.11.7", "cpu": {"brand_raw": "Invented CPU"}},
        "commit_info": {"id": f"{seed:040x}", "dirty": False, "branch": "main"},
        "benchmarks": entries,
        "datetime": date,
        "version": "5.1.0",
        "fastconv": head,
    }
