#include "dense.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <atomic>
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

int64_t onednn_version() {
  const dnnl_version_t* version = dnnl::version();
  return (int64_t{version->major} * 1000 + version->minor) * 1000 + version->patch;
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
  Type type;  // of the arithmetic
  Form form;
  Activation activation;
  bool residual;

  int64_t out_height() const { return strided(map.height, layer.stride); }
  int64_t out_width() const { return strided(map.width, layer.stride); }
  int64_t inputs() const { return map.batch * map.height * map.width * layer.in; }
  int64_t outputs() const { return map.batch * out_height() * out_width() * layer.out; }
  auto key() const {
    return std::make_tuple(layer.in, layer.out, layer.kernel, layer.stride, layer.groups, layer.dtype, map.batch,
                           map.height, map.width, type, form, activation, residual);
  }
};

memory::desc plain_weights(const Layer& layer, Form form, Type type) {
  if (form == Form::product) return {{layer.in, layer.out}, type, Tag::ba};
  if (layer.groups == 1) return {{layer.out, layer.in, layer.kernel, layer.kernel}, type, Tag::oihw};
  return {{layer.groups, layer.out / layer.groups, layer.in / layer.groups, layer.kernel, layer.kernel},
          type,
          Tag::goihw};
}

// The description of the weights with a layout of oneDNN's choice.
memory::desc any_weights(const Problem& problem) {
  return {plain_weights(problem.layer, problem.form, problem.type).get_dims(), problem.type, Tag::any};
}

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

// What oneDNN would run; it generates code only for primitives.
dnnl::primitive_desc plan(const Problem& problem, const memory::desc& weights) {
  const Layer& layer = problem.layer;
  const Map& map = problem.map;
  const Type type = problem.type;
  if (problem.form == Form::product) {
    const int64_t rows = map.batch * map.height * map.width;
    const memory::desc target({rows, layer.out}, type, Tag::ab);
    return dnnl::matmul::primitive_desc(cpu(), {{rows, layer.in}, type, Tag::ab}, weights,
                                        {{1, layer.out}, Type::f32, Tag::ab}, target, attributes(problem, target));
  }
  const memory::desc target({map.batch, layer.out, problem.out_height(), problem.out_width()}, type, Tag::nhwc);
  const memory::dims stride{layer.stride, layer.stride}, pad{layer.kernel / 2, layer.kernel / 2};
  // The padding at the end that makes the strided output fit, which may be less than at the beginning.
  const memory::dims pad_end{(problem.out_height() - 1) * layer.stride + layer.kernel - map.height - pad[0],
                             (problem.out_width() - 1) * layer.stride + layer.kernel - map.width - pad[1]};
  return dnnl::convolution_forward::primitive_desc(
      cpu(), dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct,
      {{map.batch, layer.in, map.height, map.width}, type, Tag::nhwc}, weights, {{layer.out}, Type::f32, Tag::a},
      target, stride, pad, pad_end, attributes(problem, target));
}

std::string implementation_of(const dnnl::primitive_desc& plan) { return plan.impl_info_str(); }

bool starts_with(const std::string& text, const char* begin) { return text.rfind(begin, 0) == 0; }

// oneDNN's reference code is slower than anything else by orders of magnitude.
bool is_reference(const dnnl::primitive_desc& plan) { return starts_with(implementation_of(plan), "ref"); }

// What to compute in: bfloat16 where that is wanted and oneDNN has code for it.
Type type_for(Problem problem) {
  if (problem.layer.dtype == Dtype::float32 || !has_bfloat16()) return Type::f32;
  problem.type = Type::bf16;
  try {
    return is_reference(plan(problem, any_weights(problem))) ? Type::f32 : Type::bf16;
  } catch (const dnnl::error& error) {
    if (error.status != dnnl_unimplemented) throw;
    return Type::f32;
  }
}

struct Planned {
  dnnl::primitive_desc plan;
  Type type;
};

// The plan for weights of this description; where oneDNN would compute that by its reference code or not
// at all, for weights in a layout of its own choice; and where it has no code for bfloat16, in float32.
Planned plan_for(Problem problem, const memory::desc& weights) {
  try {
    const dnnl::primitive_desc found = plan(problem, weights);
    if (!is_reference(found)) return {found, problem.type};
  } catch (const dnnl::error& error) {
    if (error.status != dnnl_unimplemented) throw;
  }
  problem.type = type_for(problem);
  return {plan(problem, any_weights(problem)), problem.type};
}

memory::desc weights_of(const dnnl::primitive_desc& plan) { return plan.query_md(dnnl::query::weights_md, 0); }

struct Primitive {
  explicit Primitive(const Planned& planned)
      : type(planned.type),
        source(planned.plan.query_md(dnnl::query::src_md)),
        weights(weights_of(planned.plan)),
        bias(planned.plan.query_md(dnnl::query::weights_md, 1)),
        target(planned.plan.query_md(dnnl::query::dst_md)),
        scratchpad(planned.plan.query_md(dnnl::query::scratchpad_md)),
        primitive(planned.plan) {}

  Type type;
  memory::desc source, weights, bias, target, scratchpad;
  dnnl::primitive primitive;
};

std::atomic<FormChoice> form_choice{FormChoice::automatic};

// The problem of packing for a map, solved in the form and type that suit it.
Problem choose(const Layer& layer, const Map& map) {
  Problem problem{layer, map, Type::f32, Form::convolution, Activation::none, false};
  if (layer.kernel == 1 && layer.stride == 1 && layer.groups == 1 && form_choice != FormChoice::convolution) {
    problem.form = Form::product;
    problem.type = type_for(problem);
    if (form_choice == FormChoice::product) return problem;
    if (starts_with(implementation_of(plan(problem, any_weights(problem))), "brg")) return problem;
    problem.form = Form::convolution;
  }
  problem.type = type_for(problem);
  return problem;
}

// ---------------------------------------------------------------- packed weights

// At the head of packed weights.
struct Header {
  int64_t magic = 0x65736e65646b6c72;  // "rlkdense"
  int64_t version = onednn_version();  // the description of a layout is its own
  int64_t bytes = 0, payload = 0;      // of everything; where the weights begin
  int64_t in = 0, out = 0, kernel = 0, stride = 0, groups = 0;
  Dtype dtype = Dtype::float32;
  Type type = Type::undef;
  Form form = Form::convolution;
  int32_t description_bytes = 0;
  uint64_t checksum = 0;  // of the rest of the header and the description

  auto layer() const { return std::tie(in, out, kernel, stride, groups, dtype); }
};

// FNV-1a.
uint64_t hash(uint64_t from, const void* data, size_t bytes) {
  const auto* begin = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < bytes; ++i) from = (from ^ begin[i]) * 0x100000001b3;
  return from;
}

uint64_t checksum_of(Header header, const std::vector<uint8_t>& description) {
  header.checksum = 0;
  return hash(hash(0xcbf29ce484222325, &header, sizeof header), description.data(), description.size());
}

constexpr int64_t kLine = 64;
int64_t in_lines(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

int64_t payload_after(int64_t description_bytes) {
  return in_lines(static_cast<int64_t>(sizeof(Header)) + description_bytes);
}

int64_t payload_bytes(const memory::desc& desc) { return in_lines(static_cast<int64_t>(desc.get_size())); }

Header header_for(const Layer& layer) {
  Header header;
  header.in = layer.in;
  header.out = layer.out;
  header.kernel = layer.kernel;
  header.stride = layer.stride;
  header.groups = layer.groups;
  header.dtype = layer.dtype;
  return header;
}

struct Packing {
  Packing(const Layer& layer, const Map& map)
      : problem(choose(layer, map)),
        desc(weights_of(plan(problem, any_weights(problem)))),
        description(desc.get_blob()),
        header(header_for(layer)) {
    header.description_bytes = static_cast<int32_t>(description.size());
    header.payload = payload_after(header.description_bytes);
    header.bytes = header.payload + payload_bytes(desc);
    header.type = problem.type;
    header.form = problem.form;
    header.checksum = checksum_of(header, description);
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
  check(layer.groups > 0, "the number of groups must be positive");
  check(layer.in > 0 && layer.out > 0, "there must be channels");
  check(layer.in % layer.groups == 0 && layer.out % layer.groups == 0, "groups must divide the channels");
  check(layer.kernel > 0 && layer.kernel % 2 == 1, "the kernel must be odd");
  check(layer.stride > 0, "the stride must be positive");
  check(map.batch >= 0 && map.height > 0 && map.width > 0, "the map must not be empty");
}

// Packed weights, of which everything but the numbers has been checked.
struct Packed {
  Packed(const Layer& layer, const void* data, int64_t bytes) {
    const auto* begin = static_cast<const uint8_t*>(data);
    check(bytes >= static_cast<int64_t>(sizeof header), "the packed weights are too short");
    std::memcpy(&header, begin, sizeof header);
    check(header.magic == Header().magic, "these are no packed weights");
    check(header.version == onednn_version(), "the weights were packed by another version of oneDNN");
    check(header.bytes == bytes, "packed weights of another size");
    check(header.layer() == header_for(layer).layer(), "the weights were packed for another layer");
    const bool pointwise = layer.kernel == 1 && layer.stride == 1 && layer.groups == 1;
    check(header.form == Form::convolution || (header.form == Form::product && pointwise), "packed in an unknown form");
    check(header.type == Type::f32 || (header.type == Type::bf16 && layer.dtype == Dtype::bfloat16 && has_bfloat16()),
          "the weights were packed for another processor");
    memory::desc plain = plain_weights(layer, header.form, header.type);
    check(header.description_bytes == static_cast<int64_t>(plain.get_blob().size()) &&
              header.payload == payload_after(header.description_bytes) && header.payload <= bytes,
          "the packed weights have a broken header");
    description.assign(begin + sizeof header, begin + sizeof header + header.description_bytes);
    check(header.checksum == checksum_of(header, description), "the packed weights have a broken header");
    desc = memory::desc(description);
    check(desc.get_dims() == plain.get_dims() && desc.get_data_type() == header.type &&
              header.payload + payload_bytes(desc) == bytes,
          "the packed weights have a broken header");
    weights = begin + header.payload;
  }

  Header header;
  std::vector<uint8_t> description;
  memory::desc desc;
  const void* weights;
};

// Primitives are created once for each problem, number of threads, and layout of the weights.
class Cache {
 public:
  std::shared_ptr<const Primitive> find(const Problem& problem, const Packed& packed) {
    const Key key{problem.key(), omp_get_max_threads(), packed.description};
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = primitives_.find(key);
      if (found != primitives_.end()) return found->second;
    }
    // Code is generated without the lock: others need not wait for it.
    const auto created = std::make_shared<const Primitive>(plan_for(problem, packed.desc));
    const std::lock_guard<std::mutex> lock(mutex_);
    if (primitives_.size() >= kMost) primitives_.clear();
    return primitives_.emplace(key, created).first->second;
  }

 private:
  using Key = std::tuple<decltype(Problem().key()), int, std::vector<uint8_t>>;

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
  // What oneDNN will use, which an environment variable of its own can lower. A set contains another
  // where its number has all the other's bits.
  static const bool found = [] {
    const int set = static_cast<int>(dnnl::get_effective_cpu_isa());
    const int needed = static_cast<int>(dnnl::cpu_isa::avx512_core_bf16);
    return (set & needed) == needed;
  }();
  return found;
#else
  return false;
#endif
}

std::string mismatch(int major, int minor, unsigned runtime) {
  if (runtime != DNNL_RUNTIME_OMP) return "Paddle's oneDNN is not built for OpenMP";
  if (major == DNNL_VERSION_MAJOR && minor >= DNNL_VERSION_MINOR) return "";
  const std::string needed = std::to_string(DNNL_VERSION_MAJOR) + ".";
  return "Paddle's oneDNN is " + std::to_string(major) + "." + std::to_string(minor) + ", needed is " + needed +
         std::to_string(DNNL_VERSION_MINOR) + " or a later " + needed + "x";
}

std::string mismatch() {
  const dnnl_version_t* loaded = dnnl::version();
  return mismatch(loaded->major, loaded->minor, loaded->cpu_runtime);
}

void choose_form(FormChoice choice) { form_choice = choice; }

std::string implementation(const Layer& layer, const Map& packed_for, const Map& map, Activation activation,
                           bool residual) {
  check(layer, packed_for);
  check(layer, map);
  const Packing packing(layer, packed_for);
  const Problem problem{layer, map, packing.header.type, packing.header.form, activation, residual};
  const Planned planned = plan_for(problem, packing.desc);
  std::string text = problem.form == Form::product ? "product " : "convolution ";
  text += implementation_of(planned.plan) + (planned.type == Type::bf16 ? " bf16" : " f32");
  return text + (weights_of(planned.plan) == packing.desc ? "" : " repacked");
}

void pack(const Layer& layer, const Map& map, const float* weight, const std::function<void*(int64_t)>& allocate) {
  check(layer, map);
  const Packing packing(layer, map);
  char* out = static_cast<char*>(allocate(packing.header.bytes));
  std::memset(out, 0, packing.header.bytes);
  std::memcpy(out, &packing.header, sizeof packing.header);
  std::memcpy(out + sizeof packing.header, packing.description.data(), packing.description.size());
  std::vector<float> rounded;
  if (layer.dtype == Dtype::bfloat16) {
    rounded.assign(weight, weight + layer.out * (layer.in / layer.groups) * layer.kernel * layer.kernel);
    for (float& value : rounded) value = widen(narrow(value));
    weight = rounded.data();
  }
  reorder(plain_weights(layer, packing.problem.form, Type::f32), weight, packing.desc, out + packing.header.payload);
}

void run(const Layer& layer, const Map& map, const void* x, const void* packed, int64_t packed_bytes,
         const float* bias, const void* residual, Activation activation, void* y) {
  check(layer, map);
  const Packed from(layer, packed, packed_bytes);
  if (map.batch == 0) return;
  const Problem problem{layer, map, from.header.type, from.header.form, activation, residual != nullptr};
  const std::shared_ptr<const Primitive> primitive = cache().find(problem, from);
  const void* weights = from.weights;
  if (primitive->weights != from.desc) {
    void* repacked = thread_memory(kWeights, static_cast<int64_t>(primitive->weights.get_size()));
    reorder(from.desc, weights, primitive->weights, repacked);
    weights = repacked;
  }
  if (layer.dtype == Dtype::bfloat16 && primitive->type == Type::f32) {
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
