// Checks of what operators are given. Only kernels may use them, see errors.h.
//
// `layer` is what messages call the operator, such as "a channels-last layer".
#pragma once

#include <string>

#include "activation.h"
#include "errors.h"
#include "paddle/phi/api/all.h"

namespace ppreplk {

inline void check_on_cpu(const paddle::Tensor& x, const char* name, const char* layer) {
  if (!x.is_cpu()) fail(std::string(name) + " of " + layer + " must be in the processor's memory");
}

inline void check_float32(const paddle::Tensor& x, const char* name, const char* layer) {
  check_on_cpu(x, name, layer);
  if (x.dtype() != paddle::DataType::FLOAT32) fail(std::string(name) + " of " + layer + " must be float32");
}

inline void check_rank(const paddle::Tensor& x, size_t rank, const char* name, const char* layer) {
  if (x.shape().size() != rank) {
    fail(std::string(name) + " of " + layer + " needs " + std::to_string(rank) + " dimensions, got " +
         text_of(x.shape()));
  }
}

inline Activation activation_of(const std::string& name) {
  if (name == "none") return Activation::none;
  if (name == "relu") return Activation::relu;
  if (name == "gelu") return Activation::gelu;
  if (name == "relu6") return Activation::relu6;
  fail("unknown activation " + name);
}

}  // namespace ppreplk
