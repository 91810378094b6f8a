// What the dispatcher (norm.cpp) and the loops of each instruction set (norm.inl) share.
#pragma once

#include <cstdint>

#include "norm.h"

namespace ppreplk {
namespace training {

// The branches as the loops see them: z = sum of (x - mean) * scale, plus the betas of all in `shift`.
template <int kBranches>
struct Affine {
  const float* x[kBranches];
  const float* mean[kBranches];
  const float* scale[kBranches];
  const float* shift;
};

// All loops run over some rows, `stride` floats apart, and the channels from 0 to `channels`.
struct Part {
  int64_t stride, rows, channels;
};

template <int kBranches>
struct BranchLoops {
  // y = activation(z)
  void (*apply)(Activation, const Affine<kBranches>&, const Part&, float* y);
  // Adds dz and dz * (x - mean) to sums; dz may be left in `kept`, as the next function expects it.
  void (*sums)(Activation, const Affine<kBranches>&, const Part&, const float* dy, float keep, float* sum,
               float* const* product, float* kept);
  // dx = scale * (dz - average - (x - mean) * slope) for each branch
  void (*spread)(Activation, const Affine<kBranches>&, const Part&, const float* dy, float keep, const float* average,
                 const float* const* slope, float* const* dx);
};

struct Loops {
  // Mean and sum of squared distances from it, over a few rows.
  void (*block_statistics)(const float* x, const Part&, float* mean, float* squares);
  // Adds the statistics of a block to those of the `before` rows before it.
  void (*add_statistics)(const float* block_mean, const float* block_squares, int64_t rows, int64_t before,
                         int64_t channels, double* mean, double* squares);
  // y = residual + keep * z
  void (*apply_residual)(const Affine<1>&, const Part&, const float* residual, float keep, float* y);
  BranchLoops<1> one;
  BranchLoops<2> two;
};

}  // namespace training
}  // namespace ppreplk
