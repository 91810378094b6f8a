// Errors of operators, in the one type whose message Paddle passes on from eager mode and from programs.
//
// Only kernels may use them: Paddle ends the process when a function that infers shapes throws in a
// static graph.
#pragma once

#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "paddle/common/enforce.h"

namespace ppreplk {

[[noreturn]] inline void fail(const std::string& message) {
  PADDLE_THROW(common::errors::InvalidArgument("ppreplk: %s", message));
}

// Exceptions that are not Paddle's would end the process.
template <class Call>
auto checked(Call call) {
  try {
    return call();
  } catch (const common::enforce::EnforceNotMet&) {
    throw;
  } catch (const std::bad_alloc&) {
    PADDLE_THROW(common::errors::ResourceExhausted("ppreplk: out of memory"));
  } catch (const std::exception& error) {
    fail(error.what());
  }
}

inline std::string text_of(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t extent : shape) text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return "[" + text + "]";
}

}  // namespace ppreplk
