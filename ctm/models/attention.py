"""Gated self-attention on timm's weights, and the recording of its class-token rows and patch affinity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from ctm.errors import ModelError
from ctm.models.gates import HardConcreteGate

__all__ = ["ClassRows", "GatedAttention", "PatchAffinity", "record_class_rows", "record_patch_affinity"]


@dataclass
class ClassRows:
    """Attention of the class tokens, gathered block after block.

    Attributes:
        count: number of class tokens C, the first rows of the sequence.
        rows: for each block that has a head, gate times softmax, (B, H, C, N), part of the graph if there is one.
    """

    count: int
    rows: list[Tensor]


@dataclass
class PatchAffinity:
    """Attention from patch to patch, summed over heads and blocks as they run; no gradient.

    Attributes:
        patches: where the patches lie in the sequence.
        total: (B, P, P), None as long as no head has run.
    """

    patches: slice
    total: Tensor | None = None


class GatedAttention(nn.Module):
    """Multi-head self-attention whose head outputs are multiplied by gates: concat(g_i · head_i) W (paper, MSA).

    It takes over the layers of a timm ``Attention``. Weights never exist as an N x N matrix, except head by head
    while a ``PatchAffinity`` is recorded.

    Attributes:
        original_heads: number of heads before any was removed.
        kept_heads: original index of each head that is left.
        gate: None after the heads have been removed physically.
        held: the gates' values in the forward passes to come, (H,), where ``holding_gate`` gives them; None: a forward
            pass takes its own.
    """

    def __init__(self, attention: Attention, gate: HardConcreteGate) -> None:
        """Takes over the layers of ``attention``.

        Raises:
            ModelError: the attention mixes its heads before the projection, so heads cannot be removed.
        """
        super().__init__()
        mixes = not isinstance(attention.norm, nn.Identity) or getattr(attention, "gate", None) is not None
        if mixes:
            raise ModelError("the backbone normalises or gates across its attention heads: heads cannot be removed")
        self.original_heads: int = attention.num_heads
        self.kept_heads = list(range(attention.num_heads))
        self.head_dim: int = attention.head_dim
        self.scale: float = attention.scale
        self.qkv: nn.Linear = attention.qkv
        self.q_norm: nn.Module = attention.q_norm
        self.k_norm: nn.Module = attention.k_norm
        self.proj: nn.Linear = attention.proj
        self.gate: HardConcreteGate | None = gate
        self.held: Tensor | None = None
        self.class_rows: ClassRows | None = None
        self.affinity: PatchAffinity | None = None

    def forward(self, x: Tensor, **unmasked: object) -> Tensor:
        """Attends over the whole sequence, (B, N, D) -> (B, N, D).

        Args:
            x: normalised tokens, (B, N, D).
            unmasked: the mask arguments that timm's blocks pass along, always empty.
        """
        batch, length, _ = x.shape
        if not self.kept_heads:
            return self._project(x.new_zeros(batch, length, 0))  # nothing but the bias is left
        qkv = self.qkv(x).reshape(batch, length, 3, len(self.kept_heads), self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, N, d) each
        q, k = self.q_norm(q), self.k_norm(k)
        values = self.sample_gate() if self.held is None else self.held
        gate = None if values is None else values.to(v.dtype)[:, None, None]  # (H, 1, 1)
        if self.affinity is not None:
            _add_affinity(self.affinity, q * self.scale, keys=k, gate=gate)
        if self.class_rows is None:
            heads = _gated(F.scaled_dot_product_attention(q, k, v, scale=self.scale), gate)
        else:
            classes = self.class_rows.count
            rows = _record_rows(self.class_rows, q[:, :, :classes] * self.scale, keys=k, gate=gate)
            rest = F.scaled_dot_product_attention(q[:, :, classes:], k, v, scale=self.scale)
            heads = torch.cat([(rows @ v).to(rest.dtype), _gated(rest, gate)], dim=2)
        return self._project(heads.transpose(1, 2).reshape(batch, length, -1))

    def sample_gate(self, generator: torch.Generator | None = None) -> Tensor | None:
        """One sample of the gates' values, (H,); see ``HardConcreteGate``. None after the gate has been removed."""
        return None if self.gate is None else cast("Tensor", self.gate(generator))

    @contextmanager
    def holding_gate(self, values: Tensor | None) -> Iterator[None]:
        """Gives the gates' values to every forward pass inside the context, which then draws nothing itself."""
        self.held = values
        try:
            yield
        finally:
            self.held = None

    def keep_heads(self, heads: Sequence[int]) -> None:
        """Removes all other heads, and the gate, for good; with none left only the bias stays."""
        width = self.qkv.in_features
        split = (3, len(self.kept_heads), self.head_dim)
        index = torch.tensor(heads, dtype=torch.long, device=self.qkv.weight.device)
        weight = self.qkv.weight.detach().view(*split, width)[:, index].reshape(-1, width)
        bias = None if self.qkv.bias is None else self.qkv.bias.detach().view(*split)[:, index].flatten()
        columns = self.proj.weight.detach().view(-1, *split[1:])[:, index].flatten(1)
        self.qkv = _linear(weight, bias)
        self.proj = _linear(columns, self.proj.bias)
        self.kept_heads = list(heads)
        self.gate = None

    def _project(self, heads: Tensor) -> Tensor:
        return cast("Tensor", self.proj(heads))


@contextmanager
def record_class_rows(attentions: Iterable[GatedAttention], count: int) -> Iterator[list[Tensor]]:
    """Records the attention rows of the first ``count`` tokens in every forward pass inside the context.

    Only these C x N rows are materialised, by an explicit differentiable softmax; all other queries stay fused.

    Args:
        attentions: the blocks' attentions to record.
        count: number of class tokens.

    Yields:
        A list that each attention with a head appends its (B, H, C, N) rows to, in the order of the blocks.
    """
    record = ClassRows(count, [])
    with _recording(attentions, "class_rows", record):
        yield record.rows


@contextmanager
def record_patch_affinity(attentions: Iterable[GatedAttention], patches: slice) -> Iterator[PatchAffinity]:
    """Sums up the patch-to-patch attention of every forward pass inside the context, without gradient.

    Args:
        attentions: the blocks' attentions to record.
        patches: where the patches lie in the sequence.

    Yields:
        The sum, filled while the attentions run; one head at a time is materialised, added and freed.
    """
    record = PatchAffinity(patches)
    with _recording(attentions, "affinity", record):
        yield record


@contextmanager
def _recording(attentions: Iterable[GatedAttention], name: str, record: object) -> Iterator[None]:
    """Hands the attentions a record, and takes it from them at the end."""
    attentions = list(attentions)
    for attention in attentions:
        setattr(attention, name, record)
    try:
        yield
    finally:
        for attention in attentions:
            setattr(attention, name, None)


def _gated(heads: Tensor, gate: Tensor | None) -> Tensor:
    return heads if gate is None else heads * gate


def _record_rows(record: ClassRows, queries: Tensor, *, keys: Tensor, gate: Tensor | None) -> Tensor:
    """Appends to the record, and returns, the gated attention rows of scaled queries, (B, H, C, N)."""
    rows = _gated((queries @ keys.transpose(-2, -1)).softmax(dim=-1), gate)
    if torch.is_grad_enabled() and not rows.requires_grad:
        rows.requires_grad_()  # first block of the graph in a model whose parameters are frozen
    record.rows.append(rows)
    return rows


@torch.inference_mode()
def _add_affinity(record: PatchAffinity, queries: Tensor, *, keys: Tensor, gate: Tensor | None) -> None:
    """Adds the patch-to-patch part of each head's softmax, scaled queries and keys (B, H, N, d), to the record."""
    for head in range(queries.shape[1]):
        rows = (queries[:, head, record.patches] @ keys[:, head].transpose(-2, -1)).softmax(dim=-1)
        rows = rows[:, :, record.patches] if gate is None else rows[:, :, record.patches] * gate[head]
        record.total = rows.clone() if record.total is None else record.total.add_(rows)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer that owns these values."""
    linear = nn.Linear(1, 1, bias=bias is not None, device="meta")
    linear.out_features, linear.in_features = weight.shape
    linear.weight = nn.Parameter(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear
