"""Gradients in the coefficients, through a whole training: those of the minimum, by scikit-learn and in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import lasso_path

import jaxreg

X, Y = load_diabetes(return_X_y=True)
X, Y = X / X.std(axis=0), (Y - Y.mean()) / Y.std()
TRAIN, VALIDATE = slice(0, 300), slice(300, None)
A, B = slice(0, 5), slice(5, 10)  # two "layers": half of the inputs each


def validation_loss(reg, steps=3000):
    """Of a linear model trained by proximal gradient steps, as two leaves of a tree with a rule each."""
    x, y = jnp.asarray(X[TRAIN]), jnp.asarray(Y[TRAIN])
    step = 1 / jnp.linalg.eigvalsh(x.T @ x / len(x))[-1]

    def loss(params):
        return 0.5 * jnp.mean((x[:, A] @ params["a"] + x[:, B] @ params["b"] - y) ** 2)

    def train(params, _):
        params = jax.tree.map(lambda w, g: w - step * g, params, jax.grad(loss)(params))
        return reg.prox(params, step), None

    params, _ = jax.lax.scan(train, {"a": jnp.zeros(5), "b": jnp.zeros(5)}, length=steps)
    return jnp.mean((X[VALIDATE, A] @ params["a"] + X[VALIDATE, B] @ params["b"] - Y[VALIDATE]) ** 2)


def held_out(w):
    return np.mean((X[VALIDATE] @ w - Y[VALIDATE]) ** 2)


def ridge(l2):
    x, y = X[TRAIN], Y[TRAIN]
    return held_out(np.linalg.solve(x.T @ x / len(x) + 2 * np.diag(np.repeat(l2, 5)), x.T @ y / len(x)))


def lasso(l1):
    scale = np.repeat(l1, 5)  # one strength for each column is one strength for scaled columns
    w = lasso_path(X[TRAIN] / scale, Y[TRAIN], alphas=[1.0], tol=1e-15, max_iter=10**6)[1][:, 0]
    return held_out(w / scale)


@pytest.mark.parametrize(
    ("penalty", "strengths", "oracle"),
    [(jaxreg.L2, (0.05, 0.2), ridge), (jaxreg.L1, (0.03, 0.06), lasso)],
    ids=["L2", "L1"],
)
def test_the_gradient_of_a_strength_for_each_leaf(penalty, strengths, oracle):
    with jax.enable_x64(True):
        reg = jaxreg.TreeRegularizer({"a": penalty(strengths[0]), "b": penalty(strengths[1])})
        value, gradient = jax.value_and_grad(validation_loss)(reg)
    assert value == pytest.approx(oracle(np.array(strengths)), abs=1e-9)
    h = 1e-5
    expected = [(oracle(strengths + h * e) - oracle(strengths - h * e)) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(jax.tree.leaves(gradient), expected, rtol=1e-4)
    assert np.abs(expected).min() > 1e-3
