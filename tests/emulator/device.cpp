// Matrix instructions: the fragments as the PTX ISA lays them out over the lanes of a warp, the arithmetic in
// double, in which sums of integers are exact. What the hardware does with the last bits of a sum of others
// is not documented, and not imitated.
#include "cuda/device.cuh"

namespace cnnkern::cuda {
namespace {

enum Operation { kLoadMatrices = 1, kMma, kSumOfWarp, kWgmma };

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
  if (!emulator::block().schedule.mma) emulator::fail("mma.sync on a GPU that has none");
  MmaOperands<Sum> operands{sums, a, {b0, b1}};
  emulator::block().collective(kMma, ~0u, &operands, multiply<A, B, Sum>);
}

// A warp's part of a warpgroup's product: the lanes read a share of both operands each.
template <class Sum, int kColumns>
struct WgmmaOperands {
  Sum* sums;
  uint32_t a[4], b[kColumns / 16][4];
};

// Chunk `index` of a matrix whose rows are two chunks. The lane's own read, which the sanitizers see.
void read_chunk(uint64_t descriptor, uint32_t index, uint32_t (&words)[4]) {
  const uint32_t address = emulator::address_of(descriptor, index / 2, index % 2 * 16);
  const unsigned char* const chunk = emulator::block().shared_memory() + address;
  emulator::block().shared_address(chunk + 15);
  if (!emulator::block().is_published(address))
    emulator::fail(
        "a warpgroup's product of what was not written, or not published by a fence.proxy.async since");
  for (int i = 0; i < 4; ++i) words[i] = reinterpret_cast<const volatile uint32_t*>(chunk)[i];
}

// The numbers of a chunk that `lane` has read, as a part of their row.
template <class A>
EMULATOR_UNSEEN void unpack(const uint32_t (&words)[4], int lane, double (&row)[A::kDepth]) {
  constexpr int kPerRegister = A::kDepth / 8;
  for (int i = 0; i < A::kDepth / 2; ++i)
    row[lane % 2 * A::kDepth / 2 + i] = A::number(words[i / kPerRegister], i % kPerRegister);
}

template <class A, class B, class Sum, int kColumns>
EMULATOR_UNSEEN void multiply_for_warp(WgmmaOperands<Sum, kColumns>** lanes) {
  constexpr int kDepth = A::kDepth;
  double a[16][kDepth], b[kColumns][kDepth];
  for (int lane = 0; lane < 32; ++lane) {
    unpack<A>(lanes[lane]->a, lane, a[lane / 2]);
    for (int i = 0; i < kColumns / 16; ++i) unpack<B>(lanes[lane]->b[i], lane, b[16 * i + lane / 2]);
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < kColumns / 2; ++i) {
      const int row = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      double sum = lanes[lane]->sums[i];
      for (int k = 0; k < kDepth; ++k) sum += a[row][k] * b[column][k];
      lanes[lane]->sums[i] = static_cast<Sum>(sum);
    }
}

template <class A, class B, class Sum, int kColumns>
void run_wgmma(const emulator::Product& product, uint32_t* sums) {
  const emulator::Thread& thread = emulator::block().current();
  const unsigned first = thread.warp() % 4 * 32;  // of the chunks of the warp's 16 rows
  WgmmaOperands<Sum, kColumns> operands;
  operands.sums = reinterpret_cast<Sum*>(sums);
  read_chunk(product.a, first + thread.lane(), operands.a);
  for (int i = 0; i < kColumns / 16; ++i) read_chunk(product.b, 32 * i + thread.lane(), operands.b[i]);
  emulator::block().collective(kWgmma, ~0u, &operands, multiply_for_warp<A, B, Sum, kColumns>);
}

template <class A, class B = A, class Sum, int kFragments>
void wgmma(Sum (&sums)[kFragments][4], uint64_t a, uint64_t b) {
  const emulator::Product product{run_wgmma<A, B, Sum, 8 * kFragments>, a, b};
  emulator::block().current().products->start(product, reinterpret_cast<uint32_t*>(sums), 4 * kFragments);
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

#define EMULATED_WGMMA(name, Sum, ...)                                                    \
  void name(Sum(&sums)[8][4], uint64_t a, uint64_t b) { wgmma<__VA_ARGS__>(sums, a, b); } \
  void name(Sum(&sums)[16][4], uint64_t a, uint64_t b) { wgmma<__VA_ARGS__>(sums, a, b); }
EMULATED_WGMMA(wgmma_tf32, float, Tf32)
EMULATED_WGMMA(wgmma_float16, float, Float16)
EMULATED_WGMMA(wgmma_bfloat16, float, Bfloat16)
EMULATED_WGMMA(wgmma_uint8, int32_t, Bytes<uint8_t>, Bytes<int8_t>)
EMULATED_WGMMA(wgmma_int8, int32_t, Bytes<int8_t>)
#undef EMULATED_WGMMA

int32_t sum_of_warp(int32_t value) {
  emulator::block().collective(kSumOfWarp, ~0u, &value, add_up);
  return value;
}

}  // namespace cnnkern::cuda
