"""What every network over action chunks must do, whichever it is."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diffpolicy.networks import ChunkMLP, ConditionalUNet1D, DiffusionTransformer

HORIZON, ACTIONS, OBSERVED, TOKENS = 8, 3, 2, 5


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _mlp(seed: int = 0, per_step: bool = False) -> nn.Module:
    return ChunkMLP(
        HORIZON, ACTIONS, OBSERVED, TOKENS, (32, 24), generator=_generator(seed), per_step_levels=per_step
    )


def _unet(seed: int = 0, per_step: bool = False) -> nn.Module:
    return ConditionalUNet1D(
        ACTIONS, OBSERVED, TOKENS, (16, 24), 3, 4, 16, generator=_generator(seed), per_step_levels=per_step
    )


def _transformer(seed: int = 0, per_step: bool = False, causal: bool = True) -> nn.Module:
    return DiffusionTransformer(
        HORIZON,
        ACTIONS,
        OBSERVED,
        TOKENS,
        layers=2,
        heads=2,
        width=16,
        causal=causal,
        generator=_generator(seed),
        per_step_levels=per_step,
    )


NETWORKS = pytest.mark.parametrize("make", [_mlp, _unet, _transformer], ids=["mlp", "unet", "transformer"])
Make = Callable[..., nn.Module]


def _inputs(batch: int = 4, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = _generator(seed)
    return (
        torch.randn(batch, HORIZON, ACTIONS, generator=generator),
        torch.randint(100, (batch,), generator=generator),
        torch.randn(batch, OBSERVED, TOKENS, generator=generator),
    )


@NETWORKS
def test_chunks_keep_their_shape_and_rows_do_not_mix(make: Make) -> None:
    network = make()
    noisy, level, tokens = _inputs()
    together = network(noisy, level, tokens)
    assert together.shape == noisy.shape
    for row in range(len(noisy)):
        alone = network(noisy[row : row + 1], level[row : row + 1], tokens[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


@NETWORKS
def test_the_generator_alone_decides_the_weights(make: Make) -> None:
    before = torch.get_rng_state()
    first, second, other = make(3), make(3), make(4)
    assert torch.equal(before, torch.get_rng_state())
    for name, weight in first.state_dict().items():
        assert torch.isfinite(weight).all()
        assert torch.equal(weight, second.state_dict()[name])
    noisy, level, tokens = _inputs()
    assert not torch.allclose(first(noisy, level, tokens), other(noisy, level, tokens))


@NETWORKS
def test_output_depends_on_level_observation_and_chunk(make: Make) -> None:
    network = make()
    noisy, level, tokens = _inputs()
    output = network(noisy, level, tokens)
    for changed in (
        network(noisy + 0.1, level, tokens),
        network(noisy, (level + 50) % 100, tokens),
        network(noisy, level, tokens + 0.1 * torch.tensor([1.0, 0.0]).view(1, 2, 1)),
        network(noisy, level, tokens + 0.1 * torch.tensor([0.0, 1.0]).view(1, 2, 1)),
    ):
        assert ((changed - output).flatten(1).abs().amax(1) > 1e-5).all()


@NETWORKS
@pytest.mark.parametrize("per_step", [False, True])
def test_every_weight_gets_a_gradient(make: Make, per_step: bool) -> None:
    network = make(per_step=per_step)
    noisy, level, tokens = _inputs()
    level = torch.randint(100, (len(noisy), HORIZON), generator=_generator(2)) if per_step else level
    network(noisy, level, tokens).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@NETWORKS
def test_levels_per_step_reach_their_own_steps(make: Make) -> None:
    network = make(per_step=True)
    noisy, _, tokens = _inputs()
    level = torch.full((len(noisy), HORIZON), 30)
    output = network(noisy, level, tokens)
    for step in (0, HORIZON - 1):
        changed = level.clone()
        changed[:, step] = 80
        assert (network(noisy, changed, tokens) - output)[:, step].abs().amax() > 1e-5


@NETWORKS
@pytest.mark.parametrize("per_step", [False, True])
def test_wrong_levels_are_named(make: Make, per_step: bool) -> None:
    noisy, level, tokens = _inputs()
    wrong = level if per_step else level.unsqueeze(1).expand(-1, HORIZON)
    with pytest.raises(ValueError, match=f"per_step_levels={per_step}"):
        make(per_step=per_step)(noisy, wrong, tokens)


@pytest.mark.parametrize(
    ("token_size", "count"), [(20, 65_783_298), (5, 65_353_218)], ids=["keypoints", "state"]
)
def test_published_unet_has_the_published_size(token_size: int, count: int) -> None:
    """65.8 million for Push-T from keypoints; the observation enters through FiLM only: 30 x 2 x 7168 weights."""
    network = ConditionalUNet1D(2, 2, token_size, generator=_generator())
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert count == 65_353_218 + 2 * (token_size - 5) * 2 * 7168


def test_unet_with_one_level_for_all_equals_levels_per_step() -> None:
    single, per_step = _unet(), _unet(per_step=True)
    noisy, level, tokens = _inputs()
    expected = single(noisy, level, tokens)
    spread = per_step(noisy, level.unsqueeze(1).expand(-1, HORIZON), tokens)
    torch.testing.assert_close(spread, expected, atol=1e-5, rtol=1e-5)


def test_unet_film_scales_and_shifts_each_channel() -> None:
    block = _unet().get_submodule("middle.first")
    hidden, condition = torch.randn(2, 24, 4), torch.randn(2, 1, 26)
    weights = block.film(condition[:, 0])
    scaled = weights[:, :24].unsqueeze(2) * block.first(hidden) + weights[:, 24:].unsqueeze(2)
    torch.testing.assert_close(block(hidden, condition), block.second(scaled) + hidden)


def test_unet_says_which_horizons_fit() -> None:
    noisy, level, tokens = _inputs()
    with pytest.raises(ValueError, match="multiple of 2"):
        _unet()(noisy[:, :7], level, tokens)
    with pytest.raises(ValueError, match="groups=8"):
        ConditionalUNet1D(2, 2, 5, (20, 40), generator=_generator())


@pytest.mark.parametrize("per_step", [False, True])
def test_transformer_sees_neither_later_actions_nor_later_observations(per_step: bool) -> None:
    network = _transformer(per_step=per_step)
    noisy, level, tokens = _inputs()
    level = level.unsqueeze(1).expand(-1, HORIZON).clone() if per_step else level
    output = network(noisy, level, tokens)
    later = noisy.clone()
    later[:, 5] += 1.0
    changed = (network(later, level, tokens) - output).abs().amax(dim=(0, 2))
    assert (changed[:5] == 0).all()
    assert (changed[5:] > 1e-5).all()
    newest = tokens.clone()
    newest[:, 1] += 1.0
    changed = (network(noisy, level, newest) - output).abs().amax(dim=(0, 2))
    assert changed[0] == 0
    assert (changed[1:] > 1e-5).all()


def test_transformer_without_causality_sees_everything() -> None:
    network = _transformer(causal=False)
    noisy, level, tokens = _inputs()
    later = noisy.clone()
    later[:, -1] += 1.0
    assert (network(later, level, tokens) - network(noisy, level, tokens))[:, 0].abs().amax() > 1e-5


def test_transformer_drops_out_exactly_when_a_generator_is_passed() -> None:
    network, inputs = _transformer(), _inputs()
    assert torch.equal(network(*inputs), network(*inputs))
    dropped = network(*inputs, _generator(5))
    assert torch.equal(dropped, network(*inputs, _generator(5)))
    assert not torch.allclose(dropped, network(*inputs), atol=1e-3)
