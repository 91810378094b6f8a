// Pixels of channels-last tensors, float32.
#pragma once

#include <cstdint>

namespace ppreplk {
namespace training {

struct Map {
  int64_t batch, height, width, channels;
};

// Every `stride`-th pixel of x, in rows and columns: y is [batch][ceil(height / stride)][ceil(width / stride)][channels].
void pick(const Map& map, int64_t stride, const float* x, float* y, int threads);

// The gradient of that: dy at these pixels, zero at the others.
void scatter(const Map& map, int64_t stride, const float* dy, float* dx, int threads);

// What a convolution with an odd kernel and padding kernel / 2 sees of images [batch][channels][height][width]:
// y is [batch][ceil(height / stride)][ceil(width / stride)][channels * kernel * kernel].
void patches(const Map& map, int64_t kernel, int64_t stride, const float* x, float* y, int threads);

}  // namespace training
}  // namespace ppreplk
