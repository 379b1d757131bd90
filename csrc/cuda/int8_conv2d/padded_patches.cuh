// Patches of an image of integers, whose padding is the zero point: with that the products of an output
// channel sum to what they should, plus the zero point times the sum of its weights, at every pixel alike.
#pragma once
#include "cuda/conv2d/patches.cuh"

namespace cnnkern::cuda {

// A chunk of each byte: asynchronous copies read from global memory and from nowhere else.
struct Chunks {
  alignas(kChunkBytes) uint32_t words[256][kChunkBytes / 4];

  constexpr Chunks() : words{} {
    for (uint32_t byte = 0; byte < 256; ++byte)
      for (uint32_t& word : words[byte]) word = byte * 0x01010101u;
  }
};
__device__ constexpr Chunks kChunksOfBytes;

template <class T>
struct PaddedPatches : Patches<T> {
  using typename Patches<T>::Row;
  using typename Patches<T>::Column;
  int zero_point;  // its bits

  PaddedPatches(const Conv2dShape& s, const T* x, int32_t zero_point)
      : Patches<T>(s, x), zero_point(static_cast<uint8_t>(zero_point)) {}

  __device__ PaddedPatches of_group(int group) const {
    PaddedPatches other = *this;
    other.image = this->image.of_group(group);
    return other;
  }
  // What comes where there is no pixel and no channel at all is multiplied with zeros, or never stored.
  __device__ const T* find(const Row& row, const Column& column) const {
    const T* const found = Patches<T>::find(row, column);
    return found ? found : reinterpret_cast<const T*>(kChunksOfBytes.words[zero_point]);
  }
  __device__ uint4 gather(const Row& row, const Column& column) const {
    if (Patches<T>::find(row, column)) return Patches<T>::gather(row, column);
    const uint32_t word = static_cast<uint32_t>(zero_point) * 0x01010101u;
    return make_uint4(word, word, word, word);
  }
};

}  // namespace cnnkern::cuda
