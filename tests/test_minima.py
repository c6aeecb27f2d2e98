"""minima: paths over many features: scikit-learn's, the slopes of what was left out in NumPy; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import enet_path, lasso_path

import jaxreg
from jaxreg import L1, L1L2, Group

pytestmark = pytest.mark.wide  # a program for each width

RNG = np.random.default_rng(0)
N, P = 30, 1200  # more than are solved without a screen
X = np.asfortranarray(RNG.normal(size=(N, P)))
Y = X[:, :4] @ [3.0, -2.0, 1.5, 1.0] + 0.3 * RNG.normal(size=N)
TOP = np.abs(X.T @ Y).max() / N


def squares(w, x, y):
    return 0.5 * jnp.mean((x @ w - y) ** 2)


@pytest.mark.parametrize("ratio", [1.0, 0.5], ids=["lasso", "elastic net"])
def test_the_paths_of_scikit_learn(ratio):
    """In an order that is no order, from above the top on; the residual is that of the problem of all features."""
    grid = TOP / ratio * np.array([0.5, 1.1, 0.3, 0.7])
    with jax.enable_x64(True):
        reg = L1L2(ratio, (1 - ratio) / 2)
        found = jax.tree.map(np.asarray, jaxreg.minima(squares, reg, grid, np.zeros(P), X, Y, tol=1e-9))
    assert found.converged.all()
    path, arguments = (lasso_path, {}) if ratio == 1 else (enet_path, {"l1_ratio": ratio})
    alphas, expected, _ = path(X, Y, alphas=grid, tol=1e-13, max_iter=10**6, **arguments)
    for c, w in zip(alphas, expected.T, strict=True):
        i = int(np.argmin(np.abs(grid - c)))
        np.testing.assert_allclose(found.params[i], w, atol=1e-6)
        np.testing.assert_array_equal(found.params[i] == 0, w == 0)
        step = 0.01
        z = found.params[i] - step * X.T @ (X @ found.params[i] - Y) / N
        shrunk = np.sign(z) * np.maximum(np.abs(z) - step * ratio * c, 0) / (1 + step * (1 - ratio) * c)
        assert np.linalg.norm(found.params[i] - shrunk) / step < 1e-8
    np.testing.assert_array_equal(found.params[1], 0)


def test_where_the_rule_is_wrong_the_features_come_back():
    """It begins where the last thirty features alone explain all, and no slope says that others would do so better."""
    start = np.zeros(P)
    start[-N:] = np.linalg.solve(X[:, -N:], Y)
    with jax.enable_x64(True):
        found = jaxreg.minima(squares, L1(1.0), [0.5 * TOP], start, X, Y, tol=1e-9)
    assert found.converged.all()
    expected = lasso_path(X, Y, alphas=[0.5 * TOP], tol=1e-13, max_iter=10**6)[1].T
    np.testing.assert_allclose(found.params, expected, atol=1e-6)


def test_several_classes_with_a_penalty_of_rows():
    """Optimality in NumPy: a row that is not 0 is pulled by exactly c, one that is by at most c."""
    labels = np.argmax(X[:, :3] + 0.1 * RNG.normal(size=(N, 3)), axis=1)

    def entropy(w, x, labels):
        z = x @ w
        return jnp.mean(jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, labels[:, None], axis=1)[:, 0])

    reg = 2 * Group(L1(0.5), axis=1)
    with jax.enable_x64(True):
        found = jaxreg.minima(entropy, reg, [0.2, 0.1], np.zeros((P, 3)), X, labels, tol=1e-8)
    assert found.converged.all()
    for c, w in zip([0.2, 0.1], np.asarray(found.params), strict=True):
        odds = np.exp(X @ w)
        g = X.T @ (odds / odds.sum(axis=1, keepdims=True) - np.eye(3)[labels]) / N
        norms, on = np.linalg.norm(w, axis=1, keepdims=True), (w != 0).any(axis=1)
        assert np.abs(g[on] + c * w[on] / norms[on]).max() < 1e-7
        assert np.linalg.norm(g[~on], axis=1).max() <= c
        assert 0 < on.sum() < 30


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (NotImplementedError, r"got `SLOPE", {"reg": jaxreg.SLOPE(np.ones(3))}),
        (NotImplementedError, r"got `Group.*rank 1", {"reg": Group(L1(), axis=0)}),
        (NotImplementedError, r"got `L2\(", {"reg": jaxreg.L2(1.0)}),
        (
            NotImplementedError,
            r"got `Group\(penalty=MCP",
            {"reg": Group(jaxreg.MCP(1.0), axis=1), "params": np.ones((3, 2))},
        ),
        (
            ValueError,
            r"the first axis of `params` is the last one of `x`.*\(2,\) and \(4, 3\)",
            {"params": np.zeros(2)},
        ),
        (ValueError, r"`minima\(coefficients=...\)` must be a real, finite, non-negative", {"coefficients": [-1.0]}),
    ],
    ids=["SLOPE", "one group", "L2", "not convex", "shapes", "coefficient"],
)
def test_what_is_refused(error, message, change):
    call = {"loss": squares, "reg": L1(), "coefficients": [1.0], "params": np.zeros(3), "x": np.ones((4, 3)), **change}
    with pytest.raises(error, match=message):
        jaxreg.minima(*call.values(), np.ones((4, 1)))


def test_inside_of_a_program_the_way_out_is_minimize():
    x, y = jnp.asarray(X[:, :3], jnp.float32), jnp.asarray(Y, jnp.float32)
    with pytest.raises(TypeError, match=r"not called inside of `jax.jit`.*`jax.lax.scan` of `jaxreg.minimize`"):
        jax.jit(lambda x: jaxreg.minima(squares, L1(), [1.0], jnp.zeros(3), x, y))(x)

    @jax.jit
    def scanned(x):
        def one(w, c):
            w = jaxreg.minimize(squares, L1(c), w, x, y).params
            return w, w

        return jax.lax.scan(one, jnp.zeros(3), jnp.array([1.0, 0.5]))[1]

    np.testing.assert_allclose(
        scanned(x), jaxreg.minima(squares, L1(1.0), [1.0, 0.5], jnp.zeros(3), x, y).params, atol=1e-5
    )
