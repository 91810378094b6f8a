// The ends of a channels-last network: images in, pooled features out.
#include <algorithm>

#include "bfloat16.h"
#include "channels_last.h"

namespace ppreplk {
namespace channels_last {

void images(const float* x, const Map& map, int64_t channels, Dtype dtype, void* y) {
  const int64_t pixels = map.height * map.width;
#pragma omp parallel for
  for (int64_t row = 0; row < map.batch * map.height; ++row) {
    const int64_t image = row / map.height, first = row % map.height * map.width;
    for (int64_t pixel = first; pixel < first + map.width; ++pixel) {
      for (int64_t channel = 0; channel < channels; ++channel) {
        const float value = x[(image * channels + channel) * pixels + pixel];
        const int64_t to = (image * pixels + pixel) * channels + channel;
        if (dtype == Dtype::bfloat16) {
          static_cast<uint16_t*>(y)[to] = narrow(value);
        } else {
          static_cast<float*>(y)[to] = value;
        }
      }
    }
  }
}

void pool(const void* x, const Map& map, int64_t channels, Dtype dtype, float* y) {
  const int64_t pixels = map.height * map.width;
  const float scale = 1.0f / static_cast<float>(pixels);
#pragma omp parallel for
  for (int64_t image = 0; image < map.batch; ++image) {
    float* sums = y + image * channels;
    std::fill_n(sums, channels, 0.0f);
    for (int64_t pixel = image * pixels; pixel < (image + 1) * pixels; ++pixel) {
      if (dtype == Dtype::bfloat16) {
        const auto* values = static_cast<const uint16_t*>(x) + pixel * channels;
        for (int64_t channel = 0; channel < channels; ++channel) sums[channel] += widen(values[channel]);
      } else {
        const auto* values = static_cast<const float*>(x) + pixel * channels;
        for (int64_t channel = 0; channel < channels; ++channel) sums[channel] += values[channel];
      }
    }
    for (int64_t channel = 0; channel < channels; ++channel) sums[channel] *= scale;
  }
}

}  // namespace channels_last
}  // namespace ppreplk
