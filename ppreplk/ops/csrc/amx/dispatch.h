// Which kernels run.
#pragma once

#include "kernels.h"

namespace ppreplk {
namespace amx {

const Kernels& kernels();  // of the backend in use, which is not none

}  // namespace amx
}  // namespace ppreplk
