"""The moving average, the rate, and a state that goes on bit for bit with every stream of random numbers."""

import copy

import torch
from torch import nn

from diffpolicy.training import AveragedLearner


class Noisy(AveragedLearner[nn.Linear]):
    """Follows noise of two streams."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        network = nn.Linear(2, 1)
        self.first, self.second = (torch.Generator().manual_seed(seed + i) for i in (0, 1))
        optimizer = torch.optim.AdamW(network.parameters(), 0.1)
        super().__init__(network, optimizer, first=self.first, second=self.second)

    def step(self) -> None:
        inputs = torch.randn(4, 2, generator=self.first)
        loss = (self.trained(inputs) - torch.randn(4, 1, generator=self.second)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.update_average(0.9)


def test_the_average_moves_towards_what_is_trained_and_has_no_gradient() -> None:
    learner = Noisy(0)
    begun = learner.trained.weight.detach().clone()
    learner.step()
    torch.testing.assert_close(learner.average.weight, 0.9 * begun + 0.1 * learner.trained.weight.detach())
    assert not learner.average.weight.requires_grad
    assert learner.model().keys() == {"weight", "bias"}
    assert learner.model()["weight"] is not learner.trained.weight


def test_the_rate_is_that_of_every_parameter() -> None:
    learner = Noisy(0)
    before = learner.trained.weight.detach().clone()
    learner.set_rate(0.0)
    learner.step()
    assert torch.equal(learner.trained.weight, before)


def test_a_state_goes_on_bit_for_bit() -> None:
    through, later = Noisy(0), Noisy(5)
    through.step()
    state = through.state()
    assert state.keys() == {"trained", "average", "optimizer", "first", "second"}
    later.load_state(copy.deepcopy(state))
    for learner in (through, later):
        learner.step()
    for name, tensor in through.model().items():
        assert torch.equal(later.model()[name], tensor)
