#include "float_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <utility>

#include "gelu.h"
#include "target.h"

#define PPREPLK_INLINE __attribute__((always_inline)) inline
#ifdef __clang__
#define PPREPLK_UNROLL _Pragma("clang loop unroll(full)")
#else
#define PPREPLK_UNROLL _Pragma("GCC unroll 32")
#endif

PPREPLK_TARGET_BEGIN(PPREPLK_AVX512)

namespace ppreplk {
namespace avx512 {
namespace {

#include "float_lanes.inl"

constexpr int kHalves = kColumns / 16;
constexpr int kDepthStep = 4;  // channels between fetches
constexpr int kAhead = 24;     // how many channels early weights are fetched; without it, products take 3% longer

// The rows of a tile. With a base for every third one, the others are addressed without a register each.
template <int ROWS>
struct Rows {
  PPREPLK_INLINE Rows(const float* x, int64_t stride) : stride(stride) {
    for (int group = 0; group * 3 < ROWS; ++group) bases[group] = x + group * 3 * stride;
  }
  PPREPLK_INLINE const float* operator[](int row) const { return bases[row / 3] + row % 3 * stride; }

  const float* bases[(ROWS + 2) / 3];
  int64_t stride;
};

// Instructions that the compiler leaves in their order. In one of its own it moves sums to memory and back.
PPREPLK_INLINE Vec broadcast(const float* from) {
  Vec value;
  asm volatile("vbroadcastss %1, %0" : "=v"(value) : "m"(*from));
  return value;
}
PPREPLK_INLINE void add_product(Vec a, Vec b, Vec& sum) {
  asm volatile("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
}

// One channel of the input: its product with a row of weights, for all rows of the tile.
template <int ROWS>
PPREPLK_INLINE void add_channel(const Rows<ROWS>& x, const float* weights, int64_t channel,
                                Vec (&sums)[ROWS][kHalves]) {
  const Vec low = load(weights + channel * kColumns), high = load(weights + channel * kColumns + 16);
  PPREPLK_UNROLL
  for (int row = 0; row < ROWS; ++row) {
    const Vec value = broadcast(x[row] + channel);
    add_product(value, low, sums[row][0]);
    add_product(value, high, sums[row][1]);
  }
}

template <int ROWS>
void fetch(const float* from, int64_t stride) {
  for (int row = 0; row < ROWS; ++row) {
    __builtin_prefetch(from + row * stride, 0, 3);
    __builtin_prefetch(from + row * stride + 16, 0, 3);
  }
}

// The table and the sums together do not fit into the registers, so that GELU comes last, in place.
void gelu_rows(float* y, int64_t stride, int rows) {
  const GeluTable& table = gelu_table();
  for (int row = 0; row < rows; ++row, y += stride) {
    store(y, gelu(load(y), table));
    store(y + 16, gelu(load(y + 16), table));
  }
}

template <int ROWS>
void multiply(const Tile& tile) {
  Vec sums[ROWS][kHalves];  // in registers, since every loop over them is unrolled
  PPREPLK_UNROLL
  for (int row = 0; row < ROWS; ++row) {
    PPREPLK_UNROLL
    for (int half = 0; half < kHalves; ++half) {
      sums[row][half] = tile.first ? _mm512_setzero_ps() : load(tile.y + row * tile.y_stride + half * 16);
    }
  }
  if (tile.first) fetch<ROWS>(tile.y, tile.y_stride);
  if (tile.last && tile.residual) fetch<ROWS>(tile.residual, tile.y_stride);

  const Rows<ROWS> x(tile.x, tile.x_stride);
  const int64_t steps = tile.depth / kDepthStep;
  const int64_t lines = steps > 0 ? (tile.lines + steps - 1) / steps : 0;
  const char* next = tile.next;
  int64_t channel = 0;
  for (; channel < steps * kDepthStep; channel += kDepthStep) {
    // May lie behind the weights: fetching never fails.
    const auto coming = reinterpret_cast<uintptr_t>(tile.weights) + (channel + kAhead) * kColumns * sizeof(float);
    PPREPLK_UNROLL
    for (int line = 0; line < kDepthStep * kHalves; ++line) {
      __builtin_prefetch(reinterpret_cast<const void*>(coming + line * 64), 0, 3);
    }
    PPREPLK_UNROLL
    for (int i = 0; i < kDepthStep; ++i) add_channel<ROWS>(x, tile.weights, channel + i, sums);
    for (int64_t line = 0; line < lines; ++line, next += 64) __builtin_prefetch(next, 0, 2);
  }
  for (; channel < tile.depth; ++channel) add_channel<ROWS>(x, tile.weights, channel, sums);

  PPREPLK_UNROLL
  for (int half = 0; half < kHalves; ++half) {
    const Vec bias = tile.last ? load(tile.bias + half * 16) : _mm512_setzero_ps();
    PPREPLK_UNROLL
    for (int row = 0; row < ROWS; ++row) {
      const int64_t at = row * tile.y_stride + half * 16;
      Vec sum = sums[row][half];
      if (tile.last) {
        sum = sum + bias;
        if (tile.residual) sum = sum + load(tile.residual + at);
        if (tile.activation == Activation::relu) sum = relu(sum);
        if (tile.activation == Activation::relu6) sum = relu6(sum);
      }
      store(tile.y + at, sum);
    }
  }
  if (tile.last && tile.activation == Activation::gelu) gelu_rows(tile.y, tile.y_stride, ROWS);
}

template <int... INDEX>
void multiply(const Tile& tile, int64_t rows, std::integer_sequence<int, INDEX...>) {
  static constexpr void (*kernels[])(const Tile&) = {multiply<INDEX + 1>...};
  kernels[rows - 1](tile);
}

}  // namespace

void multiply(const Tile& tile, int64_t rows) { multiply(tile, rows, std::make_integer_sequence<int, kRows>{}); }

}  // namespace avx512
}  // namespace ppreplk

PPREPLK_TARGET_END

#else  // never called, see available()

namespace ppreplk {
namespace avx512 {

void multiply(const Tile&, int64_t) {}

}  // namespace avx512
}  // namespace ppreplk
#endif  // x86-64
