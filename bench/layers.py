"""The layers that every benchmark runs over, and what each one costs by arithmetic: FLOPs and bytes.

A multiply-add is two FLOPs, and those that meet padding are counted, as everybody counts them. Bytes are the
compulsory traffic of one call: input, weights and output once each, float32.
"""

from dataclasses import dataclass

from cnnkern.compression.cost import ConvolutionCost

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Layer:
    """A convolution with bias, on maps of H x W, and its CP ranks: none where only dense is run."""

    name: str
    C: int
    K: int
    kernel: tuple[int, int]
    H: int
    W: int
    stride: int = 1
    padding: int = 0
    ranks: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.name.replace(" ", "-")

    @property
    def output_size(self) -> tuple[int, int]:
        """(oH, oW)."""
        return tuple(
            (size + 2 * self.padding - taps) // self.stride + 1
            for size, taps in zip((self.H, self.W), self.kernel, strict=True)
        )

    def cost(self, batch: int) -> ConvolutionCost:
        size = self.H, self.W
        return ConvolutionCost(batch, self.C, self.K, self.kernel, size, self.output_size)

    def dense_flops(self, batch: int) -> int:
        return self.cost(batch).dense_flops

    def cp_flops(self, batch: int, rank: int) -> int:
        return self.cost(batch).cp_flops(rank)

    @property
    def columns(self) -> int:
        """Of the weight matrix: C·kH·kW."""
        kH, kW = self.kernel
        return self.C * kH * kW

    def kept_columns(self, density: float) -> int:
        return max(1, round(density * self.columns))

    def column_sparse_flops(self, batch: int, density: float) -> int:
        return self.cost(batch).column_sparse_flops(self.kept_columns(density))

    def column_sparse_bytes(self, batch: int, density: float) -> int:
        """Of the whole input, of which little may be read."""
        return self._bytes(batch, weights=self.K * self.kept_columns(density))

    def dense_bytes(self, batch: int) -> int:
        kH, kW = self.kernel
        return self._bytes(batch, weights=self.K * self.C * kH * kW)

    def cp_bytes(self, batch: int, rank: int) -> int:
        """Of a fused kernel: the three intermediate maps are not in it."""
        kH, kW = self.kernel
        return self._bytes(batch, weights=rank * (self.C + kH + kW + self.K))

    def _bytes(self, batch: int, weights: int) -> int:
        oH, oW = self.output_size
        maps = batch * (self.C * self.H * self.W + self.K * oH * oW)
        return FLOAT32_BYTES * (maps + weights + self.K)


@dataclass(frozen=True)
class Workload:
    """What one row of a result is about, and what one call costs by arithmetic.

    `rank` is that of a CP layer, `density` that of a column-sparse one, `rate` the share of outputs that a
    perforated one drops, else they are None. `dense_flops` is what the layer costs without an approximation.
    """

    suite: str
    layer: str
    rank: int | None
    batch: int
    flops: int
    bytes: int
    dense_flops: int
    rate: float | None = None
    density: float | None = None
    many_columns: bool = False

    @property
    def title(self) -> str:
        if self.rate is not None:
            return f"{self.layer} r={self.rate:.2g}"
        return self.layer if self.rank is None else f"{self.layer} R={self.rank}"

    @property
    def over_own_dense(self) -> float | None:
        """How many times faster than our own dense layer a column-sparse or perforated one would be at the
        same FLOP/s; None where this is not asked, as of layers of few columns."""
        return self.dense_flops / self.flops if self.many_columns or self.rate is not None else None


def dense_work(layer: Layer, batch: int) -> Workload:
    flops = layer.dense_flops(batch)
    return Workload("dense", layer.name, None, batch, flops, layer.dense_bytes(batch), flops)


def cp_work(layer: Layer, rank: int, batch: int) -> Workload:
    cost = layer.cp_flops(batch, rank), layer.cp_bytes(batch, rank)
    return Workload("cp", layer.name, rank, batch, *cost, layer.dense_flops(batch))


def perforated_work(suite: str, layer: Layer, rate: float, kept: int, batch: int) -> Workload:
    """`kept` outputs of each image computed, the whole output written; each rate is a suite of its own."""
    area = layer.output_size[0] * layer.output_size[1]
    dense = layer.dense_flops(batch)
    return Workload(
        suite, layer.name, None, batch, dense * kept // area, layer.dense_bytes(batch), dense, rate
    )


def column_sparse_work(layer: Layer, density: float, batch: int) -> Workload:
    """Each density is a suite of its own, since no mean over densities means anything."""
    cost = layer.column_sparse_flops(batch, density), layer.column_sparse_bytes(batch, density)
    suite, many = f"column_sparse {density:g}", layer.columns >= MANY_COLUMNS
    return Workload(suite, layer.name, None, batch, *cost, layer.dense_flops(batch), None, density, many)


def int8_work(layer: Layer, batch: int) -> Workload:
    """Operations are counted as FLOPs are; a byte for every element, four for those of the bias."""
    flops = layer.dense_flops(batch)
    size = layer.dense_bytes(batch) // FLOAT32_BYTES + (FLOAT32_BYTES - 1) * layer.K
    return Workload("int8", layer.name, None, batch, flops, size, flops)


def int8_cp_work(layer: Layer, rank: int, batch: int) -> Workload:
    """The depthwise factors are float32, and there is a scale for each component and each output channel."""
    floats = rank * (sum(layer.kernel) + 1) + 2 * layer.K
    size = layer.cp_bytes(batch, rank) // FLOAT32_BYTES + (FLOAT32_BYTES - 1) * floats
    return Workload(
        "int8 cp", layer.name, rank, batch, layer.cp_flops(batch, rank), size, layer.dense_flops(batch)
    )


def int8_column_sparse_work(layer: Layer, density: float, batch: int) -> Workload:
    """As int8_work, with the kept columns alone; each density is a suite of its own."""
    size = layer.column_sparse_bytes(batch, density) // FLOAT32_BYTES + (FLOAT32_BYTES - 1) * layer.K
    flops = layer.column_sparse_flops(batch, density)
    suite = f"int8 column_sparse {density:g}"
    return Workload(suite, layer.name, None, batch, flops, size, layer.dense_flops(batch))


def int8_gemm_work(m: int, n: int, k: int) -> Workload:
    """(m, k) times (k, n), and a bias."""
    flops = 2 * m * n * k
    size = m * k + k * n + m * n + FLOAT32_BYTES * n
    return Workload("int8 gemm", f"{m} x {n} x {k}", None, 1, flops, size, flops)


def im2col_work(layer: Layer, batch: int) -> Workload:
    """The input read and the patch matrix written: nothing is computed."""
    (kH, kW), (oH, oW) = layer.kernel, layer.output_size
    elements = batch * layer.C * (layer.H * layer.W + kH * kW * oH * oW)
    return Workload("im2col", layer.name, None, batch, 0, FLOAT32_BYTES * elements, 0)


def training_work(layer: Layer, rank: int, batch: int) -> Workload:
    """Forward, gradient of the input, gradients of the factors; what is recomputed is not counted.

    Bytes: input, output and factors, and a gradient of each.
    """
    cost = 3 * layer.cp_flops(batch, rank), 2 * layer.cp_bytes(batch, rank)
    return Workload("training", layer.name, rank, batch, *cost, 3 * layer.dense_flops(batch))


LAYERS = (
    Layer("AlexNet conv2", 96, 256, (5, 5), 27, 27, padding=2, ranks=(140, 200)),
    Layer("CharNet conv2", 48, 128, (9, 9), 16, 16, ranks=(64,)),
    Layer("CharNet conv3", 64, 512, (8, 8), 8, 8, ranks=(64,)),
    Layer("VGG-16 conv1_2", 64, 64, (3, 3), 224, 224, padding=1, ranks=(32,)),
    Layer("VGG-16 conv3_2", 256, 256, (3, 3), 56, 56, padding=1, ranks=(128,)),
    Layer("VGG-16 conv4_2", 512, 512, (3, 3), 28, 28, padding=1, ranks=(256,)),
    Layer("ResNet stage 1", 64, 64, (3, 3), 56, 56, padding=1, ranks=(48,)),
    Layer("ResNet stage 2", 128, 128, (3, 3), 28, 28, padding=1, ranks=(96,)),
    Layer("ResNet stage 3", 256, 256, (3, 3), 14, 14, padding=1, ranks=(192,)),
    Layer("ResNet stage 4", 512, 512, (3, 3), 7, 7, padding=1, ranks=(384,)),
    Layer("ResNet stem", 3, 64, (7, 7), 224, 224, stride=2, padding=3, ranks=(16,)),
    Layer("ResNet stride 2", 128, 256, (3, 3), 56, 56, stride=2, padding=1, ranks=(128,)),
    Layer("ResNet 1x1", 256, 64, (1, 1), 56, 56),
)

RATES = (0.0, 0.25, 0.5, 0.75)
RANKED = tuple((layer, rank) for layer in LAYERS for rank in layer.ranks)
BATCHES = (1, 16)
DENSITIES = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05)  # of column-sparse layers
MANY_COLUMNS = 512  # from here on a column-sparse layer has to be faster in proportion
