// Kernels with the faults that the emulation must find. Compiled with it by test_cuda_emulation.py.
#include "device.h"

using namespace ppreplk::cuda;

namespace {

struct Task {
  float* data;
  int count;
};

// The numbers turned around, as they should be: one barrier between writing and reading.
__global__ void turn(Task task) {
  PPREPLK_SHARED(shared);
  float* numbers = reinterpret_cast<float*>(shared);
  const int i = threadIdx.x;
  numbers[i] = task.data[i];
  __syncthreads();
  task.data[i] = numbers[task.count - 1 - i];
}

__global__ void race(Task task) {
  PPREPLK_SHARED(shared);
  float* numbers = reinterpret_cast<float*>(shared);
  const int i = threadIdx.x;
  numbers[i] = task.data[i];
  task.data[i] = numbers[task.count - 1 - i];
}

__global__ void missed_barrier(Task task) {
  if (threadIdx.x != task.count / 2) __syncthreads();
}

__global__ void other_barrier(Task task) {
  if (threadIdx.x < task.count / 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void behind_the_end(Task task) {
  PPREPLK_SHARED(shared);
  reinterpret_cast<float*>(shared)[threadIdx.x + 1] = task.data[threadIdx.x];
}

__global__ void never_written(Task task) {
  PPREPLK_SHARED(shared);
  task.data[threadIdx.x] = reinterpret_cast<float*>(shared)[threadIdx.x];
}

}  // namespace

extern "C" PPREPLK_CUDA_API int faulty(int which, float* data, int count, int threads, int blocks) {
  void (*const kernels[])(Task) = {turn, race, missed_barrier, other_barrier, behind_the_end, never_written};
  return launch(kernels[which], dim3(static_cast<unsigned>(blocks)), threads, sizeof(float) * count, nullptr,
                Task{data, count});
}

extern "C" PPREPLK_CUDA_API const char* fault() { return runtime_error_text(0); }

// The kernels' conversions.
extern "C" PPREPLK_CUDA_API void through_half(const float* values, float* halves, float* bfloats, int count) {
  for (int i = 0; i < count; ++i) {
    uint16_t bits = 0;
    store_number(&bits, PPREPLK_CUDA_FLOAT16, 0, values[i]);
    halves[i] = load_number(&bits, PPREPLK_CUDA_FLOAT16, 0);
    store_number(&bits, PPREPLK_CUDA_BFLOAT16, 0, values[i]);
    bfloats[i] = load_number(&bits, PPREPLK_CUDA_BFLOAT16, 0);
  }
}

// How often the kernels' division by a known number is wrong, over the numbers it may be asked for.
extern "C" PPREPLK_CUDA_API int wrong_quotients(int max_divisor, int numbers) {
  int wrong = 0;
  for (int divisor = 1; divisor <= max_divisor; ++divisor) {
    const Divisor by = make_divisor(divisor);
    for (int number = 0; number < numbers; ++number) {
      wrong += by.quotient(number) != number / divisor || by.remainder(number) != number % divisor;
    }
  }
  return wrong;
}
