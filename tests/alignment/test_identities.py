"""The objectives are one kernel with different weights: the identities between them, to 1e-10 in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffpolicy.alignment import Matcher, Pairs, Rated, Rollout, role, softmax_weights
from diffpolicy.alignment.objectives import (
    AWM,
    NFT,
    RWR,
    SFT,
    WEIGHTINGS,
    AWMConfig,
    DiffusionDPO,
    DiffusionDPOConfig,
    NFTConfig,
)
from diffpolicy.alignment.objectives.diffusion_dpo import margin, preference_loss
from diffpolicy.diffusion import (
    Denoiser,
    GaussianProcess,
    cosine_betas,
    rectified_flow,
    trailing,
    variance_preserving,
)

EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
PROCESSES = (
    rectified_flow(20),
    variance_preserving(cosine_betas(20)),
    variance_preserving(cosine_betas(20), "v"),
)
PLAIN = AWMConfig(advantage_scale=1.0, weighting="uniform", ema_weight=0.0)


class Network(nn.Module):
    """A denoiser of chunks (B, 4, 2) that mixes everything with everything, in float64."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.inside = nn.Parameter(0.5 * torch.randn(10, 16, generator=generator, dtype=torch.float64))
        self.out = nn.Parameter(0.5 * torch.randn(16, 8, generator=generator, dtype=torch.float64))

    def forward(self, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        known = torch.stack([level / 20, condition], dim=-1).double()
        inside = torch.cat([noisy.flatten(1), known], dim=-1) @ self.inside
        out: Tensor = (inside.tanh() @ self.out).reshape(noisy.shape)
        return out


@pytest.fixture(params=PROCESSES, ids=lambda process: process.prediction)
def matcher(request: pytest.FixtureRequest) -> Matcher:
    process: GaussianProcess = request.param
    return Matcher(process, trailing(20, 10)[1:], draws=3)


def rated(mask: Tensor | None = None, advantages: Tensor | None = None) -> Rated:
    generator = torch.Generator().manual_seed(5)
    clean = torch.randn(12, 4, 2, generator=generator, dtype=torch.float64)
    condition = torch.randn(12, generator=generator)
    rewards = 2.0 * torch.randn(12, generator=generator, dtype=torch.float64)
    rollout = Rollout(clean, condition, torch.arange(12) // 4, mask=mask)
    return Rated(rollout, rewards, rewards if advantages is None else advantages)


def pairs() -> Pairs:
    rollout = rated().rollout
    return Pairs(rollout.clean[:6], rollout.clean[6:], rollout.condition[:6])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def gradient(loss: Tensor, network: nn.Module) -> Tensor:
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(network.parameters()))])


def frozen(**roles: Denoiser) -> dict[str, Denoiser]:
    return roles


@pytest.mark.parametrize("beta", [0.1, 1.0, 1.7])
def test_nft_at_old_has_the_gradient_of_advantage_weighted_matching(matcher: Matcher, beta: float) -> None:
    """Also with advantages beyond A_max, which both cut."""
    network, batch = Network(0), rated()
    roles = frozen(train=network, old=Network(0))
    nft = NFT(matcher, NFTConfig(beta, advantage_max=1.5, normalised=False, reference_weight=0.0))
    awm = AWM(matcher, PLAIN)
    cut = batch._replace(advantages=batch.advantages.clamp(-1.5, 1.5))
    assert (cut.advantages != batch.advantages).any()
    found = gradient(nft.loss(batch, roles, generator())[0], network)
    torch.testing.assert_close(found, gradient(awm.loss(cut, roles, generator())[0], network), **EXACT)
    assert found.abs().max() > 1e-3


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_nft_off_policy_is_linearised_matching_with_a_pull_to_old(matcher: Matcher, beta: float) -> None:
    """Namely a^2/beta + 2(2r-1) a.d + beta d^2."""
    batch, roles = rated(), frozen(train=Network(0), old=Network(1))
    config = NFTConfig(beta, advantage_max=5.0, normalised=False, reference_weight=0.0)
    good = (batch.advantages / 10 + 0.5).clamp(0, 1)
    expected = []
    for each in matcher.matchings(batch.rollout.clean, batch.rollout.condition, generator()):
        old = each.predict(roles["old"])
        d, a = each.predict(roles["train"]) - old, old - each.target
        a2, ad, d2 = ((x * y).flatten(1).mean(1) for x, y in ((a, a), (a, d), (d, d)))
        expected.append(a2 / beta + 2 * (2 * good - 1) * ad + beta * d2)
    loss, _ = NFT(matcher, config).loss(batch, roles, generator())
    torch.testing.assert_close(loss / 5.0, torch.stack(expected).mean(), **EXACT)


def curvature(objective: AWM | NFT, batch: Rated, others: dict[str, Denoiser]) -> float:
    """Half the second derivative of a loss by a number added to every prediction."""
    network, by = Network(0), torch.zeros((), dtype=torch.float64, requires_grad=True)

    def shifted(noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
        out: Tensor = network(noisy, level, condition).detach() + by
        return out

    loss, _ = objective.loss(batch, {"train": shifted, **others}, generator())
    (slope,) = torch.autograd.grad(loss, by, create_graph=True)
    (second,) = torch.autograd.grad(slope, by)
    return second.item() / 2


@pytest.mark.parametrize("advantage", [-5.0, -0.5, 2.0])
def test_the_curvature_of_nft_is_beta_and_that_of_awm_may_be_negative(
    matcher: Matcher, advantage: float
) -> None:
    """It is A + w_ema, unbounded below for A < -w_ema; NFT's is beta whatever the advantage."""
    batch = rated(advantages=torch.full((12,), advantage, dtype=torch.float64))
    others: dict[str, Denoiser] = {"old": Network(1), "ema": Network(2)}
    awm = AWM(matcher, AWMConfig(1.0, "uniform", ema_weight=1.0))
    nft = NFT(matcher, NFTConfig(0.7, normalised=False, reference_weight=0.0))
    assert curvature(awm, batch, others) == pytest.approx(advantage + 1.0, abs=1e-10)
    assert curvature(nft, batch, others) / 5.0 == pytest.approx(0.7, abs=1e-10)


def test_dpo_at_reference_has_the_gradient_of_the_pair_of_errors(matcher: Matcher) -> None:
    """It is beta/4 of grad[mse_w - mse_l], advantages +1 and -1 with level and noise shared."""
    network, batch = Network(0), pairs()
    roles = frozen(train=network, reference=Network(0))
    loss, logs = DiffusionDPO(matcher, DiffusionDPOConfig(40.0)).loss(batch, roles, generator())
    found = gradient(loss, network)
    plain, generated = SFT(matcher), []
    for clean in (batch.winner, batch.loser):
        rollout = Rollout(clean, batch.condition, torch.zeros(6, dtype=torch.int64))
        generated.append(plain.loss(rollout, roles, generator())[0])
    torch.testing.assert_close(found, 10.0 * gradient(generated[0] - generated[1], network), **EXACT)
    assert logs["winner_error"] == pytest.approx(generated[0].item())
    assert logs["loser_error"] == pytest.approx(generated[1].item())
    assert logs["loss"] == pytest.approx(0.6931471805599453)


def test_rwr_is_awm_with_softmax_weights(matcher: Matcher) -> None:
    network, batch = Network(0), rated()
    weighted = batch._replace(advantages=softmax_weights(batch.rewards, 0.5))
    losses = [
        each.loss(weighted, {"train": network}, generator())[0]
        for each in (RWR(matcher), AWM(matcher, PLAIN))
    ]
    torch.testing.assert_close(*(gradient(loss, network) for loss in losses), **EXACT)
    with pytest.raises(ValueError, match="softmax_weights"):
        RWR(matcher).loss(batch, {"train": network}, generator())


@pytest.mark.parametrize("normalised", [False, True])
def test_a_sample_neither_good_nor_bad_teaches_nft_nothing(matcher: Matcher, normalised: bool) -> None:
    network, batch = Network(0), rated(advantages=torch.zeros(12, dtype=torch.float64))
    nft = NFT(matcher, NFTConfig(normalised=normalised, reference_weight=0.0))
    loss, _ = nft.loss(batch, {"train": network, "old": Network(0)}, generator())
    assert gradient(loss, network).abs().max() < 1e-10


def test_dpo_does_not_care_which_of_a_pair_is_named_first() -> None:
    errors = torch.rand(4, 9, generator=generator(), dtype=torch.float64)
    winner, loser, reference_winner, reference_loser = errors
    found = preference_loss(margin(winner, loser, reference_winner, reference_loser), 7.0)
    swapped = preference_loss(margin(loser, winner, reference_loser, reference_winner), 7.0, sign=-1.0)
    torch.testing.assert_close(found, swapped, **EXACT)


@pytest.mark.parametrize("normalised", [False, True])
def test_at_old_the_value_of_nft_does_not_depend_on_rewards_but_its_gradient_does(
    matcher: Matcher, normalised: bool
) -> None:
    network, nft = Network(0), NFT(matcher, NFTConfig(normalised=normalised, reference_weight=0.0))
    roles = frozen(train=network, old=Network(0))
    batches = rated(), rated(advantages=rated().advantages.flip(0))
    one, other = (nft.loss(batch, roles, generator())[0] for batch in batches)
    torch.testing.assert_close(one, other, **EXACT)
    assert (gradient(one, network) - gradient(other, network)).abs().max() > 1e-3


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_clipped_ratio_of_awm_has_the_on_policy_gradient_at_old(matcher: Matcher, weighting: Any) -> None:
    network, batch = Network(0), rated()
    roles = frozen(train=network, old=Network(0), reference=Network(1))
    clipped = AWM(matcher, AWMConfig(1.0, weighting, clip=0.2, ema_weight=0.0, reference_weight=0.1))
    free = AWM(matcher, AWMConfig(1.0, weighting, ema_weight=0.0, reference_weight=0.1))
    assert clipped.needs.old
    assert not free.needs.old
    found, logs = clipped.loss(batch, roles, generator())
    expected = gradient(free.loss(batch, roles, generator())[0], network)
    torch.testing.assert_close(gradient(found, network), expected, **EXACT)
    assert logs["clipped"] == 0.0
    assert logs["reference_distance"] > 0.0


def test_actions_that_were_not_executed_are_not_scored(matcher: Matcher) -> None:
    """With a denoiser of single elements nothing of them is left; one that mixes still sees them as context."""
    mask = (torch.arange(4) < 2)[None, :, None]

    def denoise(noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
        return torch.tanh(noisy + condition[:, None, None])

    roles = dict.fromkeys(("train", "old", "reference", "ema"), denoise)
    positive = rated(mask, torch.rand(12, generator=generator(), dtype=torch.float64))
    broken = torch.where(mask, positive.rollout.clean, torch.nan)
    other = positive._replace(rollout=positive.rollout._replace(clean=broken))
    for objective in (RWR(matcher), AWM(matcher), NFT(matcher)):
        assert objective.loss(positive, roles, generator())[1] == objective.loss(other, roles, generator())[1]
    plain = SFT(matcher)
    assert (
        plain.loss(positive.rollout, roles, generator())[1]
        == plain.loss(other.rollout, roles, generator())[1]
    )
    two = pairs()._replace(mask=mask)
    nothing = two._replace(loser=torch.where(mask, two.loser, torch.nan))
    dpo = DiffusionDPO(matcher)
    assert dpo.loss(two, roles, generator())[1] == dpo.loss(nothing, roles, generator())[1]


def test_a_role_that_nobody_plays_is_named(matcher: Matcher) -> None:
    with pytest.raises(ValueError, match="role 'ema'; the roles filled are: train"):
        AWM(matcher).loss(rated(), {"train": Network(0)}, generator())
    with pytest.raises(ValueError, match="none"):
        role({}, "train")


def test_configs_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="beta > 0"):
        NFTConfig(beta=0.0)
    with pytest.raises(ValueError, match="weighs errors by one of"):
        AWMConfig(weighting="linear")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive"):
        DiffusionDPOConfig(beta=-1.0)
    assert DiffusionDPOConfig(5000.0).beta_of_sums(16384) == pytest.approx(0.305, abs=1e-3)
