"""Tiny pipelines of every kind, with random weights, stored as diffusers stores the large ones."""

import string

import pytest
import torch

KINDS = ("sd", "sdxl", "sd3", "flux", "ddpm")


def clip_tokenizer():
    from transformers import CLIPTokenizer

    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    words = [*letters, "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({word: row for row, word in enumerate(words)}, [], model_max_length=16)


def clip(projection: bool = False, seed: int = 0):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=54,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=16,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def t5(width: int):
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words += [(letter, -1.0) for letter in ("▁", *string.ascii_lowercase)]
    config = T5Config(
        vocab_size=len(words), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0
    )
    return T5EncoderModel(config), T5TokenizerFast(words, extra_ids=0, model_max_length=16)


def autoencoder(channels: int):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.5,
        shift_factor=0.1 if channels == 8 else None,
    )


def unet(**options):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
        **options,
    )


def ddim(**options):
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        steps_offset=1,
        timestep_spacing="trailing",
        **options,
    )


def build(kind: str):
    """Return a pipeline of a kind with random weights."""
    import diffusers

    tokenizer, text = clip_tokenizer(), clip()
    torch.manual_seed(1)
    match kind:
        case "sd":
            return diffusers.StableDiffusionPipeline(
                vae=autoencoder(4),
                text_encoder=text,
                tokenizer=tokenizer,
                unet=unet(cross_attention_dim=16),
                scheduler=ddim(),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        case "sdxl":
            return diffusers.StableDiffusionXLPipeline(
                vae=autoencoder(4),
                text_encoder=text,
                text_encoder_2=clip(projection=True, seed=2),
                tokenizer=tokenizer,
                tokenizer_2=clip_tokenizer(),
                unet=unet(
                    cross_attention_dim=32,
                    addition_embed_type="text_time",
                    addition_time_embed_dim=8,
                    projection_class_embeddings_input_dim=16 + 6 * 8,
                ),
                scheduler=ddim(prediction_type="v_prediction"),
                add_watermarker=False,
            )
        case "sd3":
            encoder, tokens = t5(32)
            transformer = diffusers.SD3Transformer2DModel(
                sample_size=8,
                patch_size=2,
                in_channels=8,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=32,
                caption_projection_dim=16,
                pooled_projection_dim=32,
                out_channels=8,
                pos_embed_max_size=8,
            )
            return diffusers.StableDiffusion3Pipeline(
                transformer=transformer,
                scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
                vae=autoencoder(8),
                text_encoder=clip(projection=True),
                tokenizer=tokenizer,
                text_encoder_2=clip(projection=True, seed=2),
                tokenizer_2=clip_tokenizer(),
                text_encoder_3=encoder,
                tokenizer_3=tokens,
            )
        case "flux":
            encoder, tokens = t5(16)
            transformer = diffusers.FluxTransformer2DModel(
                patch_size=1,
                in_channels=32,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=16,
                pooled_projection_dim=16,
                guidance_embeds=True,
                axes_dims_rope=(4, 4, 8),
            )
            return diffusers.FluxPipeline(
                scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
                vae=autoencoder(8),
                text_encoder=text,
                tokenizer=tokenizer,
                text_encoder_2=encoder,
                tokenizer_2=tokens,
                transformer=transformer,
            )
        case _:
            network = diffusers.UNet2DModel(
                sample_size=8,
                block_out_channels=(16, 32),
                layers_per_block=1,
                down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                attention_head_dim=8,
                norm_num_groups=8,
            )
            return diffusers.DDIMPipeline(network, ddim())


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory):
    """Return a function of a kind that gives the folder of a tiny pipeline, built when it is first asked for."""
    pytest.importorskip("peft")
    pytest.importorskip("transformers")
    folders = {}

    def folder(kind: str):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            with torch.random.fork_rng(devices=[]):
                build(kind).save_pretrained(folders[kind], safe_serialization=True)
        return folders[kind]

    return folder
