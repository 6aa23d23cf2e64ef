"""The done-when of image alignment: rewards rise through the real pipeline classes, and stay in plain diffusers."""

import diffusers
import pytest
import torch
from torch import nn

from diffpolicy.alignment.experience import Online, OnlineConfig
from diffpolicy.alignment.objectives.ddpo import DDPO, DDPOConfig
from diffpolicy.alignment.objectives.draft_k import DRaFTK, DRaFTKConfig
from diffpolicy.alignment.pipelines import load_pipeline, save_adapter
from diffpolicy.alignment.rewards.classifier import ClassifierReward
from diffpolicy.alignment.rewards.jpeg import JPEGSize
from diffpolicy.alignment.trainer import AlignConfig, Aligner, Term
from diffpolicy.diffusion import Sampler, StepRule

PROMPTS = ["a red cat", "a dog"]
FRESH = 96
# Attention is a small part of a network with random weights, so its convolutions are adapted as well.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_out")


def load(folder, guidance):
    return load_pipeline(folder, prompts=PROMPTS, steps=4, guidance=guidance, lora_targets=TARGETS)


def fresh_images(model):
    """Return images made from noise that no roll-out has seen, and their prompts, the same in every call."""
    noise = torch.randn(1, FRESH, *model.shape, generator=torch.Generator().manual_seed(999))
    index = torch.arange(FRESH) % len(PROMPTS)
    condition = model.prompts.condition(index, guided=True)
    with torch.no_grad():
        sampler = Sampler(model.process, "ddim", model.levels)
        images = model.decode(sampler.sample(model.roles["train"], condition, noise))
    return images, model.prompts.labels(index), model.process.noise_at(model.levels[0]) * noise[0]


def improve(model, reward, objective, seed, iterations, group_size):
    """Align a model; return its rewards (FRESH,) before and after."""
    online = Online(model, reward, objective, OnlineConfig(groups=2, group_size=group_size))
    # One update of each roll-out: DDPO's clip leaves little of a second one at this learning rate.
    config = AlignConfig(iterations=iterations, updates=1, learning_rate=1e-2, seed=seed)
    aligner = Aligner(model, [Term(objective, online)], config)
    reference = model.roles.checksum("reference")
    before = reward(*fresh_images(model)[:2]).total
    for step in range(aligner.total_steps):
        aligner.update(step)
    assert model.roles.checksum("reference") == reference
    return before, reward(*fresh_images(model)[:2]).total


def standard_error(before, after):
    """Of the difference of two means, as if they had not been taken on the same noise."""
    return ((before.var() + after.var()) / FRESH).sqrt()


@pytest.mark.parametrize("seed", [0, 1])
def test_ddpo_makes_images_smaller_as_jpeg(tiny_pipeline, seed):
    model = load(tiny_pipeline("sd"), guidance=1.0)  # half the cost
    objective = DDPO(model.process, StepRule("ddim"), DDPOConfig())
    before, after = improve(model, JPEGSize(), objective, seed, iterations=14, group_size=32)
    assert after.mean() - before.mean() > 3.0 * standard_error(before, after)


@pytest.mark.parametrize("seed", [0, 1])
def test_draft_follows_a_classifier_and_plain_diffusers_keeps_what_was_learnt(tiny_pipeline, tmp_path, seed):
    model = load(tiny_pipeline("sd"), guidance=2.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        classifier = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(128, 4),
        ).requires_grad_(False)
    reward = ClassifierReward(classifier, {PROMPTS[0]: 1, PROMPTS[1]: 2})
    objective = DRaFTK(model, reward, DRaFTKConfig(steps=1))
    before, after = improve(model, reward, objective, seed, iterations=20, group_size=4)
    assert after.mean() - before.mean() > 3.0 * standard_error(before, after)

    save_adapter(model, tmp_path)
    images, labels, start = fresh_images(model)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny_pipeline("sd"))
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(tmp_path)
    options = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "pt"}
    plain = pipe(labels, latents=start, **options).images
    assert (plain - images).abs().max() < 1e-4
    in_memory = diffusers.StableDiffusionPipeline.from_pretrained(
        tiny_pipeline("sd"), unet=model.roles.network
    )
    in_memory.set_progress_bar_config(disable=True)
    assert torch.equal(in_memory(labels, latents=start, **options).images, plain)
    torch.testing.assert_close(reward(plain, labels).total, after, rtol=1e-3, atol=1e-3)
