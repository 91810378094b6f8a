#include "dense.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"

namespace ppreplk {
namespace dense {
namespace {

using dnnl::memory;
using Type = memory::data_type;
using Tag = memory::format_tag;

dnnl::engine& cpu() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::stream& stream() {
  thread_local dnnl::stream stream(cpu());
  return stream;
}

// What oneDNN computes in.
Type arithmetic(Dtype dtype) {
  return dtype == Dtype::bfloat16 && has_bfloat16() ? Type::bf16 : Type::f32;
}

// ---------------------------------------------------------------- memory

// Memory that a thread keeps from call to call, for each of these purposes.
enum Purpose { kScratchpad, kInput, kResidual, kOutput, kWeights, kPurposes };

void* thread_memory(Purpose purpose, int64_t bytes) {
  constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(char* p) const { ::operator delete(p, kAlignment); }
  };
  struct Buffer {
    std::unique_ptr<char, Free> data;
    int64_t bytes = 0;
  };
  thread_local std::array<Buffer, kPurposes> buffers;
  Buffer& buffer = buffers[purpose];
  if (buffer.bytes < bytes) {
    buffer.data.reset();
    buffer.bytes = 0;
    buffer.data.reset(static_cast<char*>(::operator new(bytes, kAlignment)));
    buffer.bytes = bytes;
  }
  return buffer.data.get();
}

memory at(const memory::desc& desc, const void* data) { return {desc, cpu(), const_cast<void*>(data)}; }

void reorder(const memory::desc& from, const void* in, const memory::desc& to, void* out) {
  memory source = at(from, in), target = at(to, out);
  dnnl::reorder(source, target).execute(stream(), source, target);
  stream().wait();
}

// ---------------------------------------------------------------- bfloat16 in float32

float widen(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// To the nearest, ties to even; a NaN stays one.
uint16_t narrow(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded);
}

const void* widened(const void* data, int64_t count, Purpose purpose) {
  const auto* in = static_cast<const uint16_t*>(data);
  auto* out = static_cast<float*>(thread_memory(purpose, count * int64_t{sizeof(float)}));
#pragma omp parallel for
  for (int64_t i = 0; i < count; ++i) out[i] = widen(in[i]);
  return out;
}

// ---------------------------------------------------------------- primitives

// A convolution can run as oneDNN's convolution, or if it is pointwise as its matrix product. Of the
// two, the product is faster where oneDNN has a kernel of its newer kind for it ("brgemm"): its older one
// packs the weights at every call.
enum class Form : int32_t { convolution, product };

struct Problem {
  Layer layer;
  Map map;
  Form form;
  Activation activation;
  bool residual;

  int64_t out_height() const { return strided(map.height, layer.stride); }
  int64_t out_width() const { return strided(map.width, layer.stride); }
  int64_t inputs() const { return map.batch * map.height * map.width * layer.in; }
  int64_t outputs() const { return map.batch * out_height() * out_width() * layer.out; }
  auto key() const {
    return std::make_tuple(layer.in, layer.out, layer.kernel, layer.stride, layer.groups, layer.dtype, map.batch,
                           map.height, map.width, form, activation, residual);
  }
};

memory::desc plain_weights(const Problem& problem, Type type) {
  const Layer& layer = problem.layer;
  if (problem.form == Form::product) return {{layer.in, layer.out}, type, Tag::ba};
  if (layer.groups == 1) return {{layer.out, layer.in, layer.kernel, layer.kernel}, type, Tag::oihw};
  return {{layer.groups, layer.out / layer.groups, layer.in / layer.groups, layer.kernel, layer.kernel},
          type,
          Tag::goihw};
}

// The description of the weights with a form of oneDNN's choice.
memory::desc any_weights(const Problem& problem) {
  const Type type = arithmetic(problem.layer.dtype);
  return {plain_weights(problem, type).get_dims(), type, Tag::any};
}

struct Primitive {
  dnnl::primitive primitive;
  memory::desc source, weights, bias, target, scratchpad;
  std::string implementation;
};

dnnl::primitive_attr attributes(const Problem& problem, const memory::desc& target) {
  dnnl::post_ops post_ops;
  if (problem.residual) post_ops.append_binary(dnnl::algorithm::binary_add, target);
  if (problem.activation == Activation::relu) post_ops.append_eltwise(dnnl::algorithm::eltwise_relu, 0, 0);
  if (problem.activation == Activation::gelu) post_ops.append_eltwise(dnnl::algorithm::eltwise_gelu_erf, 0, 0);
  dnnl::primitive_attr result;
  result.set_post_ops(post_ops);
  // The library's own scratchpad belongs to the thread that created the primitive.
  result.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return result;
}

template <class Kind>
Primitive finish(const typename Kind::primitive_desc& desc) {
  return {Kind(desc),          desc.src_desc(), desc.weights_desc(), desc.bias_desc(),
          desc.dst_desc(), desc.scratchpad_desc(), desc.impl_info_str()};
}

Primitive create(const Problem& problem, const memory::desc& weights) {
  const Layer& layer = problem.layer;
  const Map& map = problem.map;
  const Type type = arithmetic(layer.dtype);
  if (problem.form == Form::product) {
    const int64_t rows = map.batch * map.height * map.width;
    const memory::desc target({rows, layer.out}, type, Tag::ab);
    return finish<dnnl::matmul>({cpu(), {{rows, layer.in}, type, Tag::ab}, weights,
                                 {{1, layer.out}, Type::f32, Tag::ab}, target, attributes(problem, target)});
  }
  const memory::desc target({map.batch, layer.out, problem.out_height(), problem.out_width()}, type, Tag::nhwc);
  const memory::dims stride{layer.stride, layer.stride}, pad{layer.kernel / 2, layer.kernel / 2};
  // The padding at the end that makes the strided output fit, which may be less than at the beginning.
  const memory::dims pad_end{(problem.out_height() - 1) * layer.stride + layer.kernel - map.height - pad[0],
                             (problem.out_width() - 1) * layer.stride + layer.kernel - map.width - pad[1]};
  return finish<dnnl::convolution_forward>(
      {cpu(), dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct,
       {{map.batch, layer.in, map.height, map.width}, type, Tag::nhwc}, weights,
       {{layer.out}, Type::f32, Tag::a}, target, stride, pad, pad_end, attributes(problem, target)});
}

bool is_reference(const Primitive& primitive) { return primitive.implementation.rfind("ref", 0) == 0; }

// The primitive for weights of this description, or with a description of its own where that would
// only be computed by oneDNN's reference code, or not at all.
Primitive create_for(const Problem& problem, const memory::desc& weights) {
  try {
    Primitive found = create(problem, weights);
    if (!is_reference(found)) return found;
  } catch (const dnnl::error& error) {
    if (error.status != dnnl_unimplemented) throw;
  }
  return create(problem, any_weights(problem));
}

Form choose_form(const Layer& layer, const Map& map) {
  if (layer.kernel != 1 || layer.stride != 1 || layer.groups != 1) return Form::convolution;
  const Problem product{layer, map, Form::product, Activation::none, false};
  const std::string implementation = create(product, any_weights(product)).implementation;
  return implementation.rfind("brg", 0) == 0 ? Form::product : Form::convolution;
}

// ---------------------------------------------------------------- packed weights

// At the head of packed weights. Everything from `magic` to `groups` must be as expected.
struct Header {
  int64_t magic = 0x65736e65646b6c72;  // "rlkdense"
  int64_t bytes, payload;              // of everything; where the weights begin
  int64_t in, out, kernel, stride, groups;
  Dtype dtype;
  Type type;
  Form form;
  int32_t description_bytes;
};

constexpr int64_t kLine = 64;
int64_t in_lines(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

struct Packing {
  Packing(const Layer& layer, const Map& map)
      : problem{layer, map, choose_form(layer, map), Activation::none, false},
        desc(create(problem, any_weights(problem)).weights),
        description(desc.get_blob()) {
    header.payload = in_lines(static_cast<int64_t>(sizeof header + description.size()));
    header.bytes = header.payload + in_lines(static_cast<int64_t>(desc.get_size()));
    header.in = layer.in;
    header.out = layer.out;
    header.kernel = layer.kernel;
    header.stride = layer.stride;
    header.groups = layer.groups;
    header.dtype = layer.dtype;
    header.type = arithmetic(layer.dtype);
    header.form = problem.form;
    header.description_bytes = static_cast<int32_t>(description.size());
  }

  Problem problem;
  memory::desc desc;
  std::vector<uint8_t> description;
  Header header;
};

void check(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(std::string("convolution: ") + message);
}

void check(const Layer& layer, const Map& map) {
  check(layer.in > 0 && layer.out > 0, "there must be channels");
  check(layer.groups > 0 && layer.in % layer.groups == 0 && layer.out % layer.groups == 0,
        "groups must divide the channels");
  check(layer.kernel > 0 && layer.kernel % 2 == 1, "the kernel must be odd");
  check(layer.stride > 0, "the stride must be positive");
  check(map.batch >= 0 && map.height > 0 && map.width > 0, "the map must not be empty");
}

Header checked_header(const Layer& layer, const void* packed, int64_t packed_bytes) {
  Header header;
  check(packed_bytes >= static_cast<int64_t>(sizeof header), "the packed weights are too short");
  std::memcpy(&header, packed, sizeof header);
  check(header.magic == Header().magic && header.bytes == packed_bytes, "these are no packed weights");
  check(std::tie(header.in, header.out, header.kernel, header.stride, header.groups, header.dtype) ==
            std::tie(layer.in, layer.out, layer.kernel, layer.stride, layer.groups, layer.dtype),
        "the weights were packed for another layer");
  check(header.type == arithmetic(layer.dtype), "the weights were packed for another processor");
  return header;
}

memory::desc description_of(const Header& header, const void* packed) {
  const auto* begin = static_cast<const uint8_t*>(packed) + sizeof header;
  return memory::desc(std::vector<uint8_t>(begin, begin + header.description_bytes));
}

// Primitives are created once for each problem, number of threads, and form of the weights.
class Cache {
 public:
  using Key = std::tuple<decltype(Problem().key()), int, std::vector<uint8_t>>;

  std::shared_ptr<const Primitive> find(const Problem& problem, const Header& header, const void* packed) {
    const auto* begin = static_cast<const uint8_t*>(packed) + sizeof header;
    const Key key{problem.key(), omp_get_max_threads(), {begin, begin + header.description_bytes}};
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = primitives_.find(key);
    if (found != primitives_.end()) return found->second;
    if (primitives_.size() >= kMost) primitives_.clear();
    return primitives_[key] = std::make_shared<const Primitive>(create_for(problem, description_of(header, packed)));
  }

 private:
  static constexpr size_t kMost = 4096;
  std::mutex mutex_;
  std::map<Key, std::shared_ptr<const Primitive>> primitives_;
};

Cache& cache() {
  static Cache cache;
  return cache;
}

void execute(const Problem& problem, const Primitive& primitive, const void* x, const void* weights, const float* bias,
             const void* residual, void* y) {
  std::unordered_map<int, memory> arguments{
      {DNNL_ARG_SRC, at(primitive.source, x)},
      {DNNL_ARG_WEIGHTS, at(primitive.weights, weights)},
      {DNNL_ARG_BIAS, at(primitive.bias, bias)},
      {DNNL_ARG_DST, at(primitive.target, y)},
      {DNNL_ARG_SCRATCHPAD,
       at(primitive.scratchpad,
          thread_memory(kScratchpad, std::max<int64_t>(static_cast<int64_t>(primitive.scratchpad.get_size()), kLine)))},
  };
  if (problem.residual) {
    arguments.emplace(DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, at(primitive.target, residual));
  }
  primitive.primitive.execute(stream(), arguments);
  stream().wait();
}

}  // namespace

// ---------------------------------------------------------------- public functions

bool has_bfloat16() {
#if defined(__x86_64__)
  // What oneDNN will use, which an environment variable of its own can lower. Of these sets, each
  // holds those before it except where AVX10 begins; all of them multiply bfloat16.
  static const bool found = [] {
    switch (dnnl::get_effective_cpu_isa()) {
      case dnnl::cpu_isa::avx512_core_bf16:
      case dnnl::cpu_isa::avx10_1_512:
      case dnnl::cpu_isa::avx10_1_512_amx:
      case dnnl::cpu_isa::avx10_1_512_amx_fp16:
        return true;
      default:
        return false;
    }
  }();
  return found;
#else
  return false;
#endif
}

const char* mismatch() {
  static const std::string reason = [] {
    const dnnl_version_t* loaded = dnnl::version();
    if (loaded->major == DNNL_VERSION_MAJOR && loaded->minor >= DNNL_VERSION_MINOR) return std::string();
    return "Paddle's oneDNN is " + std::to_string(loaded->major) + "." + std::to_string(loaded->minor) +
           ", the headers are those of " + std::to_string(DNNL_VERSION_MAJOR) + "." +
           std::to_string(DNNL_VERSION_MINOR);
  }();
  return reason.empty() ? nullptr : reason.c_str();
}

int64_t packed_bytes(const Layer& layer, const Map& map) {
  check(layer, map);
  return Packing(layer, map).header.bytes;
}

void pack(const Layer& layer, const Map& map, const float* weight, void* packed) {
  check(layer, map);
  const Packing packing(layer, map);
  char* out = static_cast<char*>(packed);
  std::memset(out, 0, packing.header.bytes);
  std::memcpy(out, &packing.header, sizeof packing.header);
  std::memcpy(out + sizeof packing.header, packing.description.data(), packing.description.size());
  std::vector<float> rounded;
  if (layer.dtype == Dtype::bfloat16) {
    rounded.assign(weight, weight + layer.out * (layer.in / layer.groups) * layer.kernel * layer.kernel);
    for (float& value : rounded) value = widen(narrow(value));
    weight = rounded.data();
  }
  reorder(plain_weights(packing.problem, Type::f32), weight, packing.desc, out + packing.header.payload);
}

void run(const Layer& layer, const Map& map, const void* x, const void* packed, int64_t packed_bytes,
         const float* bias, const void* residual, Activation activation, void* y) {
  check(layer, map);
  const Header header = checked_header(layer, packed, packed_bytes);
  if (map.batch == 0) return;
  const Problem problem{layer, map, header.form, activation, residual != nullptr};
  const std::shared_ptr<const Primitive> primitive = cache().find(problem, header, packed);
  const void* weights = static_cast<const char*>(packed) + header.payload;
  const memory::desc as_packed = description_of(header, packed);
  if (primitive->weights != as_packed) {
    void* repacked = thread_memory(kWeights, static_cast<int64_t>(primitive->weights.get_size()));
    reorder(as_packed, weights, primitive->weights, repacked);
    weights = repacked;
  }
  if (layer.dtype == Dtype::bfloat16 && header.type == Type::f32) {
    x = widened(x, problem.inputs(), kInput);
    if (residual) residual = widened(residual, problem.outputs(), kResidual);
    auto* sums = static_cast<float*>(thread_memory(kOutput, problem.outputs() * int64_t{sizeof(float)}));
    execute(problem, *primitive, x, weights, bias, residual, sums);
    auto* out = static_cast<uint16_t*>(y);
#pragma omp parallel for
    for (int64_t i = 0; i < problem.outputs(); ++i) out[i] = narrow(sums[i]);
  } else {
    execute(problem, *primitive, x, weights, bias, residual, y);
  }
}

void channels_last(const float* x, const Map& map, int64_t channels, Dtype dtype, void* y) {
  const int64_t pixels = map.height * map.width;
#pragma omp parallel for
  for (int64_t row = 0; row < map.batch * map.height; ++row) {
    const int64_t image = row / map.height, first = row % map.height * map.width;
    for (int64_t pixel = first; pixel < first + map.width; ++pixel) {
      for (int64_t channel = 0; channel < channels; ++channel) {
        const float value = x[(image * channels + channel) * pixels + pixel];
        const int64_t to = (image * pixels + pixel) * channels + channel;
        if (dtype == Dtype::bfloat16) {
          static_cast<uint16_t*>(y)[to] = narrow(value);
        } else {
          static_cast<float*>(y)[to] = value;
        }
      }
    }
  }
}

void pool(const void* x, const Map& map, int64_t channels, Dtype dtype, float* y) {
  const int64_t pixels = map.height * map.width;
  const float scale = 1.0f / static_cast<float>(pixels);
#pragma omp parallel for
  for (int64_t image = 0; image < map.batch; ++image) {
    float* sums = y + image * channels;
    std::fill_n(sums, channels, 0.0f);
    for (int64_t pixel = image * pixels; pixel < (image + 1) * pixels; ++pixel) {
      if (dtype == Dtype::bfloat16) {
        const auto* values = static_cast<const uint16_t*>(x) + pixel * channels;
        for (int64_t channel = 0; channel < channels; ++channel) sums[channel] += widen(values[channel]);
      } else {
        const auto* values = static_cast<const float*>(x) + pixel * channels;
        for (int64_t channel = 0; channel < channels; ++channel) sums[channel] += values[channel];
      }
    }
    for (int64_t channel = 0; channel < channels; ++channel) sums[channel] *= scale;
  }
}

}  // namespace dense
}  // namespace ppreplk
