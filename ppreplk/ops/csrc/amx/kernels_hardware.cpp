// The kernels for AMX. Only this file is compiled for it.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "bfloat16.h"
#include "gelu.h"
#include "kernels.h"
#include "tiles.h"

#define PPREPLK_INLINE __attribute__((always_inline)) inline

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,amx-tile,amx-bf16"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,amx-tile,amx-bf16")
#endif

namespace ppreplk {
namespace amx {
namespace {

#include "lanes_avx512.inl"
#include "tiles_hardware.inl"
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

const Kernels& hardware_kernels() { return kKernels; }

}  // namespace amx
}  // namespace ppreplk
#endif  // x86-64
