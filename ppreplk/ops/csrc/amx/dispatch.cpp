#include "dispatch.h"

#include <atomic>

#include "processor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ppreplk {
namespace amx {
namespace {

bool has_vectors() {
#if defined(__x86_64__)
  return has_avx512() && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

// Whether the processor has the instructions, the system keeps their registers, and lets this process use them.
bool has_hardware() {
#if defined(__x86_64__) && defined(__linux__)
  if (!has_vectors()) return false;
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kOsSave = 1u << 27, kTileState = 3u << 17;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kBf16) || !(d & kTile)) return false;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsSave)) return false;
  asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  if ((a & kTileState) != kTileState) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Backend native() {
  static const Backend found = has_hardware() ? Backend::hardware : Backend::none;
  return found;
}

std::atomic<Backend> chosen{Backend::none};

}  // namespace

Backend backend() {
  const Backend choice = chosen;
  return choice == Backend::none ? native() : choice;
}

bool choose_backend(Backend choice) {
  if (choice == Backend::hardware && native() != Backend::hardware) return false;
  if (choice == Backend::emulated && !has_vectors()) return false;
  chosen = choice;
  return true;
}

const Kernels& kernels() {
#if defined(__x86_64__)
  if (backend() == Backend::hardware) return hardware_kernels();
  if (backend() == Backend::emulated) return emulated_kernels();
#endif
  return emulated_plain_kernels();
}

}  // namespace amx
}  // namespace ppreplk
