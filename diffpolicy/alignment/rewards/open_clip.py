"""The names that open_clip gives to CLIP's weights, in those of the transformers library."""

from torch import Tensor

from diffpolicy.training.errors import FeedbackError

# By tower: the prefix there, here, and what lies around the blocks.
_TOWERS = {
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "transformer.resblocks.": "text_model.encoder.layers.",
}
_AROUND = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
_TRANSPOSED = ("visual.proj", "text_projection")  # applied from the right there
_BLOCK = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "attn.out_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}


def from_open_clip(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a CLIP with two transformers (ViT-B, -L, -H, -g) in transformers' names.

    open_clip keeps queries, keys and values in one matrix, and the projections transposed.

    Raises:
        FeedbackError: if a name is not one of open_clip's.
    """
    made: dict[str, Tensor] = {}
    for name, value in found.items():
        if name in _AROUND:
            made[_AROUND[name]] = value.T.contiguous() if name in _TRANSPOSED else value
        elif name != "attn_mask":  # a constant that is not stored here
            made |= _block(name, value)
    return made


def _block(name: str, value: Tensor) -> dict[str, Tensor]:
    for there, here in _TOWERS.items():
        if not name.startswith(there):
            continue
        layer, _, rest = name.removeprefix(there).partition(".")
        if rest.startswith("attn.in_proj_"):
            kind = rest.removeprefix("attn.in_proj_")
            parts = zip("qkv", value.chunk(3), strict=True)
            return {f"{here}{layer}.self_attn.{part}_proj.{kind}": rows.clone() for part, rows in parts}
        for old, new in _BLOCK.items():
            if rest.startswith(old):
                return {f"{here}{layer}.{new}{rest.removeprefix(old)}": value}
    raise FeedbackError(f"{name!r} is not a weight of a CLIP in open_clip's names")
