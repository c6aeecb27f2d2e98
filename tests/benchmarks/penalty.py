"""The penalty of a whole tree: it reads each weight once, so the memory is the limit."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import blas

import jaxreg
from tests.benchmarks import peers, programs, settings
from tests.benchmarks.measurement import Limit, Measurement, exact, ratios
from tests.benchmarks.timing import Function, alternate

FAMILY = "penalty of the tree"
L1, L2 = 1e-4, 1e-3


def measure(config: settings.Settings) -> list[Measurement]:
    params = settings.transformer(config)
    leaves = jax.tree.leaves(params)
    size = settings.nbytes(params)
    l2 = _compiled(jaxreg.L2(L2), params)
    l1l2 = _compiled(jaxreg.L1L2(L1, L2), params)

    of_l2 = {"jaxreg": lambda: l2(params), **_reads(leaves), **_handwritten(False, leaves), **_torch(False, leaves)}
    times = alternate(of_l2, config.rounds, config.at_least)
    one_read = "one read of the memory" if settings.on_gpu() else "one BLAS read, a thread a core"
    limits = {one_read: Limit("≤", 1.1), "one BLAS read, one thread": None, "jnp": None, "Keras": None, "PyTorch": None}
    found = ratios(FAMILY, "L2", times, limits)

    of_l1l2 = {
        "jaxreg": lambda: l1l2(params),
        "L2 alone": lambda: l2(params),
        **_handwritten(True, leaves),
        **_torch(True, leaves),
    }
    times = alternate(of_l1l2, config.rounds, config.at_least)
    faster = Limit("<", 1.0)
    limits = {"L2 alone": Limit("≤", 1.2), "jnp": faster, "Keras": faster, "PyTorch": faster}
    found += ratios(FAMILY, "L1L2", times, limits)
    found.append(
        exact(
            FAMILY,
            "L1L2: bytes accessed",
            "-",
            programs.accessed(l1l2) / size,
            "trees",
            Limit("≤", 1.01),
        )
    )
    found.append(
        exact(
            FAMILY,
            "L1L2: temporaries",
            "-",
            programs.temporaries(l1l2) / size,
            "trees",
            Limit("≤", 0.01),
        )
    )
    return found


def _compiled(reg: jaxreg.Regularizer, params: Any) -> Any:
    return programs.compile_(jaxreg.TreeRegularizer({"**": reg}), params)


def _reads(leaves: list[Any]) -> dict[str, Function]:
    """What one read of these bytes costs: BLAS on the CPU; on a GPU half of a copy, which reads and writes."""
    if settings.on_gpu():
        half = leaves[: len(leaves) // 2] if len(leaves) > 1 else leaves
        copy = programs.compile_(lambda arrays: [array + 1 for array in arrays], half)
        share = settings.nbytes(leaves) / (2 * settings.nbytes(half))
        assert 0.9 < share < 1.1, "half of the leaves must hold half of the bytes"
        return {"one read of the memory": lambda: copy(half)}
    arrays = [np.asarray(leaf).ravel() for leaf in leaves]
    parts = [part for array in arrays for part in np.array_split(array, os.cpu_count() or 1) if part.size]
    pool = ThreadPoolExecutor(os.cpu_count())

    def squares(arrays: list[Any]) -> list[float]:
        return [blas.sdot(array, array) for array in arrays]

    by_thread = [parts[i :: os.cpu_count()] for i in range(os.cpu_count() or 1)]
    return {
        "one BLAS read, a thread a core": lambda: sum(map(sum, pool.map(squares, by_thread))),
        "one BLAS read, one thread": lambda: sum(squares(arrays)),
    }


def _handwritten(l1: bool, leaves: list[Any]) -> dict[str, Function]:
    """The penalty as people write it, in jnp and by Keras' regularizers, jitted."""

    def plain(arrays: list[Any]) -> jax.Array:
        squares = L2 * sum(jnp.sum(jnp.square(x)) for x in arrays)
        return squares + L1 * sum(jnp.sum(jnp.abs(x)) for x in arrays) if l1 else squares

    jitted = programs.compile_(plain, leaves)
    found = {"jnp": lambda: jitted(leaves)}
    if peers.keras is not None:
        regularizer = peers.keras.regularizers.L1L2(L1, L2) if l1 else peers.keras.regularizers.L2(L2)
        keras_jitted = programs.compile_(lambda arrays: sum(regularizer(x) for x in arrays), leaves)
        found["Keras"] = lambda: keras_jitted(leaves)
    return found


def _torch(l1: bool, leaves: list[Any]) -> dict[str, Function]:
    """PyTorch's fastest: one `_foreach` call for all norms."""
    if peers.torch is None:
        return {}
    tensors = peers.torch_tensors(leaves)

    def penalty() -> float:
        total = L2 * sum(norm**2 for norm in peers.torch._foreach_norm(tensors))
        return (total + L1 * sum(peers.torch._foreach_norm(tensors, 1)) if l1 else total).item()

    return {"PyTorch": penalty}
