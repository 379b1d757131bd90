"""Weights with the spectrum of trained ones, for layers whose trained weights are not at hand."""

import torch
from torch import Tensor

# The i-th singular value of an unfolding is about i^-exponent times the first one: output and input channels,
# rows and columns. Those of conv2 of the Fashion-MNIST network in examples/checkpoints are 0.25 to 0.43.
EXPONENTS = (0.3, 0.3, 0.35, 0.35)


def trained_like(K: int, C: int, kernel: tuple[int, int], seed: int = 0) -> Tensor:
    """A weight (K, C, kH, kW), float32, of norm 1: Gaussian numbers with a power law in every mode, in bases
    drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn((K, C, *kernel), generator=generator, dtype=torch.float64)
    for mode, exponent in enumerate(EXPONENTS):
        size = weight.shape[mode]
        law = torch.arange(1, size + 1, dtype=torch.float64) ** -exponent
        basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
        weight = torch.tensordot(basis * law, weight, dims=([1], [mode])).movedim(0, mode)
    return (weight / weight.norm()).float()
