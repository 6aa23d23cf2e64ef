"""Sinusoids against their formula."""

import math

import pytest
import torch

from diffpolicy.networks.attention import Attention
from diffpolicy.networks.embedding import sinusoid


def test_sinusoid_is_the_formula() -> None:
    embedded = sinusoid(torch.tensor([[0, 7], [50, 99]]), 8)
    assert embedded.shape == (2, 2, 8)
    for k in range(4):
        frequency = 10_000 ** (-k / 3)
        assert embedded[1, 0, k].item() == pytest.approx(math.sin(50 * frequency), abs=1e-4)
        assert embedded[1, 0, 4 + k].item() == pytest.approx(math.cos(50 * frequency), abs=1e-4)


def test_odd_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        sinusoid(torch.tensor([1]), 7)


def test_attention_equals_pytorchs() -> None:
    attention = Attention(12, 3, 0.0, torch.Generator().manual_seed(0))
    queries, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    mask = torch.ones(5, 7, dtype=torch.bool).tril()
    reference = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([attention.query.weight, attention.key_value.weight]))
        reference.in_proj_bias.copy_(torch.cat([attention.query.bias, attention.key_value.bias]))
        reference.out_proj.load_state_dict(attention.output.state_dict())
    expected, _ = reference(queries, memory, memory, attn_mask=~mask)
    torch.testing.assert_close(attention(queries, memory, mask, None), expected, atol=1e-6, rtol=1e-5)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="5 heads"):
        Attention(12, 5, 0.0, torch.Generator())
