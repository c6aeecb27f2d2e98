"""How a reshape merges and splits axes."""

import math
from collections.abc import Sequence


def blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the smallest runs of axes, before and after, with as many entries; axes of length 1 are in none."""
    left = [axis for axis, n in enumerate(before) if n != 1]
    right = [axis for axis, n in enumerate(after) if n != 1]
    found = []
    while left:
        one, other = [left.pop(0)], [right.pop(0)]
        while (a := math.prod(before[i] for i in one)) != (b := math.prod(after[i] for i in other)):
            if a < b:
                one.append(left.pop(0))
            else:
                other.append(right.pop(0))
        found.append((one, other))
    return found
