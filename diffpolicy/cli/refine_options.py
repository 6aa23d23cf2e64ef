"""The options of `diffpolicy refine`, read before anything is loaded or trained: what is wrong shows at once."""

from typing import Any

from omegaconf import DictConfig

from diffpolicy.cli.config import build
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.refine_world import BranchConfig
from diffpolicy.policies.gaussian import GaussianConfig
from diffpolicy.refinement import (
    ARMS,
    BranchValueConfig,
    CloneConfig,
    GateConfig,
    LagrangianConfig,
    RefineConfig,
)
from diffpolicy.refinement.chunks import ChunkRefineConfig

PARTS: dict[str, type] = {
    "gaussian": GaussianConfig,
    "clone": CloneConfig,
    "branches": BranchConfig,
    "refine": RefineConfig,
    "value": BranchValueConfig,
    "chunks": ChunkRefineConfig,
    "gate": GateConfig,
}


def check_options(cfg: DictConfig) -> None:
    """Check what can be checked without a world model and data.

    Raises:
        ConfigError: or an error of the part that is asked for what it cannot do.
    """
    for name in ("checkpoint_every", "log_every"):
        if cfg[name] < 1:
            raise ConfigError(f"{name}={cfg[name]} must be at least 1 update")
    if cfg.choose_every is not None and cfg.choose_every < 1:
        raise ConfigError(f"choose_every={cfg.choose_every} must be at least 1 roll-out, or null for none")
    if cfg.method not in ARMS:
        raise ConfigError(f"method={cfg.method} is not one of {', '.join(ARMS)}")
    for name, kind in PARTS.items():
        build(kind, cfg[name], name)
    if cfg.method == "lagrangian":
        lagrangian_config(cfg, 1)


def cost_limit(cfg: DictConfig) -> float:
    """Return the cost that an episode may have; ConfigError where none is given."""
    limit = cfg.limit
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 0.0:
        raise ConfigError(
            f"limit={limit}: the gate judges imagined costs by the cost that an episode may have, whatever the method: "
            "give a number, 0 or more, for example limit=10"
        )
    return float(limit)


def lagrangian_config(cfg: DictConfig, episode_length: int) -> LagrangianConfig:
    """Return the options of the method lagrangian for episodes of so many steps."""
    given: dict[str, Any] = {**cfg.lagrangian, "limit": cost_limit(cfg), "episode_length": episode_length}
    return build(LagrangianConfig, given, "lagrangian")
