#include "packed_weights.h"

#include <cstring>
#include <functional>

#include "bfloat16.h"
#include "own_products.h"

namespace ppreplk {
namespace channels_last {
namespace {

uint64_t checksum_of(Header header, const std::vector<uint8_t>& description) {
  header.checksum = 0;
  return hash(hash(kHashStart, &header, sizeof header), description.data(), description.size());
}

int64_t payload_after(int64_t description_bytes) {
  return whole_lines(static_cast<int64_t>(sizeof(Header)) + description_bytes);
}

int64_t payload_bytes(const memory::desc& desc) { return whole_lines(static_cast<int64_t>(desc.get_size())); }

Header header_for(const Layer& layer) {
  Header header;
  header.in = layer.in;
  header.out = layer.out;
  header.kernel = layer.kernel;
  header.stride = layer.stride;
  header.groups = layer.groups;
  header.dtype = layer.dtype;
  return header;
}

}  // namespace

uint64_t hash(uint64_t from, const void* data, size_t bytes) {
  const auto* begin = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < bytes; ++i) from = (from ^ begin[i]) * 0x100000001b3;
  return from;
}

Packing::Packing(const Layer& layer, const Map& map)
    : problem(choose(layer, map)),
      desc(weights_of(plan(problem, any_weights(problem)))),
      description(desc.get_blob()),
      header(header_for(layer)) {
  header.description_bytes = static_cast<int32_t>(description.size());
  header.payload = payload_after(header.description_bytes);
  header.bytes = header.payload + payload_bytes(desc);
  header.type = problem.type;
  header.form = problem.form;
  header.checksum = checksum_of(header, description);
}

Packed::Packed(const Layer& layer, const void* data, int64_t bytes) {
  const auto* begin = static_cast<const uint8_t*>(data);
  check(bytes >= static_cast<int64_t>(sizeof header), "the packed weights are too short");
  std::memcpy(&header, begin, sizeof header);
  check(header.magic == Header().magic, "these are no packed weights");
  check(header.version == onednn_version(), "the weights were packed by another version of oneDNN");
  check(header.bytes == bytes, "packed weights of another size");
  check(header.layer() == header_for(layer).layer(), "the weights were packed for another layer");
  check(header.form == Form::convolution || (header.form == Form::matmul && is_pointwise(layer)),
        "packed in an unknown form");
  check(header.type == Type::f32 || (header.type == Type::bf16 && layer.dtype == Dtype::bfloat16 && has_bfloat16()),
        "the weights were packed for another processor");
  memory::desc plain = plain_weights(layer, header.form, header.type);
  check(header.description_bytes == static_cast<int64_t>(plain.get_blob().size()) &&
            header.payload == payload_after(header.description_bytes) && header.payload <= bytes,
        "the packed weights have a broken header");
  description.assign(begin + sizeof header, begin + sizeof header + header.description_bytes);
  check(header.checksum == checksum_of(header, description), "the packed weights have a broken header");
  desc = memory::desc(description);
  check(desc.get_dims() == plain.get_dims() && desc.get_data_type() == header.type &&
            header.payload + payload_bytes(desc) == bytes,
        "the packed weights have a broken header");
  weights = begin + header.payload;
}

void pack(const Layer& layer, const Map& map, Precision precision, const float* weight,
          const std::function<void*(int64_t)>& allocate) {
  check(layer, map);
  check((precision == Precision::bf16) == (layer.dtype == Dtype::bfloat16), "another precision than the tensors have");
  if (pack_own(layer, map, precision, weight, allocate)) return;
  const Packing packing(layer, map);
  char* out = static_cast<char*>(allocate(packing.header.bytes));
  std::memset(out, 0, packing.header.bytes);
  std::memcpy(out, &packing.header, sizeof packing.header);
  std::memcpy(out + sizeof packing.header, packing.description.data(), packing.description.size());
  std::vector<float> rounded;
  if (layer.dtype == Dtype::bfloat16) {
    rounded.assign(weight, weight + layer.out * (layer.in / layer.groups) * layer.kernel * layer.kernel);
    for (float& value : rounded) value = widen(narrow(value));
    weight = rounded.data();
  }
  reorder(plain_weights(layer, packing.problem.form, Type::f32), weight, packing.desc, out + packing.header.payload);
}

}  // namespace channels_last
}  // namespace ppreplk
