"""Pictures of regularization, with matplotlib (`pip install "jaxreg[plot]"`, then `import jaxreg.plot`).

    jaxreg.plot.path(result)                        scores and exact zeros along the strengths, the best and the
                                                    one-standard-error choice
    jaxreg.plot.sparsity(params)                    exact zeros, dead input and output units by layer
    jaxreg.plot.spectrum(params)                    singular values and ranks
    jaxreg.plot.weights(before, after)              matrices as images; grey is exactly 0
    jaxreg.plot.curves(losses, penalties, steps)    learning curves, the loss of the data and the penalties apart

Every function draws into the axes that it is given, or into a new figure, and returns the axes. Colours follow the
current matplotlib style: on a dark background (`plt.style.use("dark_background")`) they are lighter. Colour-blind
readers can tell them apart, and lines differ in dashes too. Weights that are exactly 0 are grey.
"""

try:
    import matplotlib as _matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"`import jaxreg.plot` needs matplotlib: `pip install 'jaxreg[plot]'`. Importing matplotlib failed: {error}"
    ) from error

from jaxreg.plot._curves import curves as curves
from jaxreg.plot._path import path as path
from jaxreg.plot._sparsity import sparsity as sparsity
from jaxreg.plot._spectrum import spectrum as spectrum
from jaxreg.plot._weights import weights as weights
