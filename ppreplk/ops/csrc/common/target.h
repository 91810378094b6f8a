// Code for more instructions than the rest of a file, with GCC and Clang:
//
//   PPREPLK_TARGET_BEGIN(PPREPLK_AVX2)
//   namespace avx2 { ... }
//   PPREPLK_TARGET_END
//
// Headers are included before that: functions in them must stay for every processor.
#pragma once

#define PPREPLK_AVX2 "avx2,fma,f16c"
#define PPREPLK_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
#define PPREPLK_AVX512_BF16 "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"
#define PPREPLK_AMX "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,amx-tile,amx-bf16"

#define PPREPLK_PRAGMA(tokens) _Pragma(#tokens)
#ifdef __clang__
#define PPREPLK_TARGET_BEGIN(instructions) \
  PPREPLK_PRAGMA(clang attribute push(__attribute__((target(instructions))), apply_to = function))
#define PPREPLK_TARGET_END PPREPLK_PRAGMA(clang attribute pop)
#else
#define PPREPLK_TARGET_BEGIN(instructions) PPREPLK_PRAGMA(GCC push_options) PPREPLK_PRAGMA(GCC target(instructions))
#define PPREPLK_TARGET_END PPREPLK_PRAGMA(GCC pop_options)
#endif
