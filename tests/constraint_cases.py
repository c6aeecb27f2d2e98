"""The table of constraints: one entry a set and setting, with an oracle in NumPy float64, by bisection."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import scipy.optimize

import jaxreg

Array = np.ndarray


def groups(project: Callable[[Array], Array], axis: Any) -> Callable[[Array], Array]:
    """Apply a projection of vectors to the groups along `axis`."""

    def apply(z: Array) -> Array:
        axes = tuple(range(z.ndim)) if axis is None else tuple(np.atleast_1d(axis) % z.ndim)
        order = (*(i for i in range(z.ndim) if i not in axes), *axes)
        moved = np.transpose(z, order)
        rows = moved.reshape(-1, int(np.prod([z.shape[i] for i in axes])))
        return np.transpose(np.array([project(row) for row in rows]).reshape(moved.shape), np.argsort(order))

    return apply


def simplex(z: Array, total: float, step: Array | float = 1.0) -> Array:
    low, high = ((z - total) / step).min(), (z / step).max()
    low -= 1.0
    for _ in range(200):
        theta = (low + high) / 2
        low, high = (theta, high) if np.maximum(z - theta * step, 0).sum() > total else (low, theta)
    return np.maximum(z - high * step, 0)


def l1_ball(z: Array, radius: float, step: Array | float = 1.0) -> Array:
    return z if np.abs(z).sum() <= radius else np.sign(z) * simplex(np.abs(z), radius, step)


def ball(z: Array, radius: float, step: Array | float = 1.0) -> Array:
    if np.linalg.norm(z) <= radius:
        return z
    step = np.broadcast_to(step, z.shape)

    def excess(t: float) -> float:
        return float(np.linalg.norm(z / (1 + np.exp(t) * step)) - radius)

    return z / (1 + np.exp(scipy.optimize.brentq(excess, -60, 100, xtol=1e-14, rtol=1e-14)) * step)


def spectral(z: Array, radius: float) -> Array:
    u, s, vh = np.linalg.svd(z, full_matrices=False)
    return (u * np.minimum(s, radius)[..., None, :]) @ vh


def isometry(z: Array, scale: float) -> Array:
    u, _, vh = np.linalg.svd(z, full_matrices=False)
    return scale * u @ vh


def low_rank(z: Array, k: int) -> Array:
    u, s, vh = np.linalg.svd(z, full_matrices=False)
    return (u[..., :k] * s[..., None, :k]) @ vh[..., :k, :]


def largest(z: Array, k: float, step: Array | float = 1.0) -> Array:
    """The k largest z²/step of a vector stay, rounded up; the first of equal ones."""
    stay = np.argsort(-(z**2) / step, kind="stable")[: int(np.ceil(k))]
    return np.where(np.isin(np.arange(z.size), stay), z, 0.0)


def blockwise(z: Array, n: int, m: int, step: Array | float = 1.0) -> Array:
    """`largest` of every m along axis 0."""
    step = np.broadcast_to(step, z.shape)
    blocks = [(z[i : i + m], step[i : i + m]) for i in range(0, len(z), m)]
    columns = [[largest(b[c], n, s[c]) for c in columns_of(b)] for b, s in blocks]
    return np.concatenate([np.stack(c, -1).reshape(b.shape) for c, (b, _) in zip(columns, blocks, strict=True)])


def columns_of(z: Array) -> list[tuple[slice | int, ...]]:
    return [(slice(None), *place) for place in np.ndindex(z.shape[1:])]


def isotonic(z: Array, step: Array | float = 1.0) -> Array:
    """The min-max formula: the largest over beginnings of the least over ends of the means of z, weighted by 1/step."""
    c, places = 1 / np.broadcast_to(step, z.shape), range(len(z))

    def mean(j: int, k: int) -> float:
        return float((c * z)[j : k + 1].sum() / c[j : k + 1].sum())

    return np.array([max(min(mean(j, k) for k in places[i:]) for j in places[: i + 1]) for i in places])


@dataclasses.dataclass(frozen=True)
class Case:
    """What the properties need to know of a constraint."""

    constraint: jaxreg.Constraint  # so narrow that normal random numbers of scale 2 lie outside
    project: Callable[[Array], Array]  # the nearest point, NumPy float64
    metric: Callable[[Array, Array], Array] | None = None  # the projection of one vector in a diagonal metric
    convex: bool = True
    shapes: tuple[tuple[int, ...], ...] = ((3, 4), (7,), (2, 3, 2), (1,))
    point: Array = dataclasses.field(default_factory=lambda: np.zeros((3, 4)))  # in the set, exactly
    outwards: float | Array = 1.0  # times a large number and added to `point`, it leads out of the set
    has_interior: bool = True  # then point + 1e-12 is in the set too

    def __str__(self) -> str:
        return repr(self.constraint)


RANK2 = ((3, 4), (5, 2), (1, 3))
CASES = (
    Case(jaxreg.NonNegative(), lambda z: np.maximum(z, 0), lambda z, s: np.maximum(z, 0), outwards=-1.0),
    Case(jaxreg.Box(-0.5, 1.25), lambda z: np.clip(z, -0.5, 1.25), lambda z, s: np.clip(z, -0.5, 1.25)),
    Case(jaxreg.Box(None, 0.75), lambda z: np.minimum(z, 0.75), lambda z, s: np.minimum(z, 0.75)),
    Case(jaxreg.MaxNorm(1.5), groups(lambda z: ball(z, 1.5), None), lambda z, s: ball(z, 1.5, s)),
    Case(jaxreg.MaxNorm(1.5, axis=(0, -1)), groups(lambda z: ball(z, 1.5), (0, -1)), shapes=(*RANK2, (2, 3, 2))),
    Case(jaxreg.MaxNorm(1.5, axis=0), groups(lambda z: ball(z, 1.5), 0)),
    Case(jaxreg.Monotone(), groups(isotonic, -1), isotonic, outwards=-np.arange(4.0)),
    Case(
        jaxreg.Monotone(0, increasing=False),
        groups(lambda z: -isotonic(-z), 0),
        lambda z, s: -isotonic(-z, s),
        outwards=np.arange(3.0)[:, None],
    ),
    Case(
        jaxreg.UnitNorm(-1),
        groups(lambda z: z / np.linalg.norm(z), -1),
        convex=False,
        point=np.eye(3, 4),
        has_interior=False,
    ),
    Case(
        jaxreg.UnitNorm(0, 2.5),
        groups(lambda z: 2.5 * z / np.linalg.norm(z), 0),
        convex=False,
        point=2.5 * np.eye(4)[:3] + 2.5 * np.eye(3, 4, 3),
        has_interior=False,
    ),
    Case(jaxreg.L1Ball(1.5), groups(lambda z: l1_ball(z, 1.5), None), lambda z, s: l1_ball(z, 1.5, s)),
    Case(jaxreg.L1Ball(1.5, axis=(1,)), groups(lambda z: l1_ball(z, 1.5), 1), shapes=(*RANK2, (2, 3, 2))),
    Case(
        jaxreg.Simplex(),
        groups(lambda z: simplex(z, 1.0), -1),
        lambda z, s: simplex(z, 1.0, s),
        point=np.eye(3, 4),
        has_interior=False,
    ),
    Case(
        jaxreg.Simplex(2.5, axis=None),
        groups(lambda z: simplex(z, 2.5), None),
        point=2.5 * np.eye(12)[0].reshape(3, 4),
        has_interior=False,
    ),
    Case(jaxreg.SpectralBall(1.5), lambda z: spectral(z, 1.5), shapes=RANK2),
    Case(
        jaxreg.Stiefel(1.5),
        lambda z: isometry(z, 1.5),
        convex=False,
        shapes=RANK2,
        point=1.5 * np.eye(3, 4),
        has_interior=False,
    ),
    Case(
        jaxreg.Rank(1),
        lambda z: low_rank(z, 1),
        convex=False,
        shapes=RANK2,
        point=np.diag([1.0, 0.0, 0.0, 0.0])[:3],
        has_interior=False,
    ),
    Case(
        jaxreg.TopK(0.3, axis=1),
        groups(lambda z: largest(z, 0.3 * z.size), 1),
        convex=False,
        shapes=(*RANK2, (2, 3, 2)),
        has_interior=False,
    ),
    Case(
        jaxreg.TopK(0.3),
        groups(lambda z: largest(z, 0.3 * z.size), None),
        lambda z, s: largest(z, 0.3 * z.size, s),
        convex=False,
        has_interior=False,
    ),
    Case(
        jaxreg.NofM(1, 2),
        lambda z: blockwise(z, 1, 2),
        lambda z, s: blockwise(z, 1, 2, s),
        convex=False,
        has_interior=False,
    ),
)
INSTANCES = {type(case.constraint): case.constraint for case in CASES}  # one of each class, the last


def in_few_programs(function: Callable[..., Any], cases: Sequence[Case] = CASES) -> Callable[..., Any]:
    """`function(constraint, *arrays)`, compiled for four constraints at once: less time than one program for each, and
    than one for all, over which the compiler goes again as often as it changes something in one of them.

    A constraint of other coefficients has the structure of one of them, and takes its place. What ran once for the same
    numbers is read again.
    """
    table = {jax.tree.structure(case.constraint): case.constraint for case in cases}
    names = list(table)
    programs: dict[Any, Callable[..., Any]] = {}
    for few in (names[first : first + 4] for first in range(0, len(names), 4)):
        programs |= dict.fromkeys(few, _in_one_program(function, {name: table[name] for name in few}))
    return lambda constraint, *arrays: programs[jax.tree.structure(constraint)](constraint, *arrays)


def _in_one_program(function: Callable[..., Any], table: dict[Any, jaxreg.Constraint]) -> Callable[..., Any]:
    together = jax.jit(lambda constraints, *arrays: [function(c, *arrays) for c in constraints])
    results: dict[Any, Any] = {}

    def row(constraint: jaxreg.Constraint, *arrays: Any) -> Any:
        structure = jax.tree.structure(constraint)
        other = () if constraint == table[structure] else (structure, *jax.tree.leaves(constraint))
        numbers = tuple((a.shape, str(a.dtype), a.tobytes()) for a in map(np.asarray, arrays))
        key = (jax.config.jax_enable_x64, other, numbers)
        if key not in results:
            found = together(list((table | {structure: constraint}).values()), *arrays)
            results[key] = jax.tree.map(np.asarray, found)
        return results[key][list(table).index(structure)]

    return row
