"""Observations that a policy was not trained on are refused before a network sees them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffpolicy.policies import History, Observation, PolicyError
from diffpolicy.policies.arms import parse_arm
from diffpolicy.policies.chunk_policy import ChunkPolicy
from diffpolicy.policies.observing import acting_device, observed
from diffpolicy.policies.streaming import StreamingPolicy


def policy(analytic: SimpleNamespace, name: str, **options: Any) -> ChunkPolicy | StreamingPolicy:
    kind = StreamingPolicy if name == "streaming" else ChunkPolicy
    return kind(analytic.AnalyticModel(0.0, observation_size=3), parse_arm(name), **options)


@pytest.mark.parametrize("name", ["ddim_3", "rti_2_1_0", "streaming"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_are_refused(analytic: SimpleNamespace, name: str, value: float) -> None:
    acting = policy(analytic, name)
    state = torch.zeros(4, 2, 3)
    _, memory = acting.act(Observation(state), acting.start(4, 0))
    calls = acting.model.calls  # type: ignore[attr-defined]
    state[2, 0, 1] = value
    with pytest.raises(PolicyError, match=r"state holds NaN or infinity \(columns \[1\] of roll-out 2\)"):
        acting.act(Observation(state), memory)
    with pytest.raises(PolicyError, match="pictures of 'wrist' are uint8, or numbers from 0 to 1"):
        acting.act(Observation(torch.zeros(4, 2, 3), {"wrist": torch.full((4, 2, 8, 8, 3), value)}), memory)
    assert acting.model.calls == calls  # type: ignore[attr-defined]


@pytest.mark.parametrize("shape", [(2, 3), (4, 1, 3), (4, 2, 4)])
def test_other_sizes_than_the_trained_ones_are_refused(
    analytic: SimpleNamespace, shape: tuple[int, ...]
) -> None:
    acting = policy(analytic, "ddim_3")
    with pytest.raises(PolicyError, match=r"the last 2 control steps of 3 numbers.*it got \("):
        acting.act(Observation(torch.zeros(shape)), acting.start(4, 0))

    _, memory = acting.act(Observation(torch.zeros(4, 2, 3)), acting.start(4, 0))
    with pytest.raises(PolicyError, match="memory is of 4 roll-outs, the observation of 1: start anew"):
        acting.act(Observation(torch.zeros(1, 2, 3)), memory)


def test_states_may_come_in_double_precision(analytic: SimpleNamespace) -> None:
    acting = policy(analytic, "ddim_3")
    chunk, _ = acting.act(Observation(torch.zeros(1, 2, 3, dtype=torch.float64)), acting.start(1, 0))
    assert chunk.actions.dtype == torch.float32


@pytest.mark.parametrize("name", ["ddim_3", "streaming"])
def test_a_policy_acts_where_its_model_is(analytic: SimpleNamespace, name: str) -> None:
    with pytest.raises(PolicyError, match="the model is on cpu, but is to act on meta"):
        policy(analytic, name, device="meta")
    model = analytic.AnalyticModel(0.0)
    model.process = SimpleNamespace(device=torch.device("cuda", 0))
    with pytest.raises(PolicyError, match="the model is on cuda:0, but is to act on cuda:1"):
        acting_device(model, "cuda:1")
    assert acting_device(model, "cuda").type == "cuda"


def test_a_history_keeps_what_it_has_seen() -> None:
    state, picture = torch.zeros(1, 1), torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    history = History(2)
    history.add(state.numpy(), {"camera": picture.numpy()})
    state[:], picture[:] = 5.0, 5
    seen = history.add(state, {"camera": picture})
    assert seen.images is not None
    assert seen.state.flatten().tolist() == [0.0, 5.0]
    assert seen.images["camera"].unique().tolist() == [0, 5]


@pytest.mark.parametrize(
    ("pictures", "says"),
    [
        (torch.zeros(4, 2, 8, 8, 3, dtype=torch.int32), "uint8, or numbers from 0 to 1"),
        (torch.zeros(4, 2, 8, 8, 3, dtype=torch.bool), "uint8, or numbers from 0 to 1"),
        (torch.zeros(4, 1, 8, 8, 3, dtype=torch.uint8), r"\(4, 2, height, width"),
        (torch.zeros(3, 2, 8, 8, 3, dtype=torch.uint8), r"\(4, 2, height, width"),
        (torch.zeros(4, 2, 8, 3, dtype=torch.uint8), r"\(4, 2, height, width"),
    ],
)
def test_pictures_of_another_kind_are_refused(
    analytic: SimpleNamespace, pictures: torch.Tensor, says: str
) -> None:
    acting = policy(analytic, "ddim_3")
    with pytest.raises(PolicyError, match=says):
        acting.act(Observation(torch.zeros(4, 2, 3), {"wrist": pictures}), acting.start(4, 0))


def test_pictures_may_come_in_double_precision(analytic: SimpleNamespace) -> None:
    acting = policy(analytic, "ddim_3")
    shown = {"wrist": torch.ones(4, 2, 8, 8, 3, dtype=torch.float64)}
    seen = observed(Observation(torch.zeros(4, 2, 3), shown), acting.start(4, 0), acting.model, acting.device)
    assert seen.images is not None
    assert seen.images["wrist"].dtype == torch.float32
