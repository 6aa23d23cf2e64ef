"""A one-dimensional convolution whose bfloat16 gradients are as fast as its outputs on CPUs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Convolution1d(nn.Conv1d):
    """A convolution of odd kernel that keeps lengths; PyTorch's own but for gradients in bfloat16 on CPUs.

    There PyTorch's backward pass takes up to ten times its forward pass. Written as a convolution (of the inputs'
    gradient) and a matrix product (of the weights'), it takes three times.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (B, inputs, L) to (B, outputs, L)."""
        low = hidden.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if low and torch.is_grad_enabled() and torch.get_autocast_dtype("cpu") == torch.bfloat16:
            weight, bias = (parameter.bfloat16() for parameter in self.parameters())
            output: Tensor = _Convolution.apply(hidden.bfloat16(), weight, bias)  # type: ignore[no-untyped-call]
            return output
        return super().forward(hidden)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return functional.conv1d(hidden, weight, bias, padding=weight.shape[-1] // 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden, weight = ctx.saved_tensors
        (gradient,), reach = gradients, weight.shape[-1] // 2
        of_hidden = functional.conv1d(gradient, weight.flip(-1).transpose(0, 1), padding=reach)
        rows = functional.pad(hidden.transpose(1, 2), (0, 0, reach, reach)).unfold(1, weight.shape[-1], 1)
        outputs = gradient.transpose(1, 2).flatten(0, 1)
        of_weight = outputs.T @ rows.reshape(len(outputs), -1)
        return of_hidden, of_weight.view_as(weight), gradient.sum(dim=(0, 2))
