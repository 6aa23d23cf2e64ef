"""DRaFT-LV varies less than DRaFT-1 at as many roll-outs, and costs the memory of one noise."""

import pytest
import torch
from pathwise_toy import Near, generator, gradient, model, prompted
from torch import Tensor

from diffpolicy.alignment import Online, OnlineConfig
from diffpolicy.alignment.objectives.draft_k import DRaFTK
from diffpolicy.alignment.objectives.draft_lv import DRaFTLV, DRaFTLVConfig
from diffpolicy.alignment.pathwise import Pathwise


def test_its_gradient_is_that_of_samples_noised_again() -> None:
    of, batch = model(), prompted()
    time, last, denoiser, losses = of.process.noise_at(of.levels[-1]), of.levels[-1], of.roles["train"], []
    clean = Pathwise(of, Near()).arrive(denoiser, batch, generator(), 4)
    draw = generator(2)
    for _ in range(2):
        noise = torch.empty_like(clean).normal_(generator=draw)
        noisy = (1.0 - time) * clean + time * noise
        again = noisy - time * denoiser(noisy, torch.full((8,), last), None)
        losses.append((again - 2.0).square().mean())
    want = gradient(torch.stack(losses).mean(), of)
    parts = DRaFTLV(of, Near()).parts(batch, of.roles, generator(2))
    made = sum(gradient(part.loss, of) for part in parts)
    torch.testing.assert_close(made, want, rtol=0.0, atol=1e-10)


def test_more_noises_of_a_sample_make_its_gradient_vary_less() -> None:
    of = model()

    def spread(objective: Pathwise) -> float:
        def one(seed: int) -> Tensor:
            loss, _ = objective.loss(prompted(1, seed), of.roles, generator(1000 + seed))
            return gradient(loss, of)

        return float(torch.stack([one(seed) for seed in range(300)]).var(dim=0).sum())

    one, two, eight = (spread(DRaFTLV(of, Near(), DRaFTLVConfig(noises=noises))) for noises in (1, 2, 8))
    assert two < 0.9 * spread(DRaFTK(of, Near()))
    assert eight < two < one


def test_a_sample_is_noised_at_least_once() -> None:
    with pytest.raises(ValueError, match="once or more"):
        DRaFTLVConfig(noises=0)


def test_every_rating_of_a_sample_is_counted() -> None:
    of = model()
    objective = DRaFTLV(of, Near(), DRaFTLVConfig(noises=3))
    config = OnlineConfig(groups=2, group_size=4)
    assert Online(of, Near(), objective, config).gather(of.roles, generator()).calls == 24
    assert Online(of, Near(), DRaFTK(of, Near()), config).gather(of.roles, generator()).calls == 8
