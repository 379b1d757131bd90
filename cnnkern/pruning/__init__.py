"""Pruning of whole columns of the weight matrix: what to prune, training that keeps it pruned, conversion.

Lebedev & Lempitsky, Fast ConvNets using group-wise brain damage, CVPR 2016. Plain torch, no kernels: until
`convert`, a pruned model has zeros in it and is no faster.
"""

from .group_lasso import group_lasso, proximal_step
from .scores import Criterion, column_norms, fisher, l2, taylor

__all__ = ["Criterion", "column_norms", "fisher", "group_lasso", "l2", "proximal_step", "taylor"]
