"""A small learner with everything a real one has: weights, Adam, its own generator, a moving average."""

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.utils.tensorboard  # before the fork, so that each child starts quickly
from torch import Tensor

from diffpolicy import training


class ToyLearner:
    def __init__(self, total_steps: int = 30, seed: int = 0) -> None:
        self.total_steps = total_steps
        self.generator = torch.Generator().manual_seed(seed)
        self.network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        with torch.no_grad():
            for weight in self.network.parameters():
                weight.normal_(0.0, 0.3, generator=self.generator)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.02)
        self.average = {name: weight.detach().clone() for name, weight in self.network.named_parameters()}

    def update(self, step: int) -> dict[str, Tensor]:
        inputs = torch.randn(16, 3, generator=self.generator)
        loss = (self.network(inputs) - inputs.sum(-1, keepdim=True)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for name, weight in self.network.named_parameters():
            self.average[name].lerp_(weight.detach(), 0.1)
        return {"loss": loss.detach()}

    def state(self) -> dict[str, Any]:
        return {
            "network": dict(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "generator": self.generator.get_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.generator.set_state(state["generator"])

    def model(self) -> dict[str, Tensor]:
        return dict(self.average)

    def manifest(self) -> dict[str, Any]:
        return {"policy": "toy", "observation_size": 3}


def supervise(folder: Path, kills: int) -> None:
    """Train once without disturbance and once killed `kills` times at random moments."""
    torch.set_num_threads(1)
    assert os.waitpid(start(folder / "whole"), 0)[1] == 0
    delays = random.Random(0)
    for _ in range(kills):
        child = start(folder / "killed")
        time.sleep(delays.uniform(0.02, 0.25))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else "finished")
    assert os.waitpid(start(folder / "killed"), 0)[1] == 0


def start(folder: Path) -> int:
    child = os.fork()
    if child == 0:
        training.run(ToyLearner(300), folder, {}, checkpoint_every=2, log_every=1, progress=False)
        os._exit(0)
    return child


if __name__ == "__main__":
    supervise(Path(sys.argv[1]), int(sys.argv[2]))
