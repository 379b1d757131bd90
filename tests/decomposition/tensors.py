"""Weights whose CP decomposition is known."""

import torch
from torch import Tensor


def planted(shape: tuple[int, ...], rank: int, seed: int = 0) -> Tensor:
    """A sum of `rank` random components, float64."""
    generator = torch.Generator().manual_seed(seed)
    factors = [torch.randn(size, rank, generator=generator, dtype=torch.float64) for size in shape]
    return torch.einsum("kr,cr,hr,wr->kchw", *factors)


def gaussian(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Random entries, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def w_state(size: int = 4, noise: float = 0.0) -> Tensor:
    """a⊗a⊗b + a⊗b⊗a + b⊗a⊗a, of rank 3 and border rank 2, as a weight (size, size, size, 1).

    Rank-2 tensors come as close to it as one likes, and their two components grow without bound meanwhile.
    `noise` is relative to the norm.
    """
    a, b = torch.eye(size, dtype=torch.float64)[:2]
    terms = [(a, a, b), (a, b, a), (b, a, a)]
    tensor = sum(torch.einsum("i,j,k->ijk", *term) for term in terms)
    extra = gaussian(tensor.shape)
    return (tensor + noise * tensor.norm() / extra.norm() * extra)[..., None]
