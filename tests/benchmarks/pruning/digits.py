"""Scikit-learn's digits, shifted and noisy, and two networks of Linen whose widths are those of their variables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

NOISE, COPIES = 0.2, 4
Examples = tuple[NDArray[np.float32], NDArray[np.int64]]


def splits() -> dict[str, Examples]:
    """600 images for training as they are; 400 and 797 for validation and test, each in four disturbed copies."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    rest, test, of_rest, of_test = train_test_split(images, labels, test_size=797, random_state=0, stratify=labels)
    train, validation, of_train, of_validation = train_test_split(
        rest, of_rest, test_size=400, random_state=0, stratify=of_rest
    )
    rng = np.random.default_rng(0)
    copies = {
        name: (disturbed(np.repeat(x, COPIES, axis=0), rng), np.repeat(y, COPIES))
        for name, x, y in (("validation", validation, of_validation), ("test", test, of_test))
    }
    return {"train": (train, of_train), **copies}


def disturbed(images: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Each image moved by at most one pixel in each direction, with normal noise."""
    n, size = images.shape[:2]
    rows, columns = rng.integers(0, 3, (2, n, 1)) + np.arange(size)
    moved = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))[
        np.arange(n)[:, None, None], rows[:, :, None], columns[:, None]
    ]
    return moved + NOISE * rng.standard_normal(moved.shape, np.float32)


class ConvNet(nn.Module):
    """Three convolutions, each with a batch normalization and relu; the second and the third halve the image."""

    widths: tuple[int, ...] = (16, 32, 48)

    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        for i, width in enumerate(self.widths):
            x = nn.Conv(width, (3, 3), strides=1 + (i > 0), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(10)(x.mean((1, 2)))

    @staticmethod
    def like(variables: Mapping[str, Any]) -> "ConvNet":
        params = variables["params"]
        return ConvNet.of([params[f"Conv_{i}"]["kernel"].shape[-1] for i in range(3)])

    @staticmethod
    def of(sizes: Sequence[int]) -> "ConvNet":
        return ConvNet(tuple(sizes))

    @property
    def sizes(self) -> list[int]:
        return list(self.widths)


class ResidualMLP(nn.Module):
    """Two blocks of a hidden layer each, whose outputs are added to a stream: a unit of it lies in three layers."""

    stream: int = 64
    hidden: tuple[int, ...] = (96, 96)

    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        del train
        x = nn.Dense(self.stream)(x.reshape(len(x), -1))
        for width in self.hidden:
            h = nn.relu(nn.Dense(width)(x))
            x = x + nn.Dense(self.stream)(h)
        return nn.Dense(10)(nn.relu(x))

    @staticmethod
    def like(variables: Mapping[str, Any]) -> "ResidualMLP":
        return ResidualMLP.of([variables["params"][f"Dense_{i}"]["kernel"].shape[1] for i in (0, 1, 3)])

    @staticmethod
    def of(sizes: Sequence[int]) -> "ResidualMLP":
        return ResidualMLP(sizes[0], tuple(sizes[1:]))

    @property
    def sizes(self) -> list[int]:
        return [self.stream, *self.hidden]


Network = type[ConvNet] | type[ResidualMLP]
NETWORKS: dict[str, Network] = {"convolutions": ConvNet, "residual MLP": ResidualMLP}


def start(module: ConvNet | ResidualMLP, seed: int) -> Any:
    return module.init(jax.random.key(seed), jnp.zeros((1, 8, 8, 1)), train=False)


def forward(network: Network) -> Callable[[Any, Any], jax.Array]:
    """The trained network as a function of its variables and the images, for `units` and `shrink` as well."""
    return lambda variables, images: network.like(variables).apply(variables, images, train=False)
