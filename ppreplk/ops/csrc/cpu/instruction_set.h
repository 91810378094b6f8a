// The instruction set of the loops that are compiled for several, see ../common/target.h.
#pragma once

namespace ppreplk {

enum class InstructionSet { portable, avx2, avx512 };

// The one in use: the best of the processor, or what was chosen.
InstructionSet instruction_set();

// "avx512", "avx2" or "portable".
const char* name_of(InstructionSet set);

// Switches to another one, for tests and benchmarks. Throws std::invalid_argument if the processor or the build lacks
// it. Not while another thread computes. Weights packed for the old one no longer fit.
void use_instruction_set(const char* name);

}  // namespace ppreplk
