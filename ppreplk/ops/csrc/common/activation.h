// The activations that operators compute.
#pragma once

#include <cstdint>

namespace ppreplk {

enum class Activation : int32_t { none, relu, gelu, relu6 };  // gelu with the error function; relu6 is 0 to 6

}  // namespace ppreplk
