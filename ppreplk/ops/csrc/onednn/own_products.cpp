#include "own_products.h"

#include "openmp.h"
#include "problem.h"
#include "runtime.h"

namespace ppreplk {
namespace channels_last {
namespace {

// bfloat16 layers on larger maps are oneDNN's: there its kernels were ahead, 1.0 against 1.4 ms for 128 to 512 channels
// at 56x56, and behind at 14x14 and below. bf16x3 was ahead of oneDNN's float32 everywhere, by a factor of 1.1 to 2.3.
// float32 stays oneDNN's: bf16x6 is ahead by a tenth, and has another range.
constexpr int64_t kMaxBfloat16Pixels = 600;

// oneDNN can be restricted by an environment variable of its own; that holds for our kernels too.
bool may_use_tiles() {
  if (amx::backend() != amx::Backend::hardware) return amx::backend() != amx::Backend::none;
  static const bool allowed = onednn_uses(dnnl::cpu_isa::avx512_core_amx);
  return allowed;
}

}  // namespace

std::optional<amx::Terms> own_terms(const Layer& layer, const Map& map, Precision precision) {
  const FormChoice choice = chosen_form();
  if (!is_pointwise(layer) || !may_use_tiles()) return {};
  if (choice == FormChoice::convolution || choice == FormChoice::matmul) return {};
  const bool always = choice == FormChoice::tiles;
  switch (precision) {
    case Precision::fp32: return always ? std::optional(amx::Terms::bf16x6) : std::nullopt;
    case Precision::fp32_bf16x3: return amx::Terms::bf16x3;
    case Precision::int8: return {};
    case Precision::bf16:
      return always || map.height * map.width <= kMaxBfloat16Pixels ? std::optional(amx::Terms::bf16) : std::nullopt;
  }
  return {};
}

void run_own(const Layer& layer, const Map& map, const void* x, const void* packed, int64_t packed_bytes,
             const float* bias, const void* residual, Activation activation, void* y) {
  check(is_pointwise(layer), "the weights were packed for another layer");
  const amx::Terms terms = amx::check_packed(packed, packed_bytes, layer.in, layer.out);
  check((terms == amx::Terms::bf16) == (layer.dtype == Dtype::bfloat16), "the weights were packed for another layer");
  amx::pointwise(x, map.batch * map.height * map.width, layer.in, layer.out, packed,
                 {bias, residual, activation}, y, omp_get_max_threads());
}

std::string own_implementation(amx::Terms terms) {
  const std::string where = amx::backend() == amx::Backend::hardware ? "tiles amx " : "tiles emulated ";
  return where + (terms == amx::Terms::bf16 ? "bf16" : terms == amx::Terms::bf16x3 ? "bf16x3" : "bf16x6");
}

}  // namespace channels_last
}  // namespace ppreplk
