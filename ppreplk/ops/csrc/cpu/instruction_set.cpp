#include "instruction_set.h"

#include <atomic>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "processor.h"

namespace ppreplk {
namespace {

// Those that this processor can run, the one with the most lanes first.
std::vector<InstructionSet> supported() {
  std::vector<InstructionSet> found;
  if (has_avx512()) found.push_back(InstructionSet::avx512);
  if (has_avx2()) found.push_back(InstructionSet::avx2);
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
