// Running convolutions: primitives, created once and kept, and what goes in and out of them.
#include <algorithm>
#include <memory>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "channels_last.h"
#include "int8_products.h"
#include "kept_primitives.h"
#include "openmp.h"
#include "own_products.h"
#include "packed_weights.h"
#include "problem.h"
#include "runtime.h"

namespace ppreplk {
namespace channels_last {
namespace {

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

std::shared_ptr<const Primitive> primitive_for(const Problem& problem, const Packed& packed) {
  using Key = std::tuple<decltype(problem.key()), int, std::vector<uint8_t>>;
  static KeptPrimitives<Key, Primitive> kept;
  return kept.find({problem.key(), omp_get_max_threads(), packed.description},
                   [&] { return Primitive(plan_for(problem, packed.desc)); });
}

void execute(const Problem& problem, const Primitive& primitive, const void* x, const void* weights, const float* bias,
             const void* residual, void* y) {
  const int64_t scratchpad_bytes = std::max<int64_t>(static_cast<int64_t>(primitive.scratchpad.get_size()), kLine);
  std::unordered_map<int, memory> arguments{
      {DNNL_ARG_SRC, at(primitive.source, x)},
      {DNNL_ARG_WEIGHTS, at(primitive.weights, weights)},
      {DNNL_ARG_BIAS, at(primitive.bias, bias)},
      {DNNL_ARG_DST, at(primitive.target, y)},
      {DNNL_ARG_SCRATCHPAD, at(primitive.scratchpad, thread_memory(kScratchpad, scratchpad_bytes))},
  };
  if (problem.residual) {
    arguments.emplace(DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, at(primitive.target, residual));
  }
  primitive.primitive.execute(stream(), arguments);
  stream().wait();
}

void run_at_once(const Problem& problem, const Packed& from, const void* x, const float* bias, const void* residual,
                 void* y) {
  const std::shared_ptr<const Primitive> primitive = primitive_for(problem, from);
  const void* weights = from.weights;
  if (primitive->weights != from.desc) {
    void* repacked = thread_memory(kWeights, static_cast<int64_t>(primitive->weights.get_size()));
    reorder(from.desc, weights, primitive->weights, repacked);
    weights = repacked;
  }
  if (problem.layer.dtype == Dtype::bfloat16 && primitive->type == Type::f32) {
    x = widened(x, problem.inputs(), kInput);
    if (residual) residual = widened(residual, problem.outputs(), kResidual);
    auto* sums = static_cast<float*>(thread_memory(kOutput, problem.outputs() * int64_t{sizeof(float)}));
    execute(problem, *primitive, x, weights, bias, residual, sums);
    narrow_all(sums, problem.outputs(), y);
  } else {
    execute(problem, *primitive, x, weights, bias, residual, y);
  }
}

}  // namespace

void run(const Layer& layer, const Map& map, const void* x, const void* packed, int64_t packed_bytes, const float* bias,
         const void* residual, Activation activation, void* y) {
  check(layer, map);
  if (is_packed_int8(packed, packed_bytes)) {
    return run_int8(layer, map, x, packed, packed_bytes, bias, residual, activation, y);
  }
  if (is_own(packed, packed_bytes)) {
    return run_own(layer, map, x, packed, packed_bytes, bias, residual, activation, y);
  }
  const Packed from(layer, packed, packed_bytes);
  const Map one{1, map.height, map.width};
  const Problem of_one{layer, one, from.header.type, from.header.form, activation, residual != nullptr};
  const int64_t size = layer.dtype == Dtype::bfloat16 ? 2 : 4;
  const int64_t in_bytes = of_one.inputs() * size, out_bytes = of_one.outputs() * size;
  const auto* in = static_cast<const char*>(x);
  const auto* added = static_cast<const char*>(residual);
  auto* out = static_cast<char*>(y);
  for (int64_t image = 0; image < map.batch;) {
    Problem problem = of_one;
    problem.map.batch = images_at_once(map.batch - image, of_one.out_height() * of_one.out_width());
    run_at_once(problem, from, in + image * in_bytes, bias, added ? added + image * out_bytes : nullptr,
                out + image * out_bytes);
    image += problem.map.batch;
  }
}

std::string implementation(const Layer& layer, Precision precision, const Map& packed_for, const Map& map,
                           Activation activation, bool residual) {
  check(layer, packed_for);
  check(layer, map);
  if (precision == Precision::int8 && is_pointwise(layer)) {
    return implementation_int8(layer, packed_for, map, activation, residual);
  }
  if (const auto own = own_implementation(layer, packed_for, precision)) return *own;
  const Packing packing(layer, packed_for);
  Problem problem{layer, map, packing.header.type, packing.header.form, activation, residual};
  problem.map.batch = images_at_once(map.batch, problem.out_height() * problem.out_width());
  const Planned planned = plan_for(problem, packing.desc);
  std::string text = problem.form == Form::matmul ? "matmul " : "convolution ";
  text += implementation_of(planned.plan) + (planned.type == Type::bf16 ? " bf16" : " f32");
  return text + (weights_of(planned.plan) == packing.desc ? "" : " repacked");
}

}  // namespace channels_last
}  // namespace ppreplk
