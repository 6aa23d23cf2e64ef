"""Roll-outs, the DSRL protocol and its statistics; certificate, report and video are modules of their own."""

from diffpolicy.evaluation.protocol import Evaluation, evaluate, judge
from diffpolicy.evaluation.rollout import Episode, RolloutError, rollout
from diffpolicy.evaluation.summary import Arm, ArmSummary, Difference, EvaluationError, LimitSummary

__all__ = [
    "Arm",
    "ArmSummary",
    "Difference",
    "Episode",
    "Evaluation",
    "EvaluationError",
    "LimitSummary",
    "RolloutError",
    "evaluate",
    "judge",
    "rollout",
]
