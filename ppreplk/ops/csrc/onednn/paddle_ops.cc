// The layers of a channels-last network as operators of Paddle: checks and conversions around channels_last.h.
// All activations are NHWC, float32 or bfloat16.
//
//   ppreplk_channels_last_images   X (NCHW); bfloat16                                              -> Out
//   ppreplk_channels_last_pack     Weight; height, width, stride, groups, bfloat16                 -> Packed
//   ppreplk_channels_last_pack_bf16x3    Weight; height, width, stride, groups                      -> Packed
//   ppreplk_channels_last_pack_int8      Weight; height, width, low, high                           -> Packed
//   ppreplk_channels_last_conv     X, Packed, Bias, Residual?; kernel, stride, groups, activation  -> Out
//   ppreplk_channels_last_feed_forward   X, Packed1, Bias1, Packed2, Bias2                          -> Out
//   ppreplk_channels_last_pool     X                                                               -> Out (N, C),
//   float32
//
// Packing is an operator of its own: an inference program has constant weights, and packs them once when it is loaded.
// Packed weights are bytes in a float32 tensor. Paddle passes constants of that type on unchanged, and aligns them to
// 64 bytes, which is fastest.

#include <exception>
#include <string>
#include <vector>

#include "arguments.h"
#include "channels_last.h"
#include "errors.h"
#include "outputs.h"
#include "paddle/phi/api/all.h"
#include "products.h"
#include "strided.h"

namespace {

using paddle::DataType;
using paddle::optional;
using paddle::Tensor;
using ppreplk::Activation;
using ppreplk::activation_of;
using ppreplk::check_on_cpu;
using ppreplk::checked;
using ppreplk::fail;
using ppreplk::output;
using ppreplk::strided;
using ppreplk::text_of;
using ppreplk::channels_last::Dtype;
using ppreplk::channels_last::Layer;
using ppreplk::channels_last::Map;
using ppreplk::channels_last::Precision;
using Shape = std::vector<int64_t>;

DataType data_type(Dtype dtype) { return dtype == Dtype::bfloat16 ? DataType::BFLOAT16 : DataType::FLOAT32; }

Dtype dtype_of(const Tensor& x) {
  if (x.dtype() == DataType::BFLOAT16) return Dtype::bfloat16;
  if (x.dtype() != DataType::FLOAT32) fail("a channels-last layer takes float32 or bfloat16");
  return Dtype::float32;
}

constexpr const char* kLayer = "a channels-last layer";

void check_rank(const Tensor& x, size_t rank, const char* name) {
  ppreplk::check_rank(x, rank, name, kLayer);
  check_on_cpu(x, name, kLayer);
}

void check_float32(const Tensor& x, const char* name) { ppreplk::check_float32(x, name, kLayer); }

void check_packed(const Tensor& packed, const Tensor& bias) {
  check_rank(packed, 1, "Packed");
  check_rank(bias, 1, "Bias");
  check_float32(packed, "Packed");
  check_float32(bias, "Bias");
}

std::vector<Tensor> images(const Tensor& x, bool bfloat16) {
  check_rank(x, 4, "X");
  check_float32(x, "X");
  const Shape shape = x.shape();
  const Dtype dtype = bfloat16 ? Dtype::bfloat16 : Dtype::float32;
  Tensor out = checked([&] { return output({shape[0], shape[2], shape[3], shape[1]}, data_type(dtype), x.place()); });
  ppreplk::channels_last::images(x.data<float>(), {shape[0], shape[2], shape[3]}, shape[1], dtype, out.data());
  return {out};
}

Layer layer_of(const Tensor& weight, int stride, int groups, Dtype dtype) {
  check_rank(weight, 4, "Weight");
  check_float32(weight, "Weight");
  const Shape shape = weight.shape();
  if (shape[2] != shape[3]) fail("the kernel of a channels-last layer must be square, got weight " + text_of(shape));
  return {shape[1] * groups, shape[0], shape[2], stride, groups, dtype};
}

// What `pack` writes into the memory that it asks its argument for.
template <class Pack>
Tensor packed_by(const phi::Place& place, Pack pack) {
  Tensor packed;
  checked([&] {
    pack([&](int64_t bytes) {
      packed = paddle::empty({bytes / static_cast<int64_t>(sizeof(float))}, DataType::FLOAT32, place);
      return packed.data<float>();
    });
  });
  return packed;
}

Tensor packed_for(const Tensor& weight, int height, int width, int stride, int groups, Precision precision) {
  const Dtype dtype = precision == Precision::bf16 ? Dtype::bfloat16 : Dtype::float32;
  const Layer layer = layer_of(weight, stride, groups, dtype);
  return packed_by(weight.place(), [&](const auto& allocate) {
    ppreplk::channels_last::pack(layer, {1, height, width}, precision, weight.data<float>(), allocate);
  });
}

std::vector<Tensor> pack(const Tensor& weight, int height, int width, int stride, int groups, bool bfloat16) {
  return {packed_for(weight, height, width, stride, groups, bfloat16 ? Precision::bf16 : Precision::fp32)};
}

std::vector<Tensor> pack_bf16x3(const Tensor& weight, int height, int width, int stride, int groups) {
  return {packed_for(weight, height, width, stride, groups, Precision::fp32_bf16x3)};
}

std::vector<Tensor> pack_int8(const Tensor& weight, int height, int width, float low, float high) {
  const Layer layer = layer_of(weight, 1, 1, Dtype::bfloat16);
  return {packed_by(weight.place(), [&](const auto& allocate) {
    ppreplk::channels_last::pack_int8(layer, {1, height, width}, {low, high}, weight.data<float>(), allocate);
  })};
}

std::vector<Tensor> conv(const Tensor& x, const Tensor& packed, const Tensor& bias, const optional<Tensor>& residual,
                         int kernel, int stride, int groups, const std::string& activation) {
  check_rank(x, 4, "X");
  check_packed(packed, bias);
  if (stride < 1) fail("the stride of a channels-last layer must be positive, got " + std::to_string(stride));
  const Shape shape = x.shape();
  const Layer layer{shape[3], bias.numel(), kernel, stride, groups, dtype_of(x)};
  const Map map{shape[0], shape[1], shape[2]};
  const Shape out_shape{map.batch, strided(map.height, stride), strided(map.width, stride), layer.out};
  if (residual && (residual->dtype() != x.dtype() || residual->shape() != out_shape)) {
    fail("the residual of a channels-last layer must be like its output " + text_of(out_shape) + ", got " +
         text_of(residual->shape()));
  }
  const Activation what = activation_of(activation);
  Tensor out;
  checked([&] {
    out = output(out_shape, x.dtype(), x.place());
    ppreplk::channels_last::run(layer, map, x.data(), packed.data<float>(),
                                packed.numel() * static_cast<int64_t>(sizeof(float)), bias.data<float>(),
                                residual ? residual->data() : nullptr, what, out.data());
  });
  return {out};
}

std::vector<Tensor> feed_forward(const Tensor& x, const Tensor& packed1, const Tensor& bias1, const Tensor& packed2,
                                 const Tensor& bias2) {
  check_rank(x, 4, "X");
  check_packed(packed1, bias1);
  check_packed(packed2, bias2);
  const Shape shape = x.shape();
  const int64_t channels = shape[3], hidden = bias1.numel();
  if (bias2.numel() != channels) fail("the second bias of a channels-last layer must have a number for each channel");
  const Layer first{channels, hidden, 1, 1, 1, dtype_of(x)}, second{hidden, channels, 1, 1, 1, dtype_of(x)};
  const auto bytes = [](const Tensor& packed) { return packed.numel() * static_cast<int64_t>(sizeof(float)); };
  Tensor out;
  checked([&] {
    out = output(shape, x.dtype(), x.place());
    ppreplk::channels_last::feed_forward(first, second, {shape[0], shape[1], shape[2]}, x.data(),
                                         packed1.data<float>(), bytes(packed1), bias1.data<float>(),
                                         packed2.data<float>(), bytes(packed2), bias2.data<float>(), out.data());
  });
  return {out};
}

std::vector<Tensor> pool(const Tensor& x) {
  check_rank(x, 4, "X");
  const Shape shape = x.shape();
  Tensor out = paddle::empty({shape[0], shape[3]}, DataType::FLOAT32, x.place());
  ppreplk::channels_last::pool(x.data(), {shape[0], shape[1], shape[2]}, shape[3], dtype_of(x), out.data<float>());
  return {out};
}

// The kernels check the shapes, since Paddle ends the process if one of the functions below throws in a static graph.
// If the inputs do not fit together, these say that the output has unknown size.
Shape unknown(size_t rank) { return Shape(rank, -1); }

std::vector<Shape> images_shape(const Shape& x, bool) {
  if (x.size() != 4) return {unknown(4)};
  return {{x[0], x[2], x[3], x[1]}};
}
std::vector<DataType> images_dtype(const DataType&, bool bfloat16) {
  return {bfloat16 ? DataType::BFLOAT16 : DataType::FLOAT32};
}
// The size of packed weights depends on the processor, and a program may move to another one.
std::vector<Shape> pack_shape(const Shape&, int, int, int, int, bool) { return {unknown(1)}; }
std::vector<DataType> pack_dtype(const DataType&) { return {DataType::FLOAT32}; }
std::vector<Shape> pack_bf16x3_shape(const Shape&, int, int, int, int) { return {unknown(1)}; }
std::vector<Shape> pack_int8_shape(const Shape&, int, int, float, float) { return {unknown(1)}; }
std::vector<Shape> conv_shape(const Shape& x, const Shape&, const Shape& bias, const optional<Shape>&, int, int stride,
                              int, const std::string&) {
  if (x.size() != 4 || bias.size() != 1 || stride < 1) return {unknown(4)};
  return {{x[0], strided(x[1], stride), strided(x[2], stride), bias[0]}};
}
std::vector<DataType> conv_dtype(const DataType& x, const DataType&, const DataType&, const optional<DataType>&) {
  return {x};
}
std::vector<Shape> feed_forward_shape(const Shape& x, const Shape&, const Shape&, const Shape&, const Shape&) {
  return {x};
}
std::vector<DataType> feed_forward_dtype(const DataType& x, const DataType&, const DataType&, const DataType&,
                                         const DataType&) {
  return {x};
}
std::vector<Shape> pool_shape(const Shape& x) {
  if (x.size() != 4) return {unknown(2)};
  return {{x[0], x[3]}};
}
std::vector<DataType> pool_dtype(const DataType&) { return {DataType::FLOAT32}; }

// Registers the operators under names with this prefix. PD_BUILD_OP does the same for one name.
void register_operators(const std::string& prefix) {
  using paddle::OpMetaInfoBuilder;
  OpMetaInfoBuilder(prefix + "images", 0)
      .Inputs({"X"})
      .Outputs({"Out"})
      .Attrs({"bfloat16: bool"})
      .SetKernelFn(PD_KERNEL(images))
      .SetInferShapeFn(PD_INFER_SHAPE(images_shape))
      .SetInferDtypeFn(PD_INFER_DTYPE(images_dtype));
  OpMetaInfoBuilder(prefix + "pack", 0)
      .Inputs({"Weight"})
      .Outputs({"Packed"})
      .Attrs({"height: int", "width: int", "stride: int", "groups: int", "bfloat16: bool"})
      .SetKernelFn(PD_KERNEL(pack))
      .SetInferShapeFn(PD_INFER_SHAPE(pack_shape))
      .SetInferDtypeFn(PD_INFER_DTYPE(pack_dtype));
  OpMetaInfoBuilder(prefix + "pack_bf16x3", 0)
      .Inputs({"Weight"})
      .Outputs({"Packed"})
      .Attrs({"height: int", "width: int", "stride: int", "groups: int"})
      .SetKernelFn(PD_KERNEL(pack_bf16x3))
      .SetInferShapeFn(PD_INFER_SHAPE(pack_bf16x3_shape))
      .SetInferDtypeFn(PD_INFER_DTYPE(pack_dtype));
  OpMetaInfoBuilder(prefix + "pack_int8", 0)
      .Inputs({"Weight"})
      .Outputs({"Packed"})
      .Attrs({"height: int", "width: int", "low: float", "high: float"})
      .SetKernelFn(PD_KERNEL(pack_int8))
      .SetInferShapeFn(PD_INFER_SHAPE(pack_int8_shape))
      .SetInferDtypeFn(PD_INFER_DTYPE(pack_dtype));
  OpMetaInfoBuilder(prefix + "feed_forward", 0)
      .Inputs({"X", "Packed1", "Bias1", "Packed2", "Bias2"})
      .Outputs({"Out"})
      .SetKernelFn(PD_KERNEL(feed_forward))
      .SetInferShapeFn(PD_INFER_SHAPE(feed_forward_shape))
      .SetInferDtypeFn(PD_INFER_DTYPE(feed_forward_dtype));
  OpMetaInfoBuilder(prefix + "conv", 0)
      .Inputs({"X", "Packed", "Bias", paddle::Optional("Residual")})
      .Outputs({"Out"})
      .Attrs({"kernel: int", "stride: int", "groups: int", "activation: std::string"})
      .SetKernelFn(PD_KERNEL(conv))
      .SetInferShapeFn(PD_INFER_SHAPE(conv_shape))
      .SetInferDtypeFn(PD_INFER_DTYPE(conv_dtype));
  OpMetaInfoBuilder(prefix + "pool", 0)
      .Inputs({"X"})
      .Outputs({"Out"})
      .SetKernelFn(PD_KERNEL(pool))
      .SetInferShapeFn(PD_INFER_SHAPE(pool_shape))
      .SetInferDtypeFn(PD_INFER_DTYPE(pool_dtype));
}

[[maybe_unused]] const bool registered = [] {
  register_operators("ppreplk_channels_last_");
  register_operators("ppreplk_dense_");  // their names in programs exported by version 0.1.0
  return true;
}();

}  // namespace

// For Python's ctypes.
extern "C" bool ppreplk_channels_last_has_bfloat16() { return ppreplk::channels_last::has_bfloat16(); }

extern "C" bool ppreplk_channels_last_has_int8() { return ppreplk::channels_last::has_int8(); }

// Null if these versions fit together. Texts are good until the thread's next call.
extern "C" const char* ppreplk_channels_last_mismatch_of(int major, int minor, unsigned runtime) {
  thread_local std::string text;
  text = ppreplk::channels_last::mismatch(major, minor, runtime);
  return text.empty() ? nullptr : text.c_str();
}

extern "C" const char* ppreplk_channels_last_mismatch() {
  thread_local std::string text;
  text = ppreplk::channels_last::mismatch();
  return text.empty() ? nullptr : text.c_str();
}

extern "C" void ppreplk_channels_last_choose_form(int choice) {
  ppreplk::channels_last::choose_form(static_cast<ppreplk::channels_last::FormChoice>(choice));
}

// Bytes of output memory that no tensor uses and that are kept for the next run, see outputs.h.
extern "C" int64_t ppreplk_channels_last_kept_bytes() {
  return static_cast<int64_t>(ppreplk::OutputMemory::instance().kept());
}

extern "C" void ppreplk_channels_last_release() { ppreplk::OutputMemory::instance().release(); }

// The backend of our own kernels, a number of amx::Backend.
extern "C" int ppreplk_channels_last_backend() { return static_cast<int>(ppreplk::amx::backend()); }

extern "C" bool ppreplk_channels_last_choose_backend(int backend) {
  return ppreplk::amx::choose_backend(static_cast<ppreplk::amx::Backend>(backend));
}

// Whether there is one; the text says which, or why not.
extern "C" bool ppreplk_channels_last_implementation(int64_t in, int64_t out, int64_t kernel, int64_t stride,
                                                     int64_t groups, int precision, const int64_t* packed_for,
                                                     const int64_t* map, int activation, bool residual,
                                                     const char** result) {
  thread_local std::string text;
  bool found = true;
  const auto how = static_cast<Precision>(precision);
  const Layer layer{in, out, kernel, stride, groups, how >= Precision::bf16 ? Dtype::bfloat16 : Dtype::float32};
  try {
    text =
        ppreplk::channels_last::implementation(layer, how, {packed_for[0], packed_for[1], packed_for[2]},
                                               {map[0], map[1], map[2]}, static_cast<Activation>(activation), residual);
  } catch (const std::exception& error) {
    text = error.what();
    found = false;
  }
  *result = text.c_str();
  return found;
}
