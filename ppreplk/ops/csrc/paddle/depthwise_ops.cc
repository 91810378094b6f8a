// The depthwise convolution as operators of Paddle: checks and conversions around depthwise.h.
//
//   ppreplk_depthwise_conv          X, Weight                       -> Out, with gradients
//   ppreplk_depthwise_conv_bias     X, Weight, Bias                 -> Out, with gradients
//   ppreplk_depthwise_pack          Weight; height, width           -> Packed
//   ppreplk_depthwise_conv_packed   X, Weight, Packed, Bias?; relu  -> Out, for inference
//   ppreplk_depthwise_conv_packed_nhwc   the same with X and Out (N, H, W, C)
//
// Packing is an operator of its own: an inference program has constant weights, and packs them once when it is loaded.
// The packed convolution also takes the plain weights, and uses them for maps of another size than was packed for.

#include <string>
#include <vector>

#include "depthwise.h"
#include "depthwise_arguments.h"
#include "errors.h"
#include "openmp.h"
#include "outputs.h"
#include "paddle/phi/api/all.h"
#include "threads.h"

// Of every OpenMP runtime that GCC's code runs with. This library is linked with Paddle's.
extern "C" void GOMP_parallel(void (*body)(void*), void* context, unsigned threads, unsigned flags);

namespace {

using paddle::DataType;
using paddle::optional;
using paddle::Tensor;
using ppreplk::check_on_cpu;
using ppreplk::checked;
using ppreplk::Dtype;
using ppreplk::fail;
using ppreplk::is_depthwise_weight;
using ppreplk::Layout;
using ppreplk::output;
using ppreplk::Problem;
using ppreplk::problem_of;
using ppreplk::text_of;
using Shape = std::vector<int64_t>;

[[maybe_unused]] const bool is_set_up =
    (ppreplk::use_openmp({GOMP_parallel, omp_get_thread_num, omp_get_num_threads, omp_get_max_threads}), true);

// Paddle's number of math threads.
int threads() { return ppreplk::max_threads(); }

Dtype dtype_of(const Tensor& x) {
  switch (x.dtype()) {
    case DataType::FLOAT32: return Dtype::float32;
    case DataType::FLOAT16: return Dtype::float16;
    case DataType::BFLOAT16: return Dtype::bfloat16;
    default: fail("depthwise convolution of a dtype that is none of float32, float16, bfloat16");
  }
}

Tensor as(const Tensor& t, DataType dtype) { return t.dtype() == dtype ? t : paddle::experimental::cast(t, dtype); }

Tensor float32(const Tensor& t) { return as(t, DataType::FLOAT32); }

const float* data_or_null(const Tensor& t) { return t.initialized() ? t.data<float>() : nullptr; }

Tensor forward(const Tensor& x, const Tensor& weight, const Tensor& bias32, bool relu, Layout layout) {
  const Problem problem = problem_of(x, weight, bias32, layout);
  const Dtype dtype = dtype_of(x);
  const Tensor weight32 = float32(weight);
  Tensor out;
  checked([&] {
    out = output(x.shape(), x.dtype(), x.place());
    ppreplk::forward(problem, dtype, layout, x.data(), weight32.data<float>(), data_or_null(bias32), relu, out.data(),
                     threads());
  });
  return out;
}

std::vector<Tensor> conv(const Tensor& x, const Tensor& weight) {
  return {forward(x, weight, Tensor(), false, Layout::nchw)};
}

std::vector<Tensor> conv_bias(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return {forward(x, weight, float32(bias), false, Layout::nchw)};
}

std::vector<Tensor> conv_grad(const Tensor& x, const Tensor& weight, const Tensor& out_grad) {
  const Problem problem = problem_of(x, weight, Tensor(), Layout::nchw);
  const Dtype dtype = dtype_of(x);
  const Tensor weight32 = float32(weight);
  Tensor x_grad = paddle::empty_like(x);
  Tensor weight_grad = paddle::empty(weight.shape(), DataType::FLOAT32, x.place());
  checked([&] {
    ppreplk::backward(problem, dtype, Layout::nchw, x.data(), weight32.data<float>(), out_grad.data(), x_grad.data(),
                      weight_grad.data<float>(), threads());
  });
  return {x_grad, as(weight_grad, weight.dtype())};
}

std::vector<Tensor> conv_bias_grad(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& out_grad) {
  std::vector<Tensor> grads = conv_grad(x, weight, out_grad);
  const Tensor sum = paddle::experimental::sum(float32(out_grad), {0, 2, 3}, DataType::FLOAT32, false);
  grads.push_back(as(sum, bias.dtype()));
  return grads;
}

std::vector<Tensor> pack(const Tensor& weight, int height, int width) {
  check_on_cpu(weight, "Weight", "a depthwise convolution");
  const Shape shape = weight.shape();
  if (!is_depthwise_weight(shape)) fail("depthwise convolution packs weight (C, 1, K, K) with odd K, got " + text_of(shape));
  const Problem problem{1, shape[0], height, width, shape[2]};
  const Tensor weight32 = float32(weight);
  Tensor packed;
  checked([&] {
    packed = paddle::empty({ppreplk::packed_floats(problem)}, DataType::FLOAT32, weight.place());
    ppreplk::pack(problem, weight32.data<float>(), packed.data<float>(), threads());
  });
  return {packed};
}

std::vector<Tensor> conv_packed_in(Layout layout, const Tensor& x, const Tensor& weight, const Tensor& packed,
                                   const optional<Tensor>& bias, bool relu) {
  const Tensor bias32 = bias ? float32(*bias) : Tensor();
  const Problem problem = problem_of(x, weight, bias32, layout);
  const Dtype dtype = dtype_of(x);
  if (!checked([&] { return ppreplk::packed_fits(problem, packed.data<float>(), packed.numel()); })) {
    return {forward(x, weight, bias32, relu, layout)};
  }
  Tensor out;
  checked([&] {
    out = output(x.shape(), x.dtype(), x.place());
    ppreplk::forward_packed(problem, dtype, layout, x.data(), packed.data<float>(), data_or_null(bias32), relu,
                            out.data(), threads());
  });
  return {out};
}

std::vector<Tensor> conv_packed(const Tensor& x, const Tensor& weight, const Tensor& packed,
                                const optional<Tensor>& bias, bool relu) {
  return conv_packed_in(Layout::nchw, x, weight, packed, bias, relu);
}

std::vector<Tensor> conv_packed_nhwc(const Tensor& x, const Tensor& weight, const Tensor& packed,
                                     const optional<Tensor>& bias, bool relu) {
  return conv_packed_in(Layout::nhwc, x, weight, packed, bias, relu);
}

// The kernels check the shapes, since Paddle ends the process if one of the functions below throws in a static graph.
std::vector<Shape> conv_shape(const Shape& x, const Shape&) { return {x}; }
std::vector<DataType> conv_dtype(const DataType& x, const DataType&) { return {x}; }
std::vector<Shape> conv_bias_shape(const Shape& x, const Shape&, const Shape&) { return {x}; }
std::vector<DataType> conv_bias_dtype(const DataType& x, const DataType&, const DataType&) { return {x}; }
// The size of packed weights depends on the processor, and a program may move to another one.
std::vector<Shape> pack_shape(const Shape&, int, int) { return {{-1}}; }
std::vector<DataType> pack_dtype(const DataType&) { return {DataType::FLOAT32}; }
std::vector<Shape> packed_shape(const Shape& x, const Shape&, const Shape&, const optional<Shape>&, bool) {
  return {x};
}
std::vector<DataType> packed_dtype(const DataType& x, const DataType&, const DataType&, const optional<DataType>&) {
  return {x};
}

}  // namespace

PD_BUILD_OP(ppreplk_depthwise_conv)
    .Inputs({"X", "Weight"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(conv))
    .SetInferShapeFn(PD_INFER_SHAPE(conv_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(conv_dtype));

PD_BUILD_GRAD_OP(ppreplk_depthwise_conv)
    .Inputs({"X", "Weight", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Weight")})
    .SetKernelFn(PD_KERNEL(conv_grad));

PD_BUILD_OP(ppreplk_depthwise_conv_bias)
    .Inputs({"X", "Weight", "Bias"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(conv_bias))
    .SetInferShapeFn(PD_INFER_SHAPE(conv_bias_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(conv_bias_dtype));

PD_BUILD_GRAD_OP(ppreplk_depthwise_conv_bias)
    .Inputs({"X", "Weight", "Bias", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Weight"), paddle::Grad("Bias")})
    .SetKernelFn(PD_KERNEL(conv_bias_grad));

PD_BUILD_OP(ppreplk_depthwise_pack)
    .Inputs({"Weight"})
    .Outputs({"Packed"})
    .Attrs({"height: int", "width: int"})
    .SetKernelFn(PD_KERNEL(pack))
    .SetInferShapeFn(PD_INFER_SHAPE(pack_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(pack_dtype));

PD_BUILD_OP(ppreplk_depthwise_conv_packed)
    .Inputs({"X", "Weight", "Packed", paddle::Optional("Bias")})
    .Outputs({"Out"})
    .Attrs({"relu: bool"})
    .SetKernelFn(PD_KERNEL(conv_packed))
    .SetInferShapeFn(PD_INFER_SHAPE(packed_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(packed_dtype));

PD_BUILD_OP(ppreplk_depthwise_conv_packed_nhwc)
    .Inputs({"X", "Weight", "Packed", paddle::Optional("Bias")})
    .Outputs({"Out"})
    .Attrs({"relu: bool"})
    .SetKernelFn(PD_KERNEL(conv_packed_nhwc))
    .SetInferShapeFn(PD_INFER_SHAPE(packed_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(packed_dtype));
