"""Penalties of activations: formulas by loops, masks, devices, precision, edges, messages."""

import dataclasses
import functools
import inspect
import math
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import jaxreg
from jaxreg import activity
from tests.benchmarks import programs
from tests.cases import label

pytestmark = pytest.mark.wide  # every penalty of outputs with masks, dtypes, axes and devices

RHO, TARGET, EPS = 0.2, 1.1, 1e-3
BATCH, TIME, FEATURES = 8, 4, 3
LENGTHS = (4, 3, 0, 1, 4, 2, 4, 1)
MASK = np.arange(TIME) < np.array(LENGTHS)[:, None]
FULL = np.ones_like(MASK)


# The formulas of the docstrings, by loops in float64, of h (batch, time, features) and mask (batch, time).


def _rows(h: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    return [h[b, t] for b in range(len(h)) for t in range(h.shape[1]) if mask[b, t]]


def _penalty(h: np.ndarray, mask: np.ndarray) -> float:
    return 0.3 * sum(v**2 for row in _rows(h, mask) for v in row) / sum(any(line) for line in mask)


def _activation_l2(h: np.ndarray, mask: np.ndarray) -> float:
    return np.mean([v**2 for row in _rows(h, mask) for v in row])


def _temporal_l2(h: np.ndarray, mask: np.ndarray) -> float:
    steps = [(b, t) for b in range(len(h)) for t in range(1, h.shape[1]) if mask[b, t] and mask[b, t - 1]]
    return np.mean([(h[b, t] - h[b, t - 1]) ** 2 for b, t in steps])


def _kl_sparsity(h: np.ndarray, mask: np.ndarray) -> float:
    rows, value = _rows(h, mask), 0.0
    for j in range(h.shape[-1]):
        mean = sum(row[j] for row in rows) / len(rows)
        value += RHO * math.log(RHO / mean) + (1 - RHO) * math.log((1 - RHO) / (1 - mean))
    return value


def _entropy(h: np.ndarray, mask: np.ndarray) -> float:
    values = []
    for row in _rows(h, mask):
        p = [math.exp(v) / sum(math.exp(u) for u in row) for v in row]
        values.append(-sum(q * math.log(q) for q in p))
    return -sum(values) / len(values)


def _z_loss(h: np.ndarray, mask: np.ndarray) -> float:
    return np.mean([math.log(sum(math.exp(v) for v in row)) ** 2 for row in _rows(h, mask)])


def _decorrelation(h: np.ndarray, mask: np.ndarray) -> float:
    c = np.cov(np.array(_rows(h, mask)).T, ddof=0)
    return 0.5 * (np.linalg.norm(c, "fro") ** 2 - np.linalg.norm(np.diag(c)) ** 2)


def _covariance(h: np.ndarray, mask: np.ndarray) -> float:
    c, d = np.cov(np.array(_rows(h, mask)).T, ddof=1), h.shape[-1]
    return sum(c[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d


def _variance(h: np.ndarray, mask: np.ndarray) -> float:
    rows, terms = np.array(_rows(h, mask)), []
    for column in rows.T:
        var = sum((v - column.mean()) ** 2 for v in column) / (len(column) - 1)
        terms.append(max(0.0, TARGET - math.sqrt(var + EPS)))
    return np.mean(terms)


KEY, DIRECTIONS = jax.random.key(3), 5


def _unit_vectors(features: int) -> np.ndarray:
    a = np.asarray(jax.random.normal(KEY, (DIRECTIONS, features), np.float32), np.float64)
    return a / np.linalg.norm(a, axis=1, keepdims=True)


def _sigreg(h: np.ndarray, mask: np.ndarray) -> float:
    rows, t = np.array(_rows(h, mask)), np.linspace(-5, 5, 17)
    values = []
    for a in _unit_vectors(h.shape[-1]):
        phi = np.mean([np.exp(1j * t * (row @ a)) for row in rows], axis=0)
        values.append(len(rows) * np.trapezoid(abs(phi - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2), t))
    return np.mean(values)


@dataclasses.dataclass
class Case:
    """A function of (h, mask, axis_name), its formula, and whether h is in (0, 1)."""

    function: Callable[..., jax.Array]
    formula: Callable[[np.ndarray, np.ndarray], float]
    proportions: bool = False
    statistic: bool = False  # of the batch: not a mean of the values of its members

    def __str__(self) -> str:
        return self.formula.__name__[1:]

    @functools.cached_property
    def compiled(self) -> Callable[..., jax.Array]:
        return jax.jit(self.function)

    @functools.cached_property
    def both(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        """The value and the gradient."""
        return jax.jit(jax.value_and_grad(self.function))

    def sample(self, seed: int = 0) -> np.ndarray:
        x = np.random.default_rng(seed).normal(size=(BATCH, TIME, FEATURES)) * [0.3, 1.0, 2.5]
        x[..., 1] += 0.5 * x[..., 0]
        return 1 / (1 + np.exp(-x)) if self.proportions else x


CASES = [
    Case(lambda h, mask=None, name=None: activity.penalty(jaxreg.L2(0.3), h, mask, axis_name=name), _penalty),
    Case(activity.activation_l2, _activation_l2),
    Case(lambda h, mask=None, name=None: activity.temporal_l2(h, 1, mask, name), _temporal_l2),
    Case(lambda h, mask=None, name=None: activity.kl_sparsity(h, RHO, mask, name), _kl_sparsity, True, True),
    Case(activity.entropy, _entropy),
    Case(activity.z_loss, _z_loss),
    Case(activity.decorrelation, _decorrelation, statistic=True),
    Case(activity.covariance, _covariance, statistic=True),
    Case(lambda h, mask=None, name=None: activity.variance(h, TARGET, EPS, mask, name), _variance, statistic=True),
    Case(lambda h, mask=None, name=None: activity.sigreg(h, KEY, DIRECTIONS, mask, name), _sigreg, statistic=True),
]
BY_NAME = {str(case): case for case in CASES}
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_statistic = pytest.mark.parametrize("case", [case for case in CASES if case.statistic], ids=str)


# One program over all cases for each property: most of the time of a test goes to the compiler.


@functools.cache
def program(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(lambda arguments: {n: function(case.function, *arguments[n]) for n, case in BY_NAME.items()})


def row(function: Callable[..., Any], case: Case, arguments: Callable[[Case], tuple[Any, ...]]) -> Any:
    """`function(case.function, *arguments(case))`, from the program over all cases."""
    found = program(function)({name: arguments(other) for name, other in BY_NAME.items()})
    return jax.tree.map(np.asarray, found[str(case)])


def _jitted(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    static = {"axis", "batch_axis", "axis_name"} & inspect.signature(function).parameters.keys()
    return jax.jit(function, static_argnames=tuple(static))


# The same functions, each call of which is one program; without `jax.jit` each operation in it would be one.
jitted = types.SimpleNamespace(**{name: _jitted(getattr(activity, name)) for name in BY_NAME})


def in_float32(case: Case, seed: int = 0) -> np.ndarray:
    return case.sample(seed).astype(np.float32)


def both(f: Callable[..., jax.Array], h: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.value_and_grad(f)(h, mask)


def at_masks(f: Callable[..., jax.Array], h: jax.Array, *masks: jax.Array) -> list[jax.Array]:
    return [f(h, mask) for mask in masks]


def test_every_function_is_tested_and_says_how_to_call_it() -> None:
    public = {name: f for name, f in vars(activity).items() if inspect.isfunction(f)}
    assert public.keys() == BY_NAME.keys()
    for name, function in public.items():
        arguments = inspect.signature(function).parameters
        assert {"mask", "axis_name"} <= arguments.keys()
        documented = inspect.getdoc(function).split("Args:")[1].split("Raises:")[0]
        assert all(f"    {argument}: " in documented for argument in arguments), name


@each_case
def test_value_is_the_formula(case: Case) -> None:
    masks = (None, FULL, MASK)
    values = row(at_masks, case, lambda case: (in_float32(case), *masks))
    for mask, value in zip(masks, values, strict=True):
        assert value.shape == () and value.dtype == np.float32
        np.testing.assert_allclose(value, case.formula(case.sample(), FULL if mask is None else mask), rtol=1e-5)


@each_case
def test_gradient_is_the_central_difference(case: Case) -> None:
    h, step = case.sample(1), 1e-6
    for mask in (FULL, MASK):
        with jax.enable_x64(True):
            value, gradient = row(both, case, lambda case, mask=mask: (case.sample(1), mask))
        assert gradient.dtype == value.dtype == np.float64
        for seed in range(3):
            direction = np.random.default_rng(seed).normal(size=h.shape)
            difference = case.formula(h + step * direction, mask) - case.formula(h - step * direction, mask)
            np.testing.assert_allclose(np.vdot(gradient, direction), difference / (2 * step), rtol=1e-6, atol=1e-9)


def with_a_product(f: Callable[..., jax.Array], h: jax.Array, mask: jax.Array) -> tuple[jax.Array, ...]:
    """The value, the gradient, and the product of the Hessian and a direction."""
    value, gradient = jax.value_and_grad(f)(h, mask)
    return value, gradient, jax.jvp(lambda h: jax.grad(f)(h, mask), (h,), (jnp.ones_like(h),))[1]


@each_case
def test_what_is_masked_leaks_neither_into_the_value_nor_into_derivatives(case: Case) -> None:
    expected = row(with_a_product, case, lambda case: (in_float32(case), MASK))[1]
    for rubbish in (np.nan, np.inf, -np.inf, np.float32(3e38)):

        def dirty(case: Case, rubbish: Any = rubbish) -> tuple[np.ndarray, np.ndarray]:
            return np.where(MASK[..., None], in_float32(case), np.float32(rubbish)), MASK

        value, gradient, second = row(with_a_product, case, dirty)
        np.testing.assert_allclose(value, case.formula(in_float32(case).astype(np.float64), MASK), rtol=1e-5)
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-8)
        assert (gradient[~MASK] == 0).all()
        assert np.isfinite(second).all()


MEMBERS = np.array([1, 0, 1, 1, 0, 1, 0, 0], bool)


def masked_and_dropped(f: Callable[..., jax.Array], h: jax.Array, members: jax.Array, *padded: jax.Array) -> list[Any]:
    return [jax.value_and_grad(f)(h, members), jax.value_and_grad(f)(h[MEMBERS]), f(*padded)]


@each_case
def test_masked_members_are_as_if_dropped(case: Case) -> None:
    padding = ((0, 0), (0, 3), (0, 0))

    def arguments(case: Case) -> tuple[np.ndarray, ...]:
        h = in_float32(case)
        return h, MEMBERS, np.pad(h, padding, constant_values=np.nan), np.pad(MASK, padding[:2])

    (value, gradient), (dropped, dropped_gradient), padded = row(masked_and_dropped, case, arguments)
    np.testing.assert_allclose(value, dropped, rtol=2e-6)
    np.testing.assert_allclose(gradient[MEMBERS], dropped_gradient, rtol=2e-5, atol=1e-7)
    expected = row(at_masks, case, lambda case: (in_float32(case), None, FULL, MASK))[2]
    np.testing.assert_allclose(padded, expected, rtol=1e-6)


@each_case
def test_masks_broadcast_from_the_left(case: Case) -> None:
    steps, members = np.array([1, 1, 0, 1]), np.array([1, 0, 1, 1, 0, 1, 1, 1])
    short = [mask != 0 for mask in (steps[None], members, members[:, None], np.ones(()))]
    full = [np.broadcast_to(mask.reshape(mask.shape + (1,) * (2 - mask.ndim)), MASK.shape) for mask in short]
    found = row(at_masks, case, lambda case: (in_float32(case), *short, *full))
    np.testing.assert_allclose(found[:4], found[4:], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float32, jnp.bfloat16])
def test_masks_of_zeros_and_ones(dtype: Any) -> None:
    h = jnp.asarray(CASES[1].sample(), jnp.float32)
    mask = MASK.astype(dtype)
    for given in (mask, jnp.asarray(mask)):
        np.testing.assert_allclose(activity.activation_l2(h, given), CASES[1].compiled(h, MASK), rtol=1e-6)
        np.testing.assert_allclose(CASES[1].compiled(h, given), CASES[1].compiled(h, MASK), rtol=1e-6)


@each_case
def test_low_precision_is_summed_in_float32(case: Case) -> None:
    for dtype in ("float16", "bfloat16", "float8_e4m3fn"):
        samples = {name: jnp.asarray(other.sample(), dtype) for name, other in BY_NAME.items()}
        value, gradient = row(both, case, lambda case, samples=samples: (samples[str(case)], MASK))
        exact, exact_gradient = row(
            both, case, lambda case, samples=samples: (np.asarray(samples[str(case)], np.float32), MASK)
        )
        assert value.dtype == np.float32 and gradient.dtype == dtype
        np.testing.assert_allclose(value, exact, rtol=1e-6)
        # one unit in the last place: the compiler may fuse the cast
        np.testing.assert_allclose(
            np.asarray(gradient, np.float32), exact_gradient, rtol=float(jnp.finfo(dtype).eps), atol=2e-3
        )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (lambda: jitted.activation_l2(jnp.full((100, 30), 300.0, jnp.float16)), 9e4),
        (lambda: jitted.activation_l2(jnp.full(1_000_000, 1e18)), 1e36),
        (lambda: jitted.temporal_l2(jnp.array([[6e4, -6e4]], jnp.float16)), float(np.float16(6e4)) ** 2 * 4),
        (lambda: jitted.z_loss(jnp.full((2, 1), 6e4, jnp.float16)), float(np.float16(6e4)) ** 2),
        (lambda: jitted.entropy(jnp.array([6e4, -6e4], jnp.float16)), 0.0),
        (lambda: jitted.decorrelation(jnp.array([[200.0, 200.0], [-200.0, -200.0]], jnp.float16)), 1.6e9),
        (lambda: jitted.variance(jnp.array([[1e30], [-1e30]])), 0.0),
        (lambda: activity.penalty("l2", jnp.full((5, 5), 10, jnp.int8)), 5.0),
        (lambda: jitted.kl_sparsity(jnp.ones((100_000, 1), jnp.bfloat16) / 2, rho=0.5), 0.0),
    ],
)
def test_nothing_overflows_on_the_way(value: Callable[[], jax.Array], expected: float) -> None:
    np.testing.assert_allclose(value(), expected, rtol=1e-5)


def one_by_one_and_vmapped(f: Callable[..., jax.Array], batches: jax.Array, masks: jax.Array) -> tuple[Any, Any]:
    return [f(*batch) for batch in zip(batches, masks, strict=True)], jax.vmap(f)(batches, masks)


@each_case
def test_eager_jit_and_vmap_agree(case: Case) -> None:
    masks = np.stack([np.roll(MASK, seed, axis=0) for seed in range(3)])
    each, together = row(
        one_by_one_and_vmapped, case, lambda case: (np.stack([in_float32(case, seed) for seed in range(3)]), masks)
    )
    np.testing.assert_allclose(together, each, rtol=1e-5)
    np.testing.assert_allclose(case.function(jnp.asarray(in_float32(case)), jnp.asarray(MASK)), each[0], rtol=1e-6)


def _split(function: Callable[..., Any], out: Any, **options: Any) -> Callable[..., Any]:
    mesh = Mesh(np.array(jax.devices()), ("data",))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=P("data"), out_specs=out, **options))


@each_case
def test_devices_see_the_whole_batch(case: Case) -> None:
    assert jax.device_count() == BATCH
    h = in_float32(case)

    def part(h: jax.Array, mask: jax.Array) -> jax.Array:
        return case.function(h, mask, "data")

    whole, inside = _split(part, P()), _split(jax.value_and_grad(part), (P(), P("data")))
    in_both_ways = jax.jit(lambda h, mask: (*inside(h, mask), jax.grad(whole)(h, mask)))
    for mask in (FULL, MASK):
        expected, gradient = row(both, case, lambda case, mask=mask: (in_float32(case), mask))
        value, gradient_inside, gradient_outside = in_both_ways(h, mask)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(gradient_inside, gradient, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(gradient_outside, gradient, rtol=1e-4, atol=1e-7)
    unmasked = _split(lambda h: case.function(h, None, "data"), P(), check_vma=False)
    expected = row(at_masks, case, lambda case: (in_float32(case), None, FULL, MASK))[0]
    np.testing.assert_allclose(unmasked(h), expected, rtol=1e-5)


@each_case
def test_sharded_arrays_under_jit_need_no_name(case: Case) -> None:
    sharding = jax.NamedSharding(Mesh(np.array(jax.devices()), ("data",)), P("data"))
    value = case.compiled(jax.device_put(in_float32(case), sharding), jax.device_put(MASK, sharding))
    expected = row(at_masks, case, lambda case: (in_float32(case), None, FULL, MASK))[2]
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("map_", [jax.pmap, jax.vmap])
def test_a_data_parallel_step_with_pmean_has_the_gradient_of_the_parameters(map_: Callable[..., Any]) -> None:
    case = BY_NAME["covariance"]
    h, w = jnp.asarray(case.sample(), jnp.float32), jnp.eye(FEATURES) + 0.1

    def part(w: jax.Array, h: jax.Array) -> jax.Array:
        return jax.lax.pmean(jax.grad(lambda w: case.function(h @ w, None, "data"))(w), "data")

    gradients = jax.jit(map_(part, in_axes=(None, 0), axis_name="data"))(w, h)
    expected = jax.jit(jax.grad(lambda w: case.function(h @ w)))(w)
    np.testing.assert_allclose(gradients[0], expected, rtol=1e-4, atol=1e-6)


@each_statistic
def test_one_example_a_device(case: Case) -> None:
    h = jnp.asarray(case.sample(), jnp.float32)[:, 0]
    values = jax.jit(jax.vmap(lambda row: case.function(row, None, "data"), axis_name="data"))(h)
    np.testing.assert_allclose(values, jnp.full(BATCH, case.compiled(h)), rtol=1e-5)


def derivatives(f: Callable[..., jax.Array], h: jax.Array) -> list[jax.Array]:
    """Also behind what often stands before a penalty."""
    before = [jax.grad(lambda h, g=g: f(g(h)))(h) for g in (jax.nn.sigmoid, jax.nn.relu)]
    return [f(h), jax.grad(f)(h), jax.jvp(jax.grad(f), (h,), (jnp.ones_like(h),))[1], *before]


@each_case
@pytest.mark.parametrize("shape", [(4, 3, 2), (1, 1, 1)])
def test_derivatives_are_finite_at_constants(case: Case, shape: tuple[int, ...]) -> None:
    for fill in (0.0, 1.0, -1e4, 1e4, 1e9):
        found = row(derivatives, case, lambda _, fill=fill: (np.full(shape, fill, np.float32),))
        assert all(np.isfinite(d).all() for d in found)


@each_case
@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (3, 2, 0)])
def test_empty_arrays_give_zero(case: Case, shape: tuple[int, ...]) -> None:
    for mask in (None, np.ones(shape[:2], np.float32)):
        value, gradient = row(both, case, lambda _, mask=mask: (np.zeros(shape, np.float32), mask))
        assert value == 0 and value.dtype == np.float32 and gradient.shape == shape


@each_case
def test_with_everything_masked_out_it_is_zero(case: Case) -> None:
    for fill in (1.0, np.nan):
        h = np.full((BATCH, TIME, FEATURES), fill, np.float32)
        value, gradient = row(both, case, lambda _, h=h: (h, np.zeros_like(MASK)))
        assert value == 0 and (gradient == 0).all()


def of_parts(f: Callable[..., jax.Array], h: jax.Array, mask: jax.Array) -> list[jax.Array]:
    return [f(h), f(h, mask), f(h[:1, :2]), f(h[:1, :1])]


@each_case
def test_nan_that_is_not_masked_comes_out(case: Case) -> None:
    def arguments(case: Case) -> tuple[np.ndarray, np.ndarray]:
        h = in_float32(case)
        h[0, 0, 0] = np.nan
        return h, MASK

    *longer, one_step = row(of_parts, case, arguments)
    assert np.isnan(longer).all()
    assert np.isnan(one_step) or str(case) == "temporal_l2"  # one step has no difference


@each_case
def test_numpy_and_integers_are_taken(case: Case) -> None:
    h = np.arange(BATCH * TIME * FEATURES).reshape(BATCH, TIME, FEATURES) % 5
    (value,), (expected,) = (row(at_masks, case, lambda _, x=x: (x, None)) for x in (h, h.astype(np.float32)))
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, expected, rtol=1e-6)


# Each of them on paper.


def test_penalty_divides_by_the_batch() -> None:
    h = 10 * jnp.ones((5, 5))
    assert jitted.penalty(jaxreg.L2(0.01), h) == 5.0  # the example in Keras' documentation
    assert jitted.penalty(jaxreg.L1(1.0), jnp.ones((2, 3, 4))) == 12.0
    assert jitted.penalty(jaxreg.L1(1.0), jnp.ones((2, 3, 4)), batch_axis=1) == 8.0
    assert jitted.penalty(jaxreg.L1(1.0), jnp.ones((2, 3, 4)), batch_axis=-1) == 6.0
    assert jitted.penalty(jaxreg.L2(1.0), jnp.float32(12.0)) == 144.0  # a scalar is not divided
    assert jitted.penalty(jaxreg.L2(1.0), 12.0, mask=False) == 0.0
    assert jitted.penalty(jaxreg.L1(1.0), jnp.ones(6)) == 1.0
    assert jitted.penalty(jaxreg.L1(1.0), jnp.array([3 + 4j, 0j])) == 2.5


def test_penalty_counts_members_not_positions() -> None:
    h = jnp.ones((3, 4, 2))
    mask = jnp.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    assert jitted.penalty(jaxreg.L1(1.0), h, mask) == 6.0  # 12 entries, 2 members
    assert jitted.penalty(jaxreg.L1(1.0), h.swapaxes(0, 1), mask.T, batch_axis=1) == 6.0
    assert jitted.penalty(jaxreg.L1(1.0), h, jnp.array([1, 0, 1]), batch_axis=1) == 4.0  # 16 entries, 4 steps
    assert jitted.penalty(jaxreg.L1(1.0), h, jnp.ones((3, 4, 2)).at[0, 0, 0].set(0)) == 23 / 3


@pytest.mark.parametrize(
    "identifier",
    [
        "l1",
        "L1",
        jaxreg.L1,
        jaxreg.L1(),
        {"class_name": "L1", "config": {"l1": 0.01}},
        lambda x: 0.01 * jnp.abs(x).sum(),
    ],
    ids=label,
)
def test_penalty_takes_every_identifier(identifier: Any) -> None:
    h = jnp.array([[1.0, -2.0], [3.0, 0.0]], jnp.bfloat16)
    value = activity.penalty(identifier, h)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, 0.03, rtol=1e-6)


def test_penalty_of_no_regularizer_is_zero_and_coefficients_are_traced() -> None:
    h = jnp.array([[1.0, -2.0], [3.0, 0.0]])
    assert activity.penalty(None, h) == 0 and activity.penalty(None, h).dtype == jnp.float32
    gradient = jax.jit(jax.grad(lambda reg: activity.penalty(reg, h)))(jaxreg.L1(0.5))
    assert gradient == jaxreg.L1(3.0)
    assert (jax.grad(lambda h: activity.penalty(jaxreg.L1(1.0), h))(h) == jnp.array([[0.5, -0.5], [0.5, 0.0]])).all()


def test_mean_squares() -> None:
    assert jitted.activation_l2(jnp.array([1.0, 2.0, 3.0, 4.0])) == 7.5
    assert jitted.activation_l2(3.0) == 9.0
    assert jitted.activation_l2(jnp.array([3 + 4j, 0j])) == 12.5
    time_major = jnp.array([[1.0, 0.0], [2.0, 3.0], [5.0, 7.0]])
    assert jitted.temporal_l2(time_major, axis=0) == jitted.temporal_l2(time_major, axis=-2) == 8.75
    assert jitted.temporal_l2(time_major.T) == 8.75
    assert jitted.temporal_l2(jnp.array([0j, 3 + 4j]), axis=0) == 25.0
    assert jitted.temporal_l2(jnp.ones((4, 1, 3))) == 0.0  # one step has no difference


def test_temporal_l2_wants_both_neighbours() -> None:
    h = jnp.array([[1.0, 100.0, 2.0, 5.0, jnp.nan]])
    assert jitted.temporal_l2(h, mask=jnp.array([[1, 0, 1, 1, 0]])) == 9.0
    gradient = jax.grad(lambda h: jitted.temporal_l2(h, mask=jnp.array([[1, 0, 1, 1, 0]])))(h)
    assert (gradient == jnp.array([[0.0, 0.0, -6.0, 6.0, 0.0]])).all()
    assert jitted.temporal_l2(h, mask=jnp.array([[1, 0, 1, 0, 0]])) == 0.0


def test_kl_sparsity_on_paper() -> None:
    assert jitted.kl_sparsity(jnp.array([[0.25, 0.5], [0.75, 0.5]]), rho=0.5) == 0.0
    np.testing.assert_allclose(
        jitted.kl_sparsity(jnp.array([[0.5]]), 0.25),
        math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25),
        rtol=1e-5,
    )
    gradient = jax.grad(lambda h: jitted.kl_sparsity(h, rho=0.25))(jnp.full((2, 1), 0.5))
    np.testing.assert_allclose(gradient, (-0.25 / 0.5 + 0.75 / 0.5) / 2, rtol=1e-6)


def test_kl_sparsity_clips_dead_and_saturated_units() -> None:
    eps = float(jnp.finfo(jnp.float32).eps)
    for mean in (0.0, 1.0):
        value, gradient = jax.value_and_grad(jitted.kl_sparsity)(jnp.full((3, 1), mean), 0.5)
        np.testing.assert_allclose(value, -math.log(2) - 0.5 * math.log(eps), rtol=1e-5)
        assert (gradient == 0).all()
    for rho in (1e-30, 1 - 1e-12):
        value, slope = jax.value_and_grad(jitted.kl_sparsity, argnums=1)(jnp.full((3, 1), 0.5), rho)
        np.testing.assert_allclose(value, math.log(2), rtol=1e-5)
        assert jnp.isfinite(slope)


def test_rho_target_and_eps_may_be_traced() -> None:
    h = jnp.asarray(BY_NAME["kl_sparsity"].sample(), jnp.float32)
    for function in (jitted.kl_sparsity, jitted.variance):
        values = jax.vmap(lambda number, f=function: f(h, number))(jnp.array([0.3, 0.6]))
        np.testing.assert_allclose(values, [function(h, 0.3), function(h, 0.6)], rtol=1e-5)
    slope = jax.jit(jax.grad(lambda target: jitted.variance(h, target)))(100.0)
    np.testing.assert_allclose(slope, 1.0, rtol=1e-6)
    assert jax.jit(lambda eps: jitted.variance(jnp.ones((2, 3)), 1.0, eps))(0.25) == 0.5


@pytest.mark.parametrize("k", [2, 1000])
def test_entropy_is_least_at_the_uniform_distribution_and_zero_at_certainty(k: int) -> None:
    value, gradient = BY_NAME["entropy"].both(jnp.full((2, k), 7.0))
    np.testing.assert_allclose(value, -math.log(k), rtol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    assert jitted.entropy(1e3 * jnp.eye(k)) == 0
    nudged = jnp.zeros(k).at[0].set(0.5)
    assert BY_NAME["entropy"].both(nudged)[1][0] > 0  # descent lowers the largest logit


def test_sigreg_is_the_closed_form_of_epps_and_pulley() -> None:
    """∫|φ − e^(−t²/2)|²e^(−t²/2)dt = √2π·(mean e^(−(s_j−s_k)²/2) − √2·mean e^(−s_j²/4) + 1/√3), s = ⟨a, x_n⟩."""
    with jax.enable_x64(True):
        x, values = np.random.default_rng(0).normal(size=(40, 3)), []
        for a in _unit_vectors(3):
            s = x @ a
            pairs = np.exp(-((s[:, None] - s) ** 2) / 2).mean()
            values.append(np.sqrt(2 * np.pi) * (pairs - np.sqrt(2) * np.exp(-(s**2) / 4).mean() + 1 / np.sqrt(3)))
        assert float(activity.sigreg(x, KEY, DIRECTIONS)) == pytest.approx(40 * np.mean(values), rel=1e-5)


def test_sigreg_holds_neither_all_projections_nor_all_knots() -> None:
    """Value and gradient of 2048 members, 4096 directions: a few arrays of N·d and one of d·K; N·K would be 32 MB."""
    n, d, k = 2048, 16, 4096
    function = jax.value_and_grad(lambda x: activity.sigreg(x, KEY, k))
    program = programs.compile_(function, jax.ShapeDtypeStruct((n, d), jnp.float32))
    assert programs.temporaries(program) <= 4 * (8 * n * d + 24 * d * k)


@pytest.mark.parametrize("name", ["entropy", "z_loss"])
def test_logits_of_minus_infinity_rule_classes_out(name: str) -> None:
    function = BY_NAME[name].function
    some, all_ = jnp.array([[0.5, -1.0], [2.0, 0.1]]), jnp.array([[0.5, -1.0, -jnp.inf], [-jnp.inf, 2.0, 0.1]])
    value, gradient = BY_NAME[name].both(all_)
    np.testing.assert_allclose(value, function(some), rtol=1e-6)
    assert (gradient[jnp.isinf(all_)] == 0).all()
    np.testing.assert_allclose(gradient[~jnp.isinf(all_)], BY_NAME[name].both(some)[1].ravel(), rtol=1e-5)
    assert jnp.isfinite(jax.jit(jax.hessian(function))(all_)).all()


def test_z_loss_is_zero_at_log_probabilities_and_sees_a_shift() -> None:
    log_p = jax.nn.log_softmax(jnp.array([[0.3, 1.0, -2.0], [5.0, 0.0, 0.0]]))
    np.testing.assert_allclose(jitted.z_loss(log_p), 0, atol=1e-12)
    np.testing.assert_allclose(jitted.z_loss(log_p + 3), 9, rtol=1e-6)
    np.testing.assert_allclose(jitted.z_loss(jnp.array(2.0)[None]), 4, rtol=1e-6)


def test_covariances_on_paper() -> None:
    h = jnp.array([[1.0, 2.0], [-1.0, -2.0]]) + jnp.array([5.0, -7.0])  # the mean does not count
    assert jitted.decorrelation(h) == 4.0 and jitted.covariance(h) == 16.0
    assert (jax.grad(jitted.decorrelation)(h) == jnp.array([[4.0, 2.0], [-4.0, -2.0]])).all()
    uncorrelated = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert jitted.decorrelation(uncorrelated) == jitted.covariance(uncorrelated) == 0.0
    np.testing.assert_allclose(jitted.variance(uncorrelated, target=2.0), 2 - math.sqrt(4 / 3 + 1e-4), rtol=1e-6)


@pytest.mark.parametrize("d", [2, 5])
def test_decorrelation_and_covariance_differ_by_a_factor(d: int) -> None:
    h = jnp.asarray(np.random.default_rng(0).normal(size=(6, d)), jnp.float32)
    np.testing.assert_allclose(jitted.covariance(h), jitted.decorrelation(h) * (2 / d) * (6 / 5) ** 2, rtol=1e-5)


def test_variance_at_its_kinks() -> None:
    collapsed = jnp.ones((4, 3))
    value, gradient = jax.value_and_grad(jitted.variance)(collapsed)
    np.testing.assert_allclose(value, 1 - math.sqrt(1e-4), rtol=1e-6)
    assert (gradient == 0).all()
    h = jnp.array([[1.0], [-1.0]])  # variance 2
    assert (jax.grad(lambda h: jitted.variance(h, target=1.5, eps=0.25))(h) == 0).all()  # target = √(var + ε)
    assert (jax.grad(lambda h: jitted.variance(h, target=2.0, eps=0.25))(h) != 0).all()
    assert jitted.variance(h[:1]) == 0 and jitted.variance(h, mask=jnp.array([1, 0])) == 0


H = jnp.ones((4, 3, 2))
MESSAGES = [
    (lambda: activity.entropy([[1.0]]), TypeError, ["`entropy` takes one array, got [[1.0]]"]),
    (lambda: activity.activation_l2({"a": H}), TypeError, ["add up the penalties of its leaves"]),
    (lambda: activity.z_loss(1.0), ValueError, ["`z_loss` takes logits of shape (..., classes), got shape ()"]),
    (lambda: activity.entropy(1j * H), TypeError, ["`entropy` takes a real array, got dtype complex64"]),
    (lambda: activity.covariance(H[0, 0]), ValueError, ["(batch, ..., features), got shape (2,)", "`axis_name=...`"]),
    (lambda: activity.covariance(1.0, axis_name="a"), ValueError, ["`covariance` takes", "got shape ()"]),
    (
        lambda: activity.entropy(H, jnp.ones((3, 4))),
        ValueError,
        ["`entropy(mask=...)`", "`logits`", "(4, 3)", "(3, 4)"],
    ),
    (lambda: activity.kl_sparsity(H, mask=H), ValueError, ["at most (4, 3), each", "got shape (4, 3, 2)"]),
    (
        lambda: activity.activation_l2(H, H[..., None]),
        ValueError,
        ["at most (4, 3, 2), each", "got shape (4, 3, 2, 1)"],
    ),
    (lambda: activity.z_loss(H, [True]), TypeError, ["`z_loss(mask=...)` takes one array"]),
    (lambda: activity.z_loss(H, jnp.full(4, 0.5)), ValueError, ["must be bool, or 0 and 1, got 0.5"]),
    (lambda: activity.z_loss(H, jnp.array([0, -jnp.inf, 0, 0])), ValueError, ["got -inf", "`mask == 0`"]),
    (lambda: activity.z_loss(H, jnp.array([0, 1, jnp.nan, 0])), ValueError, ["got nan"]),
    (lambda: activity.kl_sparsity(H, 0.0), ValueError, ["`kl_sparsity(rho=...)` must be in (0, 1), got 0.0", "L1"]),
    (lambda: activity.kl_sparsity(H, 1), ValueError, ["must be in (0, 1), got 1"]),
    (lambda: activity.kl_sparsity(H, jnp.float32(-0.5)), ValueError, ["must be in (0, 1), got -0.5"]),
    (lambda: activity.kl_sparsity(H, "0.1"), TypeError, ["`kl_sparsity(rho=...)` must be a real, finite number"]),
    (
        lambda: activity.kl_sparsity(H, jnp.array([0.1, 0.2])),
        ValueError,
        ["must be one number, got shape (2,)", "vmap"],
    ),
    (lambda: activity.variance(H, eps=0.0), ValueError, ["`variance(eps=...)` must be", "greater than 0", "got 0"]),
    (lambda: activity.variance(H, -1.0), ValueError, ["`variance(target=...)` must be", "non-negative", "got -1"]),
    (lambda: activity.variance(H, jnp.ones(2)), ValueError, ["must be one number, got shape (2,)"]),
    (lambda: activity.temporal_l2(H[0, 0]), ValueError, ["`temporal_l2(axis=...)` must be an axis", "has 1, got 1"]),
    (lambda: activity.temporal_l2(H, 1.0), TypeError, ["`temporal_l2(axis=...)` must be an integer, got 1.0"]),
    (lambda: activity.temporal_l2(H, mask=jnp.ones((1, 4))), ValueError, ["got shape (1, 4)"]),
    (lambda: activity.penalty("l1", H, batch_axis=3), ValueError, ["`penalty(batch_axis=...)`", "has 3, got 3"]),
    (lambda: activity.penalty("l1", H, batch_axis=True), TypeError, ["must be an integer, got True"]),
    (lambda: activity.penalty("l3", H), ValueError, ["l3"]),
    (lambda: activity.sigreg(H, 0), TypeError, ["`sigreg(key=...)`", "got 0", "`jax.random.key(number)`"]),
    (lambda: activity.sigreg(H, KEY, 2.0), TypeError, ["`sigreg(directions=...)` must be an int, got 2.0"]),
    (lambda: activity.sigreg(H, KEY, 0), ValueError, ["must be positive, got 0."]),
    (lambda: activity.penalty(lambda x: x, H), ValueError, ["must return a scalar, got shape (4, 3, 2)"]),
]


@pytest.mark.parametrize(("call", "error", "parts"), MESSAGES)
def test_messages_say_what_was_wrong(call: Callable[[], Any], error: type[Exception], parts: list[str]) -> None:
    with pytest.raises(error) as caught:
        call()
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value
