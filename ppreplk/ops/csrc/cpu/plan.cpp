// How a problem is solved: the algorithm, and the lengths and tiles of the transforms.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels.h"

namespace ppreplk {
namespace {

// The cheapest transform length and number of tiles. A transform takes about (length + 16) * (log2(length) + 2).
// Measured over maps of 28x28 to 300x300 and kernels of 9 to 101, this picks the fastest tiling or one that is up to
// 18% slower.
Axis plan_axis(int64_t extent, int64_t kernel) {
  Axis best{};
  best.extent = static_cast<int>(extent);
  best.kernel = static_cast<int>(std::min(kernel, 2 * extent - 1));
  best.pad = best.kernel / 2;
  double min_cost = std::numeric_limits<double>::infinity();
  for (const int length : kTransformLengths) {
    Axis axis = best;
    axis.length = length;
    if (length >= axis.extent + axis.pad) {
      axis.tiles = 1;
      axis.tile = axis.extent;
    } else if (length > 2 * axis.pad) {
      const int max_tile = length - 2 * axis.pad;
      axis.tiles = (axis.extent + max_tile - 1) / max_tile;
      axis.tile = (axis.extent + axis.tiles - 1) / axis.tiles;
    } else {
      continue;
    }
    // log2 and log would need glibc 2.29, and a wheel should run on older ones.
    const double cost = axis.tiles * (length + 16) * (2.0 + std::log10(length) / std::log10(2.0));
    if (cost < min_cost) {
      min_cost = cost;
      best = axis;
    }
    if (axis.tiles == 1) break;  // longer transforms only cost more
  }
  return best;
}

// The rule is measured. Microseconds per 16 channels and image, forward with packed weights / backward, float32, one
// thread of an AMD Zen 5 (the Toeplitz code has improved since: for eight images of 7x7 it is a third faster on AVX2):
//
//                 AVX-512                     AVX2
//   map      K    spectral     other          spectral     other
//   7x7      5    0.56 / 1.36  0.48 / 1.06    0.84 / 2.16  0.69 / 1.52  Toeplitz
//   7x7     13    0.97 / 3.11  0.60 / 2.07    1.85 / 5.27  1.00 / 3.03  Toeplitz
//   8x8      9    0.65 / 1.92  0.78 / 1.91    1.00 / 2.98  1.25 / 3.02  Toeplitz
//   56x4    13    3.30 / 7.83  2.34 / 5.97    5.30 / 16.8  5.80 / 14.9  Toeplitz
//   56x7     9    6.58 / 11.3  5.38 / 9.85    9.03 / 27.6  8.86 / 24.2  Toeplitz
//   56x7    31    10.4 / 24.5  14.7 / 33.3    18.7 / 59.9  37.7 / 86.7  Toeplitz
//   14x14    3    1.53 / 3.46  1.05 / 2.45    2.22 / 4.82  1.47 / 2.91  direct
//   14x14    5    1.56 / 3.66  2.01 / 5.24    2.28 / 5.06  3.41 / 9.49  direct
//   28x28    5    6.86 / 13.3  6.49 / 14.5    10.3 / 20.0  10.2 / 33.7  direct
//   56x56    3    31.5 / 56.7  15.5 / 26.8    46.8 / 88.3  13.2 / 28.2  direct
//   56x56    5    32.1 / 58.6  23.7 / 50.7    47.3 / 88.8  36.6 / 125   direct
//   112x112  5    136 / 299    93.4 / 184     204 / 414    143 / 330    direct
//
// The multiplications with Toeplitz matrices grow with the square of the width, but have next to no overhead. They are
// faster up to about 32 multiplications per number in the transform.
Algorithm choose_algorithm(const Plan& plan) {
  const Axis &height = plan.height, &width = plan.width;
  const int64_t multiplications =
      int64_t{height.extent} * std::min(height.extent, plan.kernel) * width.extent * width.extent;
  const int64_t transform = int64_t{height.tiles} * height.length * width.tiles * width.length;
  if (width.extent <= kMaxToeplitzWidth && multiplications <= 32 * transform) return Algorithm::toeplitz;
  if (plan.kernel <= 3 || (plan.kernel <= kMaxDirectKernel && width.extent >= 48)) return Algorithm::direct;
  return Algorithm::spectral;
}

}  // namespace

Plan make_plan(const Problem& problem) {
  Plan plan{};
  plan.kernel = static_cast<int>(problem.kernel);
  plan.height = plan_axis(problem.height, problem.kernel);
  plan.width = plan_axis(problem.width, problem.kernel);
  plan.algorithm = choose_algorithm(plan);
  if (plan.algorithm != Algorithm::spectral) plan.height.tiles = plan.width.tiles = 1;
  return plan;
}

}  // namespace ppreplk
