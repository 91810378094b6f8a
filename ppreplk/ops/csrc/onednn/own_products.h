// Pointwise convolutions by our own kernels instead of oneDNN's, on AMX (../amx) and on AVX-512 (../avx512): which
// layers, and what goes in and out.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "channels_last.h"

namespace ppreplk {
namespace channels_last {

// Packs weights for our kernels, unless by the rule oneDNN shall compute this layer: false.
bool pack_own(const Layer& layer, const Map& map, Precision precision, const float* weight,
              const std::function<void*(int64_t)>& allocate);

// Whether these are weights of `pack_own`; and whether both are, for the same instructions.
bool is_own(const void* packed, int64_t bytes);
bool are_own(const void* packed1, int64_t bytes1, const void* packed2, int64_t bytes2);

// As `run` and `feed_forward`, for such weights.
void run_own(const Layer& layer, const Map& map, const void* x, const void* packed, int64_t packed_bytes,
             const float* bias, const void* residual, Activation activation, void* y);
void feed_forward_own(const Layer& first, const Layer& second, const Map& map, const void* x, const void* packed1,
                      int64_t bytes1, const float* bias1, const void* packed2, int64_t bytes2, const float* bias2,
                      void* y);

// What would compute this layer, for `implementation`; nothing if that is oneDNN.
std::optional<std::string> own_implementation(const Layer& layer, const Map& map, Precision precision);

}  // namespace channels_last
}  // namespace ppreplk
