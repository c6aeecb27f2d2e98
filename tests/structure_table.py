"""Every penalty in every wrapper, two levels deep, with a value in NumPy float64 that is composed like the penalty."""

import dataclasses
from collections.abc import Callable

import numpy as np

import jaxreg

Array = np.ndarray
Map = Callable[[np.ndarray], np.ndarray]
RNG = np.random.default_rng(7)
REFERENCE = {shape: np.round(RNG.normal(size=shape), 2) for shape in ((2, 2), (2, 2, 2), (2, 2, 2, 2))}
WEIGHTS = {shape: np.round(RNG.uniform(0, 2, shape), 1) for shape in REFERENCE}
TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True)
class Term:
    """A penalty; its value of n arrays, (n, *shape) -> (n,); a map of such arrays into the set where it is finite."""

    regularizer: jaxreg.Regularizer
    value: Map
    into: Map = lambda x: x
    entries: Map | None = None  # ρ of every entry, if it is elementwise
    groups: Map | None = None  # ρ of every norm, if it is a group penalty


def total(x: Array) -> Array:
    return x.reshape(len(x), -1).sum(1)


def entrywise(regularizer: jaxreg.Regularizer, rho: Map) -> Term:
    return Term(regularizer, lambda x: total(rho(np.abs(x))), entries=lambda x: rho(np.abs(x)))


def constraint(
    regularizer: jaxreg.Regularizer, excess: Callable[[Array], Array], into: Callable[[Array], Array]
) -> Term:
    def value(x: Array) -> Array:
        outside = excess(x).reshape(len(x), -1).max(1) > TOLERANCE
        return np.where(outside, np.inf, 0.0)

    return Term(regularizer, value, into)


def norms(x: Array) -> Array:
    return np.sqrt((x**2).sum(-1, keepdims=True))


def spectrum(x: Array) -> Array:
    return np.linalg.svd(x, compute_uv=False)[..., None]


def within(x: Array, size: Array, radius: float) -> Array:
    return x * np.minimum(1, radius / np.maximum(size, 1e-300))


def groupwise(regularizer: jaxreg.Regularizer, rho: Map) -> Term:
    return Term(regularizer, lambda x: total(rho(norms(x))), groups=lambda x: rho(norms(x)))


def huber(a: Array) -> Array:
    return 0.3 * np.where(a <= 0.5, a**2, a - 0.25)


def mcp(a: Array) -> Array:
    return np.where(a <= 1, 0.5 * a - a**2 / 4, 0.25)


def sums(x: Array) -> Array:
    return np.abs(x).sum(-1, keepdims=True)


def hoyer(x: Array) -> Array:
    return total(np.abs(x)) ** 2 / np.maximum(total(x**2), 1e-99)


def falling(x: Array) -> Array:
    return np.sort(np.abs(x.reshape(len(x), -1)))[:, ::-1]


def gram(x: Array) -> Array:
    return np.swapaxes(x, -1, -2) @ x - np.eye(2)


BASES: dict[str, Term] = {
    "L1": entrywise(jaxreg.L1(0.3), lambda a: 0.3 * a),
    "L2": entrywise(jaxreg.L2(0.4), lambda a: 0.4 * a**2),
    "L1L2": entrywise(jaxreg.L1L2(0.3, 0.4), lambda a: 0.3 * a + 0.4 * a**2),
    "L0": entrywise(jaxreg.L0(0.3), lambda a: 0.3 * (a > 0)),
    "Lq": entrywise(jaxreg.Lq(0.3), lambda a: 0.3 * np.sqrt(a)),
    "LogSum": entrywise(jaxreg.LogSum(0.3, 0.2), lambda a: 0.3 * np.log1p(a / 0.2)),
    "MCP": entrywise(jaxreg.MCP(0.5, 2.0), mcp),
    "Huber": entrywise(jaxreg.Huber(0.3, 0.5), huber),
    "Group": groupwise(jaxreg.Group(jaxreg.L1(0.3), -1), lambda a: 0.3 * a),
    "Group(MCP)": groupwise(jaxreg.Group(jaxreg.MCP(0.5, 2.0), -1, weight="sqrt_size"), lambda a: 2**0.5 * mcp(a)),
    "Spectral": Term(jaxreg.Spectral(jaxreg.L1(0.3)), lambda x: 0.3 * total(spectrum(x))),
    "SpectralNorm": Term(jaxreg.SpectralNorm(0.3), lambda x: 0.3 * total(spectrum(x)[..., 0, :])),
    "SoftOrthogonal": Term(jaxreg.SoftOrthogonal(0.3), lambda x: 0.3 * total(gram(x) ** 2)),
    "HoyerSquare": Term(jaxreg.HoyerSquare(0.3), lambda x: 0.3 * hoyer(x)),
    "Difference": Term(jaxreg.Difference(jaxreg.L1(0.3)), lambda x: 0.3 * total(np.abs(np.diff(x)))),
    "SLOPE": Term(jaxreg.SLOPE(np.array([0.9, 0.5, 0.2, 0.0])), lambda x: falling(x) @ np.array([0.9, 0.5, 0.2, 0.0])),
    "Monotone": constraint(jaxreg.Monotone(), lambda x: -np.diff(x), lambda x: np.maximum.accumulate(x, axis=-1)),
    "NonNegative": constraint(jaxreg.NonNegative(), lambda x: -x, lambda x: np.maximum(x, 0)),
    "Box": constraint(jaxreg.Box(-0.4, 0.9), lambda x: np.maximum(x - 0.9, -0.4 - x), lambda x: np.clip(x, -0.4, 0.9)),
    "MaxNorm": constraint(jaxreg.MaxNorm(0.8, axis=-1), lambda x: norms(x) - 0.8, lambda x: within(x, norms(x), 0.8)),
    "UnitNorm": constraint(
        jaxreg.UnitNorm(axis=-1), lambda x: np.abs(norms(x) - 1), lambda x: x / np.maximum(norms(x), 1e-300)
    ),
    "L1Ball": constraint(jaxreg.L1Ball(0.8, axis=-1), lambda x: sums(x) - 0.8, lambda x: within(x, sums(x), 0.8)),
    "Simplex": constraint(
        jaxreg.Simplex(0.8),
        lambda x: np.maximum(-x, np.abs(x.sum(-1, keepdims=True) - 0.8)),
        lambda x: 0.8 * np.abs(x) / np.maximum(sums(x), 1e-300),
    ),
    "SpectralBall": constraint(
        jaxreg.SpectralBall(0.8), lambda x: spectrum(x) - 0.8, lambda x: within(x, spectrum(x)[..., :1, :], 0.8)
    ),
}
L1, L2, NONNEGATIVE, BOX = BASES["L1"], BASES["L2"], BASES["NonNegative"], BASES["Box"]


def added(a: Term, b: Term) -> Term:
    both = a.entries is not None and b.entries is not None
    return Term(
        a.regularizer + b.regularizer,
        lambda x: a.value(x) + b.value(x),
        lambda x: b.into(a.into(b.into(x))),
        (lambda x: a.entries(x) + b.entries(x)) if both else None,
    )


def stacked(p: Term, shape: tuple[int, ...]) -> Term:
    def value(x: Array) -> Array:
        return p.value(x.reshape(-1, *shape[1:])).reshape(len(x), -1).sum(1)

    def into(x: Array) -> Array:
        return p.into(x.reshape(-1, *shape[1:])).reshape(x.shape)

    return Term(jaxreg.Stacked(p.regularizer, axes=(0,)), value, into, p.entries)


def transposed(p: Term, shape: tuple[int, ...]) -> Term:
    def swap(x: Array) -> Array:
        return np.swapaxes(x, -1, -2)

    return Term(
        jaxreg.Matrix(p.regularizer, outputs=-2),
        lambda x: p.value(swap(x)),
        lambda x: swap(p.into(swap(x))),
        p.entries,
    )


def anchored(p: Term, shape: tuple[int, ...], weighted: bool) -> Term:
    reference, entries = REFERENCE[shape], p.entries
    if not weighted:
        regularizer = jaxreg.Anchored(p.regularizer, reference)
        return Term(regularizer, lambda x: p.value(x - reference), lambda x: reference + p.into(x - reference))
    regularizer = jaxreg.Anchored(p.regularizer, reference, weights=WEIGHTS[shape])
    assert entries is not None
    return Term(regularizer, lambda x: total(WEIGHTS[shape] * entries(x - reference)))


def weighted(p: Term, shape: tuple[int, ...]) -> Term:
    weights, parts = (WEIGHTS[shape], p.entries) if p.groups is None else (WEIGHTS[shape][..., :1], p.groups)
    regularizer = jaxreg.Weighted(p.regularizer, weights)
    assert parts is not None
    return Term(regularizer, lambda x: total(weights * parts(x)))


WRAPPERS: dict[str, Callable[[Term, tuple[int, ...]], Term]] = {
    "2 * P": lambda p, shape: Term(
        2 * p.regularizer, lambda x: 2 * p.value(x), p.into, p.entries and (lambda x: 2 * p.entries(x))
    ),
    "P + L2": lambda p, shape: added(p, L2),
    "P + L1": lambda p, shape: added(p, L1),
    "L1 + P": lambda p, shape: added(L1, p),
    "NonNegative + P": lambda p, shape: added(NONNEGATIVE, p),
    "P + Box": lambda p, shape: added(p, BOX),
    "Stacked(P)": stacked,
    "Matrix(P)": transposed,
    "Anchored(P)": lambda p, shape: anchored(p, shape, weighted=False),
    "Anchored(P, weights)": lambda p, shape: anchored(p, shape, weighted=True),
    "Weighted(P)": weighted,
}


def shape_of(wrappers: tuple[str, ...]) -> tuple[int, ...]:
    return (2,) * wrappers.count("Stacked(P)") + (2, 2)


def build(base: str, *wrappers: str) -> Term:
    """The base in the wrappers, from the inside to the outside."""
    term, inside = BASES[base], ()
    for name in wrappers:
        inside = (*inside, name)
        term = WRAPPERS[name](term, shape_of(inside))
    return term


def candidates(term: Term, z: Array, w: Array, seed: int) -> Array:
    """Points that might have a lower objective than w: around w, z and 0, with entries of z, 0 and w mixed."""
    rng = np.random.default_rng(seed)
    zero, shape = np.zeros_like(z), z.shape
    clouds = [
        center + scale * rng.normal(size=(60, *shape)) * (rng.uniform(size=(60, *shape)) < 0.6)
        for center in (w, z, zero)
        for scale in (1e-4, 0.01, 0.1, 1.0)
    ]
    single = [
        w + size * unit.reshape(shape) for unit in np.eye(z.size) for size in (-0.1, -0.01, -1e-3, 1e-3, 0.01, 0.1)
    ]
    single += [np.where(unit.reshape(shape) > 0, other, w) for unit in np.eye(z.size) for other in (0, z)]
    signs = rng.uniform(size=(100, *shape)) < 0.5
    mixed = [np.where(signs, w, zero), np.where(signs, w, z), np.where(signs, z, zero)]
    shrunk = [np.sign(z) * np.maximum(np.abs(z) - t, 0) for t in np.linspace(0, 2, 41)]
    lines = [w * s for s in np.linspace(0, 1.5, 61)] + [z * s for s in np.linspace(0, 1, 41)]
    rows = [np.array(x) * rng.uniform(0, 1.2, (*shape[:-1], 1)) for x in (w, z) for _ in range(60)]
    points = np.concatenate([*clouds, *mixed, np.array(single + shrunk + lines + rows)])
    return np.concatenate([points, term.into(points)])
