// Activations as unsigned 8-bit numbers: value = scale * (number - zero).
#pragma once

#include <cstdint>

#include "channels_last.h"

namespace ppreplk {
namespace channels_last {

// How values of a range become numbers from 0 to 255. Zero is always one of the values, without an error.
struct Quantization {
  // Throws std::invalid_argument unless both ends are finite and in order. A range of nothing but zero has scale one.
  explicit Quantization(const Range& range);

  float scale;
  int32_t zero;

  // round(min(max(value / scale, -zero), 255 - zero)) + zero, ties to even. So values beyond the range, infinite ones
  // too, become its ends. NaN becomes zero.
  float inverse() const { return 1.0f / scale; }
};

void quantize(const void* x, Dtype dtype, int64_t count, const Quantization& how, uint8_t* to);

// The same numbers minus zero, as float32. `to` may be `x`.
void quantize(const void* x, Dtype dtype, int64_t count, const Quantization& how, float* to);

}  // namespace channels_last
}  // namespace ppreplk
