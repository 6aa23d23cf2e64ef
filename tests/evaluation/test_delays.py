"""Delays: latencies become whole control steps, and each execution does what its name says."""

import pytest
import torch

from diffpolicy.diffusion import cosine_betas, variance_preserving
from diffpolicy.evaluation import EvaluationError
from diffpolicy.evaluation.delays import EXECUTIONS, Execution, delay_steps, delayed
from diffpolicy.policies import ChunkPolicy, Observation, parse_arm


class Following:
    """A chunk model that is sure of its actions: position p of a chunk is the state plus p / 100."""

    process = variance_preserving(cosine_betas(100), prediction="sample")
    observation_horizon, prediction_horizon, execution_horizon = 1, 8, 4
    observation_size, action_size = 1, 1

    def encode(self, observation: Observation) -> torch.Tensor:
        return observation.newest[:, :1].unsqueeze(1)

    def __call__(self, noisy: torch.Tensor, level: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return (condition + torch.arange(8.0).view(1, 8, 1) / 100).expand_as(noisy)

    def to_actions(self, normalised: torch.Tensor) -> torch.Tensor:
        return normalised


def executed(execution: Execution, delay: int) -> list[float]:
    """Actions of two decisions, which see the states 0.1 and 0.5."""
    arm = parse_arm("ddim_3")
    policy = delayed(lambda freezing: ChunkPolicy(Following(), arm, freezing=freezing), execution, delay)
    memory = policy.start(1, seed=0)
    found: list[float] = []
    for state in (0.1, 0.5):
        chunk, memory = policy.act(Observation(torch.full((1, 1, 1), state)), memory)
        found += [round(float(value), 3) for value in chunk.actions[0, :, 0]]
    return found


def test_a_latency_is_rounded_up_to_control_steps() -> None:
    assert [delay_steps(ms / 1000, 10.0) for ms in (0, 1, 100, 101, 300, 400)] == [0, 1, 1, 2, 3, 4]
    with pytest.raises(EvaluationError, match="control rate"):
        delay_steps(0.1, None)
    with pytest.raises(EvaluationError, match="0 or more"):
        delay_steps(-0.1, 10.0)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_no_delay_is_plain_execution(execution: Execution) -> None:
    assert executed(execution, 0) == [0.1, 0.11, 0.12, 0.13, 0.5, 0.51, 0.52, 0.53]


def test_a_blocked_robot_repeats_its_last_action() -> None:
    assert executed("blocking", 2) == [0.1, 0.11, 0.12, 0.13, 0.13, 0.13, 0.5, 0.51, 0.52, 0.53]


@pytest.mark.parametrize("execution", ["naive", "inpaint", "guide"])
def test_the_old_chunk_is_executed_meanwhile(execution: Execution) -> None:
    # So sure a model is not swayed by guidance either.
    assert executed(execution, 2) == [0.1, 0.11, 0.12, 0.13, 0.14, 0.15, 0.52, 0.53]
