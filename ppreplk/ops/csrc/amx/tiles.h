// The configuration of tile registers, as the instruction reads it.
#pragma once

#include <cstdint>

namespace ppreplk {
namespace amx {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};  // of a row
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64, "as the instruction reads it");

// Whether a float32 number is smaller than the normal ones and not zero.
inline bool is_denormal(float value) {
  const float size = __builtin_fabsf(value);
  return size > 0.0f && size < 1.17549435e-38f;
}

}  // namespace amx
}  // namespace ppreplk
