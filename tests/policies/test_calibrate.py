"""Calibration: known spreads and errors are found again, and its thresholds tell jumps from what is usual."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffpolicy.data import OfflineDataset
from diffpolicy.diffusion import contraction, edm
from diffpolicy.policies import Observation, PolicyError
from diffpolicy.policies.arms import parse_arm
from diffpolicy.policies.calibrate import calibrate
from diffpolicy.policies.calibration import Calibration
from diffpolicy.policies.chunk_policy import ChunkPolicy

Demonstrations = Callable[[Tensor, Tensor, list[int]], OfflineDataset]


@pytest.fixture
def clocks(make_demonstrations: Demonstrations) -> OfflineDataset:
    """Twenty demonstrations by a clock: the state is the time, the action 1/100 of it, a second column turns."""
    times = torch.arange(60.0).repeat(20)
    noise = torch.randn(1200, generator=torch.Generator().manual_seed(0))
    states = torch.stack([times, torch.remainder(times + 0.01 * noise, 2 * math.pi)], dim=1)
    return make_demonstrations(states, (0.01 * times + 0.1 * noise).unsqueeze(1), [60] * 20)


def trained(analytic: SimpleNamespace, spread: float, **options: Any) -> Any:
    model = analytic.AnalyticModel(spread, observation_size=2, **options)
    model.from_actions = lambda actions: actions
    return model


@pytest.mark.parametrize("spread", [0.05, 0.2])
def test_the_spread_of_a_model_is_found_again(
    analytic: SimpleNamespace, clocks: OfflineDataset, spread: float
) -> None:
    found = calibrate(trained(analytic, spread), clocks, angles=(1,), clip=None)
    assert found.spread == pytest.approx((spread,), rel=0.15)
    assert found.data_spread == pytest.approx((0.1,), rel=0.15)  # of the data, whatever the model
    assert found.kept[3] == pytest.approx(
        contraction(trained(analytic, spread).process, range(4), found.spread[0]).prod().item(), abs=1e-6
    )


def test_the_error_of_a_guess_leaves_out_the_spread(
    analytic: SimpleNamespace, clocks: OfflineDataset
) -> None:
    """A model that follows the time shifts exactly; one whose plans lag by half moves by half of 1/100 a step."""
    right = calibrate(trained(analytic, 0.2), clocks, clip=None)
    assert right.guess_error == pytest.approx((0.0,), abs=1e-4)
    assert right.start_level == 0
    model = trained(analytic, 0.0)
    inner = model.encode
    model.encode = lambda observation: inner(Observation(observation.state * 6.0))
    wrong = calibrate(model, clocks, elapsed=2, clip=None)
    assert wrong.guess_error == pytest.approx((2 * 5 * 0.01,), abs=1e-4)
    level = wrong.start_level
    assert wrong.noise[level - 1] < 0.1 <= wrong.noise[level]
    assert wrong.suggestion == "rti_5_3_1_0"
    assert "<- start level" in str(wrong)


def test_an_observation_is_encoded_once_for_all_its_samples(
    analytic: SimpleNamespace, clocks: OfflineDataset
) -> None:
    """Pictures of every sample would fill the memory."""
    model, encoded = trained(analytic, 0.1), []
    inner = model.encode
    model.encode = lambda observation: (encoded.append(len(observation.state)), inner(observation))[1]
    calibrate(model, clocks, observations=8, samples=16)
    assert encoded == [8, 8]


def test_suggestions_have_at_most_four_evaluations(analytic: SimpleNamespace, clocks: OfflineDataset) -> None:
    found = calibrate(trained(analytic, 0.1), clocks)
    for error, name in [(0.01, "rti_0"), (0.05, "rti_2_1_0"), (0.17, "rti_10_5_1_0"), (0.5, "warm_32_16_5")]:
        changed = Calibration(**{**vars(found), "guess_error": (error, 0.0)})
        assert changed.suggestion == name
        arm = parse_arm(changed.suggestion)
        assert arm.warm is not None
        assert arm.warm.sampler(trained(analytic, 0.1).process, 1.0).evaluations <= 4


def test_thresholds_tell_a_jump_from_what_is_usual(analytic: SimpleNamespace, clocks: OfflineDataset) -> None:
    name = "rti_5_3_1_0_guard"
    found = calibrate(trained(analytic, 0.05), clocks, [name, "ddim_3"], angles=(1,), clip=None)
    assert list(found.residuals) == [name]
    acting = ChunkPolicy(
        trained(analytic, 0.05), parse_arm(name), guard=found.guard(parse_arm(name)), clip=None
    )

    def seen(time: float, rows: int = 50) -> Observation:
        times = torch.tensor([time - 1, time]).expand(rows, 2)
        return Observation(torch.stack([times, torch.remainder(times, 2 * math.pi)], dim=-1))

    memory, cold = acting.start(50, 0), []
    for time in [*range(20), *range(40, 60)]:
        chunk, memory = acting.act(seen(float(time)), memory)
        assert chunk.cold is not None
        cold.append(chunk.cold.float().mean().item())
    assert cold[0] == cold[20] == 1.0
    assert sum(cold[1:20] + cold[21:]) < 0.02 * 38  # beyond 1.5 times the 99 % quantile
    assert acting.guard is not None
    assert acting.guard.patience >= 5


def test_calibrations_go_through_files(
    analytic: SimpleNamespace, clocks: OfflineDataset, tmp_path: Path
) -> None:
    found = calibrate(trained(analytic, 0.1), clocks, ["soft_20_10_guard", "reuse_guard@2"], angles=(1,))
    found.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == found
    (tmp_path / "other.json").write_text('{"elapsed": 1}')
    for name in ("other.json", "none.json"):
        with pytest.raises(PolicyError, match="no calibration of this version"):
            Calibration.load(tmp_path / name)
    with pytest.raises(PolicyError, match="made for soft_20_10_guard, reuse_guard@2"):
        found.guard(parse_arm("rti_2_1_0_guard"))


def test_other_processes_are_put_on_one_scale(analytic: SimpleNamespace, clocks: OfflineDataset) -> None:
    found = calibrate(trained(analytic, 0.1, process=edm(30)), clocks, clip=None)
    assert found.spread == pytest.approx((0.1,), rel=0.15)
    assert 0.9 < found.noise[-1] < 1.0 + 1e-9
    process = edm(30)
    begun = math.hypot(process.signal_at(29), process.noise_at(29))
    typical = math.sqrt(sum(each**2 for each in found.spread) / len(found.spread))
    left = contraction(process, range(30), typical).prod().item()
    assert found.kept[-1] == pytest.approx(begun * left, rel=1e-6)  # begun: the guess is scaled to its level


def test_the_same_seed_gives_the_same_calibration(analytic: SimpleNamespace, clocks: OfflineDataset) -> None:
    one, other = (calibrate(trained(analytic, 0.1), clocks, ["rti_2_1_0_guard"], seed=3) for _ in range(2))
    assert one == other


def test_demonstrations_that_are_too_short_are_refused(
    analytic: SimpleNamespace, make_demonstrations: Demonstrations
) -> None:
    short = make_demonstrations(torch.zeros(4, 1), torch.zeros(4, 1), [2, 2])
    with pytest.raises(PolicyError, match="goes on for 3 control steps"):
        calibrate(trained(analytic, 0.1), short, elapsed=3)
