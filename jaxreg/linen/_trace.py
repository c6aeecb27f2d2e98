"""One call of `model.apply`: its output, its state, and what its modules declare."""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core.scope import DenyList, union_filters

from jaxreg._core.text import place, places
from jaxreg._flax.declared import ACTIVITY, no_module_matches
from jaxreg._rules.paths import flatten_with_paths
from jaxreg._rules.patterns import Rule
from jaxreg.linen import _declarations, _outputs, _weights

_trace_numbers = itertools.count()


def run(
    model: nn.Module,
    rules: tuple[Rule, ...],
    variables: Mapping[str, Any],
    args: Any,
    kwargs: Any,
    mutable: Any,
    batch_axis: int | None = 0,
    begun: Mapping[tuple[str, ...], Any] = MappingProxyType({}),
) -> tuple[Any, dict[str, Any], dict[str, _declarations.Declared]]:
    """Return the output, the state with the collection `losses`, and what is declared, by path of the parameter.

    The branches of `nn.cond` must return the same collections. Where only some have penalties of outputs, JAX refuses,
    and the model runs once more, with the totals of these modules begun at 0: `{path of the module: dtype}`.
    """
    given = {
        name: value for name, value in variables.items() if name not in {_declarations.LOSSES, _declarations.NOTES}
    }
    given.update({_declarations.LOSSES: _zeros(begun)} if begun else {})
    interceptor, more = _outputs.Interceptor(rules), dict(begun)
    with _declarations.open_pass(batch_axis) as this_pass, nn.intercept_methods(interceptor):
        try:
            y, state = model.apply(given, *args, **kwargs, mutable=_mutable(mutable, rules, batch_axis))
        except Exception as error:
            more = {**begun, **this_pass.begun_in_branch} if "branch" in str(error) else more
            if more == begun:
                if begun:
                    raise _lost_in_branch(begun) from error
                raise
    if more != begun:
        return run(model, rules, variables, args, kwargs, mutable, batch_axis, more)
    state = dict(state)
    notes = state.pop(_declarations.NOTES, {})
    noted, called = _read_notes(notes, _declarations.DECLARED), _read_notes(notes, _declarations.CALLED)
    if rules:
        _check_rules(interceptor, {**this_pass.called, **called}, called)
    params = given.get("params", {})
    paths = set(flatten_with_paths(params)[0])
    missing = [path for path in this_pass.declared if path not in paths]
    if missing:
        raise ValueError(
            f"`with_losses`: a module has the regularized parameters {places(missing)}, and `variables` has none of "
            "these paths (does nn.map_variables rename them?). Penalize the stored ones by `jaxreg.TreeRegularizer`."
        )
    remembered = _declarations.recall(model) or {}
    ran = this_pass.ran | set(noted)
    declared = {path: one for path, one in remembered.items() if path in paths and one.module not in ran}
    declared.update(this_pass.declared)
    for module, content in noted.items():
        declared.update(_from_note(module, content))
    _weights.check_jitted(params, declared)
    return y, state, declared


def _zeros(begun: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    return traverse_util.unflatten_dict({(*path, ACTIVITY): jnp.zeros((), dtype) for path, dtype in begun.items()})


def _lost_in_branch(begun: Iterable[tuple[str, ...]]) -> ValueError:
    paths = places(["/".join(path) or "(root)" for path in begun])
    return ValueError(
        f"`with_losses`: the activity penalties of the modules {paths} are of some branches of `nn.cond` or "
        "`nn.switch` alone; a lifted transform around it cannot hand them on. Penalize the output of the module "
        "around the branches instead."
    )


def _mutable(mutable: Any, rules: tuple[Rule, ...], batch_axis: int | None) -> Any:
    """The caller's filter, with `losses` and the notes, and with a tag: `nn.jit` reuses no trace of another filter."""
    if all(isinstance(leaf, (int, float)) for leaf in jax.tree.leaves(rules)):
        number = _number_of(rules)
    else:
        number = next(_trace_numbers)  # arrays and traced numbers have nothing to be told apart by: share no trace
    tag = f"jaxreg {batch_axis} {number}"
    if mutable is True or isinstance(mutable, DenyList):
        denied: Any = () if mutable is True else mutable.deny
        denied = {denied} if isinstance(denied, str) else set(denied)
        return DenyList((*sorted(denied - {_declarations.LOSSES, _declarations.NOTES}), tag))
    asked: Any = union_filters(mutable, (_declarations.LOSSES, _declarations.NOTES, tag))
    return tuple(sorted(asked))


@functools.lru_cache(maxsize=256)
def _number_of(rules: tuple[Rule, ...]) -> int:
    """A number that equal rules share; by their text, two functions of one name would look equal."""
    return next(_trace_numbers)


def _read_notes(notes: Any, name: str, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """`{path of the module: content}` of the notes of that name."""
    found = {"/".join(path): notes[name].content} if name in notes else {}
    for key, below in notes.items():
        if isinstance(below, Mapping):
            found.update(_read_notes(below, name, (*path, key)))
    return found


def _from_note(module: str, content: Any) -> dict[str, _declarations.Declared]:
    return {
        f"{module}/{path}".lstrip("/"): _declarations.Declared(regularizer, shape, module, None, axes)
        for path, regularizer, shape, axes in content
    }


def _check_rules(interceptor: _outputs.Interceptor, called: Mapping[str, Any], noted: Iterable[str]) -> None:
    """Raise if a rule matches no module, or if `nn.jit` reused a trace of a module that another rule applied to."""
    for path in noted:
        pattern_only = all(not callable(rule.pattern) for rule in interceptor.rules)
        if pattern_only and interceptor.decide(path, None) != called[path]:
            raise ValueError(
                f"`with_losses(activity=...)`: another rule is for {place(path)} than for an equal module, but "
                "`nn.jit` runs both from one trace. Give both the same rule, or penalize the output of the module "
                "around them."
            )
    used = interceptor.used | {rule for rule in called.values() if rule is not None}
    for i, rule in enumerate(interceptor.rules):
        if i not in used:
            raise no_module_matches(rule.pattern, called, "module that ran")


def trace(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a function on the shapes of its arrays, without computing, and return what it returns.

    Unlike `jax.eval_shape`, it may take and return strings, functions and any other objects.
    """
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
