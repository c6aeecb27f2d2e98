"""The table of cases: one entry a penalty, with an oracle in NumPy float64 written from the docstring's formula."""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

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
    flat: float = 0.0  # the largest modulus up to which `scalar` is 0

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


def _where_nonzero(w: Array, slope: Callable[[Array], Array]) -> Array:
    return np.where(w == 0, 0, np.sign(w) * slope(np.where(w == 0, 1, np.abs(w))))


def _mcp(w: Array) -> Array:
    a = np.abs(w)
    return np.where(a <= 2.0 * 0.5, 0.5 * a - a**2 / 4, 2.0 * 0.5**2 / 2)


def _scad(w: Array) -> Array:
    a = np.abs(w)
    middle = (2 * 3.0 * 0.5 * a - a**2 - 0.5**2) / (2 * 2.0)
    return np.where(a <= 0.5, 0.5 * a, np.where(a <= 1.5, middle, 0.5**2 * 4 / 2))


def _huber(w: Array) -> Array:
    a = np.abs(w)
    return 0.3 * np.where(a <= 0.5, a**2 / (2 * 0.5), a - 0.25)


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
        jaxreg.L0(0.3),
        value=lambda w: 0.3 * np.count_nonzero(w),
        subgradient=np.zeros_like,
        scalar=lambda w: 0.3 * (w != 0),
        convex=False,
    ),
    Case(
        jaxreg.Lq(0.3),
        value=lambda w: 0.3 * np.sqrt(np.abs(w)).sum(),
        subgradient=lambda w: _where_nonzero(w, lambda a: 0.15 / np.sqrt(a)),
        scalar=lambda w: 0.3 * np.sqrt(np.abs(w)),
        convex=False,
    ),
    Case(
        jaxreg.Lq(0.3, q=2 / 3),
        value=lambda w: 0.3 * (np.abs(w) ** (2 / 3)).sum(),
        subgradient=lambda w: _where_nonzero(w, lambda a: 0.2 * a ** (-1 / 3)),
        scalar=lambda w: 0.3 * np.abs(w) ** (2 / 3),
        convex=False,
    ),
    Case(
        jaxreg.Lq(0.3, q=0.8),
        value=lambda w: 0.3 * (np.abs(w) ** 0.8).sum(),
        subgradient=lambda w: _where_nonzero(w, lambda a: 0.24 * a**-0.2),
        scalar=lambda w: 0.3 * np.abs(w) ** 0.8,
        convex=False,
    ),
    Case(
        jaxreg.LogSum(0.3, 0.2),
        value=lambda w: 0.3 * np.log(1 + np.abs(w) / 0.2).sum(),
        subgradient=lambda w: 0.3 * np.sign(w) / (0.2 + np.abs(w)),
        scalar=lambda w: 0.3 * np.log(1 + np.abs(w) / 0.2),
        convex=False,
    ),
    Case(
        jaxreg.MCP(0.5, 2.0),
        value=lambda w: _mcp(w).sum(),
        subgradient=lambda w: np.sign(w) * np.maximum(0.5 - np.abs(w) / 2, 0),
        scalar=lambda w: _mcp(w),
        convex=False,
    ),
    Case(
        jaxreg.SCAD(0.5, 3.0),
        value=lambda w: _scad(w).sum(),
        subgradient=lambda w: np.sign(w) * np.clip((1.5 - np.abs(w)) / 2, 0, 0.5),
        scalar=lambda w: _scad(w),
        convex=False,
    ),
    Case(
        jaxreg.Huber(0.3, 0.5),
        value=lambda w: _huber(w).sum(),
        subgradient=lambda w: 0.3 * np.clip(w / 0.5, -1, 1),
        scalar=lambda w: _huber(w),
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


def _unit(w: Array, axis: Any) -> Array:
    norms = np.sqrt((w**2).sum(axis=axis, keepdims=True))
    return np.divide(w, norms, out=np.zeros_like(w), where=norms > 0)


def _norms(w: Array, axis: Any) -> Array:
    return np.sqrt((w**2).sum(axis=axis))


def _spectral_subgradient(w: Array, slope: Callable[[Array], Array]) -> Array:
    u, s, vh = np.linalg.svd(w, full_matrices=False)
    return (u * np.where(s > 1e-6, slope(s), 0)) @ vh


def _hoyer(w: Array) -> float:
    return float(np.abs(w).sum() ** 2 / (w**2).sum()) if w.any() else 0.0


def _hoyer_subgradient(w: Array) -> Array:
    if not w.any():
        return np.zeros_like(w)
    ratio = np.abs(w).sum() / (w**2).sum()
    return 2 * ratio * (np.sign(w) - ratio * w)


def _gram_rest(w: Array) -> Array:
    return w.T @ w - np.eye(w.shape[1])


def _swapped(w: Array) -> Array:
    """The columns of the matrix are the first axis, its rows all others."""
    return w.reshape(w.shape[0], -1).T


SPECTRA = {"shapes": ((3, 4), (4, 3), (5, 5), (2, 1), (1, 3)), "kinks": (np.zeros((3, 4)), np.eye(3), np.eye(4, 3))}
GROUPS = {"shapes": ((3, 4), (4, 1), (1, 5)), "kinks": (np.zeros((3, 4)), np.array([[0.0, 1.0], [0.0, 2.0]]))}

STRUCTURES = (
    Case(
        jaxreg.Group(jaxreg.L1(0.3), axis=0),
        value=lambda w: 0.3 * _norms(w, 0).sum(),
        subgradient=lambda w: 0.3 * _unit(w, 0),
        **GROUPS,
    ),
    Case(
        jaxreg.Group(jaxreg.L1L2(0.3, 0.1), axis=(-1,), weight="sqrt_size"),
        value=lambda w: w.shape[-1] ** 0.5 * (0.3 * _norms(w, -1).sum() + 0.1 * (w**2).sum()),
        subgradient=lambda w: w.shape[-1] ** 0.5 * (0.3 * _unit(w, -1) + 0.2 * w),
        **GROUPS,
    ),
    Case(
        jaxreg.Group(jaxreg.L1(0.3), groups=(0,)),  # as all labels, of a shape that broadcasts against every other
        value=lambda w: 0.3 * float(_norms(w, None)),
        subgradient=lambda w: 0.3 * _unit(w, None),
        **GROUPS,
    ),
    Case(
        jaxreg.L1(0.1) + 2 * jaxreg.Group(jaxreg.MCP(0.5, 2.0), axis=None),
        value=lambda w: 0.1 * np.abs(w).sum() + 2 * float(_mcp(_norms(w, None))),
        subgradient=lambda w: 0.1 * np.sign(w) + 2 * _unit(w, None) * max(0.5 - _norms(w, None) / 2, 0),
        shapes=((3, 4), (7,), (), (2, 3, 2)),
        kinks=(np.zeros((3, 4)), np.array([[0.0, 0.1], [0.0, 0.2]])),
    ),
    Case(
        jaxreg.Weighted(jaxreg.L1(0.3) + jaxreg.L2(0.7), 0.5),
        value=lambda w: 0.15 * np.abs(w).sum() + 0.35 * (w**2).sum(),
        subgradient=lambda w: 0.15 * np.sign(w) + 0.7 * w,
    ),
    Case(
        jaxreg.Weighted(jaxreg.Group(jaxreg.L1(0.3), axis=0), 2.0),
        value=lambda w: 0.6 * _norms(w, 0).sum(),
        subgradient=lambda w: 0.6 * _unit(w, 0),
        **GROUPS,
    ),
    Case(
        jaxreg.Spectral(jaxreg.L1(0.3)),
        value=lambda w: 0.3 * np.linalg.svd(w, compute_uv=False).sum(),
        subgradient=lambda w: 0.3 * _spectral_subgradient(w, np.ones_like),
        **SPECTRA,
    ),
    Case(
        jaxreg.Spectral(jaxreg.LogSum(0.3, 0.2)),
        value=lambda w: 0.3 * np.log(1 + np.linalg.svd(w, compute_uv=False) / 0.2).sum(),
        subgradient=lambda w: 0.3 * _spectral_subgradient(w, lambda s: 1 / (0.2 + s)),
        **SPECTRA,
    ),
    Case(
        jaxreg.SpectralNorm(0.3),
        value=lambda w: 0.3 * np.linalg.svd(w, compute_uv=False)[0],
        subgradient=lambda w: 0.3 * _spectral_subgradient(w, lambda s: (s > s[0] - 1e-6) / (s > s[0] - 1e-6).sum()),
        **SPECTRA,
    ),
    Case(
        jaxreg.SoftOrthogonal(0.3),
        value=lambda w: 0.3 * (_gram_rest(w) ** 2).sum(),
        subgradient=lambda w: 1.2 * w @ _gram_rest(w),
        **SPECTRA,
    ),
    Case(
        jaxreg.Matrix(jaxreg.Spectral(jaxreg.L1(0.3)), outputs=0),
        value=lambda w: 0.3 * np.linalg.svd(_swapped(w), compute_uv=False).sum(),
        subgradient=lambda w: 0.3 * _spectral_subgradient(_swapped(w), np.ones_like).T.reshape(w.shape),
        shapes=((3, 4), (7,), (2, 3, 2), (2, 2, 1, 3)),
        kinks=SPECTRA["kinks"],
    ),
    Case(
        jaxreg.HoyerSquare(0.3),
        value=lambda w: 0.3 * _hoyer(w),
        subgradient=lambda w: 0.3 * _hoyer_subgradient(w),
        shapes=((3, 4), (7,), (2, 3, 2)),
        kinks=(np.zeros((3, 4)), np.array([[1.0, 0.0, 0.0]])),
    ),
    Case(
        jaxreg.SLOPE(0.3),  # a table over shapes; test_chains.py has weights that differ
        value=lambda w: 0.3 * np.sort(np.abs(w).ravel())[::-1].sum(),
        subgradient=lambda w: 0.3 * np.sign(w),
    ),
    Case(
        jaxreg.Difference(jaxreg.L1(0.3), axis=0, order=2),
        value=lambda w: 0.3 * np.abs(np.diff(w, n=2, axis=0)).sum(),
        subgradient=lambda w: 0.3 * _second_difference(w.shape[0]).T @ np.sign(_second_difference(w.shape[0]) @ w),
        shapes=((3, 4), (6, 2), (2, 2), (1, 3)),
        kinks=(np.zeros((3, 4)), np.arange(12.0).reshape(4, 3)),
    ),
)


def _second_difference(n: int) -> Array:
    return np.diff(np.eye(n), n=min(2, n), axis=0) if n > 2 else np.zeros((0, n))


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

CASES = CASES + STRUCTURES
ALL_CASES = CASES + CUSTOM_CASES
CONVEX_CASES = tuple(case for case in ALL_CASES if case.scalar is not None and case.convex)
PROX_CASES = tuple(case for case in ALL_CASES if case.scalar is not None)
SHAPED_CASES = tuple((case, shape) for case in ALL_CASES for shape in case.shapes)


def label(value: object) -> str:
    """A name for a test: the repr without addresses, which differ between the processes that share the tests."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:60]


def sample(shape: tuple[int, ...], seed: int = 0, scale: float = 2.0) -> Array:
    """Random float64 values that float16 holds, so that every dtype sees the same numbers."""
    values = np.random.default_rng(seed).normal(scale=scale, size=shape)
    return values.astype(np.float16).astype(np.float64)


# Each in one program, which penalties of one class share whatever their coefficients: most of the time of a test goes
# to the compiler. Without `jax.jit` around it, `jax.grad(reg)(x)` takes two programs or more.


@jax.jit
def gradient(reg: jaxreg.Regularizer, x: jax.Array) -> jax.Array:
    """`jax.grad(reg)(x)`."""
    return jax.grad(reg)(x)


@jax.jit
def value_and_gradient(reg: jaxreg.Regularizer, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`jax.value_and_grad(reg)(x)`."""
    return jax.value_and_grad(reg)(x)


@jax.jit
def gradient_and_product(reg: jaxreg.Regularizer, x: jax.Array, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradient, and the product of the Hessian and a direction."""
    return jax.jvp(jax.grad(reg), (x,), (direction,))


@functools.cache
def program(function: Callable[..., Any]) -> Callable[..., Any]:
    """`[function(reg, *args) for reg in regs]` as one program: a table of penalties compiles as quickly as a few."""
    return jax.jit(lambda regs, *args: [function(reg, *args) for reg in regs])


_RESULTS: dict[Any, Any] = {}


def row(function: Callable[..., Any], cases: Sequence[Case], case: Case, *args: Any) -> Any:
    """`function(case.regularizer, *args)`, from the program over all `cases`, which runs once for the same numbers."""
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(args)]
    numbers = tuple((array.shape, str(array.dtype), array.tobytes()) for array in arrays)
    key = (function, tuple(map(id, cases)), jax.config.jax_enable_x64, jax.tree.structure(args), numbers)
    if key not in _RESULTS:
        found = program(function)([one.regularizer for one in cases], *args)
        _RESULTS[key] = jax.tree.map(np.asarray, found)
    return _RESULTS[key][next(i for i, one in enumerate(cases) if one is case)]


def of_shape(shape: tuple[int, ...]) -> tuple[Case, ...]:
    """The cases that name this shape, or have a kink of it."""
    return tuple(case for case in ALL_CASES if shape in (*case.shapes, *(kink.shape for kink in case.kinks)))
