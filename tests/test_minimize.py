"""minimize: what its residual certifies, in NumPy; how it ends; trees, dtypes, batches, devices; what is refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from sklearn.datasets import load_breast_cancer, load_diabetes

import jaxreg

X, Y = load_diabetes(return_X_y=True)
X, Y = X / X.std(axis=0), (Y - Y.mean()) / Y.std()
N, P = X.shape


def squares(w, x, y):
    return 0.5 * jnp.mean((x @ w - y) ** 2)


def gradient(w):
    return X.T @ (X @ w - Y) / N


@jax.jit
def fitted(reg, start, x, y, tol, max_steps):
    return jaxreg.minimize(squares, reg, start, x, y, tol=tol, max_steps=max_steps)


def fit(reg, start=None, x=X, y=Y, tol=1e-5, max_steps=10_000):
    start = np.zeros(P) if start is None else start
    dtype = jnp.result_type(float)
    return jax.tree.map(np.asarray, fitted(reg, *(jnp.asarray(a, dtype) for a in (start, x, y)), tol, max_steps))


def distance_to_subgradients(w, strength, g):
    """Of 0 from ∇f + ∂(strength·‖·‖₁), in NumPy."""
    inside = np.maximum(np.abs(g) - strength, 0)
    return np.linalg.norm(np.where(w == 0, inside, g + strength * np.sign(w)))


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("strength", [0.5, 0.05, 0.001])
def test_the_residual_certifies_the_minimum(x64, strength):
    """Strong convexity bounds the distance from the minimum that coordinate descent finds in float64."""
    from sklearn.linear_model import Lasso

    tol = 1e-11 if x64 else 1e-5
    with jax.enable_x64(x64):
        found = fit(jaxreg.L1(strength), tol=tol)
    w = found.params.astype(float)
    assert found.converged and found.residual <= tol
    assert found.params.dtype == found.value.dtype == found.residual.dtype == (np.float64 if x64 else np.float32)
    eigenvalues = np.linalg.eigvalsh(X.T @ X / N)
    truth = Lasso(strength, fit_intercept=False, tol=1e-15, max_iter=10**6).fit(X, Y).coef_
    assert np.linalg.norm(w - truth) <= 2 * tol / eigenvalues[0]
    np.testing.assert_array_equal(w == 0, truth == 0)
    np.testing.assert_allclose(found.value, 0.5 * np.mean((X @ w - Y) ** 2) + strength * np.abs(w).sum(), rtol=1e-6)
    # The residual is at most the distance of 0 from the subgradients, but for rounding.
    floor = 10 * np.finfo(found.params.dtype).eps * eigenvalues[-1] * np.linalg.norm(w)
    assert found.residual <= distance_to_subgradients(w, strength, gradient(w)) + floor


def test_without_a_penalty_the_residual_is_the_norm_of_the_gradient():
    with jax.enable_x64(True):
        found = fit(jaxreg.L1(0.0), tol=1e-3)
    np.testing.assert_allclose(found.residual, np.linalg.norm(gradient(found.params)), rtol=1e-10)
    assert 1e-5 < found.residual <= 1e-3


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_units_do_not_matter(unit):
    """X and Y in other units: the same minimum, in float32."""
    found = fit(jaxreg.L1(0.05 * unit**2), x=X * unit, y=Y * unit, tol=1e-5 * unit**2)
    assert found.converged
    np.testing.assert_allclose(found.params, fit(jaxreg.L1(0.05)).params, atol=2e-4)


def test_logistic_regression_on_a_tree():
    """An intercept without a penalty, and leaves that are no parameters; optimality in NumPy, in float64."""
    x, y = load_breast_cancer(return_X_y=True)
    x, y = np.asarray((x - x.mean(axis=0)) / x.std(axis=0), np.float32), np.asarray(2 * y - 1, np.float32)

    def loss(params, x, y):
        return jnp.mean(jnp.logaddexp(0, -y * (x @ params["w"] + params["b"] + params["count"].sum())))

    start = {"w": np.zeros(30), "b": 0.0, "none": None, "count": np.zeros(2, int), "key": jax.random.key(0)}
    reg = jaxreg.TreeRegularizer({"w": jaxreg.L1(0.01), "b": None})
    found = jax.jit(lambda reg: jaxreg.minimize(loss, reg, start, x, y, tol=1e-5))(reg)
    assert found.converged
    assert jax.tree.structure(found.params) == jax.tree.structure(start)
    assert found.params["count"].dtype == np.int32 and found.params["key"] == start["key"]
    w, b = np.asarray(found.params["w"], float), float(found.params["b"])
    x, y = x.astype(float), y.astype(float)
    slope = -y / (1 + np.exp(y * (x @ w + b))) / len(y)
    assert abs(slope.sum()) < 2e-5
    assert distance_to_subgradients(w, 0.01, x.T @ slope) < 1e-4
    assert 5 < np.count_nonzero(w) < 15


def test_complex_numbers():
    """‖Uw − b‖² with a unitary U: the soft threshold of the moduli of Uᴴb, on paper."""
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.normal(size=(4, 4)) + 1j * rng.normal(size=(4, 4)))
    b = u @ np.array([2 + 1j, 0.1j, -1.0, 0.2])

    def loss(params):
        off = u.astype(np.complex64) @ params[0] - b.astype(np.complex64)
        return 0.5 * jnp.sum(jnp.real(off * jnp.conj(off))) + 0.5 * params[1] ** 2

    found = jaxreg.minimize(loss, jaxreg.TreeRegularizer({"0": jaxreg.L1(0.5)}), [np.zeros(4, np.complex64), 1.0])
    assert found.converged and found.params[0].dtype == np.complex64
    z = u.conj().T @ b
    np.testing.assert_allclose(found.params[0], z * np.maximum(1 - 0.5 / np.abs(z), 0), atol=1e-5)
    np.testing.assert_allclose(found.params[1], 0, atol=1e-5)


NOT_CONVEX = {
    "L0": jaxreg.L0(0.005),
    "MCP": jaxreg.MCP(0.1, 3.0),
    "TopK": jaxreg.TopK(3),
    "UnitNorm": jaxreg.UnitNorm(axis=0),
}


@pytest.mark.parametrize("name", NOT_CONVEX)
def test_what_is_not_convex_goes_down_to_a_stationary_point(name):
    """On the support that is left nothing pushes; no step goes up."""
    values, reg = [], NOT_CONVEX[name]
    jax.config.update("jax_enable_x64", True)  # of the process: callbacks come from threads that no context reaches
    try:
        found = jaxreg.minimize(
            squares, reg, jnp.ones(P), X, Y, tol=1e-10, callback=lambda _, value, residual: values.append(float(value))
        )
        jax.block_until_ready(found)
        jax.effects_barrier()
        assert found.converged
    finally:
        jax.config.update("jax_enable_x64", False)
    finite = np.array(values)[np.isfinite(values)]
    assert len(values) == found.steps and (np.diff(finite) <= 1e-12).all()
    w = np.asarray(found.params)
    g = gradient(w)[w != 0]
    if name == "MCP":
        a = np.abs(w[w != 0])
        g = g + np.sign(w[w != 0]) * np.maximum(0.1 - a / 3, 0)
    if name == "UnitNorm":
        g = g - (g @ w) * w
    assert np.abs(g).max() < 1e-9
    assert name != "TopK" or np.count_nonzero(w) == 3


# ---------------------------------------------------------------------------------------------------------- how it ends


@pytest.mark.parametrize(
    ("loss", "start", "options", "reason"),
    [
        (lambda w: jnp.sum((w - 3) ** 4), 1.0, {"max_steps": 3}, "after `max_steps`"),
        (lambda w: jnp.sum(jnp.log(w)), -1.0, {}, "not finite"),
        (lambda w: -jnp.sum(w**2), 1.0, {}, "lost in the rounding"),
        (lambda w: -10 * jnp.sum(w), 1.0, {}, "lost in the rounding"),
        (lambda w: jnp.sum((w - 0.3) ** 2), 1.0, {"tol": 1e-12}, "lost in the rounding"),
        (lambda w: jnp.sum(jnp.abs(w - 0.3) * 3), 1.0, {"tol": 1e-3}, "lost in the rounding"),
    ],
    ids=["limit", "nan", "no minimum", "no minimum on a line", "tolerance below rounding", "loss with a kink"],
)
def test_what_is_no_minimum_is_told(loss, start, options, reason):
    found = jaxreg.minimize(loss, jaxreg.L1(0.1), jnp.full(2, start), **options)
    assert not found.converged and reason in found.reason
    assert np.isfinite(found.params).all()
    assert not found.residual <= options.get("tol", 1e-5)


def test_where_the_loss_is_defined_is_not_left():
    """w² − log w − 1.5·w has its minimum at w = 1; the momentum would go below 0."""
    found = jaxreg.minimize(lambda w: jnp.sum(w**2 - jnp.log(w)), jaxreg.L1(0.0), jnp.array([20.0, 0.01]))
    assert found.converged
    np.testing.assert_allclose(found.params, np.sqrt(0.5), atol=1e-5)


# ------------------------------------------------------------------------------------------- programs, batches, devices


def test_one_program_for_all_strengths_and_a_batch_of_them_takes_the_same_steps():
    traces = []

    def loss(w, x, y, mask):
        traces.append(1)
        return 0.5 * jnp.sum(mask * (x @ w - y) ** 2) / mask.sum()

    x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)
    masks = jnp.asarray(np.arange(N)[None] % 3 != np.arange(3)[:, None], jnp.float32)

    def run(strength, mask):
        return jaxreg.minimize(loss, strength * jaxreg.L1(1.0), jnp.zeros(P), x, y, mask, tol=1e-4)

    alone = jax.jit(run)
    strengths = jnp.array([0.3, 0.1, 0.02])
    singles = [[alone(s, m) for m in masks] for s in strengths]
    assert len(traces) == 1
    batch = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(strengths, masks)
    assert len(traces) == 2
    assert batch.converged.all() and batch.params.shape == (3, 3, P)
    for i in range(3):
        for j in range(3):
            np.testing.assert_allclose(batch.params[i, j], singles[i][j].params, atol=2e-3)
    assert batch.reason == [["converged: the residual is at most `tol`"] * 3] * 3


def test_data_on_several_devices():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    x, y = (
        jax.device_put(np.asarray(a, np.float32), NamedSharding(mesh, PartitionSpec("data")))
        for a in (X[:400], Y[:400])
    )
    run = jax.jit(lambda x, y: jaxreg.minimize(squares, jaxreg.L1(0.05), jnp.zeros(P), x, y))
    found = run(x, y)
    assert found.converged
    w = np.asarray(found.params, float)
    g = X[:400].T @ (X[:400] @ w - Y[:400]) / 400
    assert distance_to_subgradients(w, 0.05, g) < 5e-5


def test_parameters_on_explicit_axes_and_their_derivative():
    """Σ(w_i − 1)² + c·|w_i|: w_i = 1 − c/2, on the devices where it began."""
    mesh = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        start = jax.device_put(jnp.zeros(4), PartitionSpec("model"))

        def total(c):
            found = jaxreg.minimize(lambda w: jnp.sum((w - 1) ** 2), jaxreg.L1(c), start)
            return found.params.sum(), found.params

        slope, params = jax.jit(jax.grad(total, has_aux=True))(0.1)
        np.testing.assert_allclose(params, 0.95, atol=1e-5)
        np.testing.assert_allclose(slope, -2.0, rtol=1e-5)
        assert params.sharding == start.sharding


@jax.tree_util.register_static
class Ball:
    """A set of the whole tree that is no `TreeRegularizer`: it has a value and `prox(tree, step)`."""

    def __call__(self, tree):
        return jnp.zeros(())

    def prox(self, tree, step):
        size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))
        return jax.tree.map(lambda leaf: leaf / jnp.maximum(1, size), tree)


def test_whatever_has_a_value_and_an_operator_of_the_tree():
    """The nearest point of the unit ball to (3, 4) is (0.6, 0.8)."""
    found = jaxreg.minimize(
        lambda p: (p["a"][0] - 3) ** 2 + (p["b"][0] - 4) ** 2, Ball(), {"a": jnp.ones(1), "b": jnp.ones(1)}
    )
    assert found.converged
    np.testing.assert_allclose([found.params["a"][0], found.params["b"][0]], [0.6, 0.8], atol=1e-5)


# ------------------------------------------------------------------------------------------------------ what is refused


def loss(w, *args):
    return jnp.sum(jax.tree.leaves(w)[0] ** 2)


PENALTY, START = jaxreg.L1(0.1), np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (TypeError, r"takes a function .*got 3\.", lambda: jaxreg.minimize(3, PENALTY, START)),
        (TypeError, r"got 'l1'\. A name is read by `jaxreg.get\('l1'\)`", lambda: jaxreg.minimize(loss, "l1", START)),
        (TypeError, r"got None\. Without a penalty write", lambda: jaxreg.minimize(loss, None, START)),
        (TypeError, r"an instance, `L1\(\)`", lambda: jaxreg.minimize(loss, jaxreg.L1, START)),
        (TypeError, r"got shape \(2,\) and dtype float32", lambda: jaxreg.minimize(lambda w: w, PENALTY, START)),
        (ValueError, r"no leaf is a parameter", lambda: jaxreg.minimize(loss, PENALTY, np.ones(2, int))),
        (TypeError, r"'' of dtype float16", lambda: jaxreg.minimize(loss, PENALTY, START.astype(np.float16))),
        (
            TypeError,
            r"a shape without numbers, ShapeDtypeStruct\(.*jnp.zeros\(s.shape",
            lambda: jaxreg.minimize(loss, PENALTY, jax.ShapeDtypeStruct((2,), np.float32)),
        ),
        (TypeError, r"got 'text'", lambda: jaxreg.minimize(loss, PENALTY, START, "text")),
        (ValueError, r"tol=.*got -1\.0", lambda: jaxreg.minimize(loss, PENALTY, START, tol=-1.0)),
        (ValueError, r"max_steps=.*got 0\.", lambda: jaxreg.minimize(loss, PENALTY, START, max_steps=0)),
        (ValueError, r"max_steps=.*got 2\.5\.", lambda: jaxreg.minimize(loss, PENALTY, START, max_steps=2.5)),
        (
            ValueError,
            r"No leaf matches the pattern 'u'",
            lambda: jaxreg.minimize(loss, jaxreg.TreeRegularizer({"u": PENALTY}), {"w": START}),
        ),
        (
            NotImplementedError,
            r"needs the exact proximal operator.*closed form",
            lambda: jaxreg.minimize(loss, jaxreg.HoyerSquare(0.1), START),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(error, words, call):
    with pytest.raises(error, match=words):
        call()


def test_the_way_out_for_a_smooth_penalty_runs():
    names = {"jaxreg": jaxreg, "loss": loss, "params": jnp.ones((2, 2)), "reg": jaxreg.HoyerSquare(0.1), "args": ()}
    with pytest.raises(NotImplementedError) as refused:
        jaxreg.minimize(loss, names["reg"], names["params"])
    advice = re.search(r"`(jaxreg\.minimize\(.*\))`", str(refused.value))[1]
    assert eval(advice, names).converged


def test_a_gradient_whose_square_is_out_of_range_is_no_certificate() -> None:
    """ε·½‖w − 2‖² has its minimum at 2, and the residual at most ε·10⁻⁶ that near to it, however small ε is."""
    small = 1e-22
    found = jaxreg.minimize(lambda w: small / 2 * jnp.sum((w - 2) ** 2), jaxreg.L2(0.0), jnp.zeros(3), tol=1e-6 * small)
    assert bool(found.converged) and 0 < float(found.residual) <= 1e-6 * small
    np.testing.assert_allclose(found.params, 2, rtol=1e-5)
