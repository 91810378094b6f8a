#include "runtime.h"

#include <array>
#include <memory>
#include <new>
#include <string>

#include "bfloat16.h"
#include "channels_last.h"

namespace ppreplk {
namespace channels_last {

dnnl::engine& cpu() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::stream& stream() {
  thread_local dnnl::stream stream(cpu());
  return stream;
}

int64_t onednn_version() {
  const dnnl_version_t* version = dnnl::version();
  return (int64_t{version->major} * 1000 + version->minor) * 1000 + version->patch;
}

void* thread_memory(Purpose purpose, int64_t bytes) {
  constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(char* p) const { ::operator delete(p, kAlignment); }
  };
  struct Buffer {
    std::unique_ptr<char, Free> data;
    int64_t bytes = 0;
  };
  thread_local std::array<Buffer, kPurposes> buffers;
  Buffer& buffer = buffers[purpose];
  if (buffer.bytes < bytes) {
    buffer.data.reset();
    buffer.bytes = 0;
    buffer.data.reset(static_cast<char*>(::operator new(bytes, kAlignment)));
    buffer.bytes = bytes;
  }
  return buffer.data.get();
}

const float* widened(const void* data, int64_t count, Purpose purpose) {
  const auto* in = static_cast<const uint16_t*>(data);
  auto* out = static_cast<float*>(thread_memory(purpose, count * int64_t{sizeof(float)}));
#pragma omp parallel for
  for (int64_t i = 0; i < count; ++i) out[i] = widen(in[i]);
  return out;
}

void narrow_all(const float* from, int64_t count, void* to) {
  auto* out = static_cast<uint16_t*>(to);
#pragma omp parallel for
  for (int64_t i = 0; i < count; ++i) out[i] = narrow(from[i]);
}

memory at(const memory::desc& desc, const void* data) { return {desc, cpu(), const_cast<void*>(data)}; }

void reorder(const memory::desc& from, const void* in, const memory::desc& to, void* out) {
  memory source = at(from, in), target = at(to, out);
  dnnl::reorder(source, target).execute(stream(), source, target);
  stream().wait();
}

bool onednn_uses([[maybe_unused]] dnnl::cpu_isa needed) {
#if defined(__x86_64__)
  // An instruction set contains another if its number has all bits of the other's.
  const int set = static_cast<int>(dnnl::get_effective_cpu_isa());
  return (set & static_cast<int>(needed)) == static_cast<int>(needed);
#else
  return false;
#endif
}

bool has_bfloat16() {
  static const bool found = onednn_uses(dnnl::cpu_isa::avx512_core_bf16);
  return found;
}

bool has_int8() {
  static const bool found = onednn_uses(dnnl::cpu_isa::avx512_core_vnni) || onednn_uses(dnnl::cpu_isa::avx2_vnni);
  return found;
}

std::string mismatch(int major, int minor, unsigned runtime) {
  if (runtime != DNNL_RUNTIME_OMP) return "Paddle's oneDNN is not built for OpenMP";
  if (major == DNNL_VERSION_MAJOR && minor >= DNNL_VERSION_MINOR) return "";
  const std::string needed = std::to_string(DNNL_VERSION_MAJOR) + ".";
  return "Paddle's oneDNN is " + std::to_string(major) + "." + std::to_string(minor) + ", needed is " + needed +
         std::to_string(DNNL_VERSION_MINOR) + " or a later " + needed + "x";
}

std::string mismatch() {
  const dnnl_version_t* loaded = dnnl::version();
  return mismatch(loaded->major, loaded->minor, loaded->cpu_runtime);
}

}  // namespace channels_last
}  // namespace ppreplk
