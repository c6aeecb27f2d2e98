"""Derivatives of the minima of `minimize`: closed forms, coordinate descent, differences; in all modes, and twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import lasso_path

import jaxreg

pytestmark = pytest.mark.wide  # long solves

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 6))
Y = X @ np.array([1.0, -2.0, 0.0, 0.0, 0.5, 0.0]) + 0.3 * RNG.normal(size=20)
TARGET = RNG.normal(size=6)


def squares(w, x, y):
    return 0.5 * jnp.mean((x @ w.ravel() - y) ** 2)


def minimum(reg, x, y, start=None, **options):
    return jaxreg.minimize(squares, reg, jnp.zeros(6) if start is None else start, x, y, tol=1e-13, **options)


def ridge(l2, x=X, y=Y):
    return np.linalg.solve(x.T @ x / len(x) + 2 * np.diag(np.broadcast_to(l2, 6)), x.T @ y / len(x))


def test_ridge_in_closed_form():
    """w = A⁻¹b with A = XᵀX/n + 2·diag(l), so dw = −2·A⁻¹(dl∘w), and d²w = 8·A⁻²w for one number l."""
    weights = np.array([1.0, 0.5, 2.0, 3.0, 0.2, 1.0])
    a = np.linalg.inv(X.T @ X / len(X) + 0.2 * np.diag(weights))
    w = ridge(0.1 * weights)
    with jax.enable_x64(True):

        def params(weights):
            return minimum(jaxreg.Weighted(jaxreg.L2(0.1), weights), X, Y).params

        np.testing.assert_allclose(params(jnp.asarray(weights)), w, atol=1e-11)
        jacobian = jax.jit(jax.jacrev(params))(jnp.asarray(weights))
        np.testing.assert_allclose(jacobian, -0.2 * a * w, rtol=1e-8, atol=1e-10)

        def of_one(l2):
            return minimum(jaxreg.L2(l2), X, Y).params @ TARGET

        second = jax.jit(jax.grad(jax.grad(of_one)))(0.1)
    a = np.linalg.inv(X.T @ X / len(X) + 0.2 * np.eye(6))
    np.testing.assert_allclose(second, 8 * TARGET @ a @ a @ ridge(0.1), rtol=1e-7)


def test_lasso_on_its_support():
    """w_S = (X_SᵀX_S/n)⁻¹(X_Sᵀy/n − c·s): in c, in y, in x through a number of the loss; scikit-learn finds w."""
    c = 0.1
    w = lasso_path(X, Y, alphas=[c], tol=1e-15, max_iter=10**6)[1][:, 0]
    s = w != 0
    assert 2 <= s.sum() <= 4
    xs = X[:, s]
    a = np.linalg.inv(xs.T @ xs / len(X))
    with jax.enable_x64(True):

        def outer(reg, y):
            return minimum(reg, X, y).params @ TARGET

        in_c, in_y = jax.jit(jax.grad(outer, argnums=(0, 1)))(jaxreg.L1(c), jnp.asarray(Y))
    np.testing.assert_allclose(in_c.l1, -TARGET[s] @ a @ np.sign(w[s]), rtol=1e-8)
    np.testing.assert_allclose(in_y, TARGET[s] @ a @ xs.T / len(X), rtol=1e-8, atol=1e-12)


CASES = {
    "sparse group lasso": (jaxreg.L1(0.02) + jaxreg.Group(jaxreg.L1(0.1), axis=1), (3, 2)),
    "nuclear norm": (jaxreg.Spectral(jaxreg.L1(0.1)), (3, 2)),
    "MCP": (jaxreg.MCP(0.1, 30.0), (6,)),
    "ball of L1": (jaxreg.L1Ball(1.5), (6,)),
    "sphere": (jaxreg.UnitNorm(axis=0, radius=1.5), (6,)),
}


@pytest.mark.parametrize("name", CASES)
def test_differences(name):
    """Of minimum and value, along a direction in all numbers of the penalty and one in the data."""
    reg, shape = CASES[name]
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda c: 0.3 * c * rng.normal(), reg), rng.normal(size=X.shape), rng.normal(size=20)

    def at(*h):
        reg_, x, y = (
            jax.tree.map(lambda a, d, h=h: a + h * d, a, d)
            for a, d, h in zip((reg, X, Y), direction, (*h, h[1]), strict=True)
        )
        found = minimum(reg_, x, y, jnp.zeros(shape))
        return jnp.append(found.params.ravel(), found.value), found.converged

    with jax.enable_x64(True):
        both = jax.jit(lambda *h: (*at(*h), jax.jacfwd(lambda *h: at(*h)[0], argnums=(0, 1))(*h)))
        slopes = both(0.0, 0.0)[-1]
        for slope, unit in zip(slopes, np.eye(2), strict=True):
            (above, ok, _), (below, also, _) = both(*(1e-5 * unit)), both(*(-1e-5 * unit))
            assert ok and also
            np.testing.assert_allclose(slope, (above - below) / 2e-5, rtol=1e-6, atol=2e-8)
            assert np.abs(slope[:-1]).max() > 1e-3 and abs(slope[-1]) > 1e-3


def test_of_a_batch_and_of_what_the_loss_reads_from_outside_and_not_of_the_start():
    x, y = (jnp.asarray(a, jnp.float32) for a in (X, Y))

    def outer(strength, scale, start):
        found = jaxreg.minimize(lambda w: squares(w, scale * x, y), strength * jaxreg.L1(1.0), start)
        return jnp.sum(found.params**2)

    gradients = jax.jit(jax.vmap(jax.grad(outer, argnums=(0, 1, 2)), (0, None, None)))
    strengths = np.array([0.02, 0.1, 0.3])
    in_strength, in_scale, in_start = gradients(strengths, 1.0, jnp.ones(6))
    np.testing.assert_array_equal(in_start, 0)

    def oracle(strength, scale):
        return np.sum(lasso_path(scale * X, Y, alphas=[strength], tol=1e-15, max_iter=10**6)[1] ** 2)

    h = 1e-5
    expected = [(oracle(c + h, 1.0) - oracle(c - h, 1.0)) / (2 * h) for c in strengths]
    np.testing.assert_allclose(in_strength, expected, rtol=2e-3)
    expected = [(oracle(c, 1 + h) - oracle(c, 1 - h)) / (2 * h) for c in strengths]
    np.testing.assert_allclose(in_scale, expected, rtol=2e-3)


def test_the_memory_of_the_derivative_does_not_know_the_steps():
    """Their limit is a traced number, so no program can hold an array for them."""
    gradient = jax.jit(jax.grad(lambda reg, most: minimum(reg, X, Y, max_steps=most).value))
    with jax.enable_x64(True):
        few, many = (gradient(jaxreg.L1(0.1), most).l1 for most in (2, 10_000))
    assert gradient._cache_size() == 1
    np.testing.assert_allclose(many, np.abs(lasso_path(X, Y, alphas=[0.1], tol=1e-15)[1]).sum(), rtol=1e-8)
    assert abs(float(few) / float(many) - 1) > 1e-3


def test_where_the_minimum_is_not_unique_there_is_no_derivative():
    """Of (w₁ + w₂ − 1)² + c₁|w₁| + c₂|w₂| with c₁ = c₂ > 0: any change of c₁ alone moves all of it into one of them."""
    start = jnp.array([0.2, 0.3])

    def found(c):
        reg = jaxreg.Weighted(jaxreg.L1(0.1), jnp.stack([c, jnp.ones(())]))
        return jaxreg.minimize(lambda w: (jnp.sum(w) - 1) ** 2, reg, start)

    (params, _), (in_params, in_value) = jax.jit(
        lambda c: jax.jvp(lambda c: (found(c).params, found(c).value), (c,), (jnp.ones(()),))
    )(jnp.ones(()))
    np.testing.assert_allclose(params.sum(), 0.95, atol=1e-5)
    assert np.isnan(in_params).any()
    np.testing.assert_allclose(in_value, 0.1 * params[0], rtol=1e-4)  # that of the value there is
