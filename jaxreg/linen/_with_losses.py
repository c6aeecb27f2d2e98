"""with_losses: the penalties of one call of a model; regularizer: its weight penalties as rules for a tree."""

import glob
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core.scope import in_filter

from jaxreg._core.numerics import promote
from jaxreg._flax.declared import shown
from jaxreg._flax.outputs import check_batch_axis
from jaxreg._rules.paths import flatten_with_paths
from jaxreg._rules.patterns import Pattern, Rule, check_pattern, matches_nothing
from jaxreg._rules.tree import TreeRegularizer
from jaxreg.linen import _declarations, _plain, _trace, _weights
from jaxreg.linen._declarations import LOSSES


def with_losses(model: nn.Module, activity: Any = (), *, batch_axis: int | None = 0) -> Callable[..., Any]:
    """Return a function that does what `model.apply` does and returns the penalties of the call too.

        y, losses = with_losses(model)(variables, x)          losses = {path: scalar}
        loss = task_loss(y) + sum(losses.values())

    Paths are those of the parameters (`Dense_0/kernel`) and of the modules (`Dense_0/activity`), without a prefix for
    the model itself. Weight penalties are computed from the parameters, once for each, whatever transform the module
    runs under. A parameter that this call does not use is penalized too, if an earlier `init` or `apply` of an equal
    model in this process has run its module. Activity penalties are summed over the calls. What other modules sow into
    the collection `losses` is added up and returned as well. Weight penalties of NNX modules inside a
    `nnx.bridge.ToLinen` count too; penalties of outputs inside it raise.

    Args:
        model: an unbound Linen module; its modules that inherit `Regularized` are penalized.
        activity: rules `(pattern, regularizer)` as `jaxreg.TreeRegularizer` takes them, for the outputs of modules one
            cannot edit. The first rule that matches the path of a module decides; `""` is the model itself, `**` all
            modules. They act as an `activity_regularizer` of the module would.
        batch_axis: the axis of outputs by whose length activity penalties are divided, the same for all modules; 1 for
            time-major models. `None` divides by nothing, where modules see one example: a single image, or inside
            `jax.vmap`, which then returns the losses of each example (take their mean). Inside the model `nn.vmap`
            adds them up: divide by the number of examples.

    Returns:
        A function with the arguments of `model.apply`. With `mutable=[...]` it returns `((y, state), losses)`, and
        `state` has no `losses` unless `mutable` asks for them. Losses passed in among the variables are ignored.

    Raises:
        ValueError: a pattern matches no module; a regularizer fits no parameter; an activity penalty would be lost in
            a lifted transform that does not pass the collection `losses` on.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxreg.linen
        >>> dense = jaxreg.linen.Dense(2, kernel_init=nn.initializers.ones, kernel_regularizer="l2")
        >>> model = nn.Sequential([dense, nn.relu])
        >>> x = jnp.ones((4, 3))
        >>> variables = model.init(jax.random.key(0), x)
        >>> y, losses = jaxreg.linen.with_losses(model, activity=[("", "l1")])(variables, x)
        >>> {path: round(float(loss), 4) for path, loss in losses.items()}
        {'activity': 0.06, 'layers_0/kernel': 0.06}
        >>> penalties = jaxreg.linen.with_losses(model, activity=[("", "l1")], batch_axis=None)
        >>> y, losses = jax.vmap(penalties, in_axes=(None, 0))(variables, x)
        >>> round(float(losses["activity"].mean()), 4)
        0.06
    """
    _check_model("with_losses", model)
    rules: Any = TreeRegularizer(activity).rules
    batch_axis = check_batch_axis(batch_axis)

    def apply_with_losses(
        variables: Mapping[str, Any],
        *args: Any,
        rngs: Any = None,
        method: Any = None,
        mutable: Any = False,
        capture_intermediates: Any = False,
        **kwargs: Any,
    ) -> Any:
        options = {"rngs": rngs, "method": method, "capture_intermediates": capture_intermediates}
        y, state, declared = _trace.run(model, rules, variables, args, {**kwargs, **options}, mutable, batch_axis)

        def probe(boxed: Any) -> dict[str, _declarations.Declared]:
            inputs = {**variables, "params": boxed}
            return _trace.trace(
                lambda *a, **k: _trace.run(model, (), inputs, a, {**k, **options}, mutable, batch_axis)[2], args, kwargs
            )

        sown = state.get(LOSSES, {})
        outputs, weights = _sums(sown), _weights.penalties(variables.get("params", {}), declared, probe)
        if twice := sorted(outputs.keys() & weights.keys()):
            raise _plain.sown_twice(twice)
        losses = {**outputs, **weights}
        losses = {path: losses[path] for path in sorted(losses)}
        if not in_filter(mutable, LOSSES):
            state.pop(LOSSES, None)
        return ((y, state) if mutable is not False or capture_intermediates else y), losses

    return apply_with_losses


def regularizer(model: nn.Module, variables: Any, *args: Any, wrt: Pattern = "**", **kwargs: Any) -> TreeRegularizer:
    """Return the weight penalties that a model declares, as rules on the paths of `variables["params"]`.

    For an optax chain: `jaxreg.add_regularization(regularizer(model, variables))`, `jaxreg.proximal(...)`.
    What the modules of a model declare is known once they have run. An `init` or `apply` of an equal model in this
    process will do, also under `jax.jit` or `jax.eval_shape`; otherwise give the inputs of `model.apply`, and the model
    is traced with their shapes.

    Args:
        model: an unbound Linen module.
        variables: what `model.init` returns, or its `"params"`; shapes suffice.
        *args, **kwargs: the inputs of `model.apply`, `method=` and `rngs=` included; arrays or shapes.
        wrt: the parameters that the optimizer trains, a pattern of their paths as `jaxreg.TreeRegularizer` takes it
            (a glob, a compiled `re`, a function of path and array): only their penalties are returned.

    Raises:
        ValueError: no equal model has run in this process, or the shapes do not tell which axis of a parameter is a
            stack of layers; give inputs. Or no parameter matches `wrt`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg, jaxreg.linen
        >>> model = jaxreg.linen.Dense(2, kernel_regularizer=jaxreg.L1(0.1))
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> jaxreg.linen.regularizer(model, variables)
        TreeRegularizer([('kernel', L1(l1=0.1))])
        >>> jaxreg.linen.regularizer(model, variables, wrt="**/bias")
        TreeRegularizer([])
    """
    _check_model("regularizer", model)
    if not isinstance(variables, Mapping):
        raise TypeError(f"`regularizer(model, variables)` takes what `model.init` returns, got {shown(variables)}.")
    if "params" not in variables:
        variables = {"params": variables}
    probe: Callable[[Any], dict[str, _declarations.Declared]] | None = None
    if args or kwargs:

        def probe(params: Any) -> dict[str, _declarations.Declared]:
            inputs = {**variables, "params": params}
            mutable = kwargs.get("mutable", False)
            return _trace.trace(
                lambda v, *a, **k: _trace.run(model, (), v, a, k, mutable)[2],
                (inputs, *args),
                {name: value for name, value in kwargs.items() if name != "mutable"},
            )

        declared = probe(variables["params"])
    else:
        remembered = _declarations.recall(model)
        if remembered is None:
            raise ValueError(
                f"`regularizer(model, variables)`: no `{type(model).__name__}` equal to this one has run in this "
                "process (large arrays, and functions made anew each time, never count as equal), so that what its "
                "modules declare is not known. Give example inputs: `regularizer(model, variables, x)`."
            )
        declared = remembered
        _weights.check_jitted(variables["params"], declared)
    found = _weights.assign(variables["params"], declared, probe)
    paths, leaves, *_ = flatten_with_paths(variables["params"])
    check_pattern(wrt)
    trained = {path for path, leaf in zip(paths, leaves, strict=True) if Rule(wrt, None).matches(path, leaf)}
    if not trained:
        raise ValueError(f"`regularizer(model, variables, wrt=...)`: {matches_nothing(wrt, paths)}")
    return TreeRegularizer([(glob.escape(path), one) for path, one in found.items() if path in trained])


def _check_model(call: str, model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"`{call}(model)` takes a Flax Linen module, got {shown(model)}.")


def _sums(tree: Any, path: tuple[str, ...] = ()) -> dict[str, jax.Array]:
    """`{path: sum}` of a collection: lifted transforms stack the penalties of their calls, `sow` collects in tuples."""
    if isinstance(tree, Mapping):
        return {p: value for name, below in tree.items() for p, value in _sums(below, (*path, name)).items()}
    leaves = [jnp.sum(promote(leaf)) for leaf in jax.tree.leaves(tree)]
    return {"/".join(path): sum(leaves[1:], start=leaves[0])} if leaves else {}
