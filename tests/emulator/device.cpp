// Matrix instructions: the fragments as the PTX ISA lays them out over the lanes of a warp, the arithmetic in
// double, in which sums of integers are exact. What the hardware does with the last bits of a sum of others
// is not documented, and not imitated.
#include "cuda/device.cuh"

namespace cnnkern::cuda {
namespace {

enum Operation { kLoadMatrices = 1, kMma, kSumOfWarp };

template <class Sum>
struct MmaOperands {
  Sum* sums;
  const uint32_t* a;
  uint32_t b[2];
};

// The `which`-th number of a 32-bit register, and how many of them make a row of 32 bytes.
struct Tf32 {
  static constexpr int kDepth = 8;
  static double number(uint32_t bits, int) {
    bits &= 0xFFFFE000u;  // the hardware ignores the lower bits
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
};
struct Float16 {
  static constexpr int kDepth = 16;
  static double number(uint32_t bits, int which) {
    return half_to_float(static_cast<uint16_t>(bits >> 16 * which));
  }
};
struct Bfloat16 {
  static constexpr int kDepth = 16;
  static double number(uint32_t bits, int which) {
    return bfloat16_to_float(static_cast<uint16_t>(bits >> 16 * which));
  }
};

template <class T>
struct Bytes {
  static constexpr int kDepth = 32;
  static double number(uint32_t bits, int which) { return static_cast<T>(bits >> 8 * which); }
};

template <class A, class B, class Sum>
EMULATOR_UNSEEN void multiply(MmaOperands<Sum>** lanes) {
  constexpr int kDepth = A::kDepth, kPerRegister = kDepth / 8;
  double a[16][kDepth], b[kDepth][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, k = lane % 4 * kPerRegister;
    for (int which = 0; which < kPerRegister; ++which)
      for (int half = 0; half < 2; ++half) {
        const int at = k + which + half * kDepth / 2;
        a[group][at] = A::number(lanes[lane]->a[2 * half], which);
        a[group + 8][at] = A::number(lanes[lane]->a[2 * half + 1], which);
        b[at][group] = B::number(lanes[lane]->b[half], which);
      }
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      double sum = lanes[lane]->sums[i];
      for (int k = 0; k < kDepth; ++k) sum += a[row][k] * b[k][column];
      lanes[lane]->sums[i] = static_cast<Sum>(sum);
    }
}

template <class A, class B = A, class Sum>
EMULATOR_UNSEEN void mma(Sum (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  MmaOperands<Sum> operands{sums, a, {b0, b1}};
  emulator::block().collective(kMma, ~0u, &operands, multiply<A, B, Sum>);
}

struct MatrixRow {
  uint32_t words[4];
  uint32_t* fragments;
};

EMULATOR_UNSEEN void distribute(MatrixRow** lanes) {
  for (int lane = 0; lane < 32; ++lane)
    for (int matrix = 0; matrix < 4; ++matrix)
      lanes[lane]->fragments[matrix] = lanes[8 * matrix + lane / 4]->words[lane % 4];
}

EMULATOR_UNSEEN void add_up(int32_t** lanes) {
  uint32_t sum = 0;
  for (int lane = 0; lane < 32; ++lane) sum += static_cast<uint32_t>(*lanes[lane]);
  for (int lane = 0; lane < 32; ++lane) *lanes[lane] = static_cast<int32_t>(sum);
}

}  // namespace

void load_matrices(uint32_t (&fragments)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16) emulator::fail("a matrix row that is not aligned to 16 bytes");
  emulator::block().shared_address(row);
  MatrixRow own{{}, fragments};
  // The lane's own read, which the sanitizers see.
  for (int i = 0; i < 4; ++i) own.words[i] = static_cast<const volatile uint32_t*>(row)[i];
  emulator::block().collective(kLoadMatrices, ~0u, &own, distribute);
}

void mma_tf32(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma<Tf32>(sums, a, b0, b1);
}
void mma_float16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma<Float16>(sums, a, b0, b1);
}
void mma_bfloat16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma<Bfloat16>(sums, a, b0, b1);
}
void mma_uint8(int32_t (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma<Bytes<uint8_t>, Bytes<int8_t>>(sums, a, b0, b1);
}
void mma_int8(int32_t (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma<Bytes<int8_t>>(sums, a, b0, b1);
}

int32_t sum_of_warp(int32_t value) {
  emulator::block().collective(kSumOfWarp, ~0u, &value, add_up);
  return value;
}

}  // namespace cnnkern::cuda
