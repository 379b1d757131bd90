"""The layers: drop-in replacements of `torch.nn.Conv2d` that run on the operations of `cnnkern.ops`."""

from cnnkern.nn.column_sparse_conv2d import ColumnSparseConv2d
from cnnkern.nn.convolution_chain import ConvolutionChain
from cnnkern.nn.cp_conv2d import CPConv2d
from cnnkern.nn.im2col_conv2d import Im2colConv2d
from cnnkern.nn.int8_column_sparse_conv2d import Int8ColumnSparseConv2d
from cnnkern.nn.int8_conv2d import Int8Conv2d
from cnnkern.nn.int8_cp_conv2d import Int8CPConv2d
from cnnkern.nn.int8_linear import Int8Linear
from cnnkern.nn.perforated_conv2d import PerforatedConv2d

__all__ = [
    "CPConv2d",
    "ColumnSparseConv2d",
    "ConvolutionChain",
    "Im2colConv2d",
    "Int8CPConv2d",
    "Int8ColumnSparseConv2d",
    "Int8Conv2d",
    "Int8Linear",
    "PerforatedConv2d",
]
