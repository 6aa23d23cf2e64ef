"""A stack of members computes what its members compute alone."""

import math

import pytest
import torch
from torch.nn import functional

from diffpolicy.networks import MLPDenoiser, ResidualDenoiser, StackedLinear, StackedMLP, select_members
from diffpolicy.networks.layers import dropout_mask


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_stacked_mlp_equals_its_members_one_by_one() -> None:
    stack = StackedMLP(3, 5, [8, 7], 2, _generator())
    inputs = torch.randn(3, 11, 5, generator=_generator(1))
    together = stack(inputs)
    for member in range(3):
        hidden = inputs[member]
        for index, layer in enumerate(stack.layers):
            hidden = hidden @ layer.weight[member] + layer.bias[member]
            hidden = functional.relu(hidden) if index < 2 else hidden
        torch.testing.assert_close(together[member], hidden)


@pytest.mark.parametrize("kind", ["mlp", "residual"])
def test_one_selected_member_acts_as_it_did_in_the_stack(kind: str) -> None:
    def make(members: int) -> torch.nn.Module:
        if kind == "mlp":
            return MLPDenoiser(members, 2, 4, 5, [16, 16], _generator())
        return ResidualDenoiser(members, 2, 4, 5, _generator(), width=16, blocks=2)

    stack, alone = make(3), make(1)
    alone.load_state_dict(select_members(stack.state_dict(), [1]))
    noisy, condition = torch.randn(3, 6, 2), torch.randn(3, 6, 4)
    step = torch.randint(5, (3, 6))
    expected = stack(noisy, step, condition)[1:2]
    torch.testing.assert_close(alone(noisy[1:2], step[1:2], condition[1:2]), expected, atol=1e-6, rtol=1e-5)


def test_members_do_not_touch_each_other() -> None:
    stack = StackedMLP(2, 3, [4], 1, _generator())
    stack(torch.randn(2, 5, 3))[0].sum().backward()
    for parameter in stack.parameters():
        assert parameter.grad is not None
        assert parameter.grad[0].abs().sum() > 0 or parameter.shape[-1] == 1
        assert parameter.grad[1].abs().sum() == 0


def test_initial_weights_are_xavier_uniform() -> None:
    layer = StackedLinear(4, 100, 50, _generator())
    bound = math.sqrt(6 / 150)
    assert layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert layer.bias.abs().sum() == 0


def test_residual_denoiser_is_the_published_network() -> None:
    """Against a plain evaluation: per-sample Fourier features, embedding, concatenation, blocks."""
    network = ResidualDenoiser(1, 2, 72, 5, _generator())
    noisy, condition = torch.randn(1, 9, 2), torch.randn(1, 9, 72)
    step = torch.randint(5, (1, 9))
    phase = 2 * math.pi * step.float().unsqueeze(-1) * network.frequencies
    features = torch.cat([phase.cos(), phase.sin()], dim=-1)
    embedding = functional.mish(features @ network.embed.layers[0].weight + network.embed.layers[0].bias)
    embedding = embedding @ network.embed.layers[1].weight + network.embed.layers[1].bias
    hidden = network.input(torch.cat([noisy, condition, embedding], dim=-1))
    for norm, expand, contract in zip(network.norms, network.expand, network.contract, strict=True):
        hidden = hidden + contract(functional.mish(expand(norm(hidden))))
    expected = network.output(functional.mish(hidden))
    torch.testing.assert_close(network(noisy, step, condition), expected, atol=1e-5, rtol=1e-4)
    sizes = 32 + (64 * 128 + 128) + (128 * 128 + 128) + (202 * 256 + 256) + (256 * 2 + 2)
    sizes += 3 * (2 * 256 + 256 * 1024 + 1024 + 1024 * 256 + 256)
    assert sum(parameter.numel() for parameter in network.parameters()) == sizes


def test_dropout_is_on_exactly_when_a_generator_is_passed() -> None:
    network = ResidualDenoiser(1, 2, 3, 5, _generator(), width=32, blocks=2, dropout=0.5)
    inputs = (torch.randn(1, 4, 2), torch.zeros(1, 4, dtype=torch.int64), torch.randn(1, 4, 3))
    torch.testing.assert_close(network(*inputs), network(*inputs), rtol=0, atol=0)
    dropped = network(*inputs, _generator(5))
    assert not torch.allclose(dropped, network(*inputs))
    torch.testing.assert_close(dropped, network(*inputs, _generator(5)), rtol=0, atol=0)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_mask_keeps_its_share_and_the_mean(probability: float) -> None:
    mask = dropout_mask(torch.empty(3, 333, 257), probability, _generator())
    assert (mask == 0).float().mean().item() == pytest.approx(probability, abs=0.005)
    assert mask.mean().item() == pytest.approx(1.0, abs=0.03)
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / (1 - probability)])
    neighbours = torch.corrcoef(torch.stack([mask.flatten()[:-1], mask.flatten()[1:]]))
    assert abs(neighbours[0, 1].item()) < 0.01
