"""The recipes for decay in `jaxreg/_optax/README.md`: the code that stands there, against the formulas beside it."""

import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg

README = (Path(jaxreg.__file__).parent / "_optax" / "README.md").read_text()
NAMES: dict[str, Any] = {"jaxreg": jaxreg, "optax": optax}
exec(re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0], NAMES)

DECAY = 0.1
STEPS = 6


def adam(g: np.ndarray, m: np.ndarray, v: np.ndarray, t: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    return m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8), m, v


# The decay of a step, from w, Adam's direction, the rate, the number of the step; the coupled one is in the gradient.
FORMULAS = {
    "coupled": lambda w, u, eta, t: 0 * w,
    "decoupled": lambda w, u, eta, t: eta * DECAY * w,
    "independent": lambda w, u, eta, t: DECAY * w,
    "cautious": lambda w, u, eta, t: eta * DECAY * np.where(u * w >= 0, w, 0),
    "corrected": lambda w, u, eta, t: eta * DECAY * eta / 1e-2 * w,
    "scheduled": lambda w, u, eta, t: eta * DECAY * 0.2 * t * w,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_decay_is_that_of_its_formula(name: str) -> None:
    tx, w = NAMES[name], np.array([1.0, -2.0, 0.5])
    m, v, params = np.zeros(3), np.zeros(3), jnp.float32(w)
    state = tx.init(params)
    for t in range(STEPS):
        g = np.sin(np.arange(3.0) + 2 * t)
        updates, state = tx.update(jnp.float32(g), state, params)
        params = optax.apply_updates(params, updates)
        # the schedule on paper: a line up to 0.01 at step 2, and half a cosine down to 0 at step 10
        eta = 0.01 * t / 2 if t < 2 else 0.005 * (1 + np.cos(np.pi * (t - 2) / 8))
        u, m, v = adam(g + DECAY * w if name == "coupled" else g, m, v, t + 1)
        w = w - eta * u - FORMULAS[name](w, u, eta, t)
        np.testing.assert_allclose(params, w, rtol=1e-5, atol=1e-7)


def test_the_table_and_the_code_have_the_same_kinds() -> None:
    rows = re.findall(r"^\| (\w+)[^|]*\| w ←", README, re.MULTILINE)
    assert rows == [*FORMULAS] and set(FORMULAS) < set(NAMES)
