// Division by a number that is known before the launch, as a multiplication and a shift.
//
// Granlund, Montgomery: Division by Invariant Integers using Multiplication, PLDI 1994, figure 4.1.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace cnnkern::cuda {

// For dividends and divisors from 0 (divisors from 1) to 2^31 - 1.
class Divider {
 public:
  Divider() = default;
  explicit Divider(int64_t divisor) : divisor_(static_cast<uint32_t>(divisor)) {
    while ((uint64_t{1} << shift_) < divisor_) ++shift_;
    multiplier_ =
        static_cast<uint32_t>((uint64_t{1} << 32) * ((uint64_t{1} << shift_) - divisor_) / divisor_ + 1);
  }
  __device__ __forceinline__ int quotient(int dividend) const {
    const auto n = static_cast<uint32_t>(dividend);
    return static_cast<int>((__umulhi(n, multiplier_) + n) >> shift_);
  }
  __device__ __forceinline__ int divide(int dividend, int& remainder) const {
    const int q = quotient(dividend);
    remainder = dividend - q * static_cast<int>(divisor_);
    return q;
  }

 private:
  uint32_t divisor_ = 1, multiplier_ = 1, shift_ = 0;
};

}  // namespace cnnkern::cuda
