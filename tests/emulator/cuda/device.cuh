// What csrc/cuda/device.cuh has for a GPU, on the emulator.
#pragma once
#include <cstdint>
#include <cstring>

#include "cuda_runtime.h"
#include "products.h"

namespace cnnkern::cuda {

inline unsigned char* shared_memory() { return emulator::block().shared_memory(); }
inline uint32_t shared_address(const void* pointer) { return emulator::block().shared_address(pointer); }

inline void copy_async(void* to, const void* from, bool present) {
  emulator::start_copy({to, from, 16, present});
}
inline void commit_copies() { emulator::commit_copies(); }
template <int kGroups>
inline void wait_for_copies() {
  emulator::wait_for_copies(kGroups);
}

void load_matrices(uint32_t (&fragments)[4], const void* row);
void mma_tf32(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void mma_float16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void mma_bfloat16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void mma_uint8(int32_t (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void mma_int8(int32_t (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

constexpr bool kWarpgroupCode = true, kWarpgroupKernels = true;

inline void publish_shared_memory() { emulator::block().publish(); }
inline void store_chunk(void* to, uint4 chunk) {
  *static_cast<uint4*>(to) = chunk;
  emulator::block().note_write(to);
}
template <class Sum, int kFragments>
inline void begin_products(Sum (&)[kFragments][4]) {
  emulator::block().current().products->begin();
}
inline void commit_products() { emulator::block().current().products->commit(); }
template <class Sum, int kFragments>
inline void wait_for_products(Sum (&)[kFragments][4]) {
  emulator::block().current().products->wait();
}
void wgmma_tf32(float (&sums)[8][4], uint64_t a, uint64_t b);
void wgmma_tf32(float (&sums)[16][4], uint64_t a, uint64_t b);
void wgmma_float16(float (&sums)[8][4], uint64_t a, uint64_t b);
void wgmma_float16(float (&sums)[16][4], uint64_t a, uint64_t b);
void wgmma_bfloat16(float (&sums)[8][4], uint64_t a, uint64_t b);
void wgmma_bfloat16(float (&sums)[16][4], uint64_t a, uint64_t b);
void wgmma_uint8(int32_t (&sums)[8][4], uint64_t a, uint64_t b);
void wgmma_uint8(int32_t (&sums)[16][4], uint64_t a, uint64_t b);
void wgmma_int8(int32_t (&sums)[8][4], uint64_t a, uint64_t b);
void wgmma_int8(int32_t (&sums)[16][4], uint64_t a, uint64_t b);

int32_t sum_of_warp(int32_t value);

inline float half_to_float(uint16_t bits) {
  _Float16 value;
  std::memcpy(&value, &bits, sizeof value);
  return static_cast<float>(value);
}
inline uint16_t float_to_half(float value) {
  const auto half = static_cast<_Float16>(value);
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}
inline float bfloat16_to_float(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}
inline float upper_bfloat16_to_float(uint32_t pair) {
  return bfloat16_to_float(static_cast<uint16_t>(pair >> 16));
}
inline uint16_t float_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return 0x7FFF;
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

}  // namespace cnnkern::cuda
