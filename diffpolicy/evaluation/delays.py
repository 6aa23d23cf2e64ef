"""Ways to execute a policy whose decisions take time, and that time in control steps."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from diffpolicy.evaluation.summary import EvaluationError
from diffpolicy.policies.asynchronous import DelayedPolicy, Waiting
from diffpolicy.policies.chunk_policy import ChunkPolicy
from diffpolicy.policies.freezing import Freezing

Execution = Literal["blocking", "naive", "inpaint", "guide"]


class _How(NamedTuple):
    waiting: Waiting
    freezing: Freezing


# The robot waits; the old chunk is executed meanwhile; the new one is made to agree with it, in two ways.
EXECUTIONS: dict[Execution, _How] = {
    "blocking": _How("blocking", "inpaint"),
    "naive": _How("naive", "inpaint"),
    "inpaint": _How("frozen", "inpaint"),
    "guide": _How("frozen", "guide"),
}


def delay_steps(latency: float, control_rate: float | None) -> int:
    """Whole control steps that a `latency` [s] takes at `control_rate` [Hz]: a plan that comes late waits for the next.

    Raises EvaluationError for a task without a control rate or a negative latency.
    """
    if control_rate is None:
        raise EvaluationError(
            "the task declares no control rate: a latency in seconds means no number of steps"
        )
    if latency < 0:
        raise EvaluationError(f"a latency of {latency} s; give 0 or more")
    return math.ceil(latency * control_rate - 1e-9)


def delayed(make: Callable[[Freezing], ChunkPolicy], execution: Execution, delay: int) -> DelayedPolicy:
    """The policy of `make`, which is told how its chunks are frozen, when a decision takes `delay` control steps."""
    how = EXECUTIONS[execution]
    return DelayedPolicy(make(how.freezing), delay, how.waiting)
