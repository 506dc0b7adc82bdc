"""How sure a share is, over the choice of prompts."""

import math

Z95 = 1.959964  # two-sided 95 % of a normal


def wilson_interval(share: float, num: int) -> tuple[float, float]:
    """95 % interval of a share of `num` prompts (Wilson 1927); NaN of none."""
    if num == 0:
        return math.nan, math.nan
    centre = (share + Z95**2 / (2 * num)) / (1 + Z95**2 / num)
    inside = share * (1 - share) / num + Z95**2 / (4 * num**2)
    half = Z95 * inside**0.5 / (1 + Z95**2 / num)
    return centre - half, centre + half
