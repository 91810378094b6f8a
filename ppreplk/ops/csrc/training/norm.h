// Batch normalization in training with what follows it, and its gradients, independent of any framework.
//
// Tensors are rows of channels, float32: [images][pixels][channels]. For one branch or for the sum of two,
//
//   z = sum over branches of gamma * (x - mean) / sqrt(variance + epsilon) + beta
//   y = residual + keep[image] * z   or   y = activation(z)
//
// with mean and (biased) variance of each channel over all rows. They are computed without cancellation, in double
// where many numbers are summed. Results are the same from run to run and for every number of threads. NaN stays NaN.
#pragma once

#include <cstdint>

#include "activation.h"

namespace ppreplk {
namespace training {

struct Rows {
  int64_t images, pixels, channels;
};

struct Branch {
  const float* x;
  const float* gamma;
  const float* beta;
  float* mean;     // of this batch: written by `normalize`, read by `normalize_gradients`
  float* inv_std;  // likewise: 1 / sqrt(variance + epsilon)
};

// What `normalize` updates: running = momentum * running + (1 - momentum) * that of the batch.
struct Running {
  float* mean;
  float* variance;
};

// Of one branch. Either tensor of channels may be null.
struct Gradients {
  float* x;
  float* gamma;
  float* beta;
};

constexpr int kMaxBranches = 2;

// What follows the sum. `residual` and `keep` go together, without an activation.
struct Following {
  Activation activation;
  const float* residual;  // like x, or null
  const float* keep;      // [images], or null
};

void normalize(const Rows& rows, const Branch* branches, const Running* running, int count, const Following& following,
               float epsilon, float momentum, float* y, int threads);

// The gradient of the residual is dy.
void normalize_gradients(const Rows& rows, const Branch* branches, int count, const Following& following,
                         const float* dy, const Gradients* gradients, int threads);

}  // namespace training
}  // namespace ppreplk
