"""Factorizations of convolution weights: tensors in, factors out. Plain torch in float64, no kernels."""

from .cp import CPFactors, FitHistory, cp

__all__ = ["CPFactors", "FitHistory", "cp"]
