// The instruction sets of target.h: whether the processor has them, and the system keeps their registers.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace ppreplk {

// PPREPLK_AVX2.
inline bool has_avx2() {
#if defined(__x86_64__)
  // Clang 14 cannot be asked for F16C by name. That the system keeps its registers is known from AVX2.
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) &&
         (c & bit_F16C);
#else
  return false;
#endif
}

// PPREPLK_AVX512.
inline bool has_avx512() {
#if defined(__x86_64__)
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

}  // namespace ppreplk
