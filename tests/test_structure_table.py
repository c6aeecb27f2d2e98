"""Every operation that asks what form a penalty has, over every penalty in every wrapper."""

import contextlib
import functools
import json
from collections.abc import Iterator
from typing import Any

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg
from jaxreg import L1, L2, Anchored, Box, Difference, Group, Huber, NonNegative, Stacked
from tests.structure_table import BASES, WRAPPERS, Array, Term, build, candidates, shape_of, total

pytestmark = pytest.mark.wide

ELEMENTWISE = {name for name, term in BASES.items() if term.entries is not None}
ELASTIC, CONVEX = {"L1", "L2", "L1L2"}, {"L1", "L2", "L1L2", "Huber"}
RADIAL = {"Group", "Group(MCP)", "MaxNorm", "L1Ball"}  # only norms of groups count, and 0 is best
INTERVALS = {"NonNegative", "Box"}
NO_PROX = {"HoyerSquare"}
ONE_STEP = {"Group(MCP)", "SLOPE", "Spectral", "SpectralNorm", "SoftOrthogonal", "UnitNorm", "SpectralBall"}
CHAIN = {"Difference", "Monotone"}  # in a sum with a step for all entries
EXACT = {
    "P + L1": ELASTIC | RADIAL | INTERVALS | CHAIN,
    "L1 + P": ELASTIC | RADIAL | INTERVALS | CHAIN,
    "NonNegative + P": ELEMENTWISE | RADIAL | INTERVALS | CHAIN,
    "P + Box": CONVEX | INTERVALS | CHAIN,
    "Anchored(P, weights)": ELEMENTWISE,
    "Weighted(P)": ELEMENTWISE | {"Group", "Group(MCP)"},
}
TAKING_FEW: dict[str, Any] = {
    "Anchored(P, weights)": lambda reg: Anchored(reg, 0.0, weights=1.0),
    "Weighted(P)": lambda reg: jaxreg.Weighted(reg, 1.0),
}
STEPS = {"one step": (0, 0.7), "a large step": (1, 3.0), "a metric": (1, None)}  # of which point, and how large


def points(shape: tuple[int, ...]) -> list[Array]:
    return [scale * np.random.default_rng(seed).normal(size=shape) for seed, scale in enumerate((0.6, 1.6))]


def metric(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(5).uniform(0.1, 3, shape)


@contextlib.contextmanager
def eager_around(base: str) -> Iterator[None]:
    """The wrappers run operation by operation, which compiles hardly anything; the prox inside is compiled, once."""
    cls = type(BASES[base].regularizer)
    plain = cls.prox

    @functools.wraps(plain)
    def prox(self: Any, z: Any, step: Any = 1.0) -> jax.Array:
        with jax.disable_jit(False):
            return plain(self, z, step)

    with jax.enable_x64(True), jax.disable_jit(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(cls, "prox", prox)
        yield


def check_value_and_prox(term: Term, shape: tuple[int, ...], exact: dict[str, bool]) -> None:
    reg = term.regularizer
    for z in points(shape):
        np.testing.assert_allclose(float(reg(jnp.asarray(z))), term.value(z[None])[0], rtol=1e-9)
    for name, (point, number) in STEPS.items():
        z, step = points(shape)[point], metric(shape) if number is None else number
        if not exact[name]:
            with pytest.raises(NotImplementedError):
                jax.eval_shape(lambda reg, z, step=step: reg.prox(z, step), reg, z)
            continue
        w = np.asarray(reg.prox(jnp.asarray(z), step))
        others = candidates(term, z, w, point)
        objectives = term.value(others) + total((others - z) ** 2 / step) / 2
        assert term.value(w[None])[0] + total((w - z)[None] ** 2 / step)[0] / 2 <= objectives.min() + 1e-8, name
    if any(exact.values()):  # the answer does not hang on the value of a leaf
        jax.eval_shape(lambda reg, z: reg.prox(z, 0.7), reg, z)


@pytest.mark.parametrize("base", BASES)
def test_value_and_prox_in_every_wrapper(base: str) -> None:
    with eager_around(base):
        for name in WRAPPERS:
            if name in TAKING_FEW and base not in EXACT[name]:
                with pytest.raises(TypeError, match=r"\w+\(\w+, weights(=...)?\)`: weights need an elementwise"):
                    TAKING_FEW[name](BASES[base].regularizer)
                continue
            ok = base not in NO_PROX and base in EXACT.get(name, BASES)
            one_step = base in ONE_STEP or (base in CHAIN and name in EXACT)
            exact = {"one step": ok, "a large step": ok, "a metric": ok and not one_step}
            check_value_and_prox(build(base, name), shape_of((name,)), exact)


@pytest.mark.parametrize(
    ("base", "wrappers", "exact"),
    [
        ("L1", ("2 * P", "Anchored(P, weights)"), True),
        ("L1", ("P + L2", "Anchored(P, weights)"), True),
        ("L1", ("P + L2", "Anchored(P)"), True),
        ("Group", ("L1 + P", "2 * P"), True),
        ("Group", ("2 * P", "L1 + P"), True),
        ("Group", ("Stacked(P)", "L1 + P"), True),
        ("Group", ("L1 + P", "Stacked(P)"), True),
        ("Group", ("P + L2", "NonNegative + P"), True),
        ("Group", ("Anchored(P)", "P + L2"), True),
        ("Group", ("Anchored(P)", "L1 + P"), False),
        ("Group", ("Anchored(P)", "NonNegative + P"), False),
        ("L1", ("Anchored(P)", "L1 + P"), False),
        ("L1", ("Anchored(P)", "P + L2"), True),
        ("NonNegative", ("2 * P", "P + L1"), True),
        ("NonNegative", ("Anchored(P)", "P + L1"), True),
        ("Box", ("Anchored(P)", "NonNegative + P"), True),
        ("Huber", ("NonNegative + P", "P + Box"), True),
        ("Huber", ("Stacked(P)", "P + Box"), True),
        ("MCP", ("Stacked(P)", "NonNegative + P"), True),
        ("MCP", ("Matrix(P)", "NonNegative + P"), True),
        ("Huber", ("Matrix(P)", "P + Box"), True),
        ("Box", ("Matrix(P)", "P + L1"), True),
        ("L1", ("Matrix(P)", "Anchored(P, weights)"), True),
        ("Group", ("Matrix(P)", "L1 + P"), True),
        ("Group", ("L1 + P", "Matrix(P)"), True),
        ("MaxNorm", ("Matrix(P)", "Stacked(P)"), True),
        ("Group", ("Anchored(P)", "Matrix(P)"), True),
        ("MCP", ("2 * P", "NonNegative + P"), True),
        ("MCP", ("NonNegative + P", "P + Box"), False),
        ("L1Ball", ("L1 + P", "NonNegative + P"), True),
        ("Simplex", ("2 * P", "P + L2"), True),
        ("L1", ("Weighted(P)", "2 * P"), True),
        ("L1L2", ("Weighted(P)", "NonNegative + P"), True),
        ("L2", ("Weighted(P)", "P + L1"), True),
        ("L2", ("Weighted(P)", "P + Box"), True),
        ("L1", ("Weighted(P)", "Stacked(P)"), True),
        ("L1", ("Weighted(P)", "Anchored(P)"), True),
        ("Group", ("Weighted(P)", "L1 + P"), True),
        ("Group", ("Weighted(P)", "P + L2"), True),
    ],
    ids=str,
)
def test_value_and_prox_in_two_wrappers(base: str, wrappers: tuple[str, str], exact: bool) -> None:
    with eager_around(base):
        check_value_and_prox(build(base, *wrappers), shape_of(wrappers), dict.fromkeys(STEPS, exact))


def test_the_check_sees_what_is_not_exact() -> None:
    """One after the other for L1 + Anchored(L1), for a box after a group, and for a box after L0."""
    rng = np.random.default_rng(0)
    for first, second in (("L1", ("Anchored(P)", "P + L1")), ("Group", ("P + Box",)), ("L0", ("P + Box",))):
        term, shape, shortfalls = build(first, *second), (2, 2), []
        inner, outer = term.regularizer.terms
        for _ in range(30):
            z = 1.5 * rng.normal(size=shape)
            with jax.enable_x64(True):
                w = np.asarray(outer.prox(inner.prox(z, 1.5), 1.5))
            others = candidates(term, z, w, 0)
            best = (term.value(others) + total((others - z) ** 2) / 3).min()
            shortfalls.append(term.value(w[None])[0] + total((w - z)[None] ** 2)[0] / 3 - best)
        assert max(shortfalls) > 1e-3, first


# ------------------------------------------------------------------------------------------------- parts, scalar, reach


@pytest.mark.parametrize("base", sorted(ELEMENTWISE))
def test_elementwise_penalties_act_on_norms_and_singular_values(base: str) -> None:
    z = points((2, 2))[1]
    with jax.enable_x64(True), jax.disable_jit():
        for wrappers in ((), ("2 * P",), ("P + L2",), ("L1 + P", "2 * P")):
            term = build(base, *wrappers)
            rho = term.regularizer.scalar()
            assert rho is not None and term.entries is not None and rho.convex == (base in CONVEX)
            a = np.array([0.2, 0.7, 1.9])
            np.testing.assert_allclose(rho.profile(jnp.asarray(a)), term.entries(a), rtol=1e-12)
            if base != "L0":
                ahead, behind = term.entries(a + 1e-6), term.entries(a - 1e-6)
                np.testing.assert_allclose(rho.slope(jnp.asarray(a)), (ahead - behind) / 2e-6, rtol=1e-8, atol=1e-9)
            for structure, sizes in (
                (Group(term.regularizer, axis=-1), np.linalg.norm(z, axis=-1)),
                (jaxreg.Spectral(term.regularizer), np.linalg.svd(z, compute_uv=False)),
                (Difference(term.regularizer), np.abs(np.diff(z))),
            ):
                np.testing.assert_allclose(structure(jnp.asarray(z)), term.entries(sizes).sum(), rtol=1e-12)
            if base in ELASTIC or not wrappers or wrappers[0] != "L1 + P":
                grid = np.linspace(0, 3, 300_001)
                shrunk = np.linalg.norm(Group(term.regularizer, axis=-1).prox(jnp.asarray(z), 0.9), axis=-1)
                for norm, r in zip(np.linalg.norm(z, axis=-1), shrunk, strict=True):
                    best = (0.9 * term.entries(grid) + (grid - norm) ** 2 / 2).min()
                    assert 0.9 * term.entries(r[None])[0] + (r - norm) ** 2 / 2 <= best + 1e-8


def test_parts_are_merged_through_every_wrapper() -> None:
    group, box = Group(L1(0.3)), Box(-1.0, 1.0)
    inside = 2 * (L1(0.1) + 3 * (L2(0.2) + group) + NonNegative()) + Stacked(L1(0.5) + box + jaxreg.MCP())
    parts = inside.parts()
    np.testing.assert_allclose([parts.l1, parts.l2, parts.nonnegative], [0.7, 1.2, 2.0])
    assert parts.intervals == (Stacked(box),) and parts.rest == (2 * (3.0 * group), jaxreg.MCP())
    assert (L1(0.1) + 2 * L2(0.3)).parts().is_elastic and (2 * L2(0.3)).parts().is_l2
    anchor = Anchored(NonNegative(), 1.0)
    assert anchor.parts().intervals == (anchor,) and Anchored(L1(), 1.0).parts().rest == (Anchored(L1(), 1.0),)
    deep: jaxreg.Regularizer = L1(1.0)
    for _ in range(60):
        deep = 1.0 * deep + L2(0.0)
    assert deep.parts().l1 == 1.0 and deep.parts().is_elastic  # each level asks the one below once
    assert deep.scalar() is not None


def test_scalars_are_summed_in_the_dtype_of_the_moduli() -> None:
    rho = (2 * L1(0.1) + Huber(0.3)).scalar()
    assert rho is not None
    for a in (jnp.ones(2), jnp.array([jnp.inf, 1.0])):
        assert rho.profile(a).dtype == rho.slope(a).dtype == jnp.float32
        assert not jnp.isnan(rho.profile(a)).any() and not jnp.isnan(rho.slope(a)).any()


def test_reach_is_the_widest_of_the_terms() -> None:
    for reach, regularizers in {
        0: (L1(), 2 * jaxreg.MCP(), Box(), L1() + NonNegative(), Anchored(2 * L1(), 1.0), Stacked(L1()), jaxreg.Sum()),
        1: (Group(L1()), 2 * (L1() + Group(L1())), Stacked(Group(L1())), jaxreg.MaxNorm(), L1() + jaxreg.L1Ball(1.0)),
        2: (2 * Difference(L1()), Stacked(jaxreg.Monotone() + L1()), Difference(jaxreg.Weighted(L1(), jnp.ones(3)))),
        3: (
            *(Anchored(Group(L1()), 1.0), L1() + jaxreg.Spectral(L1()), jaxreg.UnitNorm(0), jaxreg.Simplex()),
            *(Difference(L2()), Difference(L1(), order=2), Anchored(Difference(L1()), 1.0)),
        ),
    }.items():
        assert [regularizer.reach for regularizer in regularizers] == [reach] * len(regularizers)


def test_a_factor_of_zero_switches_a_penalty_off() -> None:
    penalties = (NonNegative(), Box(-0.1, 0.1), jaxreg.MaxNorm(0.1), L1(1.0), Group(L1(1.0)))
    z = np.float32([[-3.0, 2.0], [0.1, -0.2]])

    @jax.jit
    def switched_off(z: jax.Array) -> Any:
        difference = (0 * Difference(L1(1.0))).approximate_prox(0 * z, z, jnp.ones_like(z), 2)
        soft = L1(0.5).prox(z)
        return difference, soft, [((0 * p).prox(z), (0 * p)(z), (0 * p + L1(0.5)).prox(z)) for p in penalties]

    difference, soft, rest = switched_off(z)
    np.testing.assert_array_equal(difference, z)
    for prox, value, beside in rest:
        np.testing.assert_array_equal(prox, z)
        assert value == 0
        np.testing.assert_array_equal(beside, soft)


def test_weights_of_zero_leave_entries_free_at_an_infinite_step() -> None:
    reg = Anchored(L1(0.1) + L2(0.1), jnp.zeros(3), weights=jnp.array([0.0, 1.0, 2.0]))
    np.testing.assert_array_equal(reg.prox(jnp.ones(3), jnp.inf), [1, 0, 0])
    with pytest.raises(ValueError, match=r"Anchored\(weights=...\)` must be .* non-negative"):
        Anchored(L1(), 0.0, weights=np.array([1.0, -1.0]))


def test_nan_and_complex_numbers_in_sums() -> None:
    reg = NonNegative() + L1(0.1) + Group(L1(0.1))
    w = reg.prox(jnp.array([[jnp.nan, -2.0], [1.0, 1.0]]))
    assert jnp.isnan(w[:, 0]).all() and not jnp.isnan(w[:, 1]).any()
    z = jnp.array([[3 + 4j, 0.1j]])
    np.testing.assert_allclose((L1(1.0) + Group(L1(1.0))).prox(z), [[z[0, 0] * 0.6, 0]], rtol=1e-6)
    for real in (reg, L1(0.1) + Box(0.0, 1.0)):
        with pytest.raises(TypeError, match="takes real numbers"):
            real.prox(z)


@pytest.mark.parametrize("base", BASES)
def test_json(base: str) -> None:
    few = {name for name in TAKING_FEW if base not in EXACT[name]}
    for wrappers in ((), *((name,) for name in WRAPPERS if "Anchored" not in name and name not in few)):
        reg = build(base, *wrappers).regularizer
        assert jaxreg.deserialize(json.loads(json.dumps(jaxreg.serialize(reg)))) == reg


# --------------------------------------------------------------------------------------------------------- inner steps

Z, STEP = points((2, 4))[1], metric((2, 4))
ANCHOR = np.random.default_rng(3).normal(size=(2, 4))


def _tv(w: Any) -> Any:
    return cvxpy.sum(cvxpy.abs(cvxpy.diff(w, axis=1)))


@pytest.mark.parametrize(
    ("reg", "value"),
    [
        (Difference(2 * Huber(0.2, 0.5)), lambda w: 0.4 * cvxpy.sum(cvxpy.huber(cvxpy.diff(w, axis=1), 0.5))),
        (Anchored(Difference(L1(0.2)), ANCHOR), lambda w: 0.2 * _tv(w - ANCHOR)),
        (L2(0.3) + Difference(L1(0.2)), lambda w: 0.3 * cvxpy.sum_squares(w) + 0.2 * _tv(w)),
        (2 * (L2(0.1) + L2(0.2) + Difference(L1(0.2))), lambda w: 0.6 * cvxpy.sum_squares(w) + 0.4 * _tv(w)),
        (Stacked(Difference(L1(0.2))), lambda w: 0.2 * _tv(w)),
        (jaxreg.Sum((Difference(L1(0.2)),)), lambda w: 0.2 * _tv(w)),
        (L1(0.3) + Difference(L1(0.2)), lambda w: 0.3 * cvxpy.norm1(w) + 0.2 * _tv(w)),
        (Anchored(L2(0.3) + jaxreg.Spectral(L1(0.4)), ANCHOR), None),
    ],
    ids=[
        *("Huber", "Anchored", "L2 + P", "factor * (L2 + P)", "Stacked", "Sum of one", "fused lasso"),
        "Anchored(L2 + Spectral)",
    ],
)
def test_inner_steps_reach_the_minimum(reg: jaxreg.Regularizer, value: Any) -> None:
    if value is None:

        def value(w: Any) -> Any:
            return 0.3 * cvxpy.sum_squares(w - ANCHOR) + 0.4 * cvxpy.normNuc(w - ANCHOR)

    w = cvxpy.Variable((2, 4))
    quadratic = cvxpy.sum(cvxpy.multiply(1 / STEP, cvxpy.square(w - Z))) / 2
    cvxpy.Problem(cvxpy.Minimize(value(w) + quadratic)).solve(solver="CLARABEL")
    with jax.enable_x64(True):
        z, step = jnp.asarray(Z), jnp.asarray(STEP)
        found = jax.jit(lambda z, step: reg.approximate_prox(0 * z, z, step, 3000))(z, step)
    np.testing.assert_allclose(found, w.value, atol=1e-4)
    tx = jaxreg.proximal(optax.sgd(1.0), reg, 1.0, lambda state, params: STEP, inner_steps=3)
    updates, _ = jax.eval_shape(tx.update, jnp.zeros((2, 4)), tx.init(jnp.zeros((2, 4))), jnp.zeros((2, 4)))
    assert updates.shape == (2, 4)


def test_an_entry_without_a_step_stays_and_holds_nothing_else() -> None:
    step = np.where(np.arange(8).reshape(2, 4) % 3 == 0, 0, STEP)
    u, _, vh = np.linalg.svd(Z, full_matrices=False)
    at_rest = Z + step * 0.3 * (u @ vh)  # after a step from Z, where the loss has the slope −∇(0.3·nuclear norm)
    nuclear, ball = jaxreg.Spectral(L1(0.3)), jaxreg.SpectralBall(0.5)
    run = jax.jit(lambda reg, z, step: reg.approximate_prox(jnp.asarray(Z), z, step, 2))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(run(nuclear, Z, step) == Z, step == 0)
        np.testing.assert_allclose(run(nuclear, at_rest, step), Z, atol=1e-12)
        np.testing.assert_array_equal(run(nuclear, at_rest, 0 * step), at_rest)
        assert np.linalg.norm(run(ball, Z, step), 2) < 0.5 + 1e-12  # a set goes first


def test_inner_steps_of_complex_numbers_and_of_a_wrong_axis() -> None:
    z, step = jnp.asarray(Z, jnp.float32), jnp.asarray(STEP, jnp.float32)
    turned = Difference(L1(0.2)).approximate_prox(z, z * (0.6 + 0.8j), step, 50)
    np.testing.assert_allclose(turned, Difference(L1(0.2)).approximate_prox(z, z, step, 50) * (0.6 + 0.8j), atol=1e-5)
    with pytest.raises(ValueError, match="must name different axes"):
        Difference(L1(0.2), axis=3).approximate_prox(z, z, step, 2)
    for reg in (Difference(jaxreg.MCP()), L1() + Difference(L2()), NonNegative() + Difference(L1(), order=2)):
        with pytest.raises(NotImplementedError):
            reg.approximate_prox(z, z, step, 2)


# ------------------------------------------------------------------------------------------------- classes of your own


@jaxreg.register(package="tests.structure_table")
class Root(jaxreg.Elementwise):
    """ρ(a) = c·(√(1 + a²) − 1)."""

    strength: float = 0.5

    convex = True

    def profile(self, a: jax.Array) -> jax.Array:
        return self.strength * (jnp.sqrt(1 + a**2) - 1)

    def slope(self, a: jax.Array) -> jax.Array:
        return self.strength * a / jnp.sqrt(1 + a**2)

    def scalar_prox(self, a: jax.Array, step: jax.Array) -> jax.Array:
        c = step * self.strength

        def newton(_: Any, r: jax.Array) -> jax.Array:
            return r - (r + c * r / jnp.sqrt(1 + r**2) - a) / (1 + c / jnp.sqrt(1 + r**2) ** 3)

        return jax.lax.fori_loop(0, 12, newton, a / (1 + c))


class QuickRoot(Root):
    """The same, with a value and a proximal operator of its own."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.strength * jnp.sum(jnp.sqrt(1 + jnp.abs(x) ** 2) - 1)

    def prox(self, z: jax.Array, step: jax.Array) -> jax.Array:
        return jnp.sign(z) * self.scalar_prox(jnp.abs(z), step)


@jaxreg.register(package="tests.structure_table")
class HalfSpace(jaxreg.Constraint):
    """Σ w ≤ bound."""

    bound: float = 0.0

    def prox(self, z: jax.Array, step: jax.Array = 1.0) -> jax.Array:  # type: ignore[assignment]
        s = jnp.broadcast_to(step, z.shape)
        return z - s * jnp.maximum((jnp.sum(z) - self.bound) / jnp.sum(s), 0)


def _roots(a: Array) -> Array:
    return 0.5 * (np.sqrt(1 + a**2) - 1)


@pytest.mark.parametrize("mine", [Root(), QuickRoot()], ids=["Root", "QuickRoot"])
def test_an_elementwise_class_of_your_own(mine: jaxreg.Elementwise) -> None:
    own = Term(mine, lambda x: total(_roots(np.abs(x))), entries=lambda x: _roots(np.abs(x)))
    shape, everywhere = (2, 2), dict.fromkeys(STEPS, True)
    with jax.enable_x64(True), jax.disable_jit():
        for name in ("2 * P", "P + L2", "NonNegative + P", "P + Box", "Anchored(P)", "Anchored(P, weights)"):
            check_value_and_prox(WRAPPERS[name](own, shape), shape, everywhere)
        z = jnp.asarray(points(shape)[1])
        norms, sigma = np.linalg.norm(z, axis=0), np.linalg.svd(z, compute_uv=False)
        np.testing.assert_allclose(Group(2 * mine)(z), 2 * _roots(norms).sum(), rtol=1e-9)
        np.testing.assert_allclose(jaxreg.Spectral(mine)(z), _roots(sigma).sum(), rtol=1e-9)
        shrunk = np.linalg.svd(jaxreg.Spectral(mine).prox(z, 0.7), compute_uv=False)
        np.testing.assert_allclose(shrunk + 0.35 * shrunk / np.sqrt(1 + shrunk**2), sigma, rtol=1e-9)
        with pytest.raises(NotImplementedError, match=r"Group\((Quick)?Root\)"):
            Group(mine).prox(z, jnp.ones(shape))
        assert jnp.isfinite(Difference(mine).approximate_prox(z, z, jnp.ones(shape), 3)).all()
    with pytest.raises(NotImplementedError, match=r"`coefficient_max` knows L1.*Root\(strength=0.5\)"):
        jaxreg.coefficient_max(mine, jnp.ones(2))
    if type(mine) is Root:
        assert jaxreg.deserialize(json.loads(json.dumps(jaxreg.serialize(2 * mine + L1())))) == 2 * mine + L1()


def test_a_constraint_of_your_own() -> None:
    mine = HalfSpace(0.25)

    def value(x: Array) -> Array:
        return np.where(total(x) <= 0.25 + 1e-9, 0.0, np.inf)

    def into(x: Array) -> Array:
        return x - np.maximum(total(x) - 0.25, 0)[:, None, None] / 4

    own, everywhere = Term(mine, value, into), dict.fromkeys(STEPS, True)
    with jax.enable_x64(True), jax.disable_jit():
        for name in ("2 * P", "P + L2", "Anchored(P)"):
            check_value_and_prox(WRAPPERS[name](own, (2, 2)), (2, 2), everywhere)
    np.testing.assert_allclose(mine.violation(jnp.ones((2, 2))), 3.75 / 2, rtol=1e-6)
    assert float(mine(-jnp.ones((2, 2)))) == 0 and float((L1(0.5) + mine)(jnp.ones((2, 2)))) == jnp.inf
    for reg in (L1() + mine, NonNegative() + mine, mine + Box(0.0)):
        with pytest.raises(NotImplementedError, match="one after the other"):
            reg.prox(jnp.ones((2, 2)))
    assert jaxreg.deserialize(json.loads(json.dumps(jaxreg.serialize(mine + L2())))) == mine + L2()

    class NoProjection(jaxreg.Constraint):
        pass

    with pytest.raises(TypeError, match="abstract"):
        NoProjection()  # type: ignore[abstract]


# ------------------------------------------------------------------------------------------------------------ messages


@pytest.mark.parametrize(
    "call",
    [
        lambda c: (2 * jaxreg.OrthogonalRegularizer(c)).prox(jnp.ones((2, 2))),
        lambda c: jaxreg.coefficient_max(jaxreg.Lq(c), jnp.ones(2)),
        lambda c: jaxreg.coefficient_max(Box(c, 2 * c) + L1(), jnp.ones(2)),
        lambda c: Group(L1(), axis=c)(jnp.ones(2)),
        lambda c: Anchored(L1(), [c])(jnp.ones(2)),
        lambda c: L1().prox(jnp.ones(2), (c,)),
        lambda c: jaxreg.Sum((c,)),
    ],
)
def test_a_traced_value_is_named_by_its_shape(call: Any) -> None:
    with pytest.raises((NotImplementedError, TypeError), match=r"a traced value of shape \(\)") as caught:
        jax.eval_shape(call, 0.5)
    assert "Trace" not in str(caught.value)


def test_a_refused_sum_is_named_as_it_is_written() -> None:
    with pytest.raises(NotImplementedError, match=r"`\(L1 \+ factor \* Spectral\)\.prox`"):
        (L1() + 2 * jaxreg.Spectral(L1())).prox(jnp.ones((2, 2)))
    with pytest.raises(NotImplementedError, match=r"`\(Box \+ Group\)\.prox`.*write `NonNegative\(\)`"):
        (Box(0.0) + Group(L1())).prox(jnp.ones((2, 2)))
