import diffusers
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from diffpolicy.alignment.model import Model
from diffpolicy.alignment.pipelines import load_pipeline, save_adapter
from diffpolicy.alignment.pipelines.networks import pack_latents
from diffpolicy.alignment.roles import CopiedRoles
from diffpolicy.diffusion import Sampler, rectified_flow

PROMPTS = ["a red cat", "a dog"]
STEPS = 4
GUIDANCE = 3.0
PARTS = {"sd": "unet", "sdxl": "unet", "sd3": "transformer", "flux": "transformer"}


def pipeline(folder, kind, start, network=None, adapter=None):
    """Return the images (B, 3, H, W) of a plain pipeline, with a network or a stored adapter put into it."""
    parts = {} if network is None else {PARTS[kind]: network}
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, **parts)
    pipe.set_progress_bar_config(disable=True)
    if adapter is not None:
        pipe.load_lora_weights(adapter)
    return pipe(
        PROMPTS,
        latents=pack_latents(start) if kind == "flux" else start,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        output_type="pt",
        height=16,
        width=16,
    ).images


@pytest.mark.parametrize("kind", PARTS)
def test_plain_diffusers_makes_identical_images_with_a_stored_adapter(tiny_pipeline, tmp_path, kind):
    folder = tiny_pipeline(kind)
    model = load_pipeline(
        folder, prompts=PROMPTS, steps=STEPS, guidance=GUIDANCE, size=16, lora_rank=4, lora_alpha=8.0
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in model.roles.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    noise = torch.randn(1, 2, *model.shape, generator=generator)
    start = model.process.noise_at(model.levels[0]) * noise[0]
    model.roles.add("old")
    file = save_adapter(model, tmp_path)
    assert file.is_file()

    reloaded = pipeline(folder, kind, start, adapter=tmp_path)
    in_memory = pipeline(folder, kind, start, network=model.roles.network)
    assert torch.equal(reloaded, in_memory)
    assert (reloaded - pipeline(folder, kind, start)).abs().max() > 0.01

    with torch.no_grad():
        condition = model.prompts.condition(torch.arange(2), guided=True)
        clean = Sampler(model.process, "ddim", model.levels).sample(
            model.roles["train"], condition, noise, start
        )
        assert (model.decode(clean) - reloaded).abs().max() < 1e-4


def test_any_role_can_be_stored_but_the_reference(tiny_pipeline, tmp_path):
    model = load_pipeline(tiny_pipeline("sd"), prompts=PROMPTS)
    model.roles.add("ema")
    ema = load_file(save_adapter(model, tmp_path / "ema", "ema"))
    train = load_file(save_adapter(model, tmp_path / "train"))
    assert ema.keys() == train.keys()
    assert all(torch.equal(ema[key], tensor) for key, tensor in train.items())
    for role in ("reference", "old"):
        with pytest.raises(ValueError, match=f"no adapter plays the role '{role}'"):
            save_adapter(model, tmp_path, role)


def test_what_plain_diffusers_could_not_load_is_not_stored(tiny_pipeline, tmp_path):
    with pytest.raises(ValueError, match="not of UNet2DModel"):
        save_adapter(load_pipeline(tiny_pipeline("ddpm")), tmp_path)
    copies = Model(rectified_flow(4), (3, 1), (2,), CopiedRoles(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="this one has CopiedRoles"):
        save_adapter(copies, tmp_path)
    assert not list(tmp_path.iterdir())
