"""Roll-outs, the DSRL protocol, scores of imitation tasks; certificate, report and video are modules of their own."""

from diffpolicy.evaluation.imitation import ScoreRow, ScoreTable, score, tabulate
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
    "ScoreRow",
    "ScoreTable",
    "evaluate",
    "judge",
    "rollout",
    "score",
    "tabulate",
]
