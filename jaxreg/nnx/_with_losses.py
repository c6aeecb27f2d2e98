"""with_losses: the penalties of one call of a model; regularizer: its weight penalties as rules for a tree."""

import glob
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from jaxreg._flax.declared import ACTIVITY, evaluate, named, shown
from jaxreg._flax.outputs import check_batch_axis
from jaxreg._rules.tree import TreeRegularizer
from jaxreg.nnx._declarations import Declarations, join
from jaxreg.nnx._recording import Recording
from jaxreg.nnx._to_nnx import linen_modules
from jaxreg.nnx._weights import Penalized, penalized


def with_losses(
    model: nnx.Module,
    activity: Any = (),
    *,
    method: str | Callable[..., Any] = "__call__",
    batch_axis: int | None = 0,
) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """Return a function that does what `model(...)` does and returns the penalties of the call too.

        y, losses = with_losses(model)(x)                     losses = {path: scalar}
        loss = task_loss(y) + sum(losses.values())

    Paths are those of the parameters in `nnx.state(model, nnx.Param)` (`layer/kernel`) and of the modules
    (`layer/activity`), without a prefix for the model itself. Weight penalties are of every regularized parameter of
    the model, once for each, as it is before the call. Activity penalties are summed over the calls; a module that did
    not run has 0. Changes that the call makes to the model (batch statistics, counts of random streams) stay; the
    penalties leave nothing behind. Parameters are also penalized by metadata: `nnx.Param(value, regularizer=...)`,
    `nnx.Linear(..., kernel_metadata={"regularizer": ...})`. Weight penalties of Linen modules inside a
    `nnx.bridge.ToNNX` count too; penalties of outputs inside it raise.

    Works inside `nnx.jit`, `nnx.grad`, `jax.jit` and `jax.grad` with the model as argument. A parameter that two
    modules share counts once under transforms of NNX, and twice under those of JAX, which do not see that it is shared.

    Args:
        model: an NNX module. The attributes `<parameter>_regularizer` and `activity_regularizer` of its modules count,
            of those that inherit `Regularized` and of all others, as in `model.layers[0].kernel_regularizer = reg`.
        activity: rules `(pattern, regularizer)` as `jaxreg.TreeRegularizer` takes them, for the outputs of modules one
            cannot edit. The first rule that matches the path of a module decides; `""` is the model itself, `**` all
            modules. A predicate is given the path and the module.
        method: the name of the method to call, or a function that takes the module first.
        batch_axis: the axis of outputs by whose length activity penalties are divided, the same for all modules; 1 for
            time-major models. `None` divides by nothing, where modules see one example: a single image, or inside
            `jax.vmap`, which then returns the losses of each example (take their mean). Inside the model `nnx.vmap`
            adds them up: divide by the number of examples.

    Raises:
        ValueError: a pattern matches no module; a regularizer fits no parameter; an activity penalty would be lost in
            a transform that does not hand changes of the module back.
        TypeError: the model is not an NNX module.

    Example:
        >>> import jax.numpy as jnp, jaxreg.nnx
        >>> from flax import nnx
        >>> ones = nnx.initializers.ones
        >>> dense = jaxreg.nnx.Linear(3, 2, kernel_init=ones, kernel_regularizer="l2", rngs=nnx.Rngs(0))
        >>> model = nnx.Sequential(dense, nnx.relu)
        >>> y, losses = jaxreg.nnx.with_losses(model, activity=[("", "l1")])(jnp.ones((4, 3)))
        >>> {path: round(float(loss), 4) for path, loss in losses.items()}
        {'activity': 0.06, 'layers/0/kernel': 0.06}
        >>> penalties = jaxreg.nnx.with_losses(model, activity=[("", "l1")], batch_axis=None)
        >>> y, losses = nnx.vmap(penalties)(jnp.ones((4, 3)))
        >>> round(float(losses["activity"].mean()), 4)
        0.06
    """
    _check_model("with_losses", model)
    rules: Any = TreeRegularizer(activity).rules
    batch_axis = check_batch_axis(batch_axis)
    call = (
        (lambda module, *args, **kwargs: getattr(module, method)(*args, **kwargs))
        if isinstance(method, str)
        else method
    )

    def call_with_losses(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, jax.Array]]:
        declarations = Declarations(model)
        found = penalized(declarations)
        recording = Recording(declarations, rules, batch_axis)
        losses = _losses(found)
        closed_over = [cell.cell_contents for cell in getattr(method, "__closure__", None) or ()]
        with recording.of_call((nnx.state(model), args, kwargs, closed_over)):
            y = call(*recording.twins.of((model, *args)), **recording.twins.of(kwargs))
            activities = recording.losses()
        if linen_modules(declarations):  # which declare when they run
            losses.update(_losses({p: one for p, one in penalized(declarations).items() if p not in found}))
        for module, value in activities.items():
            path = join(module, ACTIVITY) if module else ACTIVITY
            if path in losses:
                raise ValueError(
                    f"`activity_regularizer`: the module {named(module)} has a regularized parameter named "
                    "'activity', and the penalty of its output would stand under the same path. Rename the parameter."
                )
            losses[path] = value
        return recording.twins.original_of(y), {path: losses[path] for path in sorted(losses)}

    return call_with_losses


def regularizer(model: nnx.Module, wrt: Any = nnx.Param) -> TreeRegularizer:
    """Return the weight penalties that a model declares, as rules on the paths of `nnx.state(model, wrt)`.

    For an optax chain: `jaxreg.add_regularization(regularizer(model))`, `jaxreg.proximal(...)`, in
    `nnx.Optimizer(model, ..., wrt=nnx.Param)`. Penalties of outputs are not among them.

    Of a plain `nnx.Module` of your own only a call tells whether a parameter is a stack of layers (`nnx.vmap`), and
    there is none here: `with_losses` raises where that matters, this takes the parameter for one layer. Declare
    penalties of norms and matrices there as `Stacked(penalty, axes)`, or inherit `jaxreg.nnx.Regularized`, which notes
    the shapes.

    Args:
        model: an NNX module.
        wrt: the variables that the optimizer trains, as its own `wrt=` says it: only their penalties are returned.

    Raises:
        ValueError: a regularizer fits no parameter, or a parameter has two; the model has no variable that `wrt` means.
        TypeError: the model is not an NNX module, or `wrt` no filter of NNX.

    Example:
        >>> from flax import nnx
        >>> import jaxreg.nnx
        >>> model = jaxreg.nnx.Linear(3, 2, kernel_regularizer=jaxreg.L1(0.1), rngs=nnx.Rngs(0))
        >>> jaxreg.nnx.regularizer(model)
        TreeRegularizer([('kernel', L1(l1=0.1))])
        >>> tuned = jaxreg.nnx.LoRALinear(3, 2, lora_rank=1, kernel_regularizer="l2", lora_a_regularizer="l1",
        ...                               rngs=nnx.Rngs(0))
        >>> jaxreg.nnx.regularizer(tuned, wrt=nnx.LoRAParam)
        TreeRegularizer([('lora/lora_a', L1(l1=0.01))])
    """
    _check_model("regularizer", model)
    try:
        nnx.filterlib.to_predicate(wrt)
    except (TypeError, ValueError):  # ValueError: Flax fails at its own message
        raise TypeError(
            f"`regularizer(model, wrt=...)` takes a filter of NNX, such as `nnx.LoRAParam`, got {shown(wrt)}."
        ) from None
    declarations = Declarations(model, wrt)
    if not declarations.wanted:
        kinds = sorted(
            {type(variable).__name__ for variable in jax.tree.leaves(nnx.state(model), is_leaf=_is_variable)}
        )
        raise ValueError(
            f"`regularizer(model, wrt={shown(wrt)})`: the model has no such variable, only {kinds}. Give the `wrt` of "
            "its `nnx.Optimizer`."
        )
    found = penalized(declarations)
    return TreeRegularizer([(glob.escape(path), one.regularizer) for path, one in found.items()])


def _losses(found: dict[str, Penalized]) -> dict[str, jax.Array]:
    return evaluate(
        {path: one.regularizer for path, one in found.items()}, {path: one.parameter for path, one in found.items()}
    )


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def _check_model(call: str, model: Any) -> None:
    if not isinstance(model, nnx.Module):
        raise TypeError(f"`{call}(model)` takes a Flax NNX module, got {shown(model)}.")
