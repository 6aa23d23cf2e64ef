"""The diffusion transformer of Diffusion Policy (Chi et al. 2023)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffpolicy.networks.attention import TransformerLayer
from diffpolicy.networks.embedding import check_level, sinusoid
from diffpolicy.networks.layers import linear


class DiffusionTransformer(nn.Module):
    """A transformer decoder over the noised actions of a chunk that looks at noise level and observation tokens.

    Actions and memory (the level's sinusoid, then one token per observed step, through a small MLP) have learned
    positions. With `causal`, action t sees actions up to t and observations up to step t, the level always. With
    `per_step_levels` every action has its own level (streaming diffusion policy), added to its own token. Dropout,
    in attention weights and around every sub-layer, is on exactly when `forward` gets a generator for its masks.
    """

    def __init__(
        self,
        horizon: int,
        action_size: int,
        observation_horizon: int,
        token_size: int,
        layers: int = 8,
        heads: int = 4,
        width: int = 256,
        dropout: float = 0.3,
        causal: bool = True,
        *,
        generator: torch.Generator,
        per_step_levels: bool = False,
    ) -> None:
        super().__init__()
        self.per_step_levels = per_step_levels
        self.causal = causal
        self.width = width
        self.action = linear(action_size, width, generator)
        self.observation = linear(token_size, width, generator)
        memory = observation_horizon + (0 if per_step_levels else 1)
        self.action_position = nn.Parameter(torch.empty(horizon, width).normal_(0, 0.02, generator=generator))
        self.memory_position = nn.Parameter(torch.empty(memory, width).normal_(0, 0.02, generator=generator))
        self.encode_expand = linear(width, 4 * width, generator)
        self.encode_contract = linear(4 * width, width, generator)
        self.layers = nn.ModuleList(
            TransformerLayer(width, heads, dropout, generator, cross=True) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.output = linear(width, action_size, generator)

    def _masks(self, horizon: int, memory: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return what each action may look at: (H, H) among actions, (H, S) in memory."""
        action = torch.arange(horizon, device=device).unsqueeze(1)
        level_tokens = 0 if self.per_step_levels else 1
        return action >= action.T, action >= torch.arange(memory, device=device) - level_tokens

    def forward(
        self, noisy: Tensor, level: Tensor, tokens: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Map `noisy` (B, H, A) at `level` (B,), or (B, H), given `tokens` (B, To, C) to raw outputs (B, H, A)."""
        check_level(level, noisy, self.per_step_levels)
        embedded = sinusoid(level, self.width).to(noisy.dtype)
        hidden = self.action(noisy) + self.action_position
        memory = self.observation(tokens)
        if self.per_step_levels:
            hidden = hidden + embedded
        else:
            memory = torch.cat([embedded.unsqueeze(1), memory], dim=1)
        memory = self.encode_contract(functional.mish(self.encode_expand(memory + self.memory_position)))
        mask, memory_mask = (
            self._masks(hidden.shape[1], memory.shape[1], noisy.device) if self.causal else (None, None)
        )
        for layer in self.layers:
            hidden = layer(hidden, mask, memory, memory_mask, generator)
        output: Tensor = self.output(self.norm(hidden))
        return output
