#include "problem.h"

#include <atomic>
#include <stdexcept>

namespace ppreplk {
namespace channels_last {
namespace {

std::atomic<FormChoice> form_choice{FormChoice::automatic};

bool starts_with(const std::string& text, const char* begin) { return text.rfind(begin, 0) == 0; }

// The type to compute in: bfloat16 if that is wanted and oneDNN has code for it.
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

}  // namespace

dnnl::primitive_attr attributes_for(Activation activation, bool residual, const memory::desc& target) {
  dnnl::post_ops post_ops;
  if (residual) post_ops.append_binary(dnnl::algorithm::binary_add, target);
  switch (activation) {
    case Activation::none: break;
    case Activation::relu: post_ops.append_eltwise(dnnl::algorithm::eltwise_relu, 0, 0); break;
    case Activation::gelu: post_ops.append_eltwise(dnnl::algorithm::eltwise_gelu_erf, 0, 0); break;
    case Activation::relu6: post_ops.append_eltwise(dnnl::algorithm::eltwise_clip, 0, 6); break;
  }
  dnnl::primitive_attr result;
  result.set_post_ops(post_ops);
  // oneDNN's own scratchpad belongs to the thread that created the primitive.
  result.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return result;
}

bool is_reference(const dnnl::primitive_desc& plan) { return starts_with(implementation_of(plan), "ref"); }

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

memory::desc plain_weights(const Layer& layer, Form form, Type type) {
  if (form == Form::matmul) return {{layer.in, layer.out}, type, Tag::ba};
  if (layer.groups == 1) return {{layer.out, layer.in, layer.kernel, layer.kernel}, type, Tag::oihw};
  return {
      {layer.groups, layer.out / layer.groups, layer.in / layer.groups, layer.kernel, layer.kernel}, type, Tag::goihw};
}

memory::desc any_weights(const Problem& problem) {
  return {plain_weights(problem.layer, problem.form, problem.type).get_dims(), problem.type, Tag::any};
}

dnnl::primitive_desc plan(const Problem& problem, const memory::desc& weights) {
  const Layer& layer = problem.layer;
  const Map& map = problem.map;
  const Type type = problem.type;
  if (problem.form == Form::matmul) {
    const int64_t rows = map.batch * map.height * map.width;
    const memory::desc target({rows, layer.out}, type, Tag::ab);
    return dnnl::matmul::primitive_desc(cpu(), {{rows, layer.in}, type, Tag::ab}, weights,
                                        {{1, layer.out}, Type::f32, Tag::ab}, target,
                                        attributes_for(problem.activation, problem.residual, target));
  }
  const memory::desc target({map.batch, layer.out, problem.out_height(), problem.out_width()}, type, Tag::nhwc);
  const memory::dims stride{layer.stride, layer.stride}, pad{layer.kernel / 2, layer.kernel / 2};
  // The padding at the end that the strided output needs, which may be less than at the beginning.
  const memory::dims pad_end{(problem.out_height() - 1) * layer.stride + layer.kernel - map.height - pad[0],
                             (problem.out_width() - 1) * layer.stride + layer.kernel - map.width - pad[1]};
  return dnnl::convolution_forward::primitive_desc(
      cpu(), dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct,
      {{map.batch, layer.in, map.height, map.width}, type, Tag::nhwc}, weights, {{layer.out}, Type::f32, Tag::a},
      target, stride, pad, pad_end, attributes_for(problem.activation, problem.residual, target));
}

std::string implementation_of(const dnnl::primitive_desc& plan) { return plan.impl_info_str(); }

memory::desc weights_of(const dnnl::primitive_desc& plan) { return plan.query_md(dnnl::query::weights_md, 0); }

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

int64_t images_at_once(int64_t left, int64_t pixels) {
  constexpr int64_t kParts = 8, kPixels = 49;  // of the last maps of images of 224x224
  int64_t most = kParts;
  while (most * pixels < kParts * kPixels) most *= 2;
  const int64_t part = most / kParts;
  if (left >= most) return most;
  const int64_t step = left >= part ? part : left >= kParts ? kParts : 1;
  return left / step * step;
}

int64_t images_within(int64_t most_bytes, int64_t image_bytes) {
  int64_t images = 1;
  while (images * 2 * image_bytes <= most_bytes) images *= 2;
  return images;
}

Problem choose(const Layer& layer, const Map& map) {
  Problem problem{layer, map, Type::f32, Form::convolution, Activation::none, false};
  if (is_pointwise(layer) && form_choice != FormChoice::convolution) {
    problem.form = Form::matmul;
    problem.type = type_for(problem);
    if (form_choice == FormChoice::matmul) return problem;
    if (starts_with(implementation_of(plan(problem, any_weights(problem))), "brg")) return problem;
    problem.form = Form::convolution;
  }
  problem.type = type_for(problem);
  return problem;
}

void choose_form(FormChoice choice) { form_choice = choice; }

FormChoice chosen_form() { return form_choice; }

}  // namespace channels_last
}  // namespace ppreplk
