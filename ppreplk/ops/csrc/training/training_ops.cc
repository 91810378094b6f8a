// The layers of a channels-last network in training as operators of Paddle: checks around norm.h, pixels.h and
// depthwise.h. All activations are float32 and NHWC.
//
//   ppreplk_training_norm       X, Gamma, Beta, Mean, Variance; epsilon, momentum, activation   -> Out, BatchMean, InvStd
//   ppreplk_training_norm_sum   X, Gamma, Beta, Mean, Variance, Residual, Keep; epsilon, momentum   -> the same
//   ppreplk_training_norm_pair  X, Gamma, Beta, Mean, Variance and the same of a second branch; epsilon, momentum,
//                               activation   -> Out, BatchMean, InvStd, BatchMean2, InvStd2
//   ppreplk_training_depthwise  X, Weight; stride   -> Out
//   ppreplk_training_patches    X (NCHW); kernel, stride   -> Out (NHWC), without gradient
//
// Mean and Variance are running statistics, and are updated in place.

#include <string>
#include <vector>

#include "arguments.h"
#include "depthwise.h"
#include "depthwise_arguments.h"
#include "errors.h"
#include "norm.h"
#include "paddle/phi/api/all.h"
#include "pixels.h"
#include "strided.h"
#include "threads.h"

namespace {

using paddle::DataType;
using paddle::Tensor;
using ppreplk::Activation;
using ppreplk::activation_of;
using ppreplk::check_rank;
using ppreplk::checked;
using ppreplk::fail;
using ppreplk::Layout;
using ppreplk::Problem;
using ppreplk::strided;
using ppreplk::text_of;
using ppreplk::training::Branch;
using ppreplk::training::Following;
using ppreplk::training::Gradients;
using ppreplk::training::Map;
using ppreplk::training::Rows;
using ppreplk::training::Running;
using Shape = std::vector<int64_t>;
using Shapes = std::vector<Shape>;
using Types = std::vector<DataType>;

int threads() { return ppreplk::max_threads(); }

constexpr const char* kLayer = "a training layer";

void check_float32(const std::vector<Tensor>& tensors) {
  for (const Tensor& tensor : tensors) ppreplk::check_float32(tensor, "a tensor", kLayer);
}

Rows rows_of(const Tensor& x) {
  check_rank(x, 4, "X", kLayer);
  const Shape shape = x.shape();
  return {shape[0], shape[1] * shape[2], shape[3]};
}

void check_channels(const Rows& rows, const std::vector<Tensor>& tensors) {
  for (const Tensor& tensor : tensors) {
    if (tensor.shape() != Shape{rows.channels}) {
      fail("a training layer of " + std::to_string(rows.channels) + " channels got " + text_of(tensor.shape()));
    }
  }
}

void check_same(const Tensor& x, const Tensor& other) {
  if (x.shape() != other.shape()) {
    fail("tensors of a training layer must be alike, got " + text_of(x.shape()) + " and " + text_of(other.shape()));
  }
}

Tensor channels_like(const Tensor& x, const Rows& rows) {
  return paddle::empty({rows.channels}, DataType::FLOAT32, x.place());
}

Branch branch_of(const Tensor& x, const Tensor& gamma, const Tensor& beta, Tensor mean, Tensor inv_std) {
  return {x.data<float>(), gamma.data<float>(), beta.data<float>(), mean.data<float>(), inv_std.data<float>()};
}

// Handles of the same memory, which is written to.
Running running_of(Tensor mean, Tensor variance) { return {mean.data<float>(), variance.data<float>()}; }

// ---------------------------------------------------------------- batch normalization

std::vector<Tensor> norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& mean,
                         const Tensor& variance, float epsilon, float momentum, const std::string& activation) {
  check_float32({x, gamma, beta, mean, variance});
  const Rows rows = rows_of(x);
  check_channels(rows, {gamma, beta, mean, variance});
  const Following following{activation_of(activation), nullptr, nullptr};
  Tensor out = paddle::empty_like(x), batch_mean = channels_like(x, rows), inv_std = channels_like(x, rows);
  const Branch branch = branch_of(x, gamma, beta, batch_mean, inv_std);
  const Running running = running_of(mean, variance);
  checked([&] {
    ppreplk::training::normalize(rows, &branch, &running, 1, following, epsilon, momentum, out.data<float>(),
                                 threads());
  });
  return {out, batch_mean, inv_std};
}

std::vector<Tensor> one_branch_gradients(const Tensor& x, const Tensor& gamma, const Tensor& beta,
                                         const Tensor& batch_mean, const Tensor& inv_std, const Tensor& out_grad,
                                         const Following& following) {
  const Rows rows = rows_of(x);
  Tensor dx = paddle::empty_like(x), dgamma = channels_like(x, rows), dbeta = channels_like(x, rows);
  const Branch branch = branch_of(x, gamma, beta, batch_mean, inv_std);
  const Gradients gradients{dx.data<float>(), dgamma.data<float>(), dbeta.data<float>()};
  checked([&] {
    ppreplk::training::normalize_gradients(rows, &branch, 1, following, out_grad.data<float>(), &gradients, threads());
  });
  return {dx, dgamma, dbeta};
}

std::vector<Tensor> norm_grad(const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& batch_mean,
                              const Tensor& inv_std, const Tensor& out_grad, float, float,
                              const std::string& activation) {
  return one_branch_gradients(x, gamma, beta, batch_mean, inv_std, out_grad,
                              {activation_of(activation), nullptr, nullptr});
}

std::vector<Tensor> norm_sum(const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& mean,
                             const Tensor& variance, const Tensor& residual, const Tensor& keep, float epsilon,
                             float momentum) {
  check_float32({x, gamma, beta, mean, variance, residual, keep});
  const Rows rows = rows_of(x);
  check_channels(rows, {gamma, beta, mean, variance});
  check_same(x, residual);
  if (keep.shape() != Shape{rows.images}) fail("Keep needs a number for each image, got " + text_of(keep.shape()));
  const Following following{Activation::none, residual.data<float>(), keep.data<float>()};
  Tensor out = paddle::empty_like(x), batch_mean = channels_like(x, rows), inv_std = channels_like(x, rows);
  const Branch branch = branch_of(x, gamma, beta, batch_mean, inv_std);
  const Running running = running_of(mean, variance);
  checked([&] {
    ppreplk::training::normalize(rows, &branch, &running, 1, following, epsilon, momentum, out.data<float>(),
                                 threads());
  });
  return {out, batch_mean, inv_std};
}

std::vector<Tensor> norm_sum_grad(const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& keep,
                                  const Tensor& batch_mean, const Tensor& inv_std, const Tensor& out_grad, float,
                                  float) {
  std::vector<Tensor> gradients = one_branch_gradients(x, gamma, beta, batch_mean, inv_std, out_grad,
                                                       {Activation::none, nullptr, keep.data<float>()});
  // A copy: Paddle may add to a gradient in place.
  gradients.push_back(paddle::experimental::copy_to(out_grad, out_grad.place(), true));
  return gradients;
}

std::vector<Tensor> norm_pair(const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& mean,
                              const Tensor& variance, const Tensor& x2, const Tensor& gamma2, const Tensor& beta2,
                              const Tensor& mean2, const Tensor& variance2, float epsilon, float momentum,
                              const std::string& activation) {
  check_float32({x, gamma, beta, mean, variance, x2, gamma2, beta2, mean2, variance2});
  const Rows rows = rows_of(x);
  check_same(x, x2);
  check_channels(rows, {gamma, beta, mean, variance, gamma2, beta2, mean2, variance2});
  const Following following{activation_of(activation), nullptr, nullptr};
  Tensor out = paddle::empty_like(x);
  std::vector<Tensor> saved;
  for (int i = 0; i < 4; ++i) saved.push_back(channels_like(x, rows));
  const Branch branches[] = {branch_of(x, gamma, beta, saved[0], saved[1]),
                             branch_of(x2, gamma2, beta2, saved[2], saved[3])};
  const Running running[] = {running_of(mean, variance), running_of(mean2, variance2)};
  checked([&] {
    ppreplk::training::normalize(rows, branches, running, 2, following, epsilon, momentum, out.data<float>(),
                                 threads());
  });
  return {out, saved[0], saved[1], saved[2], saved[3]};
}

std::vector<Tensor> norm_pair_grad(const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& x2,
                                   const Tensor& gamma2, const Tensor& beta2, const Tensor& batch_mean,
                                   const Tensor& inv_std, const Tensor& batch_mean2, const Tensor& inv_std2,
                                   const Tensor& out_grad, float, float, const std::string& activation) {
  const Rows rows = rows_of(x);
  const Following following{activation_of(activation), nullptr, nullptr};
  Tensor dx = paddle::empty_like(x), dx2 = paddle::empty_like(x);
  std::vector<Tensor> sums;
  for (int i = 0; i < 4; ++i) sums.push_back(channels_like(x, rows));
  const Branch branches[] = {branch_of(x, gamma, beta, batch_mean, inv_std),
                             branch_of(x2, gamma2, beta2, batch_mean2, inv_std2)};
  const Gradients gradients[] = {{dx.data<float>(), sums[0].data<float>(), sums[1].data<float>()},
                                 {dx2.data<float>(), sums[2].data<float>(), sums[3].data<float>()}};
  checked([&] {
    ppreplk::training::normalize_gradients(rows, branches, 2, following, out_grad.data<float>(), gradients, threads());
  });
  return {dx, sums[0], sums[1], dx2, sums[2], sums[3]};
}

// ---------------------------------------------------------------- convolutions

Problem problem_of(const Tensor& x, const Tensor& weight, int stride) {
  if (stride < 1) fail("a training layer needs a positive stride, got " + std::to_string(stride));
  return ppreplk::problem_of(x, weight, Tensor(), Layout::nhwc);
}

Map map_of(const Problem& problem) { return {problem.batch, problem.height, problem.width, problem.channels}; }

Shape strided_shape(const Shape& x, int64_t channels, int stride) {
  return {x[0], strided(x[1], stride), strided(x[2], stride), channels};
}

std::vector<Tensor> depthwise(const Tensor& x, const Tensor& weight, int stride) {
  check_float32({x, weight});
  const Problem problem = problem_of(x, weight, stride);
  Tensor full = paddle::empty_like(x);
  checked([&] {
    ppreplk::forward(problem, ppreplk::Dtype::float32, Layout::nhwc, x.data(), weight.data<float>(), nullptr, false,
                     full.data(), threads());
  });
  if (stride == 1) return {full};
  Tensor out = paddle::empty(strided_shape(x.shape(), problem.channels, stride), DataType::FLOAT32, x.place());
  checked([&] {
    ppreplk::training::pick(map_of(problem), stride, full.data<float>(), out.data<float>(), threads());
  });
  return {out};
}

std::vector<Tensor> depthwise_grad(const Tensor& x, const Tensor& weight, const Tensor& out_grad, int stride) {
  const Problem problem = problem_of(x, weight, stride);
  Tensor dx = paddle::empty_like(x), dweight = paddle::empty_like(weight);
  Tensor dy = out_grad;
  if (stride != 1) {
    dy = paddle::empty_like(x);
    checked([&] {
      ppreplk::training::scatter(map_of(problem), stride, out_grad.data<float>(), dy.data<float>(), threads());
    });
  }
  checked([&] {
    ppreplk::backward(problem, ppreplk::Dtype::float32, Layout::nhwc, x.data(), weight.data<float>(), dy.data(),
                      dx.data(), dweight.data<float>(), threads());
  });
  return {dx, dweight};
}

std::vector<Tensor> patches(const Tensor& x, int kernel, int stride) {
  check_float32({x});
  const Shape shape = x.shape();
  if (shape.size() != 4 || kernel < 1 || kernel % 2 == 0 || stride < 1) {
    fail("patches need images (N, C, H, W), an odd kernel and a positive stride, got " + text_of(shape) + ", " +
         std::to_string(kernel) + " and " + std::to_string(stride));
  }
  const Map map{shape[0], shape[2], shape[3], shape[1]};
  Tensor out = paddle::empty(strided_shape({map.batch, map.height, map.width}, map.channels * kernel * kernel, stride),
                             DataType::FLOAT32, x.place());
  checked([&] {
    ppreplk::training::patches(map, kernel, stride, x.data<float>(), out.data<float>(), threads());
  });
  return {out};
}

// ---------------------------------------------------------------- shapes, for static graphs; the kernels check them

Shapes norm_shape(const Shape& x, const Shape& c, const Shape&, const Shape&, const Shape&, float, float,
                  const std::string&) {
  return {x, c, c};
}
Types norm_dtype(const DataType& x, const DataType&, const DataType&, const DataType&, const DataType&) {
  return {x, x, x};
}
Shapes norm_sum_shape(const Shape& x, const Shape& c, const Shape&, const Shape&, const Shape&, const Shape&,
                      const Shape&, float, float) {
  return {x, c, c};
}
Types norm_sum_dtype(const DataType& x, const DataType&, const DataType&, const DataType&, const DataType&,
                     const DataType&, const DataType&) {
  return {x, x, x};
}
Shapes norm_pair_shape(const Shape& x, const Shape& c, const Shape&, const Shape&, const Shape&, const Shape&,
                       const Shape&, const Shape&, const Shape&, const Shape&, float, float, const std::string&) {
  return {x, c, c, c, c};
}
Types norm_pair_dtype(const DataType& x, const DataType&, const DataType&, const DataType&, const DataType&,
                      const DataType&, const DataType&, const DataType&, const DataType&, const DataType&) {
  return {x, x, x, x, x};
}
Shapes depthwise_shape(const Shape& x, const Shape&, int stride) {
  if (x.size() != 4 || stride < 1) return {Shape(4, -1)};
  return {strided_shape(x, x[3], stride)};
}
Types depthwise_dtype(const DataType& x, const DataType&) { return {x}; }
Shapes patches_shape(const Shape& x, int kernel, int stride) {
  if (x.size() != 4 || stride < 1) return {Shape(4, -1)};
  return {strided_shape({x[0], x[2], x[3]}, x[1] < 0 ? -1 : x[1] * kernel * kernel, stride)};
}
Types patches_dtype(const DataType& x) { return {x}; }

}  // namespace

PD_BUILD_OP(ppreplk_training_norm)
    .Inputs({"X", "Gamma", "Beta", "Mean", "Variance"})
    .Outputs({"Out", "BatchMean", "InvStd"})
    .Attrs({"epsilon: float", "momentum: float", "activation: std::string"})
    .SetKernelFn(PD_KERNEL(norm))
    .SetInferShapeFn(PD_INFER_SHAPE(norm_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(norm_dtype));

PD_BUILD_GRAD_OP(ppreplk_training_norm)
    .Inputs({"X", "Gamma", "Beta", "BatchMean", "InvStd", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Gamma"), paddle::Grad("Beta")})
    .Attrs({"epsilon: float", "momentum: float", "activation: std::string"})
    .SetKernelFn(PD_KERNEL(norm_grad));

PD_BUILD_OP(ppreplk_training_norm_sum)
    .Inputs({"X", "Gamma", "Beta", "Mean", "Variance", "Residual", "Keep"})
    .Outputs({"Out", "BatchMean", "InvStd"})
    .Attrs({"epsilon: float", "momentum: float"})
    .SetKernelFn(PD_KERNEL(norm_sum))
    .SetInferShapeFn(PD_INFER_SHAPE(norm_sum_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(norm_sum_dtype));

PD_BUILD_GRAD_OP(ppreplk_training_norm_sum)
    .Inputs({"X", "Gamma", "Beta", "Keep", "BatchMean", "InvStd", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Gamma"), paddle::Grad("Beta"), paddle::Grad("Residual")})
    .Attrs({"epsilon: float", "momentum: float"})
    .SetKernelFn(PD_KERNEL(norm_sum_grad));

PD_BUILD_OP(ppreplk_training_norm_pair)
    .Inputs({"X", "Gamma", "Beta", "Mean", "Variance", "X2", "Gamma2", "Beta2", "Mean2", "Variance2"})
    .Outputs({"Out", "BatchMean", "InvStd", "BatchMean2", "InvStd2"})
    .Attrs({"epsilon: float", "momentum: float", "activation: std::string"})
    .SetKernelFn(PD_KERNEL(norm_pair))
    .SetInferShapeFn(PD_INFER_SHAPE(norm_pair_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(norm_pair_dtype));

PD_BUILD_GRAD_OP(ppreplk_training_norm_pair)
    .Inputs({"X", "Gamma", "Beta", "X2", "Gamma2", "Beta2", "BatchMean", "InvStd", "BatchMean2", "InvStd2",
             paddle::Grad("Out")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Gamma"), paddle::Grad("Beta"), paddle::Grad("X2"),
              paddle::Grad("Gamma2"), paddle::Grad("Beta2")})
    .Attrs({"epsilon: float", "momentum: float", "activation: std::string"})
    .SetKernelFn(PD_KERNEL(norm_pair_grad));

PD_BUILD_OP(ppreplk_training_depthwise)
    .Inputs({"X", "Weight"})
    .Outputs({"Out"})
    .Attrs({"stride: int"})
    .SetKernelFn(PD_KERNEL(depthwise))
    .SetInferShapeFn(PD_INFER_SHAPE(depthwise_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(depthwise_dtype));

PD_BUILD_GRAD_OP(ppreplk_training_depthwise)
    .Inputs({"X", "Weight", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Weight")})
    .Attrs({"stride: int"})
    .SetKernelFn(PD_KERNEL(depthwise_grad));

PD_BUILD_OP(ppreplk_training_patches)
    .Inputs({"X"})
    .Outputs({"Out"})
    .Attrs({"kernel: int", "stride: int"})
    .SetKernelFn(PD_KERNEL(patches))
    .SetInferShapeFn(PD_INFER_SHAPE(patches_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(patches_dtype));
