// What the kernels use of CUDA, and numbers of every dtype. Without nvcc the same code is compiled for the processor,
// with the tests' cuda_emulation.h in the place of CUDA.
#pragma once

#include <cstddef>
#include <cstdint>

#include "depthwise.h"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define PPREPLK_UNROLL _Pragma("unroll")
// The shared memory of a block, whose size the launch says.
#define PPREPLK_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#else
#include "cuda_emulation.h"
#endif

#define PPREPLK_DEVICE __device__ __forceinline__

namespace ppreplk {
namespace cuda {

#ifdef __CUDACC__
PPREPLK_DEVICE float half_to_float(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
PPREPLK_DEVICE uint16_t float_to_half(float value) { return __half_as_ushort(__float2half_rn(value)); }
PPREPLK_DEVICE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
PPREPLK_DEVICE uint32_t float_to_bits(float value) { return __float_as_uint(value); }

// Puts a kernel on a stream; returns a code of depthwise.h.
template <class Task>
int launch(void (*kernel)(Task), dim3 grid, int threads, size_t shared_bytes, void* stream, Task task) {
  constexpr size_t kWithoutAsking = 48 << 10;
  const void* function = reinterpret_cast<const void*>(kernel);
  cudaError_t error = cudaSuccess;
  if (shared_bytes > kWithoutAsking) {
    error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  }
  void* arguments[] = {&task};
  if (error == cudaSuccess) {
    error = cudaLaunchKernel(function, grid, dim3(static_cast<unsigned>(threads)), arguments, shared_bytes,
                             static_cast<cudaStream_t>(stream));
  }
  if (error == cudaSuccess) return PPREPLK_CUDA_OK;
  cudaGetLastError();  // it is reported here, and not once more to the next caller
  return PPREPLK_CUDA_RUNTIME + static_cast<int>(error);
}

// Bytes of shared memory that a block of the current device may have.
inline int max_shared_bytes(int* bytes) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  if (error == cudaSuccess) return PPREPLK_CUDA_OK;
  cudaGetLastError();
  return PPREPLK_CUDA_RUNTIME + static_cast<int>(error);
}

inline const char* runtime_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
#endif

// Tensors in memory: planes of height * width numbers, which may be read backwards (step -1).
struct Planes {
  const void* data;
  int dtype, height, width, step;
};

PPREPLK_DEVICE float load_number(const void* data, int dtype, int64_t at) {
  if (dtype == PPREPLK_CUDA_FLOAT32) return static_cast<const float*>(data)[at];
  const uint16_t bits = static_cast<const uint16_t*>(data)[at];
  return dtype == PPREPLK_CUDA_FLOAT16 ? half_to_float(bits) : bits_to_float(uint32_t{bits} << 16);
}

// Rounds to nearest, ties to even; NaN stays NaN.
PPREPLK_DEVICE uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = float_to_bits(value);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded);
}

PPREPLK_DEVICE void store_number(void* data, int dtype, int64_t at, float value) {
  if (dtype == PPREPLK_CUDA_FLOAT32) {
    static_cast<float*>(data)[at] = value;
  } else {
    static_cast<uint16_t*>(data)[at] = dtype == PPREPLK_CUDA_FLOAT16 ? float_to_half(value) : float_to_bfloat16(value);
  }
}

// Where results go, and what is done to them first.
struct Results {
  void* data;
  int dtype, height, width;
  const float* addend;  // of the same shape, or null
  const float* bias;    // of the channels, or null
  int relu;

  PPREPLK_DEVICE float bias_of(int channel) const { return bias ? bias[channel] : 0.0f; }
  PPREPLK_DEVICE void store(int64_t at, float value, float channel_bias) const {
    if (addend) value += addend[at];
    value += channel_bias;
    // As the framework's: NaN stays NaN.
    store_number(data, dtype, at, relu && value < 0.0f ? 0.0f : value);
  }
};

// Division of small numbers (number * divisor < 2^32) by one that the host knows.
struct Divisor {
  int divisor;
  uint32_t inverse;

  PPREPLK_DEVICE int quotient(int number) const {
    return divisor == 1 ? number : static_cast<int>(__umulhi(static_cast<uint32_t>(number), inverse));
  }
  PPREPLK_DEVICE int remainder(int number) const { return number - quotient(number) * divisor; }
};

inline Divisor make_divisor(int divisor) {
  return {divisor, divisor == 1 ? 0u : static_cast<uint32_t>((uint64_t{1} << 32) / static_cast<uint32_t>(divisor) + 1)};
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace cuda
}  // namespace ppreplk
