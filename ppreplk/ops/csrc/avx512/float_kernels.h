// What float_products.cpp asks of the code that is compiled for AVX-512.
#pragma once

#include <cstdint>

#include "activation.h"

namespace ppreplk {
namespace avx512 {

constexpr int kRows = 14;     // of a tile, at most: its sums take 28 of 32 registers, the rest hold operands
constexpr int kColumns = 32;  // of a tile, and of a panel of packed weights

// A tile of the output, and the part of a product that goes into it.
struct Tile {
  const float* x;  // [rows, depth]
  int64_t x_stride;
  const float* weights;  // [depth, kColumns]
  int64_t depth;
  float* y;  // [rows, kColumns]: the result; before the last part, sums
  int64_t y_stride;
  bool first, last;       // of the parts
  const float* bias;      // kColumns
  const float* residual;  // like y, or null
  Activation activation;
  const char* next;  // what is multiplied later, of which some cache lines are fetched; null if there are none
  int64_t lines;
};

// 1 <= rows <= kRows.
void multiply(const Tile& tile, int64_t rows);

}  // namespace avx512
}  // namespace ppreplk
