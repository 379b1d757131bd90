// The weight of a convolution as the gradient of its input needs it.
#pragma once
#include "params/conv2d.h"

namespace cnnkern {

// Elements of `taps` taps.
int64_t taps_packed_size(const Conv2dShape& shape, int64_t taps);

// Packs `weight` (K, C/G, kH, kW), contiguous, phase by phase (backward_phases.h), rows before columns, each
// as (groups, panels of C/G, taps of the phase with the last first, K/G, kPanel). `packed` holds
// taps_packed_size(shape, kH * kW) elements, `scratch` taps_pack_scratch.
template <class T>
void pack_taps(const Conv2dShape& shape, const T* weight, T* packed, T* scratch, int64_t threads);
template <class T>
int64_t taps_pack_scratch(const Conv2dShape& shape, int64_t threads);

}  // namespace cnnkern
