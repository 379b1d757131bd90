// Matrix instructions: the fragments as the PTX ISA lays them out over the lanes of a warp, the arithmetic in
// double. What the hardware does with the last bits of a sum is not documented, and not imitated.
#include "cuda/device.cuh"

namespace cnnkern::cuda {
namespace {

enum Operation { kLoadMatrices = 1, kMma };

struct MmaOperands {
  float* sums;
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

template <class Format>
EMULATOR_UNSEEN void multiply(MmaOperands** lanes) {
  constexpr int kDepth = Format::kDepth, kPerRegister = kDepth / 8;
  double a[16][kDepth], b[kDepth][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, k = lane % 4 * kPerRegister;
    for (int which = 0; which < kPerRegister; ++which)
      for (int half = 0; half < 2; ++half) {
        const int at = k + which + half * kDepth / 2;
        a[group][at] = Format::number(lanes[lane]->a[2 * half], which);
        a[group + 8][at] = Format::number(lanes[lane]->a[2 * half + 1], which);
        b[at][group] = Format::number(lanes[lane]->b[half], which);
      }
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      double sum = lanes[lane]->sums[i];
      for (int k = 0; k < kDepth; ++k) sum += a[row][k] * b[k][column];
      lanes[lane]->sums[i] = static_cast<float>(sum);
    }
}

template <class Format>
EMULATOR_UNSEEN void mma(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  MmaOperands operands{sums, a, {b0, b1}};
  emulator::block().collective(kMma, ~0u, &operands, multiply<Format>);
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

}  // namespace cnnkern::cuda
