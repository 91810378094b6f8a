// The kernels for tests on processors with AVX-512 BF16: those for AMX, but for the tile registers.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "bfloat16.h"
#include "gelu.h"
#include "kernels.h"
#include "tiles.h"

#define PPREPLK_INLINE __attribute__((always_inline)) inline

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif

namespace ppreplk {
namespace amx {
namespace {

#include "lanes_avx512.inl"
#include "tiles_emulated.inl"
#include "kernels.inl"

}  // namespace
}  // namespace amx
}  // namespace ppreplk

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace ppreplk {
namespace amx {

const Kernels& emulated_kernels() { return kKernels; }

}  // namespace amx
}  // namespace ppreplk
#endif  // x86-64
