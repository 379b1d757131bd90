// The int8 operations on single elements on the CPU.
#pragma once
#include "params/int8_elementwise.h"

namespace cnnkern {

void int8_quantize(const Int8QuantizeParams& params, int64_t threads);
void int8_add(const Int8AddParams& params, int64_t threads);

}  // namespace cnnkern
