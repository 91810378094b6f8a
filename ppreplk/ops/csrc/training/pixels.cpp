#include "pixels.h"

#include <algorithm>

#include "strided.h"
#include "tasks.h"

namespace ppreplk {
namespace training {

void pick(const Map& map, int64_t stride, const float* x, float* y, int threads) {
  const int64_t height = strided(map.height, stride), width = strided(map.width, stride);
  parallel_for(threads, map.batch * height, [&](int64_t row) {
    const int64_t image = row / height, line = row % height * stride;
    const float* from = x + (image * map.height + line) * map.width * map.channels;
    float* to = y + row * width * map.channels;
    for (int64_t column = 0; column < width; ++column) {
      std::copy_n(from + column * stride * map.channels, map.channels, to + column * map.channels);
    }
  });
}

void scatter(const Map& map, int64_t stride, const float* dy, float* dx, int threads) {
  const int64_t height = strided(map.height, stride), width = strided(map.width, stride);
  parallel_for(threads, map.batch * map.height, [&](int64_t row) {
    const int64_t image = row / map.height, line = row % map.height;
    float* to = dx + row * map.width * map.channels;
    std::fill_n(to, map.width * map.channels, 0.0f);
    if (line % stride != 0) return;
    const float* from = dy + (image * height + line / stride) * width * map.channels;
    for (int64_t column = 0; column < width; ++column) {
      std::copy_n(from + column * map.channels, map.channels, to + column * stride * map.channels);
    }
  });
}

void patches(const Map& map, int64_t kernel, int64_t stride, const float* x, float* y, int threads) {
  const int64_t height = strided(map.height, stride), width = strided(map.width, stride), pad = kernel / 2;
  const int64_t size = map.channels * kernel * kernel;
  parallel_for(threads, map.batch * height, [&](int64_t row) {
    const int64_t image = row / height, top = row % height * stride - pad;
    for (int64_t column = 0; column < width; ++column) {
      float* to = y + (row * width + column) * size;
      const int64_t left = column * stride - pad;
      for (int64_t channel = 0; channel < map.channels; ++channel) {
        const float* plane = x + (image * map.channels + channel) * map.height * map.width;
        for (int64_t u = top; u < top + kernel; ++u) {
          for (int64_t v = left; v < left + kernel; ++v) {
            const bool inside = u >= 0 && u < map.height && v >= 0 && v < map.width;
            *to++ = inside ? plane[u * map.width + v] : 0.0f;
          }
        }
      }
    }
  });
}

}  // namespace training
}  // namespace ppreplk
