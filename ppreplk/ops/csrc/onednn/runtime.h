// oneDNN's engine and stream, and the memory they work on.
#pragma once

#include <cstdint>

#include "oneapi/dnnl/dnnl.hpp"

namespace ppreplk {
namespace channels_last {

using dnnl::memory;
using Type = memory::data_type;
using Tag = memory::format_tag;

dnnl::engine& cpu();
dnnl::stream& stream();  // of the calling thread

// The version of the loaded oneDNN as one number.
int64_t onednn_version();

// Whether oneDNN uses these instructions: the processor has them, and no environment variable of oneDNN's forbids them.
bool onednn_uses(dnnl::cpu_isa needed);

// Memory that a thread keeps from call to call, one piece for each of these purposes.
enum Purpose { kScratchpad, kInput, kResidual, kOutput, kWeights, kHidden, kBias, kPurposes };
void* thread_memory(Purpose purpose, int64_t bytes);

// bfloat16 numbers as float32 ones, in the thread's memory; and the way back.
const float* widened(const void* data, int64_t count, Purpose purpose);
void narrow_all(const float* from, int64_t count, void* to);

// oneDNN's view of memory of ours.
memory at(const memory::desc& desc, const void* data);

// Copies from one layout or type to another.
void reorder(const memory::desc& from, const void* in, const memory::desc& to, void* out);

}  // namespace channels_last
}  // namespace ppreplk
