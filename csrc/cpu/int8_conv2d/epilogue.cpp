// See epilogue.h. Jacob et al., Quantization and Training of Neural Networks for Efficient
// Integer-Arithmetic-Only Inference, CVPR 2018, with a float32 multiplier an output channel in place of the
// fixed-point one.
#include "cpu/int8_conv2d/epilogue.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace cnnkern {

Int8Epilogue int8_epilogue(const Int8Conv2dParams& p, const Int8Weight& weight, int32_t zero,
                           uint8_t* scratch) {
  const Conv2dShape& s = p.shape;
  const int64_t groups = weight.depthwise ? 1 : weight.groups;
  const int64_t group_columns = s.out_channels / groups, padded = round_up(group_columns, kPanel);
  int32_t* const correction = reinterpret_cast<int32_t*>(scratch);
  float* const multiplier = reinterpret_cast<float*>(correction + groups * padded);
  float* const offset = multiplier + groups * padded;
  std::fill(correction, correction + groups * padded, 0);
  std::fill(multiplier, multiplier + 2 * groups * padded, 0.0f);

  const bool quantized = p.output == Int8Output::u8 || p.output == Int8Output::s8;
  const double out_scale = quantized ? p.out_scale : 1.0;
  const int8_t* const sums = p.packed + int8_packing(weight).sums;
  for (int64_t k = 0; k < s.out_channels; ++k) {
    const int64_t at = k / group_columns * padded + k % group_columns;
    int32_t sum;
    std::memcpy(&sum, sums + k * static_cast<int64_t>(sizeof sum), sizeof sum);
    correction[at] = zero * sum;
    if (p.output == Int8Output::s32) continue;
    multiplier[at] = static_cast<float>(p.x_scale * static_cast<double>(p.weight_scale[k]) / out_scale);
    if (p.bias) offset[at] = static_cast<float>(static_cast<double>(p.bias[k]) / out_scale);
  }
  Int8Epilogue e{correction, multiplier, offset, p.output, 0.0f, 0.0f, 0};
  if (quantized) {
    const int32_t least = p.output == Int8Output::s8 ? -128 : 0;
    e.zero_point = p.out_zero_point;
    e.low = static_cast<float>(p.relu ? 0 : least - p.out_zero_point);
    e.high = static_cast<float>(least + 255 - p.out_zero_point);
  } else {
    e.low = p.relu ? 0.0f : -std::numeric_limits<float>::infinity();
  }
  return e;
}

}  // namespace cnnkern
