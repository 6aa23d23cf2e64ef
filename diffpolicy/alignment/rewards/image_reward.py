"""ImageReward: what people say of an image and its prompt, by a BLIP that reads the prompt while it looks."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from diffpolicy.alignment.reward import Reward, Rewards
from diffpolicy.alignment.rewards.aesthetic import ScoreHead
from diffpolicy.alignment.rewards.images import prepare
from diffpolicy.alignment.rewards.pretrained import from_pretrained, frozen, load, transformers, weights
from diffpolicy.training.errors import FeedbackError

MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the raw scores, as published with the weights
TOKENS = 35
HEAD_WIDTH = 64  # of an attention head in BLIP's vision transformers, base and large
WHAT = "ImageReward (ImageReward.pt and med_config.json of THUDM/ImageReward, vocab.txt of bert-base-uncased)"

_VISION = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.": "embeddings.patch_embedding.",
    "norm.": "post_layernorm.",
}
_BLOCK = {
    "norm1.": "layer_norm1.",
    "norm2.": "layer_norm2.",
    "attn.qkv.": "self_attn.qkv.",
    "attn.proj.": "self_attn.projection.",
    "mlp.": "mlp.",
}


@dataclass(frozen=True)
class ImageReward(Reward):
    """The published score of an image for its prompt, of mean 0 and deviation 1; differentiable (Xu et al. 2023).

    The head reads the first token of a BERT that attends to BLIP's image tokens. Prompts are cut to 35 tokens.
    """

    vision: Any
    text: Any
    head: ScoreHead
    tokenizer: Any

    @classmethod
    def from_folder(
        cls, path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Self:
        """Return ImageReward from a folder with ImageReward.pt, med_config.json and BERT's vocab.txt.

        The checkpoint is the published one, read without pickle, its names put in those of transformers' BLIP.

        Raises:
            FeedbackError: if a file is not there, or holds something else.
        """
        folder = Path(path).expanduser()
        missing = [
            name
            for name in ("ImageReward.pt", "med_config.json", "vocab.txt")
            if not (folder / name).is_file()
        ]
        if missing:
            raise FeedbackError(f"{folder} lacks {', '.join(missing)}: download {WHAT} to it")
        found = weights(folder / "ImageReward.pt", WHAT)
        vision = _part(found, "blip.visual_encoder.")
        text = _part(found, "blip.text_encoder.")
        text.pop("embeddings.position_ids", None)  # a constant that is not stored here
        head = _part(found, "mlp.")
        if not vision or not text or not head:
            raise FeedbackError(
                f"{folder / 'ImageReward.pt'} is not {WHAT}: it lacks BLIP's parts or the head"
            )
        library = transformers()
        blip = library.models.blip
        seeing = blip.modeling_blip.BlipVisionModel(library.BlipVisionConfig(**_vision_sizes(vision)))
        reading = blip.modeling_blip_text.BlipTextModel(
            library.BlipTextConfig(
                **_text_sizes(folder / "med_config.json"), encoder_hidden_size=_width(vision)
            ),
            add_pooling_layer=False,
        )
        scoring = ScoreHead(reading.config.hidden_size)
        load(seeing, _renamed(vision), WHAT)
        load(reading, text, WHAT)
        load(scoring, head, WHAT)
        frozen(scoring, device, torch.float32)
        tokenizer = from_pretrained("BertTokenizer", folder, WHAT)
        return cls(frozen(seeing, device, dtype), frozen(reading, device, dtype), scoring, tokenizer)

    @property
    def differentiable(self) -> bool:
        """It is."""
        return True

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        """Return the scores of images (B, C, H, W) in [0, 1] for their prompts."""
        pixels = prepare(samples.float(), self.vision.config.image_size)
        seen = self.vision(pixel_values=pixels.to(self.vision.dtype)).last_hidden_state
        tokens = self.tokenizer(
            [str(label) for label in labels],
            padding="max_length",
            truncation=True,
            max_length=TOKENS,
            return_tensors="pt",
        ).to(seen.device)
        read = self.text(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        ).last_hidden_state[:, 0]
        return Rewards((self.head(read.float()) - MEAN) / STD)


def _part(found: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


def _renamed(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of timm's vision transformer in the names of transformers' BLIP."""
    made = {}
    for name, value in found.items():
        if name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            prefix, names = f"encoder.layers.{layer}.", _BLOCK
        else:
            prefix, rest, names = "", name, _VISION
        for old, new in names.items():
            if rest.startswith(old):
                made[prefix + new + rest.removeprefix(old)] = value
                break
        else:
            raise FeedbackError(f"{name!r} is not a weight of ImageReward's vision transformer")
    return made


def _width(vision: dict[str, Tensor]) -> int:
    return vision["cls_token"].shape[-1]


def _vision_sizes(vision: dict[str, Tensor]) -> dict[str, Any]:
    """Return the configuration of a vision transformer, as its weights tell it."""
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    if any(name not in vision for name in needed):
        raise FeedbackError(f"this is not {WHAT}: its vision transformer is incomplete")
    patch = vision["patch_embed.proj.weight"].shape[-1]
    side = round((vision["pos_embed"].shape[1] - 1) ** 0.5)
    return {
        "hidden_size": _width(vision),
        "intermediate_size": len(vision["blocks.0.mlp.fc1.weight"]),
        "num_hidden_layers": 1
        + max(int(name.split(".")[1]) for name in vision if name.startswith("blocks.")),
        "num_attention_heads": _width(vision) // HEAD_WIDTH,
        "image_size": side * patch,
        "patch_size": patch,
        "layer_norm_eps": 1e-6,
    }


def _text_sizes(file: Path) -> dict[str, Any]:
    """Return the configuration of the text transformer."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    try:
        given = json.loads(file.read_text())
        return {name: int(given[name]) for name in names} | {
            "max_position_embeddings": int(given["max_position_embeddings"]),
            "layer_norm_eps": float(given["layer_norm_eps"]),
        }
    except (ValueError, KeyError, TypeError) as error:
        raise FeedbackError(f"{file} is not the med_config.json of ImageReward: {error!r}") from error
