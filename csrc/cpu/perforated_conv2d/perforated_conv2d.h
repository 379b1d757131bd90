// Perforated convolution on the CPU (Figurnov et al. 2016): only some of the outputs are computed, the others
// repeat one of these or are zero. No call allocates; the caller asks for sizes first.
#pragma once
#include "params/perforated_conv2d.h"

namespace cnnkern {

// For each position of `masks` masks (height, width), not zero where an output is kept, the kept position
// that is nearest to it; itself where it is kept. Of several at the same Euclidean distance it is the one in
// the highest row, and there the leftmost. A mask that keeps none gets -1 everywhere. `scratch` holds threads
// * 2 * width values.
void nearest_kept(const uint8_t* mask, int64_t masks, int64_t height, int64_t width, int32_t* sources,
                  int32_t* scratch, int64_t threads);

// Writes the arrays of one mask (params/perforated_conv2d.h) for `sources` (area): for each position itself
// where it is kept, a kept one whose value it shows, or -1 for zero. `kept` ends with -1's. Returns how many
// are kept.
int64_t arrange(const int32_t* sources, int64_t area, int32_t* owner, int32_t* kept);

// How many such arrays keep; -1 where a kernel could not rely on them.
int64_t count_kept(const int32_t* owner, const int32_t* kept, int64_t area);

template <class T>
int64_t perforated_conv2d_scratch(const Conv2dShape& shape, int64_t kept, int64_t threads);  // in elements

// `kept` positions, at least one, in all images: perforation.begin[N].
template <class T>
void perforated_conv2d(const PerforatedConv2dParams<T>& params);

// The gradient of the kept outputs, zero for the others, from that of all outputs: `grad` and `folded` are
// dense in the shape's layout. The bits do not depend on the number of threads.
template <class T>
void fold(const Conv2dShape& shape, const Perforation& perforation, const T* grad, T* folded,
          int64_t threads);

}  // namespace cnnkern
