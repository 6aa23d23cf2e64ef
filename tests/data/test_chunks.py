from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpolicy import data
from diffpolicy.data import DataError, OfflineDataset

PUSHT = Path(__file__).resolve().parents[2] / ".." / "shared/data/imitation/pusht"
REPLAY = PUSHT / "pusht_cchi_v7_replay.zarr.zip"


def demonstrations(lengths: list[int], pictures: bool = False) -> OfflineDataset:
    """Transition i has observation [i, 100 i], action [-i] and a picture of value i."""
    n = sum(lengths)
    timeouts = np.zeros(n, dtype=bool)
    timeouts[np.cumsum(lengths) - 1] = True
    steps = np.arange(n, dtype=np.float32)
    dataset = data.from_transitions(
        observations=np.stack([steps, 100 * steps], axis=1),
        actions=-steps[:, None],
        rewards=steps,
        costs=np.zeros(n),
        terminals=np.zeros(n),
        timeouts=timeouts,
    )
    if not pictures:
        return dataset
    column = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 2, 4, 3)).copy()
    return OfflineDataset(**{**vars(dataset), "images": {"camera": column}})


def slow_windows(
    lengths: list[int], observed: int, predicted: int, executed: int
) -> list[list[tuple[int, bool]]]:
    """Every window as (transition, inside the episode), by padding each episode and sliding over it."""
    windows = []
    for start, length in zip(accumulate(lengths, initial=0), lengths, strict=False):
        inside = [(start + step, True) for step in range(length)]
        before = [(start, False)] * (observed - 1)
        after = [(start + length - 1, False)] * (executed - 1)
        padded = [*before, *inside, *after]
        windows += [padded[at : at + predicted] for at in range(len(padded) - predicted + 1)]
    return windows


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    observed=st.integers(1, 4),
    executed=st.integers(1, 6),
    spare=st.integers(0, 5),
)
def test_windows_are_those_of_padded_episodes(
    lengths: list[int], observed: int, executed: int, spare: int
) -> None:
    predicted = observed - 1 + executed + spare
    expected = slow_windows(lengths, observed, predicted, executed)
    dataset = demonstrations(lengths)
    if not expected:
        with pytest.raises(DataError, match="that a window needs"):
            data.ChunkSampler(dataset, observed, predicted, executed)
        return
    sampler = data.ChunkSampler(dataset, observed, predicted, executed)
    assert len(sampler) == len(expected)
    chunks = sampler.batch(torch.arange(len(sampler)))
    steps = torch.tensor([[step for step, _ in window] for window in expected])
    assert torch.equal(chunks.actions, -steps[:, :, None].float())
    assert torch.equal(chunks.valid, torch.tensor([[inside for _, inside in window] for window in expected]))
    seen = steps[:, :observed, None].float()
    assert torch.equal(chunks.states, torch.cat([seen, 100 * seen], dim=2))
    assert chunks.valid[:, observed - 1].all(), "every decision lies in its episode"


def test_a_window_at_either_border() -> None:
    chunks = data.ChunkSampler(demonstrations([9, 10]), 2, 8, 4).batch(torch.tensor([0, 5, 6, 12]))
    assert chunks.actions[..., 0].neg().tolist() == [
        [0, 0, 1, 2, 3, 4, 5, 6],
        [4, 5, 6, 7, 8, 8, 8, 8],
        [9, 9, 10, 11, 12, 13, 14, 15],
        [14, 15, 16, 17, 18, 18, 18, 18],
    ]
    assert chunks.states[..., 0].tolist() == [[0, 0], [4, 5], [9, 9], [14, 15]]
    assert chunks.valid.sum(1).tolist() == [7, 5, 7, 5]
    assert chunks.images is None


def test_pictures_are_those_of_the_states() -> None:
    dataset = demonstrations([9, 10], pictures=True)
    sampler = data.ChunkSampler(dataset, 2, 8, 4)
    chunks = sampler.batch(torch.tensor([12, 0, 3]))
    assert chunks.images is not None
    pictures = chunks.images["camera"]
    assert pictures.shape == (3, 2, 2, 4, 3)
    assert pictures.dtype == torch.uint8
    assert torch.equal(pictures[..., 0, 0, 0].float(), chunks.states[..., 0])


def test_selected_episodes_keep_their_pictures() -> None:
    dataset = demonstrations([9, 10, 8], pictures=True).select([2, 0, 1]).select([0, 2])
    assert dataset.observations[dataset.rows, 0].tolist() == [*range(19, 27), *range(9, 19)]
    pictures = dataset.images["camera"]
    assert pictures.shape == (18, 2, 4, 3)
    assert pictures[np.array([17, 0, 8])][:, 1, 3, 2].tolist() == [18, 19, 9]


def test_the_same_indices_give_the_same_chunks() -> None:
    index = torch.tensor([3, 1, 3])
    one, other = (data.ChunkSampler(demonstrations([20]), 2, 8, 4).batch(index) for _ in range(2))
    assert torch.equal(one.actions, other.actions)
    assert torch.equal(one.actions[0], one.actions[2])


@pytest.mark.parametrize("horizons", [(0, 8, 4), (2, 8, 0), (2, 8, 8), (5, 4, 1)])
def test_horizons_that_do_not_fit(horizons: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match="must hold"):
        data.ChunkSampler(demonstrations([20]), *horizons)


def test_an_index_beyond_the_last_window() -> None:
    sampler = data.ChunkSampler(demonstrations([20]), 2, 8, 4)
    with pytest.raises(IndexError):
        sampler.batch(torch.tensor([len(sampler)]))


def test_pictures_of_another_shape_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"images of 'top': expected shape \(9, height, width, 3\), got \(8, 2, 2, 3\)"
    ):
        OfflineDataset(**{**vars(demonstrations([9])), "images": {"top": np.zeros((8, 2, 2, 3), np.uint8)}})


@pytest.mark.skipif(not REPLAY.exists(), reason="the Push-T demonstrations are not here")
def test_push_t_has_the_published_number_of_windows() -> None:
    pytest.importorskip("zarr")
    sampler = data.ChunkSampler(data.load(REPLAY), 2, 16, 8)
    assert len(sampler) == 24_208
