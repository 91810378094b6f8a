// The size of a map behind a stride.
#pragma once

#include <cstdint>

namespace ppreplk {

constexpr int64_t strided(int64_t extent, int64_t stride) { return (extent + stride - 1) / stride; }

}  // namespace ppreplk
