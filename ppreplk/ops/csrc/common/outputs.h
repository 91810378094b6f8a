// Outputs of operators, in memory that is kept for the next run.
//
// The C library gives large pieces of memory back to the system as soon as they are freed. The next run then gets pages
// that the system has to fill with zeros one by one: with eight images of 224x224 that took a tenth of the time of
// RepLKNet-31B. So large outputs come from here, in programs and in eager mode alike.
//
// Every piece is mapped by itself, so that freed ones leave no holes between others. What is kept between the runs is
// bounded, see kMaxKept. It may be used by several predictors and threads at once, and
// after a fork: the child has its own copy.
#pragma once

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "paddle/phi/api/all.h"
#include "paddle/phi/core/dense_tensor.h"

namespace ppreplk {

class OutputMemory {
 public:
  static constexpr size_t kMin = size_t{1} << 20;  // smaller outputs are Paddle's
  // Bytes that no tensor uses. A run of eight images of 224x224 leaves 250 MB.
  static constexpr size_t kMaxKept = size_t{512} << 20;

  // The one of this process: GCC merges those of several libraries into one. Clang leaves each library its own, so that
  // as much again may be kept. It is never destroyed, since tensors may
  // live longer than static objects.
  static OutputMemory& instance() {
    static OutputMemory* memory = new OutputMemory;
    return *memory;
  }

  // At least this many bytes; `bytes` becomes what was taken. Throws std::bad_alloc.
  void* take(size_t& bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      auto best = kept_.end();
      for (auto block = kept_.begin(); block != kept_.end(); ++block) {
        const bool fits = block->bytes >= bytes && block->bytes / 2 <= bytes;
        if (fits && (best == kept_.end() || block->bytes < best->bytes)) best = block;
      }
      if (best != kept_.end()) {
        const Block found = *best;
        kept_.erase(best);
        kept_bytes_ -= found.bytes;
        bytes = found.bytes;
        return found.data;
      }
    }
    void* data = map(bytes);
    if (!data) {  // what is kept may be in other sizes
      release();
      data = map(bytes);
    }
    if (!data) throw std::bad_alloc();
    return data;
  }

  // Keeps what `take` returned. For that it frees what was kept for longest.
  void give(void* data, size_t bytes) noexcept {
    std::vector<Block> leaving;
    try {
      const std::lock_guard<std::mutex> lock(mutex_);
      leaving.reserve(kept_.size() + 1);
      kept_.push_back({data, bytes});
      kept_bytes_ += bytes;
      auto first = kept_.begin();
      for (; kept_bytes_ > kMaxKept; ++first) {
        leaving.push_back(*first);
        kept_bytes_ -= first->bytes;
      }
      kept_.erase(kept_.begin(), first);
    } catch (const std::bad_alloc&) {  // before anything was kept
      leaving = {};
      munmap(data, bytes);
    }
    for (const Block& block : leaving) munmap(block.data, block.bytes);
  }

  // Frees what no tensor uses.
  void release() noexcept {
    std::vector<Block> leaving;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      leaving.swap(kept_);
      kept_bytes_ = 0;
    }
    for (const Block& block : leaving) munmap(block.data, block.bytes);
  }

  // Bytes that no tensor uses.
  size_t kept() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return kept_bytes_;
  }

 private:
  struct Block {
    void* data;
    size_t bytes;
  };

  // Whole pages, or null.
  static void* map(size_t bytes) {
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return data == MAP_FAILED ? nullptr : data;
  }

  // A fork while another thread holds the lock would leave it held in the child for ever.
  OutputMemory() {
    pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                   [] { instance().mutex_.unlock(); });
  }

  std::mutex mutex_;
  std::vector<Block> kept_;  // the one given last is the last
  size_t kept_bytes_ = 0;
};

// An output on a CPU with unknown contents. Throws std::bad_alloc.
inline paddle::Tensor output(const std::vector<int64_t>& shape, paddle::DataType dtype, const phi::Place& place) {
  size_t bytes = phi::SizeOf(dtype);
  for (const int64_t extent : shape) bytes *= static_cast<size_t>(std::max<int64_t>(0, extent));
  if (bytes < OutputMemory::kMin) return paddle::empty(shape, dtype, place);
  void* data = OutputMemory::instance().take(bytes);
  const auto give = [](phi::Allocation* memory) { OutputMemory::instance().give(memory->ptr(), memory->size()); };
  const auto holder = std::make_shared<phi::Allocation>(data, bytes, give, place);
  return paddle::Tensor(
      std::make_shared<phi::DenseTensor>(holder, phi::DenseTensorMeta(dtype, phi::make_ddim(shape))));
}

}  // namespace ppreplk
