"""The suite `world4rl` from pixels: demonstrated, cloned and refined by pictures alone, in a world model of pixels.

The same steps as from states (`world4rl_runs`), with the options of the block `pixels` in the place of theirs.
"""

from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

import envs
from diffpolicy import training
from diffpolicy.cli import pixel_world_model
from diffpolicy.cli.common import compute_device
from diffpolicy.cli.config import build
from diffpolicy.cli.pixel_data import with_camera
from diffpolicy.cli.refine_world import World
from diffpolicy.cli.suites.world4rl_runs import (
    cloned,
    collected,
    described,
    folder,
    kind,
    last,
    plain,
    refined,
    until_success,
)
from diffpolicy.collection.pictures import collect_pictures
from diffpolicy.policies.picture_gaussian import PictureGaussianConfig, load_picture_gaussian
from diffpolicy.refinement import BranchValueConfig, PictureCloneConfig, picture_cloner, picture_values
from world_models import load_pixel_world_model

UNUSED = {
    "play": {"episodes": 0, "judged": 0},
    "film": {"starts": 0},
}  # of the training of pixel world models


def options(cfg: DictConfig, name: str) -> DictConfig:
    """Return the suite's options, those of `pixels` in the place of theirs, and what is said of this task."""
    return OmegaConf.create({**plain(cfg), **plain(cfg.pixels), **(plain(cfg.pixels.tasks)[name] or {})})


def demonstrations(cfg: DictConfig, task: envs.Task, seed: int) -> Path:
    """Return the file of a seed's demonstrations by the task's expert, with their pictures; made if it is missing."""
    experts = {"expert": cfg.demonstrations, "driven": 0, "noisy": 0, "uniform": 0, "held": 0}
    path = folder(cfg, task, seed) / "demonstrations.npz"
    return collected(cfg, task, path, seed, {**experts, "horizon": cfg.expert_steps}, make=collect_pictures)


def clone(cfg: DictConfig, task: envs.Task, seed: int) -> Path:
    """Train a seed's clone of its demonstrations by their pictures, unless that is done; return its run."""
    path = demonstrations(cfg, task, seed)
    policy = build(PictureGaussianConfig, cfg.gaussian, "pixels.gaussian")
    config = build(PictureCloneConfig, cfg.clone, "pixels.clone")
    dataset, description = with_camera(task, path, policy.camera), described(task, path)
    learner = picture_cloner(dataset, policy, config, seed, compute_device(cfg), description)
    return cloned(cfg, task, seed, path, learner, policy, config)


def roll_outs(cfg: DictConfig, task: envs.Task, seed: int) -> Path:
    """Return the file of the demonstrations together with roll-outs of the clone, noise and random actions."""
    driver, path = clone(cfg, task, seed), folder(cfg, task, seed) / f"{kind(cfg)}.npz"
    by = {"expert": 0, "driver": str(driver), "arm": "sampled", "horizon": cfg.horizon}
    begun = demonstrations(cfg, task, seed)
    return collected(cfg, task, path, 1000 + seed, {**plain(cfg.mixture), **by}, begun, collect_pictures)


def load(cfg: DictConfig, task: envs.Task, seed: int) -> World:
    """Return a seed's frozen world model, trained unless that is done, and its data."""
    path, device = roll_outs(cfg, task, seed), compute_device(cfg)
    run = folder(cfg, task, seed) / f"world-{kind(cfg)}"
    changed = {"task": task.id, "data": str(path), "seed": seed, "run": str(run)}
    best = pixel_world_model.train(OmegaConf.create({**plain(cfg), **UNUSED, **changed}))
    checkpoint = training.read_checkpoint(best)
    manifest, dataset = checkpoint.manifest, with_camera(task, path, cfg.world_model.camera)
    unseen = torch.zeros(dataset.num_episodes, dtype=torch.bool)
    unseen[torch.tensor(manifest["held_out"]["episodes"])] = True
    return World(
        task,
        dataset,
        path.name,
        manifest["data"]["sha256"],
        load_pixel_world_model(checkpoint, device),
        manifest["sha256"]["model.safetensors"],
        unseen[dataset.episode_of].nonzero().flatten(),
    )


def refine(cfg: DictConfig, task: envs.Task, seed: int, arm: str) -> Path:
    """Refine a seed's clone for success in its world model, unless that is done; return the run."""
    world, start = load(cfg, task, seed), training.read_checkpoint(last(clone(cfg, task, seed)))
    network = load_picture_gaussian(start, world.device)
    policy = replace(build(PictureGaussianConfig, cfg.gaussian, "pixels.gaussian"), std=cfg.std)
    values = picture_values(
        until_success(world.dataset),
        network.encoder,
        policy.camera,
        build(BranchValueConfig, cfg.value, "value"),
        seed,
        world.device,
    )
    return refined(cfg, world, network, policy, values, start, seed, arm)
