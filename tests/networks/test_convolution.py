"""The convolution's fast bfloat16 gradients against PyTorch's in double precision."""

import pytest
import torch

from diffpolicy.networks.convolution import Convolution1d
from diffpolicy.networks.layers import conv1d


@pytest.mark.parametrize(("kernel", "length"), [(1, 4), (3, 5), (5, 2), (5, 16)])
def test_gradients_in_bfloat16(kernel: int, length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = conv1d(6, 8, kernel, generator)
    assert isinstance(layer, Convolution1d)
    hidden = torch.randn(7, 6, length, generator=generator)
    pull = torch.randn(7, 8, length, generator=generator)

    def gradients(low: bool) -> list[torch.Tensor]:
        model = layer.float() if low else layer.double()
        model.zero_grad()
        inputs = hidden.clone() if low else hidden.double()
        inputs.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            outputs = model(inputs)
        assert outputs.dtype == (torch.bfloat16 if low else torch.float64)
        (outputs * pull.to(outputs.dtype)).sum().backward()
        parameters = [
            parameter.grad.double() for parameter in model.parameters() if parameter.grad is not None
        ]
        assert inputs.grad is not None
        assert len(parameters) == 2
        return [outputs.detach().double(), inputs.grad.double(), *parameters]

    for low, exact in zip(gradients(True), gradients(False), strict=True):
        assert low.shape == exact.shape
        assert (low - exact).abs().max() < 0.02 * exact.abs().max()


def test_without_gradients_it_is_pytorchs_own() -> None:
    layer = conv1d(3, 4, 5, torch.Generator().manual_seed(0))
    hidden = torch.randn(2, 3, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = layer(hidden)
    own = torch.nn.functional.conv1d(
        hidden.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16(), padding=2
    )
    assert torch.equal(low, own)
    assert torch.equal(layer(hidden), torch.nn.functional.conv1d(hidden, layer.weight, layer.bias, padding=2))
