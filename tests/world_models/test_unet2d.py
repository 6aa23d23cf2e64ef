import pytest
import torch
from torch import nn

from diffpolicy.networks import layers
from world_models import WorldModelError
from world_models.unet2d import SIZES, AdaGroupNorm, UNet2D, UNetSize

SMALL = UNetSize((8, 16, 32), 2, 12)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def made(size: UNetSize = SMALL, seed: int = 0) -> UNet2D:
    return UNet2D(6, 3, size, torch.Generator().manual_seed(seed))


def test_sizes_are_those_of_the_papers(monkeypatch: pytest.MonkeyPatch):
    # Layers are made without memory and stay so.
    monkeypatch.setattr(layers, "_drawn", lambda layer, generator: layer)
    counts = {name: parameters(UNet2D(15, 3, size, torch.Generator())) for name, size in SIZES.items()}
    assert 0.5e6 < counts["tiny"] < 1.5e6
    assert 4.2e6 < counts["diamond"] < 4.6e6
    assert 300e6 < counts["world4rl"] < 360e6


def test_it_begins_as_nothing_and_maps_pictures_to_pictures():
    unet = made()
    maps, condition = torch.randn(2, 6, 16, 24), torch.randn(2, 12)
    assert torch.equal(unet(maps, condition), torch.zeros(2, 3, 16, 24))
    nn.init.normal_(unet.output.weight)
    assert unet(maps, condition).shape == (2, 3, 16, 24)
    with pytest.raises(WorldModelError, match="multiples of 4"):
        unet(torch.randn(1, 6, 18, 16), condition[:1])


def test_patches_are_places_of_the_finest_level():
    unet = made(UNetSize((8, 16), 1, 4, patch=2))
    assert unet.input.in_channels == 6 * 4
    nn.init.normal_(unet.output.weight)
    maps, condition = torch.randn(1, 6, 8, 12), torch.randn(1, 4)
    assert unet(maps, condition).shape == (1, 3, 8, 12)
    with pytest.raises(WorldModelError, match="multiples of 4"):
        unet(torch.randn(1, 6, 8, 10), condition)


def test_every_weight_is_used_and_the_condition_listened_to():
    unet, draw = made(), torch.Generator().manual_seed(1)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.1, generator=draw)
    maps, condition = torch.randn(1, 6, 8, 8, generator=draw), torch.randn(1, 12, generator=draw)
    output = unet(maps, condition)
    output.square().sum().backward()
    silent = [name for name, each in unet.named_parameters() if each.grad is None or not each.grad.any()]
    assert silent == []
    assert not torch.allclose(output, unet(maps, condition + 1.0))


def test_weights_are_those_of_the_generator_and_coarsening_keeps_lengths():
    one, same, other = made(seed=3), made(seed=3), made(seed=4)
    assert torch.equal(one.input.weight, same.input.weight)
    assert not torch.equal(one.input.weight, other.input.weight)
    weight = one.coarsen[0].weight.flatten(1)
    torch.testing.assert_close(weight @ weight.T, torch.eye(8), rtol=0, atol=1e-5)


def test_group_norm_is_plain_where_the_condition_asks_for_nothing():
    norm = AdaGroupNorm(64, 4, torch.Generator().manual_seed(0))
    maps = torch.randn(3, 64, 5, 5)
    nn.init.zeros_(norm.affine.weight)
    nn.init.zeros_(norm.affine.bias)
    torch.testing.assert_close(norm(maps, torch.randn(3, 4)), nn.GroupNorm(2, 64)(maps))
    with torch.no_grad():
        norm.affine.bias[:64], norm.affine.bias[64:] = 1.0, -3.0
    torch.testing.assert_close(norm(maps, torch.randn(3, 4)), 2.0 * nn.GroupNorm(2, 64)(maps) - 3.0)


def test_odd_widths_are_refused():
    with pytest.raises(WorldModelError, match="multiple of, 32"):
        made(UNetSize((48,), 1, 4))
