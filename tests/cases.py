"""The table of cases: one entry a penalty, with an oracle in NumPy float64 written from the docstring's formula."""

import dataclasses
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import jaxreg

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Case:
    """What the properties need to know of a penalty."""

    regularizer: jaxreg.Regularizer  # with coefficients that are not the defaults
    value: Callable[[Array], float]  # the formula, NumPy float64
    subgradient: Callable[[Array], Array]  # the one of least norm, NumPy float64
    scalar: Callable[[Array], Array] | None = None  # the penalty of one entry, where there is a prox
    shapes: tuple[tuple[int, ...], ...] = ((3, 4), (7,), (), (2, 3, 2))
    kinks: tuple[Array, ...] = (np.zeros((3, 4)), np.array([[0.0, -0.0, 2.0, -1.0]] * 3))
    convex: bool = True

    def __str__(self) -> str:
        return repr(self.regularizer)


def _cosines(w: Array) -> tuple[Array, Array, Array]:
    norms = np.sqrt((w**2).sum(1))
    units = np.divide(w, norms[:, None], out=np.zeros_like(w), where=norms[:, None] > 0)
    return units @ units.T, units, norms


def _orthogonal(w: Array) -> float:
    cosines, _, _ = _cosines(w)
    pairs = [abs(cosines[i, j]) for i in range(len(w)) for j in range(i + 1, len(w))]
    return float(np.mean(pairs)) if pairs else 0.0


def _orthogonal_subgradient(w: Array) -> Array:
    cosines, units, norms = _cosines(w)
    gradient, n = np.zeros_like(w), len(w)
    for i in range(n):
        for j in range(n):
            if i != j and norms[i] > 0:
                s = np.sign(cosines[i, j])
                gradient[i] += s * (units[j] - cosines[i, j] * units[i]) / norms[i]
    return gradient / (n * (n - 1) / 2) if n > 1 else gradient


MATRICES = {
    "shapes": ((3, 4), (4, 3), (5, 5), (2, 1), (1, 3)),
    "kinks": (np.zeros((3, 4)), np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 4.0]]), np.eye(3)),
    "convex": False,
}

CASES = (
    Case(
        jaxreg.L1(0.3),
        value=lambda w: 0.3 * np.abs(w).sum(),
        subgradient=lambda w: 0.3 * np.sign(w),
        scalar=lambda w: 0.3 * np.abs(w),
    ),
    Case(
        jaxreg.L2(0.7),
        value=lambda w: 0.7 * (w**2).sum(),
        subgradient=lambda w: 1.4 * w,
        scalar=lambda w: 0.7 * w**2,
    ),
    Case(
        jaxreg.L1L2(0.3, 0.7),
        value=lambda w: 0.3 * np.abs(w).sum() + 0.7 * (w**2).sum(),
        subgradient=lambda w: 0.3 * np.sign(w) + 1.4 * w,
        scalar=lambda w: 0.3 * np.abs(w) + 0.7 * w**2,
    ),
    Case(
        jaxreg.OrthogonalRegularizer(0.3),
        value=lambda w: 0.3 * _orthogonal(w),
        subgradient=lambda w: 0.3 * _orthogonal_subgradient(w),
        **MATRICES,
    ),
    Case(
        jaxreg.OrthogonalRegularizer(0.3, "columns"),
        value=lambda w: 0.3 * _orthogonal(w.T),
        subgradient=lambda w: 0.3 * _orthogonal_subgradient(w.T).T,
        **MATRICES,
    ),
    Case(
        jaxreg.L1(0.3) + 2.0 * jaxreg.L2(0.7) + jaxreg.L1(0.2),
        value=lambda w: 0.5 * np.abs(w).sum() + 1.4 * (w**2).sum(),
        subgradient=lambda w: 0.5 * np.sign(w) + 2.8 * w,
        scalar=lambda w: 0.5 * np.abs(w) + 1.4 * w**2,
    ),
    Case(
        3.0 * jaxreg.L1L2(0.1, 0.2),
        value=lambda w: 0.3 * np.abs(w).sum() + 0.6 * (w**2).sum(),
        subgradient=lambda w: 0.3 * np.sign(w) + 1.2 * w,
        scalar=lambda w: 0.3 * np.abs(w) + 0.6 * w**2,
    ),
)


@jaxreg.register(package="tests")
def log_cosh(x: jax.Array) -> jax.Array:
    """A plain function as a penalty."""
    return jnp.sum(jnp.logaddexp(x, -x) - jnp.log(2.0))


@jaxreg.register(package="tests")
class Quartic(jaxreg.Regularizer):
    """A custom class as a penalty, with a static field."""

    strength: float = 0.1
    order: int = jaxreg.static(4)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.strength * jnp.sum(x**self.order)


CUSTOM_CASES = (
    Case(
        Quartic(0.5),
        value=lambda w: 0.5 * (w**4).sum(),
        subgradient=lambda w: 2.0 * w**3,
    ),
    Case(
        jaxreg.L1(0.3) + log_cosh,
        value=lambda w: 0.3 * np.abs(w).sum() + np.log(np.cosh(w)).sum(),
        subgradient=lambda w: 0.3 * np.sign(w) + np.tanh(w),
    ),
)

ALL_CASES = CASES + CUSTOM_CASES
PROX_CASES = tuple(case for case in ALL_CASES if case.scalar is not None)
SHAPED_CASES = tuple((case, shape) for case in ALL_CASES for shape in case.shapes)


def label(value: object) -> str:
    """A name for a test: the repr without addresses, which differ between the processes that share the tests."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:60]


def sample(shape: tuple[int, ...], seed: int = 0, scale: float = 2.0) -> Array:
    """Random float64 values that float16 holds, so that every dtype sees the same numbers."""
    values = np.random.default_rng(seed).normal(scale=scale, size=shape)
    return values.astype(np.float16).astype(np.float64)
