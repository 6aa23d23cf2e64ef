"""Batches survive a checkpoint as they were."""

from pathlib import Path as FilePath
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from diffpolicy.alignment import Pairs, Prompted, Rated, Rollout, Samples
from diffpolicy.alignment.packing import pack, unpack
from diffpolicy.diffusion import Path
from diffpolicy.training import read_training_state
from diffpolicy.training.checkpoint import write_checkpoint

CPU = torch.device("cpu")
CLEAN = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
PATH = Path(torch.randn(4, 4, 2), (9, 5, 2), torch.randn(3, 4))
CONDITION = {"text": CLEAN * 2, "more": [CLEAN + 1, (torch.arange(4), None)]}
ROLLOUT = Rollout(CLEAN, CONDITION, torch.tensor([0, 0, 1, 1]), CLEAN - 1, PATH, CLEAN > 0)
BATCHES: list[Samples] = [
    ROLLOUT,
    Rollout(CLEAN, None, torch.zeros(4, dtype=torch.int64)),
    Rated(ROLLOUT, torch.arange(4.0), torch.tensor([-1.0, 1.0, -0.5, 0.5])),
    Pairs(CLEAN, -CLEAN, CONDITION, None, PATH, None),
    Prompted(CONDITION, ["a cat", "a dog", "", "an owl"], torch.randn(3, 4, 2)),
]


def agree(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(agree(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(agree, one, other))
    return bool(one == other)


@pytest.mark.parametrize("batch", BATCHES, ids=["rollout", "plain", "rated", "pairs", "prompted"])
def test_a_batch_comes_back_from_a_checkpoint(batch: Samples, tmp_path: FilePath) -> None:
    weights = {"weight": torch.zeros(1)}
    stored = write_checkpoint(
        tmp_path, 1, model=weights, state={"batch": pack(batch)}, config={}, manifest={"name": "toy"}
    )
    assert agree(unpack(read_training_state(stored)["batch"], CPU), batch)


def test_a_condition_of_an_unknown_kind_is_refused() -> None:
    class Texts(NamedTuple):
        tokens: Tensor

    with pytest.raises(TypeError, match="cannot hold the Texts"):
        pack(Rollout(CLEAN, Texts(CLEAN), torch.zeros(4)))
