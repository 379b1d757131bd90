"""The operations in their functional form.

Each checks what its arguments mean, in the same words for eager and traced calls, and calls the operation
of the same name under `torch.ops.cnnkern`.
"""

import cnnkern._ops  # noqa: F401  declares the operations that the modules below register things for
from cnnkern.ops.column_sparse_conv2d import column_sparse_conv2d
from cnnkern.ops.conv2d import conv2d
from cnnkern.ops.cp_conv2d import cp_conv2d
from cnnkern.ops.im2col import im2col
from cnnkern.ops.int8_add import int8_add
from cnnkern.ops.int8_column_sparse_conv2d import int8_column_sparse_conv2d
from cnnkern.ops.int8_conv2d import int8_conv2d
from cnnkern.ops.int8_cp_conv2d import int8_cp_conv2d
from cnnkern.ops.int8_gemm import int8_gemm, int8_gemm_pack
from cnnkern.ops.int8_linear import int8_linear
from cnnkern.ops.int8_max_pool2d import int8_max_pool2d
from cnnkern.ops.int8_quantize import int8_quantize
from cnnkern.ops.perforated_conv2d import perforated_conv2d

__all__ = [
    "column_sparse_conv2d",
    "conv2d",
    "cp_conv2d",
    "im2col",
    "int8_add",
    "int8_column_sparse_conv2d",
    "int8_conv2d",
    "int8_cp_conv2d",
    "int8_gemm",
    "int8_gemm_pack",
    "int8_linear",
    "int8_max_pool2d",
    "int8_quantize",
    "perforated_conv2d",
]
