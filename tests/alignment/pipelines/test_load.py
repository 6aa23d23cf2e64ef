import json
import shutil

import diffusers
import pytest
import torch

from diffpolicy.alignment.pipelines import load_pipeline
from diffpolicy.alignment.pipelines.networks import pack_latents, unpack_latents
from diffpolicy.diffusion import Sampler, StepRule, sample_path, step_log_probs

PROMPTS = ["a red cat", "a dog"]
STEPS = 4
TEXT = ("sd", "sdxl", "sd3", "flux")


def load(folder, **options):
    return load_pipeline(folder, prompts=PROMPTS, steps=STEPS, **options)


def start_of(model, count=2):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, count, *model.shape, generator=generator)
    return noise, model.process.noise_at(model.levels[0]) * noise[0]


def sample(model, role="train", guided=True):
    noise, start = start_of(model)
    condition = model.prompts.condition(torch.arange(2) % len(model.prompts), guided)
    sampler = Sampler(model.process, "ddim", model.levels)
    with torch.no_grad():
        return sampler.sample(model.roles[role], condition, noise, start)


def plain(folder, kind, start, guidance, output="latent"):
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    latents = pack_latents(start) if kind == "flux" else start
    made = pipe(
        PROMPTS,
        latents=latents,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        output_type=output,
        height=16,
        width=16,
    ).images
    packed = kind == "flux" and output == "latent"
    return unpack_latents(made, *(side // 2 for side in start.shape[2:])) if packed else made


@pytest.mark.parametrize("kind", TEXT)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_samples_are_those_of_the_pipeline(tiny_pipeline, kind, guidance):
    folder = tiny_pipeline(kind)
    model = load(folder, guidance=guidance, size=16)
    _, start = start_of(model)
    # The text encoder of FLUX is no part of the guidance; that of the others doubles the batch above 1.
    condition = model.prompts.condition(torch.arange(2), guided=True)
    assert ("negative" in condition) == (kind != "flux" and guidance > 1.0)
    clean = sample(model)
    expected = plain(folder, kind, start, guidance)
    assert (clean - expected).abs().max() < 1e-4 * expected.abs().max()
    images = torch.as_tensor(plain(folder, kind, start, guidance, "np")).permute(0, 3, 1, 2)
    assert (model.decode(clean) - images).abs().max() < 1e-4
    assert images.std() > 0.01


def test_an_unconditional_pipeline_samples_the_same(tiny_pipeline):
    folder = tiny_pipeline("ddpm")
    model = load_pipeline(folder, steps=STEPS)
    _, start = start_of(model)
    pipe = diffusers.DDIMPipeline.from_pretrained(folder)
    noisy = start
    pipe.scheduler.set_timesteps(STEPS)
    for time in pipe.scheduler.timesteps:
        with torch.no_grad():
            noisy = pipe.scheduler.step(pipe.unet(noisy, time).sample, time, noisy).prev_sample
    torch.testing.assert_close(sample(model), noisy, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="cannot answer prompts"):
        load(folder)


def test_guidance_is_left_out_where_it_is_not_asked_for(tiny_pipeline):
    model = load(tiny_pipeline("sd"), guidance=4.0)
    noisy = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(3))
    level, index = torch.tensor([500, 20]), torch.tensor([1, 0])
    with torch.no_grad():
        plain, guided = (
            model.roles["reference"](noisy, level, model.prompts.condition(index, each))
            for each in (False, True)
        )
        empty = load_pipeline(tiny_pipeline("sd"), prompts=["", ""], guidance=1.0)
        without = empty.roles["reference"](noisy, level, empty.prompts.condition(index, True))
    torch.testing.assert_close(guided, without + 4.0 * (plain - without), rtol=1e-4, atol=1e-5)
    assert model.prompts.labels(index) == ["a dog", "a red cat"]


@pytest.mark.parametrize("kind", ["sd", "sd3"])
def test_in_half_precision_the_ratio_is_1_to_the_bit(tiny_pipeline, kind):
    model = load(tiny_pipeline(kind), dtype="bfloat16")
    rule = StepRule("ddim" if kind == "sd" else "flow_sde")
    _, start = start_of(model)
    condition = model.prompts.condition(torch.arange(2), guided=True)
    generator = torch.Generator().manual_seed(0)
    train = model.roles["train"]
    path = sample_path(model.process, rule, model.levels, train, condition, generator, start)
    assert path.states.dtype == torch.float32
    for index in range(STEPS - 1):
        log_prob, _ = step_log_probs(model.process, rule, train, condition, path, index)
        assert torch.equal(log_prob, path.log_probs[index])
        assert log_prob.requires_grad
    model.roles.add("old")
    again = sample_path(
        model.process,
        rule,
        model.levels,
        model.roles["old"],
        condition,
        torch.Generator().manual_seed(0),
        start,
    )
    assert torch.equal(again.states, path.states)


@pytest.mark.parametrize("kind", ["sd", "flux"])
def test_checkpointing_changes_no_gradient(tiny_pipeline, kind):
    gradients = []
    for checkpointing in (False, True):
        model = load(tiny_pipeline(kind), checkpointing=checkpointing, size=16)
        model.roles.add("old")
        for parameter in model.roles.parameters():
            parameter.data.add_(0.05)
        _, start = start_of(model)
        condition = model.prompts.condition(torch.arange(2), guided=True)
        level = torch.full((2,), model.levels[1])
        prediction = model.roles["train"](start, level, condition)
        with torch.no_grad():
            old = model.roles["old"](start, level, condition)
        clean = model.process.to_clean(prediction, start, level)
        (model.decode(clean).mean() + (prediction - old).square().mean()).backward()
        gradients.append([parameter.grad for parameter in model.roles.parameters()])
    assert sum(gradient.abs().sum() for gradient in gradients[0]) > 0.0
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-7)


def edited(folder, tmp_path, name, **changes):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps(config | changes))
    return copy


def test_what_cannot_be_loaded_is_said(tiny_pipeline, tmp_path):
    with pytest.raises(FileNotFoundError, match="no diffusers pipeline"):
        load(tmp_path)
    folder = tiny_pipeline("sd")
    with pytest.raises(ValueError, match="multiples of 2 pixels"):
        load(folder, size=15)
    with pytest.raises(ValueError, match="give prompts, one or more"):
        load_pipeline(folder)
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        load(folder, dtype="float16")
    other = edited(folder, tmp_path, "model_index.json", _class_name="KandinskyPipeline")
    with pytest.raises(ValueError, match="KandinskyPipeline; pipelines that can be aligned"):
        load(other)


def test_schedulers_without_a_gaussian_process_are_refused(tiny_pipeline, tmp_path):
    index = json.loads((tiny_pipeline("sd") / "model_index.json").read_text())
    for number, (name, message) in enumerate(
        [("LCMScheduler", "consistency model"), ("EDMEulerScheduler", "neither betas nor the straight path")]
    ):
        copy = tmp_path / str(number)
        shutil.copytree(tiny_pipeline("sd"), copy)
        (copy / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", name]}))
        getattr(diffusers, name)().save_pretrained(copy / "scheduler")
        with pytest.raises(ValueError, match=message):
            load(copy)


def test_weights_in_pickles_are_never_read(tiny_pipeline, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_pipeline("sd"), copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(FileNotFoundError, match="not stored as safetensors"):
        load(copy)
