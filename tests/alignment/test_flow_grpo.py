"""Flow-GRPO: the distance to the reference in closed form, and what it does."""

import pytest
import torch
from path_toy import FLOW, LEVELS, SDE, Small, gain, generator, gradient, path_of, rated

from diffpolicy.alignment.objectives import DDPO, DDPOConfig, FlowGRPO, FlowGRPOConfig


def test_the_distance_is_that_of_the_means_over_the_diffusion_without_the_time_step() -> None:
    denoiser, reference = Small(), Small(1)
    batch = rated(denoiser)
    config = FlowGRPOConfig(beta=0.5)
    roles = {"train": denoiser, "reference": reference}
    parts = list(FlowGRPO(FLOW, SDE, config).parts(batch, roles, generator()))
    assert len(parts) == len(LEVELS) - 1
    path = path_of(batch.rollout.path)
    for step, part in enumerate(parts):
        time = float(FLOW.noise[LEVELS[step]])
        next_time = float(FLOW.noise[LEVELS[step + 1]])
        # sigma_t^2 = a^2 t/(1 - t), with the next time's 1 - t at the start; mu = x + v dt + sigma^2/(2t) (...) dt.
        variance = 0.49 * time / (1.0 - (time if time < 1.0 else next_time))
        rows = torch.full((8,), LEVELS[step])
        gap = denoiser(path.states[step], rows, None) - reference(path.states[step], rows, None)
        slope = (next_time - time) * (1.0 + variance * (1.0 - time) / (2.0 * time))
        expected = ((slope * gap).square().mean() / (2.0 * variance)).item()
        assert part.logs["kl"] == pytest.approx(expected, rel=1e-4)
        assert part.loss.item() * len(parts) == pytest.approx(part.logs["policy"] + 0.5 * expected, rel=1e-4)


def test_the_distance_pulls_to_the_reference() -> None:
    denoiser, reference = Small(), Small(1)
    batch = rated(denoiser)
    roles = {"train": denoiser, "reference": reference}
    flat = batch._replace(advantages=torch.zeros(8))
    objective = FlowGRPO(FLOW, SDE, FlowGRPOConfig(beta=1.0))
    before = objective.loss(flat, roles, generator())[1]["kl"]
    step = gradient(denoiser, list(objective.parts(flat, roles, generator())))
    weights = torch.nn.utils.parameters_to_vector(denoiser.parameters())
    torch.nn.utils.vector_to_parameters(weights - 0.05 / step.norm() * step, denoiser.parameters())
    assert objective.loss(flat, roles, generator())[1]["kl"] < before


def test_without_a_distance_no_reference_is_needed_and_it_is_ddpo() -> None:
    denoiser = Small()
    batch = rated(denoiser)
    objective = FlowGRPO(FLOW, SDE, FlowGRPOConfig(beta=0.0))
    assert not objective.needs.reference
    assert FlowGRPO(FLOW, SDE).needs.reference
    parts = list(objective.parts(batch, {"train": denoiser}, generator()))
    same = list(DDPO(FLOW, SDE, DDPOConfig(skip_last=1)).parts(batch, {"train": denoiser}, generator()))
    assert torch.equal(gradient(denoiser, parts), gradient(denoiser, same))


def test_a_negative_beta_is_refused() -> None:
    with pytest.raises(ValueError, match="beta"):
        FlowGRPOConfig(beta=-0.1)


def test_the_reward_rises() -> None:
    assert gain(FlowGRPO(FLOW, SDE)) > 0.15
