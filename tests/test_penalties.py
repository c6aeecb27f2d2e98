"""Properties of every penalty: value, subgradient, derivatives, dtypes, and how JAX transforms it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from tests.cases import (
    ALL_CASES,
    CASES,
    SHAPED_CASES,
    Case,
    gradient,
    gradient_and_product,
    sample,
    value_and_gradient,
)

each_case = pytest.mark.parametrize("case", ALL_CASES, ids=str)
each_builtin = pytest.mark.parametrize("case", CASES, ids=str)
each_shape = pytest.mark.parametrize(("case", "shape"), SHAPED_CASES, ids=str)


@pytest.mark.core
@each_shape
def test_value_is_the_formula(case: Case, shape: tuple[int, ...]) -> None:
    x = sample(shape)
    value = case.regularizer(jnp.asarray(x, jnp.float32))
    assert value.shape == () and value.dtype == jnp.float32
    np.testing.assert_allclose(value, case.value(x), rtol=2e-6)


@pytest.mark.core
@each_shape
def test_gradient_is_the_subgradient_of_least_norm(case: Case, shape: tuple[int, ...]) -> None:
    for x in (sample(shape), np.zeros(shape)):
        found = gradient(case.regularizer, jnp.asarray(x, jnp.float32))
        np.testing.assert_allclose(found, case.subgradient(x), rtol=2e-5, atol=2e-6)


@pytest.mark.core
@each_case
def test_gradient_at_kinks(case: Case) -> None:
    for kink in case.kinks:
        found = gradient(case.regularizer, jnp.asarray(kink, jnp.float32))
        np.testing.assert_allclose(found, case.subgradient(kink), rtol=2e-5, atol=1e-6)


@each_case
def test_gradient_is_the_central_difference_off_the_kinks(case: Case) -> None:
    with jax.enable_x64(True):
        x, direction = sample((3, 4), seed=1), sample((3, 4), seed=2)
        h = 1e-6
        difference = (case.value(x + h * direction) - case.value(x - h * direction)) / (2 * h)
        derivative = np.vdot(gradient_and_product(case.regularizer, x, direction)[0], direction)
        np.testing.assert_allclose(derivative, difference, rtol=1e-7)


@jax.jit
def second_derivatives(reg: jaxreg.Regularizer, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Forwards over backwards, along a direction and whole."""
    return jax.jvp(jax.grad(reg), (x,), (jnp.ones_like(x),))[1], jax.hessian(reg)(x)


@each_case
def test_second_derivatives_are_finite(case: Case) -> None:
    for x in (*case.kinks, sample((3, 4))):
        for derivative in second_derivatives(case.regularizer, jnp.asarray(x, jnp.float32)):
            assert np.isfinite(derivative).all()


@each_case
def test_hessian_is_the_difference_of_gradients(case: Case) -> None:
    with jax.enable_x64(True):
        x, direction = sample((3, 4), seed=1), sample((3, 4), seed=2)
        product = gradient_and_product(case.regularizer, x, direction)[1]
        h = 1e-6
        plus, minus = case.subgradient(x + h * direction), case.subgradient(x - h * direction)
        np.testing.assert_allclose(product, (plus - minus) / (2 * h), rtol=1e-5, atol=1e-7)


@each_builtin
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn"])
def test_low_precision_is_summed_in_float32(case: Case, dtype: str) -> None:
    x = jnp.asarray(sample((3, 4)), jnp.dtype(dtype))
    value, slope = value_and_gradient(case.regularizer, x)
    stored = np.asarray(x, np.float64)
    assert value.dtype == jnp.float32 and slope.dtype == x.dtype
    np.testing.assert_allclose(value, case.value(stored), rtol=1e-6)
    rounding = {"float16": 1e-3, "bfloat16": 1e-2, "float8_e4m3fn": 0.07}[dtype]
    np.testing.assert_allclose(np.asarray(slope, float), case.subgradient(stored), rtol=rounding, atol=rounding)


@each_builtin
def test_float64_stays_float64(case: Case) -> None:
    with jax.enable_x64(True):
        x = sample((3, 4))
        value, slope = value_and_gradient(case.regularizer, x)
        assert value.dtype == jnp.float64 and slope.dtype == jnp.float64
        np.testing.assert_allclose(value, case.value(x), rtol=1e-14)
        assert case.regularizer(jnp.asarray(x, jnp.float32)).dtype == jnp.float32


@each_builtin
@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint8, bool])
def test_integers_and_bools_are_promoted(case: Case, dtype: type) -> None:
    x = np.array([[1, 0, 3, 100], [0, 2, 1, 7], [5, 5, 0, 1]]).astype(dtype)
    value = case.regularizer(jnp.asarray(x))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, case.value(x.astype(np.float64)), rtol=1e-6)


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
        value, slope = value_and_gradient(case.regularizer, np.zeros(shape, np.float32))
        assert value == 0 and slope.shape == shape


@each_builtin
def test_nan_in_gives_nan_out(case: Case) -> None:
    x = jnp.asarray(sample((3, 4)), jnp.float32).at[1, 2].set(jnp.nan)
    assert jnp.isnan(case.regularizer(x))


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


@each_case
def test_jit_and_vmap_agree_with_the_formula(case: Case) -> None:
    x = jnp.asarray(np.stack([sample((3, 4), seed) for seed in range(3)]), jnp.float32)
    expected = [case.value(np.asarray(member, np.float64)) for member in x]
    np.testing.assert_allclose(jax.vmap(case.regularizer)(x), expected, rtol=2e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(case.regularizer))(x), expected, rtol=2e-6)
    _, scanned = jax.lax.scan(lambda carry, member: (carry, case.regularizer(member)), 0, x)
    np.testing.assert_allclose(scanned, expected, rtol=2e-6)


@each_case
def test_vmap_over_stacked_coefficients(case: Case) -> None:
    x = sample((3, 4))
    stacked = jax.tree.map(lambda c: c * jnp.arange(4.0), case.regularizer)
    members = [jax.tree.map(lambda c, i=i: c * i, case.regularizer) for i in range(4)]
    values = jax.vmap(lambda reg: reg(jnp.asarray(x, jnp.float32)))(stacked)
    np.testing.assert_allclose(values, [member(jnp.asarray(x, jnp.float32)) for member in members], rtol=1e-6)


@each_case
def test_gradient_with_respect_to_coefficients(case: Case) -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(sample((3, 4)))
        leaves, treedef = jax.tree.flatten(case.regularizer)
        slopes = jax.tree.leaves(jax.jit(jax.grad(lambda reg: reg(x)))(case.regularizer))
        assert len(slopes) == len(leaves)
        for i, partial in enumerate(slopes):
            plus, minus = (treedef.unflatten([c + h * (i == k) for k, c in enumerate(leaves)]) for h in (1e-6, -1e-6))
            np.testing.assert_allclose(partial, (plus(x) - minus(x)) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("reg", [jaxreg.L1(0.0), jaxreg.L2(0.0), jaxreg.L1L2(), jaxreg.OrthogonalRegularizer(0.0)])
def test_gradients_at_coefficient_zero(reg: jaxreg.Regularizer) -> None:
    x = jnp.asarray(sample((3, 4)), jnp.float32)
    one = jax.tree.map(lambda _: 1.0, reg)
    slope = sum(jax.tree.leaves(jax.grad(lambda r: r(x))(reg)))
    np.testing.assert_allclose(slope, one(x), rtol=1e-6)
    assert (jax.grad(reg)(x) == 0).all()


@each_case
def test_carried_through_scan(case: Case) -> None:
    x = jnp.asarray(sample((3, 4)), jnp.float32)
    arrays = jax.tree.map(jnp.asarray, case.regularizer)
    last, values = jax.lax.scan(lambda reg, _: (jax.tree.map(lambda c: 2 * c, reg), reg(x)), arrays, length=3)
    np.testing.assert_allclose(jax.tree.leaves(last), [8 * c for c in jax.tree.leaves(case.regularizer)], rtol=1e-6)
    np.testing.assert_allclose(values[0], case.regularizer(x), rtol=1e-6)


@each_case
def test_checkpointed_like_any_function(case: Case) -> None:
    x = jnp.asarray(sample((3, 4)), jnp.float32)
    again = jax.jit(jax.grad(jax.checkpoint(case.regularizer)))(x)
    np.testing.assert_array_equal(again, gradient(case.regularizer, x))


@each_builtin
def test_strict_modes_of_jax(case: Case) -> None:
    """Eagerly, so that `debug_nans` also sees what the gradient keeps from the value."""
    with jax.debug_nans(True), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for x in (jnp.asarray(sample((3, 4)), jnp.float32), jnp.zeros((3, 4)), jnp.ones((3, 4), jnp.bfloat16)):
            jax.block_until_ready(jax.value_and_grad(case.regularizer)(x))
            if case.scalar:
                jax.block_until_ready(case.regularizer.prox(x, 0.5))
