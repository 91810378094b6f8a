#include "quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "bfloat16.h"
#include "problem.h"

#define PPREPLK_INLINE __attribute__((always_inline)) inline

namespace ppreplk {
namespace channels_last {
namespace {

constexpr float kLevels = 255.0f;
constexpr float kMinScale = 1e-30f;  // its inverse is finite; a smaller range is one of zeros
constexpr int64_t kPiece = 1 << 14;  // numbers that a thread takes at a time

// Adding it to a number of at most 255 rounds that to an integer, in the lowest bits of the sum.
constexpr float kRounds = 12582912.0f;  // 1.5 * 2^23

PPREPLK_INLINE float value_of(float x) { return x; }
PPREPLK_INLINE float value_of(uint16_t x) { return widen(x); }

PPREPLK_INLINE void write(float rounds, int32_t zero, uint8_t& to) {
  int32_t bits;
  std::memcpy(&bits, &rounds, sizeof bits);
  to = static_cast<uint8_t>(bits + zero);
}
PPREPLK_INLINE void write(float rounds, int32_t, float& to) { to = rounds - kRounds; }

template <class From, class To>
PPREPLK_INLINE void loop(const From* x, int64_t count, float inverse, int32_t zero, To* to) {
  const float low = static_cast<float>(-zero), high = kLevels + low;
  for (int64_t i = 0; i < count; ++i) {
    const float x_i = value_of(x[i]);
    float value = (x_i == x_i ? x_i : 0.0f) * inverse;
    value = value > low ? value : low;
    value = value < high ? value : high;
    write(value + kRounds, zero, to[i]);
  }
}

template <class From, class To>
void portable(const From* x, int64_t count, float inverse, int32_t zero, To* to) {
  loop(x, count, inverse, zero, to);
}

#if defined(__x86_64__)
template <class From, class To>
__attribute__((target("avx2"))) void avx2(const From* x, int64_t count, float inverse, int32_t zero, To* to) {
  loop(x, count, inverse, zero, to);
}

template <class From, class To>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) void avx512(const From* x, int64_t count, float inverse,
                                                                          int32_t zero, To* to) {
  loop(x, count, inverse, zero, to);
}

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

template <class From, class To>
void quantize_all(const void* data, int64_t count, const Quantization& how, To* to) {
  using Loop = void (*)(const From*, int64_t, float, int32_t, To*);
  Loop one = portable<From, To>;
#if defined(__x86_64__)
  static const Loop fastest =
      has_avx512() ? avx512<From, To> : __builtin_cpu_supports("avx2") ? avx2<From, To> : portable<From, To>;
  one = fastest;
#endif
  const auto* x = static_cast<const From*>(data);
  const float inverse = how.inverse();
#pragma omp parallel for
  for (int64_t at = 0; at < count; at += kPiece) {
    one(x + at, std::min(kPiece, count - at), inverse, how.zero, to + at);
  }
}

template <class To>
void quantize_to(const void* x, Dtype dtype, int64_t count, const Quantization& how, To* to) {
  if (dtype == Dtype::bfloat16) return quantize_all<uint16_t>(x, count, how, to);
  quantize_all<float>(x, count, how, to);
}

}  // namespace

Quantization::Quantization(const Range& range) {
  check(std::isfinite(range.low) && std::isfinite(range.high) && range.low <= range.high,
        "the range of an input must be two finite numbers in order");
  const double low = std::min(0.0f, range.low), high = std::max(0.0f, range.high);
  scale = static_cast<float>((high - low) / kLevels);
  if (scale < kMinScale) scale = 1.0f;
  zero = static_cast<int32_t>(std::min<double>(kLevels, std::nearbyint(-low / scale)));
}

void quantize(const void* x, Dtype dtype, int64_t count, const Quantization& how, uint8_t* to) {
  quantize_to(x, dtype, count, how, to);
}

void quantize(const void* x, Dtype dtype, int64_t count, const Quantization& how, float* to) {
  quantize_to(x, dtype, count, how, to);
}

}  // namespace channels_last
}  // namespace ppreplk
