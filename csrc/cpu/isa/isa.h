// The tables that the instruction sets' files fill.
#pragma once
#include "cpu/int8_primitives.h"
#include "cpu/primitives.h"

namespace cnnkern {
namespace scalar {
extern const Primitives<float> kPrimitives;
extern const Primitives<double> kPrimitivesDouble;
extern const Int8Primitives kInt8Primitives;
}  // namespace scalar
namespace avx2 {
extern const Primitives<float> kPrimitives;
extern const Int8Primitives kInt8Primitives;
}  // namespace avx2
namespace avxvnni {
extern const Int8Primitives kInt8Primitives;
}
namespace avx512 {
extern const Primitives<float> kPrimitives;
}
namespace avx512vnni {
extern const Int8Primitives kInt8Primitives;
}
}  // namespace cnnkern
