"""TopK, NofM, Rank: brute force over supports, equal magnitudes, counts, schedules, sums, what is refused."""

import itertools
import json
import pickle
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg
from jaxreg import L1, L2, NofM, NonNegative, Rank, TopK, UnitNorm
from tests.cases import sample

pytestmark = pytest.mark.wide

Array = np.ndarray


@jax.jit
def prox(reg: Any, z: jax.Array, step: Any = 1.0) -> jax.Array:
    return reg.prox(z, step)


def least(z: Array, step: Array, allowed: Any, l1: float = 0.0, l2: float = 0.0) -> float:
    """min Σ l1·|w_i| + l2·w_i² + (w_i − z_i)²/(2τ_i) over all supports that are allowed, each entry by itself."""
    w = np.sign(z) * np.maximum(np.abs(z) - l1 * step, 0) / (1 + 2 * l2 * step)
    stays, goes = l1 * np.abs(w) + l2 * w**2 + (w - z) ** 2 / (2 * step), z**2 / (2 * step)
    supports = (np.reshape(s, z.shape) for s in itertools.product((False, True), repeat=z.size))
    return min(float(np.where(s, stays, goes).sum()) for s in supports if allowed(s))


def at_most(n: int, axis: Any = None) -> Any:
    return lambda support: (support.sum(axis=axis) <= n).all()


def in_blocks(n: int, m: int) -> Any:
    return lambda support: all((support[i : i + m].sum(0) <= n).all() for i in range(0, len(support), m))


SETS = {
    "count": (TopK(4), at_most(4)),
    "none": (TopK(0), at_most(0)),
    "more than there are": (TopK(99), at_most(99)),
    "share": (TopK(0.5), at_most(5)),
    "share of rows": (TopK(0.5, axis=1), at_most(1, 1)),
    "columns": (TopK(2, axis=0), at_most(2, 0)),
    "1:3, a short block": (NofM(1, 3), in_blocks(1, 3)),
    "2:4, a short block": (NofM(2, 4), in_blocks(2, 4)),
    "a block longer than the axis": (NofM(2, 8), in_blocks(2, 8)),
}


@pytest.mark.core
@pytest.mark.parametrize(("reg", "allowed"), SETS.values(), ids=SETS)
def test_no_support_is_better(reg: Any, allowed: Any) -> None:
    for seed, metric in enumerate((False, True, True)):
        z = sample((5, 2), seed).round(seed)  # whole numbers, of which many are equal, first
        step = np.exp(sample((5, 2), seed + 9)) if metric else np.ones((5, 2))
        w = np.asarray(prox(reg, np.float32(z), np.float32(step) if metric else 1.0))
        assert allowed(w != 0)
        np.testing.assert_array_equal(w[w != 0], np.float32(z)[w != 0])
        np.testing.assert_allclose(((w - z) ** 2 / (2 * step)).sum(), least(z, step, allowed), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "terms"),
    [(lambda s: L1(0.4) + s, (0.4, 0.0)), (lambda s: s + L2(0.3) + L1(0.2), (0.2, 0.3)),
     (lambda s: NonNegative() + s + L2(0.3), (0.0, 0.3))],
    ids=["L1", "L1 and L2", "NonNegative and L2"],
)  # fmt: skip
def test_sums_are_exact(make: Any, terms: tuple[float, float]) -> None:
    for s, allowed in (SETS["count"], SETS["2:4, a short block"]):
        z, step = sample((5, 2)), np.exp(sample((5, 2), 1))
        reg = make(s)
        z_of = np.maximum(z, 0) if "NonNegative" in repr(reg) else z
        for tau in (np.full((5, 2), 0.7), step):
            w = np.asarray(prox(reg, np.float32(z), 0.7 if tau is not step else np.float32(tau)), float)
            assert allowed(w != 0) and (w[z < 0] == 0).all() == (z_of is not z)
            found = (terms[0] * np.abs(w) + terms[1] * w**2 + (w - z_of) ** 2 / (2 * tau)).sum()
            np.testing.assert_allclose(found, least(z_of, tau, allowed, *terms), rtol=1e-5)
    with pytest.raises(NotImplementedError, match="no exact"):
        (jaxreg.Box(-1.0, 1.0) + s).prox(z)


INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        ([1.0, -1.0, 1.0, 1.0], [1.0, -1.0, 0.0, 0.0]),
        ([0.5, -1.0, 1.0, 1.0], [0.0, -1.0, 1.0, 0.0]),
        ([-0.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 2.0]),
        ([-INF, 3.0, INF, INF], [-INF, 0.0, INF, 0.0]),
        ([NAN, 3.0, 2.0, 1.0], [NAN, 3.0, 0.0, 0.0]),
        ([NAN, NAN, NAN, 1.0], [NAN, NAN, NAN, 0.0]),
        ([3e38, 1e-30, 3e38, 3.1e38], [3e38, 0.0, 0.0, 3.1e38]),
        ([1.0, 1 + 2**-23, 1.0, 0.9], [1.0, 1 + 2**-23, 0.0, 0.0]),
    ],
    ids=str,
)
def test_of_equal_ones_the_first_stay(z: list[float], expected: list[float]) -> None:
    for reg in (TopK(2), TopK(0.5), NofM(2, 4)):
        np.testing.assert_array_equal(prox(reg, np.float32(z)), np.float32(expected))
    np.testing.assert_array_equal(prox(TopK(2, axis=1), np.float32([z, z])), np.float32([expected] * 2))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_many_equal_ones_are_never_too_many(dtype: str) -> None:
    """A thousand entries of seven magnitudes, in the order of the array also where a group has two axes."""
    z = jnp.asarray(np.random.default_rng(0).integers(-6, 7, (20, 50)) / 4, dtype)
    wide = np.abs(np.asarray(z, float))
    w = np.asarray(prox(TopK(317), z), float)
    stay = np.argsort(-wide.ravel(), kind="stable")[:317]
    np.testing.assert_array_equal(np.flatnonzero(w), np.sort(stay))
    blocks = np.asarray(prox(NofM(3, 8, -1), z), float)
    for start in range(0, 50, 8):
        part = wide[:, start : start + 8]
        first = np.sort(np.argsort(-part, axis=1, kind="stable")[:, :3], axis=1)
        for row, places, values in zip(blocks[:, start : start + 8], first, part, strict=True):
            np.testing.assert_array_equal(np.flatnonzero(row), [i for i in places if values[i]])


def test_long_blocks() -> None:
    """As many neighbours would not compile; the last block is short."""
    z = sample((100, 2)).round(1)
    w = np.asarray(prox(NofM(5, 40), np.float32(z)))
    for block, found in zip(np.split(z, [40, 80]), np.split(w, [40, 80]), strict=True):
        for column in range(2):
            stay = np.argsort(-np.abs(block[:, column]), kind="stable")[:5]
            np.testing.assert_array_equal(np.flatnonzero(found[:, column]), np.sort(stay))
    assert prox(NofM(5, 40), np.zeros((0, 2), np.float32)).shape == (0, 2)


def test_double_precision_and_complex_numbers() -> None:
    with jax.enable_x64(True):
        z = 1 + np.array([0.0, 3e-16, 2e-15, 1e-15])
        np.testing.assert_array_equal(prox(TopK(2), z) != 0, [0, 0, 1, 1])
        np.testing.assert_array_equal(prox(NofM(2, 4), z) != 0, [0, 0, 1, 1])
    z = np.complex64([3 + 4j, 4.5, -1j, 0])
    for reg in (TopK(1), NofM(1, 4)):
        np.testing.assert_array_equal(prox(reg, z), [3 + 4j, 0, 0, 0])
    x = np.complex64(sample((4, 3)) + 1j * sample((4, 3), 1))
    u, s, vh = np.linalg.svd(x)
    np.testing.assert_allclose(prox(Rank(2), x), u[:, :2] * s[:2] @ vh[:2], rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------- counts that may change


@pytest.mark.parametrize("share", ["0", "0.01", "0.07", "0.1", "0.25", "0.3", "0.35", "0.7", "0.999", "1"])
def test_the_count_is_that_of_the_number_as_it_is_written(share: str) -> None:
    for size in (1, 3, 7, 10, 12, 100, 1000, 4096, 9216):
        count = TopK(float(share)).count(np.broadcast_to(np.float32(0), (size,)))
        assert int(count) == -(-Fraction(share) * size // 1)


def test_a_schedule_compiles_once_and_holds_at_every_step() -> None:
    target, traces = jnp.asarray(sample((40,))), []

    def rule(step: jax.Array) -> Any:
        traces.append(step)
        return TopK(1 - 0.9 * jnp.minimum(step / 8, 1))

    tx = jaxreg.proximal_adam(0.1, rule)
    w = jnp.ones(40)
    state, update = tx.init(w), jax.jit(tx.update)
    known = len(traces)
    for step in range(12):
        updates, state = update(w - target, state, w)
        w = optax.apply_updates(w, updates)
        most = (1 - Fraction("0.9") * min(step, 8) / 8) * 40
        assert np.count_nonzero(w) == -(-most // 1)
    assert len(traces) == known + 1


def test_numbers_are_traced_mapped_and_differentiated() -> None:
    z, regs = np.float32(sample((8,))), (TopK(np.array([1, 5])), TopK(np.array([0.125, 0.6])), NofM(np.arange(1, 3), 4))
    for reg, counts in zip(regs, ([1, 5], [1, 5], [2, 4]), strict=True):
        found = jax.jit(jax.vmap(lambda reg: reg.prox(z)))(reg)
        np.testing.assert_array_equal(np.count_nonzero(found, axis=1), counts)
    matrix = np.float32(sample((4, 3)))
    found = jax.vmap(lambda reg: reg.prox(matrix))(Rank(np.arange(4)))
    assert [np.linalg.matrix_rank(w) for w in np.asarray(found)] == [0, 1, 2, 3]
    for reg in (TopK(0.5), NofM(2, 4), Rank(1)):
        slope = jax.grad(lambda reg: jnp.sum(reg.prox(matrix) ** 3) + jnp.sum(jaxreg.L1(2.0)(matrix)))(reg)
        assert jax.tree.leaves(slope) == [0.0]
    bad = jax.jit(lambda n: [TopK(n).prox(z), NofM(n, 4).prox(z), Rank(n).prox(matrix)])(jnp.nan)
    assert all(np.isnan(w).all() for w in bad)  # not silently none


def test_one_entry_is_not_all_of_them() -> None:
    one, everything = TopK(1), TopK(1.0)
    assert one != everything and everything != one and one == TopK(np.int64(1)) and len({one, everything}) == 2
    for reg, zeros in ((one, 2), (everything, 0)):
        again = jaxreg.deserialize(json.loads(json.dumps(jaxreg.serialize(reg))))
        assert again == reg and pickle.loads(pickle.dumps(reg)) == reg and eval(repr(reg), vars(jaxreg).copy()) == reg
        assert np.count_nonzero(again.prox(jnp.ones(3)) == 0) == zeros
    assert TopK(np.array(3)) == TopK(3) and TopK(np.array(0.5)) == TopK(0.5) and type(TopK(np.int8(3)).share) is int


# ------------------------------------------------------------------------------------------ derivatives and structures


def test_the_derivative_is_the_mask() -> None:
    z, dz = np.float32([3.0, 1.0, -2.0, 0.0]), np.float32([1.0, 2.0, 3.0, 4.0])
    for reg, mask in ((TopK(2), [1, 0, 1, 0]), (NofM(1, 2), [1, 0, 1, 0]), (TopK(4), [1, 1, 1, 1])):
        _, tangent = jax.jvp(reg.prox, (z,), (dz,))
        np.testing.assert_array_equal(tangent, mask * dz)
    room = jax.jacobian(TopK(3).prox)(jnp.array([3.0, 0.0, 0.0, 0.0]))  # each zero may grow
    np.testing.assert_array_equal(room, np.eye(4))
    violation, normal = jax.value_and_grad(TopK(2).violation)(jnp.array([3.0, 4.0, -2.0, 1.0]))
    np.testing.assert_allclose([violation, *normal], np.array([5, 0, 0, -2, 1]) / [5**0.5, 1, 1, 5**0.5, 5**0.5])


def test_structures_around() -> None:
    x = np.float32(sample((2, 4, 3)))
    for reg, layer in ((TopK(2), TopK(2)), (NofM(1, 2), NofM(1, 2)), (Rank(1), Rank(1))):
        np.testing.assert_allclose(jaxreg.Stacked(reg).prox(x), [layer.prox(w) for w in x], rtol=1e-6, atol=1e-6)
        matrix = jaxreg.Matrix(reg).prox(x)
        np.testing.assert_allclose(matrix, layer.prox(x.reshape(8, 3)).reshape(x.shape), rtol=1e-6, atol=1e-6)
    reference = np.float32(sample((2, 4, 3), 5))
    moved = jaxreg.Anchored(TopK(5), reference).prox(x)  # a sparse change
    assert np.count_nonzero(moved != reference) == 5
    assert TopK(0.5).prox(-3.0) == -3.0 and TopK(0).prox(-3.0) == 0.0


@pytest.mark.parametrize("spec", [(None,), ("data",)], ids=["the same everywhere", "rows"])
def test_inside_shard_map(spec: tuple[Any, ...]) -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    p, z = jax.sharding.PartitionSpec(*spec), np.float32(sample((8, 4)).round())
    for reg in (TopK(2, axis=1), NofM(1, 2, axis=1)):
        found = jax.jit(jax.shard_map(reg.prox, mesh=mesh, in_specs=p, out_specs=p))(z)
        np.testing.assert_array_equal(found, reg.prox(z))


# ---------------------------------------------------------------------------------------------------------------- rank


def test_rank_where_singular_values_are_equal_or_few() -> None:
    for z in (np.eye(3, 4), np.ones((3, 4)), np.zeros((3, 4)), np.outer([1.0, 2.0, 3.0], [1.0, -1.0, 0.5, 2.0])):
        for k in range(5):
            w = np.asarray(prox(Rank(k), np.float32(z)))
            s = np.linalg.svd(z, compute_uv=False)
            assert np.linalg.matrix_rank(w, tol=1e-5) <= k
            np.testing.assert_allclose(np.linalg.norm(w - z), np.linalg.norm(s[k:]), atol=1e-5)
            if np.linalg.matrix_rank(z) <= k:
                np.testing.assert_array_equal(w, np.float32(z))
            tangent = jax.jvp(Rank(k).prox, (jnp.float32(z),), (jnp.ones((3, 4)),))[1]
            assert np.isfinite(tangent).all() and (k < 3 or np.allclose(tangent, 1, atol=1e-5))


def test_a_large_matrix_that_was_projected_is_in_the_set_and_stays() -> None:
    z = np.float32(sample((90, 60)))
    w = prox(Rank(7), z)
    assert np.linalg.matrix_rank(w, tol=1e-3) == 7 and Rank(7)(w) == 0 and Rank(6)(w) == np.inf
    np.testing.assert_array_equal(prox(Rank(7), w), w)


# ------------------------------------------------------------------------------------------------- radius, JSON, errors


def test_a_sphere_of_another_radius() -> None:
    z = np.float32(sample((4, 3)))
    np.testing.assert_allclose(UnitNorm(0, 2.0).prox(z), 2 * z / np.linalg.norm(z, axis=0), rtol=1e-6)
    np.testing.assert_allclose(UnitNorm(0, 2.0).prox(jnp.zeros((4, 3))), np.ones((4, 3)), rtol=1e-6)
    np.testing.assert_array_equal(UnitNorm(0, 0.0).prox(z), np.zeros((4, 3)))
    np.testing.assert_allclose(UnitNorm(None, 2.0).violation(jnp.array([3.0, 4.0])), 3.0, rtol=1e-6)


def test_what_was_written_before_there_was_a_radius_is_read() -> None:
    written = {
        "module": "jaxreg",
        "class_name": "UnitNorm",
        "config": {"axis": 0},
        "registered_name": "jaxreg>UnitNorm",
    }
    assert jaxreg.deserialize(written) == UnitNorm(0, 1.0)
    old = object.__new__(UnitNorm)
    old.__dict__["axis"] = 0  # as a pickle of it restores it
    assert old == UnitNorm(0) and float(old.prox(jnp.array([2.0]))[0]) == 1.0


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: TopK(3.0), ValueError, r"`TopK\(share=\.\.\.\)` must be a share .* or a count.*got 3\.0"),
        (lambda: TopK(np.array([0.5, 2.0])), ValueError, r"or a count, which is an int.*\.astype\(int\)"),
        (lambda: TopK(-1), ValueError, r"`TopK\(share=\.\.\.\)` must be a real, finite, non-negative number, got -1"),
        (lambda: TopK(True), TypeError, r"`TopK\(share=\.\.\.\)`"),
        (lambda: TopK(2**31), ValueError, "a count of at most 2³¹ − 1, got 2147483648. Give a share"),
        (lambda: TopK(0.5, axis=1.0), TypeError, r"`TopK\(axis=\.\.\.\)`"),
        (lambda: TopK(0.5, axis=2).prox(jnp.ones((2, 2))), ValueError, r"`TopK\(axis=\.\.\.\)` must name"),
        (lambda: TopK(jnp.ones(2))(jnp.ones(2)), ValueError, r"`TopK` has a coefficient `share` of shape \(2,\)"),
        (lambda: NofM(5, 4), ValueError, r"`NofM\(n=\.\.\., m=\.\.\.\)` must have n ≤ m, got 5 and 4"),
        (lambda: NofM(1.5, 4), ValueError, r"`NofM\(n=\.\.\.\)` must be a whole number, got 1\.5"),
        (lambda: NofM(1, 0), ValueError, r"`NofM\(m=\.\.\.\)` must be at least 1, got 0"),
        (lambda: NofM(1, 4.0), TypeError, r"`NofM\(m=\.\.\.\)` must be an int, got 4\.0"),
        (lambda: NofM(1, 4, axis=None), TypeError, r"`NofM\(axis=\.\.\.\)` must be an int, got None"),
        (lambda: NofM(1, 4, axis=1).prox(jnp.ones(4)), ValueError, r"`NofM\(axis=\.\.\.\)` must name"),
        (lambda: Rank(0.5), ValueError, r"`Rank\(k=\.\.\.\)` must be a whole number, got 0\.5"),
        (lambda: Rank(1).prox(jnp.ones(4)), ValueError, r"`Rank` takes a matrix, got shape \(4,\)"),
        (lambda: Rank(1).prox(jnp.ones((2, 2)), jnp.ones((2, 2))), NotImplementedError, r"`Rank\.prox` with an array"),
        (lambda: UnitNorm(0, -1.0), ValueError, r"`UnitNorm\(radius=\.\.\.\)`"),
        (lambda: jax.eval_shape(TopK(1), jax.ShapeDtypeStruct((2**16, 2**16), "int8")), NotImplementedError, "2³²"),
    ],
)  # fmt: skip
def test_what_is_refused(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


def test_a_path_of_a_set_and_its_way_out() -> None:
    x = jnp.array([3.0, -2.0, 1.0, 0.5])

    def train(reg: Any, key: Any) -> Any:
        w = reg.prox(x)
        return w, jnp.sum((w - x) ** 2), -jnp.sum(jnp.abs(w))

    tree = jaxreg.TreeRegularizer({"**": TopK(0.5)})
    for reg in (TopK, TopK(0.5), jaxreg.Matrix(Rank(1)), 2 * NonNegative(), tree):
        with pytest.raises(ValueError, match=r"`path\(regularizer=\.\.\.\)`: a set has no strength.*`lambda c: jaxreg"):
            jaxreg.path(train, reg, [0.5])
    with pytest.raises(NotImplementedError, match=r"no coefficient of `TopK.*`lambda c: jaxreg\.TopK\(1 - c\)`"):
        jaxreg.coefficient_max(TopK(0.5) + L2(0.1), x)
    result = jaxreg.path(train, lambda c: TopK(1 - c), [0.75, 0.5, 0.0])
    assert result.zeros.tolist() == [0.75, 0.5, 0.0] and result.best == 0
