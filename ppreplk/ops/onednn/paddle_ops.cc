// The layers of an exported network as operators of Paddle: checks and conversions around dense.h.
// All activations are NHWC, float32 or bfloat16.
//
//   ppreplk_dense_images   X (NCHW); bfloat16                                    -> Out
//   ppreplk_dense_pack     Weight; height, width, stride, groups, bfloat16       -> Packed
//   ppreplk_dense_conv     X, Packed, Bias, Residual?; kernel, stride, groups, activation -> Out
//   ppreplk_dense_pool     X                                                     -> Out (N, C), float32
//
// Packing is an operator of its own so that an inference program, which has constant weights, packs
// once when it is loaded. Packed weights are bytes in a float32 tensor: that is the type in which Paddle
// passes constants on untouched, and its tensors are aligned to 64 bytes, as packed weights must be.

#include <exception>
#include <string>
#include <vector>

#include "dense.h"
#include "paddle/phi/api/all.h"

namespace {

using paddle::DataType;
using paddle::optional;
using paddle::Tensor;
using ppreplk::dense::Activation;
using ppreplk::dense::Dtype;
using ppreplk::dense::Layer;
using ppreplk::dense::Map;
using ppreplk::dense::strided;

// Paddle takes its own exceptions only; others would end the process.
template <class Call>
auto checked(Call call) {
  try {
    return call();
  } catch (const std::exception& error) {
    PD_THROW("ppreplk: ", error.what());
  }
}

DataType data_type(Dtype dtype) { return dtype == Dtype::bfloat16 ? DataType::BFLOAT16 : DataType::FLOAT32; }

Dtype dtype_of(const Tensor& x) {
  if (x.dtype() == DataType::BFLOAT16) return Dtype::bfloat16;
  if (x.dtype() != DataType::FLOAT32) PD_THROW("ppreplk: a dense layer takes float32 or bfloat16");
  return Dtype::float32;
}

using Shape = std::vector<int64_t>;

void check_rank(const Shape& shape, size_t rank, const char* name) {
  if (shape.size() != rank) {
    PD_THROW("ppreplk: ", name, " of a dense layer needs ", rank, " dimensions, it has ", shape.size());
  }
}

void check_stride(int stride) {
  if (stride < 1) PD_THROW("ppreplk: the stride of a dense layer must be positive, not ", stride);
}

Activation activation_of(const std::string& name) {
  if (name == "none") return Activation::none;
  if (name == "relu") return Activation::relu;
  if (name == "gelu") return Activation::gelu;
  PD_THROW("ppreplk: unknown activation ", name);
}

std::vector<Tensor> images(const Tensor& x, bool bfloat16) {
  check_rank(x.shape(), 4, "X");
  if (x.dtype() != DataType::FLOAT32) PD_THROW("ppreplk: images must be float32");
  const auto shape = x.shape();
  const Dtype dtype = bfloat16 ? Dtype::bfloat16 : Dtype::float32;
  Tensor out = paddle::empty({shape[0], shape[2], shape[3], shape[1]}, data_type(dtype), x.place());
  ppreplk::dense::channels_last(x.data<float>(), {shape[0], shape[2], shape[3]}, shape[1], dtype, out.data());
  return {out};
}

std::vector<Tensor> pack(const Tensor& weight, int height, int width, int stride, int groups, bool bfloat16) {
  check_rank(weight.shape(), 4, "Weight");
  if (weight.dtype() != DataType::FLOAT32) PD_THROW("ppreplk: weights must be float32");
  const auto shape = weight.shape();
  if (shape[2] != shape[3]) PD_THROW("ppreplk: the kernel of a dense layer must be square, not ", shape[2], "x", shape[3]);
  const Layer layer{shape[1] * groups, shape[0], shape[2], stride, groups,
                    bfloat16 ? Dtype::bfloat16 : Dtype::float32};
  const Map map{1, height, width};
  const int64_t bytes = checked([&] { return ppreplk::dense::packed_bytes(layer, map); });
  Tensor packed = paddle::empty({bytes / static_cast<int64_t>(sizeof(float))}, DataType::FLOAT32, weight.place());
  checked([&] { ppreplk::dense::pack(layer, map, weight.data<float>(), packed.data<float>()); });
  return {packed};
}

std::vector<Tensor> conv(const Tensor& x, const Tensor& packed, const Tensor& bias, const optional<Tensor>& residual,
                         int kernel, int stride, int groups, const std::string& activation) {
  check_rank(x.shape(), 4, "X");
  check_rank(bias.shape(), 1, "Bias");
  check_stride(stride);
  if (packed.dtype() != DataType::FLOAT32 || bias.dtype() != DataType::FLOAT32) {
    PD_THROW("ppreplk: packed weights and bias of a dense layer must be float32");
  }
  const auto shape = x.shape();
  const Layer layer{shape[3], bias.numel(), kernel, stride, groups, dtype_of(x)};
  const Map map{shape[0], shape[1], shape[2]};
  const std::vector<int64_t> out_shape{map.batch, strided(map.height, stride), strided(map.width, stride), layer.out};
  if (residual && (residual->dtype() != x.dtype() || residual->shape() != out_shape)) {
    PD_THROW("ppreplk: the residual of a dense layer must be like its output");
  }
  Tensor out = paddle::empty(out_shape, x.dtype(), x.place());
  checked([&] {
    ppreplk::dense::run(layer, map, x.data(), packed.data<float>(),
                        packed.numel() * static_cast<int64_t>(sizeof(float)), bias.data<float>(),
                        residual ? residual->data() : nullptr, activation_of(activation), out.data());
  });
  return {out};
}

std::vector<Tensor> pool(const Tensor& x) {
  check_rank(x.shape(), 4, "X");
  const auto shape = x.shape();
  Tensor out = paddle::empty({shape[0], shape[3]}, DataType::FLOAT32, x.place());
  ppreplk::dense::pool(x.data(), {shape[0], shape[1], shape[2]}, shape[3], dtype_of(x), out.data<float>());
  return {out};
}

int64_t strided_or_unknown(int64_t extent, int stride) { return extent < 0 ? -1 : strided(extent, stride); }

std::vector<Shape> images_shape(const Shape& x, bool) {
  check_rank(x, 4, "X");
  return {{x[0], x[2], x[3], x[1]}};
}
std::vector<DataType> images_dtype(const DataType&, bool bfloat16) {
  return {bfloat16 ? DataType::BFLOAT16 : DataType::FLOAT32};
}
// The size of the packed weights is the processor's affair, and a program moves from one to another.
std::vector<Shape> pack_shape(const Shape&, int, int, int, int, bool) { return {{-1}}; }
std::vector<DataType> pack_dtype(const DataType&) { return {DataType::FLOAT32}; }
std::vector<Shape> conv_shape(const Shape& x, const Shape&, const Shape& bias, const optional<Shape>&, int, int stride,
                              int, const std::string&) {
  check_rank(x, 4, "X");
  check_rank(bias, 1, "Bias");
  check_stride(stride);
  return {{x[0], strided_or_unknown(x[1], stride), strided_or_unknown(x[2], stride), bias[0]}};
}
std::vector<DataType> conv_dtype(const DataType& x, const DataType&, const DataType&, const optional<DataType>&) {
  return {x};
}
std::vector<Shape> pool_shape(const Shape& x) {
  check_rank(x, 4, "X");
  return {{x[0], x[3]}};
}
std::vector<DataType> pool_dtype(const DataType&) { return {DataType::FLOAT32}; }

}  // namespace

PD_BUILD_OP(ppreplk_dense_images)
    .Inputs({"X"})
    .Outputs({"Out"})
    .Attrs({"bfloat16: bool"})
    .SetKernelFn(PD_KERNEL(images))
    .SetInferShapeFn(PD_INFER_SHAPE(images_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(images_dtype));

PD_BUILD_OP(ppreplk_dense_pack)
    .Inputs({"Weight"})
    .Outputs({"Packed"})
    .Attrs({"height: int", "width: int", "stride: int", "groups: int", "bfloat16: bool"})
    .SetKernelFn(PD_KERNEL(pack))
    .SetInferShapeFn(PD_INFER_SHAPE(pack_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(pack_dtype));

PD_BUILD_OP(ppreplk_dense_conv)
    .Inputs({"X", "Packed", "Bias", paddle::Optional("Residual")})
    .Outputs({"Out"})
    .Attrs({"kernel: int", "stride: int", "groups: int", "activation: std::string"})
    .SetKernelFn(PD_KERNEL(conv))
    .SetInferShapeFn(PD_INFER_SHAPE(conv_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(conv_dtype));

PD_BUILD_OP(ppreplk_dense_pool)
    .Inputs({"X"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(pool))
    .SetInferShapeFn(PD_INFER_SHAPE(pool_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(pool_dtype));

// For Python's ctypes.
extern "C" bool ppreplk_dense_has_bfloat16() { return ppreplk::dense::has_bfloat16(); }
extern "C" const char* ppreplk_dense_mismatch() { return ppreplk::dense::mismatch(); }
extern "C" void ppreplk_dense_choose_form(int choice) {
  ppreplk::dense::choose_form(static_cast<ppreplk::dense::FormChoice>(choice));
}
// The text is good until the thread's next call.
extern "C" const char* ppreplk_dense_implementation(int64_t in, int64_t out, int64_t kernel, int64_t stride,
                                                    int64_t groups, bool bfloat16, int64_t batch, int64_t height,
                                                    int64_t width) {
  thread_local std::string text;
  const Layer layer{in, out, kernel, stride, groups, bfloat16 ? Dtype::bfloat16 : Dtype::float32};
  try {
    text = ppreplk::dense::implementation(layer, {batch, height, width});
  } catch (const std::exception& error) {
    text = error.what();
  }
  return text.c_str();
}
