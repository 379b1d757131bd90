// Max pooling of integers on the CPU.
#pragma once
#include "params/int8_max_pool2d.h"

namespace cnnkern {

// Bytes that `threads` threads need.
int64_t int8_max_pool2d_scratch(const Int8MaxPool2dParams& params, int64_t threads);

// `scratch` is 64-byte aligned.
void int8_max_pool2d(const Int8MaxPool2dParams& params, uint8_t* scratch, int64_t threads);

}  // namespace cnnkern
