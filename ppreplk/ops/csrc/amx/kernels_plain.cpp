// The kernels for tests on any processor.
#include <algorithm>
#include <cstring>

#include "bfloat16.h"
#include "gelu.h"
#include "kernels.h"
#include "tiles.h"

#define PPREPLK_INLINE inline

namespace ppreplk {
namespace amx {
namespace {

#include "lanes_plain.inl"
#include "tiles_emulated.inl"
#include "kernels.inl"

}  // namespace

const Kernels& emulated_plain_kernels() { return kKernels; }

}  // namespace amx
}  // namespace ppreplk
