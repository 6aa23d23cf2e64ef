"""Pre-norm transformer layers."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffpolicy.networks.errors import NetworkError
from diffpolicy.networks.layers import dropout, linear


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) of queries (B, T, C) to a memory (B, S, C)."""

    def __init__(self, width: int, heads: int, drop: float, generator: torch.Generator) -> None:
        super().__init__()
        if width % heads:
            raise NetworkError(f"A width of {width} does not divide into {heads} heads.")
        self.heads = heads
        self.drop = drop
        self.query = linear(width, width, generator)
        self.key_value = linear(width, 2 * width, generator)
        self.output = linear(width, width, generator)

    def forward(
        self, queries: Tensor, memory: Tensor, mask: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        """Return (B, T, C); `mask` (T, S) bool is True where a query may look, None where it may look everywhere."""
        batch, length, width = queries.shape
        size = width // self.heads
        query = self.query(queries).view(batch, length, self.heads, size).transpose(1, 2)
        key, value = (
            part.view(batch, -1, self.heads, size).transpose(1, 2)
            for part in self.key_value(memory).chunk(2, dim=-1)
        )
        scores = query @ key.transpose(-2, -1) / math.sqrt(size)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        seen = dropout(scores.softmax(dim=-1), self.drop, generator) @ value
        output: Tensor = self.output(seen.transpose(1, 2).reshape(batch, length, width))
        return output


class FeedForward(nn.Module):
    """Linear layer to four times the width, GELU, linear layer back."""

    def __init__(self, width: int, drop: float, generator: torch.Generator) -> None:
        super().__init__()
        self.drop = drop
        self.expand = linear(width, 4 * width, generator)
        self.contract = linear(4 * width, width, generator)

    def forward(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """Map (..., width) to (..., width)."""
        output: Tensor = self.contract(dropout(functional.gelu(self.expand(inputs)), self.drop, generator))
        return output


class TransformerLayer(nn.Module):
    """Self-attention, with `cross` attention to a memory, and a feed-forward network; each pre-norm with a skip."""

    def __init__(
        self, width: int, heads: int, drop: float, generator: torch.Generator, *, cross: bool
    ) -> None:
        super().__init__()
        self.drop = drop
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads, drop, generator)
        self.cross_norm = nn.LayerNorm(width) if cross else None
        self.cross_attention = Attention(width, heads, drop, generator) if cross else None
        self.feed_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, drop, generator)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Map `hidden` (B, T, C) to (B, T, C), looking at `memory` (B, S, C) if the layer was built to."""
        normed = self.self_norm(hidden)
        hidden = hidden + dropout(self.self_attention(normed, normed, mask, generator), self.drop, generator)
        if self.cross_attention is not None and self.cross_norm is not None:
            found = self.cross_attention(self.cross_norm(hidden), memory, memory_mask, generator)
            hidden = hidden + dropout(found, self.drop, generator)
        output: Tensor = self.feed_forward(self.feed_norm(hidden), generator)
        return hidden + dropout(output, self.drop, generator)
