"""Updates, parameters and regularizers side by side: what both links to optax begin with."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxreg._core import checks
from jaxreg._core.regularizer import Regularizer
from jaxreg._rules.joint import Joint
from jaxreg._rules.paths import flatten_with_paths, is_hidden
from jaxreg._rules.tree import as_tree
from jaxreg._rules.tree_penalty import TreePenalty

Reg = Regularizer | TreePenalty
RegOrSchedule = Reg | Callable[[jax.Array], Reg]

# `optax.inject_hyperparams` takes a regularizer for a schedule, because it is callable; and how it is done.
_INJECTED = {
    "add_regularization": (
        "optax.inject_hyperparams(lambda strength: jaxreg.add_regularization(jaxreg.L1(strength)))(strength=0.1)"
    ),
    "proximal": (
        "optax.inject_hyperparams(lambda learning_rate, strength: jaxreg.proximal(optax.sgd(learning_rate), "
        "jaxreg.L1(strength), learning_rate))(learning_rate=0.1, strength=0.1)"
    ),
    "proximal_adam": (
        "optax.inject_hyperparams(lambda learning_rate, strength: jaxreg.proximal_adam(learning_rate, "
        "jaxreg.L1(strength)))(learning_rate=0.1, strength=0.1)"
    ),
}


class Row(NamedTuple):
    update: Any
    param: Any
    regularizer: Regularizer | None


class Rows(NamedTuple):
    leaves: list[Row]
    treedef: Any
    joints: list[Joint]  # groups across leaves

    def penalized(self) -> list[Row]:
        """The leaves, with the penalty of their groups where that is all that they have."""
        joint = {i: joint.group for joint in self.joints for i in joint.all_positions}
        return [
            row if row.regularizer is not None or i not in joint else row._replace(regularizer=joint[i])
            for i, row in enumerate(self.leaves)
        ]


def needs_params(call: str, params: Any) -> None:
    """Raise where `update` was called without the parameters."""
    if params is None:
        raise ValueError(f"`{call}` needs the parameters: call `tx.update(grads, state, params)`.")


def side_by_side(call: str, updates: Any, params: Any, reg: TreePenalty) -> Rows:
    """Updates, parameters and regularizers side by side; masked and missing leaves have no regularizer."""
    needs_params(call, params)
    _, update_leaves, _, treedef = flatten_with_paths(updates)
    param_leaves = [
        None if is_hidden(update) else param
        for update, param in zip(update_leaves, treedef.flatten_up_to(params), strict=True)
    ]
    shown = [update if is_hidden(update) else p for update, p in zip(update_leaves, param_leaves, strict=True)]
    flat = flatten_with_paths(treedef.unflatten(shown))
    joints = reg.joints(flat)
    return Rows(list(map(Row, update_leaves, param_leaves, reg.assign(flat))), treedef, joints)


def refuse_frozen_leaves(rows: Sequence[Row], metric_leaves: Sequence[Any]) -> None:
    """Raise if a leaf that the optimizer does not step has a penalty together with others."""
    for row, leaf in zip(rows, metric_leaves, strict=True):
        if row.regularizer is not None and is_hidden(leaf):
            raise ValueError(
                f"`proximal`: the optimizer does not step a leaf of shape {jnp.shape(row.param)}, which has a penalty "
                "together with other leaves. Leave it out by a rule `None`."
            )


def regularizer_at(call: str, reg: Any) -> Callable[[jax.Array], TreePenalty]:
    if isinstance(reg, (Regularizer, TreePenalty)):
        tree = as_tree(reg)
        return lambda count: tree
    if not callable(reg) or isinstance(reg, type):
        way_out = checks.instead(reg) or (
            " Under `optax.inject_hyperparams` inject numbers and build the regularizer inside: "
            f"`{_INJECTED[call]}`. Or name it static: `optax.inject_hyperparams(jaxreg.{call}, static_args=('reg',))`."
        )
        raise TypeError(
            f"`{call}` takes a regularizer, a `TreeRegularizer` or a function of the step that returns one, got "
            f"{checks.short(reg)}.{way_out}"
        )

    def at(count: jax.Array) -> TreePenalty:
        try:
            value = reg(count)
        except jax.errors.ConcretizationTypeError:
            raise  # it is a schedule, and JAX says what is wrong with it
        except (TypeError, AttributeError, LookupError) as error:
            raised = f"it raised {type(error).__name__}: {checks.short(str(error))}"
            raise TypeError(_not_a_schedule(call, raised)) from error
        if not isinstance(value, (Regularizer, TreePenalty)):
            raise TypeError(_not_a_schedule(call, f"got {checks.short(value)}"))
        return as_tree(value)

    return at


def _not_a_schedule(call: str, found: str) -> str:
    return (
        f"`{call}`: a function is a schedule of the step, called with the number of the step, and must return a "
        f"regularizer, {found}. Of a schedule of a strength write `lambda step: jaxreg.L2(schedule(step))`; a "
        "penalty of each array goes in as `jaxreg.TreeRegularizer({'**': function})`; one across leaves, "
        "`jaxreg.L2(0.5)(params['a'] - params['b'])`, is a term of the loss: `loss(params) + penalty(params)`."
    )
