// Large pages for memory that somebody else has allocated.
#pragma once

#include <cstdint>

namespace ppreplk {
namespace avx512 {

// Moves this memory, and what lies in the same pages, into pages of 2 MB, where the system can do that at once (Linux 6.1
// and later) and is not told never to. Addresses and contents stay.
void use_large_pages(const void* data, int64_t bytes);

}  // namespace avx512
}  // namespace ppreplk
