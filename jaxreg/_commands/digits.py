"""The data of `demo` and `path`: scikit-learn's 1797 handwritten digits, 8×8 pixels, in three fixed parts."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.model_selection import train_test_split

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


class Part(NamedTuple):
    images: Floats  # (n, 64), from 0 to 1
    labels: Ints  # (n,)


class Digits(NamedTuple):
    train: Part
    validation: Part  # the strengths in `demo/runs.py` were chosen on it; the commands do not use it
    test: Part


def load_digits() -> Digits:
    """Return 600 images for training, 600 for validation and 597 for testing; the same in every process."""
    images, labels = datasets.load_digits(return_X_y=True)
    whole = Part((images / 16).astype(np.float32), labels.astype(np.int32))
    rest, test = _split(whole, 597)
    train, validation = _split(rest, 600)
    return Digits(train, validation, test)


def _split(part: Part, size: int) -> tuple[Part, Part]:
    first, second, first_labels, second_labels = train_test_split(
        part.images, part.labels, test_size=size, random_state=0, stratify=part.labels
    )
    return Part(first, first_labels), Part(second, second_labels)


def batches(part: Part, size: int, seed: int) -> Iterator[Part]:
    """Yield batches without end: each epoch in a new order, without its incomplete last batch."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(part.labels))
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size]
            yield Part(part.images[chosen], part.labels[chosen])
