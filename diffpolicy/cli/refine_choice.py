"""Which checkpoint of a refinement counts: the one that earns most in whole imagined episodes within the gate."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffpolicy import training
from diffpolicy.cli.refine_subjects import MEAN
from diffpolicy.cli.refine_world import World
from diffpolicy.policies import load_policy
from diffpolicy.refinement import GateConfig, imagine_episodes, judge
from diffpolicy.refinement.gate import CHEAP

SEED = 1  # not that of the gate: what is chosen by some episodes is judged by others
REFUSED = 100.0  # off the score: more than returns, as the benchmark normalises them, are apart


@dataclass
class ImaginedJudge:
    """Plays whole imagined episodes of checkpoints as they are to be deployed; a `training.Judge`.

    Branches are short and begin anywhere in the data: what they earn and cost is not what episodes do. Among
    checkpoints that the gate would release at a tenth of its cost the one with the highest return is chosen, otherwise
    the cheapest. With all of its cost, a checkpoint was chosen on HalfCheetahVelocity that cost 0.7 in imagination and
    41 in truth.
    """

    world: World
    gate: GateConfig
    deploy: str
    limit: float | None
    every: int
    settings: Mapping[str, Any] = field(
        default_factory=dict
    )  # none: another gate may be asked of the same scores

    def __call__(self, checkpoint: Path) -> training.Verdict:
        """Play the same episodes every time."""
        policy = load_policy(training.read_checkpoint(checkpoint), self.deploy, device=self.world.device)
        imagined = imagine_episodes(policy, self.world.frozen, SEED)
        found = judge(imagined, self.world.known_uncertainty, self.gate, limit=self.limit)
        earned = self.world.task.normalized_return(found.figures["imagined_return"])
        cost, ratio = found.figures["imagined_cost"], found.figures["uncertainty_ratio"]
        score = earned if found.released else -REFUSED - ratio - cost / (self.limit or 1.0)
        values = {"imagined/return": earned, "imagined/cost": cost, "imagined/uncertainty": ratio}
        return training.Verdict(score, values)


def imagined_judge(
    cfg: DictConfig, world: World, gate: GateConfig, limit: float | None
) -> ImaginedJudge | None:
    """Return who chooses between checkpoints; None where nobody is asked to, or success counts.

    Success in imagination is what was optimised, so nothing is chosen by it; costs do not matter without a `limit`.
    """
    if cfg.choose_every is None or world.task.score != "return":
        return None
    deploy = MEAN if cfg.deploy is None else str(cfg.deploy)
    # The highest return of many is found where costs are underestimated.
    stricter = replace(gate, margin=CHEAP * gate.margin)
    return ImaginedJudge(world, stricter, deploy, limit, int(cfg.choose_every) * int(cfg.refine.updates))
