"""Checkpoints of small, untrained policies of every kind, for tests of what becomes of them."""

from dataclasses import asdict
from pathlib import Path

import torch

from diffpolicy import training
from diffpolicy.data import OfflineDataset, Standardizer
from diffpolicy.policies import DiffusionConfig, FisorConfig, FisorLearner
from diffpolicy.policies.actors import ActorConfig
from diffpolicy.policies.calibration import Calibration, Residual
from diffpolicy.policies.chunk_config import ConditioningConfig, EncoderConfig, NetworkConfig, ProcessConfig
from diffpolicy.policies.chunk_model import ChunkModel
from diffpolicy.policies.gaussian import GaussianConfig, GaussianNetwork, gaussian_manifest
from diffpolicy.policies.picture_gaussian import PictureGaussianConfig, PictureNetwork, picture_manifest
from diffpolicy.safety import CriticConfig
from envs.layout import Layout
from envs.pusht import STATE_TASK

DATA = {"file": "toy.npz", "sha256": "d" * 64}
NETWORKS = {
    "mlp": NetworkConfig("mlp", hidden=[16], step_embedding=8),
    "unet": NetworkConfig("unet", channels=[8, 16], groups=4, kernel=3, step_embedding=8),
    "transformer": NetworkConfig("transformer", layers=1, heads=2, width=16),
}
GEOMETRIC = ConditioningConfig("edm", relative=True, dct=True, features="geometric", newest_only=True)
PLAIN = ConditioningConfig("v")
GUARDED = "rti_1_0_from_ddim_1_guard@1"


def chunk_checkpoint(
    folder: Path,
    network: str = "mlp",
    conditioning: ConditioningConfig = GEOMETRIC,
    *,
    discrete: tuple[int, ...] = (),
    camera: bool = False,
) -> Path:
    """Write a chunk model for Push-T that was fitted to random windows, with thresholds for `GUARDED`."""
    cameras = ["camera"] if camera else []
    config = DiffusionConfig(
        2,
        8,
        4,
        cameras,
        NETWORKS[network],
        ProcessConfig(levels=20),
        conditioning,
        EncoderConfig("resnet_small", 8, 32),  # of a smaller crop one place would be left, which says nothing
    )
    layout = Layout(discrete=discrete) if discrete else STATE_TASK.layout
    drawn = torch.Generator().manual_seed(0)
    model = ChunkModel(config, 5, 2, layout, drawn)
    corners = torch.rand(200, 1, 5, generator=drawn) * torch.tensor([400.0, 400.0, 400.0, 400.0, 6.0]) + 50.0
    states = corners + torch.randn(200, 2, 5, generator=drawn)
    actions = torch.rand(200, 8, 2, generator=drawn) * 1.6 - 0.8
    actions[..., list(discrete)] = actions[..., list(discrete)].sign()
    model.fit(states, actions)
    with torch.no_grad():  # layers that begin at zero would hide what they are given
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=drawn))
    manifest = {
        "method": "diffusion",
        "seed": 0,
        "layout": asdict(layout),
        "observation_size": 5,
        "action_size": 2,
        "cameras": {name: [40, 40] for name in cameras},
        "task": "PushT-v0",
        "data": DATA,
    }
    stored = {"policy": asdict(config)}
    path = training.write_checkpoint(
        folder, 1, model=model.state_dict(), state={}, config=stored, manifest=manifest
    )
    limit = Residual(median=0.05, limit=0.13, patience=3)
    usual = ((2.0, 2.0, 2.0, 2.0, 0.1), (4.0, 4.0, 4.0, 4.0, 0.2))
    ones = (1.0, 1.0)
    Calibration(1, ones, ones, ones, (0.1,), (0.5,), usual, 8.0, (4,), {GUARDED: limit}).save(
        path / "calibration.json"
    )
    return folder


def fisor_checkpoint(folder: Path) -> Path:
    """Write FISOR's actors and critics for the point robot, of two training seeds."""
    drawn = torch.Generator().manual_seed(0)
    index = torch.arange(300)
    dataset = OfflineDataset(
        observations=torch.randn(600, 11, generator=drawn) * 2.0 + 1.0,
        rows=2 * index,
        actions=torch.rand(300, 2, generator=drawn) * 2.0 - 1.0,
        rewards=torch.rand(300, generator=drawn),
        costs=(torch.rand(300, generator=drawn) > 0.7).float(),
        terminals=torch.ones(300, dtype=torch.bool),
        timeouts=torch.zeros(300, dtype=torch.bool),
        episode_ends=index + 1,
    )
    config = FisorConfig(
        actors=["none", "fisor"],
        standardize=True,
        critic=CriticConfig(hidden=[16]),
        actor=ActorConfig(hidden=[16, 16], diffusion_steps=3),
    )
    learner = FisorLearner(
        dataset, config, [0, 3], 1.0, torch.device("cpu"), {"task": "PointRobot-v0", "data": DATA}
    )
    stored = {"policy": {"actor": vars(config.actor), "critic": vars(config.critic)}}
    training.write_checkpoint(
        folder, 1, model=learner.model(), state={}, config=stored, manifest=learner.manifest()
    )
    return folder


def gaussian_checkpoint(folder: Path) -> Path:
    """Write a Gaussian policy for the point robot."""
    standardizer = Standardizer(torch.ones(11), torch.full((11,), 2.0))
    config = GaussianConfig([16], 0.2)
    network = GaussianNetwork(standardizer, 2, config.hidden, torch.Generator().manual_seed(0))
    manifest = gaussian_manifest(network, config, 0, task="PointRobot-v0", data=DATA)
    training.write_checkpoint(folder, 1, model=network.state_dict(), state={}, config={}, manifest=manifest)
    return folder


def picture_checkpoint(folder: Path) -> Path:
    """Write a Gaussian policy for the point robot that sees nothing but pictures of 8 x 8 pixels."""
    config = PictureGaussianConfig([16], 0.2, features=6, size=8, camera="top")
    network = PictureNetwork(config, 2, torch.Generator().manual_seed(0))
    manifest = picture_manifest(network, config, 0, task="PointRobot-v0", data=DATA)
    training.write_checkpoint(folder, 1, model=network.state_dict(), state={}, config={}, manifest=manifest)
    return folder
