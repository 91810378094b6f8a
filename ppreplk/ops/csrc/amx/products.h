// Pointwise convolutions on the tile registers of AMX: y = activation(x * w + bias + residual).
//
// Tensors are rows of channels, float32 or bfloat16. A float32 product is made of bfloat16 ones: numbers are split into
// a sum of bfloat16 numbers, and the products of the larger parts are added up in float32.
//
//   bf16      x and w rounded to bfloat16                       tensors are bfloat16
//   bf16x3    two parts each: high*low + high*high + low*high   tensors are float32, about 17 bits
//   bf16x6    three parts each, all products down to 2^-16      tensors are float32, as float32 itself
//
// Weights are packed once. Their layout depends neither on the processor nor on threads or map. Every result is the same
// for any number of threads: a sum is always taken in the order of the input channels.
//
// What is beyond these numbers: an infinite or NaN input makes all outputs of its row NaN or infinite in bf16, and NaN
// or infinite in the others too, where Inf mostly becomes NaN. In the split forms so do values that round to infinity as
// bfloat16 (from 3.3961e38). AMX takes bfloat16 numbers below 1.18e-38 for zero: inputs, weights, and the lower parts of
// numbers below about 1e-33 lose digits or vanish. NaN stays NaN in every activation.
//
// Independent of Paddle and oneDNN. Functions may be called from several threads at once.
#pragma once

#include <cstdint>

#include "activation.h"

namespace ppreplk {
namespace amx {

enum class Terms : int32_t { bf16 = 1, bf16x3 = 3, bf16x6 = 6 };

// What computes. The last two are for tests on any processor: the tile registers in C++, with the same code around them
// for AVX-512 BF16, or in plain C++.
enum class Backend : int32_t { none, hardware, emulated, emulated_plain };

// The one in use: hardware, where processor and system have AMX, or what was chosen for tests, or none.
Backend backend();
// Choose one for tests; Backend::none goes back to what the processor has. False if it does not run here.
bool choose_backend(Backend backend);

struct Epilogue {
  const float* bias;     // one for each output channel
  const void* residual;  // like the output, or null
  Activation activation;
};

int64_t packed_bytes(int64_t in, int64_t out, Terms terms);
// weight: [out, in]. packed: aligned to 64 bytes.
void pack(const float* weight, int64_t in, int64_t out, Terms terms, void* packed);
// Whether these bytes begin as packed weights of this kind do.
bool is_packed(const void* packed, int64_t bytes);
// The kind of packed weights. Throws std::invalid_argument if these are not whole, or of other channels.
Terms check_packed(const void* packed, int64_t bytes, int64_t in, int64_t out);

// x: [rows, in]; y: [rows, out].
void pointwise(const void* x, int64_t rows, int64_t in, int64_t out, const void* packed, const Epilogue& epilogue,
               void* y, int threads);

// y = x + w2 * gelu(w1 * x + b1) + b2. x and y: [rows, channels]. Of the hidden layer, only a piece exists at a time.
void feed_forward(const void* x, int64_t rows, int64_t channels, int64_t hidden, const void* packed1,
                  const float* bias1, const void* packed2, const float* bias2, void* y, int threads);

}  // namespace amx
}  // namespace ppreplk
