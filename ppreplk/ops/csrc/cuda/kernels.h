// What the interface asks of the three algorithms. Everything returns a code of depthwise.h.
#pragma once

#include "device.h"
#include "plan.h"

namespace ppreplk {
namespace cuda {

// Sums of parts of the batch: [parts][channels] planes of the taps that can touch the map, float32.
struct Partial {
  float* data;
  int parts, rows, columns;

  int64_t numbers(int channels) const { return int64_t{parts} * channels * rows * columns; }
};

// `flipped`: with the kernel turned by half a turn, which is the gradient of the input.
struct Forward {
  const void* x;
  int dtype;
  const void* weight;
  int weight_dtype;
  bool flipped;
  Results y;
  float* sums;        // of windows; y where that is float32. Spectral only.
  float* spectra;     // spectral only
  void* stream;
};

struct Gradient {
  const void *x, *dy;
  int dtype;
  Partial partial;
  const void* weight;  // with dx, for whole spectral plans only
  int weight_dtype;
  void* dx;        // or null
  float* spectra;  // with dx
  void* stream;
};

// The blocks that a kernel should at least have, where the problem is large enough: some for each of the
// multiprocessors of the largest GPUs. It does not depend on the device, so that sums do not either.
constexpr int64_t kManyBlocks = 1024;

int direct_forward(const Plan& plan, const Forward& task);
int direct_gradient(const Plan& plan, const Gradient& task);
Partial direct_partial(const Plan& plan);

int small_forward(const Plan& plan, const Forward& task);
int small_gradient(const Plan& plan, const Gradient& task);
Partial small_partial(const Plan& plan);

int spectral_forward(const Plan& plan, const Forward& task);
int spectral_gradient(const Plan& plan, const Gradient& task);
Partial spectral_partial(const Plan& plan);
int64_t spectra_floats(const Plan& plan);

}  // namespace cuda
}  // namespace ppreplk
