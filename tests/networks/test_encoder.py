"""Encoders of pictures: crops, spatial soft-max, and that they learn."""

import pytest
import torch
from torch import nn

from diffpolicy.networks import ResNetEncoder, ViTEncoder, crop_pictures, spatial_softmax


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _resnet(crop: int = 20) -> nn.Module:
    return ResNetEncoder(6, (16, 32), 1, crop, 8, generator=_generator())


def _vit(crop: int = 20) -> nn.Module:
    return ViTEncoder(6, 16, 2, 2, 5, crop, generator=_generator())


ENCODERS = pytest.mark.parametrize("make", [_resnet, _vit], ids=["resnet", "vit"])


def _pictures(count: int = 2, side: int = 24) -> torch.Tensor:
    return torch.randint(256, (count, side, side, 3), dtype=torch.uint8, generator=_generator(1))


def test_centre_crop_is_the_centre() -> None:
    pictures = _pictures(3)
    assert torch.equal(crop_pictures(pictures, 20), pictures[:, 2:22, 2:22])
    assert torch.equal(crop_pictures(pictures, 24), pictures)


def test_random_crops_are_parts_of_the_pictures_and_reach_every_place() -> None:
    pictures = torch.arange(30).view(1, 5, 6, 1).expand(400, 5, 6, 3)
    cropped = crop_pictures(pictures, 4, _generator())
    assert cropped.shape == (400, 4, 4, 3)
    corners = cropped[:, 0, 0, 0]
    assert sorted(corners.unique().tolist()) == [0, 1, 2, 6, 7, 8]
    expected = corners.view(-1, 1, 1) + 6 * torch.arange(4).view(1, 4, 1) + torch.arange(4).view(1, 1, 4)
    assert torch.equal(cropped[..., 0], expected)
    assert torch.equal(cropped, crop_pictures(pictures, 4, _generator()))


@ENCODERS
def test_too_small_pictures_are_refused(make: type) -> None:
    with pytest.raises(ValueError, match="16 x 16 pixels"):
        make()(_pictures(side=16))


def test_spatial_softmax_of_one_hot_pixel_is_its_coordinate() -> None:
    maps = torch.zeros(1, 2, 5, 9)
    maps[0, 0, 1, 6] = 1e4
    maps[0, 1, 4, 0] = 1e4
    torch.testing.assert_close(spatial_softmax(maps)[0], torch.tensor([[0.5, -0.5], [-1.0, 1.0]]))
    assert spatial_softmax(torch.zeros(2, 3, 4, 4)).abs().max() < 1e-6


@ENCODERS
def test_one_picture_alone_and_bytes_or_floats_give_the_same(make: type) -> None:
    encoder, pictures = make(), _pictures(5)
    features = encoder(pictures)
    assert features.shape == (5, 6)
    torch.testing.assert_close(encoder(pictures[:1]), features[:1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder(pictures.float() / 255), features, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(encoder(pictures, _generator(3)), features)
    assert torch.equal(encoder(pictures, _generator(3)), encoder(pictures, _generator(3)))


@ENCODERS
def test_two_pictures_are_told_apart_by_learning(make: type) -> None:
    encoder, pictures = make(), _pictures(2)
    target = torch.tensor([[1.0, 0, 0, 1, 0, 0], [0, 1.0, 0, 0, -1, 0]])
    optimiser = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    for _ in range(150):
        optimiser.zero_grad()
        loss = (encoder(pictures) - target).square().mean()
        loss.backward()
        optimiser.step()
    assert loss.item() < 1e-3


def test_resnet_defaults_are_resnet_18() -> None:
    """11.17 million parameters of the trunk (1000-class head left out), less batch norm's identical count."""
    trunk = ResNetEncoder(64, generator=_generator())
    head = sum(p.numel() for part in (trunk.maps, trunk.output) for p in part.parameters())
    biases = sum(m.bias.numel() for m in trunk.modules() if isinstance(m, nn.Conv2d)) - 32
    norms_of_skips = 2 * (128 + 256 + 512)  # ours have none, torchvision's have
    total = sum(p.numel() for p in trunk.parameters())
    assert total - head - biases + norms_of_skips == 11_176_512


def test_a_crop_that_leaves_one_place_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 8"):
        _resnet(crop=8)
    shown = _pictures(2, 9)
    assert not torch.equal(*_resnet(crop=9)(shown))


def test_patches_must_divide_the_crop() -> None:
    with pytest.raises(ValueError, match="patches of 5"):
        _vit(crop=21)
