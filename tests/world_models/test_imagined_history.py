"""An imagined step shows the model the actions in the order in which they were taken."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from world_models import Imagined, ImaginedEnv, ImaginedEnvConfig, Window


class Recording(nn.Module):
    """A model of three actions of history that keeps the actions that it is shown."""

    config = SimpleNamespace(history=3)
    action_size, members = 1, 1

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[list[float]] = []

    def imagine(self, window: Any, member: Tensor, generator: torch.Generator) -> Imagined:
        self.shown.append(window.actions[0, :, 0].tolist())
        none = torch.zeros(1)
        return Imagined(window.observations[:, -1], none, none, none, none)


class Moment:
    """One real moment: -2 and -1 were done before it, and the action taken in truth was -9."""

    history, actions = 3, torch.zeros(1, 1)

    def __len__(self) -> int:
        return 1

    def window(self, index: Tensor) -> Window:
        actions = torch.tensor([-2.0, -1.0, -9.0]).expand(len(index), 3)[..., None]
        return Window(torch.zeros(len(index), 3, 1), actions)


def test_actions_of_history_are_those_taken_before() -> None:
    model = Recording()
    env = ImaginedEnv(model, Moment(), 1, ImaginedEnvConfig(horizon=4))
    env.reset(seed=0)
    for action in (0.1, 0.2, 0.3, 0.4, 0.5):
        env.step(torch.tensor([[action]]))
    wanted = [[-2, -1, 0.1], [-1, 0.1, 0.2], [0.1, 0.2, 0.3], [0.2, 0.3, 0.4], [-2, -1, 0.5]]
    assert torch.allclose(torch.tensor(model.shown), torch.tensor(wanted))
