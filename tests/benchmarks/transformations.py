"""The Adam steps that are measured here, and tested in `tests/test_cost.py`."""

import optax

import jaxreg

RATE, L1, L2 = 1e-3, 1e-6, 1e-5
NET = jaxreg.L1L2(L1, L2)
GROUPS = jaxreg.TreeRegularizer([("**/kernel", jaxreg.Group(jaxreg.L1(L1), axis=0)), ("**", None)])


def transformations() -> dict[str, optax.GradientTransformation]:
    """The Adam steps that are measured."""
    return {
        "plain": optax.adam(RATE),
        "coupled": optax.chain(jaxreg.add_regularization(NET), optax.adam(RATE)),
        "decoupled": optax.chain(
            optax.scale_by_adam(), jaxreg.add_regularization(NET), optax.scale_by_learning_rate(RATE)
        ),
        "tracked": optax.chain(jaxreg.add_regularization(NET, track=True), optax.adam(RATE)),
        "proximal L1": jaxreg.proximal_adam(RATE, jaxreg.L1(L1)),
        "proximal group": jaxreg.proximal_adam(RATE, GROUPS),
        "proximal group moments": jaxreg.proximal_adam(RATE, GROUPS, moments="group"),
    }
