"""Policies on a robot decide as the policies that were evaluated do, given the same noise."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_policies import GUARDED, PLAIN, chunk_checkpoint, fisor_checkpoint, gaussian_checkpoint

from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.manifest import ManifestError
from diffpolicy.deploy.run_policy import COLD, WARM
from diffpolicy.deploy.torch_runtime import TorchRuntime
from diffpolicy.diffusion import Sampler
from diffpolicy.policies import ChunkPolicy, History, Observation
from diffpolicy.policies.arms import parse_arm
from diffpolicy.policies.selection import CandidatePolicy
from diffpolicy.policies.streaming import StreamingPolicy

Readings = list[np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chunk_checkpoint(tmp_path_factory.mktemp("chunks"))


@pytest.fixture(scope="module")
def fisor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fisor_checkpoint(tmp_path_factory.mktemp("fisor"))


def drive(decisions: int, size: int = 5, jump: int | None = None, seed: int = 0) -> Readings:
    """A slow way through the arena, with a leap before decision `jump`."""
    source = np.random.default_rng(seed)
    steps = source.standard_normal((decisions, size)) * np.array([1.0] * (size - 1) + [0.05])
    if jump is not None:
        steps[jump, 2] += 90.0
    return list((200.0 + np.cumsum(steps, axis=0)).astype(np.float32))


def same_noise(monkeypatch: pytest.MonkeyPatch, runtime: TorchRuntime) -> Callable[[Any], None]:
    """Let the policy draw what the runtime draws; the function returned says with which memory."""
    policy, now = runtime.policy, {}

    def draw(sampler: Sampler, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        assert isinstance(policy, ChunkPolicy)
        name = WARM if policy.warm is not None and sampler is policy.warm.sampler else COLD
        return torch.from_numpy(runtime.player.noise(now["memory"], name))

    monkeypatch.setattr(Sampler, "draw", draw)
    return lambda memory: now.update(memory=memory)


def physical(runtime: TorchRuntime, actions: torch.Tensor) -> np.ndarray[Any, Any]:
    low, high = (np.array(bound) for bound in (runtime.manifest.action.low, runtime.manifest.action.high))
    return np.asarray(low + (actions[0].numpy() + 1.0) / 2.0 * (high - low))


@pytest.mark.parametrize(
    ("arm", "jump", "flags"),
    [
        ("ddim_2@2", None, {()}),
        ("rti_1_0@1", None, {("cold",), ()}),
        ("soft_10_3@2", None, {("cold",), ()}),
        ("warm_sde_10_3@2", None, {("cold",), ()}),
        ("reuse_from_ddim_2@3", None, {("cold",), (), ("used up", "cold")}),
        (GUARDED, 6, {("cold",), (), ("residual", "cold"), ("jump", "cold")}),
    ],
)
def test_chunk_policies_decide_as_when_they_were_evaluated(
    chunks: Path, monkeypatch: pytest.MonkeyPatch, arm: str, jump: int | None, flags: set[tuple[str, ...]]
) -> None:
    runtime = TorchRuntime(chunks, arm)
    policy, seen_flags = runtime.policy, set()
    assert isinstance(policy, ChunkPolicy)
    use = same_noise(monkeypatch, runtime)
    memory, theirs, history = runtime.start(7), policy.start(1, 7), History(2)
    for reading in drive(10, jump=jump):
        use(memory)
        wanted, theirs = policy.act(history.add(reading[None]), theirs)
        chunk, memory = runtime.act({"state": reading}, memory)
        assert wanted.cold is not None
        assert ("cold" in chunk.flags) == bool(wanted.cold[0]) or arm.startswith("ddim")
        assert chunk.actions.shape == (runtime.manifest.chunk, 2)
        executed = chunk.actions[: policy.execute]
        np.testing.assert_allclose(executed, physical(runtime, wanted.actions), atol=5e-3, rtol=0)
        seen_flags.add(chunk.flags)
    assert seen_flags == flags


def test_a_guard_gives_up_a_plan_that_stalls(chunks: Path) -> None:
    runtime = TorchRuntime(chunks, GUARDED)
    assert runtime.player.guard is not None
    runtime.player.guard.residual = runtime.player.guard.still_residual = 1e9
    memory, flags = runtime.start(0), []
    for _ in range(6):
        chunk, memory = runtime.act({"state": np.full(5, 200.0)}, memory)
        flags.append(chunk.flags)
    assert flags == [("cold",), (), (), (), ("stall", "cold"), ()]  # patience 3


def test_elapsed_shifts_the_plan_as_the_policy_does(chunks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = TorchRuntime(chunks, "rti_1_0@1")
    policy = runtime.policy
    assert isinstance(policy, ChunkPolicy)
    use = same_noise(monkeypatch, runtime)
    windows = np.stack(drive(8)).reshape(4, 2, 5)
    memory, theirs = runtime.start(1), policy.start(1, 1)
    for window, elapsed in zip(windows, (1, 3, 9, 2), strict=True):
        use(memory)
        wanted, theirs = policy.act(Observation(torch.from_numpy(window[None])), theirs, elapsed=elapsed)
        chunk, memory = runtime.act({"state": window}, memory, elapsed=elapsed)
        np.testing.assert_allclose(chunk.actions[:1], physical(runtime, wanted.actions), atol=5e-3, rtol=0)
    with pytest.raises(DeployError, match="elapsed=0"):
        runtime.act({"state": windows[0]}, memory, elapsed=0)


def test_streaming_moves_its_buffer_on(tmp_path: Path) -> None:
    levels = replace(PLAIN, per_step_levels=True)
    runtime = TorchRuntime(chunk_checkpoint(tmp_path, conditioning=levels), "streaming_2@2")
    policy = runtime.policy
    assert isinstance(policy, StreamingPolicy)
    memory, buffer, flags = runtime.start(0), None, []
    for window in np.stack(drive(8)).reshape(4, 2, 5):
        guess = (
            None if buffer is None else torch.cat([buffer[:, 2:], buffer[:, -1:].expand(-1, 2, -1)], dim=1)
        )
        noise = torch.from_numpy(runtime.player.noise(memory, COLD if buffer is None else WARM))
        with torch.no_grad():
            buffer = policy.denoise(Observation(torch.from_numpy(window[None])), noise, guess)
        chunk, memory = runtime.act({"state": window}, memory)
        wanted = physical(runtime, policy.actions(buffer))
        np.testing.assert_allclose(chunk.actions, wanted, atol=5e-3, rtol=0)
        flags.append(chunk.flags)
    assert flags == [("cold",), (), (), ()]
    late, _ = runtime.act({"state": window}, memory, elapsed=3)
    assert late.flags == ("cold",)


@pytest.mark.parametrize("arm", ["fisor", "best_feasible_4", "bc"])
def test_candidates_are_ranked_as_when_they_were_evaluated(fisor: Path, arm: str) -> None:
    runtime = TorchRuntime(fisor, arm, seed=3)
    policy, memory = runtime.policy, runtime.start(2)
    assert isinstance(policy, CandidatePolicy)
    for reading in drive(3, 11):
        state = reading / 100.0 - 1.0
        noise = torch.from_numpy(runtime.player.noise(memory, COLD))
        with torch.no_grad():
            action, feasible = policy.choose(torch.from_numpy(state[None]), noise)
        chunk, memory = runtime.act({"state": state}, memory)
        np.testing.assert_allclose(chunk.actions, action.numpy(), atol=1e-6)
        assert chunk.feasible == pytest.approx(float(feasible[0]), abs=1e-5)
    assert runtime.manifest.safety.feasible_below == 0.0


def test_gaussians_act_by_their_mean_or_by_samples(tmp_path: Path) -> None:
    folder, state = gaussian_checkpoint(tmp_path), np.zeros(11, np.float32)
    mean = TorchRuntime(folder, "mean")
    wanted, _ = mean.policy.act(Observation(torch.zeros(1, 1, 11)), mean.policy.start(1, 0))
    chunk, _ = mean.act({"state": state}, mean.start(0))
    np.testing.assert_allclose(chunk.actions, wanted.actions[0].numpy(), atol=1e-6)
    sampled = TorchRuntime(folder, "sampled")
    drawn = [sampled.act({"state": state}, sampled.start(seed))[0].actions for seed in range(400)]
    np.testing.assert_allclose(np.std(drawn, axis=0), 0.2, atol=0.03)


def test_memories_are_values(chunks: Path) -> None:
    runtime = TorchRuntime(chunks, "rti_1_0@1")
    first, second = drive(2)
    _, memory = runtime.act({"state": first}, runtime.start(0))
    once, _ = runtime.act({"state": second}, memory)
    other, _ = runtime.act({"state": second}, runtime.act({"state": first}, runtime.start(1))[1])
    again, _ = runtime.act({"state": second}, memory)
    np.testing.assert_array_equal(once.actions, again.actions)
    assert not np.array_equal(once.actions, other.actions)


def test_limits_and_names_come_from_a_file(chunks: Path, tmp_path: Path) -> None:
    file = tmp_path / "limits.yaml"
    file.write_text(
        "velocity: 300\nworkspace: [x]\nworkspace_low: [0]\nworkspace_high: [9]\ncontrol_rate: 25\n"
    )
    with pytest.raises(ManifestError, match="'x'"):
        TorchRuntime(chunks, "ddim_2", limits=file)
    file.write_text(file.read_text() + "observation_names: [x, y, bx, by, angle]\nlicence: MIT\n")
    manifest = TorchRuntime(chunks, "ddim_2", limits=file).manifest
    assert manifest.safety.velocity == (300.0, 300.0)
    assert manifest.safety.acceleration == (25600.0, 25600.0)  # range 512 in 0.2 s, that in 0.1 s
    assert (manifest.control_rate, manifest.licence, manifest.execute, manifest.chunk) == (25.0, "MIT", 4, 7)
    said = (
        "control_rate: 0",
        "control_rate: fast",
        "observation_names: xyzab",
        "action_names:",
        "licence: 3",
    )
    for wrong in ("speed: 3", "- 1", "{", *said):
        file.write_text(wrong)
        with pytest.raises(DeployError):
            TorchRuntime(chunks, "ddim_2", limits=file)


def test_runs_of_several_seeds_name_the_one(chunks: Path, tmp_path: Path) -> None:
    for seed in (0, 10):
        (tmp_path / f"seed-{seed}").symlink_to(chunks)
    assert "seed-10" in str(TorchRuntime(tmp_path, "ddim_2", seed=10).checkpoint.path)
    with pytest.raises(DeployError, match="no training seed 1"):
        TorchRuntime(tmp_path, "ddim_2", seed=1)
    assert parse_arm(TorchRuntime(tmp_path).manifest.arm).kind == "cold"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (np.array([0.0, np.nan, 0.0, 0.0, np.inf]), "agent_y, block_angle"),
        (np.full(5, 1e300), "agent_x"),  # too large for float32
        (np.zeros(4), "shape"),
        (np.zeros((3, 5)), "shape"),
        (np.zeros(5, complex), "complex128"),
        (np.array(["1"] * 5), "not float32"),
        (np.array([None] * 5), "object"),
        (np.zeros(5, bool), "bool"),
    ],
)
def test_what_cannot_be_decided_from_is_refused(
    chunks: Path, state: np.ndarray[Any, Any], words: str
) -> None:
    runtime = TorchRuntime(chunks, "ddim_2")
    with pytest.raises(DeployError, match=words):
        runtime.act({"state": state}, runtime.start(0))
    with pytest.raises(DeployError, match="no 'state'"):
        runtime.act({}, runtime.start(0))


def test_nan_from_the_network_does_not_reach_the_robot(chunks: Path) -> None:
    runtime = TorchRuntime(chunks, "ddim_2")
    broken = {"actions": np.full((1, 7, 2), np.nan, np.float32)}
    runtime.player.graphs = {COLD: lambda feed: broken}
    with pytest.raises(DeployError, match="answers with NaN"):
        runtime.act({"state": np.zeros(5)}, runtime.start(0))


def test_pictures_are_seen(tmp_path: Path) -> None:
    runtime = TorchRuntime(chunk_checkpoint(tmp_path, conditioning=PLAIN, camera=True), "ddim_1")
    seen, other = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    state = np.full(5, 200.0)
    first, _ = runtime.act({"state": state, "camera": seen}, runtime.start(0))
    second, _ = runtime.act({"state": state, "camera": other}, runtime.start(0))
    assert not np.array_equal(first.actions, second.actions)
    for wrong in (seen[:10], seen.astype(np.float32)):
        with pytest.raises(DeployError, match="camera"):
            runtime.act({"state": state, "camera": wrong}, runtime.start(0))
