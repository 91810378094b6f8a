// oneDNN's primitives, created once and kept: to create one, code is generated.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace ppreplk {
namespace channels_last {

template <class Key, class Primitive>
class KeptPrimitives {
 public:
  // The one with this key. If there is none, `create` makes it: without the lock, so that other threads do not wait.
  template <class Create>
  std::shared_ptr<const Primitive> find(const Key& key, Create create) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = entries_.find(key);
      if (found != entries_.end()) {
        found->second.last_use = ++uses_;
        return found->second.primitive;
      }
    }
    const auto created = std::make_shared<const Primitive>(create());
    const std::lock_guard<std::mutex> lock(mutex_);
    if (entries_.size() >= kMost) forget_half();
    return entries_.emplace(key, Entry{created, ++uses_}).first->second.primitive;
  }

 private:
  struct Entry {
    std::shared_ptr<const Primitive> primitive;
    uint64_t last_use;
  };

  // A primitive takes about 170 KB.
  static constexpr size_t kMost = 2048;

  // Those that were used longest ago.
  void forget_half() {
    std::vector<uint64_t> uses;
    for (const auto& entry : entries_) uses.push_back(entry.second.last_use);
    const auto middle = uses.begin() + uses.size() / 2;
    std::nth_element(uses.begin(), middle, uses.end());
    for (auto entry = entries_.begin(); entry != entries_.end();) {
      entry = entry->second.last_use < *middle ? entries_.erase(entry) : std::next(entry);
    }
  }

  std::mutex mutex_;
  std::map<Key, Entry> entries_;
  uint64_t uses_ = 0;
};

}  // namespace channels_last
}  // namespace ppreplk
