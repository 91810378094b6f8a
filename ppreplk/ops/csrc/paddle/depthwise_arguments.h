// Checks of what a depthwise convolution is given, for its operators in inference and in training.
#pragma once

#include <string>
#include <vector>

#include "arguments.h"
#include "depthwise.h"

namespace ppreplk {

inline bool is_depthwise_weight(const std::vector<int64_t>& shape) {
  return shape.size() == 4 && shape[1] == 1 && shape[2] == shape[3] && shape[2] % 2 == 1;
}

// `layout` is that of X, which Paddle's tensors do not know. The bias may be undefined.
inline Problem problem_of(const paddle::Tensor& x, const paddle::Tensor& weight, const paddle::Tensor& bias,
                          Layout layout) {
  for (const paddle::Tensor& tensor : {x, weight}) check_on_cpu(tensor, "a tensor", "a depthwise convolution");
  const std::vector<int64_t> shape = x.shape(), kernel = weight.shape();
  const size_t channels = layout == Layout::nchw ? 1 : 3, height = layout == Layout::nchw ? 2 : 1;
  const bool right = shape.size() == 4 && is_depthwise_weight(kernel) && kernel[0] == shape[channels] &&
                     (!bias.defined() || bias.shape() == std::vector<int64_t>{shape[channels]});
  if (!right) {
    fail(std::string("depthwise convolution needs x ") + (layout == Layout::nchw ? "(N, C, H, W)" : "(N, H, W, C)") +
         ", weight (C, 1, K, K) with odd K" + (bias.defined() ? " and bias (C)" : "") + ", got x " + text_of(shape) +
         ", weight " + text_of(kernel) + (bias.defined() ? ", bias " + text_of(bias.shape()) : ""));
  }
  return {shape[0], shape[channels], shape[height], shape[height + 1], kernel[2]};
}

}  // namespace ppreplk
