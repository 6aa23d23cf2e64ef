"""Objectives by name, and what belongs to each: its class, what it is made of, the roll-outs it learns from."""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from diffpolicy.alignment.experience import Experience, Fixed, Online, OnlineConfig
from diffpolicy.alignment.model import Model
from diffpolicy.alignment.objective import Objective, Owned
from diffpolicy.alignment.reward import Reward
from diffpolicy.alignment.samples import Pairs, Rollout
from diffpolicy.diffusion import StepRule

Family = Literal["matching", "path", "reward", "noise"]
# Options beside those of the method's own config: of the matcher, and whether DPOK's baseline is learnt.
MATCHING_OPTIONS, VALUE_OPTION = ("draws", "coupled"), "value"


class RecipeError(ValueError):
    """An objective cannot be built as asked: no such name or option, or something that it needs is missing."""


class Recipe(NamedTuple):
    """An objective's class, and how its published roll-outs differ from the usual ones (`OnlineConfig`).

    `family` says what the objective is made of: a matcher, steps of a sampler, a reward that it calls itself, or noise.
    """

    kind: str
    family: Family
    online: Mapping[str, Any] = {}


RECIPES: Mapping[str, Recipe] = {
    "sft": Recipe("SFT", "matching"),
    "rwr": Recipe("RWR", "matching", {"advantages": "softmax"}),
    "diffusion_dpo": Recipe("DiffusionDPO", "matching"),
    "awm": Recipe("AWM", "matching"),
    "nft": Recipe("NFT", "matching"),
    "ddpo": Recipe("DDPO", "path", {"advantages": "buffer"}),
    "dpok": Recipe("DPOK", "path"),
    "d3po": Recipe("D3PO", "path", {"shared_start": True}),
    "flow_grpo": Recipe("FlowGRPO", "path", {"rule": StepRule("flow_sde")}),
    "dance_grpo": Recipe(
        "DanceGRPO", "path", {"advantages": "group", "shared_start": True, "rule": StepRule("dance_sde")}
    ),
    "draft_k": Recipe("DRaFTK", "reward"),
    "draft_lv": Recipe("DRaFTLV", "reward"),
    "align_prop": Recipe("AlignProp", "reward"),
    "refl": Recipe("ReFL", "reward"),
    "distillation_dpo": Recipe("DistillationDPO", "reward"),
    "find": Recipe("FIND", "noise"),
}


def recipe(name: str) -> Recipe:
    """Return the recipe of an objective.

    Raises:
        RecipeError: if there is none of that name.
    """
    if name not in RECIPES:
        raise RecipeError(f"there is no objective {name!r}; {_instead(name, RECIPES)}")
    return RECIPES[name]


def config_of(name: str) -> type[Any] | None:
    """Return the dataclass of an objective's own options; None if it has none.

    Raises:
        RecipeError: if there is no objective of that name.
    """
    found: type[Any] | None = getattr(_module(name), f"{recipe(name).kind}Config", None)
    return found


def options_of(name: str) -> tuple[str, ...]:
    """Return the names of an objective's options, those of its matcher included.

    Raises:
        RecipeError: if there is no objective of that name.
    """
    config = config_of(name)
    own = () if config is None else tuple(field.name for field in dataclasses.fields(config))
    return own + beside(name)


def beside(name: str) -> tuple[str, ...]:
    """Return the names of an objective's options that are not those of its config.

    Raises:
        RecipeError: if there is no objective of that name.
    """
    if name == "dpok":
        return (VALUE_OPTION,)
    if name == "diffusion_dpo":
        return ("draws",)  # winner and loser always share level and noise
    return MATCHING_OPTIONS if recipe(name).family == "matching" else ()


def build_objective(
    name: str,
    model: Model,
    reward: Reward | None = None,
    rule: StepRule | None = None,
    options: Mapping[str, Any] | None = None,
) -> Objective[Any]:
    """Return the objective called `name` for a model.

    `reward` is that of objectives that follow its gradient, `rule` that of recorded paths, by default the recipe's;
    `options` are fields of the objective's config, `draws` and `coupled` of matching errors, and `value` of DPOK:
    whether its baseline is a network.

    Raises:
        RecipeError: if there is no such objective or option, or the reward is missing.
        ValueError: if an option's value is not one.
    """
    found, given = recipe(name), dict(options or {})
    allowed = options_of(name)
    for option in given:
        if option not in allowed:
            raise RecipeError(f"the objective {name} has no option {option!r}; {_instead(option, allowed)}")
    kind, config = getattr(_module(name), found.kind), config_of(name)
    others = {option: given.pop(option) for option in beside(name) if option in given}
    settings = () if config is None else (config(**given),)
    objective: Objective[Any]
    match found.family:
        case "matching":
            objective = kind(model.matcher(**others), *settings)
        case "path":
            baseline = (_value(model),) if others.get(VALUE_OPTION, name == "dpok") else ()
            objective = kind(model.process, rule or online_config(name).rule, *settings, *baseline)
        case "reward":
            if reward is None:
                raise RecipeError(f"the objective {name} calls a reward itself: give it one")
            objective = kind(model, reward, *settings)
        case "noise":
            objective = kind(model, *settings)
    return objective


def online_config(name: str, **options: Any) -> OnlineConfig:
    """Return the roll-outs that an objective was published with, changed by `options`.

    Raises:
        RecipeError: if there is no objective of that name, or no such option.
        ValueError: if an option's value is not one.
    """
    allowed = [field.name for field in dataclasses.fields(OnlineConfig)]
    for option in options:
        if option not in allowed:
            raise RecipeError(f"roll-outs have no option {option!r}; {_instead(option, allowed)}")
    return OnlineConfig(**{**recipe(name).online, **options})


def build_experience(
    model: Model,
    reward: Reward | None,
    objective: Objective[Any],
    online: OnlineConfig,
    data: Rollout | Pairs | None = None,
) -> Experience:
    """Return where an objective's batches come from: `data`, as many at once as a roll-out has, or own samples.

    Raises:
        RecipeError: if the objective cannot learn from what there is.
    """
    needs = objective.needs
    if data is not None:
        if needs.rewards or needs.prompts or needs.path:
            raise RecipeError(
                f"{type(objective).__name__} learns from its own samples, not from data: leave the data out, or take "
                "sft or diffusion_dpo"
            )
        if needs.pairs != isinstance(data, Pairs):
            wanted = "comparisons: winner and loser" if needs.pairs else "demonstrations"
            raise RecipeError(f"{type(objective).__name__} learns from {wanted}, which the data is not")
        return Fixed(data, online.groups * online.group_size)
    if not (needs.rewards or needs.prompts or needs.pairs):
        raise RecipeError(f"{type(objective).__name__} learns from demonstrations: give it data")
    if reward is None:
        raise RecipeError(f"{type(objective).__name__} learns from its own samples: give it a reward")
    return Online(model, reward, objective, online)


def _value(model: Model) -> Owned:
    """Return the network that DPOK's rewards are compared with, which sees conditions that are tensors."""
    from diffpolicy.alignment.objectives.dpok import value_network

    generator = torch.Generator(model.device).manual_seed(0)
    condition = model.prompts.condition(torch.zeros(1, dtype=torch.int64, device=model.device), guided=True)
    told = condition.numel() if isinstance(condition, Tensor) else 0
    return value_network(math.prod(model.shape), generator, told)


def _module(name: str) -> Any:
    recipe(name)
    return import_module(f"diffpolicy.alignment.objectives.{name}")


def _instead(word: str, choices: Iterable[str]) -> str:
    """Return the nearest choice as a question, or all of them."""
    choices = list(choices)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(choices) or 'none'}"
