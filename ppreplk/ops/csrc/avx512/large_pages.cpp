#include "large_pages.h"

#if defined(__linux__)
#include <sys/mman.h>

#include <fstream>
#include <string>

namespace ppreplk {
namespace avx512 {
namespace {

constexpr uintptr_t kPage = uintptr_t{2} << 20;
constexpr int kCollapse = 25;  // MADV_COLLAPSE, which older headers lack

bool allowed() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  return std::getline(file, line) && line.find("[never]") == std::string::npos;
}

}  // namespace

void use_large_pages(const void* data, int64_t bytes) {
  static const bool wanted = allowed();
  if (!wanted) return;
  const auto begin = reinterpret_cast<uintptr_t>(data), end = begin + static_cast<uintptr_t>(bytes);
  for (uintptr_t page = begin / kPage * kPage; page < end; page += kPage) {
    // Fails for a page that is not mapped as a whole, which then stays as it is.
    madvise(reinterpret_cast<void*>(page), kPage, kCollapse);
  }
}

}  // namespace avx512
}  // namespace ppreplk

#else

namespace ppreplk {
namespace avx512 {

void use_large_pages(const void*, int64_t) {}

}  // namespace avx512
}  // namespace ppreplk
#endif  // Linux
