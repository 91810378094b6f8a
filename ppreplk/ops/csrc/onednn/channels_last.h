// The layers of a channels-last network over oneDNN, independent of Paddle: convolutions with any stride and groups,
// and what comes before and after them.
//
// Tensors are NHWC, float32 or bfloat16. Weights are packed once, in the form that suits the processor. Packed weights
// start with a header that describes them. They are valid in the process that packed them, for maps and batches of any
// size.
//
// Pointwise convolutions may be computed by our own kernels on AMX or AVX-512 instead, see own_products.h.
//
// bfloat16 is multiplied in bfloat16 and summed in float32. A processor that cannot do that rounds images, weights and
// activations in the same places and computes in float32: the results agree up to the order of the sums, and take as
// long as in float32. Tests and verification need that.
//
// Invalid arguments throw std::invalid_argument; what oneDNN refuses throws dnnl::error. All functions may be called
// from several threads at once.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "activation.h"

namespace ppreplk {
namespace channels_last {

enum class Dtype : int32_t { float32, bfloat16 };

// A convolution with odd kernel and padding kernel / 2. weight: [out, in / groups, kernel, kernel].
struct Layer {
  int64_t in, out, kernel, stride, groups;
  Dtype dtype;  // of the activations
};

// How pointwise convolutions are multiplied: in float32; float32 numbers as products of two bfloat16 parts, on AMX alone
// and in float32 elsewhere; in bfloat16; or as 8-bit integers, see int8_products.h.
enum class Precision : int32_t { fp32, fp32_bf16x3, bf16, int8 };

// The least and largest value of a layer's input.
struct Range {
  float low, high;
};

struct Map {
  int64_t batch, height, width;
};

// Packs weights into memory that `allocate` returns for a number of bytes, a multiple of 64. Memory aligned to 64 bytes
// is fastest. `map` is the size that the weights will mostly be used for. The precision is bf16 if and only if the
// layer's dtype is bfloat16.
void pack(const Layer& layer, const Map& map, Precision precision, const float* weight,
          const std::function<void*(int64_t)>& allocate);

// The same for Precision::int8, of a pointwise convolution. Tensors may have either type.
void pack_int8(const Layer& layer, const Map& map, const Range& range, const float* weight,
               const std::function<void*(int64_t)>& allocate);

// y = activation(convolution(x) + bias + residual). x: [batch, height, width, in]; y and residual (or null):
// [batch, ceil(height / stride), ceil(width / stride), out], of the layer's dtype; bias: [out].
void run(const Layer& layer, const Map& map, const void* x, const void* packed, int64_t packed_bytes, const float* bias,
         const void* residual, Activation activation, void* y);

// y = x + second(gelu(first(x))), for two pointwise layers, with their biases. x and y: [batch, height, width, first.in].
void feed_forward(const Layer& first, const Layer& second, const Map& map, const void* x, const void* packed1,
                  int64_t bytes1, const float* bias1, const void* packed2, int64_t bytes2, const float* bias2, void* y);

// Images NCHW float32 to NHWC of the given type.
void images(const float* x, const Map& map, int64_t channels, Dtype dtype, void* y);

// Means over the pixels of each image: [batch, height, width, channels] to float32 [batch, channels].
void pool(const void* x, const Map& map, int64_t channels, Dtype dtype, float* y);

// Whether the processor multiplies bfloat16 (AVX-512 BF16 or AMX).
bool has_bfloat16();

// Whether the processor multiplies 8-bit integers (AVX-512 VNNI or AVX-VNNI).
bool has_int8();

// How pointwise convolutions are packed from now on, for tests and benchmarks: by the rule, or always in one form. Tiles
// and vectors are our own kernels on AMX and on AVX-512, where they run; on tiles, float32 is multiplied in three
// bfloat16 parts then.
enum class FormChoice : int32_t { automatic, convolution, matmul, tiles, vectors };
void choose_form(FormChoice choice);

// How weights packed now for one map run on another: the form, oneDNN's name for its code, the type of the arithmetic,
// and "repacked" if every call packs the weights again.
std::string implementation(const Layer& layer, Precision precision, const Map& packed_for, const Map& map,
                           Activation activation, bool residual);

// Why the loaded oneDNN, or one of that version and threading runtime, does not fit the one this was compiled for;
// empty if it does.
std::string mismatch();
std::string mismatch(int major, int minor, unsigned runtime);

}  // namespace channels_last
}  // namespace ppreplk
