#include "instruction_set.h"

#include <atomic>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace ppreplk {
namespace {

#if defined(__x86_64__)
// Clang 14 cannot be asked for it by name. That the system keeps the registers is known from AVX2.
bool has_half_conversions() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

// Those that this processor can run, the one with the most lanes first.
std::vector<InstructionSet> supported() {
  std::vector<InstructionSet> found;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_half_conversions();
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    found.push_back(InstructionSet::avx512);
  }
  if (avx2) found.push_back(InstructionSet::avx2);
#endif
  found.push_back(InstructionSet::portable);
  return found;
}

std::atomic<InstructionSet>& chosen() {
  static std::atomic<InstructionSet> set{supported().front()};
  return set;
}

}  // namespace

InstructionSet instruction_set() { return chosen().load(std::memory_order_relaxed); }

const char* name_of(InstructionSet set) {
  switch (set) {
    case InstructionSet::avx512: return "avx512";
    case InstructionSet::avx2: return "avx2";
    case InstructionSet::portable: break;
  }
  return "portable";
}

void use_instruction_set(const char* name) {
  for (const InstructionSet set : supported()) {
    if (std::strcmp(name_of(set), name) == 0) {
      chosen().store(set, std::memory_order_relaxed);
      return;
    }
  }
  throw std::invalid_argument(std::string("depthwise convolution: no instruction set ") + name +
                              " on this processor or in this build");
}

}  // namespace ppreplk
