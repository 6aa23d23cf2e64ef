"""A judge's scores are logged, decide which checkpoint is kept, and survive a kill between store and judgement."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from diffpolicy.training import (
    ConfigMismatchError,
    Verdict,
    best_checkpoint,
    read_checkpoint,
    read_curves,
    run,
)
from diffpolicy.training.judging import read_scores

Toy = Callable[..., Any]
OPTIONS: dict[str, Any] = {"checkpoint_every": 5, "log_every": 5, "progress": False}


def gif() -> bytes:
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


class ByTable:
    """Scores a checkpoint by its step, and remembers which it was asked about."""

    every = 10

    def __init__(self, scores: dict[int, float], film: bytes | None = None, **settings: Any) -> None:
        self.scores, self.film, self.settings = scores, film, settings
        self.asked: list[int] = []

    def __call__(self, checkpoint: Path) -> Verdict:
        step = read_checkpoint(checkpoint).step
        self.asked.append(step)
        return Verdict(self.scores[step], {"score": self.scores[step]}, self.film)


def test_the_best_is_kept_although_training_went_on(tmp_path: Path, toy: Toy) -> None:
    judge = ByTable({10: 0.2, 20: 0.9, 30: 0.4, 35: 0.5})
    last = run(toy(35), tmp_path, {}, judge=judge, **OPTIONS)
    assert judge.asked == [10, 20, 30, 35]
    assert last.name == "step-00000035"
    assert read_checkpoint(best_checkpoint(tmp_path)).step == 20
    assert read_curves(tmp_path)["score"] == ([10, 20, 30, 35], pytest.approx([0.2, 0.9, 0.4, 0.5]))


def test_without_a_judge_the_run_itself_is_the_best_there_is(tmp_path: Path, toy: Toy) -> None:
    run(toy(10), tmp_path, {}, **OPTIONS)
    assert best_checkpoint(tmp_path) == tmp_path


def test_a_run_killed_before_the_verdict_gets_it_on_resuming(tmp_path: Path, toy: Toy) -> None:
    class Killed(ByTable):
        def __call__(self, checkpoint: Path) -> Verdict:
            if read_checkpoint(checkpoint).step == 20:
                raise KeyboardInterrupt
            return super().__call__(checkpoint)

    scores = {10: 0.2, 20: 0.9, 30: 0.4}
    with pytest.raises(KeyboardInterrupt):
        run(toy(30), tmp_path, {}, judge=Killed(scores), **OPTIONS)
    judge = ByTable(scores)
    run(toy(30), tmp_path, {}, judge=judge, **OPTIONS)
    assert judge.asked == [20, 30]
    assert read_checkpoint(best_checkpoint(tmp_path)).step == 20
    again = ByTable(scores)
    run(toy(30), tmp_path, {}, judge=again, **OPTIONS)
    assert again.asked == []


def test_unreadable_scores_are_given_again(tmp_path: Path, toy: Toy) -> None:
    run(toy(10), tmp_path, {}, judge=ByTable({10: 0.3}), **OPTIONS)
    (tmp_path / "judged.json").write_text("{")
    judge = ByTable({10: 0.3})
    run(toy(10), tmp_path, {}, judge=judge, **OPTIONS)
    assert judge.asked == [10]
    assert json.loads((tmp_path / "judged.json").read_text()) == {"10": 0.3}


def test_the_film_is_in_tensorboard_and_the_curves_remain_readable(tmp_path: Path, toy: Toy) -> None:
    run(toy(10), tmp_path, {}, judge=ByTable({10: 0.3}, gif()), **OPTIONS)
    (file,) = tmp_path.glob("events.out.tfevents.*")
    (film,) = [
        value.image
        for event in LegacyEventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.HasField("image")
    ]
    assert (film.width, film.height) == (6, 4)
    assert Image.open(io.BytesIO(film.encoded_image_string)).n_frames == 2
    assert set(read_curves(tmp_path)) == {"loss", "score"}


def test_scores_of_another_judge_are_not_compared(tmp_path: Path, toy: Toy) -> None:
    run(toy(10), tmp_path, {}, judge=ByTable({10: 0.3}, arms=("a", "b")), **OPTIONS)
    assert read_scores(tmp_path) == ({10: 0.3}, None, {"arms": ["a", "b"]})
    with pytest.raises(ConfigMismatchError, match="judged by"):
        run(toy(10), tmp_path, {}, judge=ByTable({}, arms=("a",)), **OPTIONS)
    run(toy(10), tmp_path, {}, judge=ByTable({}, arms=("a", "b")), **OPTIONS)  # done, and judged
    run(toy(10), tmp_path, {}, **OPTIONS)
    assert best_checkpoint(tmp_path) != tmp_path
