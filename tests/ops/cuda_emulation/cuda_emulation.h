// CUDA for the processor, as far as csrc/cuda uses it. Every thread of a block is a fiber with a stack of its own, which
// runs up to the next barrier; then the next one runs, in an order that the test chooses. If threads between two
// barriers touch the same memory and one of them writes, results depend on that order, and the test sees it.
//
// Shared memory is filled with NaN before every block, and guarded behind its end. Global memory is whatever the test
// passes: with -fsanitize=address, reading or writing outside is found in both.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define PPREPLK_UNROLL
#define PPREPLK_SHARED(name) unsigned char* name = ::emulation::shared_memory()
#define __syncthreads() ::emulation::barrier(__LINE__)

struct dim3 {
  unsigned x, y, z;
  explicit dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) float4 {
  float x, y, z, w;
};

namespace emulation {

struct Index {
  int x, y, z;
};
extern Index thread, block, block_size;

unsigned char* shared_memory();
void barrier(int line);
int max_shared_bytes();
const char* error_text();

// Runs body(task) in every thread of every block. Returns 0, or 1 with an error_text().
int run(dim3 grid, int threads, size_t shared_bytes, void (*body)(const void*), const void* task);

}  // namespace emulation

#define threadIdx ::emulation::thread
#define blockIdx ::emulation::block
#define blockDim ::emulation::block_size

inline uint32_t __umulhi(uint32_t a, uint32_t b) { return static_cast<uint32_t>(uint64_t{a} * b >> 32); }
using std::max;
using std::min;

namespace ppreplk {
namespace cuda {

inline float half_to_float(uint16_t bits) {
  _Float16 half;
  std::memcpy(&half, &bits, sizeof half);
  return static_cast<float>(half);
}
inline uint16_t float_to_half(float value) {
  const _Float16 half = static_cast<_Float16>(value);
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}
inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

template <class Task>
int launch(void (*kernel)(Task), dim3 grid, int threads, size_t shared_bytes, void* /*stream*/, Task task) {
  struct Call {
    void (*kernel)(Task);
    const Task* task;
  } call{kernel, &task};
  const auto body = [](const void* data) {
    const Call& call = *static_cast<const Call*>(data);
    call.kernel(*call.task);
  };
  return emulation::run(grid, threads, shared_bytes, body, &call) ? PPREPLK_CUDA_RUNTIME + 1 : PPREPLK_CUDA_OK;
}

inline int max_shared_bytes(int* bytes) {
  *bytes = emulation::max_shared_bytes();
  return PPREPLK_CUDA_OK;
}
inline const char* runtime_error_text(int /*error*/) { return emulation::error_text(); }

}  // namespace cuda
}  // namespace ppreplk
