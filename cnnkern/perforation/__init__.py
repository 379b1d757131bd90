"""Masks of a perforated convolution: which outputs are computed. Plain torch, no kernels.

Figurnov, Ibraimova, Vetrov, Kohli: PerforatedCNNs: Acceleration through Elimination of Redundant
Convolutions, NIPS 2016. A mask is bool, (oH, oW), True where an output is computed; its rate is the share of
outputs that are not.
"""

from .masks import grid, pooling_structure, uniform

__all__ = ["grid", "pooling_structure", "uniform"]
