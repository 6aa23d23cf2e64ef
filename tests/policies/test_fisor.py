"""Training, resuming, loading and acting of the FISOR policies on a toy with a known answer."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffpolicy import training
from diffpolicy.data import OfflineDataset
from diffpolicy.policies import (
    ARMS,
    RULES,
    CandidatePolicy,
    FisorConfig,
    FisorLearner,
    Observation,
    PolicyError,
    available_arms,
    load_policy,
)
from diffpolicy.policies.actors import ActorConfig
from diffpolicy.safety import CriticConfig

SMALL = FisorConfig(
    actors=["none", "safe", "reward", "fisor", "recovery"],
    joint=False,
    critic_updates=600,
    actor_updates=400,
    standardize=True,
    critic=CriticConfig(
        hidden=[32, 32],
        batch=64,
        learning_rate=3e-3,
        polyak=0.05,
        behaviour_bound=["reward", "feasibility", "cost"],
    ),
    actor=ActorConfig(
        network="mlp", hidden=[48, 48], batch=128, learning_rate=3e-3, decay_steps=400, ema=0.02
    ),
)


def one_step_world(episodes: int = 2_000, seed: int = 0) -> OfflineDataset:
    """Episodes of one step from x ~ U(-1, 1) with action a ~ U(-1, 1): the reward is a, and a > 0.3 costs 1."""
    generator = torch.Generator().manual_seed(seed)
    x, a = torch.empty(2, episodes, 1).uniform_(-1, 1, generator=generator)
    index = torch.arange(episodes)
    return OfflineDataset(
        observations=x.repeat_interleave(2, dim=0),
        rows=2 * index,
        actions=a,
        rewards=a[:, 0].clone(),
        costs=(a[:, 0] > 0.3).float(),
        terminals=torch.ones(episodes, dtype=torch.bool),
        timeouts=torch.zeros(episodes, dtype=torch.bool),
        episode_ends=index + 1,
    )


def seen(state: Tensor) -> Observation:
    return Observation(state.unsqueeze(1))


def learner(config: FisorConfig = SMALL, seeds: tuple[int, ...] = (0, 1)) -> FisorLearner:
    safe = replace(config, safe_cost=0.0)
    description = {"task": "toy", "data": {"sha256": "0" * 64}}
    return FisorLearner(one_step_world(), safe, list(seeds), 1.0, torch.device("cpu"), description)


def stored_config(config: FisorConfig) -> dict[str, object]:
    return {"policy": {"actor": vars(config.actor), "critic": vars(config.critic)}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> training.Checkpoint:
    folder = tmp_path_factory.mktemp("fisor")
    path = training.run(
        learner(), folder, stored_config(SMALL), checkpoint_every=10_000, log_every=10, progress=False
    )
    return training.read_checkpoint(path)


def play(checkpoint: training.Checkpoint, arm: str, seed: int = 0) -> Tensor:
    policy = load_policy(checkpoint, arm, seed)
    observation = torch.linspace(-0.9, 0.9, 400).unsqueeze(1)
    chunk, _ = policy.act(seen(observation), policy.start(len(observation), seed=5))
    assert chunk.actions.shape == (400, 1, 1)
    return chunk.actions[:, 0, 0]


@pytest.mark.parametrize("seed", [0, 1])
def test_arms_do_what_their_names_say(trained: training.Checkpoint, seed: int) -> None:
    actions = {arm: play(trained, arm, seed) for arm in ARMS}
    costly = {arm: (a > 0.3).float().mean().item() for arm, a in actions.items()}
    assert 0.2 < costly["bc"] < 0.5  # the behaviour: 35 %
    assert costly["reward_max_q"] > 0.9
    for arm in (
        "bc_safe",
        "bc_safest",
        "fisor_1",
        "fisor_4",
        "fisor",
        "best_feasible_4",
        "best_feasible",
        "recovery",
    ):
        assert costly[arm] < 0.1, arm
    # Among the safe, the rule that takes the best feasible candidate earns most.
    assert actions["best_feasible"].mean() > actions["fisor"].mean()
    assert actions["best_feasible"].mean() > actions["bc_safe"].mean() + 0.1


def test_training_fits_better_and_better(trained: training.Checkpoint) -> None:
    curves = training.read_curves(trained.path.parent.parent)
    for actor in SMALL.actors:
        loss = curves[f"actor/{actor}_loss"][1]
        assert sum(loss[-10:]) / 10 < 0.8 * loss[0], actor


def test_actions_depend_on_the_memory_alone(trained: training.Checkpoint) -> None:
    torch.testing.assert_close(play(trained, "fisor_1"), play(trained, "fisor_1"), rtol=0, atol=0)
    policy = load_policy(trained, "fisor_1", 0)
    memory = policy.start(1, seed=5)
    first, memory = policy.act(seen(torch.zeros(1, 1)), memory)
    second, _ = policy.act(seen(torch.zeros(1, 1)), memory)
    assert not torch.equal(first.actions, second.actions)


def test_what_is_loaded_is_what_was_trained(trained: training.Checkpoint) -> None:
    model = trained.model
    policy = load_policy(trained, "recovery", 1)
    member = SMALL.actors.index("recovery") * 2 + 1
    torch.testing.assert_close(
        policy.actors.average.state_dict()["trunk.layers.0.weight"][0],
        model["actors.trunk.layers.0.weight"][member],
        rtol=0,
        atol=0,
    )
    expected = model["q.layers.0.weight"][6:12]  # the second seed's three twins
    torch.testing.assert_close(
        policy.critics.q_target.state_dict()["layers.0.weight"], expected, rtol=0, atol=0
    )


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_a_compiled_policy_decides_as_the_plain_one(trained: training.Checkpoint) -> None:
    plain = load_policy(trained, "best_feasible", 0)
    fused = CandidatePolicy(plain.actors, plain.critics, plain.standardizer, plain.arm, compiled=True)
    observation = torch.linspace(-0.9, 0.9, 8).unsqueeze(1)
    expected, _ = plain.act(seen(observation), plain.start(8, seed=1))
    actual, _ = fused.act(seen(observation), fused.start(8, seed=1))
    torch.testing.assert_close(actual.actions, expected.actions, atol=1e-4, rtol=0)


def test_missing_arms_and_seeds_are_named(trained: training.Checkpoint) -> None:
    with pytest.raises(ValueError, match="no arm 'fsior'"):
        load_policy(trained, "fsior", 0)
    with pytest.raises(ValueError, match="no training seed 7"):
        load_policy(trained, "fisor", 7)
    manifest = {"method": "fisor", "actors": ["fisor"], "critic_kinds": ["reward", "feasibility"]}
    assert available_arms(manifest) == ["fisor_1", "fisor_4", "fisor", "best_feasible_4", "best_feasible"]


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("stop", [7, 15])
def test_resumed_training_is_bit_for_bit_the_same(joint: bool, stop: int) -> None:
    config = replace(
        SMALL,
        joint=joint,
        updates=20,
        critic_updates=10,
        actor_updates=10,
        actor=replace(SMALL.actor, network="residual", hidden=[16, 16], batch=32, dropout=0.1),
    )
    whole, first, second = learner(config), learner(config), learner(config)
    for step in range(20):
        whole.update(step)
    for step in range(stop):
        first.update(step)
    second.load_state(first.state())
    for step in range(stop, 20):
        second.update(step)
    for name, tensor in whole.model().items():
        assert torch.equal(tensor, second.model()[name]), name


def test_joint_update_is_the_published_one() -> None:
    """Both halves of the batch move the actor, the first part of it the critics."""
    config = replace(SMALL, joint=True, updates=3, actors=["fisor", "none"])
    one = learner(config, seeds=(0,))
    logs = one.update(0)
    assert one.actor_updates == 2
    assert set(logs) >= {"actor/fisor_loss", "actor/none_loss", "reward/q_loss", "feasibility/v_loss"}


def test_joint_training_as_published_learns_the_safe_actions(tmp_path: Path) -> None:
    """Weights of the moment in the loss, the residual network with dropout, no bounds: the paper's way."""
    config = replace(
        SMALL,
        actors=["fisor", "none"],
        joint=True,
        updates=700,
        critic=replace(SMALL.critic, behaviour_bound=[]),
        actor=replace(SMALL.actor, network="residual", hidden=[32, 32], decay_steps=1_400),
    )
    path = training.run(
        learner(config, seeds=(0,)),
        tmp_path,
        stored_config(config),
        checkpoint_every=700,
        log_every=100,
        progress=False,
    )
    checkpoint = training.read_checkpoint(path)
    costly = {arm: (play(checkpoint, arm) > 0.3).float().mean().item() for arm in ("bc", "fisor_1", "fisor")}
    assert costly["bc"] > 0.2
    assert costly["fisor_1"] < 0.1
    assert costly["fisor"] < 0.02


def test_members_draw_in_proportion_to_their_weights() -> None:
    one = learner(seeds=(0,))
    weights = torch.zeros(5, 1, 2_000)
    weights[:, :, 3], weights[:, :, 1_999] = 1.0, 3.0
    one.dataset_weights = lambda: weights  # type: ignore[method-assign]
    drawn = torch.cat([one._draw_weighted() for _ in range(20)], dim=1)
    assert set(drawn.unique().tolist()) == {3, 1_999}
    assert (drawn == 1_999).float().mean().item() == pytest.approx(0.75, abs=0.02)


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="fisr"):
        learner(replace(SMALL, actors=["fisr"]))
    with pytest.raises(ValueError, match="seed"):
        learner(SMALL, seeds=())
    with pytest.raises(ValueError, match="no episode"):
        FisorLearner(one_step_world(), replace(SMALL, safe_cost=-1.0), [0], 1.0, torch.device("cpu"))
    with pytest.raises(ValueError, match="behaviour_bound"):
        learner(replace(SMALL, critic=replace(SMALL.critic, behaviour_bound=["rewards"])))
    with pytest.raises(ValueError, match="'mlp'"):
        learner(replace(SMALL, actor=replace(SMALL.actor, network="unet")))
    for options in (
        {"joint": True, "updates": 0},
        {"critic_updates": 0, "actor_updates": 0},
        {"critic_updates": -5, "actor_updates": 9},
    ):
        with pytest.raises(PolicyError, match="1 update or more"):
            learner(replace(SMALL, **options))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden", []),
        ("hidden", [8, 0]),
        ("batch", 0),
        ("diffusion_steps", 0),
        ("learning_rate", -1.0),
        ("learning_rate", math.nan),
        ("decay_steps", -1),
        ("dropout", 1.0),
        ("ema", 2.0),
    ],
)
def test_options_of_actors_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(PolicyError, match=f"actor.{name}"):
        ActorConfig(**{name: value})  # type: ignore[arg-type]


def test_rules_by_hand() -> None:
    values = {
        "reward": torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]),
        "feasibility": torch.tensor([[0.5, -0.2, -0.9], [9.0, 7.0, 8.0]]),
        "cost": torch.tensor([[1.0, 1.0, 1.0], [4.0, 5.0, 3.0]]),
    }
    chosen = {name: rule(values).tolist() for name, rule in RULES.items()}
    assert chosen == {
        "first": [0, 0],
        "safest": [2, 1],
        "highest_reward": [0, 0],
        "best_feasible": [1, 1],  # nothing feasible: the safest
        "recover": [1, 2],  # nothing feasible: the least cost to come
    }


def test_a_run_folder_survives_being_moved(trained: training.Checkpoint, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    trained.path.rename(moved)
    try:
        assert play(training.read_checkpoint(moved), "fisor").shape == (400,)
    finally:
        moved.rename(trained.path)
