"""The bi-clustered form (Denton et al., NIPS 2014): channels in clusters, each pair of clusters low-rank.

Input channels are split into G clusters and output channels into H, all of a size, and the weight of each of
the G·H biclusters is approximated by itself: by two SVDs of its channel modes (here refined in turn, as in
tucker.py), or by outer products of an input vector, a kernel and an output vector. As convolutions both are
1×1, kH×kW, 1×1 with groups.

What makes a good clustering is that the channels of a cluster span little. So the clusters are those of
k-subspaces (Bradley & Mangasarian 2000; Agarwal & Mustafa 2004), balanced: each channel goes where the
leading directions of a cluster hold most of it, by an assignment that fills all clusters; then the directions
are those of the new clusters. No step raises the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .arguments import check_weight, integer
from .cp import cp
from .tucker import tucker2

METHODS = ("svd", "cp")
STARTS = 16  # random clusterings that the best one is found from: one in four finds planted clusters
MAX_ITER = 50


@dataclass(frozen=True, eq=False)
class BiclusteredFactors:
    """The parts of each bicluster, in the dtype and on the device of the weight that they stand for.

    Attributes:
        inputs: (G, C/G) int64, the input channels of each cluster, ascending. outputs: (H, K/H), likewise.
        factor_c: (H, G, R1, C/G), the first 1×1 convolutions.
        core: (H, G, R2, R1, kH, kW), the kernels between; of outer products (H, G, R, 1, kH, kW), depthwise.
        factor_k: (H, G, K/H, R2), the last 1×1 convolutions.
        error: ‖reconstruct() − weight‖ / ‖weight‖, Frobenius; 0 for a zero weight.
    """

    inputs: Tensor
    outputs: Tensor
    factor_c: Tensor
    core: Tensor
    factor_k: Tensor
    error: float

    def reconstruct(self) -> Tensor:
        """The weight (K, C, kH, kW) that the parts stand for; summed in float64."""
        last, core, first = (part.double() for part in (self.factor_k, self.core, self.factor_c))
        equation = "hgks,hgsrij,hgrc->hkgcij"
        if core.shape[3] != first.shape[2]:
            core, equation = core[:, :, :, 0], "hgkr,hgrij,hgrc->hkgcij"
        sorted_weight = torch.einsum(equation, last, core, first).flatten(2, 3).flatten(0, 1)
        weight = torch.empty_like(sorted_weight)
        weight[self.outputs.flatten()[:, None], self.inputs.flatten()] = sorted_weight
        return weight.to(self.core.dtype)


@torch.no_grad()
def biclustered(
    weight: Tensor,
    clusters: tuple[int, int],
    ranks: tuple[int, int] | int,
    *,
    method: str = "svd",
    seed: int = 0,
) -> BiclusteredFactors:
    """Cluster the channels of a weight (K, C, kH, kW), and compress each bicluster.

    Args:
        weight: floating point, finite, any memory format.
        clusters: (G, H), of the input and of the output channels; they divide C and K.
        ranks: (R1, R2) of each bicluster for "svd", 1 <= R1 <= C/G and 1 <= R2 <= K/H; the number R of outer
            products for "cp".
        method: "svd" or "cp".
        seed: of the clusterings that are tried, and of the fits. The same seed gives the same factors.

    Raises TypeError, ValueError or NotImplementedError as `cp` does, and ValueError for clusters that do not
    divide the channels and ranks out of their range.
    """
    check_weight(weight)
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    G, H = (integer(f"clusters[{n}]", count, least=1) for n, count in enumerate(clusters))
    for n, (count, size) in enumerate(((G, weight.shape[1]), (H, weight.shape[0]))):
        if size % count:
            raise ValueError(f"clusters[{n}]: expected a divisor of the {size} channels, got {count}")
    rank_c, rank_k = (ranks, ranks) if method == "cp" else ranks
    target = weight.double()
    scale = target.abs().max().item() or 1.0
    target = target / scale
    generator = torch.Generator().manual_seed(integer("seed", seed))
    inputs = balanced_clusters(target.transpose(0, 1).flatten(1), G, rank_c, generator)
    outputs = balanced_clusters(target.flatten(1), H, rank_k, generator)
    parts = [
        [_parts(target[rows][:, columns], ranks, method, seed) for columns in inputs] for rows in outputs
    ]
    first, core, last = (
        torch.stack([torch.stack([part[n] for part in row]) for row in parts]) for n in range(3)
    )
    parts = [part.to(weight.dtype).contiguous() for part in (first, scale * core, last)]
    rough = BiclusteredFactors(inputs, outputs, *(part.double() for part in parts), 0.0).reconstruct() / scale
    error = (rough - target).norm().item() / (target.norm().item() or 1.0)
    return BiclusteredFactors(inputs, outputs, *parts, error)


def _parts(block: Tensor, ranks: tuple[int, int] | int, method: str, seed: int) -> tuple[Tensor, ...]:
    """The first, middle and last convolution's weights of a bicluster (K/H, C/G, kH, kW)."""
    if method == "svd":
        found = tucker2(block, ranks)
        return found.factor_c, found.core, found.factor_k
    K, C, kH, kW = block.shape
    found = cp(block.reshape(K, C, kH * kW, 1), ranks, seed=seed, verbose=False)
    kernels = (found.factor_h * found.factor_w).reshape(-1, 1, kH, kW)
    return found.factor_c, kernels, found.factor_k


def balanced_clusters(rows: Tensor, count: int, rank: int, generator: torch.Generator) -> Tensor:
    """(count, n/count) indices of the rows (n, D) of each cluster, ascending: of some random starts those
    where the `rank` leading directions of the clusters hold most of their rows."""
    from scipy.optimize import linear_sum_assignment  # takes long to import, and nothing else here needs it

    n = len(rows)
    rank = min(rank, max(1, n // count // 2))  # as many directions as rows would hold any cluster
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    points = vectors * values.clamp(min=0).sqrt()  # the same inner products in n dimensions
    best, most = torch.arange(n, device=rows.device).view(count, -1), -1.0
    for _ in range(STARTS if count > 1 else 1):
        clusters = _around_random_rows(points, count, generator)
        held = -1.0
        for _ in range(MAX_ITER):
            bases = [torch.linalg.svd(points[each], full_matrices=False)[2][:rank] for each in clusters]
            shares = torch.stack([(points @ basis.T).square().sum(dim=1) for basis in bases])
            slots = shares.repeat_interleave(n // count, dim=0)
            order = torch.from_numpy(linear_sum_assignment(slots.cpu().numpy(), maximize=True)[1])
            order = order.to(rows.device)
            before, held = held, slots.gather(1, order[:, None]).sum().item()
            clusters = order.view(count, -1)
            if held <= before * (1 + 1e-12):
                break
        if held > most:
            best, most = clusters.sort(dim=1).values, held
    return best[best[:, 0].argsort()]


def _around_random_rows(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Clusters (count, n/count) to start from: a row drawn at random and those nearest to its direction, then
    the same of the rows that are left."""
    directions = torch.nn.functional.normalize(points)
    left = torch.randperm(len(points), generator=generator).to(points.device)
    clusters = []
    for _ in range(count):
        nearness = (directions[left] @ directions[left[0]]).abs()
        nearness[0] = 2.0
        order = nearness.argsort(descending=True, stable=True)
        size = len(points) // count
        clusters.append(left[order[:size]])
        left = left[order[size:].sort().values]
    return torch.stack(clusters)
