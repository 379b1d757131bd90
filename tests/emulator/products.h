// The matrix products of a warpgroup that a thread has under way: they run when they are waited for, or at
// once in an eager schedule, and until then the registers of the sums hold NaN.
//
// What it finds: operands that were not published after they were written, descriptors that mean something
// else than rows of 128 swizzled bytes, registers that are touched too early, products without the fence
// before them, without a wait, or not by all four warps.
#pragma once
#include <cstdint>
#include <vector>

#include "block.h"

namespace emulator {

// `run` adds the product to sums, by all lanes of a warp together.
struct Product {
  void (*run)(const Product&, uint32_t* sums);
  uint64_t a, b;  // descriptors
};

class Products {
 public:
  void begin() { begun_ = true; }
  // `sums`: `count` registers.
  void start(const Product& product, uint32_t* sums, int count);
  void commit();
  void wait();
  bool under_way() const { return !held_.empty(); }

 private:
  void check_untouched() const;

  bool begun_ = false;
  std::vector<Product> open_, committed_;
  uint32_t* sums_ = nullptr;    // the registers
  std::vector<uint32_t> held_;  // what belongs into them
};

// Where byte `byte` of row `row` of a matrix lies in shared memory.
uint32_t address_of(uint64_t descriptor, uint32_t row, uint32_t byte);

}  // namespace emulator
