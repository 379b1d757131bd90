"""The operations in plain torch: what they mean, and the oracle of every test.

The functions have the signatures of `cnnkern.ops` and take any dtype that torch's own convolution takes; a
test compares a kernel with them in float64. `error_bound` says how far a kernel may be away.
"""

from cnnkern.reference.bound import (
    assert_gradients_within_bound,
    assert_mixed_gradients_within_bound,
    assert_within_bound,
    assert_within_mixed_bound,
    error_bound,
)
from cnnkern.reference.column_sparse_conv2d import column_sparse_conv2d, with_zeros
from cnnkern.reference.conv2d import conv2d
from cnnkern.reference.cp_conv2d import cp_conv2d, reconstruct
from cnnkern.reference.im2col import im2col
from cnnkern.reference.int8 import (
    int8_add,
    int8_column_sparse_conv2d,
    int8_conv2d,
    int8_epilogue,
    int8_gemm,
    int8_linear,
    int8_max_pool2d,
    int8_quantize,
    int8_quantize_weight,
    int8_sums,
)
from cnnkern.reference.int8_cp import int8_cp_conv2d, int8_cp_conv2d_bound
from cnnkern.reference.perforated_conv2d import nearest_kept, perforated_conv2d

__all__ = [
    "assert_gradients_within_bound",
    "assert_mixed_gradients_within_bound",
    "assert_within_bound",
    "assert_within_mixed_bound",
    "column_sparse_conv2d",
    "conv2d",
    "cp_conv2d",
    "error_bound",
    "im2col",
    "int8_add",
    "int8_column_sparse_conv2d",
    "int8_conv2d",
    "int8_cp_conv2d",
    "int8_cp_conv2d_bound",
    "int8_epilogue",
    "int8_gemm",
    "int8_linear",
    "int8_max_pool2d",
    "int8_quantize",
    "int8_quantize_weight",
    "int8_sums",
    "nearest_kept",
    "perforated_conv2d",
    "reconstruct",
    "with_zeros",
]
