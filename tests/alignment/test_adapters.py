import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from diffpolicy.alignment.adapters import AdapterRoles

pytest.importorskip("peft")


class Block(nn.Module):
    """A layer that can be computed again in the backward pass, as those of diffusers can."""

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.to_q = nn.Linear(6, 6)

    def forward(self, x):
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return checkpoint(self.run, x, use_reentrant=False)
        return self.run(x)

    def run(self, x):
        return torch.tanh(self.to_q(x))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, noisy, level, condition):
        if condition is not None:
            raise RuntimeError("a network that fails")
        for block in self.blocks:
            noisy = noisy + block(noisy)
        return noisy


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def x():
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


LEVEL = torch.zeros(5, dtype=torch.int64)


def move(roles, name, by=0.3):
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for tensor in roles.tensors(name).values():
            tensor.add_(by * torch.randn(tensor.shape, generator=generator))


def test_train_begins_as_the_reference_and_the_reference_never_moves(network, x):
    base = network(x, LEVEL, None).detach()
    before = torch.get_rng_state()
    roles = AdapterRoles(network, rank=2, targets=["to_q"])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(roles["train"](x, LEVEL, None), base)
    checksum = roles.checksum("reference")
    move(roles, "train")
    assert not torch.allclose(roles["train"](x, LEVEL, None), base, atol=1e-3)
    assert torch.equal(roles["reference"](x, LEVEL, None), base)
    assert roles.checksum("reference") == checksum
    # Whoever holds the network sees what is trained.
    assert torch.equal(network(x, LEVEL, None), roles["train"](x, LEVEL, None))


def test_a_role_is_what_train_was_and_blends_towards_it(network, x):
    roles = AdapterRoles(network, rank=2, targets=["to_q"])
    move(roles, "train")
    then = roles["train"](x, LEVEL, None)
    roles.add("old")
    kept = {key: tensor.clone() for key, tensor in roles.tensors("old").items()}
    move(roles, "train")
    assert torch.equal(roles["old"](x, LEVEL, None), then)
    roles.blend("old", 0.25)
    for key, tensor in roles.tensors("old").items():
        torch.testing.assert_close(tensor, 0.25 * kept[key] + 0.75 * roles.tensors("train")[key])
    roles.add("old")
    assert torch.equal(roles["old"](x, LEVEL, None), roles["train"](x, LEVEL, None))
    assert set(roles) == {"train", "old", "reference"}
    assert len(roles) == 3


def test_only_train_learns_whatever_else_was_called(network, x):
    roles = AdapterRoles(network, rank=2, targets=["to_q"])
    roles.add("old")
    loss = roles["train"](x, LEVEL, None).sum()
    for name in ("old", "reference"):
        assert not roles[name](x, LEVEL, None).requires_grad
    loss.backward()
    train = set(map(id, roles.tensors("train").values()))
    assert len(roles.parameters()) == 4
    for parameter in network.parameters():
        assert (parameter.grad is not None) == (id(parameter) in train)
        assert parameter.requires_grad == (id(parameter) in train)


def test_checkpointing_gives_the_same_gradients_with_other_roles_in_between(network, x):
    gradients = []
    roles = AdapterRoles(network, rank=2, targets=["to_q"])
    roles.add("old")
    move(roles, "train")
    move(roles, "old")
    for checkpointed in (False, True):
        for block in network.blocks:
            block.gradient_checkpointing = checkpointed
        inputs = x.clone().requires_grad_()
        # The gradient reaches the input through all three roles, long after they were called.
        first = roles["train"](inputs, LEVEL, None)
        old, reference = roles["old"](inputs, LEVEL, None), roles["reference"](first, LEVEL, None)
        loss = (first * old.detach()).sum() + (old * reference).sum()
        gradients.append(torch.autograd.grad(loss, [inputs, *roles.parameters()]))
        assert all(block.gradient_checkpointing == checkpointed for block in network.blocks)
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-6, atol=1e-7)


def test_an_error_in_a_call_leaves_train_active(network, x):
    roles = AdapterRoles(network, rank=2, targets=["to_q"])
    move(roles, "train")
    expected = network(x, LEVEL, None)
    with pytest.raises(RuntimeError, match="fails"):
        roles["reference"](x, LEVEL, "anything")
    assert torch.equal(network(x, LEVEL, None), expected)
    assert len(roles.parameters()) == 4


def test_adapters_are_float32_over_a_half_precision_base(network, x):
    roles = AdapterRoles(network.bfloat16(), rank=2, targets=["to_q"])
    roles.add("old")
    for name in ("train", "old"):
        assert {tensor.dtype for tensor in roles.tensors(name).values()} == {torch.float32}
    assert {tensor.dtype for tensor in roles.tensors("reference").values()} == {torch.bfloat16}
    assert roles["train"](x.bfloat16(), LEVEL, None).dtype == torch.bfloat16


def test_state_restores_every_adapter(network, x):
    roles = AdapterRoles(network, rank=2, targets=["to_q"])
    roles.add("old")
    move(roles, "old")
    move(roles, "train")
    state = {name: {key: t.clone() for key, t in tensors.items()} for name, tensors in roles.state().items()}
    expected = {name: roles[name](x, LEVEL, None).detach() for name in roles}
    torch.manual_seed(0)
    again = AdapterRoles(Network(), rank=2, targets=["to_q"], seed=7)
    again.load_state(state)
    for name, output in expected.items():
        assert torch.equal(again[name](x, LEVEL, None), output)


def test_an_adapter_merged_into_the_base_is_the_adapter(network, x):
    roles = AdapterRoles(network, rank=2, alpha=3.0, targets=["to_q"])
    move(roles, "train")
    torch.manual_seed(0)
    merged, tensors = Network(), roles.tensors("train")
    with torch.no_grad():
        for index, block in enumerate(merged.blocks):
            down, up = (tensors[f"blocks.{index}.to_q.lora_{which}.weight"] for which in "AB")
            block.to_q.weight += 3.0 / 2 * up @ down
    torch.testing.assert_close(roles["train"](x, LEVEL, None), merged(x, LEVEL, None))


def test_what_is_wrong_is_said(network):
    with pytest.raises(ValueError, match="rank of 1 or more"):
        AdapterRoles(network, rank=0)
    roles = AdapterRoles(network, targets=["to_q"])
    with pytest.raises(ValueError, match="adapters already"):
        AdapterRoles(network, targets=["to_q"])
    with pytest.raises(KeyError, match="'default'; there are train, reference"):
        roles["default"]
    with pytest.raises(ValueError, match="from the beginning"):
        roles.add("reference")
    with pytest.raises(ValueError, match="letters, digits"):
        roles.add("epoch.3")
    assert "old" not in roles
