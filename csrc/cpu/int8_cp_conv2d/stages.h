// The four stages of a fused CP convolution of 8-bit integers, as one worker runs them.
#pragma once
#include "cpu/cp_conv2d/stages.h"
#include "cpu/int8_conv2d/epilogue.h"
#include "cpu/int8_conv2d/strip.h"
#include "cpu/int8_cp_conv2d/int8_cp_conv2d.h"

namespace cnnkern {

// A CpPlan whose staged input, stage-3 rows and tile are bytes, besides what stages 1 and 4 need.
struct Int8CpPlan : CpPlan {
  bool in_place;  // x is read where it lies
  // From an activation to its magnitude; 0 where these are not asked for.
  int64_t staged_magnitude, rows_magnitude;
  int64_t shared_rows;                          // bytes of one of the two buffers that a team shares
  int64_t epilogue_c, epilogue_k, floats_size;  // bytes before everything else: epilogues, then the factors
  int64_t lead() const { return epilogue_c + epilogue_k + floats_size; }
};

struct Int8Stages : DepthwiseStages<float> {
  using Real = float;
  const Int8CpConv2dParams& p;
  const Int8CpPlan& plan8;
  const Int8Primitives& integers;
  const Int8PackedFactors& at;
  const Int8Epilogue &first, &last;  // of stages 1 and 4

  Int8Stages(const Int8CpConv2dParams& params, const Int8CpPlan& int8_plan,
             const Primitives<float>& primitives, const Int8Primitives& int8_primitives,
             const Int8PackedFactors& factors, const DepthwiseFactors<float>& depthwise,
             const Int8Epilogue& epilogue_c, const Int8Epilogue& epilogue_k, const Worker& worker);

  uint8_t* own_rows() const { return reinterpret_cast<uint8_t*>(rows); }
  uint8_t* shared_rows(int64_t which) const {
    return reinterpret_cast<uint8_t*>(shared) + which * plan8.shared_rows;
  }

  // Rows [begin, end) of the group's input as pixels of channels, as the GEMM reads them.
  const uint8_t* input_rows(int64_t image, int64_t group, RowRange r) const;
  int64_t input_pixel() const { return plan8.in_place ? s.in_channels : group_channels; }

  // As those of Stages; stage 3 ends in integers.
  void stage1(int64_t group, Panels panel, const uint8_t* from, int64_t count, float* to,
              int64_t panel_stride) const;
  void stages23(int64_t group, Panels panel, int64_t first_row, int64_t last_row, uint8_t* to,
                const Halo<float>* halos) const;
  void stage4(int64_t image, int64_t group, Panels panel, int64_t first_row, int64_t last_row,
              const uint8_t* from) const;

 private:
  // The product of `pixels` pixels with panels of a packed factor from `panel` on; where its results go is
  // left to say.
  Int8Gemm product(const uint8_t* from, int64_t pixel, int64_t magnitude, int64_t pixels,
                   const Int8Weight& weight, int64_t offset, int64_t panel, const Int8Epilogue& e) const;
};

}  // namespace cnnkern
