"""Pruning of whole columns of the weight matrix: what to prune, training that keeps it pruned, conversion.

Lebedev & Lempitsky, Fast ConvNets using group-wise brain damage, CVPR 2016. Plain torch, no kernels: until
`convert`, a pruned model has zeros in it and is no faster.
"""

from .conversion import convert, kept_columns
from .group_lasso import group_lasso, proximal_step
from .pruner import Pruner, prune
from .schedule import Schedule, gradual, iterative
from .scores import Criterion, column_norms, fisher, l2, scores_by, taylor
from .selection import strongest

__all__ = [
    "Criterion",
    "Pruner",
    "Schedule",
    "column_norms",
    "convert",
    "fisher",
    "gradual",
    "group_lasso",
    "iterative",
    "kept_columns",
    "l2",
    "proximal_step",
    "prune",
    "scores_by",
    "strongest",
    "taylor",
]
