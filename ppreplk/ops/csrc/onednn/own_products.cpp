#include "own_products.h"

#include <algorithm>

#include "float_products.h"
#include "openmp.h"
#include "problem.h"
#include "products.h"
#include "runtime.h"

namespace ppreplk {
namespace channels_last {
namespace {

// bfloat16 layers on larger maps are oneDNN's: there its kernels were ahead, 1.0 against 1.4 ms for 128 to 512 channels
// at 56x56, and behind at 14x14 and below. bf16x3 was ahead of oneDNN's float32 everywhere, by a factor of 1.1 to 2.3.
// float32 is never bf16x6 by itself: that is ahead of oneDNN by a tenth, and has another range.
constexpr int64_t kMaxBfloat16Pixels = 600;

// float32 on vectors is ahead of oneDNN where weights come from memory, as in a network. With weights in a cache and
// one image, from 128 to 4096 channels, they took 0.75 to 1.01 of its time at 7x7, 0.85 to 1.05 at 14x14, 0.98 to 1.07 at
// 28x28 and 1.02 to 1.08 at 56x56; for several images with fewer channels, up to twice.
constexpr int64_t kMaxVectorPixels = 1000, kMinVectorChannels = 128;

// oneDNN can be restricted by an environment variable of its own; that holds for our kernels too.
bool may_use_tiles() {
  if (amx::backend() != amx::Backend::hardware) return amx::backend() != amx::Backend::none;
  static const bool allowed = onednn_uses(dnnl::cpu_isa::avx512_core_amx);
  return allowed;
}

bool may_use_vectors() {
  static const bool allowed = avx512::available() && onednn_uses(dnnl::cpu_isa::avx512_core);
  return allowed;
}

// The rule for tiles.
std::optional<amx::Terms> terms_for(const Layer& layer, const Map& map, Precision precision) {
  const FormChoice choice = chosen_form();
  if (choice != FormChoice::automatic && choice != FormChoice::tiles) return {};
  if (!is_pointwise(layer) || !may_use_tiles()) return {};
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

// The rule for vectors, for what is not for tiles.
bool uses_vectors(const Layer& layer, const Map& map, Precision precision) {
  const bool in_float32 = precision == Precision::fp32 || precision == Precision::fp32_bf16x3;
  if (!is_pointwise(layer) || !in_float32 || !may_use_vectors()) return false;
  const FormChoice choice = chosen_form();
  if (choice != FormChoice::automatic) return choice == FormChoice::vectors;
  return map.width <= kMaxVectorPixels / map.height && std::min(layer.in, layer.out) >= kMinVectorChannels;
}

amx::Terms terms_of(const Layer& layer, const void* packed, int64_t bytes) {
  const amx::Terms terms = amx::check_packed(packed, bytes, layer.in, layer.out);
  check((terms == amx::Terms::bf16) == (layer.dtype == Dtype::bfloat16), "the weights were packed for another layer");
  return terms;
}

void check_vectors(const Layer& layer, const void* packed, int64_t bytes) {
  avx512::check_packed(packed, bytes, layer.in, layer.out);
  check(layer.dtype == Dtype::float32, "the weights were packed for another layer");
}

const float* floats(const void* data) { return static_cast<const float*>(data); }

}  // namespace

bool pack_own(const Layer& layer, const Map& map, Precision precision, const float* weight,
              const std::function<void*(int64_t)>& allocate) {
  if (const auto terms = terms_for(layer, map, precision)) {
    amx::pack(weight, layer.in, layer.out, *terms, allocate(amx::packed_bytes(layer.in, layer.out, *terms)));
    return true;
  }
  if (uses_vectors(layer, map, precision)) {
    avx512::pack(weight, layer.in, layer.out, allocate(avx512::packed_bytes(layer.in, layer.out)));
    return true;
  }
  return false;
}

bool is_own(const void* packed, int64_t bytes) {
  return amx::is_packed(packed, bytes) || avx512::is_packed(packed, bytes);
}

bool are_own(const void* packed1, int64_t bytes1, const void* packed2, int64_t bytes2) {
  return is_own(packed1, bytes1) && is_own(packed2, bytes2) &&
         amx::is_packed(packed1, bytes1) == amx::is_packed(packed2, bytes2);
}

void run_own(const Layer& layer, const Map& map, const void* x, const void* packed, int64_t packed_bytes,
             const float* bias, const void* residual, Activation activation, void* y) {
  check(is_pointwise(layer), "the weights were packed for another layer");
  const int64_t rows = map.batch * map.height * map.width;
  if (amx::is_packed(packed, packed_bytes)) {
    terms_of(layer, packed, packed_bytes);
    return amx::pointwise(x, rows, layer.in, layer.out, packed, {bias, residual, activation}, y, omp_get_max_threads());
  }
  check_vectors(layer, packed, packed_bytes);
  avx512::pointwise(floats(x), rows, layer.in, layer.out, packed, {bias, floats(residual), activation},
                    static_cast<float*>(y), omp_get_max_threads());
}

void feed_forward_own(const Layer& first, const Layer& second, const Map& map, const void* x, const void* packed1,
                      int64_t bytes1, const float* bias1, const void* packed2, int64_t bytes2, const float* bias2,
                      void* y) {
  const int64_t rows = map.batch * map.height * map.width;
  if (amx::is_packed(packed1, bytes1)) {
    check(terms_of(first, packed1, bytes1) == terms_of(second, packed2, bytes2),
          "the weights were packed in different precisions");
    return amx::feed_forward(x, rows, first.in, first.out, packed1, bias1, packed2, bias2, y, omp_get_max_threads());
  }
  check_vectors(first, packed1, bytes1);
  check_vectors(second, packed2, bytes2);
  avx512::feed_forward(floats(x), rows, first.in, first.out, packed1, bias1, packed2, bias2, static_cast<float*>(y),
                       omp_get_max_threads());
}

std::optional<std::string> own_implementation(const Layer& layer, const Map& map, Precision precision) {
  if (const auto terms = terms_for(layer, map, precision)) {
    const std::string where = amx::backend() == amx::Backend::hardware ? "tiles amx " : "tiles emulated ";
    return where + (*terms == amx::Terms::bf16 ? "bf16" : *terms == amx::Terms::bf16x3 ? "bf16x3" : "bf16x6");
  }
  if (uses_vectors(layer, map, precision)) return "vectors avx512 f32";
  return {};
}

}  // namespace channels_last
}  // namespace ppreplk
