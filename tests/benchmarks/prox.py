"""Proximal operators of one array, beside those of jaxopt and PyTorch."""

from typing import Any

import jax
import jax.numpy as jnp

import jaxreg
from tests.benchmarks import peers, programs, settings
from tests.benchmarks.measurement import Limit, Measurement, ratios
from tests.benchmarks.timing import Function, alternate

FAMILY = "proximal operator"


def measure(config: settings.Settings) -> list[Measurement]:
    z = settings.normal((config.scaled(8192, 64), config.scaled(4096, 32)))
    limits = {"jnp": Limit("≤", 1.1), "jaxopt": Limit("≤", 1.1), "PyTorch": None}

    lasso = {"jaxreg": lambda z: jaxreg.L1(0.01).prox(z, 0.5), "jnp": _soft_threshold}
    group = {"jaxreg": lambda z: jaxreg.Group(jaxreg.L1(0.1), axis=1).prox(z, 0.5), "jnp": _block_threshold}
    if peers.jaxopt is not None:
        lasso["jaxopt"] = lambda z: peers.jaxopt.prox.prox_lasso(z, 0.01, 0.5)
        group["jaxopt"] = jax.vmap(lambda row: peers.jaxopt.prox.prox_group_lasso(row, 0.1, 0.5))
    found = []
    for work, operators in {"L1": lasso, "Group(L1), a group a row": group}.items():
        compiled = {name: programs.compile_(operator, z) for name, operator in operators.items()}
        functions = {name: lambda program=program: program(z) for name, program in compiled.items()}
        if work == "L1" and peers.torch is not None:
            functions["PyTorch"] = _softshrink(*peers.torch_tensors([z]))
        found += ratios(FAMILY, work, alternate(functions, config.rounds, config.at_least), limits)
    return found


def _softshrink(tensor: Any) -> Function:
    return lambda: peers.torch_wait(peers.torch.nn.functional.softshrink(tensor, 0.005))


def _soft_threshold(z: jax.Array) -> jax.Array:
    return jnp.sign(z) * jnp.maximum(jnp.abs(z) - 0.005, 0)


def _block_threshold(z: jax.Array) -> jax.Array:
    norms = jnp.linalg.norm(z, axis=1, keepdims=True)
    return z * jnp.maximum(1 - 0.05 / norms, 0)
