// Pointwise convolutions by our own kernels on AMX (../amx) instead of oneDNN: which layers, and what goes in and out.
#pragma once

#include <optional>

#include "channels_last.h"
#include "products.h"

namespace ppreplk {
namespace channels_last {

// The rule: how our kernels compute this layer, or nothing if oneDNN shall. On processors without AMX it is nothing.
std::optional<amx::Terms> own_terms(const Layer& layer, const Map& map, Precision precision);

// As `run`, for weights of which amx::is_packed.
void run_own(const Layer& layer, const Map& map, const void* x, const void* packed, int64_t packed_bytes,
             const float* bias, const void* residual, Activation activation, void* y);

// How own_terms are computed, for `implementation`.
std::string own_implementation(amx::Terms terms);

}  // namespace channels_last
}  // namespace ppreplk
