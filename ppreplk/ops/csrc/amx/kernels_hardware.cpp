// The kernels for AMX. Only this file is compiled for it.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "bfloat16.h"
#include "gelu.h"
#include "kernels.h"
#include "target.h"
#include "tiles.h"

#define PPREPLK_INLINE __attribute__((always_inline)) inline

PPREPLK_TARGET_BEGIN(PPREPLK_AMX)

namespace ppreplk {
namespace amx {
namespace {

#include "float_lanes.inl"
#include "lanes_avx512.inl"
#include "tiles_hardware.inl"
#include "kernels.inl"

}  // namespace
}  // namespace amx
}  // namespace ppreplk

PPREPLK_TARGET_END

namespace ppreplk {
namespace amx {

const Kernels& hardware_kernels() { return kKernels; }

}  // namespace amx
}  // namespace ppreplk
#endif  // x86-64
