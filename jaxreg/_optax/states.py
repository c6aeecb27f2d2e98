"""Optimizers that `proximal` recognizes by their states, and refuses: what skips steps, and what no trial can judge."""

from typing import Any

import optax

from jaxreg._optax.metrics import Given, Metric, find_states

OWN_WORD = "`metric=lambda state, params: jax.tree.map(lambda p: 1.0, params)`"
_OUTSIDE = "({}), and the penalty would not. Put that wrapper outside, as in `{}`."
_SKIP: dict[type, str] = {
    optax.MultiStepsState: _OUTSIDE.format("MultiSteps", "optax.MultiSteps(jaxreg.proximal(...), 4)"),
    optax.ApplyIfFiniteState: _OUTSIDE.format("ApplyIfFinite", "optax.apply_if_finite(jaxreg.proximal(...), 5)"),
    optax.ConditionallyTransformState: _OUTSIDE.format(
        "ConditionallyTransform", "optax.conditionally_transform(jaxreg.proximal(...), condition)"
    ),
    optax.ConditionallyMaskState: _OUTSIDE.format(
        "ConditionallyMask", "optax.conditionally_mask(jaxreg.proximal(...), condition)"
    ),
    optax.ApplyEvery: _OUTSIDE.format("ApplyEvery", "optax.MultiSteps(jaxreg.proximal(...), 4)"),
}
_BY_THE_LOSS = (
    "sets its step by the loss ({}), which does not hold the penalty. Put the penalty into the loss, or take another "
    "optimizer."
)
_OWN_RATE = "estimates its learning rate ({}). Take another optimizer, or put the penalty into the loss."
_UNJUDGED: dict[type, str] = {
    optax.LookaheadState: "averages parameters (Lookahead). Put it outside: "
    "`optax.lookahead(jaxreg.proximal(...), 5, 0.5)`.",
    optax.contrib.ScheduleFreeState: "averages parameters (ScheduleFree), and an average of zeros and others is not "
    "zero. Put the penalty into the loss, or take the optimizer without it.",
    optax.contrib.SAMState: "takes its gradients at other points (SAM). Put it outside: "
    "`optax.contrib.sam(jaxreg.proximal(...), adversary, opaque_mode=True)`.",
    optax.contrib.DifferentiallyPrivateAggregateState: "clips the gradient of every example "
    "(DifferentiallyPrivateAggregate), which no step size tells. To have the penalty decoupled from the loss, say the "
    f"step sizes yourself: {OWN_WORD}.",
    optax.ScaleByLBFGSState: _BY_THE_LOSS.format("L-BFGS"),
    optax.ScaleByBacktrackingLinesearchState: _BY_THE_LOSS.format("a line search"),
    optax.ScaleByZoomLinesearchState: _BY_THE_LOSS.format("a line search"),
    optax.contrib.MechanicState: _BY_THE_LOSS.format("Mechanic"),
    optax.contrib.MomoState: _BY_THE_LOSS.format("Momo"),
    optax.contrib.MomoAdamState: _BY_THE_LOSS.format("Momo"),
    optax.contrib.SophiaState: _BY_THE_LOSS.format("Sophia"),
    optax.contrib.DoGState: _OWN_RATE.format("DoG"),
    optax.contrib.DoWGState: _OWN_RATE.format("DoWG"),
    optax.contrib.ProdigyState: _OWN_RATE.format("Prodigy"),
    optax.contrib.DAdaptAdamWState: _OWN_RATE.format("D-Adaptation"),
    optax.contrib.COCOBState: _OWN_RATE.format("COCOB"),
}


def refuse_by_state(state: Any, metric: Metric) -> None:
    """Raise for what the trial cannot judge; of a metric given as a function only what is wrong with every metric."""
    if found := find_states(state, tuple(_SKIP)):
        raise ValueError(f"`proximal`: the optimizer inside skips steps {_SKIP[type(found[0])]}")
    if not isinstance(metric, Given) and (found := find_states(state, tuple(_UNJUDGED))):
        raise ValueError(f"`proximal`: the optimizer inside {_UNJUDGED[type(found[0])]}")
