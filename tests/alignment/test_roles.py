"""Roles are copies that move as told, and a reference that never does."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffpolicy.alignment import EMA, OLD, REFERENCE, TRAIN, CopiedRoles, role


class Net(nn.Module):
    counted: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout = nn.Linear(2, 2), nn.Dropout(0.5)
        self.register_buffer("counted", torch.tensor(3))

    def forward(self, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        out: Tensor = self.dropout(self.layer(noisy))
        return out


def moved(roles: CopiedRoles, by: float) -> None:
    with torch.no_grad():
        for parameter in roles.parameters():
            parameter += by


def test_the_reference_is_what_the_network_was_and_is_not_trained() -> None:
    roles = CopiedRoles(Net())
    was = roles.checksum(TRAIN)
    assert roles.checksum(REFERENCE) == was
    moved(roles, 1.0)
    assert roles.checksum(TRAIN) != was
    assert roles.checksum(REFERENCE) == was
    assert not any(tensor.requires_grad for tensor in roles.tensors(REFERENCE).values())
    assert len(roles.parameters()) == 2


def test_dropout_is_off_so_that_likelihoods_repeat() -> None:
    roles, noisy = CopiedRoles(Net()), torch.ones(3, 2)
    assert torch.equal(
        roles[TRAIN](noisy, torch.zeros(3), None), roles[REFERENCE](noisy, torch.zeros(3), None)
    )


def test_blending_is_exact_and_copies_counts() -> None:
    roles = CopiedRoles(Net())
    roles.add(EMA)
    was = roles.tensors(EMA)["layer.weight"].clone()
    moved(roles, 1.0)
    roles.tensors(TRAIN)["counted"].fill_(7)
    roles.blend(EMA, 0.75)
    torch.testing.assert_close(roles.tensors(EMA)["layer.weight"], was + 0.25, rtol=0, atol=1e-6)
    assert roles.tensors(EMA)["counted"] == 7
    roles.blend(EMA, 1.0)
    torch.testing.assert_close(roles.tensors(EMA)["layer.weight"], was + 0.25, rtol=0, atol=1e-6)
    roles.blend(EMA, 0.0)
    assert roles.checksum(EMA) == roles.checksum(TRAIN)


def test_a_role_added_later_is_what_is_trained_then() -> None:
    roles = CopiedRoles(Net())
    moved(roles, 1.0)
    roles.add(OLD)
    assert roles.checksum(OLD) == roles.checksum(TRAIN)
    moved(roles, 1.0)
    assert roles.checksum(OLD) != roles.checksum(TRAIN)
    roles.add(OLD)
    assert roles.checksum(OLD) == roles.checksum(TRAIN)
    assert set(roles) == {TRAIN, REFERENCE, OLD}
    assert len(roles) == 3


def test_a_state_fills_the_roles_it_knows_and_leaves_the_reference() -> None:
    roles, other = CopiedRoles(Net()), CopiedRoles(Net())
    roles.add(OLD)
    moved(roles, 1.0)
    before = other.checksum(REFERENCE)
    other.load_state(roles.state())
    assert other.checksum(OLD) == roles.checksum(OLD)
    assert other.checksum(TRAIN) == roles.checksum(TRAIN)
    assert other.checksum(REFERENCE) == before
    assert REFERENCE not in roles.state()


def test_networks_are_wrapped_in_every_role() -> None:
    roles = CopiedRoles(
        Net(), lambda network: lambda noisy, level, condition: -network(noisy, level, condition)
    )
    noisy = torch.ones(1, 2)
    assert torch.equal(roles[REFERENCE](noisy, noisy, None), -roles.network(TRAIN)(noisy, noisy, None))


def test_what_must_not_be_is_refused() -> None:
    roles = CopiedRoles(Net())
    for name in (TRAIN, REFERENCE):
        with pytest.raises(ValueError, match="from the beginning"):
            roles.add(name)
    with pytest.raises(ValueError, match="never moves"):
        roles.blend(REFERENCE, 0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        roles.blend(TRAIN, 1.5)
    with pytest.raises(ValueError, match="'old'; the roles filled are: train, reference"):
        role(roles, OLD)
