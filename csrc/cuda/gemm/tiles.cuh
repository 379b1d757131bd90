// The tiles that products are compiled for.
#pragma once
#include "cuda/conv2d/plan.h"
#include "cuda/gemm/block_tile.cuh"
#include "cuda/gemm/warpgroup_tile.cuh"

namespace cnnkern::cuda {

// Calls body(Tile{}) with the tile of that size.
template <class Math, class Body>
cudaError_t with_tile(TileSize size, const Body& body) {
  switch (size) {
    case TileSize::k128x128:
      return body(BlockTile<Math, 128, 128, 2, 4, 3>{});
    case TileSize::k128x64:
      return body(BlockTile<Math, 128, 64, 4, 2, 3>{});
    case TileSize::k64x64:
      return body(BlockTile<Math, 64, 64, 2, 2, 3>{});
  }
  return cudaErrorInvalidValue;
}

// The same on either core; where `core` has no instructions for the arithmetic, the other one.
template <class Math, class Body>
cudaError_t with_tile(TileSize size, Core core, const Body& body) {
  if constexpr (kWarpgroupKernels && Math::kTensorCores) {
    if (core == Core::kWgmma) {
      switch (size) {
        case TileSize::k128x128:
          return body(WarpgroupTile<Math, 128, 128, 3>{});
        case TileSize::k128x64:
          return body(WarpgroupTile<Math, 128, 64, 3>{});
        case TileSize::k64x64:
          return body(WarpgroupTile<Math, 64, 64, 3>{});
      }
    }
  }
  return with_tile<Math>(size, body);
}

}  // namespace cnnkern::cuda
