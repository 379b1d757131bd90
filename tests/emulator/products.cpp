#include "products.h"

#include <algorithm>

namespace emulator {
namespace {

constexpr uint32_t kUnderWay = 0xFFFFFFFF;  // in the registers: NaN, and no sum of integers

uint32_t field(uint64_t descriptor, int first, int bits) {
  return static_cast<uint32_t>(descriptor >> first & ((uint64_t{1} << bits) - 1));
}

// PTX ISA, "Matrix Descriptor Format"; K-major tiles with 128-byte swizzling are all that there are here.
EMULATOR_UNSEEN void check(uint64_t descriptor) {
  const uint32_t start = field(descriptor, 0, 14) << 4;
  if (field(descriptor, 62, 2) != 1) fail("a matrix descriptor without 128-byte swizzling");
  if (field(descriptor, 49, 3) || start % 1024 / 128)
    fail("a matrix descriptor that does not begin at 1024 bytes");
  if (start % 128 > 96) fail("a matrix descriptor of more than the row's 128 bytes");
  if (field(descriptor, 16, 14) != 1) fail("a matrix descriptor with a step along rows of one piece");
  if (field(descriptor, 14, 2) | field(descriptor, 30, 2) | field(descriptor, 46, 3) |
      field(descriptor, 52, 10))
    fail("a matrix descriptor with bits that mean nothing");
}

}  // namespace

EMULATOR_UNSEEN uint32_t address_of(uint64_t descriptor, uint32_t row, uint32_t byte) {
  const uint32_t start = field(descriptor, 0, 14) << 4, eight_rows = field(descriptor, 32, 14) << 4;
  const uint32_t plain = start + row / 8 * eight_rows + row % 8 * 128 + byte;
  return plain ^ (plain >> 7 & 7) << 4;
}

EMULATOR_UNSEEN void Products::start(const Product& product, uint32_t* sums, int count) {
  if (!block().schedule.wgmma) fail("wgmma on a GPU that has none");
  if (!begun_) fail("a product of a warpgroup without wgmma.fence since registers were used");
  check(product.a);
  check(product.b);
  if (under_way()) {
    if (sums != sums_) fail("products of a warpgroup into other registers while some are under way");
    check_untouched();
  } else {
    sums_ = sums;
    held_.assign(sums, sums + count);
    std::fill(sums, sums + count, kUnderWay);
  }
  block().note_product(product.a * 3 + product.b);
  if (block().schedule.eager) product.run(product, held_.data());
  open_.push_back(product);
}

EMULATOR_UNSEEN void Products::commit() {
  committed_.insert(committed_.end(), open_.begin(), open_.end());
  open_.clear();
}

EMULATOR_UNSEEN void Products::wait() {
  begun_ = false;
  check_untouched();
  if (!block().schedule.eager)
    for (const Product& product : committed_) product.run(product, held_.data());
  committed_.clear();
  if (!open_.empty()) return;  // these are still under way
  std::copy(held_.begin(), held_.end(), sums_);
  held_.clear();
}

EMULATOR_UNSEEN void Products::check_untouched() const {
  for (size_t i = 0; i < held_.size(); ++i)
    if (sums_[i] != kUnderWay) fail("sums of a warpgroup's product that were touched while it was under way");
}

}  // namespace emulator
