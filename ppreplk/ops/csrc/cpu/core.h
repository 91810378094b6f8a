/* The core as a C library: the functions of depthwise.h and threads.h for callers that are not C++, such as Python.
 *
 * Functions that return `int` return 0 if all went well, and otherwise one of the errors below; ppreplk_error() then
 * says what was wrong. No exception leaves the library. Tensors are contiguous and stay the caller's.
 *
 * A problem is int64_t[5]: batch, channels, height, width, kernel. Threads are a number, or 0 for
 * ppreplk_max_threads().
 */
#ifndef PPREPLK_CORE_H_
#define PPREPLK_CORE_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PPREPLK_API __attribute__((visibility("default")))

enum { PPREPLK_ABI = 1 }; /* changes when a function below does */
enum { PPREPLK_OK = 0, PPREPLK_INVALID_ARGUMENT = 1, PPREPLK_OUT_OF_MEMORY = 2, PPREPLK_FAILED = 3 };
enum { PPREPLK_FLOAT32 = 0, PPREPLK_FLOAT16 = 1, PPREPLK_BFLOAT16 = 2 };
enum { PPREPLK_NCHW = 0, PPREPLK_NHWC = 1 };

PPREPLK_API int ppreplk_abi(void);

/* What was wrong in the last call of this thread that failed. */
PPREPLK_API const char* ppreplk_error(void);

/* GOMP_parallel, omp_get_thread_num, omp_get_num_threads and omp_get_max_threads of the OpenMP runtime in this process;
 * all null for threads of the library's own. Not while another thread is in the library. */
PPREPLK_API void ppreplk_use_openmp(void (*parallel)(void (*)(void*), void*, unsigned, unsigned), int (*thread_num)(void),
                                    int (*num_threads)(void), int (*max_threads)(void));
PPREPLK_API int ppreplk_max_threads(void);

/* "avx512", "avx2" or "portable". */
PPREPLK_API const char* ppreplk_instruction_set(void);
PPREPLK_API int ppreplk_use_instruction_set(const char* name);

PPREPLK_API int ppreplk_depthwise_forward(const int64_t* problem, int dtype, int layout, const void* x,
                                          const float* weight, const float* bias, int relu, void* y, int threads);

/* Either gradient may be null. The weight's is float32. */
PPREPLK_API int ppreplk_depthwise_backward(const int64_t* problem, int dtype, const void* x, const float* weight,
                                           const void* dy, void* dx, float* dweight, int threads);

PPREPLK_API int ppreplk_depthwise_packed_floats(const int64_t* problem, int64_t* floats);
PPREPLK_API int ppreplk_depthwise_pack(const int64_t* problem, const float* weight, float* packed, int threads);

/* `fits`: 1 if `packed` was packed for this problem and instruction set, 0 if not. */
PPREPLK_API int ppreplk_depthwise_packed_fits(const int64_t* problem, const float* packed, int64_t floats, int* fits);
PPREPLK_API int ppreplk_depthwise_forward_packed(const int64_t* problem, int dtype, int layout, const void* x,
                                                 const float* packed, const float* bias, int relu, void* y,
                                                 int threads);

#ifdef __cplusplus
}
#endif

#endif /* PPREPLK_CORE_H_ */
