"""Kernels that turn the arithmetic saved by compressing a convolutional network into time saved.

Importing the package loads `cnnkern._ops`, which registers the operations as `torch.ops.cnnkern.*`.
"""

__version__ = "0.1.0"

import importlib
import os
import warnings
from typing import Any

import torch

try:
    import cnnkern._ops  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "cnnkern._ops":
        raise
    raise ImportError(
        "cnnkern is not built here: its extension module cnnkern._ops is missing. Run `pip install -e .` in "
        "the source tree, or leave the tree if cnnkern was installed without -e.",
        name=error.name,
    ) from None
except ImportError as error:
    raise ImportError(
        f"cnnkern's extension module does not load beside torch {torch.__version__}: {error}. It needs torch "
        "2.11 or later; after a change of torch, build it again: `pip install --force-reinstall --no-deps .`",
        name="cnnkern._ops",
    ) from error

from cnnkern import decomposition, distillation, folding, ops, perforation, pruning, quantization, reference
from cnnkern.nn import (
    ColumnSparseConv2d,
    CPConv2d,
    Im2colConv2d,
    Int8ColumnSparseConv2d,
    Int8Conv2d,
    Int8CPConv2d,
    Int8Linear,
    PerforatedConv2d,
)

__all__ = [
    "CPConv2d",
    "ColumnSparseConv2d",
    "Im2colConv2d",
    "Int8CPConv2d",
    "Int8ColumnSparseConv2d",
    "Int8Conv2d",
    "Int8Linear",
    "PerforatedConv2d",
    "compress",
    "decomposition",
    "distillation",
    "folding",
    "load",
    "ops",
    "perforation",
    "profile",
    "pruning",
    "quantization",
    "reference",
    "save",
]


def __getattr__(name: str) -> Any:
    """`compress`, `profile`, `save` and `load` when they are first asked for: kernels and layers need nothing
    but torch, and these need packages that take as long to import."""
    if name == "compression" or name in __all__:
        compression = importlib.import_module("cnnkern.compression")
        return compression if name == "compression" else getattr(compression, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


pruning.conversion.convert_with(lambda conv, columns: ColumnSparseConv2d.from_conv(conv, columns=columns))
perforation.conversion.convert_with(PerforatedConv2d.from_conv)
_Form = quantization.conversion.Int8Form
quantization.conversion.convert_with(
    {
        torch.nn.Conv2d: _Form(Int8Conv2d.from_conv, torch.nn.Conv2d._conv_forward),
        torch.nn.Linear: _Form(
            Int8Linear.from_linear, lambda _, x, weight, bias: torch.nn.functional.linear(x, weight, bias)
        ),
        Im2colConv2d: _Form(
            lambda layer, **numbers: Int8Conv2d.from_conv(layer.to_conv(), **numbers),
            Im2colConv2d.stock_forward,
        ),
        ColumnSparseConv2d: _Form(
            Int8ColumnSparseConv2d.from_column_sparse, ColumnSparseConv2d.stock_forward
        ),
        CPConv2d: _Form(Int8CPConv2d.from_cp, CPConv2d.stock_outer, CPConv2d.stock_inner),
    }
)
quantization.conversion.compute_with(
    quantization.conversion.Operations(
        quantize=ops.int8_quantize, add=ops.int8_add, max_pool=ops.int8_max_pool2d
    )
)
folding.NORMS.update(dict.fromkeys((Im2colConv2d, ColumnSparseConv2d, CPConv2d), torch.nn.BatchNorm2d))
folding.OUTPUT_WEIGHTS[CPConv2d] = "factor_k"

if asked := os.environ.get("CNNKERN_CPU_ISA"):
    from cnnkern import _C

    if asked != _C.current_isa():
        warnings.warn(
            f"CNNKERN_CPU_ISA: expected one of {', '.join(_C.available_isas())} on this CPU, got {asked!r}; "
            f"computing with {_C.current_isa()}",
            RuntimeWarning,
            stacklevel=2,
        )
if asked := os.environ.get("CNNKERN_CUDA_CORE"):
    from cnnkern import _C

    if asked != _C.cuda_core():
        warnings.warn(
            f"CNNKERN_CUDA_CORE: expected one of {', '.join(_C.cuda_cores())}, got {asked!r}; "
            f"computing with {_C.cuda_core()}",
            RuntimeWarning,
            stacklevel=2,
        )
