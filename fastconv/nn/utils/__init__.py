"""Helpers around training: clipping gradients, sequences of unequal lengths. Source: torch.nn.utils."""

from fastconv.nn.utils import rnn
from fastconv.nn.utils.clip_grad import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm

__all__ = ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm", "rnn"]
