"""From what modules declare of the layers that they see to the penalties of the parameters as they are stored."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import meta

from jaxreg._core.regularizer import Regularizer
from jaxreg._core.text import place
from jaxreg._flax.declared import evaluate, is_sum_over_entries, shown, stacked_axes
from jaxreg._rules.paths import flatten_with_paths
from jaxreg.linen._declarations import Declared
from jaxreg.penalties import Stacked

Probe = Callable[[Any], dict[str, Declared]]


def penalties(params: Any, declared: Mapping[str, Declared], probe: Probe) -> dict[str, jax.Array]:
    """Return `{path of a parameter: penalty}`."""
    found = assign(params, declared, probe)
    leaves = _by_path(params)
    return evaluate(found, {path: leaves[path] for path in found})


def assign(params: Any, declared: Mapping[str, Declared], probe: Probe | None) -> dict[str, Regularizer]:
    """Return `{path: regularizer}` for the parameters as they are stored.

    `probe` traces the model with other parameters in place of `params`: it tells the axes of a stack where the shapes
    do not. Without it such a stack raises.
    """
    leaves = _by_path(params)
    found: dict[str, Regularizer] = {}
    uncertain: list[str] = []
    for path, one in declared.items():
        if path not in leaves:
            continue  # declared by an equal model with other arguments, or computed from other parameters
        if not jnp.issubdtype(leaves[path].dtype, jnp.inexact):
            continue
        shape = tuple(leaves[path].shape)
        stacks = [()] if is_sum_over_entries(one.regularizer, shape) else stacked_axes(shape, one.shape)
        if len(stacks) == 1:
            found[path] = Stacked(one.regularizer, stacks[0]) if stacks[0] else one.regularizer
        elif stacks and probe is not None:
            uncertain.append(path)
        else:
            raise _shape_error(path, one, shape, ambiguous=bool(stacks))
    if uncertain and probe is not None:
        probed = probe(_boxed(params))
        for path in uncertain:
            axes = probed[path].axes if path in probed else None
            if not axes:
                raise _shape_error(path, declared[path], leaves[path].shape, ambiguous=True)
            found[path] = Stacked(declared[path].regularizer, axes)
    return {path: found[path] for path in leaves if path in found}


def check_jitted(params: Any, declared: Mapping[str, Declared]) -> None:
    """Raise if a module under `nn.jit` has a twin of the same shapes that may have run from the same trace."""
    hidden = {path: one for path, one in declared.items() if one.jitted}  # of notes `jitted` is None: they miss nothing
    if not hidden:
        return
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for path, leaf in _by_path(params).items():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            modules.setdefault("/".join(parts[:depth]), {})["/".join(parts[depth:])] = tuple(leaf.shape)
    for path, one in hidden.items():
        inside = path.removeprefix(f"{one.jitted}/")
        for module, shapes in modules.items():
            twin = f"{module}/{inside}"
            if shapes == modules.get(str(one.jitted)) and twin not in declared:
                raise ValueError(
                    f"`nn.jit` runs {place(str(one.jitted))} and perhaps {place(module)} from one trace, so that it "
                    f"is not known whether {place(twin)} is regularized as {place(path)} is. Give example inputs: "
                    "`regularizer(model, variables, x)`; with an `nn.scan`, `nn.vmap` or `nn.RNN` inside `nn.jit`, "
                    "let it pass on `'jaxreg': 0` too."
                )


def removed_axes(params: Any) -> dict[str, tuple[int, ...]]:
    """The axes that lifted transforms took from the parameters, by path; empty unless the parameters are `_Probe`s."""
    entries = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda x: isinstance(x, _Probe))[0]
    return {
        jax.tree_util.keystr(keys, simple=True, separator="/"): probe.removed
        for keys, probe in entries
        if isinstance(probe, _Probe)
    }


def _by_path(params: Any) -> dict[str, Any]:
    paths, leaves, *_ = flatten_with_paths(params)
    return dict(zip(paths, leaves, strict=True))


def _shape_error(path: str, one: Declared, shape: tuple[int, ...], *, ambiguous: bool) -> ValueError:
    reason = "stacked along an axis that the shapes do not tell" if ambiguous else "not a stack of that"
    return ValueError(
        f"The parameter {place(path)} is stored with the shape {shape}, its module sees {one.shape}, and it is "
        f"{reason}: {shown(one.regularizer)} of it is undefined. "
        + ("Give example inputs: `regularizer(model, variables, x)`." if ambiguous else "Penalize it by a path rule.")
    )


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class _Probe(meta.AxisMetadata[Any]):
    """A box around a parameter: Flax tells it which axis a lifted transform takes away, and it remembers."""

    value: Any
    axes: tuple[int, ...]
    removed: tuple[int, ...] = ()

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> "_Probe":
        return dataclasses.replace(self, value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> "_Probe":
        return self  # called on the way out of a transform; only what the module sees inside is read

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "_Probe":
        axis = self.axes[index]
        return _Probe(self.value, tuple(a for a in self.axes if a != axis), (*self.removed, axis))

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        return ((jax.tree_util.GetAttrKey("value"), self.value),), (self.axes, self.removed)

    @classmethod
    def tree_unflatten(cls, aux: Any, children: Any) -> "_Probe":
        return cls(children[0], *aux)


def _boxed(params: Any) -> Any:
    return jax.tree.map(lambda leaf: _Probe(leaf, tuple(range(len(leaf.shape)))), meta.unbox(params))
