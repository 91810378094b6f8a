// How a problem is solved: the algorithm, and for transforms their length, tiles and windows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace ppreplk {
namespace cuda {

struct Problem {
  int batch, channels, height, width, kernel;
};

// One direction, solved with circular transforms. Outputs come in tiles, and taps of the kernel in windows; a tile of
// outputs and a window of taps need an input of tile + window - 1 numbers. Taps that touch no number of the map are cut
// off. With one tile and one window the input is the whole map, and the circle may be shorter by the padding: what
// wraps around meets zeros.
struct Axis {
  int extent, kernel, pad;  // of the map; taps left; taps before the middle one
  int tile, tiles, window, windows;
};

enum class Algorithm { direct, small, spectral };

struct Plan {
  Problem problem;
  Algorithm algorithm;
  int length;  // of the transforms, in both directions
  Axis height, width;

  int tiles() const { return height.tiles * width.tiles; }
  int windows() const { return height.windows * width.windows; }
  bool whole() const { return tiles() == 1 && windows() == 1; }
};

constexpr int kMaxKernel = 127;
constexpr int kMaxDirectKernel = 11;
constexpr int kMaxSmallExtent = 8;
constexpr int kMinSmallKernel = 9;

// Lengths of transforms; spectral.h has the factors.
constexpr int kLengths[] = {16, 24, 28, 32, 40, 42, 48, 56, 64, 72, 80, 96, 112, 128};

// Two planes are the real and the imaginary part of one array of complex numbers. The distance of its rows is odd, so
// that threads on one column use different banks of shared memory, and chosen so that of sixteen threads on consecutive
// numbers of a pass over rows about two share a bank at most.
constexpr int pitch_of(int length) { return length <= 24 ? length + 3 : length + 1; }
constexpr int64_t spectral_bytes(int length) { return int64_t{8} * length * pitch_of(length); }
constexpr int64_t kSpareBytes = 2 << 10;  // for roots and units, see spectral.h

inline Axis cut_axis(int extent, int kernel) {
  Axis axis{};
  axis.extent = extent;
  axis.kernel = std::min<int>(kernel, 2 * extent - 1);
  axis.pad = axis.kernel / 2;
  axis.tile = extent, axis.tiles = 1;
  axis.window = axis.kernel, axis.windows = 1;
  return axis;
}

// The fewest pairs of a tile and a window with circles of this length.
inline Axis divide_axis(Axis axis, int length) {
  if (length >= axis.extent + axis.pad) return axis;
  Axis best = axis;
  best.tiles = 0;
  for (int windows = 1; windows <= axis.kernel; ++windows) {
    const int window = (axis.kernel + windows - 1) / windows;
    if (window > length) continue;
    const int tile = length - window + 1;
    const int tiles = (axis.extent + tile - 1) / tile;
    if (!best.tiles || tiles * windows < best.tiles * best.windows) {
      best.tiles = tiles, best.tile = (axis.extent + tiles - 1) / tiles;
      best.windows = (axis.kernel + window - 1) / window, best.window = window;
    }
    if (tiles == 1) break;  // more windows only cost more
  }
  return best;
}

inline Algorithm choose_algorithm(const Problem& problem) {
  if (problem.kernel >= kMinSmallKernel && std::max(problem.height, problem.width) <= kMaxSmallExtent) {
    return Algorithm::small;
  }
  return problem.kernel <= kMaxDirectKernel ? Algorithm::direct : Algorithm::spectral;
}

// The least work: transforms, each of length^2 * (log2(length) + the passes that do no arithmetic).
inline Plan make_plan(const Problem& problem, int max_shared_bytes) {
  Plan plan{};
  plan.problem = problem;
  plan.algorithm = choose_algorithm(problem);
  const Axis height = cut_axis(problem.height, problem.kernel), width = cut_axis(problem.width, problem.kernel);
  plan.height = height, plan.width = width;
  if (plan.algorithm != Algorithm::spectral) return plan;
  double least = 0;
  for (const int length : kLengths) {
    if (spectral_bytes(length) + kSpareBytes > max_shared_bytes) break;
    Plan next = plan;
    next.length = length;
    next.height = divide_axis(height, length), next.width = divide_axis(width, length);
    const double pairs = std::ceil(0.5 * problem.batch * next.tiles()) * next.windows();
    const double work = pairs * length * length * (std::log10(length) / std::log10(2.0) + 4);
    if (!plan.length || work < least) plan = next, least = work;
    if (next.whole()) break;  // longer transforms only cost more
  }
  return plan;
}

}  // namespace cuda
}  // namespace ppreplk
