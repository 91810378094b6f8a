// The products of a pointwise convolution in training, on the tile registers of AMX: y = x * w, and both gradients.
//
// All tensors are float32, and every product is made of three bfloat16 ones: bf16x3, see products.h. Nothing is packed
// beforehand, since weights change in every step. Each operand is split where it lies, and turned round where the sum
// runs over its rows, in one pass that ends in the tiles that are multiplied next.
//
// Every result is the same for any number of threads: a sum is always taken in the order of the channels or rows. The
// memory needed does not grow with the number of rows, but for those of the tensors themselves.
//
// What is beyond bfloat16's range is as in products.h: an infinite or NaN number, or one from 3.3961e38 on, makes all
// sums that it is part of NaN. These are a row of `forward` and `input_gradient`, and a row or column of
// `weight_gradient`. Numbers below 1.18e-38 count as zero, and those below about 1e-33 lose digits.
//
// Independent of Paddle and oneDNN. Functions may be called from several threads at once. A backend must be in use.
#pragma once

#include <cstdint>

namespace ppreplk {
namespace amx {

// weight: [out, in]. x and dx: [rows, in]; y and dy: [rows, out].
void forward(const float* x, int64_t rows, int64_t in, int64_t out, const float* weight, float* y, int threads);
void input_gradient(const float* dy, int64_t rows, int64_t in, int64_t out, const float* weight, float* dx,
                    int threads);
void weight_gradient(const float* x, const float* dy, int64_t rows, int64_t in, int64_t out, float* dweight,
                     int threads);

}  // namespace amx
}  // namespace ppreplk
