// The interface of the device kernels (csrc/cuda/depthwise.h) as plain sums on the processor, to test who calls it.
// It asks for workspaces and writes all over them, and remembers what it was last called with.
#include "depthwise.h"

#include <cstring>
#include <string>

namespace {

thread_local std::string message;
thread_local const char* last_operation = "none";
thread_local void* last_stream = nullptr;

int64_t workspace_of(int operation) { return operation == PPREPLK_CUDA_FORWARD ? 0 : 1000 + operation; }

float load(const void* data, int dtype, int64_t at) {
  if (dtype == PPREPLK_CUDA_FLOAT32) return static_cast<const float*>(data)[at];
  if (dtype == PPREPLK_CUDA_FLOAT16) return static_cast<const _Float16*>(data)[at];
  const uint32_t bits = uint32_t{static_cast<const uint16_t*>(data)[at]} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

void store(void* data, int dtype, int64_t at, float value) {
  if (dtype == PPREPLK_CUDA_FLOAT32) static_cast<float*>(data)[at] = value;
  if (dtype == PPREPLK_CUDA_FLOAT16) static_cast<_Float16*>(data)[at] = static_cast<_Float16>(value);
  if (dtype == PPREPLK_CUDA_BFLOAT16) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    static_cast<uint16_t*>(data)[at] = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
}

struct Sizes {
  int64_t n, c, h, w, k;
};

int start(const char* operation, int number, const int64_t* problem, void* workspace, int64_t bytes, void* stream,
          Sizes* sizes) {
  *sizes = {problem[0], problem[1], problem[2], problem[3], problem[4]};
  last_operation = operation;
  last_stream = stream;
  if (sizes->k % 2 == 0 || sizes->k > 127) {
    message = "the kernel is " + std::to_string(sizes->k) + ", needed is an odd one up to 127";
    return PPREPLK_CUDA_INVALID_ARGUMENT;
  }
  if (bytes < workspace_of(number)) return PPREPLK_CUDA_WORKSPACE_TOO_SMALL;
  if (workspace_of(number)) std::memset(workspace, 0xff, static_cast<size_t>(bytes));
  return PPREPLK_CUDA_OK;
}

// Calls visit(place in x, place in y, place in the weight) for every product of the convolution.
template <class Visit>
void for_products(const Sizes& s, const Visit& visit) {
  const int64_t pad = s.k / 2;
  for (int64_t plane = 0; plane < s.n * s.c; ++plane) {
    for (int64_t y = 0; y < s.h * s.w; ++y) {
      for (int64_t tap = 0; tap < s.k * s.k; ++tap) {
        const int64_t row = y / s.w + tap / s.k - pad, column = y % s.w + tap % s.k - pad;
        if (row < 0 || row >= s.h || column < 0 || column >= s.w) continue;
        visit(plane * s.h * s.w + row * s.w + column, plane * s.h * s.w + y, plane % s.c * s.k * s.k + tap);
      }
    }
  }
}

}  // namespace

extern "C" {

PPREPLK_CUDA_API const char* plain_last_operation() { return last_operation; }
PPREPLK_CUDA_API int64_t plain_last_stream() { return reinterpret_cast<int64_t>(last_stream); }

int ppreplk_cuda_abi(void) { return PPREPLK_CUDA_ABI; }

const char* ppreplk_cuda_error_text(int code) {
  if (code == PPREPLK_CUDA_INVALID_ARGUMENT) return message.c_str();
  if (code == PPREPLK_CUDA_RUNTIME + 209) return "no kernel image is available";
  return "something else";
}

const char* ppreplk_cuda_algorithm(const int64_t* problem) { return problem[4] < 9 ? "direct" : "spectral"; }

int ppreplk_cuda_workspace(const int64_t*, int, int operation, int64_t* bytes) {
  *bytes = workspace_of(operation);
  return PPREPLK_CUDA_OK;
}

int ppreplk_cuda_forward(const int64_t* problem, int dtype, int weight_dtype, const void* x, const void* weight,
                         const float* bias, int relu, void* y, void* workspace, int64_t bytes, void* stream) {
  Sizes s;
  if (int code = start("forward", PPREPLK_CUDA_FORWARD, problem, workspace, bytes, stream, &s)) return code;
  if (s.k == 127 && s.h == 3) return PPREPLK_CUDA_RUNTIME + (s.w == 4 ? 209 : 700);  // as a GPU may fail
  const int64_t count = s.n * s.c * s.h * s.w;
  double* sums = new double[count]();
  for_products(s, [&](int64_t in, int64_t out, int64_t tap) {
    sums[out] += double{load(x, dtype, in)} * load(weight, weight_dtype, tap);
  });
  for (int64_t i = 0; i < count; ++i) {
    double value = sums[i] + (bias ? bias[i / (s.h * s.w) % s.c] : 0.0);
    store(y, dtype, i, static_cast<float>(relu && value < 0 ? 0.0 : value));
  }
  delete[] sums;
  return PPREPLK_CUDA_OK;
}

static void input_gradient(const Sizes& s, int dtype, int weight_dtype, const void* dy, const void* weight, void* dx) {
  const int64_t count = s.n * s.c * s.h * s.w;
  double* sums = new double[count]();
  for_products(s, [&](int64_t in, int64_t out, int64_t tap) {
    sums[in] += double{load(dy, dtype, out)} * load(weight, weight_dtype, tap);
  });
  for (int64_t i = 0; i < count; ++i) store(dx, dtype, i, static_cast<float>(sums[i]));
  delete[] sums;
}

static void weight_gradient(const Sizes& s, int dtype, int weight_dtype, const void* x, const void* dy, void* dweight) {
  double* sums = new double[s.c * s.k * s.k]();
  for_products(s, [&](int64_t in, int64_t out, int64_t tap) {
    sums[tap] += double{load(x, dtype, in)} * load(dy, dtype, out);
  });
  for (int64_t i = 0; i < s.c * s.k * s.k; ++i) store(dweight, weight_dtype, i, static_cast<float>(sums[i]));
  delete[] sums;
}

int ppreplk_cuda_gradient_input(const int64_t* problem, int dtype, int weight_dtype, const void* dy, const void* weight,
                                void* dx, void* workspace, int64_t bytes, void* stream) {
  Sizes s;
  if (int code = start("gradient_input", PPREPLK_CUDA_GRADIENT_INPUT, problem, workspace, bytes, stream, &s)) {
    return code;
  }
  input_gradient(s, dtype, weight_dtype, dy, weight, dx);
  return PPREPLK_CUDA_OK;
}

int ppreplk_cuda_gradient_weight(const int64_t* problem, int dtype, int weight_dtype, const void* x, const void* dy,
                                 void* dweight, void* workspace, int64_t bytes, void* stream) {
  Sizes s;
  if (int code = start("gradient_weight", PPREPLK_CUDA_GRADIENT_WEIGHT, problem, workspace, bytes, stream, &s)) {
    return code;
  }
  weight_gradient(s, dtype, weight_dtype, x, dy, dweight);
  return PPREPLK_CUDA_OK;
}

int ppreplk_cuda_backward(const int64_t* problem, int dtype, int weight_dtype, const void* x, const void* weight,
                          const void* dy, void* dx, void* dweight, void* workspace, int64_t bytes, void* stream) {
  Sizes s;
  if (int code = start("backward", PPREPLK_CUDA_BACKWARD, problem, workspace, bytes, stream, &s)) return code;
  input_gradient(s, dtype, weight_dtype, dy, weight, dx);
  weight_gradient(s, dtype, weight_dtype, x, dy, dweight);
  return PPREPLK_CUDA_OK;
}

}  // extern "C"
