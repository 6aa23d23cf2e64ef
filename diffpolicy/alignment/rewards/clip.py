"""CLIP as a reward: how near an image is to its prompt, as such and as trained on what people prefer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from diffpolicy.alignment.reward import Reward, Rewards
from diffpolicy.alignment.rewards.images import prepare
from diffpolicy.alignment.rewards.open_clip import from_open_clip
from diffpolicy.alignment.rewards.pretrained import from_pretrained, frozen, load, weights


@dataclass(frozen=True)
class CLIP:
    """A frozen CLIP of the transformers library and its tokenizer (Radford et al. 2021)."""

    model: Any
    tokenizer: Any

    @classmethod
    def from_folder(
        cls, path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Self:
        """Return the CLIP of a folder in transformers' format, tokenizer included, or of a hub id.

        Raises:
            FeedbackError: if it is not there.
        """
        what = "a CLIP in transformers' format with its tokenizer (openai/clip-vit-large-patch14, say)"
        model = from_pretrained("CLIPModel", path, what)
        return cls(frozen(model, device, dtype), from_pretrained("CLIPTokenizer", path, what))

    def images(self, images: Tensor) -> Tensor:
        """Return embeddings (B, D) float32 of length 1 of images (B, C, H, W) in [0, 1]; differentiable."""
        pixels = prepare(images.float(), self.model.config.vision_config.image_size)
        seen = self.model.vision_model(pixel_values=pixels.to(self.model.dtype)).pooler_output
        return F.normalize(self.model.visual_projection(seen).float(), dim=1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings (B, D) float32 of length 1 of texts, each cut to what the model takes (77 tokens)."""
        tokens = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.model.device)
        read = self.model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return F.normalize(self.model.text_projection(read.pooler_output).float(), dim=1)


@dataclass(frozen=True)
class CLIPReward(Reward):
    """`scale cos(image, prompt)` of CLIP's embeddings; differentiable. Labels are the prompts."""

    clip: CLIP
    scale: float = 1.0

    @classmethod
    def from_folder(
        cls, path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Self:
        """Return the reward of the CLIP in a folder or of a hub id.

        Raises:
            FeedbackError: if it is not there.
        """
        return cls(CLIP.from_folder(path, device, dtype))

    @property
    def differentiable(self) -> bool:
        """It is."""
        return True

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        """Return the rewards of images (B, C, H, W) in [0, 1] for their prompts."""
        known = sorted({str(label) for label in labels})
        rows = torch.tensor([known.index(str(label)) for label in labels], device=samples.device)
        texts = self.clip.texts(known).to(samples.device)[rows]
        return Rewards(self.scale * (self.clip.images(samples) * texts).sum(1))


class PickScore(CLIPReward):
    """CLIP-H trained on choices between images, `exp(logit scale) cos`, about 20 (Kirstain et al. 2023, eq. 2)."""

    @classmethod
    def from_folder(
        cls, path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Self:
        """Return PickScore from a folder with yuvalkirstain/PickScore_v1 and a CLIP tokenizer, or from a hub id.

        Raises:
            FeedbackError: if it is not there.
        """
        clip = CLIP.from_folder(path, device, dtype)
        return cls(clip, clip.model.logit_scale.float().exp().item())


class HPSReward(CLIPReward):
    """CLIP-H trained on people's rankings: the cosine, about 0.25 (HPS v2, Wu et al. 2023)."""

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        checkpoint: str | Path | None = None,
    ) -> Self:
        """Return HPS v2 from a CLIP folder or hub id, its weights replaced by those of a `checkpoint` if given.

        The folder is a ViT-H/14 in transformers' format (laion/CLIP-ViT-H-14-laion2B-s32B-b79K) and the checkpoint the
        published file in open_clip's names (HPS_v2_compressed.pt or HPS_v2.1_compressed.pt). Without one the folder
        holds HPS v2 itself, converted before.

        Raises:
            FeedbackError: if something is not there, or the checkpoint is that of another network.
        """
        clip = CLIP.from_folder(path, device, dtype)
        if checkpoint is not None:
            what = "the checkpoint of HPS v2"
            load(clip.model, from_open_clip(weights(checkpoint, what)), what)
        return cls(clip)
