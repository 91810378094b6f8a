// Two pointwise convolutions with a wide layer between them, of which only a piece exists at a time.
#include <algorithm>

#include "int8_products.h"
#include "own_products.h"
#include "problem.h"
#include "runtime.h"

namespace ppreplk {
namespace channels_last {
namespace {

// Of the images that oneDNN computes at a time. An image of 56x56 with 512 hidden channels takes 6.4 MB: for eight of
// them, one at a time took 13.9 ms and two at a time 15.4. Smaller maps do not care.
constexpr int64_t kHiddenBytes = 8 << 20;

}  // namespace

void feed_forward(const Layer& first, const Layer& second, const Map& map, const void* x, const void* packed1,
                  int64_t bytes1, const float* bias1, const void* packed2, int64_t bytes2, const float* bias2, void* y) {
  check(first, map);
  check(second, map);
  check(is_pointwise(first) && is_pointwise(second) && first.dtype == second.dtype && first.in == second.out &&
            first.out == second.in,
        "the layers do not follow one another");
  if (is_packed_int8(packed1, bytes1) && is_packed_int8(packed2, bytes2)) {
    return feed_forward_int8(first, second, map, x, packed1, bytes1, bias1, packed2, bytes2, bias2, y);
  }
  if (are_own(packed1, bytes1, packed2, bytes2)) {
    return feed_forward_own(first, second, map, x, packed1, bytes1, bias1, packed2, bytes2, bias2, y);
  }
  const int64_t pixels = map.height * map.width;
  const int64_t size = first.dtype == Dtype::bfloat16 ? 2 : 4;
  const int64_t step = images_within(kHiddenBytes, pixels * first.out * size);
  for (int64_t image = 0; image < map.batch; image += step) {
    const Map some{std::min(step, map.batch - image), map.height, map.width};
    const int64_t at = image * pixels * first.in * size;
    const char* in = static_cast<const char*>(x) + at;
    void* hidden = thread_memory(kHidden, some.batch * pixels * first.out * size);
    run(first, some, in, packed1, bytes1, bias1, nullptr, Activation::gelu, hidden);
    run(second, some, hidden, packed2, bytes2, bias2, in, Activation::none, static_cast<char*>(y) + at);
  }
}

}  // namespace channels_last
}  // namespace ppreplk
