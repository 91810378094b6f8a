// Pointwise convolutions with 8-bit numbers, by oneDNN: unsigned activations times signed weights.
//
//   input    quantized with one scale and zero for the layer, from a calibrated range (quantize.h)
//   weights  -127 to 127, with a scale for each output channel: the largest becomes 127
//   sums     32-bit integers, so results are the same for any number of threads, batch and map
//   output   scaled, with bias, residual and activation in float32, then rounded to the tensor's type
//
// The hidden layer of a feed-forward block exists only as 8-bit numbers.
//
// It takes AVX-512 VNNI or AVX-VNNI. Older instructions (vpmaddubsw) add two products in 16 bits, where 255 * 127 * 2
// does not fit; they are never used. Processors without VNNI multiply the same rounded numbers in float32: results agree
// up to rounding of the sums, and take as long as in float32. Tests and verification need that.
#pragma once

#include <string>

#include "channels_last.h"

namespace ppreplk {
namespace channels_last {

// Whether these bytes begin as weights from pack_int8 do. `run` and `feed_forward` call what follows for them.
bool is_packed_int8(const void* packed, int64_t bytes);

void run_int8(const Layer& layer, const Map& map, const void* x, const void* packed, int64_t packed_bytes,
              const float* bias, const void* residual, Activation activation, void* y);

void feed_forward_int8(const Layer& first, const Layer& second, const Map& map, const void* x, const void* packed1,
                       int64_t bytes1, const float* bias1, const void* packed2, int64_t bytes2, const float* bias2,
                       void* y);

// How it is computed, for `implementation`.
std::string implementation_int8(const Layer& layer, const Map& packed_for, const Map& map, Activation activation,
                                bool residual);

}  // namespace channels_last
}  // namespace ppreplk
