"""DanceGRPO: DDPO's loss on a random share of the steps; starts shared by a group."""

import torch
from path_toy import FLOW, Small, gain, gathered, generator, gradient, rated

from diffpolicy.alignment import OnlineConfig
from diffpolicy.alignment.objectives import DDPO, DanceGRPO, DanceGRPOConfig, DDPOConfig
from diffpolicy.diffusion import StepRule

DANCE = StepRule("dance_sde")


def test_a_random_share_without_the_last_step_is_ddpo_on_it() -> None:
    denoiser = Small()
    batch = rated(denoiser, DANCE)
    parts = list(DanceGRPO(FLOW, DANCE).parts(batch, {"train": denoiser}, generator()))
    assert len(parts) == 3  # 60 % of the 5 steps before the last
    full = DanceGRPOConfig(share=1.0, skip_last=0)
    dance = list(DanceGRPO(FLOW, DANCE, full).parts(batch, {"train": denoiser}, generator()))
    ddpo = list(DDPO(FLOW, DANCE, DDPOConfig()).parts(batch, {"train": denoiser}, generator()))
    assert torch.equal(gradient(denoiser, dance), gradient(denoiser, ddpo))


def test_a_group_starts_from_the_same_noise_and_ends_apart() -> None:
    objective = DanceGRPO(FLOW, DANCE)
    config = OnlineConfig(groups=3, group_size=4, shared_start=True, rule=DANCE, advantages="group")
    batch, model = gathered(objective, config)
    assert batch.rollout.start is not None
    start = batch.rollout.start.reshape(3, 4, 2)
    assert torch.equal(start, start[:, :1].expand_as(start))
    assert len(torch.unique(batch.rollout.clean, dim=0)) == 12
    objective.check(batch, model.roles)


def test_the_reward_rises() -> None:
    assert gain(DanceGRPO(FLOW, DANCE), DANCE, advantages="group") > 0.05
