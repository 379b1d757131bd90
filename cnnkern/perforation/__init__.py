"""Masks of a perforated convolution: which outputs are computed. Plain torch, no kernels.

Figurnov, Ibraimova, Vetrov, Kohli: PerforatedCNNs: Acceleration through Elimination of Redundant
Convolutions, NIPS 2016. A mask is bool, (oH, oW), True where an output is computed; its rate is the share of
outputs that are not.
"""

from .conversion import convert
from .impact import impact, impact_scores
from .masks import grid, pooling_structure, uniform
from .search import RateChoice, RateStep, choose_rates, seconds_of

__all__ = [
    "RateChoice",
    "RateStep",
    "choose_rates",
    "convert",
    "grid",
    "impact",
    "impact_scores",
    "pooling_structure",
    "seconds_of",
    "uniform",
]
