"""What a refinement starts from and is told by belongs to its task and seed."""

from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from diffpolicy.cli import refine_subjects
from diffpolicy.cli.errors import ConfigError

WORLD: Any = SimpleNamespace(task=SimpleNamespace(id="reach-v3", score="success"), device="cpu")


def stored(monkeypatch: pytest.MonkeyPatch, **manifest: Any) -> None:
    """Let every checkpoint be one with this manifest."""
    checkpoint = SimpleNamespace(manifest=manifest)
    monkeypatch.setattr(refine_subjects.training, "best_checkpoint", lambda path: path)
    monkeypatch.setattr(refine_subjects.training, "read_checkpoint", lambda path: checkpoint)


@pytest.mark.parametrize("method", ["gaussian", "diffusion"])
def test_a_start_of_another_task_is_refused(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(monkeypatch, method=method, task="push-v3")
    with pytest.raises(ConfigError, match="start=there acts in push-v3, the world model is one of reach-v3"):
        refine_subjects.load_subject(OmegaConf.create({"start": "there"}), WORLD)


@pytest.mark.parametrize(
    ("seeds", "seed", "taken"),
    [([0, 1, 2], 2, 2), ([1, 3], 1, 1), ([1, 3], 3, 3), ([1, 2], 1, 1), ([1, 2], 0, 1), ([5], 7, 5)],
)
def test_critics_of_the_same_seed_judge_where_there_are_some(
    seeds: list[int], seed: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(monkeypatch, method="fisor", task="reach-v3", seeds=seeds)
    asked: list[int] = []

    class Judge:
        critics = standardizer = None

    def load_policy(checkpoint: Any, arm: str, seed: int, device: Any) -> Judge:
        asked.append(seed)
        return Judge()

    monkeypatch.setattr(refine_subjects, "CandidatePolicy", Judge)
    monkeypatch.setattr(refine_subjects, "available_arms", lambda manifest: ["bc"])
    monkeypatch.setattr(refine_subjects, "load_policy", load_policy)
    monkeypatch.setattr(refine_subjects, "Split", lambda critics, standardizer: None)
    cfg = OmegaConf.create({"method": "split", "critics": "there", "seed": seed})
    refine_subjects.make_arm(cfg, WORLD)
    assert asked == [taken]
