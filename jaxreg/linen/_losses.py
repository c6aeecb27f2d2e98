"""with_losses: the penalties of one call of a model; regularizer: its weight penalties as rules for a tree."""

import contextlib
import glob
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core.scope import DenyList, in_filter, union_filters

from jaxreg import _checks, _paths
from jaxreg._numerics import promote
from jaxreg._rules import Rule, matches_nothing
from jaxreg._tree import TreeRegularizer
from jaxreg.linen import _activity, _parameters, _record
from jaxreg.linen._record import LOSSES, NOTES

_trace_numbers = itertools.count()


def with_losses(model: nn.Module, activity: Any = ()) -> Callable[..., Any]:
    """Return a function that does what `model.apply` does and returns the penalties of the call too.

        y, losses = with_losses(model)(variables, x)          losses = {path: scalar}
        loss = task_loss(y) + sum(losses.values())

    Paths are those of the parameters (`Dense_0/kernel`) and of the modules (`Dense_0/activity`), without a prefix for
    the model itself. Weight penalties are computed from the parameters, once for each, whatever transform the module
    runs under; they are of all parameters that the model declares, also of those that this call did not use, as far as
    an earlier `init` or `apply` in this process has shown them. Activity penalties are summed over the calls. What
    other modules sow into the collection `losses` is added up and returned as well.

    Args:
        model: an unbound Linen module; its modules that inherit `Regularized` are penalized.
        activity: rules `(pattern, regularizer)` as `jaxreg.TreeRegularizer` takes them, for the outputs of modules one
            cannot edit. The first rule that matches the path of a module decides; `""` is the model itself, `**` all
            modules. A module under `nn.remat`, `nn.scan`, `nn.vmap` is penalized for what its caller receives.

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
    """
    _check_model("with_losses", model)
    rules: Any = TreeRegularizer(activity).rules

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
        y, state, declared = _run(model, rules, variables, args, {**kwargs, **options}, mutable)

        def probe(boxed: Any) -> dict[str, _record.Declared]:
            inputs = {**variables, "params": boxed}
            return _trace(lambda *a, **k: _run(model, (), inputs, a, {**k, **options}, mutable)[2], args, kwargs)

        sown = state.get(LOSSES, {})
        losses = {**_sums(sown), **_parameters.penalties(variables.get("params", {}), declared, probe)}
        losses = {path: losses[path] for path in sorted(losses)}
        if not in_filter(mutable, LOSSES):
            state.pop(LOSSES, None)
        return ((y, state) if mutable is not False or capture_intermediates else y), losses

    return apply_with_losses


def regularizer(model: nn.Module, variables: Any, *args: Any, **kwargs: Any) -> TreeRegularizer:
    """Return the weight penalties that a model declares, as rules on the paths of `variables["params"]`.

    For an optax chain: `jaxreg.add_regularization(regularizer(model, variables))`, `jaxreg.proximal(...)`.
    What a model declares shows when it is traced. Any `init` or `apply` of an equal model in this process will do, also
    under `jax.jit` or `jax.eval_shape`; otherwise give the inputs of `model.apply`, and the model is traced by shapes.

    Args:
        model: an unbound Linen module.
        variables: what `model.init` returns, or its `"params"`; shapes suffice.
        *args, **kwargs: the inputs of `model.apply`, `method=` and `rngs=` included; arrays or shapes.

    Raises:
        ValueError: the model was never traced in this process, or the trace does not tell enough; give inputs.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg, jaxreg.linen
        >>> model = jaxreg.linen.Dense(2, kernel_regularizer=jaxreg.L1(0.1))
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> jaxreg.linen.regularizer(model, variables)
        TreeRegularizer([('kernel', L1(l1=0.1))])
    """
    _check_model("regularizer", model)
    if not isinstance(variables, Mapping):
        raise TypeError(
            f"`regularizer(model, variables)` takes what `model.init` returns, got {_checks.short(variables)}."
        )
    if "params" not in variables:
        variables = {"params": variables}
    probe: Callable[[Any], dict[str, _record.Declared]] | None = None
    if args or kwargs:

        def probe(params: Any) -> dict[str, _record.Declared]:
            inputs = {**variables, "params": params}
            mutable = kwargs.get("mutable", False)
            return _trace(
                lambda v, *a, **k: _run(model, (), v, a, k, mutable)[2],
                (inputs, *args),
                {name: value for name, value in kwargs.items() if name != "mutable"},
            )

        declared = probe(variables["params"])
    else:
        remembered = _record.recall(model)
        if remembered is None:
            raise ValueError(
                f"`regularizer(model, variables)`: this `{type(model).__name__}` was not traced in this process (or "
                "holds arrays or functions made anew each time, by which it cannot be found again), so that what its "
                "modules declare is not known. Give example inputs: `regularizer(model, variables, x)`."
            )
        declared = remembered
        _parameters.check_jitted(variables["params"], declared, known=())
    found = _parameters.assign(variables["params"], declared, probe)
    return TreeRegularizer([(glob.escape(path), one) for path, one in found.items()])


def _check_model(call: str, model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"`{call}(model)` takes a Flax Linen module, got {_checks.short(model)}.")


def _run(
    model: nn.Module, rules: tuple[Rule, ...], variables: Mapping[str, Any], args: Any, kwargs: Any, mutable: Any
) -> tuple[Any, dict[str, Any], dict[str, _record.Declared]]:
    """Apply the model; return its output, its state with the collection `losses`, and all that is declared."""
    given = {name: value for name, value in variables.items() if name not in {LOSSES, NOTES}}
    interceptor = _activity.Interceptor(rules)
    intercepting = nn.intercept_methods(interceptor) if rules else contextlib.nullcontext()
    with _record.open_pass() as this_pass, intercepting:
        y, state = model.apply(given, *args, **kwargs, mutable=_mutable(mutable, rules))
    state = dict(state)
    noted, called = _read_notes(state.pop(NOTES, {}))
    if rules:
        _check_rules(interceptor, {**this_pass.called, **called}, called)
    params = given.get("params", {})
    paths = set(_paths.flatten(params)[0])
    missing = [path for path in this_pass.declared if path not in paths]
    if missing:
        raise ValueError(
            f"`with_losses`: a module has the regularized parameters {missing}, and `variables` has none of these "
            "paths (does nn.map_variables rename them?). Penalize the stored ones by `jaxreg.TreeRegularizer`."
        )
    remembered = {path: one for path, one in (_record.recall(model) or {}).items() if path in paths}
    declared = {**remembered, **this_pass.declared, **noted}
    _parameters.check_jitted(params, declared, known=noted)
    return y, state, declared


def _mutable(mutable: Any, rules: tuple[Rule, ...]) -> Any:
    """The caller's filter with `losses` and the notes; `nn.jit` tells by it this trace from one of plain `apply`."""
    tag = f"jaxreg {rules!r}"
    if not all(isinstance(leaf, (int, float)) for leaf in jax.tree.leaves(rules)):
        tag = f"jaxreg {next(_trace_numbers)}"  # arrays and traced values print alike: share no trace
    if mutable is True or isinstance(mutable, DenyList):
        denied: Any = () if mutable is True else mutable.deny
        denied = {denied} if isinstance(denied, str) else set(denied)
        return DenyList((*sorted(denied - {LOSSES, NOTES}), tag))
    asked: Any = union_filters(mutable, (LOSSES, NOTES, tag))
    return tuple(sorted(asked))


def _read_notes(notes: Any, path: tuple[str, ...] = ()) -> tuple[dict[str, _record.Declared], dict[str, Any]]:
    declared: dict[str, _record.Declared] = {}
    called: dict[str, Any] = {}
    for name, value in notes.items():
        if isinstance(value, Mapping):
            below, below_called = _read_notes(value, (*path, name))
            declared.update(below)
            called.update(below_called)
        elif name == _record.DECLARED:
            for inside, regularizer, shape, axes in value.content:
                declared["/".join((*path, inside))] = _record.Declared(regularizer, shape, None, axes)
        elif name == _record.CALLED:
            called["/".join(path)] = value.content
    return declared, called


def _check_rules(interceptor: _activity.Interceptor, called: Mapping[str, Any], noted: Iterable[str]) -> None:
    """Raise if a pattern matches no module, or if `nn.jit` reused a trace where another rule applies."""
    for path in noted:
        pattern_only = all(not callable(rule.pattern) for rule in interceptor.rules)
        if pattern_only and interceptor.decide(path, None) != called[path]:
            raise ValueError(
                f"`with_losses(activity=...)`: the rules tell {path} from an equal module, but `nn.jit` gives both one "
                "trace. Match both alike, or penalize the output of the module around them."
            )
    used = interceptor.used | {rule for rule in called.values() if rule is not None}
    for i, rule in enumerate(interceptor.rules):
        if i not in used:
            message = matches_nothing(rule.pattern, called).replace("No leaf", "no module that ran", 1)
            raise ValueError(f"`with_losses(activity=...)`: {message}")


def _sums(tree: Any, path: tuple[str, ...] = ()) -> dict[str, jax.Array]:
    """`{path: sum}`: lifted transforms stack the penalties of their calls, `sow` collects in tuples."""
    if isinstance(tree, Mapping):
        return {p: value for name, below in tree.items() for p, value in _sums(below, (*path, name)).items()}
    leaves = [jnp.sum(promote(leaf)) for leaf in jax.tree.leaves(tree)]
    return {"/".join(path): sum(leaves[1:], start=leaves[0])} if leaves else {}


def _trace(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a function on shapes, and return what it returns; strings, numbers and functions stay as they are."""
    treedef: Any
    leaves, treedef = jax.tree.flatten((args, kwargs))
    traced = [i for i, leaf in enumerate(leaves) if isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct))]
    result: list[Any] = []

    def call(arrays: list[Any]) -> None:
        whole = list(leaves)
        for i, array in zip(traced, arrays, strict=True):
            whole[i] = array
        new_args, new_kwargs = treedef.unflatten(whole)
        result.append(function(*new_args, **new_kwargs))

    jax.eval_shape(call, [leaves[i] for i in traced])
    return result[0]
