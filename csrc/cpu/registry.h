// Which inner loops run: filled once from what the CPU can do, and forced to another set by tests.
#pragma once
#include <cstdint>

#include "cpu/int8_primitives.h"
#include "cpu/primitives.h"

namespace cnnkern {

enum class Isa : int32_t { scalar, avx2, avxvnni, avx512 };  // for float32 avxvnni is avx2
constexpr int32_t kIsaCount = 4;

const char* isa_name(Isa isa);
bool isa_compiled(Isa isa);
bool isa_available(Isa isa);  // compiled, and this CPU and operating system can run it
Isa current_isa();
bool set_isa(Isa isa);  // false, and nothing changed, where it is not available
void reset_isa();       // CNNKERN_CPU_ISA if that names an available one, else the best

// The inner loops of an available instruction set; float64 always has the scalar ones.
const Primitives<float>& primitives_of(Isa isa);
template <class T>
const Primitives<T>& primitives();
template <>
const Primitives<float>& primitives<float>();
template <>
const Primitives<double>& primitives<double>();

// The int8 inner loops of the instruction set in force, or of the best below it that has some: those with
// AVX-512 need VNNI besides.
const Int8Primitives& int8_primitives();

int64_t level2_cache_bytes();  // of one core

}  // namespace cnnkern
