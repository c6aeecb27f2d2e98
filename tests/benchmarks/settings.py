"""Sizes: small ones for `--quick`, otherwise arrays of many times the cache of the device."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Settings:
    """What depends on whether the run is a quick one."""

    quick: bool = False

    @property
    def rounds(self) -> int:
        return 3 if self.quick else 15

    @property
    def slow_rounds(self) -> int:
        """For what takes seconds."""
        return 1 if self.quick else 3

    @property
    def at_least(self) -> float:
        """Seconds that a sample takes."""
        return 1e-3 if self.quick else 2e-2

    def scaled(self, full: int, quick: int) -> int:
        return quick if self.quick else full


def on_gpu() -> bool:
    return jax.default_backend() == "gpu"


def transformer(settings: Settings) -> dict[str, Any]:
    """Parameters in the shapes of GPT-2 small: 124 million float32 numbers, 148 leaves of 8 shapes.

    A quick run has a block of one half: every further leaf is compiled into some thirty programs.
    """
    width, layers = settings.scaled(768, 64), settings.scaled(12, 1)
    block = {
        "ln_1": {"scale": (width,), "bias": (width,)},
        "attention": {"kernel": (width, 3 * width), "bias": (3 * width,)},
        "projection": {"kernel": (width, width), "bias": (width,)},
        "ln_2": {"scale": (width,), "bias": (width,)},
        "fc_in": {"kernel": (width, 4 * width), "bias": (4 * width,)},
        "fc_out": {"kernel": (4 * width, width), "bias": (width,)},
    }
    if settings.quick:
        block = {name: block[name] for name in ("ln_1", "attention", "projection")}
    shapes = {"wte": (settings.scaled(50257, 500), width), "wpe": (settings.scaled(1024, 64), width)}
    return normal(shapes | {f"block_{i}": block for i in range(layers)} | {"ln_f": block["ln_1"]})


def normal(shapes: Any, seed: int = 0) -> Any:
    """Normal numbers of standard deviation 0.02 in a tree of shapes."""
    rng = np.random.default_rng(seed)
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    return treedef.unflatten([jnp.asarray(0.02 * rng.standard_normal(s, np.float32)) for s in leaves])


def nbytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
