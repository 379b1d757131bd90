"""8-bit weights and activations: calibration, quantization-aware training, conversion to int8 layers.

Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference,
CVPR 2018; Menghani, Efficient deep learning: a survey, 2021. Plain torch, no kernels.
"""

from .affine import Affine, dequantize_weight, quantize_weight
from .observers import Histogram, LeastSquares, MinMax, MovingAverage, Observer, Percentile
from .prepared import Prepared
from .ptq import quantize
from .qat import prepare
from .report import LayerReport, Quantized, Report
from .weight_only import quantize_weights

__all__ = [
    "Affine",
    "Histogram",
    "LayerReport",
    "LeastSquares",
    "MinMax",
    "MovingAverage",
    "Observer",
    "Percentile",
    "Prepared",
    "Quantized",
    "Report",
    "dequantize_weight",
    "prepare",
    "quantize",
    "quantize_weight",
    "quantize_weights",
]
