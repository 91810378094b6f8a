// Cutting work into pieces for threads and caches, and memory for what lies between its steps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

namespace ppreplk {

// Where the share of number `index` begins, of a `count` that is shared out among `of`.
inline int64_t share(int64_t count, int64_t index, int64_t of) { return count * index / of; }

// The size of equal pieces of at most `most`.
inline int64_t piece_of(int64_t count, int64_t most) {
  const int64_t pieces = (count + std::max<int64_t>(most, 1) - 1) / std::max<int64_t>(most, 1);
  return (count + pieces - 1) / std::max<int64_t>(pieces, 1);
}

// Memory that the calling thread keeps, in pieces that begin at cache lines. One at a time.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) {
    struct Free {
      void operator()(char* p) const { ::operator delete(p, kAlignment); }
    };
    thread_local std::unique_ptr<char, Free> memory;
    thread_local int64_t size = 0;
    if (size < bytes) {
      memory.reset();
      size = 0;
      memory.reset(static_cast<char*>(::operator new(bytes, kAlignment)));
      size = bytes;
    }
    next_ = memory.get();
  }

  char* take(int64_t bytes) {
    char* result = next_;
    next_ += bytes;
    return result;
  }

 private:
  static constexpr std::align_val_t kAlignment{4096};
  char* next_;
};

}  // namespace ppreplk
