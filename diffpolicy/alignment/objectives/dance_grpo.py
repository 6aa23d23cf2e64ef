"""DanceGRPO: groups that start from the same noise, and a random share of their steps."""

from dataclasses import dataclass

from diffpolicy.alignment.objectives.ddpo import DDPO, DDPOConfig


@dataclass(frozen=True)
class DanceGRPOConfig(DDPOConfig):
    """60 % of the steps, drawn at random, without the last one; clipped at 1 +- 1e-4."""

    share: float = 0.6
    skip_last: int = 1


@dataclass(frozen=True)
class DanceGRPO(DDPO):
    """`L = mean over samples and a share of steps of max(-A rho, -A clip(rho, 1-eps, 1+eps))` (Xue et al. 2025).

    DDPO's loss, without a distance to a reference. Its own roll-outs share their start within a group, so that only the
    steps tell samples apart, have steps of the rule "dance_sde" and advantages over the deviation of the group. On
    trees this is BranchGRPO, whose ratios are clipped at 1 +- 1e-3.
    """

    config: DanceGRPOConfig = DanceGRPOConfig()
