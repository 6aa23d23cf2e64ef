"""A small real problem for alignment: 8x8 digits, networks that make them, a proxy reward and a gold judge.

Everything trains in minutes on one core, so that claims about methods can be checked with several seeds. The digits are
those of scikit-learn (Alpaydin and Kaynak 1998), 1797 of them; they are made without a prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from diffpolicy.alignment.matching import Matcher
from diffpolicy.alignment.model import Model
from diffpolicy.alignment.reward import Reward, Rewards
from diffpolicy.alignment.roles import CopiedRoles
from diffpolicy.diffusion import GaussianProcess, rectified_flow, trailing

Network = Literal["mlp", "unet"]
NETWORKS: tuple[Network, ...] = get_args(Network)
SIDE, PIXELS, LEVELS = 8, 64, 1000
TRAINING, PROXY_TRAINING = 1200, 600
FREQUENCIES = 16


class Digits(NamedTuple):
    """Pictures (n, 64) in [-1, 1] and their classes (n,): 1200 to train on, 597 to compare with."""

    train: Tensor
    train_class: Tensor
    test: Tensor
    test_class: Tensor


class Measures(NamedTuple):
    """What is said of a set of samples: means, but for `diversity`.

    `proxy` is the reward that is trained on, `gold` the share that the judge takes for the wanted class, `manifold` the
    distance to the nearest real test picture, `diversity` the mean distance between two samples.
    """

    proxy: float
    gold: float
    manifold: float
    diversity: float


def load_digits() -> Digits:
    """Return the digits, shuffled with a fixed seed before they are split.

    Raises:
        ImportError: without scikit-learn, which `pip install diffpolicy[images]` brings.
    """
    from sklearn.datasets import load_digits as load  # type: ignore[import-untyped]  # an optional dependency

    pictures, classes = load(return_X_y=True)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    clean = (torch.as_tensor(pictures, dtype=torch.float32) / 8.0 - 1.0)[order]
    label = torch.as_tensor(classes, dtype=torch.int64)[order]
    return Digits(clean[:TRAINING], label[:TRAINING], clean[TRAINING:], label[TRAINING:])


class DigitsMLP(nn.Module):
    """Predicts the velocity (B, 64) of pictures (B, 64): three layers of 256 SiLU units, 32 features of the time."""

    def __init__(self, generator: torch.Generator, width: int = 256) -> None:
        super().__init__()
        sizes = (PIXELS + 2 * FREQUENCIES, width, width, width)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.SiLU()]
        self.trunk = nn.Sequential(*layers, nn.Linear(width, PIXELS))
        _initialise(self, generator)

    def forward(self, noisy: Tensor, level: Tensor, condition: None = None) -> Tensor:
        """Return the prediction at levels (B,) int64."""
        octaves = 2.0 ** torch.linspace(0.0, 6.0, FREQUENCIES, device=noisy.device)
        phase = ((level + 1.0) / LEVELS)[:, None] * octaves
        velocity: Tensor = self.trunk(torch.cat([noisy, phase.sin(), phase.cos()], dim=1))
        return velocity


class DigitsUNet(nn.Module):
    """Predicts the velocity (B, 1, 8, 8) of pictures (B, 1, 8, 8): a UNet of diffusers, 0.6 M parameters."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        from diffusers import UNet2DModel  # slow to import, and only needed here

        self.unet: Any = UNet2DModel(  # type: ignore[no-untyped-call]
            sample_size=SIDE,
            in_channels=1,
            out_channels=1,
            block_out_channels=(32, 64),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            add_attention=False,
        )
        _initialise(self, generator)

    def forward(self, noisy: Tensor, level: Tensor, condition: None = None) -> Tensor:
        """Return the prediction at levels (B,) int64."""
        velocity: Tensor = self.unet(noisy, level).sample
        return velocity


def make_network(kind: Network, generator: torch.Generator) -> DigitsMLP | DigitsUNet:
    """Return an untrained network whose weights are the generator's.

    Raises:
        ValueError: if there is no such network.
    """
    if kind not in NETWORKS:
        raise ValueError(f"digits are made by one of {', '.join(NETWORKS)}, not {kind!r}")
    return DigitsMLP(generator) if kind == "mlp" else DigitsUNet(generator)


def sample_shape(kind: Network) -> tuple[int, ...]:
    """Return the shape of one sample of a network."""
    return (PIXELS,) if kind == "mlp" else (1, SIDE, SIDE)


def train_base(
    network: nn.Module,
    clean: Tensor,
    generator: torch.Generator,
    updates: int = 6000,
    batch: int = 256,
    learning_rate: float = 1e-3,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train a network on pictures (n, *S) by matching, at levels uniform over the process; Adam, cosine to 0.

    `report` is told the update and its loss.
    """
    process = rectified_flow(LEVELS)
    matcher = Matcher(process, tuple(range(LEVELS)))
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    network.train()
    for update in range(updates):
        rows = torch.randint(len(clean), (batch,), generator=generator)
        (problem,) = matcher.matchings(clean[rows], None, generator)
        loss = problem.error(problem.predict(network)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if report is not None:
            report(update, loss.item())
    network.eval()


def pictures(clean: Tensor) -> Tensor:
    """Return samples (B, *S) in [-1, 1] as images (B, 1, 8, 8) in [0, 1]; a sample beyond stays beyond."""
    return (clean.reshape(-1, 1, SIDE, SIDE) + 1.0) / 2.0


def digits_model(kind: Network, network: nn.Module, steps: int = 10) -> Model:
    """Return a network as a model to be aligned; its sampler takes `steps` steps."""
    process: GaussianProcess = rectified_flow(LEVELS)
    return Model(process, trailing(LEVELS, steps), sample_shape(kind), CopiedRoles(network), decode=pictures)


class DigitLikelihood(Reward):
    """The proxy reward: log-probability of a class under a logistic regression on 600 digits; differentiable.

    It is right on real digits (94 % of the test pictures) and easily fooled by what is none.

    Raises:
        ValueError: if the class is not one from 0 to 9.
    """

    def __init__(self, digits: Digits, wanted: int = 3) -> None:
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

        if not isinstance(wanted, int) or wanted not in range(10):
            raise ValueError(f"a digit is a number from 0 to 9, not {wanted!r}")
        classifier = LogisticRegression(C=0.1, max_iter=2000)
        classifier.fit(digits.train[:PROXY_TRAINING].numpy(), digits.train_class[:PROXY_TRAINING].numpy())
        self.wanted = wanted
        self.weight = torch.as_tensor(classifier.coef_, dtype=torch.float32)
        self.bias = torch.as_tensor(classifier.intercept_, dtype=torch.float32)

    @property
    def differentiable(self) -> bool:
        """Gradients flow to the samples."""
        return True

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        """Return the log-probabilities of images (B, 1, 8, 8)."""
        values = samples.flatten(1) * 2.0 - 1.0
        logits = values @ self.weight.to(values).T + self.bias.to(values)
        return Rewards(logits.log_softmax(1)[:, self.wanted])


@dataclass(frozen=True)
class DigitJudge:
    """The gold standard, never trained on: a support vector machine on 1200 digits, and the real test pictures."""

    digits: Digits
    proxy: DigitLikelihood
    machine: Any

    @staticmethod
    def make(digits: Digits, proxy: DigitLikelihood) -> "DigitJudge":
        """Return the judge of the proxy's class."""
        from sklearn.svm import SVC  # type: ignore[import-untyped]

        machine = SVC(C=10.0).fit(digits.train.numpy(), digits.train_class.numpy())
        return DigitJudge(digits, proxy, machine)

    def utility(self, images: Tensor) -> Tensor:
        """Return the gold standard's decision value (B,) of the wanted class: what labels pairs in secret."""
        values = self.machine.decision_function(_rows(images).numpy())[:, self.proxy.wanted]
        return torch.as_tensor(values, dtype=torch.float32)

    def measure(self, images: Tensor, compared: int = 200) -> Measures:
        """Return what is to be said of images (B, 1, 8, 8); diversity is that of the first `compared`."""
        rows = _rows(images)
        distances = torch.cdist(rows[:compared], rows[:compared])
        count = len(distances)
        return Measures(
            proxy=float(self.proxy(images, ()).total.mean()),
            gold=float((self.machine.predict(rows.numpy()) == self.proxy.wanted).mean()),
            manifold=float(torch.cdist(rows, self.digits.test).min(dim=1).values.mean()),
            diversity=float(distances.sum() / (count * (count - 1))),
        )


class DigitUtility(Reward):
    """The judge's decision value as a reward, for pairs that are labelled by a hidden utility."""

    def __init__(self, judge: DigitJudge) -> None:
        self.judge = judge

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        """Return the utilities of images (B, 1, 8, 8)."""
        return Rewards(self.judge.utility(samples))


def _rows(images: Tensor) -> Tensor:
    return images.detach().float().cpu().flatten(1) * 2.0 - 1.0


@torch.no_grad()
def _initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all matrices anew, uniform within 1/sqrt(inputs) as PyTorch does, from the generator."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            bound = parameter[0].numel() ** -0.5
            parameter.uniform_(-bound, bound, generator=generator)
        elif parameter.abs().sum() > 0 and not (parameter == 1.0).all():  # biases, not the scales of norms
            parameter.zero_()
