"""`proximal` around every optimizer of optax: it reaches the optimum, or it raises. No metric in between."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from sklearn.linear_model import Lasso

import jaxreg
from tests.optimizer_cases import (
    CONTRIB,
    INSIDE,
    METRICS,
    NOT_TOLD,
    OPTIMIZERS,
    OUTSIDE,
    PARAMS,
    PLAIN,
    Refused,
    Right,
    public_optimizers,
)
from tests.optimizer_table import table

pytestmark = pytest.mark.wide  # every optimizer

STEPS = 4000
STRENGTH = {"lasso": 0.5, "group": 0.4}
BOUNDS = (-0.4, 0.8)
ALL = OPTIMIZERS | {f"contrib.{name}": case for name, case in CONTRIB.items()} | INSIDE
RIGHT = {name: case for name, case in ALL.items() if isinstance(case, Right)}
REFUSED = {name: case for name, case in ALL.items() if isinstance(case, Refused)}


@functools.cache
def problem() -> tuple[np.ndarray, np.ndarray]:
    """Six columns of different length, the gradients at rest neither 0 nor alike."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 6)) * np.array([1.0, 0.5, 1.6, 0.8, 1.2, 0.6])
    y = x @ np.array([1.5, 0.6, -1.0, 0.1, 0.05, -0.05]) + 0.3 * rng.normal(size=40)
    return x, y


def half_mean_square(w: Any) -> Any:
    x, y = problem()
    return ((x @ w.ravel() - y) ** 2).sum() / (2 * len(y))


@functools.cache
def optima() -> dict[str, np.ndarray]:
    """By scikit-learn, SciPy and Clarabel."""
    x, y = problem()
    lasso = Lasso(alpha=STRENGTH["lasso"], fit_intercept=False, tol=1e-14, max_iter=100_000).fit(x, y).coef_
    box = scipy.optimize.lsq_linear(x, y, bounds=BOUNDS, tol=1e-14).x
    w = cvxpy.Variable((3, 2))
    loss = cvxpy.sum_squares(x @ cvxpy.reshape(w, (6,), order="C") - y) / (2 * len(y))
    penalty = STRENGTH["group"] * cvxpy.sum(cvxpy.norm(w, 2, axis=1))
    tolerances = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
    cvxpy.Problem(cvxpy.Minimize(loss + penalty)).solve(solver=cvxpy.CLARABEL, **tolerances)
    return {"lasso": lasso, "box": box, "group": w.value}


RULES = jaxreg.TreeRegularizer(
    {
        "lasso": jaxreg.L1(STRENGTH["lasso"]),
        "box": jaxreg.Box(*BOUNDS),
        "group": jaxreg.Group(jaxreg.L1(STRENGTH["group"]), axis=1),
    }
)


def loss(params: Any) -> Any:
    return sum(half_mean_square(w) for w in params.values())


def train(tx: Any, argument: str | None = "value") -> dict[str, np.ndarray]:
    """The three problems at once, in float64: the loss of the tree is the sum of theirs."""
    with jax.enable_x64(True):
        params = {"lasso": jnp.zeros(6), "box": jnp.zeros(6), "group": jnp.zeros((3, 2))}

        @jax.jit
        def run(params: Any, state: Any) -> Any:
            def step(carry: Any, _: Any) -> Any:
                params, state = carry
                value, grads = jax.value_and_grad(loss)(params)
                extra = {"value": value, "grad_fn": lambda params, _: jax.grad(loss)(params)}
                updates, state = tx.update(grads, state, params, **{k: extra[k] for k in extra if k == argument})
                return (optax.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (params, state), length=STEPS)[0][0]

        return jax.tree.map(np.asarray, run(params, tx.init(params)))


def assert_optimal(params: dict[str, np.ndarray], slack: float = 1e-4) -> None:
    for name, best in optima().items():
        np.testing.assert_allclose(params[name], best, atol=slack, err_msg=name)
    zeros = params["lasso"] == 0
    np.testing.assert_array_equal(zeros, optima()["lasso"] == 0)
    np.testing.assert_array_equal((params["group"] == 0).all(1), np.abs(optima()["group"]).max(1) < 1e-6)
    assert 0 < zeros.sum() < 6 and 0 < (params["group"] == 0).all(1).sum() < 3
    assert (np.isin(params["box"], BOUNDS)).sum() == np.isin(optima()["box"].round(9), BOUNDS).sum() > 1


def proximal(case: Right, reg: Any = RULES) -> Any:
    metric = (case.metric_call or METRICS[case.metric])()
    return jaxreg.proximal(case.make(case.rate), reg, case.rate, metric, momentum=case.momentum)


def test_every_optimizer_has_its_place() -> None:
    assert public_optimizers(optax) == set(OPTIMIZERS)
    assert public_optimizers(optax.contrib) == set(CONTRIB)


@pytest.mark.parametrize("name", RIGHT)
def test_it_reaches_the_optimum(name: str) -> None:
    assert_optimal(train(proximal(RIGHT[name])), slack=1e-4 if RIGHT[name].exact else 2e-3)


@pytest.mark.parametrize("name", RIGHT)
def test_no_other_metric_is_taken(name: str) -> None:
    case = RIGHT[name]
    for metric, make in METRICS.items():
        if metric not in ("None", case.metric):
            tx = jaxreg.proximal(case.make(0.1), jaxreg.L1(0.1), 0.1, make(), momentum=case.momentum)
            with pytest.raises(ValueError, match=r"reads the one|does not tell the step"):
                tx.init({"lasso": jnp.ones((5, 3)), "box": jnp.ones(4)})


@pytest.mark.parametrize("name", REFUSED)
def test_it_raises_whatever_the_metric(name: str) -> None:
    case = REFUSED[name]
    for metric, make in METRICS.items():
        tx = jaxreg.proximal(case.make(), jaxreg.L1(0.1), 0.1, make())
        if metric == "None" and case.also_with_moments:
            tx.init(PARAMS)
            continue
        with pytest.raises(ValueError, match="`") as raised:
            tx.init(PARAMS)
        if metric == "None":
            assert case.message in str(raised.value)


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_may_stand_outside(name: str) -> None:
    tx = OUTSIDE[name](jaxreg.proximal(optax.sgd(PLAIN), RULES, PLAIN))
    assert_optimal(train(tx, "grad_fn" if name == "contrib.sam" else None))


# ------------------------------------------------------------------------------------------------------- what is told


def test_the_scale_of_a_plateau_is_read() -> None:
    """Σ(w − (3, 0.01))² + ‖w‖₁: the scale falls to nothing, and the threshold with it."""
    tx = jaxreg.proximal(
        optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(0.5, 5, accumulation_size=1)), jaxreg.L1(1.0), 0.1
    )
    target = jnp.array([3.0, 0.01])

    def step(carry: Any, _: Any) -> Any:
        w, state = carry
        updates, state = tx.update(2 * (w - target), state, w, value=((w - target) ** 2).sum())
        return (optax.apply_updates(w, updates), state), None

    w = jnp.zeros(2)
    (w, state), _ = jax.lax.scan(step, (w, tx.init(w)), length=400)
    np.testing.assert_allclose(w, [2.5, 0.0], rtol=1e-5)
    assert optax.tree.get(state, "scale") < 1e-6


def test_the_message_says_what_was_seen() -> None:
    tx = jaxreg.proximal(optax.lion(0.1), jaxreg.L1(0.1), 0.1)
    with pytest.raises(ValueError, match=r"`metric=None` does not tell .* moved a coordinate of 'w' by -?0\.1 where"):
        tx.init({"w": jnp.ones(3)})
    with pytest.raises(ValueError, match="Put `reduce_on_plateau` behind"):
        jaxreg.proximal(INSIDE["chain(reduce_on_plateau, adam)"].make(), jaxreg.L1(), 0.1).init(PARAMS)


def test_a_function_is_the_users_own_word() -> None:
    tx = jaxreg.proximal(
        optax.lion(0.1), jaxreg.L1(3.0), 0.1, lambda state, params: jax.tree.map(lambda p: 1.0, params)
    )
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["w"], -0.4, rtol=1e-3)  # the sign and the threshold, and Lion's own decay


def test_matrices_of_muon_are_not_left_without_a_penalty() -> None:
    muon = optax.contrib.muon(1e-2)
    tx = jaxreg.proximal(muon, jaxreg.L1(1.0), 1e-2, jaxreg.adam_metric())
    with pytest.raises(ValueError, match=r"no step for 'w', whose moments are masked, but the optimizer moves it"):
        tx.init(PARAMS)
    rules = jaxreg.TreeRegularizer({"w": None, "b": jaxreg.L1(1.0)})
    tx = jaxreg.proximal(muon, rules, 1e-2, jaxreg.adam_metric())
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert (jnp.abs(updates["b"]) > 0.0199).all()  # Adam's step and the threshold


@pytest.mark.parametrize("metric", [None, jaxreg.adam_metric()], ids=["None", "adam"])
def test_a_leaf_frozen_inside_raises_or_is_at_rest(metric: Any) -> None:
    labels = {"w": "train", "b": "freeze"}
    inner = {"train": optax.adam(0.1) if metric else optax.sgd(0.1), "freeze": optax.set_to_zero()}
    tx = jaxreg.proximal(optax.partition(inner, labels), jaxreg.L1(1.0), 0.1, metric)
    if metric is None:
        with pytest.raises(ValueError, match="freeze leaves outside"):
            tx.init(PARAMS)
    else:
        assert not tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0]["b"].any()


@pytest.mark.parametrize("arguments", [{"b2": 0.9}, {"eps": 0.1}, {"b2": 0.9999}])
def test_other_arguments_than_those_of_the_optimizer(arguments: Any) -> None:
    with pytest.raises(ValueError, match="with the optimizer's own arguments"):
        jaxreg.proximal(optax.adam(0.1, **arguments), jaxreg.L1(), 0.1, jaxreg.adam_metric()).init(PARAMS)
    jaxreg.proximal(optax.adam(0.1, **arguments), jaxreg.L1(), 0.1, jaxreg.adam_metric(**arguments)).init(PARAMS)


def test_another_learning_rate_than_that_of_the_optimizer() -> None:
    with pytest.raises(ValueError, match="learning rate"):
        jaxreg.proximal(optax.adam(0.1), jaxreg.L1(), 0.01, jaxreg.adam_metric()).init(PARAMS)


def one_link(update: Any) -> Any:
    return optax.stateless(lambda updates, params: jax.tree.map(update, updates, params))


UNKNOWN = {
    "sign": one_link(lambda u, p: jnp.sign(u)),
    "cube": one_link(lambda u, p: u**3),
    "by the parameters": one_link(lambda u, p: u * (1 + p**2)),
    "by the leaf": one_link(lambda u, p: u / jnp.linalg.norm(u)),
    "by the shape": one_link(lambda u, p: u * u.ndim),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_links_that_nobody_knows_are_seen_through(name: str) -> None:
    for inner, metric in ((optax.sgd(0.1), None), (optax.adam(0.1), jaxreg.adam_metric())):
        tx = jaxreg.proximal(optax.chain(inner, UNKNOWN[name]), jaxreg.L1(), 0.1, metric)
        with pytest.raises(ValueError, match=NOT_TOLD):
            tx.init(PARAMS)


@pytest.mark.parametrize("how", ["jit", "vmap", "eval_shape", "grad"])
def test_the_trial_works_under_every_transformation(how: str) -> None:
    """Also where the learning rate is on its way through one."""

    def init(make: Any, rate: Any) -> Any:
        return jaxreg.proximal(make(rate), jaxreg.L1(), rate).init(PARAMS).count * rate

    apply = {
        "jit": lambda f: jax.jit(f)(0.1),
        "vmap": lambda f: jax.vmap(f)(jnp.array([0.1, 0.2])),
        "eval_shape": lambda f: jax.eval_shape(f, 0.1),
        "grad": lambda f: jax.grad(f)(0.1),
    }[how]
    apply(lambda rate: init(optax.sgd, rate))
    with pytest.raises(ValueError, match=NOT_TOLD):
        apply(lambda rate: init(optax.sign_sgd, rate))


RATED: dict[str, tuple[Callable[[Any], Any], Any, bool]] = {  # an optimizer by its rate, the metric, whether it is told
    "SGD": (optax.sgd, None, True),
    "half of SGD": (lambda rate: optax.chain(optax.sgd(rate), optax.scale(0.5)), None, True),
    "Adam": (optax.adam, jaxreg.adam_metric(), True),
    "AdamW": (lambda rate: optax.adamw(rate, weight_decay=0.1), jaxreg.adam_metric(), True),
    "RMSProp": (optax.rmsprop, jaxreg.rmsprop_metric(), True),
    "decay before": (lambda rate: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(rate)), None, True),
    "decay behind": (lambda rate: optax.chain(optax.sgd(rate), optax.add_decayed_weights(0.1)), None, False),
    "Adam, other b2": (lambda rate: optax.adam(rate, b2=0.9), jaxreg.adam_metric(), False),
    "Lion": (optax.lion, None, False),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64], ids=["real", "complex"])
@pytest.mark.parametrize("name", RATED)
def test_a_rate_without_a_value_is_judged_as_one_with(name: str, dtype: Any) -> None:
    """optax makes −η of it before the trial sees it; of a complex parameter the gradient may be real."""
    make, metric, is_told = RATED[name]
    params = jnp.array([1.0, -2.0], dtype)

    def init(rate: Any) -> Any:
        return jaxreg.proximal(make(rate), jaxreg.L1(), rate, metric).init(params).count

    def injected(params: Any) -> Any:
        def factory(rate: Any) -> Any:
            return jaxreg.proximal(make(rate), jaxreg.L1(), rate, metric)

        return optax.inject_hyperparams(factory, hyperparam_dtype=jnp.float32)(rate=0.1).init(params).count

    for call in (lambda: init(0.1), lambda: jax.eval_shape(init, 0.1), lambda: jax.eval_shape(injected, params)):
        if is_told:
            call()
        else:
            with pytest.raises(ValueError, match=r"`proximal`: .*(does not tell|grow)"):
                call()


def test_arguments_without_a_value_are_those_of_the_metric() -> None:
    def init(rate: Any, b2: Any) -> Any:
        tx = jaxreg.proximal(optax.adam(rate, b2=b2), jaxreg.L1(), rate, jaxreg.adam_metric(b2))
        return tx.init(PARAMS).count

    jax.eval_shape(init, 0.1, 0.99)


def test_large_and_odd_parameters_are_tried_by_their_structure() -> None:
    params = {
        "huge": jax.ShapeDtypeStruct((1 << 20, 1 << 20), jnp.float32),
        "half": jax.ShapeDtypeStruct((3,), jnp.bfloat16),
        "complex": jax.ShapeDtypeStruct((2, 3), jnp.complex64),
        "empty": jax.ShapeDtypeStruct((0, 3), jnp.float32),
        "number": jax.ShapeDtypeStruct((), jnp.float32),
        "count": jax.ShapeDtypeStruct((3,), jnp.int32),
        "none": None,
    }
    for make, metric in ((optax.sgd, None), (optax.adam, jaxreg.adam_metric())):
        jax.eval_shape(jaxreg.proximal(make(0.1), jaxreg.L1(), 0.1, metric).init, params)
    with pytest.raises(ValueError, match=NOT_TOLD):
        jax.eval_shape(jaxreg.proximal(optax.lion(0.1), jaxreg.L1(), 0.1).init, params)


def test_what_cannot_be_tried_says_so() -> None:
    inner = optax.chain(one_link(lambda u, p: u * jnp.ones((5, 3))), optax.sgd(0.1))
    tx = jaxreg.proximal(inner, jaxreg.L1(), 0.1)
    with pytest.raises(ValueError, match=r"axes of length 2 at most, and it raised .* say the step sizes yourself"):
        tx.init({"w": jnp.ones((5, 3))})
    jaxreg.proximal(inner, jaxreg.L1(), 0.1, lambda state, params: {"w": 1.0}).init({"w": jnp.ones((5, 3))})


# -------------------------------------------------------------------------------------------------- add_regularization


def test_a_decay_that_does_not_depend_on_the_learning_rate() -> None:
    """w ← w − η·Adam(g) − 0.01·w, whatever η."""
    decay = jaxreg.add_regularization(jaxreg.L2.from_weight_decay(0.01))
    for rate in (0.1, 1e-3, optax.linear_schedule(0.1, 0.0, 3)):
        adam = optax.adam(rate)
        tx = optax.chain(adam, optax.scale(-1.0), decay, optax.scale(-1.0))
        w, state, adam_state = jnp.array([1.0, -2.0]), tx.init(jnp.ones(2)), adam.init(jnp.ones(2))
        for grads in (jnp.array([0.3, 2.0]), jnp.array([-1.0, 1.0]), jnp.zeros(2)):
            updates, state = tx.update(grads, state, w)
            plain, adam_state = adam.update(grads, adam_state)
            np.testing.assert_allclose(updates, plain - 0.01 * w, rtol=1e-5)
            w = optax.apply_updates(w, updates)
    recipe = optax.chain(optax.adam(0.1), optax.scale(-1.0), decay, optax.scale(-1.0))
    jaxreg.proximal(recipe, jaxreg.L1(), 0.1, jaxreg.adam_metric()).init(PARAMS)


@pytest.mark.parametrize("call", ["add_regularization", "proximal", "proximal_adam"])
def test_the_advice_for_inject_hyperparams_works(call: str) -> None:
    arguments = {
        "add_regularization": {},
        "proximal": {"inner": optax.sgd(0.1), "learning_rate": 0.1},
        "proximal_adam": {"learning_rate": 0.1},
    }[call]
    factory = getattr(jaxreg, call)
    with pytest.raises(TypeError, match=f"`{call}` takes a regularizer") as raised:
        optax.inject_hyperparams(factory)(reg=jaxreg.L1(0.1), **arguments).init(PARAMS)
    advice = re.findall("`(optax[^`]*[(][^`]*)`", str(raised.value))
    assert len(advice) == 2
    names = {"jaxreg": jaxreg, "optax": optax}
    injected = eval(advice[0], names)
    static = eval(advice[1], names)(reg=jaxreg.L1(0.1), **arguments)
    updates = [tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0] for tx in (injected, static)]
    np.testing.assert_allclose(updates[0]["w"], updates[1]["w"], rtol=1e-5)
    assert float(injected.init(PARAMS).hyperparams["strength"]) == pytest.approx(0.1)


def test_the_table_is_in_the_documentation() -> None:
    readme = Path(jaxreg.__file__).parent / "_optax" / "README.md"
    assert table() in readme.read_text(), "run `python -m tests.optimizer_table` and paste what it prints"
