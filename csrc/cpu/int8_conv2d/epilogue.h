// What becomes of the sums of one call, and the scratch that its numbers per output channel take.
#pragma once
#include "cpu/int8_conv2d/int8_conv2d.h"

namespace cnnkern {

// Bytes of the arrays of an epilogue for `columns` columns in whole panels.
constexpr int64_t int8_epilogue_size(int64_t columns) {
  return columns * static_cast<int64_t>(sizeof(int32_t) + 2 * sizeof(float));
}

// The epilogue of `p`, its arrays written to `scratch`, (groups, panels of K / groups, kPanel) each;
// depthwise one group. `zero` is the zero point in the form in which the kernel reads activations.
Int8Epilogue int8_epilogue(const Int8Conv2dParams& p, const Int8Weight& weight, int32_t zero,
                           uint8_t* scratch);

// The same from column `first` of the arrays on.
inline Int8Epilogue from_column(Int8Epilogue e, int64_t first) {
  e.correction += first;
  e.multiplier += first;
  e.offset += first;
  return e;
}

// Size of an element of y.
constexpr int64_t int8_output_bytes(Int8Output output) {
  return output == Int8Output::s32 || output == Int8Output::f32 ? 4 : 1;
}

}  // namespace cnnkern
