// Pointwise convolutions in float32 on the registers of AVX-512: y = activation(x * w + bias + residual).
//
// Tensors are rows of channels. Weights are packed once, for any number of rows and threads. Every result is the same
// for any number of rows and threads: a sum is always taken in the order of the input channels.
//
// What makes it faster than oneDNN's product on the layers of RepLKNet-31B: the next weights are fetched while the
// current ones are multiplied, rows of a wide hidden layer do not meet in the same lines of the cache, and GELU is a
// table.
//
// Independent of Paddle and oneDNN. Functions may be called from several threads at once.
#pragma once

#include <cstdint>

#include "activation.h"

namespace ppreplk {
namespace avx512 {

// Whether this processor has the instructions, without which `pointwise` and `feed_forward` must not be called.
bool available();

struct Epilogue {
  const float* bias;      // one for each output channel
  const float* residual;  // like the output, or null
  Activation activation;
};

int64_t packed_bytes(int64_t in, int64_t out);
// weight: [out, in]. packed: aligned to 64 bytes.
void pack(const float* weight, int64_t in, int64_t out, void* packed);
// Whether these bytes begin as packed weights of this kind do.
bool is_packed(const void* packed, int64_t bytes);
// Throws std::invalid_argument if these packed weights are not whole, of other channels, or if nothing can run here.
void check_packed(const void* packed, int64_t bytes, int64_t in, int64_t out);

// x: [rows, in]; y: [rows, out], which overlaps nothing else: it holds sums until the last input channels are added.
void pointwise(const float* x, int64_t rows, int64_t in, int64_t out, const void* packed, const Epilogue& epilogue,
               float* y, int threads);

// y = x + w2 * gelu(w1 * x + b1) + b2. x and y: [rows, channels]; y overlaps nothing else. Of the hidden layer, only a
// piece exists at a time.
void feed_forward(const float* x, int64_t rows, int64_t channels, int64_t hidden, const void* packed1,
                  const float* bias1, const void* packed2, const float* bias2, float* y, int threads);

}  // namespace avx512
}  // namespace ppreplk
