"""Properties of every penalty: value, subgradient, derivatives, dtypes, and how JAX transforms it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from tests.cases import ALL_CASES, CASES, PROX_CASES, SHAPED_CASES, Case, gradient, of_shape, program, row, sample

pytestmark = pytest.mark.wide

each_case = pytest.mark.parametrize("case", ALL_CASES, ids=str)
each_builtin = pytest.mark.parametrize("case", CASES, ids=str)
each_shape = pytest.mark.parametrize(("case", "shape"), SHAPED_CASES, ids=str)


def value(reg: jaxreg.Regularizer, x: jax.Array) -> jax.Array:
    return reg(x)


def value_and_gradient(reg: jaxreg.Regularizer, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.value_and_grad(reg)(x)


def in_float32(case: Case, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient, from one program for all penalties that take the shape."""
    return row(value_and_gradient, of_shape(x.shape), case, x.astype(np.float32))


def derivatives(reg: jaxreg.Regularizer, x: jax.Array, direction: jax.Array) -> Any:
    """Value, gradients in the coefficients and in x, and the product of the Hessian in x and a direction."""

    def all_gradients(x: jax.Array) -> Any:
        result, (slopes, gradient) = jax.value_and_grad(lambda reg, x: reg(x), argnums=(0, 1))(reg, x)
        return gradient, (result, slopes)

    gradient, product, (result, slopes) = jax.jvp(all_gradients, (x,), (direction,), has_aux=True)
    return result, slopes, gradient, product


def in_float64(case: Case) -> Any:
    """The derivatives at the sample of seed 1 in the direction of seed 2."""
    with jax.enable_x64(True):
        return row(derivatives, ALL_CASES, case, sample((3, 4), seed=1), sample((3, 4), seed=2))


@pytest.mark.core
@each_shape
def test_value_is_the_formula(case: Case, shape: tuple[int, ...]) -> None:
    x = sample(shape)
    found = in_float32(case, x)[0]
    assert found.shape == () and found.dtype == np.float32
    np.testing.assert_allclose(found, case.value(x), rtol=2e-6)


@pytest.mark.core
@each_shape
def test_gradient_is_the_subgradient_of_least_norm(case: Case, shape: tuple[int, ...]) -> None:
    for x in (sample(shape), np.zeros(shape)):
        np.testing.assert_allclose(in_float32(case, x)[1], case.subgradient(x), rtol=2e-5, atol=2e-6)


@pytest.mark.core
@each_case
def test_gradient_at_kinks(case: Case) -> None:
    for kink in case.kinks:
        np.testing.assert_allclose(in_float32(case, kink)[1], case.subgradient(kink), rtol=2e-5, atol=1e-6)


@each_case
def test_gradient_is_the_central_difference_off_the_kinks(case: Case) -> None:
    x, direction = sample((3, 4), seed=1), sample((3, 4), seed=2)
    h = 1e-6
    difference = (case.value(x + h * direction) - case.value(x - h * direction)) / (2 * h)
    np.testing.assert_allclose(np.vdot(in_float64(case)[2], direction), difference, rtol=1e-7)


def second_derivatives(reg: jaxreg.Regularizer, x: jax.Array) -> jax.Array:
    """Forwards over backwards, as in `jax.hessian`: along a direction, and along those of the axes."""
    directions = np.concatenate([np.ones((1, x.size)), np.eye(x.size)]).reshape(-1, *x.shape)
    return jax.vmap(lambda d: jax.jvp(jax.grad(reg), (x,), (d,))[1])(jnp.asarray(directions, x.dtype))


@each_case
def test_second_derivatives_are_finite(case: Case) -> None:
    for x in (*case.kinks, sample((3, 4))):
        cases = tuple(c for c in ALL_CASES if any(x.shape == kink.shape for kink in (*c.kinks, sample((3, 4)))))
        assert np.isfinite(row(second_derivatives, cases, case, x.astype(np.float32))).all()


@each_case
def test_hessian_is_the_difference_of_gradients(case: Case) -> None:
    x, direction = sample((3, 4), seed=1), sample((3, 4), seed=2)
    h = 1e-6
    plus, minus = case.subgradient(x + h * direction), case.subgradient(x - h * direction)
    np.testing.assert_allclose(in_float64(case)[3], (plus - minus) / (2 * h), rtol=1e-5, atol=1e-7)


@each_builtin
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn"])
def test_low_precision_is_summed_in_float32(case: Case, dtype: str) -> None:
    x = sample((3, 4)).astype(jnp.dtype(dtype))
    found, slope = row(value_and_gradient, CASES, case, x)
    stored = np.asarray(x, np.float64)
    assert found.dtype == np.float32 and slope.dtype == x.dtype
    np.testing.assert_allclose(found, case.value(stored), rtol=1e-6)
    rounding = {"float16": 1e-3, "bfloat16": 1e-2, "float8_e4m3fn": 0.07}[dtype]
    np.testing.assert_allclose(np.asarray(slope, float), case.subgradient(stored), rtol=rounding, atol=rounding)


@each_builtin
def test_float64_stays_float64(case: Case) -> None:
    found, _, slope, _ = in_float64(case)
    assert found.dtype == np.float64 and slope.dtype == np.float64
    np.testing.assert_allclose(found, case.value(sample((3, 4), seed=1)), rtol=1e-14)
    with jax.enable_x64(True):
        assert jax.eval_shape(case.regularizer, jax.ShapeDtypeStruct((3, 4), np.float32)).dtype == np.float32


@each_builtin
@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint8, bool])
def test_integers_and_bools_are_promoted(case: Case, dtype: type) -> None:
    x = np.array([[1, 0, 3, 100], [0, 2, 1, 7], [5, 5, 0, 1]]).astype(dtype)
    found = row(value, CASES, case, x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, case.value(x.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize(
    ("reg", "value"),
    [(jaxreg.L1(0.1), 0.1 * 6.0), (jaxreg.L2(0.1), 0.1 * 26.0), (jaxreg.L1L2(0.1, 0.2), 0.6 + 5.2)],
    ids=repr,
)
def test_complex_numbers_count_by_their_modulus(reg: jaxreg.Regularizer, value: float) -> None:
    z = jnp.array([3 + 4j, 0j, -1j])
    np.testing.assert_allclose(reg(z), value, rtol=1e-6)
    assert reg(z).dtype == jnp.float32
    slope = jax.grad(reg)(z)
    assert slope.dtype == z.dtype and slope[1] == 0
    # JAX's convention for a real function f(x + iy): df/dx − i·df/dy
    h = 1e-2
    for i, unit in ((0, 1), (0, 1j), (2, 1j)):
        step = jnp.zeros(3, complex).at[i].set(h * unit)
        difference = (reg(z + step) - reg(z - step)) / (2 * h)
        np.testing.assert_allclose(jnp.real(slope[i] * unit), difference, rtol=1e-3)


def test_orthogonality_of_complex_rows() -> None:
    rows = jnp.array([[1, 1j], [1j, 1], [1, 0]])
    cosines = [abs(np.vdot([1, 1j], [1j, 1])) / 2, 1 / np.sqrt(2), 1 / np.sqrt(2)]
    np.testing.assert_allclose(jaxreg.OrthogonalRegularizer(1.0)(rows), np.mean(cosines), rtol=1e-6)


@pytest.mark.parametrize(
    ("reg", "x", "value"),
    [
        (jaxreg.L2(1e-4), jnp.full((10, 300), 300.0, jnp.float16), 1e-4 * 3000 * 300.0**2),
        (jaxreg.L2(1e-10), jnp.full(3, 1e20), 3e30),
        (jaxreg.L1(1e-30), jnp.full(10, 3e38), 3e9),
        (jaxreg.L1(1e-4), jnp.ones((1000, 1000), jnp.float16), 100.0),
        (jaxreg.L2(1e-8), jnp.ones(10, jnp.float16), 1e-7),
        (jaxreg.L2(1e-4), jnp.full(1_000_000, 0.1, jnp.float16), 1e2 * float(np.float16(0.1)) ** 2),
        (jaxreg.L2(1e30), jnp.full(2, 1e-20), 2e-10),
        (jaxreg.L1(1e38), jnp.full(2, 2e-38), 4.0),
        (jaxreg.L2(0.0), jnp.full(3, 3e38), 0.0),
        (jaxreg.L1(0.0), jnp.full(3, 3e38), 0.0),
        (jaxreg.OrthogonalRegularizer(0.1), jnp.array([[1e20, 1e20], [1e-30, 0.0]]), 0.1 / np.sqrt(2)),
        (jaxreg.OrthogonalRegularizer(0.1), jnp.array([[300.0, 300.0], [1e-4, 0.0]], jnp.float16), 0.1 / np.sqrt(2)),
    ],
    ids=str,
)
def test_what_is_representable_neither_overflows_nor_vanishes(
    reg: jaxreg.Regularizer, x: jax.Array, value: float
) -> None:
    np.testing.assert_allclose(reg(x), value, rtol=1e-6)
    assert jnp.isfinite(jax.grad(reg)(x)).all()


@each_builtin
def test_empty_arrays_give_zero(case: Case) -> None:
    for shape in ((0, 4), (4, 0), (0, 0), *(((0,),) if case.scalar else ())):
        cases = PROX_CASES if len(shape) == 1 else CASES
        found, slope = row(value_and_gradient, cases, case, np.zeros(shape, np.float32))
        assert found == 0 and slope.shape == shape


@each_builtin
def test_nan_in_gives_nan_out(case: Case) -> None:
    x = sample((3, 4))
    x[1, 2] = np.nan
    assert np.isnan(in_float32(case, x)[0])


def test_one_row_is_orthogonal() -> None:
    for reg, shape in (
        (jaxreg.OrthogonalRegularizer(0.1), (1, 4)),
        (jaxreg.OrthogonalRegularizer(0.1, "columns"), (4, 1)),
    ):
        value, slope = jax.value_and_grad(reg)(jnp.ones(shape))
        assert value == 0 and (slope == 0).all()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_orthogonality_wants_a_matrix(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have rank 2\. Received: inputs\.shape="):
        jaxreg.OrthogonalRegularizer()(jnp.ones(shape))


def vmapped_and_scanned(reg: jaxreg.Regularizer, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vmap(reg)(x), jax.lax.scan(lambda carry, member: (carry, reg(member)), 0, x)[1]


@each_case
def test_jit_and_vmap_agree_with_the_formula(case: Case) -> None:
    x = np.stack([sample((3, 4), seed) for seed in range(3)])
    expected = [case.value(member) for member in x]
    np.testing.assert_allclose(case.regularizer(np.float32(x[0])), expected[0], rtol=2e-6)
    for found in row(vmapped_and_scanned, ALL_CASES, case, x.astype(np.float32)):
        np.testing.assert_allclose(found, expected, rtol=2e-6)


def over_coefficients(reg: jaxreg.Regularizer, x: jax.Array) -> jax.Array:
    stacked = jax.tree.map(lambda c: c * jnp.arange(4.0), reg)
    return jax.vmap(lambda reg: reg(x))(stacked)


@functools.cache
def multiplied(factor: int) -> list[np.ndarray]:
    """The values with all coefficients multiplied."""
    regs = [jax.tree.map(lambda c: c * factor, case.regularizer) for case in ALL_CASES]
    return [np.asarray(found) for found in program(value)(regs, np.float32(sample((3, 4))))]


@each_case
def test_vmap_over_stacked_coefficients(case: Case) -> None:
    values = row(over_coefficients, ALL_CASES, case, np.float32(sample((3, 4))))
    members = [multiplied(i)[ALL_CASES.index(case)] for i in range(4)]
    np.testing.assert_allclose(values, members, rtol=1e-6)


@functools.cache
def shifted(i: int, h: float) -> list[np.ndarray]:
    """The values in float64 at the sample of seed 1 with the coefficient number i of each penalty moved by h."""
    regs = []
    for case in ALL_CASES:
        leaves, treedef = jax.tree.flatten(case.regularizer)
        regs.append(treedef.unflatten([c + h * (i == k) for k, c in enumerate(leaves)]))
    with jax.enable_x64(True):
        return [np.asarray(found) for found in program(value)(regs, sample((3, 4), seed=1))]


@each_case
def test_gradient_with_respect_to_coefficients(case: Case) -> None:
    slopes = jax.tree.leaves(in_float64(case)[1])
    assert len(slopes) == len(jax.tree.leaves(case.regularizer))
    for i, partial in enumerate(slopes):
        plus, minus = (shifted(i, h)[ALL_CASES.index(case)] for h in (1e-6, -1e-6))
        np.testing.assert_allclose(partial, (plus - minus) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("reg", [jaxreg.L1(0.0), jaxreg.L2(0.0), jaxreg.L1L2(), jaxreg.OrthogonalRegularizer(0.0)])
def test_gradients_at_coefficient_zero(reg: jaxreg.Regularizer) -> None:
    x = jnp.asarray(sample((3, 4)), jnp.float32)
    one = jax.tree.map(lambda _: 1.0, reg)
    slope = sum(jax.tree.leaves(jax.grad(lambda r: r(x))(reg)))
    np.testing.assert_allclose(slope, one(x), rtol=1e-6)
    assert (jax.grad(reg)(x) == 0).all()


def doubled(reg: jaxreg.Regularizer, x: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """Three steps of a scan that doubles the coefficients: what they are then, and the values on the way."""
    arrays = jax.tree.map(jnp.asarray, reg)
    last, values = jax.lax.scan(lambda reg, _: (jax.tree.map(lambda c: 2 * c, reg), reg(x)), arrays, length=3)
    return jax.tree.leaves(last), values


@each_case
def test_carried_through_scan(case: Case) -> None:
    x = sample((3, 4))
    last, values = row(doubled, ALL_CASES, case, np.float32(x))
    np.testing.assert_allclose(last, [8 * c for c in jax.tree.leaves(case.regularizer)], rtol=1e-6)
    np.testing.assert_allclose(values[0], in_float32(case, x)[0], rtol=1e-6)


@each_case
def test_checkpointed_like_any_function(case: Case) -> None:
    x = np.float32(sample((3, 4)))
    again = jax.jit(jax.grad(jax.checkpoint(case.regularizer)))(x)
    np.testing.assert_array_equal(again, gradient(case.regularizer, x))


@each_builtin
def test_strict_modes_of_jax(case: Case) -> None:
    """Eagerly, so that `debug_nans` also sees what the gradient keeps from the value; of dtypes the trace is enough."""
    slope, half = jax.value_and_grad(case.regularizer), jax.ShapeDtypeStruct((3, 4), jnp.bfloat16)
    with jax.debug_nans(True), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jax.eval_shape(slope, half)
        for x in (sample((3, 4)), np.zeros((3, 4)), np.ones((3, 4))):
            jax.block_until_ready(slope(np.float32(x)))
            if case.scalar:
                jax.block_until_ready(case.regularizer.prox(np.float32(x), 0.5))
                jax.eval_shape(lambda z: case.regularizer.prox(z, 0.5), half)
