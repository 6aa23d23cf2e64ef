import numpy as np
import torch

from diffpolicy.collection.recorder import EpisodeRecorder, join, to_dataset


def record(recorder: EpisodeRecorder, index: int, steps: int, first: float) -> None:
    recorder.start(index, np.full(2, first, dtype=np.float32))
    for step in range(steps):
        action, following = np.full(1, step), np.full(2, first + step + 1)
        recorder.step(index, action.astype(np.float32), 2.0, float(step == 0), following.astype(np.float32))


def test_episodes_become_a_dataset() -> None:
    recorder = EpisodeRecorder(2, 5, 2, 1)
    record(recorder, 0, 3, 10.0)
    record(recorder, 1, 2, 50.0)
    recorder.finish(1, terminated=True, behaviour=7)
    recorder.finish(0, terminated=False, behaviour=0)
    dataset = to_dataset(recorder.episodes)
    assert dataset.observations[:, 0].tolist() == [50, 51, 52, 10, 11, 12, 13]
    assert dataset.rows.tolist() == [0, 1, 3, 4, 5]
    assert dataset.actions.flatten().tolist() == [0, 1, 0, 1, 2]
    assert dataset.terminals.tolist() == [False, True, False, False, False]
    assert dataset.timeouts.tolist() == [False, False, False, False, True]
    assert dataset.episode_returns.tolist() == [4.0, 6.0]
    assert dataset.episode_costs.tolist() == [1.0, 1.0]
    assert [episode.behaviour for episode in recorder.episodes] == [7, 0]
    assert recorder.steps == 5


def test_unfinished_episodes_are_not_kept() -> None:
    recorder = EpisodeRecorder(1, 5, 2, 1)
    record(recorder, 0, 4, 0.0)
    assert recorder.episodes == []
    record(recorder, 0, 2, 9.0)
    episode = recorder.finish(0, terminated=False, behaviour=0)
    assert episode.observations[:, 0].tolist() == [9, 10, 11]


def test_a_finished_episode_survives_the_next_one() -> None:
    recorder = EpisodeRecorder(1, 5, 2, 1)
    record(recorder, 0, 2, 1.0)
    recorder.finish(0, terminated=False, behaviour=0)
    record(recorder, 0, 2, 100.0)
    assert recorder.episodes[0].observations[:, 0].tolist() == [1, 2, 3]


def test_joined_datasets_keep_their_episodes() -> None:
    recorder = EpisodeRecorder(1, 5, 2, 1)
    for steps in (2, 3, 1):
        record(recorder, 0, steps, 10.0 * steps)
        recorder.finish(0, terminated=steps == 3, behaviour=0)
    whole = to_dataset(recorder.episodes)
    parts = join([to_dataset(recorder.episodes[:2]), to_dataset(recorder.episodes[2:])])
    for name in ("observations", "rows", "actions", "terminals", "timeouts", "episode_ends"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name
