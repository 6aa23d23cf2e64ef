"""Objectives by name: every one builds, what cannot be meant is refused, and the shipped configs are the recipes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffpolicy.alignment import (
    CopiedRoles,
    Fixed,
    Model,
    Online,
    OnlineConfig,
    Pairs,
    Reward,
    Rewards,
    Rollout,
    inner_levels,
)
from diffpolicy.alignment.recipes import (
    RECIPES,
    RecipeError,
    build_experience,
    build_objective,
    config_of,
    online_config,
    options_of,
)
from diffpolicy.diffusion import rectified_flow, trailing

CONFIGS = Path(__file__).parents[2] / "configs" / "objective"
DATA = Rollout(torch.zeros(4, 3), None, torch.arange(4))
PAIRS = Pairs(torch.zeros(4, 3), torch.ones(4, 3), None)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, noisy: Tensor, level: Tensor, condition: None) -> Tensor:
        return self.layer(noisy)


class Sum(Reward):
    @property
    def differentiable(self) -> bool:
        return True

    def __call__(self, samples: Tensor, labels: object) -> Rewards:
        return Rewards(samples.sum(1))


@pytest.fixture
def model() -> Model:
    return Model(rectified_flow(20), trailing(20, 10), (3,), CopiedRoles(Net()))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_objective_builds_and_one_update_is_finite(name: str, model: Model) -> None:
    objective = build_objective(name, model, Sum())
    online = online_config(name, groups=2, group_size=4)
    data = DATA if name == "sft" else None
    experience = build_experience(model, Sum(), objective, online, data)
    if objective.needs.old:
        model.roles.add("old")
    if objective.needs.ema:
        model.roles.add("ema")
    generator = torch.Generator().manual_seed(0)
    batch = experience.gather(model.roles, generator).batch
    objective.check(batch, model.roles)
    loss, _ = objective.loss(batch, model.roles, generator)
    assert torch.isfinite(loss)


def test_every_objective_has_a_config_of_its_name() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(RECIPES)


def test_options_reach_the_config_and_the_matcher(model: Model) -> None:
    objective = build_objective("nft", model, options={"beta": 0.5, "draws": 2, "coupled": True})
    assert objective.config.beta == 0.5
    assert (objective.matcher.draws, objective.matcher.coupled) == (2, True)
    assert options_of("rwr") == ("draws", "coupled")
    assert options_of("diffusion_dpo") == ("beta", "draws")  # comparisons are always coupled
    assert config_of("rwr") is None


def test_online_options_keep_what_was_published() -> None:
    assert online_config("rwr", groups=3) == OnlineConfig(groups=3, advantages="softmax")
    assert online_config("d3po").shared_start
    with pytest.raises(RecipeError, match="did you mean 'group_size'"):
        online_config("nft", groupsize=3)


def test_what_cannot_be_meant_is_refused_with_the_nearest(model: Model) -> None:
    with pytest.raises(RecipeError, match="did you mean 'dance_grpo'"):
        build_objective("danse_grpo", model)
    with pytest.raises(RecipeError, match="there are sft, rwr"):
        build_objective("zzz", model)
    with pytest.raises(RecipeError, match="no option 'bta'; did you mean 'beta'"):
        build_objective("nft", model, options={"bta": 1.0})
    with pytest.raises(RecipeError, match="calls a reward itself"):
        build_objective("draft_k", model)


def test_levels_of_matching_errors_are_the_inner_ones_or_those_of_the_model(model: Model) -> None:
    assert build_objective("nft", model).matcher.levels == inner_levels(model.levels)  # type: ignore[attr-defined]
    chosen = replace(model, matched=(19, 9))
    assert build_objective("nft", chosen).matcher.levels == (19, 9)  # type: ignore[attr-defined]


def test_weights_are_those_of_softmax(model: Model) -> None:
    objective = build_objective("rwr", model)
    with pytest.raises(ValueError, match="leave advantages at 'softmax'"):
        build_experience(model, Sum(), objective, online_config("rwr", advantages="global"))


def test_data_goes_to_those_that_learn_from_it(model: Model) -> None:
    config = OnlineConfig(groups=2, group_size=2)
    sft, dpo, nft = (build_objective(name, model) for name in ("sft", "diffusion_dpo", "nft"))
    fixed = build_experience(model, None, sft, config, DATA)
    assert isinstance(fixed, Fixed)
    assert fixed.count == 4
    assert isinstance(build_experience(model, None, dpo, config, PAIRS), Fixed)
    assert isinstance(build_experience(model, Sum(), dpo, config), Online)
    for objective, reward, data, message in (
        (nft, Sum(), DATA, "learns from its own samples, not from data"),
        (dpo, None, DATA, "comparisons"),
        (sft, None, PAIRS, "demonstrations, which"),
        (sft, Sum(), None, "give it data"),
        (nft, None, None, "give it a reward"),
    ):
        with pytest.raises(RecipeError, match=message):
            build_experience(model, reward, objective, config, data)
