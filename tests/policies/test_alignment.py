"""Chunk policies as samples of alignment: masks, episodes, credit, resuming, and every objective on a toy robot."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffpolicy import training
from diffpolicy.alignment import AlignConfig, Aligner, Decay, Fixed, Matcher, Model, Objective, Term
from diffpolicy.alignment.objectives import AWM, NFT, RWR, SFT, AWMConfig
from diffpolicy.alignment.objectives.ddpo import DDPO, DDPOConfig
from diffpolicy.alignment.objectives.flow_grpo import FlowGRPO, FlowGRPOConfig
from diffpolicy.alignment.recipes import build_objective
from diffpolicy.data import OfflineDataset
from diffpolicy.diffusion import StepRule
from diffpolicy.policies import ChunkModel, DiffusionConfig, DiffusionLearner, PolicyError, load_policy
from diffpolicy.policies.alignment import (
    aligned_model,
    chunk_model,
    demonstrated,
    executed_mask,
    load_aligned,
    save_aligned,
)
from diffpolicy.policies.alignment_credit import GroupCredit, ValueConfig, ValueCredit
from diffpolicy.policies.alignment_episodes import Episodes, EpisodesConfig, counted
from diffpolicy.policies.alignment_play import Decisions
from envs.layout import Layout

RULE = StepRule("ddim", minimum_std=0.1)


class Plane:
    """Agents that go where they are told, and are paid for how far right they are; `broken` at one step."""

    def __init__(self, count: int, length: int = 12, broken: int | None = None) -> None:
        self.num_envs, self._length, self._broken = count, length, broken

    def reset(self, *, seed: Any = None) -> tuple[Any, dict[str, Any]]:
        self.seeds, self._step = list(seed), 0
        starts = [np.random.default_rng(each).uniform(-0.6, 0.6, 5) for each in seed]
        self._state = np.array(starts, dtype=np.float32)
        return self._state.copy(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self._step += 1
        self._state[:, :2] = (np.clip(actions, -1.0, 1.0) - 0.25) / 0.5
        reward = 0.5 + 0.2 * self._state[:, 0]
        if self._step == self._broken:
            self._state[1, 3] = np.nan
        over = np.full(self.num_envs, self._step >= self._length)
        return self._state.copy(), reward, over & False, over, {"success": reward > 0.7}


@pytest.fixture
def policy(
    tiny: DiffusionConfig, plane: OfflineDataset, layout: Layout, tmp_path: Path
) -> training.Checkpoint:
    """A cloned policy, as `train` leaves it."""
    learner = DiffusionLearner(plane, tiny, 0, layout, torch.device("cpu"))
    stored = {"policy": asdict(tiny)}
    path = training.run(learner, tmp_path / "bc", stored, checkpoint_every=40, log_every=40, progress=False)
    return training.read_checkpoint(path)


@pytest.fixture
def model(policy: training.Checkpoint) -> Model:
    """It, ready to be aligned."""
    return load_aligned(policy)


def matcher(model: Model) -> Matcher:
    return Matcher(model.process, model.levels, draws=2)


def episodes(model: Model, objective: Objective[Any], **options: Any) -> Episodes:
    config = EpisodesConfig(groups=2, group_size=8, decisions=3, rule=RULE, **options)
    return Episodes(model, Plane(16), objective, config)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_actions_that_were_not_executed_teach_nothing(model: Model) -> None:
    chunks = chunk_model(model.roles)
    mask = executed_mask(chunks, 4)
    assert mask[0, :, 0].tolist() == [False] + [True] * 4 + [False] * 3
    objective = SFT(matcher(model))
    batch = episodes(model, NFT(matcher(model))).gather(
        dict(model.roles) | {"old": model.roles["train"]}, generator()
    )
    rollout = batch.batch.rollout  # type: ignore[union-attr]
    other = rollout._replace(clean=torch.where(mask, rollout.clean, 9.0))
    # The network mixes the actions of a chunk: with a denoiser that does not, the tail counts for nothing.
    roles = {"train": lambda noisy, level, condition: 0.5 * noisy}
    assert objective.loss(rollout, roles, generator())[0] == objective.loss(other, roles, generator())[0]
    inside = rollout._replace(clean=torch.where(mask, rollout.clean + 1.0, rollout.clean))
    assert objective.loss(rollout, roles, generator())[0] != objective.loss(inside, roles, generator())[0]
    with pytest.raises(PolicyError, match="1 to 7 ahead"):
        executed_mask(chunks, 8)


def test_episodes_of_a_group_begin_alike_and_their_decisions_share_the_reward(model: Model) -> None:
    experience = episodes(model, AWM(matcher(model), AWMConfig()), until_best=False)
    gathered = experience.gather(model.roles, generator())
    batch: Any = gathered.batch
    seeds = experience.vector.seeds  # type: ignore[attr-defined]
    assert len(set(seeds)) == 2
    assert seeds[0] == seeds[7]
    assert min(seeds) >= 2**20
    assert batch.rollout.clean.shape == (48, 8, 2)
    assert gathered.calls == 16
    tokens = batch.rollout.condition["tokens"]
    assert torch.equal(tokens[0], tokens[7])
    assert not torch.equal(tokens[0], tokens[8])
    by_episode = batch.advantages.view(3, 16)
    assert torch.equal(by_episode[0], by_episode[2])
    torch.testing.assert_close(by_episode[0, :8].mean(), torch.tensor(0.0), atol=1e-6, rtol=0.0)
    assert gathered.logs["environment_steps"] == 16 * 12
    assert gathered.logs["decisions"] == 48


def played(score: list[list[float]], running: list[list[bool]]) -> Decisions:
    values, flags = torch.tensor(score).T, torch.tensor(running).T
    tokens = torch.randn(*values.shape, 1, 3, generator=generator())
    clean = torch.zeros(*values.shape, 2, 1)
    return Decisions(clean, {"tokens": tokens}, None, flags, values, 0)


def test_what_came_after_the_best_score_is_not_paid_for() -> None:
    rows = played(
        [[0.1, 0.5, 0.5], [0.1, 0.2, 0.9], [1.0, 1.0, 1.0]], [[True] * 3, [True] * 3, [True, False, False]]
    )
    assert counted(rows, "best_reward").T.tolist() == [[True, True, False], [True] * 3, [True, False, False]]


def test_all_decisions_of_a_failure_count() -> None:
    rows = played([[0.0, 1.0, 1.0], [0.0] * 3, [0.0] * 3], [[True] * 3, [True] * 3, [True, True, False]])
    kept = [[True, True, False], [True] * 3, [True, True, False]]
    assert counted(rows, "success").T.tolist() == kept
    assert counted(rows, "best_reward").T.tolist() == [kept[0], [True, False, False], [True, False, False]]


def test_matching_errors_of_chunks_are_taken_at_all_levels(model: Model) -> None:
    assert build_objective("nft", model).matcher.levels == model.levels  # type: ignore[attr-defined]


def test_roll_outs_without_weights_or_actions_are_refused(model: Model) -> None:
    with pytest.raises(PolicyError, match=r"online\.advantages=softmax"):
        episodes(model, RWR(matcher(model)))
    with pytest.raises(ValueError, match="executed=0"):
        EpisodesConfig(executed=0)


def test_generalised_advantages_are_those_of_increases_of_the_score() -> None:
    rows = played([[0.1, 0.5], [0.3, 0.3]], [[True] * 2, [True] * 2])
    credit = ValueCredit(3, 2, ValueConfig(gamma=1.0, lam=1.0, warm_up=0))
    found, _ = credit.advantages(rows, torch.tensor([0, 0]), generator())
    plain = torch.tensor([[0.5, 0.3], [0.4, 0.0]])  # returns to go: the value begins at 0
    torch.testing.assert_close(found, (plain - plain.mean()) / (plain.std(correction=0) + 1e-4))
    for _ in range(60):
        _, logs = credit.advantages(rows, torch.tensor([0, 0]), generator())
    assert logs["explained"] > 0.9


def test_a_broken_simulator_teaches_nothing(model: Model) -> None:
    objective = AWM(matcher(model))
    experience = episodes(model, objective)
    experience.vector = Plane(16, broken=4)
    aligner = Aligner(model, [Term(objective, experience)], AlignConfig(iterations=1))
    with pytest.raises(training.FeedbackError, match="non-finite observation"):
        aligner.update(0)
    assert experience.state()["steps"] == 0
    with pytest.raises(PolicyError, match="there are 4 environments"):
        Episodes(model, Plane(4), objective)
    with pytest.raises(PolicyError, match="SFT cannot learn from episodes"):
        Episodes(model, Plane(16), SFT(matcher(model)))


def test_rewards_may_all_be_negative(model: Model) -> None:
    class Below(Plane):
        def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
            seen, reward, *rest = super().step(actions)
            return seen, reward - 5.0, *rest

    found = []
    for plane in (Plane(16), Below(16)):
        experience = episodes(model, AWM(matcher(model)))
        experience.vector = plane
        found.append(experience.gather(model.roles, generator()).batch)
    torch.testing.assert_close(found[1].rewards, found[0].rewards - 5.0)  # type: ignore[union-attr]
    torch.testing.assert_close(found[1].advantages, found[0].advantages, atol=1e-4, rtol=0.0)  # type: ignore[union-attr]


def test_resuming_is_exact(policy: training.Checkpoint) -> None:
    def make() -> Aligner:
        model = load_aligned(policy)
        objective = NFT(matcher(model))
        credit = ValueCredit(chunk_model(model.roles).features.size, 3)
        config = EpisodesConfig(groups=2, group_size=8, decisions=3)
        experience = Episodes(model, Plane(16), objective, config, credit)
        return Aligner(model, [Term(objective, experience)], AlignConfig(iterations=3, updates=2))

    whole, first, second = make(), make(), make()
    for step in range(6):
        logs = whole.update(step)
    for step in range(3):
        first.update(step)
    second.load_state(first.state())
    for step in range(3, 6):
        resumed = second.update(step)
    assert logs == resumed
    assert all(
        torch.equal(one, other)
        for one, other in zip(whole.model().values(), second.model().values(), strict=True)
    )


def _nft(model: Model) -> tuple[Objective[Any], float | None]:
    return NFT(matcher(model)), None


def _awm(model: Model) -> tuple[Objective[Any], float | None]:
    return AWM(matcher(model)), None


def _rwr(model: Model) -> tuple[Objective[Any], float | None]:
    return RWR(matcher(model)), 0.3


def _ddpo(model: Model) -> tuple[Objective[Any], float | None]:
    return DDPO(model.process, RULE, DDPOConfig(0.05, first_clip=0.01, last_steps=3, discount=0.99)), None


def _flow_grpo(model: Model) -> tuple[Objective[Any], float | None]:
    return FlowGRPO(model.process, RULE, FlowGRPOConfig(0.05, skip_last=0)), None


@pytest.mark.parametrize("make", [_nft, _awm, _rwr, _ddpo, _flow_grpo])
def test_every_objective_raises_the_reward(
    model: Model, make: Callable[[Model], tuple[Objective[Any], float | None]]
) -> None:
    objective, temperature = make(model)
    experience = episodes(model, objective, temperature=temperature)
    config = AlignConfig(iterations=20, updates=4, learning_rate=2e-3, old=Decay(0.0, 0.0))
    aligner = Aligner(model, [Term(objective, experience)], config)
    rewards = [float(aligner.update(step)["reward"]) for step in range(aligner.total_steps)]
    assert rewards[-1] > rewards[0] + 0.05


def test_an_aligned_policy_is_a_policy(
    policy: training.Checkpoint, model: Model, plane: OfflineDataset, tmp_path: Path
) -> None:
    objective, anchor = AWM(matcher(model)), SFT(matcher(model))
    data = demonstrated(chunk_model(model.roles), plane)
    terms = [Term(objective, episodes(model, objective)), Term(anchor, Fixed(data, 16), 0.5)]
    aligner = Aligner(model, terms, AlignConfig(iterations=1, updates=1))
    aligner.update(0)
    saved = training.read_checkpoint(
        save_aligned(model.roles, policy, tmp_path / "aligned", 1, {"objective": "awm"})
    )
    assert saved.manifest["alignment"]["base"] == policy.manifest["sha256"]["model.safetensors"]
    acting = load_policy(saved, "ddim_5@4")
    assert isinstance(acting.model, ChunkModel)
    changed: dict[str, Tensor] = dict(acting.model.state_dict())
    assert not torch.equal(changed["network.output.weight"], policy.model["network.output.weight"])
    assert torch.equal(changed["scale"], policy.model["scale"])


def test_what_cannot_be_aligned_is_refused(policy: training.Checkpoint) -> None:
    with pytest.raises(PolicyError, match="aligned_model"):
        chunk_model({})  # type: ignore[arg-type]
    streaming = load_aligned(policy).roles["train"].model  # type: ignore[attr-defined]
    streaming.per_step_levels = True
    with pytest.raises(PolicyError, match="noise level for every action"):
        aligned_model(streaming)
    assert GroupCredit().state() == {}
