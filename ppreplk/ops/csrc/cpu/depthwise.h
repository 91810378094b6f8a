// Depthwise convolution on the CPU, independent of any framework.
//
// Stride 1, odd kernel, zero padding of kernel / 2 on each side, so the output has the
// shape of the input. As everywhere in deep learning, "convolution" is cross-correlation:
//
//   y[n, c, i, j] = bias[c] + sum over u, v of
//                   weight[c, u, v] * x[n, c, i + u - kernel / 2, j + v - kernel / 2]
//
// Activations may be float32, float16 or bfloat16; weights, bias and all arithmetic are float32. Large kernels are
// computed through Fourier transforms, small maps by multiplication with Toeplitz matrices, small kernels by direct
// sums. The best instruction set of the processor (AVX-512, AVX2 with FMA, or portable code) is chosen at run time, see
// instruction_set.h.
//
// Results are the same from run to run and for every number of threads. A NaN or infinity
// spreads no further than its own channel of its own image (its whole channel in `dweight`).
//
// Invalid arguments throw std::invalid_argument; a lack of memory throws std::bad_alloc.
// All functions may be called from several threads at once.
#pragma once

#include <cstdint>

namespace ppreplk {

enum class Dtype { float32, float16, bfloat16 };
enum class Layout { nchw, nhwc };

struct Problem {
  int64_t batch, channels, height, width, kernel;
};

// Weights are packed once for many forward passes (inference). The packed form starts with
// a header and depends on the map size and on the instruction set, not on the batch size or
// the layout: pack on the machine, and in the process, that will run it.

// Size of the packed weights in floats.
int64_t packed_floats(const Problem& problem);

// weight: [channels, 1, kernel, kernel]; packed: packed_floats(problem) floats.
void pack(const Problem& problem, const float* weight, float* packed, int threads);

// Whether `packed`, of `floats` floats, was packed for this problem and instruction set.
bool packed_fits(const Problem& problem, const float* packed, int64_t floats);

// y = convolution(x) + bias, then ReLU if asked for. bias: [channels] or null.
// x and y may not overlap.
void forward_packed(const Problem& problem, Dtype dtype, Layout layout, const void* x, const float* packed,
                    const float* bias, bool relu, void* y, int threads);

// The same with plain weights, packed on every call (training).
void forward(const Problem& problem, Dtype dtype, Layout layout, const void* x, const float* weight, const float* bias,
             bool relu, void* y, int threads);

// Gradients of `forward` without ReLU. dx and dweight (float32, as weight) are overwritten; either
// may be null. The gradient of the bias is the sum of dy.
void backward(const Problem& problem, Dtype dtype, Layout layout, const void* x, const float* weight, const void* dy,
              void* dx, float* dweight, int threads);

}  // namespace ppreplk
