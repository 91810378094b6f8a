// Pointwise convolutions in training as operators of Paddle: checks around training_products.h. Tensors are float32.
//
//   ppreplk_training_product          X, Weight   -> Out, with both gradients
//   ppreplk_training_product_input    the same, with the gradient of X alone
//   ppreplk_training_product_weight   the same, with the gradient of Weight alone
//
// X: (..., in). Weight: (out, ...) with `in` numbers for each output channel. Out: (..., out).

#include <string>
#include <vector>

#include "arguments.h"
#include "errors.h"
#include "openmp.h"
#include "paddle/phi/api/all.h"
#include "products.h"
#include "training_products.h"

namespace {

using paddle::DataType;
using paddle::Tensor;
using ppreplk::checked;
using ppreplk::fail;
using ppreplk::text_of;
using Shape = std::vector<int64_t>;
using Shapes = std::vector<Shape>;
using Types = std::vector<DataType>;
namespace amx = ppreplk::amx;

constexpr const char* kLayer = "a training product";

struct Sizes {
  int64_t rows, in, out;
};

Sizes sizes_of(const Tensor& x, const Tensor& weight) {
  ppreplk::check_float32(x, "X", kLayer);
  ppreplk::check_float32(weight, "Weight", kLayer);
  if (amx::backend() == amx::Backend::none) fail("this processor has no AMX, which a training product runs on");
  const Shape shape = x.shape(), kernel = weight.shape();
  const bool right = shape.size() > 1 && kernel.size() > 1 && weight.numel() > 0 && shape.back() > 0 &&
                     weight.numel() == kernel[0] * shape.back();
  if (!right) {
    fail("a training product needs x (..., in) and weight (out, in, ...), got " + text_of(shape) + " and " +
         text_of(kernel));
  }
  return {x.numel() / shape.back(), shape.back(), kernel[0]};
}

Shape out_shape(Shape x, const Shape& weight) {
  if (!x.empty() && !weight.empty()) x.back() = weight[0];
  return x;
}

std::vector<Tensor> product(const Tensor& x, const Tensor& weight) {
  const Sizes sizes = sizes_of(x, weight);
  Tensor out = paddle::empty(out_shape(x.shape(), weight.shape()), DataType::FLOAT32, x.place());
  checked([&] {
    amx::forward(x.data<float>(), sizes.rows, sizes.in, sizes.out, weight.data<float>(), out.data<float>(),
                 omp_get_max_threads());
  });
  return {out};
}

std::vector<Tensor> input_grad(const Tensor& x, const Tensor& weight, const Tensor& out_grad) {
  const Sizes sizes = sizes_of(x, weight);
  Tensor dx = paddle::empty_like(x);
  checked([&] {
    amx::input_gradient(out_grad.data<float>(), sizes.rows, sizes.in, sizes.out, weight.data<float>(),
                        dx.data<float>(), omp_get_max_threads());
  });
  return {dx};
}

std::vector<Tensor> weight_grad(const Tensor& x, const Tensor& weight, const Tensor& out_grad) {
  const Sizes sizes = sizes_of(x, weight);
  Tensor dweight = paddle::empty_like(weight);
  checked([&] {
    amx::weight_gradient(x.data<float>(), out_grad.data<float>(), sizes.rows, sizes.in, sizes.out,
                         dweight.data<float>(), omp_get_max_threads());
  });
  return {dweight};
}

std::vector<Tensor> product_grad(const Tensor& x, const Tensor& weight, const Tensor& out_grad) {
  return {input_grad(x, weight, out_grad)[0], weight_grad(x, weight, out_grad)[0]};
}

Shapes product_shape(const Shape& x, const Shape& weight) { return {out_shape(x, weight)}; }
Types product_dtype(const DataType& x, const DataType&) { return {x}; }

}  // namespace

#define PPREPLK_PRODUCT(name, gradient, ...)               \
  PD_BUILD_OP(name)                                        \
      .Inputs({"X", "Weight"})                             \
      .Outputs({"Out"})                                    \
      .SetKernelFn(PD_KERNEL(product))                     \
      .SetInferShapeFn(PD_INFER_SHAPE(product_shape))      \
      .SetInferDtypeFn(PD_INFER_DTYPE(product_dtype));     \
  PD_BUILD_GRAD_OP(name)                                   \
      .Inputs({"X", "Weight", paddle::Grad("Out")})        \
      .Outputs({__VA_ARGS__})                              \
      .SetKernelFn(PD_KERNEL(gradient))

PPREPLK_PRODUCT(ppreplk_training_product, product_grad, paddle::Grad("X"), paddle::Grad("Weight"));
PPREPLK_PRODUCT(ppreplk_training_product_input, input_grad, paddle::Grad("X"));
PPREPLK_PRODUCT(ppreplk_training_product_weight, weight_grad, paddle::Grad("Weight"));
