// A convolution as oneDNN solves it: the problem, and the plan that oneDNN makes for it.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>

#include "channels_last.h"
#include "runtime.h"
#include "strided.h"

namespace ppreplk {
namespace channels_last {

// A convolution runs as oneDNN's convolution, or if it is pointwise, as its matmul. The matmul is the faster one if
// oneDNN has a kernel of its newer kind ("brgemm") for it; the older kind packs the weights at every call.
enum class Form : int32_t { convolution, matmul };

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

inline bool is_pointwise(const Layer& layer) { return layer.kernel == 1 && layer.stride == 1 && layer.groups == 1; }

// Throws std::invalid_argument.
void check(bool condition, const char* message);
void check(const Layer& layer, const Map& map);

// Weights in the order that they are given in.
memory::desc plain_weights(const Layer& layer, Form form, Type type);
// Weights in a layout of oneDNN's choice.
memory::desc any_weights(const Problem& problem);

// Residual and activation behind a product with this target, and the scratchpad in memory of ours.
dnnl::primitive_attr attributes_for(Activation activation, bool residual, const memory::desc& target);

// oneDNN's reference code is slower than anything else by orders of magnitude.
bool is_reference(const dnnl::primitive_desc& plan);

// What oneDNN would run. It generates code only for primitives, not for plans.
dnnl::primitive_desc plan(const Problem& problem, const memory::desc& weights);
std::string implementation_of(const dnnl::primitive_desc& plan);
memory::desc weights_of(const dnnl::primitive_desc& plan);

struct Planned {
  dnnl::primitive_desc plan;
  Type type;
};
// The plan for weights of this description. If oneDNN has only its reference code for that, or none, it is the plan for
// weights in a layout of oneDNN's choice; and if oneDNN has no code for bfloat16, the plan computes in float32.
Planned plan_for(Problem problem, const memory::desc& weights);

// How many of the images that are left are computed together. Batches of 1 to 64 need at most 15 sizes, since every size
// needs primitives of its own: eight images and fewer, and of small maps more, in eighths, and what is left in eights.
int64_t images_at_once(int64_t left, int64_t pixels);

// How many images of so many bytes take at most so many together: a power of two, at least one.
int64_t images_within(int64_t most_bytes, int64_t image_bytes);

// What choose_form has chosen.
FormChoice chosen_form();

// The problem that weights are packed for: the form and type that suit this layer and map.
Problem choose(const Layer& layer, const Map& map);

}  // namespace channels_last
}  // namespace ppreplk
