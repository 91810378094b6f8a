#include "int8_products.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "bfloat16.h"
#include "kept_primitives.h"
#include "openmp.h"
#include "packed_weights.h"
#include "problem.h"
#include "quantize.h"
#include "runtime.h"

namespace ppreplk {
namespace channels_last {
namespace {

constexpr float kMaxWeight = 127.0f;

// Of the images that are computed at a time: their numbers, and those of the hidden layer. With eight images, whole
// batches took a fifth longer at 56x56, and pieces of a quarter of a megabyte a tenth.
constexpr int64_t kPieceBytes = 4 << 20;

// A product of rows of unsigned and columns of signed numbers, and what follows it.
struct Product {
  int64_t rows, in, out;
  Type target;  // u8: quantized again
  Activation activation;
  bool residual;
};

dnnl::primitive_desc plan(const Product& product, const memory::desc& weights) {
  const memory::desc target({product.rows, product.out}, product.target, Tag::ab);
  dnnl::primitive_attr attributes = attributes_for(product.activation, product.residual, target);
  attributes.set_scales_mask(DNNL_ARG_WEIGHTS, 1 << 1);
  if (product.target == Type::u8) {
    attributes.set_scales_mask(DNNL_ARG_DST, 0);
    attributes.set_zero_points_mask(DNNL_ARG_DST, 0);
  }
  return dnnl::matmul::primitive_desc(cpu(), {{product.rows, product.in}, Type::u8, Tag::ab}, weights,
                                      {{1, product.out}, Type::f32, Tag::ab}, target, attributes);
}

memory::desc any_weights(int64_t in, int64_t out) { return {{in, out}, Type::s8, Tag::any}; }

// The plan for weights of this description, else for weights in a layout of oneDNN's choice, else with a float32 result.
dnnl::primitive_desc plan_for(Product product, const memory::desc& weights) {
  const memory::desc any = any_weights(product.in, product.out);
  const auto attempt = [&](const memory::desc& desc) -> dnnl::primitive_desc {
    try {
      const dnnl::primitive_desc found = plan(product, desc);
      if (!is_reference(found)) return found;
    } catch (const dnnl::error& error) {
      if (error.status != dnnl_unimplemented) throw;
    }
    return {};
  };
  if (auto found = attempt(weights)) return found;
  if (auto found = attempt(any)) return found;
  if (product.target == Type::bf16) product.target = Type::f32;
  if (auto found = attempt(weights)) return found;
  if (auto found = attempt(any)) return found;
  return plan(product, any);
}

struct Kernel {
  explicit Kernel(const dnnl::primitive_desc& plan)
      : source(plan.query_md(dnnl::query::src_md)),
        weights(weights_of(plan)),
        bias(plan.query_md(dnnl::query::weights_md, 1)),
        target(plan.query_md(dnnl::query::dst_md)),
        scratchpad(plan.query_md(dnnl::query::scratchpad_md)),
        primitive(plan) {}

  memory::desc source, weights, bias, target, scratchpad;
  dnnl::primitive primitive;
};

struct Int8Header {
  int64_t magic = 0x38746e692d6b6c72;  // "rlk-int8"
  int64_t version = onednn_version();
  int64_t bytes = 0, in = 0, out = 0;
  int64_t scales = 0, offsets = 0, weights = 0;  // where they begin
  Range range{};
  int32_t integers = 0;  // or weights of float32 products, as `pack` makes them
  int32_t description_bytes = 0;
  uint64_t checksum = 0;  // of the rest of the header and the description
};

uint64_t checksum_of(Int8Header header, const std::vector<uint8_t>& description) {
  header.checksum = 0;
  return hash(hash(kHashStart, &header, sizeof header), description.data(), description.size());
}

// What stands where, for weights that take this number of bytes.
Int8Header header_for(const Layer& layer, const Range& range, bool integers, const std::vector<uint8_t>& description,
                      int64_t weights_bytes) {
  Int8Header header;
  header.in = layer.in;
  header.out = layer.out;
  header.range = range;
  header.integers = integers;
  header.description_bytes = static_cast<int32_t>(description.size());
  const int64_t floats = whole_lines(layer.out * int64_t{sizeof(float)});
  header.scales = whole_lines(static_cast<int64_t>(sizeof header) + header.description_bytes);
  header.offsets = header.scales + floats;
  header.weights = header.offsets + floats;
  header.bytes = header.weights + whole_lines(weights_bytes);
  header.checksum = checksum_of(header, description);
  return header;
}

// Packed weights in memory. The constructor checks everything but the numbers, and throws std::invalid_argument.
struct PackedInt8 {
  PackedInt8(const Layer& layer, const void* data, int64_t bytes) {
    const auto* begin = static_cast<const char*>(data);
    check(is_pointwise(layer), "the weights were packed for another layer");
    check(bytes >= static_cast<int64_t>(sizeof header), "the packed weights are too short");
    std::memcpy(&header, begin, sizeof header);
    check(header.magic == Int8Header().magic, "these are no packed weights");
    check(header.version == onednn_version(), "the weights were packed by another version of oneDNN");
    check(header.bytes == bytes, "packed weights of another size");
    check(header.in == layer.in && header.out == layer.out, "the weights were packed for another layer");
    check(!header.integers || has_int8(), "the weights were packed for another processor");
    const int64_t most = bytes - static_cast<int64_t>(sizeof header);
    check(header.description_bytes >= 0 && header.description_bytes <= most, "the packed weights have a broken header");
    const auto* from = reinterpret_cast<const uint8_t*>(begin) + sizeof header;
    description.assign(from, from + header.description_bytes);
    check(header.checksum == checksum_of(header, description), "the packed weights have a broken header");
    if (header.integers) desc = memory::desc(description);
    scales = reinterpret_cast<const float*>(begin + header.scales);
    offsets = reinterpret_cast<const float*>(begin + header.offsets);
    weights = begin + header.weights;
  }

  Int8Header header;
  std::vector<uint8_t> description;
  memory::desc desc;
  const float* scales;   // of the sums, for each output channel
  const float* offsets;  // of the bias: what the zero of the input takes from it
  const char* weights;
};

std::shared_ptr<const Kernel> kernel_for(const Product& product, const PackedInt8& packed) {
  using Key = std::tuple<int64_t, int64_t, int64_t, Type, Activation, bool, int, std::vector<uint8_t>>;
  static KeptPrimitives<Key, Kernel> kept;
  const Key key{product.rows,       product.in,       product.out,           product.target,
                product.activation, product.residual, omp_get_max_threads(), packed.description};
  return kept.find(key, [&] { return Kernel(plan_for(product, packed.desc)); });
}

// x as numbers; residual and y of the given type, or y of numbers too if `next` says how.
void multiply(Product product, Dtype dtype, const PackedInt8& packed, const uint8_t* x, const float* bias,
              const void* residual, const Quantization* next, void* y) {
  product.target = next ? Type::u8 : dtype == Dtype::bfloat16 ? Type::bf16 : Type::f32;
  const std::shared_ptr<const Kernel> found = kernel_for(product, packed);
  const Kernel& kernel = *found;
  const void* weights = packed.weights;
  if (kernel.weights != packed.desc) {
    void* repacked = thread_memory(kWeights, static_cast<int64_t>(kernel.weights.get_size()));
    reorder(packed.desc, weights, kernel.weights, repacked);
    weights = repacked;
  }
  auto* sums = static_cast<float*>(thread_memory(kBias, product.out * int64_t{sizeof(float)}));
  for (int64_t i = 0; i < product.out; ++i) sums[i] = bias[i] + packed.offsets[i];
  const int64_t outputs = product.rows * product.out;
  const bool narrowed_after = kernel.target.get_data_type() != product.target;
  void* to = y;
  if (narrowed_after) {
    to = thread_memory(kOutput, outputs * int64_t{sizeof(float)});
    if (residual) residual = widened(residual, outputs, kResidual);
  }
  const int64_t scratchpad_bytes = std::max<int64_t>(static_cast<int64_t>(kernel.scratchpad.get_size()), kLine);
  std::unordered_map<int, memory> arguments{
      {DNNL_ARG_SRC, at(kernel.source, x)},
      {DNNL_ARG_WEIGHTS, at(kernel.weights, weights)},
      {DNNL_ARG_BIAS, at(kernel.bias, sums)},
      {DNNL_ARG_DST, at(kernel.target, to)},
      {DNNL_ARG_SCRATCHPAD, at(kernel.scratchpad, thread_memory(kScratchpad, scratchpad_bytes))},
      {DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS, at({{product.out}, Type::f32, Tag::a}, packed.scales)},
  };
  if (residual) {
    arguments.emplace(DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, at(kernel.target, residual));
  }
  if (next) {
    arguments.emplace(DNNL_ARG_ATTR_SCALES | DNNL_ARG_DST, at({{1}, Type::f32, Tag::a}, &next->scale));
    arguments.emplace(DNNL_ARG_ATTR_ZERO_POINTS | DNNL_ARG_DST, at({{1}, Type::s32, Tag::a}, &next->zero));
  }
  kernel.primitive.execute(stream(), arguments);
  stream().wait();
  if (narrowed_after) narrow_all(static_cast<const float*>(to), outputs, y);
}

// The same on a processor without VNNI. x: the numbers minus zero.
void multiply_in_float32(const Layer& layer, const Map& map, const PackedInt8& packed, const float* x,
                         const float* bias, const void* residual, Activation activation, void* y) {
  const Layer float32{layer.in, layer.out, 1, 1, 1, Dtype::float32};
  const int64_t outputs = map.batch * map.height * map.width * layer.out;
  const bool narrows = layer.dtype == Dtype::bfloat16;
  if (residual && narrows) residual = widened(residual, outputs, kResidual);
  void* to = narrows ? thread_memory(kOutput, outputs * int64_t{sizeof(float)}) : y;
  run(float32, map, x, packed.weights, packed.header.bytes - packed.header.weights, bias, residual, activation, to);
  if (narrows) narrow_all(static_cast<const float*>(to), outputs, y);
}

int64_t size_of(Dtype dtype) { return dtype == Dtype::bfloat16 ? 2 : 4; }

// Calls `compute` for some images after others, with their map and the number of their first pixel.
template <class Compute>
void piece_by_piece(const Map& map, int64_t image_bytes, Compute compute) {
  const int64_t pixels = map.height * map.width, most = images_within(kPieceBytes, image_bytes);
  for (int64_t image = 0; image < map.batch;) {
    const int64_t count = std::min(most, images_at_once(map.batch - image, pixels));
    compute(Map{count, map.height, map.width}, image * pixels);
    image += count;
  }
}

}  // namespace

bool is_packed_int8(const void* packed, int64_t bytes) {
  int64_t magic = 0;
  if (bytes < static_cast<int64_t>(sizeof(Int8Header))) return false;
  std::memcpy(&magic, packed, sizeof magic);
  return magic == Int8Header().magic;
}

void pack_int8(const Layer& layer, const Map& map, const Range& range, const float* weight,
               const std::function<void*(int64_t)>& allocate) {
  check(layer, map);
  check(is_pointwise(layer), "8-bit integers are for pointwise layers");
  const Quantization input(range);
  std::vector<int8_t> numbers(layer.out * layer.in);
  std::vector<float> scales(layer.out), offsets(layer.out);
  for (int64_t o = 0; o < layer.out; ++o) {
    const float* from = weight + o * layer.in;
    float largest = 0.0f;
    for (int64_t i = 0; i < layer.in; ++i) {
      check(std::isfinite(from[i]), "weights of 8-bit integers must be finite");
      largest = std::max(largest, std::abs(from[i]));
    }
    const double scale = largest > 0.0f ? double{largest} / kMaxWeight : 1.0;
    int64_t sum = 0;
    for (int64_t i = 0; i < layer.in; ++i) {
      const auto number = static_cast<int8_t>(std::nearbyint(from[i] / scale));
      numbers[o * layer.in + i] = number;
      sum += number;
    }
    scales[o] = static_cast<float>(scale * input.scale);
    offsets[o] = static_cast<float>(-scale * input.scale * static_cast<double>(input.zero * sum));
    check(std::isfinite(scales[o]) && std::isfinite(offsets[o]), "weights times the range are too large for float32");
  }

  const Product product{map.batch * map.height * map.width, layer.in, layer.out, Type::f32, Activation::none, false};
  memory::desc desc;
  std::vector<uint8_t> description;
  std::vector<uint64_t> in_float32;  // as `pack` makes it
  int64_t bytes = 0;
  if (has_int8()) {
    desc = weights_of(plan_for(product, any_weights(layer.in, layer.out)));
    description = desc.get_blob();
    bytes = static_cast<int64_t>(desc.get_size());
  } else {
    std::vector<float> scaled(numbers.size());
    for (size_t i = 0; i < scaled.size(); ++i) scaled[i] = static_cast<float>(numbers[i]) * scales[i / layer.in];
    pack({layer.in, layer.out, 1, 1, 1, Dtype::float32}, map, Precision::fp32, scaled.data(), [&](int64_t needed) {
      bytes = needed;
      in_float32.resize((needed + 7) / 8);
      return in_float32.data();
    });
  }
  const Int8Header header = header_for(layer, range, has_int8(), description, bytes);
  char* out = static_cast<char*>(allocate(header.bytes));
  std::memset(out, 0, header.bytes);
  std::memcpy(out, &header, sizeof header);
  std::memcpy(out + sizeof header, description.data(), description.size());
  std::memcpy(out + header.scales, scales.data(), scales.size() * sizeof(float));
  std::memcpy(out + header.offsets, offsets.data(), offsets.size() * sizeof(float));
  if (header.integers) {
    reorder({{layer.in, layer.out}, Type::s8, Tag::ba}, numbers.data(), desc, out + header.weights);
  } else {
    std::memcpy(out + header.weights, in_float32.data(), bytes);
  }
}

void run_int8(const Layer& layer, const Map& map, const void* x, const void* packed, int64_t packed_bytes,
              const float* bias, const void* residual, Activation activation, void* y) {
  const PackedInt8 weights(layer, packed, packed_bytes);
  const Quantization input(weights.header.range);
  const int64_t size = size_of(layer.dtype), pixels = map.height * map.width;
  piece_by_piece(map, pixels * layer.in, [&](const Map& some, int64_t pixel) {
    const int64_t rows = some.batch * pixels, inputs = rows * layer.in;
    const char* from = static_cast<const char*>(x) + pixel * layer.in * size;
    const void* added = residual ? static_cast<const char*>(residual) + pixel * layer.out * size : nullptr;
    char* to = static_cast<char*>(y) + pixel * layer.out * size;
    if (weights.header.integers) {
      auto* numbers = static_cast<uint8_t*>(thread_memory(kInput, inputs));
      quantize(from, layer.dtype, inputs, input, numbers);
      const Product product{rows, layer.in, layer.out, Type::undef, activation, residual != nullptr};
      multiply(product, layer.dtype, weights, numbers, bias, added, nullptr, to);
    } else {
      auto* numbers = static_cast<float*>(thread_memory(kInput, inputs * int64_t{sizeof(float)}));
      quantize(from, layer.dtype, inputs, input, numbers);
      multiply_in_float32(layer, some, weights, numbers, bias, added, activation, to);
    }
  });
}

void feed_forward_int8(const Layer& first, const Layer& second, const Map& map, const void* x, const void* packed1,
                       int64_t bytes1, const float* bias1, const void* packed2, int64_t bytes2, const float* bias2,
                       void* y) {
  const PackedInt8 weights1(first, packed1, bytes1), weights2(second, packed2, bytes2);
  check(weights1.header.integers == weights2.header.integers, "the weights were packed for another processor");
  const Quantization input(weights1.header.range), between(weights2.header.range);
  const int64_t size = size_of(first.dtype), pixels = map.height * map.width;
  piece_by_piece(map, pixels * (first.in + first.out), [&](const Map& some, int64_t pixel) {
    const int64_t rows = some.batch * pixels, inputs = rows * first.in, outputs = rows * first.out;
    const char* from = static_cast<const char*>(x) + pixel * first.in * size;
    char* to = static_cast<char*>(y) + pixel * first.in * size;
    if (weights1.header.integers) {
      auto* numbers = static_cast<uint8_t*>(thread_memory(kInput, inputs));
      auto* hidden = static_cast<uint8_t*>(thread_memory(kHidden, outputs));
      quantize(from, first.dtype, inputs, input, numbers);
      multiply({rows, first.in, first.out, Type::undef, Activation::gelu, false}, first.dtype, weights1, numbers, bias1,
               nullptr, &between, hidden);
      multiply({rows, second.in, second.out, Type::undef, Activation::none, true}, second.dtype, weights2, hidden,
               bias2, from, nullptr, to);
    } else {
      auto* numbers = static_cast<float*>(thread_memory(kInput, inputs * int64_t{sizeof(float)}));
      auto* hidden = static_cast<float*>(thread_memory(kHidden, outputs * int64_t{sizeof(float)}));
      const Layer in_float32{first.in, first.out, 1, 1, 1, Dtype::float32};
      quantize(from, first.dtype, inputs, input, numbers);
      multiply_in_float32(in_float32, some, weights1, numbers, bias1, nullptr, Activation::gelu, hidden);
      quantize(hidden, Dtype::float32, outputs, between, hidden);
      multiply_in_float32(second, some, weights2, hidden, bias2, from, Activation::none, to);
    }
  });
}

std::string implementation_int8(const Layer& layer, const Map& packed_for, const Map& map, Activation activation,
                                bool residual) {
  const Layer float32{layer.in, layer.out, 1, 1, 1, Dtype::float32};
  if (!has_int8()) return implementation(float32, Precision::fp32, packed_for, map, activation, residual);
  Product product{packed_for.batch * packed_for.height * packed_for.width, layer.in, layer.out, Type::f32,
                  Activation::none, false};
  const memory::desc desc = weights_of(plan_for(product, any_weights(layer.in, layer.out)));
  const int64_t pixels = map.height * map.width;
  product = {images_at_once(map.batch, pixels) * pixels, layer.in, layer.out,
             layer.dtype == Dtype::bfloat16 ? Type::bf16 : Type::f32, activation, residual};
  const dnnl::primitive_desc found = plan_for(product, desc);
  return "matmul " + implementation_of(found) + " int8" + (weights_of(found) == desc ? "" : " repacked");
}

}  // namespace channels_last
}  // namespace ppreplk
