// Packed weights: a header, oneDNN's description of their layout, and the numbers.
#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include "problem.h"

namespace ppreplk {
namespace channels_last {

constexpr int64_t kLine = 64;  // bytes of a cache line

inline int64_t whole_lines(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

// FNV-1a, from kHashStart or the hash of what comes before.
constexpr uint64_t kHashStart = 0xcbf29ce484222325;
uint64_t hash(uint64_t from, const void* data, size_t bytes);

struct Header {
  int64_t magic = 0x6377686e2d6b6c72;  // "rlk-nhwc"
  int64_t version = onednn_version();  // each version describes layouts in its own way
  int64_t bytes = 0, payload = 0;      // the size of everything; where the numbers begin
  int64_t in = 0, out = 0, kernel = 0, stride = 0, groups = 0;
  Dtype dtype = Dtype::float32;
  Type type = Type::undef;
  Form form = Form::convolution;
  int32_t description_bytes = 0;
  uint64_t checksum = 0;  // of the rest of the header and the description

  auto layer() const { return std::tie(in, out, kernel, stride, groups, dtype); }
};

// Weights to be packed: everything about them but the numbers.
struct Packing {
  Packing(const Layer& layer, const Map& map);

  Problem problem;
  memory::desc desc;
  std::vector<uint8_t> description;
  Header header;
};

// Packed weights in memory. The constructor checks everything but the numbers, and throws std::invalid_argument.
struct Packed {
  Packed(const Layer& layer, const void* data, int64_t bytes);

  Header header;
  std::vector<uint8_t> description;
  memory::desc desc;
  const void* weights;
};

}  // namespace channels_last
}  // namespace ppreplk
