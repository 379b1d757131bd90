"""Factorizations of convolution weights: tensors in, factors out. Plain torch in float64, no kernels."""

from .biclustered import BiclusteredFactors, biclustered
from .cp import CPFactors, FitHistory, cp
from .spatial import SpatialFactors, spatial_svd
from .tucker import TuckerFactors, tucker2

__all__ = [
    "BiclusteredFactors",
    "CPFactors",
    "FitHistory",
    "SpatialFactors",
    "TuckerFactors",
    "biclustered",
    "cp",
    "spatial_svd",
    "tucker2",
]
