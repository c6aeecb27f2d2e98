"""optax: Adam with the proximal step in its own metric, with a second moment for each entry or one for each group."""

from typing import Any

import optax

from jaxreg._core import checks
from jaxreg._optax.adam_groups import Adam
from jaxreg._optax.group_moments import group_adam
from jaxreg._optax.leaves import RegOrSchedule, regularizer_at
from jaxreg._optax.metrics import adam_metric
from jaxreg._optax.proximal import wrapped
from jaxreg._optax.when import checked


def proximal_adam(
    learning_rate: Any,
    reg: RegOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    max_step: Any = None,
    *,
    inner_steps: int | None = None,
    moments: str = "entry",
    latent: bool = False,
    every: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Minimize loss + R by Adam, with exact zeros: `optax.adam` and the proximal step in its own metric.

        m, v, m̂, v̂ as in `optax.adam`, of the gradient of the loss alone;   τ_i = η/(√(v̂_i + eps_root) + eps)
        w ← argmin_w { R(w) + ½ Σ_i (w_i − z_i)²/τ_i },   z = w − τ·m̂

    The penalty must not also be in the loss; gradients of it would enter m and v. The same as
    `proximal(optax.adam(...), reg, learning_rate, adam_metric(...))`, where everything is explained; other chains with
    Adam inside are written so.

    With `moments="group"` the leaves whose penalty is a `Group(ρ)` along axes, or which have the units of a
    `JointGroup(ρ)`, alone or beside terms of entries, have one second moment for each group (so has Adam-mini, for its
    blocks):

        v_g ← b2·v_g + (1 − b2)·mean_{i in g} g_i²,   τ_g = η/(√(v̂_g + eps_root) + eps),   the same in all of g

    In this metric every ρ has the closed form of `Group.prox`, L0 and MCP too: the step costs about what that of plain
    Adam does, and the state holds numbers of groups in place of an array. Small gradients are no longer raised to the
    size of the others in their group, so the rates of convergence differ, and the minima do not. The mean of a unit is
    over its entries in all leaves, each of which keeps that number in its own shape, so that the state is divided among
    devices as the parameters are; an index that is in no unit has one number too. All other leaves are treated as with
    "entry". Where a leaf of a unit has an L2 of its own, its steps differ from the others', and the norm is the root of
    an equation again.

    Args:
        learning_rate: η, a number, a schedule of the step count, or a traced value.
        reg: a regularizer, a `TreeRegularizer`, or a function of the step count that returns one of them.
        b1: as in `optax.adam`; likewise `b2`, `eps` and `eps_root`.
        max_step: the largest τ_i; `None` bounds the pull of the penalty on a coordinate by 4·η instead, with
            `moments="group"` the root mean square of the pull on a group.
        inner_steps: for penalties without a closed form in this metric, the number of inner steps.
        moments: "entry" or "group".
        latent: whether the state keeps the point before the proximal operator, so that what was removed can return.
        every: in each how many-th step the proximal operator is taken; both as in `proximal`.

    Raises:
        ValueError: `moments` is neither of these. With "group", in `update`, a penalty has other groups than in `init`.
        NotImplementedError: `latent` with "group". All else is raised as by `proximal`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg, optax
        >>> def loss(w):
        ...     return jnp.sum((w - jnp.array([3.0, 0.5])) ** 2)
        >>> tx = jaxreg.proximal_adam(optax.exponential_decay(0.1, 100, 0.5), jaxreg.L1(2.0))
        >>> w = jnp.ones(2)
        >>> state = tx.init(w)
        >>> @jax.jit
        ... def step(w, state):
        ...     updates, state = tx.update(jax.grad(loss)(w), state, w)
        ...     return optax.apply_updates(w, updates), state
        >>> for _ in range(1000):
        ...     w, state = step(w, state)
        >>> w.round(3)                                                        # 3 − 2/2, and 0 because 2·0.5 < 2
        Array([2., 0.], dtype=float32)

        One step from z = w − 0.1·g/√(mean g²), the same 0.1/√(mean g²) in both entries of a column:

        >>> w, g = jnp.array([[3.0, 0.3], [4.0, 0.4]]), jnp.ones((2, 2))
        >>> tx = jaxreg.proximal_adam(0.1, jaxreg.Group(jaxreg.L0(2.0)), moments="group")
        >>> updates, state = tx.update(g, tx.init(w), w)
        >>> optax.apply_updates(w, updates).round(3)                          # 0 because 0.2² + 0.3² < 2·0.1·2
        Array([[2.9, 0. ],
               [3.9, 0. ]], dtype=float32)

    References:
        Yun, Lozano and Yang, *Adaptive proximal gradient methods for structured neural networks* (ProxGen), NeurIPS
        2021. Zhang et al., *Adam-mini: use fewer learning rates to gain more*, arXiv:2406.16793.
    """
    if moments not in ("entry", "group"):
        raise ValueError(f'`proximal_adam(moments=...)` takes "entry" or "group", got {checks.short(moments)}.')
    reg_at, when = regularizer_at("proximal_adam", reg), checked("proximal_adam", latent, every)
    if latent and moments == "group":
        raise NotImplementedError(
            '`proximal_adam(latent=True)` keeps a step for each entry, and `moments="group"` has one for each group. '
            'Take `moments="entry"`.'
        )
    metric = adam_metric(b2, eps, eps_root)
    by_group = moments == "group"
    if by_group:
        inner = group_adam(learning_rate, reg_at, metric, b1, b2, eps, eps_root)
    else:
        inner = optax.adam(learning_rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    adam = Adam(metric, b1, b2, eps, eps_root, max_step, by_group)
    return wrapped(inner, reg_at, learning_rate, metric, 0.0, max_step, inner_steps, when, adam)
