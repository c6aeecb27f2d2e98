"""Penalties of matrices: the nuclear norm by matrix products and by a decomposition; the Gram matrices."""

from typing import Any

import jax
import jax.numpy as jnp

import jaxreg
from tests.benchmarks import peers, programs, settings
from tests.benchmarks.measurement import Limit, Measurement, exact, ratios
from tests.benchmarks.timing import alternate

FAMILY = "matrix penalty, value and gradient"


def measure(config: settings.Settings) -> list[Measurement]:
    found = []
    for m, n in [(64, 64), (96, 48)] if config.quick else [(1024, 1024), (4096, 1024)]:
        w = settings.normal((m, n))
        limit = Limit("≤", 0.1) if settings.on_gpu() and not config.quick else None
        methods = {"jaxreg": _nuclear("polar"), "svd": _nuclear("svd")}
        times = _times(config, methods, w, config.slow_rounds)
        found += ratios(FAMILY, f"nuclear norm {m}×{n} by matrix products", times, {"svd": limit}, stated=True)
    found += _orthogonal(config)
    return found


def _nuclear(method: str) -> jaxreg.Spectral:
    return jaxreg.Spectral(jaxreg.L1(1.0), method=method)


def _orthogonal(config: settings.Settings) -> list[Measurement]:
    square = settings.normal((config.scaled(1024, 48),) * 2)
    wide = settings.normal((config.scaled(1024, 32), config.scaled(4096, 96)))
    found = []
    orthogonal = {"jaxreg": jaxreg.OrthogonalRegularizer(0.01)}
    if peers.keras is not None:
        orthogonal["Keras"] = peers.keras.regularizers.OrthogonalRegularizer(0.01)
    times = _times(config, orthogonal, square, config.rounds)
    found += ratios(FAMILY, f"OrthogonalRegularizer {_size(square)}", times, {"Keras": Limit("≤", 1.0)})
    soft = {"jaxreg": jaxreg.SoftOrthogonal(0.01), "jnp": _soft_orthogonal}
    times = _times(config, soft, square, config.rounds)
    found += ratios(FAMILY, f"SoftOrthogonal {_size(square)}", times, {"jnp": Limit("≤", 1.1)})
    times = _times(config, soft, wide, config.rounds)
    found += ratios(FAMILY, f"SoftOrthogonal {_size(wide)}", times, {"jnp": None})
    flops = programs.flops(programs.compile_(jaxreg.SoftOrthogonal(0.01), wide))
    gram = 2 * wide.shape[0] ** 2 * wide.shape[1]
    work = f"SoftOrthogonal {_size(wide)}: operations of the value"
    found.append(exact(FAMILY, work, "-", flops / gram, "smaller Gram matrices", Limit("≤", 1.05)))
    return found


def _soft_orthogonal(w: jax.Array) -> jax.Array:
    gram = jnp.matmul(w.T, w, precision=jax.lax.Precision.HIGHEST)
    return 0.01 * jnp.sum(jnp.square(gram - jnp.eye(w.shape[1])))


def _times(config: settings.Settings, penalties: dict[str, Any], w: jax.Array, rounds: int) -> dict[str, list[float]]:
    compiled = {name: programs.compile_(jax.value_and_grad(penalty), w) for name, penalty in penalties.items()}
    functions = {name: lambda program=program: program(w) for name, program in compiled.items()}
    return alternate(functions, rounds, config.at_least)


def _size(w: jax.Array) -> str:
    return "×".join(map(str, w.shape))
