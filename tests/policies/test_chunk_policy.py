"""Decisions: pure, one row at a time, in time with the clock, and warm only as long as the plan fits."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffpolicy.diffusion import contraction
from diffpolicy.policies import History, Observation, PolicyError
from diffpolicy.policies.arms import parse_arm
from diffpolicy.policies.chunk_policy import ChunkPolicy
from diffpolicy.policies.guard import Guard
from diffpolicy.policies.inference import Inference

GUARD = Guard(usual=((1.0,),) * 16, jump=20.0)
ARMS = [
    "ddpm_100",
    "ddim_3",
    "dpm_2",
    "heun_2",
    "rti_2_1_0",
    "warm_60_30_10",
    "warm_sde_60_30",
    "soft_20_10",
    "reuse",
]


def policy(analytic: SimpleNamespace, name: str, spread: float = 0.2, **options: Any) -> ChunkPolicy:
    return ChunkPolicy(analytic.AnalyticModel(spread), parse_arm(name), **options)


def played(acting: ChunkPolicy, seen: list[Observation], seed: int = 0) -> list[Tensor]:
    memory, actions = acting.start(len(seen[0].state), seed), []
    for observation in seen:
        chunk, memory = acting.act(observation, memory)
        actions.append(chunk.actions)
    return actions


@pytest.mark.parametrize("execute", [1, 4, 8])
@pytest.mark.parametrize("name", ARMS)
def test_every_arm_acts_at_the_time_it_is_meant_for(
    analytic: SimpleNamespace, name: str, execute: int
) -> None:
    """Without spread the action of control step t is t/100, whatever the arm and however often it decides."""
    acting = policy(analytic, f"{name}@{execute}", spread=0.0, clip=None)
    decisions = [analytic.clock(float(time)) for time in range(0, 48, execute)]
    actions = torch.cat(played(acting, decisions), dim=1).flatten()
    assert actions.tolist() == pytest.approx([time / 100 for time in range(48)], abs=1e-5)


@pytest.mark.parametrize("name", ["ddpm_10", "rti_2_1_0", "warm_60_30_10@8", "soft_20_10"])
def test_the_same_seeds_give_the_same_actions(analytic: SimpleNamespace, name: str) -> None:
    seen = [analytic.clock(float(time), batch=3) for time in range(4)]
    first, again, other = (torch.cat(played(policy(analytic, name), seen, seed), 1) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("name", ["rti_2_1_0_guard", "soft_20_10_guard", "reuse_guard@2"])
def test_a_row_does_not_depend_on_what_happens_to_the_others(analytic: SimpleNamespace, name: str) -> None:
    calm = [analytic.clock(float(time), batch=3) for time in range(5)]
    jumped = [Observation(seen.state.clone()) for seen in calm]
    for seen in jumped[2:]:
        seen.state[1] += 100.0
    quiet = played(policy(analytic, name, guard=GUARD), calm)
    stirred = played(policy(analytic, name, guard=GUARD), jumped)
    for before, after in zip(quiet, stirred, strict=True):
        assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(quiet[2][1], stirred[2][1])


def test_evaluations_and_cold_starts_are_reported(analytic: SimpleNamespace) -> None:
    acting = policy(analytic, "rti_2_1_0_from_ddim_5_guard", guard=GUARD)
    memory = acting.start(2, 0)
    seen = [analytic.clock(float(time), batch=2) for time in range(3)]
    seen[2].state[1] += 50.0
    reports = []
    for observation in seen:
        chunk, memory = acting.act(observation, memory)
        assert chunk.evaluations is not None
        assert chunk.cold is not None
        reports.append((chunk.evaluations.tolist(), chunk.cold.tolist()))
    assert reports == [([5, 5], [True, True]), ([3, 3], [False, False]), ([3, 5], [False, True])]
    assert acting.model.calls == 5 + 3 + 3 + 5  # type: ignore[attr-defined]
    assert acting.evaluations_per_step == 3.0


def test_evaluations_per_step_divide_by_what_is_executed(analytic: SimpleNamespace) -> None:
    assert policy(analytic, "ddim_3@8").evaluations_per_step == pytest.approx(3 / 8)
    heun = policy(analytic, "heun_3@4")
    assert heun.evaluations_per_step == heun.cold.sampler.evaluations / 4
    assert policy(analytic, "reuse@4").evaluations_per_step == pytest.approx(10 / 12)


def test_a_plan_is_reused_until_it_is_used_up(analytic: SimpleNamespace) -> None:
    acting = policy(analytic, "reuse@4")
    memory, cold = acting.start(1, 0), []
    for time in range(0, 28, 4):
        chunk, memory = acting.act(analytic.clock(float(time)), memory)
        assert chunk.cold is not None
        cold.append(bool(chunk.cold))
    assert cold == [True, False, False, True, False, False, True]  # 15 actions ahead are three times four


def test_a_plan_is_used_up_by_control_steps_and_not_by_decisions(analytic: SimpleNamespace) -> None:
    acting = policy(analytic, "reuse@1", spread=0.0, clip=None)
    memory, cold, now = acting.start(1, 0), [], 0
    for elapsed in (0, 5, 1, 8, 1, 14, 5):
        now += elapsed
        chunk, memory = acting.act(analytic.clock(float(now)), memory, elapsed=elapsed)
        assert chunk.actions.item() == pytest.approx(now / 100, abs=1e-5)
        assert chunk.cold is not None
        cold.append(bool(chunk.cold))
    assert cold == [True, False, False, False, True, False, True]


def test_after_a_jump_the_unguarded_plan_lags_by_its_contraction(analytic: SimpleNamespace) -> None:
    """The mean of many roll-outs is the exact mean map; a guarded one has forgotten the old plan."""
    rows, spread, levels, moved = 4000, 0.05, (5, 4, 3, 2, 1, 0), 50.0
    errors = {}
    for name in ("rti_5_4_3_2_1_0", "rti_5_4_3_2_1_0_guard"):
        guard = GUARD if name.endswith("guard") else None
        acting = policy(analytic, name, spread, guard=guard)
        memory = acting.start(rows, 0)
        _, memory = acting.act(analytic.clock(0.0, rows), memory)
        chunk, memory = acting.act(analytic.clock(1.0 + moved, rows), memory)
        assert chunk.cold is not None
        assert chunk.cold.all() == name.endswith("guard")
        errors[name] = (chunk.actions.mean() - 0.01 * (1 + moved)).item()
    process = acting.model.process
    kept = contraction(process, levels, spread).prod().item()
    solution_drift = (1 - process.signal_at(5)) * 0.01 * (1 + moved)
    assert errors["rti_5_4_3_2_1_0"] == pytest.approx(
        -kept * 0.01 * moved, abs=4 * spread / rows**0.5 + solution_drift
    )
    assert errors["rti_5_4_3_2_1_0_guard"] == pytest.approx(0.0, abs=4 * spread / rows**0.5)


def test_what_was_seen_before_a_jump_does_not_pass_for_a_velocity(analytic: SimpleNamespace) -> None:
    acting = policy(analytic, "rti_2_1_0_guard", guard=GUARD)
    encode, shown = acting.model.encode, []
    acting.model.encode = lambda seen: (shown.append(seen), encode(seen))[1]  # type: ignore[method-assign]
    _, memory = acting.act(analytic.clock(0.0, 2), acting.start(2, 0))
    seen = analytic.clock(1.0, 2)
    seen.state[1, 1] += 50.0
    acting.act(Observation(seen.state, {"camera": seen.state.view(2, 2, 1, 1, 1).byte()}), memory)
    warm, cold = shown[1:]
    assert warm.state.flatten().tolist() == [0.0, 1.0]
    assert cold.state.flatten().tolist() == cold.images["camera"].flatten().tolist() == [51.0, 51.0]


def test_a_jump_is_forgotten_as_long_as_it_could_be_seen(analytic: SimpleNamespace) -> None:
    model = analytic.AnalyticModel(0.05, observation_horizon=4)
    encode, shown = model.encode, []
    model.encode = lambda seen: (shown.append(seen.state.flatten().tolist()), encode(seen))[1]
    acting = ChunkPolicy(model, parse_arm("rti_2_1_0_guard"), guard=GUARD)
    memory, history = acting.start(1, 0), History(4)
    for time in [0.0, 1.0, 50.0, 51.0, 52.0, 53.0]:
        _, memory = acting.act(history.add([[time]]), memory)
    assert shown[1:] == [
        [0.0, 0.0, 0.0, 1.0],
        [50.0, 50.0, 50.0, 50.0],
        [50.0, 50.0, 50.0, 51.0],
        [50.0, 50.0, 51.0, 52.0],
        [50.0, 51.0, 52.0, 53.0],
    ]


def test_a_residual_beyond_its_threshold_starts_again(analytic: SimpleNamespace) -> None:
    guard = Guard(usual=GUARD.usual, jump=1e9, residual=0.2)
    acting = policy(analytic, "rti_5_4_3_2_1_0_guard", 0.02, guard=guard)
    memory = acting.start(2, 0)
    _, memory = acting.act(analytic.clock(0.0, 2), memory)
    seen = analytic.clock(1.0, 2)
    seen.state[1] += 60.0
    chunk, _ = acting.act(seen, memory)
    assert chunk.cold is not None
    assert chunk.evaluations is not None
    assert chunk.cold.tolist() == [False, True]
    assert chunk.evaluations.tolist() == [6, 16]  # the warm start that was thrown away counts
    assert chunk.actions[1].item() == pytest.approx(0.61, abs=0.1)


def test_stalled_roll_outs_start_again(analytic: SimpleNamespace) -> None:
    guard = Guard(GUARD.usual, jump=20.0, still_residual=10.0, still_change=0.5, patience=3)
    acting = policy(analytic, "rti_2_1_0_guard", guard=guard)
    memory, cold = acting.start(2, 0), []
    for time in range(8):
        seen = analytic.clock(0.0, 2)
        seen.state[1] = float(time)  # one row stands still, the other moves
        chunk, memory = acting.act(seen, memory)
        assert chunk.cold is not None
        cold.append(chunk.cold.tolist())
    assert [row[1] for row in cold] == [True] + [False] * 7
    assert [row[0] for row in cold] == [True, False, False, False, True, False, False, False]


@pytest.mark.parametrize("name", ["ddim_3@4", "rti_2_1_0@4", "soft_20_10@4"])
def test_inpainting_keeps_exactly_what_is_frozen(analytic: SimpleNamespace, name: str) -> None:
    acting = policy(analytic, name)
    memory = acting.start(3, 0)
    _, memory = acting.act(analytic.clock(0.0, 3), memory)
    assert memory.plan is not None
    chunk, _ = acting.act(analytic.clock(4.0, 3), memory, frozen=2)
    assert torch.allclose(chunk.actions[:, :2], memory.plan.chunk[:, 5:7], atol=1e-6)
    assert not torch.allclose(chunk.actions[:, 2:], memory.plan.chunk[:, 7:9], atol=1e-3)


def test_guidance_draws_towards_the_plan_and_leaves_its_far_end(analytic: SimpleNamespace) -> None:
    distances, ends = {}, {}
    for frozen in (0, 4):
        acting = policy(analytic, "ddim_10@4", freezing="guide")
        memory = acting.start(500, 0)
        with torch.inference_mode():
            _, memory = acting.act(analytic.clock(0.0, 500), memory)
            assert memory.plan is not None
            _, after = acting.act(analytic.clock(4.0, 500), memory, frozen=frozen)
        assert after.plan is not None
        gap = after.plan.chunk[:, :-4] - memory.plan.chunk[:, 4:]
        distances[frozen] = gap.square().mean(dim=(0, 2)).sqrt()
        ends[frozen] = (after.plan.chunk[:, -3:] - memory.plan.chunk[:, -3:]).std().item()
    assert (distances[4][1:5] < 0.5 * distances[0][1:5]).all()
    assert ends[4] == pytest.approx(ends[0], rel=0.1)


def test_a_compiled_form_is_used_where_there_is_one(analytic: SimpleNamespace) -> None:
    asked: list[bool] = []

    def compiled(inference: Inference) -> Any:
        def run(states: Tensor, noise: Tensor, guess: Tensor | None) -> Tensor:
            asked.append(guess is not None)
            return inference(Observation(states), noise, guess)

        return run

    seen = [analytic.clock(float(time)) for time in range(3)]
    fast = played(policy(analytic, "rti_2_1_0", sampling=compiled), seen)
    assert asked == [False, True, True]
    for one, other in zip(fast, played(policy(analytic, "rti_2_1_0"), seen), strict=True):
        assert torch.equal(one, other)


def test_a_compiled_form_of_a_fixed_batch_serves_the_rows_that_need_it(analytic: SimpleNamespace) -> None:
    def compiled(inference: Inference) -> Any:
        def run(states: Tensor, noise: Tensor, guess: Tensor | None) -> Tensor:
            assert len(states) == noise.shape[1] == 3
            return inference(Observation(states), noise, guess)

        return run

    seen = [analytic.clock(float(time), batch=3) for time in range(3)]
    seen[2].state[1] += 50.0
    fast = played(policy(analytic, "rti_2_1_0_guard", guard=GUARD, sampling=compiled), seen)
    for one, other in zip(fast, played(policy(analytic, "rti_2_1_0_guard", guard=GUARD), seen), strict=True):
        assert torch.equal(one, other)


def test_what_a_model_cannot_play_is_said(analytic: SimpleNamespace) -> None:
    with pytest.raises(PolicyError, match="executes 16 actions; the model predicts 15 ahead"):
        policy(analytic, "ddim_3@16")
    with pytest.raises(PolicyError, match="has a guard: calibrate"):
        policy(analytic, "rti_2_1_0_guard")
    with pytest.raises(PolicyError, match="has no guard"):
        policy(analytic, "rti_2_1_0", guard=GUARD)
    with pytest.raises(PolicyError, match="calibrated for observations of 2 numbers, the model sees 1"):
        policy(analytic, "rti_2_1_0_guard", guard=Guard(usual=((1.0, 1.0),), jump=1.0))
    with pytest.raises(PolicyError, match="StreamingPolicy"):
        policy(analytic, "streaming")


def test_a_plan_that_the_guard_refuses_binds_only_where_it_is_executed(analytic: SimpleNamespace) -> None:
    """Guidance does not draw towards the plan where the world has jumped: the mean action is .64 + .01 a step."""
    acting = policy(analytic, "warm_20_10_guard@4", guard=GUARD, freezing="guide", clip=None)
    memory = acting.start(400, 0)
    _, memory = acting.act(analytic.clock(0.0, 400), memory)
    assert memory.plan is not None
    chunk, _ = acting.act(analytic.clock(64.0, 400), memory, frozen=2)
    assert chunk.cold is not None
    assert chunk.cold.all()
    torch.testing.assert_close(chunk.actions[:, :2], memory.plan.chunk[:, 5:7])
    assert chunk.actions[:, 2:].mean(dim=0).flatten().tolist() == pytest.approx([0.66, 0.67], abs=0.04)


def test_what_is_frozen_does_not_hide_a_residual(analytic: SimpleNamespace) -> None:
    """Ten of fifteen actions are kept: over the whole chunk the residual would be under the threshold."""
    name, found = "warm_60_30_10_guard@1", []
    for limit in (0.35, 0.45):
        guard = Guard(usual=GUARD.usual, jump=1e9, residual=limit)
        acting = policy(analytic, name, 0.0, guard=guard)
        memory = acting.start(1, 0)
        _, memory = acting.act(analytic.clock(0.0), memory)
        chunk, _ = acting.act(analytic.clock(41.0), memory, frozen=10)
        assert chunk.cold is not None
        found.append(chunk.cold.item())
    assert found == [True, False]
