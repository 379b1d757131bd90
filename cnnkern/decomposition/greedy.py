"""CP by rank-one terms, one at a time (Denton et al. 2014): the best rank-one approximation of what is left.

Terms are never revisited, so the error is well above that of a joint fit; it is the baseline that the
literature has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .algebra import khatri_rao
from .fit import Fit
from .progress import Progress

EXACT = 1e-14  # what is left of a tensor of norm 1 when nothing is


def fit(
    tensor: Tensor, rank: int, generator: torch.Generator, max_iter: int, tol: float, progress: Progress
) -> Fit:
    """Subtract `rank` terms from a tensor of norm 1, each by at most `max_iter` sweeps from two starts.

    The sweeps of a term end when its norm grows by less than `tol` (relative). Where fewer terms are exact,
    the rest is zero.
    """
    left = tensor.clone()
    terms: list[list[Tensor]] = []
    errors: list[float] = []
    stopped = "rank reached"
    for _ in range(rank):
        candidates = [
            rank_one(left, vectors, max_iter, tol)
            for vectors in (strongest_fibres(left), _random(left, generator))
        ]
        term = max(candidates, key=lambda vectors: vectors[0].norm().item())
        left = left - (term[0][:, None] * khatri_rao([vector[:, None] for vector in term[1:]]).T).view_as(
            left
        )
        terms.append(term)
        errors.append(left.norm().item())
        progress.advance(errors[-1])
        if errors[-1] <= EXACT:
            stopped = "exact"
            break
    terms += [[torch.zeros_like(vector) for vector in terms[0]]] * (rank - len(terms))
    factors = [torch.stack(vectors, dim=1) for vectors in zip(*terms, strict=True)]
    return Fit(factors, "strongest fibres or random, per term", stopped, errors)


def rank_one(tensor: Tensor, vectors: list[Tensor], max_iter: int, tol: float) -> list[Tensor]:
    """Alternating sweeps for the best rank-one term; all vectors but the first of norm 1."""
    norm = 0.0
    for _ in range(max_iter):
        for mode in reversed(range(tensor.dim())):
            vector = _contract(tensor, vectors, mode)
            length = vector.norm().item()
            if length == 0:
                return [torch.zeros_like(each) for each in vectors]
            vectors[mode] = vector / length
        before, norm = norm, length
        if norm - before <= tol * norm:
            break
    return [norm * vectors[0], *vectors[1:]]


def _contract(tensor: Tensor, vectors: list[Tensor], keep: int) -> Tensor:
    """The tensor contracted with every vector but one, the largest mode first."""
    for mode in range(keep):
        tensor = (vectors[mode] @ tensor.flatten(1)).view(tensor.shape[1:])
    for mode in reversed(range(keep + 1, keep + tensor.dim())):
        tensor = tensor @ vectors[mode]
    return tensor


def strongest_fibres(tensor: Tensor) -> list[Tensor]:
    """Per mode, the longest fibre of the tensor contracted with those of the modes before."""
    vectors = []
    while tensor.dim() > 1:
        unfolding = tensor.flatten(1)
        norms = unfolding.square().sum(dim=0)
        vector = unfolding[:, norms.argmax()]
        vectors.append(vector / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny))
        tensor = (vectors[-1] @ unfolding).view(tensor.shape[1:])
    return [*vectors, tensor / tensor.norm().clamp(min=torch.finfo(tensor.dtype).tiny)]


def _random(tensor: Tensor, generator: torch.Generator) -> list[Tensor]:
    vectors = [torch.randn(size, generator=generator, dtype=tensor.dtype) for size in tensor.shape]
    return [(vector / vector.norm()).to(tensor.device) for vector in vectors]
