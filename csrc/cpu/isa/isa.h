// The tables that the instruction sets' files fill.
#pragma once
#include "cpu/primitives.h"

namespace cnnkern {
namespace scalar {
extern const Primitives<float> kPrimitives;
extern const Primitives<double> kPrimitivesDouble;
}  // namespace scalar
namespace avx2 {
extern const Primitives<float> kPrimitives;
}
namespace avx512 {
extern const Primitives<float> kPrimitives;
}
}  // namespace cnnkern
