"""The streaming buffer: its levels, its marginals, and every action executed once."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffpolicy.diffusion import Sampler, trailing
from diffpolicy.policies import PolicyError
from diffpolicy.policies.arms import parse_arm
from diffpolicy.policies.streaming import StreamingPolicy, buffer_path, first_path


def test_the_published_levels_of_a_buffer() -> None:
    """100 levels, 3 chunks of 5: before a decision they wait at 32, 65 and 99, after it one chunk further down."""
    path = buffer_path(100, 16, 1, 5, None)
    assert len(path) == 1 + 34  # one evaluation for each level of the widest gap
    assert path[0] == [-1] + [32] * 5 + [65] * 5 + [99] * 5
    assert path[-1] == [-1] * 6 + [32] * 5 + [65] * 5


@given(st.integers(1, 15), st.sampled_from([None, 1, 2, 7]))
def test_a_decision_ends_where_the_next_one_begins(execute: int, steps: int | None) -> None:
    path = buffer_path(100, 16, 1, execute, steps)
    assert path[-1][1 : 1 + execute] == [-1] * execute
    moved_up = path[-1][execute:] + [99] * execute
    assert moved_up == [-1, *path[0][1:]]
    assert first_path(path)[0][1:] == [99] * 15
    assert first_path(path)[-1] == path[-1]
    for falling in (path, first_path(path)):
        assert all(
            row >= after
            for above, below in itertools.pairwise(falling)
            for row, after in zip(above, below, strict=True)
        )


@pytest.mark.parametrize("name", ["streaming@5", "streaming_1@1", "streaming_2@3", "streaming_4@8"])
def test_every_action_is_executed_once(analytic: SimpleNamespace, name: str) -> None:
    acting = StreamingPolicy(analytic.AnalyticModel(0.0), parse_arm(name), clip=None)
    memory, actions, time = acting.start(2, 0), [], 0
    while time < 30:
        chunk, memory = acting.act(analytic.clock(float(time), 2), memory)
        actions += chunk.actions[0, :, 0].tolist()
        time += acting.execute
    assert actions == pytest.approx([step / 100 for step in range(time)], abs=1e-5)


def test_what_it_executes_is_spread_as_the_chunks_of_the_ancestral_sampler(analytic: SimpleNamespace) -> None:
    """One level at a time is the ancestral sampler, moved along: a little narrower than the data, as it is."""
    model = analytic.AnalyticModel(0.2, gain=0.0)
    sampler = Sampler(model.process, "ddpm", trailing(100, 100))
    noise = sampler.draw((2000, 16, 1), torch.Generator().manual_seed(0))
    spread = sampler.sample(model, model.encode(analytic.clock(0.0)), noise).std().item()
    acting = StreamingPolicy(analytic.AnalyticModel(0.2, gain=0.0), parse_arm("streaming@5"), clip=None)
    memory = acting.start(2000, 0)
    for decision in range(4):
        chunk, memory = acting.act(analytic.clock(5.0 * decision, 2000), memory)
        assert chunk.actions.std().item() == pytest.approx(spread, rel=0.03)
        assert chunk.cold is not None
        assert bool(chunk.cold.all()) == (decision == 0)


def test_evaluations_are_those_of_the_name(analytic: SimpleNamespace) -> None:
    model = analytic.AnalyticModel()
    acting = StreamingPolicy(model, parse_arm("streaming_3@5"))
    _, memory = acting.act(analytic.clock(0.0), acting.start(1, 0))
    begun = model.calls
    assert begun == 3 * 3  # three chunks go all the way
    chunk, _ = acting.act(analytic.clock(5.0), memory)
    assert chunk.evaluations is not None
    assert (model.calls - begun, chunk.evaluations.tolist()) == (3, [3])
    assert acting.evaluations_per_step == pytest.approx(3 / 5)


def test_same_seed_same_actions(analytic: SimpleNamespace) -> None:
    acting = StreamingPolicy(analytic.AnalyticModel(), parse_arm("streaming_2@5"))
    one, other, third = (
        acting.act(analytic.clock(0.0), acting.start(1, seed))[0].actions for seed in (1, 1, 2)
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


def test_a_model_with_one_level_per_chunk_is_refused(analytic: SimpleNamespace) -> None:
    with pytest.raises(PolicyError, match="per_step_levels=true"):
        StreamingPolicy(analytic.AnalyticModel(per_step_levels=False), parse_arm("streaming"))
    with pytest.raises(PolicyError, match="cannot share 5 noise levels"):
        buffer_path(5, 16, 1, 1, None)
