"""Training falls, resumes bit for bit, stops cleanly, and refuses what would spoil a run."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffpolicy.training import (
    CheckpointError,
    ConfigMismatchError,
    Interrupted,
    NonFiniteError,
    TrainingError,
    loop,
    read_checkpoint,
    read_curves,
    run,
)

Toy = Callable[..., Any]


def train(learner: Any, folder: Path, config: dict[str, Any] | None = None, **changes: Any) -> Path:
    options = {"checkpoint_every": 7, "log_every": 3, "progress": False, **changes}
    return run(learner, folder, config or {"seed": 0}, **options)


def assert_same_end(a: Path, b: Path) -> None:
    for name in ("model.safetensors", "training.safetensors"):
        assert (a / name).read_bytes() == (b / name).read_bytes()


def after(learner: Any, step: int, action: Callable[[], Any]) -> Any:
    """The learner, with `action` taken within update number `step`."""
    update = learner.update

    def update_and_act(number: int) -> Any:
        losses = update(number)
        replaced = action() if number == step else None
        return losses if replaced is None else replaced

    learner.update = update_and_act
    return learner


def test_loss_falls_and_everything_is_left_behind(tmp_path: Path, toy: Toy) -> None:
    last = train(toy(150), tmp_path)
    steps, values = read_curves(tmp_path)["loss"]
    assert steps == list(range(3, 151, 3))
    assert sum(values[-5:]) < 0.2 * sum(values[:5])
    assert last.name == "step-00000150"
    assert read_checkpoint(last).manifest["policy"] == "toy"
    assert len(list(last.parent.iterdir())) == 2


def test_killed_at_random_moments_it_ends_bit_for_bit_the_same(tmp_path: Path) -> None:
    script = Path(__file__).with_name("toy.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, "15"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("killed") >= 5
    whole, killed = (tmp_path / name / "checkpoints" / "step-00000300" for name in ("whole", "killed"))
    assert_same_end(whole, killed)
    assert read_curves(tmp_path / "whole") == read_curves(tmp_path / "killed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_checkpoints(tmp_path: Path, toy: Toy, number: int) -> None:
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"after step 12 of 30 .*same command again to resume"):
        train(after(toy(30), 11, lambda: os.kill(os.getpid(), number)), tmp_path / "a")
    assert signal.getsignal(number) is handler
    assert read_checkpoint(tmp_path / "a").step == 12
    assert_same_end(train(toy(30), tmp_path / "a"), train(toy(30), tmp_path / "b"))
    assert read_curves(tmp_path / "a") == read_curves(tmp_path / "b")


def test_a_second_signal_stops_at_once(tmp_path: Path, toy: Toy) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as raised:
        train(after(toy(30), 11, twice), tmp_path)
    assert not isinstance(raised.value, Interrupted)
    assert read_checkpoint(tmp_path).step == 7


def test_it_trains_outside_the_main_thread(tmp_path: Path, toy: Toy) -> None:
    thread = threading.Thread(target=train, args=(toy(10), tmp_path))
    thread.start()
    thread.join()
    assert read_checkpoint(tmp_path).step == 10


def test_a_finished_run_is_left_alone(tmp_path: Path, toy: Toy) -> None:
    last = train(toy(10), tmp_path)
    learner = toy(10)
    learner.update = None
    assert train(learner, tmp_path) == last


def test_falling_back_from_a_damaged_checkpoint(tmp_path: Path, toy: Toy) -> None:
    with pytest.raises(ZeroDivisionError):
        train(after(toy(30), 24, lambda: 1 // 0), tmp_path / "a")
    os.truncate(tmp_path / "a" / "checkpoints" / "step-00000021" / "training.safetensors", 100)
    with pytest.warns(UserWarning, match="unreadable"):
        last = train(toy(30), tmp_path / "a", checkpoint_every=8)
    assert_same_end(last, train(toy(30), tmp_path / "b"))
    assert (last.parent / "unreadable-step-00000021").is_dir()
    assert read_curves(tmp_path / "a") == read_curves(tmp_path / "b")


def test_a_failed_write_stops_and_the_run_goes_on_later(
    tmp_path: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        learner = after(
            toy(30), 9, lambda: patch.setattr("diffpolicy.training.checkpoint._write_synced", full)
        )
        with pytest.raises(CheckpointError, match=r"No space left on device.*step-00000007"):
            train(learner, tmp_path / "a")
    assert_same_end(train(toy(30), tmp_path / "a"), train(toy(30), tmp_path / "b"))


def test_an_unusable_run_folder(tmp_path: Path, toy: Toy) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot write in the run folder"):
        train(toy(5), tmp_path / "file" / "run")


def test_a_full_disk_under_the_log(tmp_path: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    with pytest.raises(TrainingError, match=r"TensorBoard log in .*No space left"):
        train(toy(5), tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite(tmp_path: Path, toy: Toy, value: float) -> None:
    learner = after(toy(30), 13, lambda: {"critic_loss": torch.tensor(value)})
    with pytest.raises(NonFiniteError, match=r"'critic_loss' .* after step 14; .*step-00000007"):
        train(learner, tmp_path, log_every=100)
    assert read_checkpoint(tmp_path).step == 7


@pytest.mark.parametrize("place", ["average", "optimizer"])
def test_no_checkpoint_with_nan(tmp_path: Path, toy: Toy, place: str) -> None:
    learner = toy(30)
    moments = learner.optimizer.state

    def spoil() -> None:
        spoilt = (
            learner.average["2.bias"]
            if place == "average"
            else moments[learner.network[0].weight]["exp_avg_sq"]
        )
        spoilt.fill_(torch.nan)

    with pytest.raises(NonFiniteError, match=r"weight '2.bias'" if place == "average" else "exp_avg_sq"):
        train(after(learner, 13, spoil), tmp_path, log_every=100)
    assert read_checkpoint(tmp_path).step == 7


def test_another_configuration_is_refused_by_key(tmp_path: Path, toy: Toy) -> None:
    stored = {
        "seed": 0,
        "agent": {"rate": 3e-4, "sizes": (8, 8)},
        "progress": True,
        "training": {"log_every": 3},
    }
    train(toy(10), tmp_path, stored)
    changed = {"seed": 0, "agent": {"rate": 1e-3, "sizes": [8, 8]}, "progress": False, "extra": {}}
    with pytest.raises(ConfigMismatchError) as raised:
        train(toy(20), tmp_path, changed)
    message = str(raised.value)
    assert "agent.rate: 0.0003 -> 0.001" in message
    assert "extra: (absent) -> {}" in message
    assert not any(key in message for key in ("seed", "sizes", "progress", "log_every"))
    train(toy(20), tmp_path, {**stored, "progress": False, "training": {"log_every": 9}})
    assert read_checkpoint(tmp_path).step == 20


def test_a_run_shorter_than_its_checkpoint(tmp_path: Path, toy: Toy) -> None:
    train(toy(10), tmp_path)
    with pytest.raises(ConfigMismatchError, match="beyond the 5 steps"):
        train(toy(5), tmp_path)


def test_two_processes_cannot_share_a_folder(tmp_path: Path, toy: Toy) -> None:
    code = "import sys; from pathlib import Path; from diffpolicy.training.loop import _sole_user\n"
    code += "with _sole_user(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TrainingError, match="another process is training"):
            train(toy(5), tmp_path)
        other.communicate("")
    train(toy(5), tmp_path)


def test_bad_arguments(tmp_path: Path, toy: Toy) -> None:
    for changes in ({"checkpoint_every": 0}, {"log_every": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            train(toy(5), tmp_path, **changes)
    with pytest.raises(ValueError, match="nothing to train"):
        train(toy(0), tmp_path)


def test_losses_are_fetched_only_when_logged(
    tmp_path: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []
    finite = loop._finite
    monkeypatch.setattr(
        loop, "_finite", lambda losses, step, last: fetched.append(step) or finite(losses, step, last)
    )
    train(toy(20), tmp_path, checkpoint_every=10, log_every=8)
    assert fetched == [8, 10, 16, 20]


def test_points_are_safe_before_the_checkpoint_is(
    tmp_path: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    write = loop.write_checkpoint

    def look_and_write(folder: Path, step: int, **contents: Any) -> Path:
        seen.append((step, read_curves(folder)["loss"][0][-1]))
        return write(folder, step, **contents)

    monkeypatch.setattr(loop, "write_checkpoint", look_and_write)
    train(toy(60), tmp_path, checkpoint_every=1, log_every=1)
    assert seen == [(step, step) for step in range(1, 61)]
