// The size of a map behind a stride.
#pragma once

#include <cstdint>

namespace ppreplk {

// A size that is not known yet, which is negative, stays so.
constexpr int64_t strided(int64_t extent, int64_t stride) {
  return extent < 0 ? -1 : (extent + stride - 1) / stride;
}

}  // namespace ppreplk
