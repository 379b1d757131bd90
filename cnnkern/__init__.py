"""Kernels that turn the arithmetic saved by compressing a convolutional network into time saved."""

__version__ = "0.1.0"

import torch  # noqa: F401  (loads the libraries that the extension links to)

from cnnkern import _ops  # noqa: F401
