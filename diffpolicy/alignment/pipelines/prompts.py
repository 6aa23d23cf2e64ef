"""Prompts of text-to-image models: texts that are encoded once, and kept as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffpolicy.alignment.model import Prompts
from diffpolicy.alignment.samples import map_tensors, rows

ENCODED_AT_ONCE = 32  # texts in one call of the text encoders


@dataclass(frozen=True)
class TextPrompts(Prompts):
    """P texts, and what a network sees of each: `encoded`, a dict of tensors of P rows.

    `negative` is the same of the one negative prompt, one row; without it there is no guidance of `scale`.
    """

    texts: tuple[str, ...]
    encoded: dict[str, Tensor]
    negative: dict[str, Tensor] | None = None
    scale: float = 1.0

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.texts)

    def condition(self, index: Tensor, guided: bool) -> dict[str, Any]:
        """Return what the network sees of the texts `index` (B,), and of the negative prompt if it is to be guided."""
        condition: dict[str, Any] = rows(self.encoded, index)
        if not guided or self.negative is None:
            return condition
        first = next(iter(self.encoded.values()))
        condition["negative"] = rows(self.negative, torch.zeros_like(index))
        condition["scale"] = torch.full((len(index),), self.scale, device=first.device)
        return condition

    def labels(self, index: Tensor) -> list[str]:
        """Return the texts `index` (B,)."""
        return [self.texts[row] for row in index.tolist()]


@torch.no_grad()
def encode_texts(pipe: Any, texts: Sequence[str], guidance: float, extra: dict[str, Tensor]) -> TextPrompts:
    """Return texts encoded by the text encoders of a pipeline; `extra` are further inputs (1, ...), alike for all.

    A guidance of 1 or less is none, as in diffusers.

    Raises:
        ValueError: if there is no text, or an empty list of them.
    """
    if isinstance(texts, str) or not texts:
        raise ValueError("a text-to-image model is asked for something: give prompts, one or more")
    parts = [
        _encode(pipe, list(texts[first : first + ENCODED_AT_ONCE]), guidance > 1.0)
        for first in range(0, len(texts), ENCODED_AT_ONCE)
    ]
    encoded = {key: torch.cat([asked[key] for asked, _ in parts]) for key in parts[0][0]}
    encoded |= {key: value.expand(len(texts), *value.shape[1:]) for key, value in extra.items()}
    negative = parts[0][1]
    if negative is not None:
        negative = {key: value[:1].clone() for key, value in negative.items()} | extra
    return TextPrompts(tuple(texts), map_tensors(encoded, torch.Tensor.contiguous), negative, guidance)


def _encode(pipe: Any, texts: list[str], guided: bool) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Return what a pipeline's own `encode_prompt` makes of texts, and of as many negative prompts."""
    device = pipe.text_encoder.device
    match type(pipe).__name__:
        case "FluxPipeline":  # guided by a number that its network is told, and by no negative prompt
            text, pooled, _ = pipe.encode_prompt(texts, None, device=device)
            return {"text": text, "pooled": pooled}, None
        case "StableDiffusionPipeline":
            text, no_text = pipe.encode_prompt(texts, device, 1, guided)
            return {"text": text}, {"text": no_text} if guided else None
        case "StableDiffusionXLPipeline":
            found = pipe.encode_prompt(texts, device=device, do_classifier_free_guidance=guided)
        case _:
            found = pipe.encode_prompt(texts, None, None, device=device, do_classifier_free_guidance=guided)
    text, no_text, pooled, no_pooled = found
    return {"text": text, "pooled": pooled}, {"text": no_text, "pooled": no_pooled} if guided else None
