#include "cuda/int8_elementwise/int8_elementwise.h"

#include "cuda/launch.h"
#include "cuda/numbers.cuh"

namespace cnnkern::cuda {
namespace {

// What becomes of a number of steps of a grid. T is u8 or s8.
template <class T>
struct Rounding {
  float low, high;
  int32_t zero_point;

  explicit Rounding(int32_t zero_point, bool relu) : zero_point(zero_point) {
    const int32_t least = T(-1) < T(0) ? -128 : 0;
    low = static_cast<float>(relu ? 0 : least - zero_point);
    high = static_cast<float>(least + 255 - zero_point);
  }
  __device__ __forceinline__ T operator()(float steps) const {
    const float above = steps > low ? steps : low;
    return static_cast<T>(__float2int_rn(above < high ? above : high) + zero_point);
  }
};

template <class T>
struct Quantization {
  using Result = T;
  static constexpr int kTogether = 4;

  const float* x;
  T* y;
  int64_t size;
  float scale;
  Rounding<T> round;

  explicit Quantization(const Int8QuantizeParams& p)
      : x(p.x), y(reinterpret_cast<T*>(p.y)), size(p.size), scale(p.scale), round(p.zero_point, false) {}

  bool aligned() const {
    return reinterpret_cast<uintptr_t>(x) % (kTogether * sizeof(float)) == 0 &&
           reinterpret_cast<uintptr_t>(y) % kTogether == 0;
  }
  template <int kCount>
  __device__ __forceinline__ Together<T, kCount> results(int64_t at) const {
    const auto from = *reinterpret_cast<const Together<float, kCount>*>(x + at);
    Together<T, kCount> to;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float steps = __fdiv_rn(from.numbers[i], scale);
      to.numbers[i] = steps == steps ? round(steps) : T{0};
    }
    return to;
  }
};

template <class T>
struct Sum {
  using Result = T;
  static constexpr int kTogether = 16;

  const T* a;
  const T* b;
  T* y;
  int64_t size;
  float a_multiplier, b_multiplier;
  int32_t a_zero_point, b_zero_point;
  Rounding<T> round;

  explicit Sum(const Int8AddParams& p)
      : a(reinterpret_cast<const T*>(p.a)),
        b(reinterpret_cast<const T*>(p.b)),
        y(reinterpret_cast<T*>(p.y)),
        size(p.size),
        a_multiplier(p.a_multiplier),
        b_multiplier(p.b_multiplier),
        a_zero_point(p.a_zero_point),
        b_zero_point(p.b_zero_point),
        round(p.out_zero_point, p.relu) {}

  bool aligned() const {
    return (reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) |
            reinterpret_cast<uintptr_t>(y)) %
               kTogether ==
           0;
  }
  template <int kCount>
  __device__ __forceinline__ Together<T, kCount> results(int64_t at) const {
    const auto from_a = *reinterpret_cast<const Together<T, kCount>*>(a + at);
    const auto from_b = *reinterpret_cast<const Together<T, kCount>*>(b + at);
    Together<T, kCount> to;
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      to.numbers[i] = round(__fadd_rn(term(from_a.numbers[i] - a_zero_point, a_multiplier),
                                      term(from_b.numbers[i] - b_zero_point, b_multiplier)));
    return to;
  }
  static __device__ __forceinline__ float term(int32_t steps, float multiplier) {
    return __fmul_rn(static_cast<float>(steps), multiplier);
  }
};

// Each thread has kCount neighbours in memory, the last one perhaps fewer.
template <class Operation, int kCount>
__global__ void __launch_bounds__(kElementThreads) compute_elements(const __grid_constant__ Operation o) {
  const int64_t at = (int64_t{blockIdx.x} * kElementThreads + threadIdx.x) * kCount;
  if (at + kCount <= o.size) {
    *reinterpret_cast<Together<typename Operation::Result, kCount>*>(o.y + at) =
        o.template results<kCount>(at);
    return;
  }
  for (int64_t i = at; i < o.size; ++i) o.y[i] = o.template results<1>(i).numbers[0];
}

template <class Operation>
cudaError_t launch_operation(const Operation& o, cudaStream_t stream) {
  constexpr int kCount = Operation::kTogether;
  return o.aligned()
             ? launch_elements(compute_elements<Operation, kCount>, (o.size + kCount - 1) / kCount, stream, o)
             : launch_elements(compute_elements<Operation, 1>, o.size, stream, o);
}

}  // namespace

cudaError_t int8_quantize(const Int8QuantizeParams& params, cudaStream_t stream) {
  return params.is_signed ? launch_operation(Quantization<int8_t>(params), stream)
                          : launch_operation(Quantization<uint8_t>(params), stream);
}

cudaError_t int8_add(const Int8AddParams& params, cudaStream_t stream) {
  return params.is_signed ? launch_operation(Sum<int8_t>(params), stream)
                          : launch_operation(Sum<uint8_t>(params), stream);
}

}  // namespace cnnkern::cuda
