/* Depthwise convolution on NVIDIA GPUs as a C library that knows no framework: stride 1, "same" padding, odd kernels.
 *
 * Tensors are contiguous NCHW in device memory and stay the caller's; weights are (C, 1, K, K). Everything is summed in
 * float32, whatever the tensors hold. Work is put on the stream and not waited for: the caller keeps tensors and
 * workspace until the stream has passed. The device is the current one of the calling thread.
 *
 * Kernels of 13 and more run through Fourier transforms of two images (or two tiles) of a channel at once. Their rounding
 * errors are those of the larger one, and a NaN or an infinity in one makes outputs of the other NaN.
 *
 * A problem is int64_t[5]: batch, channels, height, width, kernel (odd, 1 to 127). An empty batch is no error.
 *
 * Functions that return `int` return PPREPLK_CUDA_OK if all went well, and otherwise an error for
 * ppreplk_cuda_error_text(). No exception leaves the library. Results have the same bits from run to run.
 */
#ifndef PPREPLK_CUDA_DEPTHWISE_H_
#define PPREPLK_CUDA_DEPTHWISE_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PPREPLK_CUDA_API __attribute__((visibility("default")))

enum { PPREPLK_CUDA_ABI = 1 }; /* changes when a function below does */
enum {
  PPREPLK_CUDA_OK = 0,
  PPREPLK_CUDA_INVALID_ARGUMENT = 1,
  PPREPLK_CUDA_WORKSPACE_TOO_SMALL = 2,
  PPREPLK_CUDA_RUNTIME = 1000 /* plus the cudaError_t that the CUDA runtime returned */
};
enum { PPREPLK_CUDA_FLOAT32 = 0, PPREPLK_CUDA_FLOAT16 = 1, PPREPLK_CUDA_BFLOAT16 = 2 };
enum {
  PPREPLK_CUDA_FORWARD = 0,
  PPREPLK_CUDA_GRADIENT_INPUT = 1,
  PPREPLK_CUDA_GRADIENT_WEIGHT = 2,
  PPREPLK_CUDA_BACKWARD = 3
};

PPREPLK_CUDA_API int ppreplk_cuda_abi(void);

/* What a code means; never null. For PPREPLK_CUDA_INVALID_ARGUMENT it says what was wrong in the last call of this
 * thread that failed so. */
PPREPLK_CUDA_API const char* ppreplk_cuda_error_text(int code);

/* "direct", "small" or "spectral": how the current device solves a problem; null if the problem is wrong. */
PPREPLK_CUDA_API const char* ppreplk_cuda_algorithm(const int64_t* problem);

/* Bytes of workspace that an operation needs on the current device, 0 or more; its contents mean nothing between calls.
 * Workspaces are aligned to 256 bytes, and null where 0 bytes are needed is fine. */
PPREPLK_CUDA_API int ppreplk_cuda_workspace(const int64_t* problem, int dtype, int operation, int64_t* bytes);

/* `dtype` is of x, y, dy and dx; `weight_dtype` of weight and dweight. */

/* y = relu(convolution(x, weight) + bias). The bias (C) is float32 and may be null; relu is 0 or 1. */
PPREPLK_CUDA_API int ppreplk_cuda_forward(const int64_t* problem, int dtype, int weight_dtype, const void* x,
                                          const void* weight, const float* bias, int relu, void* y, void* workspace,
                                          int64_t workspace_bytes, void* stream);

PPREPLK_CUDA_API int ppreplk_cuda_gradient_input(const int64_t* problem, int dtype, int weight_dtype, const void* dy,
                                                 const void* weight, void* dx, void* workspace, int64_t workspace_bytes,
                                                 void* stream);

PPREPLK_CUDA_API int ppreplk_cuda_gradient_weight(const int64_t* problem, int dtype, int weight_dtype, const void* x,
                                                  const void* dy, void* dweight, void* workspace,
                                                  int64_t workspace_bytes, void* stream);

/* Both gradients at once, for less than the two above. */
PPREPLK_CUDA_API int ppreplk_cuda_backward(const int64_t* problem, int dtype, int weight_dtype, const void* x,
                                           const void* weight, const void* dy, void* dx, void* dweight, void* workspace,
                                           int64_t workspace_bytes, void* stream);

#ifdef __cplusplus
}
#endif

#endif /* PPREPLK_CUDA_DEPTHWISE_H_ */
