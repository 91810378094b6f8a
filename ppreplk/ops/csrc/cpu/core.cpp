// The C library around depthwise.h, instruction_set.h and threads.h.
#include "core.h"

#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "depthwise.h"
#include "instruction_set.h"
#include "threads.h"

namespace {

using ppreplk::Dtype;
using ppreplk::Layout;
using ppreplk::Problem;

std::string& last_error() {
  thread_local std::string message;
  return message;
}

int failed(int code, const char* message) {
  try {
    last_error() = message;
  } catch (...) {  // no memory for the message
  }
  return code;
}

template <class Call>
int guarded(Call call) {
  try {
    call();
    return PPREPLK_OK;
  } catch (const std::invalid_argument& error) {
    return failed(PPREPLK_INVALID_ARGUMENT, error.what());
  } catch (const std::bad_alloc&) {
    return failed(PPREPLK_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return failed(PPREPLK_FAILED, error.what());
  } catch (...) {
    return failed(PPREPLK_FAILED, "unknown exception");
  }
}

Problem problem_of(const int64_t* sizes) {
  if (!sizes) throw std::invalid_argument("depthwise convolution: the problem is null");
  return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
}

Dtype dtype_of(int code) {
  switch (code) {
    case PPREPLK_FLOAT32: return Dtype::float32;
    case PPREPLK_FLOAT16: return Dtype::float16;
    case PPREPLK_BFLOAT16: return Dtype::bfloat16;
    default: throw std::invalid_argument("depthwise convolution: no dtype " + std::to_string(code));
  }
}

Layout layout_of(int code) {
  switch (code) {
    case PPREPLK_NCHW: return Layout::nchw;
    case PPREPLK_NHWC: return Layout::nhwc;
    default: throw std::invalid_argument("depthwise convolution: no layout " + std::to_string(code));
  }
}

int threads_of(int threads) { return threads > 0 ? threads : ppreplk::max_threads(); }

}  // namespace

int ppreplk_abi(void) { return PPREPLK_ABI; }

const char* ppreplk_error(void) { return last_error().c_str(); }

void ppreplk_use_openmp(void (*parallel)(void (*)(void*), void*, unsigned, unsigned), int (*thread_num)(void),
                        int (*num_threads)(void), int (*max_threads)(void)) {
  ppreplk::use_openmp({parallel, thread_num, num_threads, max_threads});
}

int ppreplk_max_threads(void) { return ppreplk::max_threads(); }

const char* ppreplk_instruction_set(void) { return ppreplk::name_of(ppreplk::instruction_set()); }

int ppreplk_use_instruction_set(const char* name) {
  return guarded([&] { ppreplk::use_instruction_set(name); });
}

int ppreplk_depthwise_forward(const int64_t* problem, int dtype, int layout, const void* x, const float* weight,
                              const float* bias, int relu, void* y, int threads) {
  return guarded([&] {
    ppreplk::forward(problem_of(problem), dtype_of(dtype), layout_of(layout), x, weight, bias, relu != 0, y,
                     threads_of(threads));
  });
}

int ppreplk_depthwise_backward(const int64_t* problem, int dtype, const void* x, const float* weight, const void* dy,
                               void* dx, float* dweight, int threads) {
  return guarded([&] {
    ppreplk::backward(problem_of(problem), dtype_of(dtype), Layout::nchw, x, weight, dy, dx, dweight,
                      threads_of(threads));
  });
}

int ppreplk_depthwise_packed_floats(const int64_t* problem, int64_t* floats) {
  return guarded([&] { *floats = ppreplk::packed_floats(problem_of(problem)); });
}

int ppreplk_depthwise_pack(const int64_t* problem, const float* weight, float* packed, int threads) {
  return guarded([&] { ppreplk::pack(problem_of(problem), weight, packed, threads_of(threads)); });
}

int ppreplk_depthwise_packed_fits(const int64_t* problem, const float* packed, int64_t floats, int* fits) {
  return guarded([&] { *fits = ppreplk::packed_fits(problem_of(problem), packed, floats); });
}

int ppreplk_depthwise_forward_packed(const int64_t* problem, int dtype, int layout, const void* x, const float* packed,
                                     const float* bias, int relu, void* y, int threads) {
  return guarded([&] {
    ppreplk::forward_packed(problem_of(problem), dtype_of(dtype), layout_of(layout), x, packed, bias, relu != 0, y,
                            threads_of(threads));
  });
}
