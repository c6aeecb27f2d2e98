"""Every optimizer of optax, and its usual wrappers, as `proximal` takes them or refuses them."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxreg

contrib = optax.contrib
RATE = optax.exponential_decay(0.1, 400, 0.5)
PLAIN = 0.1  # of gradient descent on the problems of `tests/test_optimizers.py`
METRICS: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "adam_metric()": jaxreg.adam_metric,
    "amsgrad_metric()": jaxreg.amsgrad_metric,
    "adabelief_metric()": jaxreg.adabelief_metric,
    "rmsprop_metric()": jaxreg.rmsprop_metric,
    "adagrad_metric()": jaxreg.adagrad_metric,
}
PARAMS = {"w": jnp.ones((5, 3)), "b": jnp.ones(4)}


class Right(NamedTuple):
    """An optimizer with which `proximal` reaches the optimum, and what it must be told."""

    make: Callable[[Any], Any]  # learning rate -> optimizer
    metric: str
    rate: Any = RATE
    momentum: float = 0.0
    metric_call: Callable[[], Any] | None = None  # the metric with the optimizer's own arguments
    note: str = ""
    exact: bool = True


class Refused(NamedTuple):
    """An optimizer whose step no metric tells."""

    make: Callable[[], Any]
    message: str  # found in what it raises with `metric=None`
    also_with_moments: bool = False  # it keeps moments like Adam's: `metric=None` is the decoupled penalty
    note: str = ""


def _deprecated(make: Callable[..., Any], *args: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return make(*args)


NOT_TOLD = "does not tell the step that the optimizer takes"
OWN_RATE = "estimates its learning rate"
BY_THE_LOSS = "sets its step by the loss"

OPTIMIZERS: dict[str, Right | Refused] = {
    "adabelief": Right(optax.adabelief, "adabelief_metric()"),
    "adadelta": Refused(lambda: optax.adadelta(0.1), NOT_TOLD),
    "adafactor": Refused(lambda: optax.adafactor(0.1), NOT_TOLD),
    "adagrad": Right(optax.adagrad, "adagrad_metric()", rate=1.0),
    "adam": Right(optax.adam, "adam_metric()"),
    "adamax": Refused(lambda: optax.adamax(0.1), NOT_TOLD, also_with_moments=True),
    "adamaxw": Refused(lambda: optax.adamaxw(0.1), NOT_TOLD, also_with_moments=True),
    "adamw": Right(lambda rate: optax.adamw(rate, weight_decay=0.0), "adam_metric()", note="its decay stays decoupled"),
    "adan": Refused(lambda: optax.adan(0.1), NOT_TOLD),
    "amsgrad": Right(optax.amsgrad, "amsgrad_metric()", rate=0.5),
    "fromage": Refused(lambda: optax.fromage(0.1), NOT_TOLD),
    "lamb": Refused(lambda: optax.lamb(0.1), NOT_TOLD),
    "lars": Refused(lambda: optax.lars(0.1), NOT_TOLD),
    "lbfgs": Refused(optax.lbfgs, BY_THE_LOSS),
    "lion": Refused(lambda: optax.lion(0.1), NOT_TOLD),
    "nadam": Right(optax.nadam, "adam_metric()"),
    "nadamw": Right(
        lambda rate: optax.nadamw(rate, weight_decay=0.0), "adam_metric()", note="its decay stays decoupled"
    ),
    "noisy_sgd": Right(
        lambda rate: optax.noisy_sgd(rate, eta=1e-4, key=0), "None", note="up to the noise", exact=False
    ),
    "novograd": Refused(lambda: optax.novograd(0.1), NOT_TOLD),
    "optimistic_adam": Right(lambda rate: _deprecated(optax.optimistic_adam, rate), "adam_metric()", rate=0.01),
    "optimistic_adam_v2": Right(optax.optimistic_adam_v2, "adam_metric()"),
    "optimistic_gradient_descent": Right(optax.optimistic_gradient_descent, "None", rate=PLAIN),
    "polyak_sgd": Refused(lambda: optax.polyak_sgd(0.1), NOT_TOLD),
    "radam": Refused(lambda: optax.radam(0.1), NOT_TOLD),
    "rmsprop": Right(optax.rmsprop, "rmsprop_metric()", note="not with `centered`"),
    "rprop": Refused(lambda: optax.rprop(0.1), NOT_TOLD),
    "sgd": Right(optax.sgd, "None", rate=PLAIN),
    "sign_sgd": Refused(lambda: optax.sign_sgd(0.1), NOT_TOLD),
    "signum": Refused(lambda: optax.signum(0.1), NOT_TOLD),
    "sm3": Refused(lambda: optax.sm3(0.1), NOT_TOLD),
    "yogi": Right(optax.yogi, "adam_metric()", metric_call=lambda: jaxreg.adam_metric(eps=1e-3), note="`eps=1e-3`"),
}
CONTRIB: dict[str, Right | Refused] = {
    "acprop": Right(
        contrib.acprop, "adabelief_metric()", note="to a thousandth: its moment is that of the step before", exact=False
    ),
    "ademamix": Refused(lambda: contrib.ademamix(0.1), NOT_TOLD),
    "adopt": Refused(lambda: contrib.adopt(0.1), NOT_TOLD, also_with_moments=True),
    "cocob": Refused(contrib.cocob, OWN_RATE),
    "dadapt_adamw": Refused(contrib.dadapt_adamw, OWN_RATE),
    "dog": Refused(lambda: contrib.dog(init_step=("learning_rate", 1e-3)), OWN_RATE),
    "dowg": Refused(contrib.dowg, OWN_RATE),
    "dpsgd": Refused(lambda: _deprecated(contrib.dpsgd, 0.1, 1.0, 0.1, 0), "clips the gradient of every example"),
    "galore": Refused(lambda: contrib.galore(0.1, rank=2), NOT_TOLD),
    "madgrad": Refused(lambda: contrib.madgrad(0.1), NOT_TOLD),
    "momo": Refused(lambda: contrib.momo(0.1), BY_THE_LOSS),
    "momo_adam": Refused(lambda: contrib.momo_adam(0.1), BY_THE_LOSS),
    "muon": Refused(lambda: contrib.muon(0.1), NOT_TOLD),
    "prodigy": Refused(contrib.prodigy, OWN_RATE),
    "schedule_free_adamw": Refused(lambda: contrib.schedule_free_adamw(0.1), "averages parameters"),
    "schedule_free_sgd": Refused(lambda: contrib.schedule_free_sgd(0.1), "averages parameters"),
    "simplified_ademamix": Refused(lambda: contrib.simplified_ademamix(0.1), NOT_TOLD),
    "sophia": Refused(lambda: contrib.sophia(0.1), BY_THE_LOSS),
}


def _always(step: Any, *_: Any) -> Any:
    return step >= 0


# A wrapper, or a link of a chain, inside of `proximal`.
INSIDE: dict[str, Right | Refused] = {
    "sgd(momentum=0.5)": Right(lambda rate: optax.sgd(rate, 0.5), "None", rate=PLAIN / 2, momentum=0.5),
    "sgd(momentum=0.5, nesterov=True)": Right(
        lambda rate: optax.sgd(rate, 0.5, nesterov=True), "None", rate=PLAIN / 2, momentum=0.5
    ),
    "rmsprop(momentum=0.5)": Right(
        lambda rate: optax.rmsprop(rate, momentum=0.5), "rmsprop_metric()", rate=1e-3, momentum=0.5, exact=False
    ),
    "rmsprop(centered=True)": Refused(lambda: optax.rmsprop(0.1, centered=True), NOT_TOLD),
    "inject_hyperparams(adam)": Right(optax.inject_hyperparams(optax.adam), "adam_metric()"),
    "chain(sgd, reduce_on_plateau)": Right(
        lambda rate: optax.chain(optax.sgd(rate), contrib.reduce_on_plateau(0.5, 300, accumulation_size=1)),
        "None",
        rate=PLAIN,
        note="its scale is read",
    ),
    "chain(adam, reduce_on_plateau)": Right(
        lambda rate: optax.chain(optax.adam(rate), contrib.reduce_on_plateau(0.5, 300, accumulation_size=1)),
        "adam_metric()",
        note="its scale is read",
    ),
    "chain(reduce_on_plateau, adam)": Refused(
        lambda: optax.chain(contrib.reduce_on_plateau(0.5, 300, accumulation_size=1), optax.adam(0.1)), NOT_TOLD
    ),
    "chain(reduce_on_plateau, sgd(momentum=0.9))": Refused(
        lambda: optax.chain(contrib.reduce_on_plateau(0.5, 300, accumulation_size=1), optax.sgd(0.1, 0.9)), NOT_TOLD
    ),
    "chain(clip_by_global_norm, sgd)": Right(
        lambda rate: optax.chain(optax.clip_by_global_norm(2.0), optax.sgd(rate)),
        "None",
        rate=PLAIN,
        note="where it does not clip at rest",
    ),
    "chain(clip, adam)": Right(
        lambda rate: optax.chain(optax.clip(1.0), optax.adam(rate)),
        "adam_metric()",
        note="where it does not clip at rest",
    ),
    "chain(adaptive_grad_clip, sgd)": Right(
        lambda rate: optax.chain(optax.adaptive_grad_clip(1e4), optax.sgd(rate)),
        "None",
        rate=PLAIN,
        note="where it does not clip at rest",
    ),
    "chain(add_decayed_weights, sgd)": Right(
        lambda rate: optax.chain(optax.add_decayed_weights(0.0), optax.sgd(rate)),
        "None",
        rate=PLAIN,
        note="its decay is part of the loss",
    ),
    "chain(sgd, add_decayed_weights)": Refused(
        lambda: optax.chain(optax.sgd(0.1), optax.add_decayed_weights(1e-3)), "makes 'b' grow"
    ),
    "chain(adam, add_regularization)": Refused(
        lambda: optax.chain(optax.adam(0.1), jaxreg.add_regularization(jaxreg.L2(0.05))), "makes 'b' grow"
    ),
    "chain(sgd, scale_by_trust_ratio)": Refused(
        lambda: optax.chain(optax.sgd(0.1), optax.scale_by_trust_ratio()), NOT_TOLD
    ),
    "chain(scale_by_param_block_rms, sgd)": Refused(
        lambda: optax.chain(optax.scale_by_param_block_rms(), optax.sgd(0.1)), NOT_TOLD
    ),
    "chain(normalize_by_update_norm, sgd)": Refused(
        lambda: optax.chain(optax.normalize_by_update_norm(), optax.sgd(0.1)), NOT_TOLD
    ),
    "chain(contrib.normalize, sgd)": Refused(lambda: optax.chain(contrib.normalize(), optax.sgd(0.1)), NOT_TOLD),
    "chain(centralize, sgd)": Refused(lambda: optax.chain(optax.centralize(), optax.sgd(0.1)), NOT_TOLD),
    "chain(sgd, scale_by_backtracking_linesearch)": Refused(
        lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5)), BY_THE_LOSS
    ),
    "partition(sgd, sgd)": Right(
        lambda rate: optax.partition(
            {"a": optax.sgd(rate), "b": optax.sgd(rate)}, lambda p: {k: "ab"[i % 2] for i, k in enumerate(p)}
        ),
        "None",
        rate=PLAIN,
    ),
    "partition(sgd, set_to_zero)": Refused(
        lambda: optax.partition({"a": optax.sgd(0.1), "b": optax.set_to_zero()}, {"w": "a", "b": "b"}), NOT_TOLD
    ),
    "masked(adam)": Refused(lambda: optax.masked(optax.adam(0.1), {"w": True, "b": False}), NOT_TOLD),
    "contrib.split_real_and_imaginary(sgd)": Right(
        lambda rate: contrib.split_real_and_imaginary(optax.sgd(rate)), "None", rate=PLAIN
    ),
    "lookahead(sgd)": Refused(lambda: optax.lookahead(optax.sgd(0.1), 5, 0.5), "averages parameters"),
    "contrib.sam(sgd)": Refused(
        lambda: contrib.sam(optax.sgd(0.1), optax.sgd(0.05)), "takes its gradients at other points"
    ),
    "contrib.schedule_free(sgd)": Refused(lambda: contrib.schedule_free(optax.sgd(0.1), 0.1), "averages parameters"),
    "contrib.mechanize(sgd)": Refused(lambda: contrib.mechanize(optax.sgd(0.1)), BY_THE_LOSS),
    "MultiSteps(sgd)": Refused(lambda: optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation(), "skips steps"),
    "apply_if_finite(sgd)": Refused(lambda: optax.apply_if_finite(optax.sgd(0.1), 2), "skips steps"),
    "chain(apply_every, sgd)": Refused(lambda: optax.chain(optax.apply_every(2), optax.sgd(0.1)), "skips steps"),
    "conditionally_mask(sgd)": Refused(lambda: optax.conditionally_mask(optax.sgd(0.1), _always), "skips steps"),
    "conditionally_transform(sgd)": Refused(
        lambda: optax.conditionally_transform(optax.sgd(0.1), _always), "skips steps"
    ),
}

# Outside of `proximal`: what is left as it was.
OUTSIDE: dict[str, Callable[[Any], Any]] = {
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 1).gradient_transformation(),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 2),
    "conditionally_transform": lambda tx: optax.conditionally_transform(tx, _always),
    "masked": lambda tx: optax.masked(tx, lambda params: jax.tree.map(lambda _: True, params)),
    "partition": lambda tx: optax.partition({"a": tx}, lambda params: jax.tree.map(lambda _: "a", params)),
    "contrib.split_real_and_imaginary": contrib.split_real_and_imaginary,
    "contrib.sam": lambda tx: contrib.sam(tx, optax.sgd(0.0), opaque_mode=True),
}

# Public functions of `optax.contrib` that are no optimizers by themselves; those that wrap one are cases above.
_PARTS = {
    "differentially_private_aggregate",
    "hutchinson_estimator_diag_hessian",
    "mechanize",
    "normalize",
    "reduce_on_plateau",
    "sam",
    "schedule_free",
    "schedule_free_eval_params",
    "split_real_and_imaginary",
}


def public_optimizers(module: Any) -> set[str]:
    """The names of the optimizers that a module of optax offers."""
    source = optax._src.alias if module is optax else module
    names = {
        name
        for name, value in vars(module).items()
        if callable(value) and not inspect.isclass(value) and name.islower() and getattr(source, name, None) is value
    }
    return {name for name in names if not name.startswith(("_", "scale_by_"))} - _PARTS


def first_sentence(case: Refused, metric: str = "None") -> str:
    """What `proximal` says to it."""
    try:
        jaxreg.proximal(case.make(), jaxreg.L1(0.1), 0.1, METRICS[metric]()).init(PARAMS)
    except ValueError as error:
        return str(error).removeprefix("`proximal`: ").partition(". ")[0]
    return ""
