"""Registration with Keras: importing this module makes every regularizer at home in Keras layers on the JAX backend.

After `import jaxreg.keras`

- an instance goes where Keras takes a regularizer (`kernel_regularizer=`, `activity_regularizer=`, `add_weight`), in
  eager `losses` and in `fit`;
- a model with ours in it survives `.keras` files, `to_json` and `clone_model`, and comes back with equal objects of our
  classes, without `custom_objects`. That holds for the built-in ones, for sums and multiples, and for whatever
  `jaxreg.register` named, before the import or after it;
- a class that is not registered loads by `custom_objects=`, also inside a sum.

Keras' own names keep their meaning: `"l1"` in a Keras layer is still `keras.regularizers.L1`. To turn an instance of
Keras' into ours, with its proximal operator: `jaxreg.deserialize(keras.regularizers.serialize(regularizer))`.

Constraints (`MaxNorm`, `NonNegative` and all others) go where Keras takes a constraint, as
`kernel_constraint=jaxreg.keras.constraint(jaxreg.MaxNorm(2.0))`: Keras projects after every step of its optimizer. As a
regularizer in the loss, of weights or of outputs, a constraint is inf or without effect, so that is refused, and so is
a bare one as `kernel_constraint=`. Outputs are projected by a layer of their own,
`keras.layers.Lambda(jaxreg.keras.constraint(jaxreg.NonNegative()))`.

Keras compiles the losses into its step. To change a regularizer in the midst of a `fit`, replace it on the variable and
have the step compiled again:

    class Warmup(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            layer = self.model.get_layer("hidden")
            layer.kernel.regularizer = layer.kernel_regularizer = jaxreg.L1(1e-4 * epoch)
            self.model.make_train_function(force=True)

The variable's is what counts, the layer's is what a saved model has. Between two calls of `fit` the same holds.

Give Keras objects or configs: it looks up no strings but its own. Give a plain function as `jaxreg.Function(function)`:
Keras passes its own variables to a function, which `jax.numpy` does not take. A model with a function in it can be
saved if `jaxreg.register` has named the function.

Where jaxreg differs from Keras, on purpose. Names, fields, defaults and values are Keras', tested against it live; each
of these has a test that runs both (`tests/test_keras_parity.py`):

    case                                     Keras 3.15 on JAX                        jaxreg
    gradient of `L1` at 0                    +l1, which pushes zeros away             0
    `OrthogonalRegularizer` at a zero row    gradient nan                             gradient 0
    ... with one row                         value nan                                value 0
    ... with rows of length 1e-9 or 1e20     damped towards 0                         the true cosine
    float16, bfloat16 sums                   in half precision: overflow, underflow   in float32
    integer and bool input                   coefficient cast to 0 or 1               promoted to float
    complex input                            Σz²                                      Σ|z|²
    `"l1_l2"`                                raises (documented as 0.01, 0.01)        `L1L2(0.01, 0.01)`
    traced, NumPy, JAX scalar coefficients   rejected                                 accepted
    `True` as a coefficient                  1.0                                      `TypeError`
    unknown name in `deserialize`            returned unchanged                       `ValueError`

Example:
    >>> import keras, jaxreg, jaxreg.keras
    >>> layer = keras.layers.Dense(2, kernel_initializer="ones", kernel_regularizer=jaxreg.L1(0.5) + jaxreg.L2(0.25))
    >>> layer.build((None, 3))
    >>> [float(loss) for loss in layer.losses]
    [4.5]
    >>> keras.layers.Dense.from_config(layer.get_config()).kernel_regularizer
    Sum(terms=(L1(l1=0.5), L2(l2=0.25)))
"""

import inspect
from typing import Any

from jaxreg._core import keras_slots, names

try:
    import keras
except ImportError as error:
    raise ImportError(
        "`import jaxreg.keras` needs Keras on its JAX backend: `pip install 'jaxreg[keras]'`, and set the environment "
        f"variable KERAS_BACKEND=jax before keras is imported. Importing keras failed: {error}"
    ) from error

from jaxreg._core.checks import short
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import Struct
from jaxreg._rules.identifiers import deserialize, get, serialize
from jaxreg.penalties import PENALTIES

if keras.config.backend() != "jax":
    raise ImportError(
        "`import jaxreg.keras` needs Keras on its JAX backend, got the backend "
        f"{keras.config.backend()!r}: set the environment variable KERAS_BACKEND=jax before keras is imported."
    )


class Projection(keras.constraints.Constraint):  # type: ignore[misc]  # Keras has no types
    """What `jaxreg.keras.constraint` returns: the projection on the set of a constraint, and its config."""

    def __init__(self, regularizer: Any) -> None:
        self.regularizer = regularizer

    def __call__(self, w: Any) -> Any:
        return self.regularizer.prox(keras.ops.convert_to_tensor(w))

    def __repr__(self) -> str:
        return f"constraint({self.regularizer!r})"

    def get_config(self) -> dict[str, Any]:
        return {"regularizer": serialize(self.regularizer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Projection":
        return constraint(deserialize(config["regularizer"]))


def constraint(regularizer: Any) -> Projection:
    """Return the constraint of Keras that projects weights on a set, for `kernel_constraint=`, `bias_constraint=` ...

    w ← argmin ‖v − w‖² over v in the set, after every step of the optimizer: `regularizer.prox(w)`.

    Args:
        regularizer: a constraint, or a sum, multiple or structure (`Matrix`, `Stacked`) of constraints alone; anything
            that `jaxreg.get` takes.

    Raises:
        TypeError: it is a penalty, or has a penalty in it.

    Example:
        >>> import keras, numpy as np, jaxreg, jaxreg.keras
        >>> layer = keras.layers.Dense(1, kernel_constraint=jaxreg.keras.constraint(jaxreg.MaxNorm(5.0, axis=0)))
        >>> layer.kernel_constraint(np.array([[30.0], [40.0]], np.float32)).round(4)
        Array([[3.],
               [4.]], dtype=float32)
        >>> keras.layers.Dense.from_config(layer.get_config()).kernel_constraint
        constraint(MaxNorm(radius=5.0, axis=0))
    """
    found = get(regularizer)
    if not isinstance(found, Regularizer) or keras_slots.sets_in(found) != [found]:
        raise TypeError(
            f"`jaxreg.keras.constraint({short(regularizer)})` takes a constraint, such as `jaxreg.MaxNorm(2.0)`: the "
            "proximal operator of a penalty shrinks by the step, and Keras tells no step. Give penalties as "
            "`kernel_regularizer=`."
        )
    return Projection(found)


def _tell_keras(obj: Any, full_name: str) -> None:
    """Make the name known to Keras, unless the object has one there already or the name another object."""
    if hasattr(obj, "__name__") and keras.saving.get_registered_name(obj) != obj.__name__:
        return
    other = keras.saving.get_custom_objects().get(full_name)
    if other is not None and not names.same_definition(obj, other):
        raise ValueError(
            f"Cannot register {short(obj)} with Keras: it has {short(other)} by the name {short(full_name)}. Choose "
            "another name in `jaxreg.register`."
        )
    package, _, name = full_name.partition(">")
    keras.saving.register_keras_serializable(package, name)(obj)


def _find_in_keras(name: str) -> Any:
    """The regularizer class or function that Keras has by that name, also from a `custom_objects=` now in force."""
    found = keras.saving.get_registered_object(name)
    return found if inspect.isfunction(found) or (isinstance(found, type) and issubclass(found, Struct)) else None


for _penalty in PENALTIES:
    _tell_keras(_penalty, f"jaxreg>{_penalty.__name__}")
_tell_keras(Projection, "jaxreg>Projection")
names.on_registration(_tell_keras)
names.look_also(_find_in_keras)
