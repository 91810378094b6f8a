// The layers of a channels-last network over oneDNN, independent of Paddle: convolutions with any stride and groups,
// and what comes before and after them.
//
// Tensors are NHWC, float32 or bfloat16. Weights are packed once, in the form that suits the processor. Packed weights
// start with a header that describes them. They are valid in the process that packed them, for maps and batches of any
// size.
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

namespace ppreplk {
namespace channels_last {

enum class Dtype : int32_t { float32, bfloat16 };
enum class Activation : int32_t { none, relu, gelu, relu6 };  // gelu with the error function; relu6 is 0 to 6

// A convolution with odd kernel and padding kernel / 2. weight: [out, in / groups, kernel, kernel].
struct Layer {
  int64_t in, out, kernel, stride, groups;
  Dtype dtype;  // of the activations
};

struct Map {
  int64_t batch, height, width;
};

inline int64_t strided(int64_t extent, int64_t stride) { return (extent - 1) / stride + 1; }

// Packs weights into memory that `allocate` returns for a number of bytes, a multiple of 64. Memory aligned to 64 bytes
// is fastest. `map` is the size that the weights will mostly be used for.
void pack(const Layer& layer, const Map& map, const float* weight, const std::function<void*(int64_t)>& allocate);

// y = activation(convolution(x) + bias + residual). x: [batch, height, width, in]; y and residual (or null):
// [batch, ceil(height / stride), ceil(width / stride), out], of the layer's dtype; bias: [out].
void run(const Layer& layer, const Map& map, const void* x, const void* packed, int64_t packed_bytes, const float* bias,
         const void* residual, Activation activation, void* y);

// Images NCHW float32 to NHWC of the given type.
void images(const float* x, const Map& map, int64_t channels, Dtype dtype, void* y);

// Means over the pixels of each image: [batch, height, width, channels] to float32 [batch, channels].
void pool(const void* x, const Map& map, int64_t channels, Dtype dtype, float* y);

// Whether the processor multiplies bfloat16 (AVX-512 BF16 or AMX).
bool has_bfloat16();

// How pointwise convolutions are packed from now on, for tests and benchmarks: by the rule, or always in one form.
enum class FormChoice : int32_t { automatic, convolution, matmul };
void choose_form(FormChoice choice);

// How weights packed now for one map run on another: the form, oneDNN's name for its code, the type of the arithmetic,
// and "repacked" if every call packs the weights again.
std::string implementation(const Layer& layer, const Map& packed_for, const Map& map, Activation activation,
                           bool residual);

// Why the loaded oneDNN, or one of that version and threading runtime, does not fit the one this was compiled for;
// empty if it does.
std::string mismatch();
std::string mismatch(int major, int minor, unsigned runtime);

}  // namespace channels_last
}  // namespace ppreplk
