"""FIND moves the noise that samples start from, and never the denoiser."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pathwise_toy import generator, model
from torch import Tensor

from diffpolicy.alignment.experience import Fixed, Online, OnlineConfig
from diffpolicy.alignment.model import Model
from diffpolicy.alignment.monitor import Monitor
from diffpolicy.alignment.objective import Part
from diffpolicy.alignment.objectives.find import FIND, FINDConfig
from diffpolicy.alignment.objectives.sft import SFT
from diffpolicy.alignment.reward import Reward, Rewards
from diffpolicy.alignment.samples import Rated, Rollout
from diffpolicy.alignment.trainer import AlignConfig, Aligner, Term
from diffpolicy.training.errors import TrainingError

EVERY = OnlineConfig(groups=2, group_size=16)


class Sides:
    """Two prompts: to the left, -1, and to the right, 1."""

    def __len__(self) -> int:
        return 2

    def condition(self, index: Tensor, guided: bool) -> Tensor:
        return index[:, None].float() * 2.0 - 1.0

    def labels(self, index: Tensor) -> list[int]:
        return [2 * int(each) - 1 for each in index]


class Side(Reward):
    """How far a sample lies on the side that was asked for."""

    def __call__(self, samples: Tensor, labels: Any) -> Rewards:
        return Rewards(samples.mean(1) * torch.tensor(labels))


def sided() -> Model:
    of = model()
    return Model(of.process, of.levels, of.shape, of.roles, Sides())


def aligner(of: Model, config: FINDConfig, iterations: int = 40) -> tuple[FIND, Aligner]:
    objective = FIND(of, config)
    term = Term(objective, Online(of, Side(), objective, EVERY))
    return objective, Aligner(of, [term], AlignConfig(iterations=iterations))


def rated(start: Tensor, prompt: Tensor, advantages: Tensor) -> Rated:
    rollout = Rollout(start, 2.0 * prompt[:, None] - 1.0, prompt, start, prompt=prompt)
    return Rated(rollout, advantages, advantages)


def only(objective: FIND, batch: Rated) -> Part:
    (part,) = objective.parts(batch, {}, generator())
    return part


@pytest.mark.parametrize(
    "config",
    [
        FINDConfig(learning_rate=3e-2),
        FINDConfig(learning_rate=3e-2, calibrate=True, calibration_rate=1e-2),
        FINDConfig(learning_rate=3e-3, amortised=True, hidden=32),
    ],
)
def test_every_prompt_gets_its_own_noise_and_the_denoiser_stays(config: FINDConfig) -> None:
    of = sided()
    before, (objective, learner) = of.roles.checksum("train"), aligner(of, config)
    rewards = [float(learner.update(step)["reward"]) for step in range(learner.total_steps)]
    assert sum(rewards[-10:]) / 10 > sum(rewards[:4]) / 4 + 0.3
    assert of.roles.checksum("train") == before
    prompts = torch.arange(2)
    left, right = objective.noise(torch.zeros(2, 3), Sides().condition(prompts, True), prompts)
    assert left.mean() < -0.1
    assert right.mean() > 0.1


def test_the_divergence_and_the_gradient_are_exact() -> None:
    objective = FIND(sided(), FINDConfig())
    noise = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]])
    start = objective.model.process.noise_at(objective.model.levels[0]) * noise
    batch = rated(start, torch.tensor([0, 1]), torch.tensor([1.0, -2.0]))
    part = only(objective, batch)
    assert part.logs["ratio"] == 1.0
    assert part.logs["kl"] == 0.0
    # At m = 0 and s = 1 the gradient of log N(x; m, s) is x in m and x^2 - 1 in log s, and that of KL is 0.
    mean, log_std = torch.autograd.grad(part.loss, list(objective.now.parameters()))
    factor = -10.0 * batch.advantages[:, None] / (2 * 3)
    torch.testing.assert_close(mean, factor * noise)
    torch.testing.assert_close(log_std, factor * (noise.square() - 1.0))
    with torch.no_grad():
        objective.now.mean.fill_(0.3)
        objective.now.log_std.fill_(torch.tensor(0.8).log())
    part = only(objective, batch)
    assert part.logs["kl"] == pytest.approx(0.5 * (0.64 + 0.09 - 1.0 - 2.0 * torch.tensor(0.8).log().item()))


def test_ratios_compare_with_what_the_roll_out_was_started_from() -> None:
    objective, prompts = FIND(sided()), torch.tensor([0, 1])
    condition, scale = Sides().condition(prompts, True), objective.model.process.noise_at(99)
    with torch.no_grad():
        objective.now.mean.fill_(0.5)
    objective.begin()  # remembers m = .5
    assert objective.start is not None
    drawn = objective.start(torch.ones(2, 3), condition, prompts)  # draws 1.5
    batch = rated(scale * drawn, prompts, torch.ones(2))
    assert only(objective, batch).logs["ratio"] == pytest.approx(1.0)
    objective.check(batch, {})
    with torch.no_grad():
        objective.now.mean.fill_(1.5)
    objective.start(torch.ones(2, 3), condition, prompts)  # remembers nothing
    logs = only(objective, batch).logs
    assert logs["ratio"] == pytest.approx(torch.tensor(0.5).exp().item())
    assert logs["clipped"] == 1.0
    with pytest.raises(TrainingError, match="`begin` was not called"):
        objective.check(batch, {})


@pytest.mark.parametrize(("advantage", "moves"), [(1.0, False), (-1.0, True)])
def test_a_clipped_ratio_stops_what_would_go_further_and_not_what_comes_back(
    advantage: float, moves: bool
) -> None:
    objective = FIND(sided(), FINDConfig(kl_weight=0.0))
    batch = rated(torch.ones(2, 3), torch.tensor([0, 1]), torch.full((2,), advantage))
    with torch.no_grad():
        objective.now.mean.fill_(0.9)
    gradients = torch.autograd.grad(only(objective, batch).loss, list(objective.now.parameters()))
    assert bool(gradients[0].abs().max() > 0.0) == moves


@pytest.mark.parametrize("stop", [4, 5])
def test_a_run_goes_on_bit_for_bit(stop: int) -> None:
    config = FINDConfig(learning_rate=3e-2, calibrate=True)
    (_, through), (_, first), (_, second) = (aligner(sided(), config, 4) for _ in range(3))
    want = [through.update(step) for step in range(8)]
    for step in range(stop):
        first.update(step)
    second.load_state(first.state())
    for step in range(stop, 8):
        assert {name: float(value) for name, value in second.update(step).items()} == {
            name: float(value) for name, value in want[step].items()
        }


def test_a_look_amid_an_iteration_does_not_change_what_is_learnt(tmp_path: Path) -> None:
    """A judge starts samples from the distribution as it is then; ratios remain those of the roll-out."""
    config = FINDConfig(learning_rate=3e-2)
    (objective, watched), (_, alone) = (aligner(of, config, 3) for of in (sided(), sided()))
    judge = Monitor(objective.model, Side(), every=1, samples=4, start=objective.start)
    for step in range(6):
        for learner in (watched, alone):
            learner.update(step)
        judge(tmp_path / "checkpoints" / f"step-{step + 1:08d}")
    for name, weights in alone.model().items():
        assert torch.equal(watched.model()[name], weights), name


def test_what_find_cannot_learn_from_is_refused() -> None:
    of = sided()
    objective, nothing = FIND(of), torch.zeros(2)
    online, demonstrations = (
        Online(of, Side(), objective, EVERY),
        Fixed(Rollout(torch.zeros(2, 3), None, nothing.long()), 2),
    )
    with pytest.raises(ValueError, match="leave one of them out"):
        Aligner(
            of, [Term(objective, online), Term(SFT(of.matcher()), demonstrations)], AlignConfig(updates=1)
        )
    bare = Rollout(torch.zeros(2, 3), None, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="which prompts"):
        only(objective, Rated(bare, nothing, nothing))
    with pytest.raises(ValueError, match="what they started from"):
        only(objective, Rated(bare._replace(prompt=bare.group), nothing, nothing))
    with pytest.raises(ValueError, match="amortised over conditions that are tensors"):
        FIND(model(), FINDConfig(amortised=True))
    with pytest.raises(ValueError, match="clip between 0 and 1"):
        FINDConfig(clip=1.2)
