// The C interface, and the sum of the parts of a gradient of the weight.
#include "depthwise.h"

#include <cstdio>

#include "kernels.h"

namespace ppreplk {
namespace cuda {
namespace {

thread_local char message[200] = "an argument is wrong";

template <class... Values>
int invalid(const char* format, Values... values) {
  std::snprintf(message, sizeof message, format, values...);
  return PPREPLK_CUDA_INVALID_ARGUMENT;
}

constexpr int64_t kAlignment = 256;  // of the parts of a workspace
constexpr int64_t kMaxCount = 1 << 20, kMaxExtent = 1 << 15;
constexpr int64_t kMaxNumbers = int64_t{1} << 36;  // of a tensor
constexpr int64_t kMaxUnits = int64_t{1} << 30;    // tiles of a channel, in all images: kernels count them in an int

int check_extent(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return PPREPLK_CUDA_OK;
  return invalid("%s must be %lld to %lld, not %lld", name, static_cast<long long>(least), static_cast<long long>(most),
                 static_cast<long long>(value));
}

int check_dtype(int dtype) {
  return dtype >= PPREPLK_CUDA_FLOAT32 && dtype <= PPREPLK_CUDA_BFLOAT16 ? PPREPLK_CUDA_OK
                                                                         : invalid("there is no dtype %d", dtype);
}

int read_problem(const int64_t* sizes, Problem* problem) {
  if (!sizes) return invalid("the problem is null");
  int error = check_extent("batch", sizes[0], 0, kMaxCount);
  if (!error) error = check_extent("channels", sizes[1], 1, kMaxCount);
  if (!error) error = check_extent("height", sizes[2], 1, kMaxExtent);
  if (!error) error = check_extent("width", sizes[3], 1, kMaxExtent);
  if (error) return error;
  if (sizes[4] < 1 || sizes[4] > kMaxKernel || sizes[4] % 2 == 0) {
    return invalid("kernel must be odd and at most %d, not %lld", kMaxKernel, static_cast<long long>(sizes[4]));
  }
  const int64_t maps = sizes[0] * sizes[1], pixels = sizes[2] * sizes[3];
  if (maps > kMaxNumbers / pixels) return invalid("a tensor has more than 2^36 numbers");
  *problem = {static_cast<int>(sizes[0]), static_cast<int>(sizes[1]), static_cast<int>(sizes[2]),
              static_cast<int>(sizes[3]), static_cast<int>(sizes[4])};
  return PPREPLK_CUDA_OK;
}

int read_plan(const int64_t* sizes, Plan* plan) {
  Problem problem;
  int error = read_problem(sizes, &problem);
  int shared_bytes = 0;
  if (!error) error = max_shared_bytes(&shared_bytes);
  if (error) return error;
  *plan = make_plan(problem, shared_bytes);
  if (int64_t{problem.batch} * plan->tiles() > kMaxUnits) return invalid("a channel has more than 2^30 tiles");
  return PPREPLK_CUDA_OK;
}

Partial partial_of(const Plan& plan) {
  switch (plan.algorithm) {
    case Algorithm::direct: return direct_partial(plan);
    case Algorithm::small: return small_partial(plan);
    case Algorithm::spectral: break;
  }
  return spectral_partial(plan);
}

int convolve(const Plan& plan, const Forward& task) {
  switch (plan.algorithm) {
    case Algorithm::direct: return direct_forward(plan, task);
    case Algorithm::small: return small_forward(plan, task);
    case Algorithm::spectral: break;
  }
  return spectral_forward(plan, task);
}

int sum_products(const Plan& plan, const Gradient& task) {
  switch (plan.algorithm) {
    case Algorithm::direct: return direct_gradient(plan, task);
    case Algorithm::small: return small_gradient(plan, task);
    case Algorithm::spectral: break;
  }
  return spectral_gradient(plan, task);
}

// The parts of a workspace; without memory, how many bytes they take.
struct Workspace {
  unsigned char* memory;
  int64_t bytes;

  float* take(int64_t floats) {
    float* taken = memory ? reinterpret_cast<float*>(memory + bytes) : nullptr;
    bytes += ceil_div(4 * floats, kAlignment) * kAlignment;
    return taken;
  }
};

struct Buffers {
  float *sums, *spectra, *partial;
};
Buffers take_buffers(const Plan& plan, int dtype, int operation, Workspace* workspace) {
  const Problem& p = plan.problem;
  Buffers buffers{};
  if (!p.batch) return buffers;
  const bool gradient = operation == PPREPLK_CUDA_GRADIENT_WEIGHT || operation == PPREPLK_CUDA_BACKWARD;
  if (gradient) buffers.partial = workspace->take(partial_of(plan).numbers(p.channels));
  if (plan.algorithm == Algorithm::spectral && operation != PPREPLK_CUDA_GRADIENT_WEIGHT) {
    buffers.spectra = workspace->take(spectra_floats(plan));
    if (plan.windows() > 1 && dtype != PPREPLK_CUDA_FLOAT32) {
      buffers.sums = workspace->take(int64_t{p.batch} * p.channels * p.height * p.width);
    }
  }
  return buffers;
}

struct SumTask {
  Partial partial;
  int channels, kernel;
  void* dweight;
  int dtype;
};
constexpr int kSumThreads = 128;

// The taps of dweight, zero where they cannot touch the map.
__global__ void __launch_bounds__(kSumThreads) sum_parts(SumTask task) {
  const int taps = task.kernel * task.kernel;
  const int64_t i = int64_t{blockIdx.x} * kSumThreads + threadIdx.x;
  if (i >= int64_t{task.channels} * taps) return;
  const int64_t channel = i / taps;
  const int tap = static_cast<int>(i - channel * taps);
  const int row = tap / task.kernel - (task.kernel - task.partial.rows) / 2;
  const int column = tap % task.kernel - (task.kernel - task.partial.columns) / 2;
  float sum = 0.0f;
  if (row >= 0 && row < task.partial.rows && column >= 0 && column < task.partial.columns) {
    const int64_t plane = int64_t{task.partial.rows} * task.partial.columns;
    const float* at = task.partial.data + channel * plane + row * task.partial.columns + column;
    for (int part = 0; part < task.partial.parts; ++part) sum += at[part * (task.channels * plane)];
  }
  store_number(task.dweight, task.dtype, i, sum);
}

struct Call {
  Plan plan;
  Buffers buffers;
};

// The checks that all operations share.
int prepare(const int64_t* sizes, int dtype, int weight_dtype, int operation, void* workspace, int64_t workspace_bytes,
            Call* call) {
  int error = read_plan(sizes, &call->plan);
  if (!error) error = check_dtype(dtype);
  if (!error) error = check_dtype(weight_dtype);
  if (error) return error;
  Workspace taken{static_cast<unsigned char*>(workspace), 0};
  call->buffers = take_buffers(call->plan, dtype, operation, &taken);
  if (taken.bytes > workspace_bytes || (taken.bytes && !workspace)) return PPREPLK_CUDA_WORKSPACE_TOO_SMALL;
  return PPREPLK_CUDA_OK;
}

Results results_of(const Problem& p, void* data, int dtype) {
  return {data, dtype, p.height, p.width, nullptr, nullptr, 0};
}

// One convolution: y, or with the flipped kernel dx.
int run_convolution(const Call& call, int dtype, int weight_dtype, const void* x, const void* weight, bool flipped,
                    const Results& y, void* stream) {
  float* sums = dtype == PPREPLK_CUDA_FLOAT32 ? static_cast<float*>(y.data) : call.buffers.sums;
  const Forward task{x, dtype, weight, weight_dtype, flipped, y, sums, call.buffers.spectra, stream};
  return convolve(call.plan, task);
}

// dweight; and dx, if it is not null.
int run_gradient(const Call& call, int dtype, int weight_dtype, const void* x, const void* weight, const void* dy,
                 void* dx, void* dweight, void* stream) {
  const Problem& p = call.plan.problem;
  Partial partial{nullptr, 0, p.kernel, p.kernel};
  if (p.batch) {
    partial = partial_of(call.plan);
    partial.data = call.buffers.partial;
    const Gradient task{x, dy, dtype, partial, weight, weight_dtype, dx, call.buffers.spectra, stream};
    if (const int error = sum_products(call.plan, task)) return error;
  }
  const SumTask sum{partial, p.channels, p.kernel, dweight, weight_dtype};
  const int64_t blocks = ceil_div(int64_t{p.channels} * p.kernel * p.kernel, kSumThreads);
  return launch(sum_parts, dim3(static_cast<unsigned>(blocks)), kSumThreads, 0, stream, sum);
}

}  // namespace
}  // namespace cuda
}  // namespace ppreplk

using namespace ppreplk::cuda;

extern "C" {

int ppreplk_cuda_abi(void) { return PPREPLK_CUDA_ABI; }

const char* ppreplk_cuda_error_text(int code) {
  if (code == PPREPLK_CUDA_OK) return "no error";
  if (code == PPREPLK_CUDA_INVALID_ARGUMENT) return message;
  if (code == PPREPLK_CUDA_WORKSPACE_TOO_SMALL) return "the workspace is smaller than ppreplk_cuda_workspace() says";
  if (code >= PPREPLK_CUDA_RUNTIME) return runtime_error_text(code - PPREPLK_CUDA_RUNTIME);
  return "an unknown error";
}

const char* ppreplk_cuda_algorithm(const int64_t* problem) {
  Problem sizes;
  if (read_problem(problem, &sizes)) return nullptr;
  switch (choose_algorithm(sizes)) {
    case Algorithm::direct: return "direct";
    case Algorithm::small: return "small";
    case Algorithm::spectral: break;
  }
  return "spectral";
}

int ppreplk_cuda_workspace(const int64_t* problem, int dtype, int operation, int64_t* bytes) {
  Plan plan;
  int error = read_plan(problem, &plan);
  if (!error) error = check_dtype(dtype);
  if (error) return error;
  if (operation < PPREPLK_CUDA_FORWARD || operation > PPREPLK_CUDA_BACKWARD) {
    return invalid("there is no operation %d", operation);
  }
  Workspace workspace{nullptr, 0};
  take_buffers(plan, dtype, operation, &workspace);
  *bytes = workspace.bytes;
  return PPREPLK_CUDA_OK;
}

int ppreplk_cuda_forward(const int64_t* problem, int dtype, int weight_dtype, const void* x, const void* weight,
                         const float* bias, int relu, void* y, void* workspace, int64_t workspace_bytes, void* stream) {
  Call call;
  const int error = prepare(problem, dtype, weight_dtype, PPREPLK_CUDA_FORWARD, workspace, workspace_bytes, &call);
  if (error || !call.plan.problem.batch) return error;
  Results results = results_of(call.plan.problem, y, dtype);
  results.bias = bias, results.relu = relu;
  return run_convolution(call, dtype, weight_dtype, x, weight, false, results, stream);
}

int ppreplk_cuda_gradient_input(const int64_t* problem, int dtype, int weight_dtype, const void* dy, const void* weight,
                                void* dx, void* workspace, int64_t workspace_bytes, void* stream) {
  Call call;
  const int error =
      prepare(problem, dtype, weight_dtype, PPREPLK_CUDA_GRADIENT_INPUT, workspace, workspace_bytes, &call);
  if (error || !call.plan.problem.batch) return error;
  const Results results = results_of(call.plan.problem, dx, dtype);
  return run_convolution(call, dtype, weight_dtype, dy, weight, true, results, stream);
}

int ppreplk_cuda_gradient_weight(const int64_t* problem, int dtype, int weight_dtype, const void* x, const void* dy,
                                 void* dweight, void* workspace, int64_t workspace_bytes, void* stream) {
  Call call;
  const int error =
      prepare(problem, dtype, weight_dtype, PPREPLK_CUDA_GRADIENT_WEIGHT, workspace, workspace_bytes, &call);
  if (error) return error;
  return run_gradient(call, dtype, weight_dtype, x, nullptr, dy, nullptr, dweight, stream);
}

int ppreplk_cuda_backward(const int64_t* problem, int dtype, int weight_dtype, const void* x, const void* weight,
                          const void* dy, void* dx, void* dweight, void* workspace, int64_t workspace_bytes,
                          void* stream) {
  Call call;
  const int error = prepare(problem, dtype, weight_dtype, PPREPLK_CUDA_BACKWARD, workspace, workspace_bytes, &call);
  if (error) return error;
  const bool together = call.plan.algorithm == Algorithm::spectral && call.plan.whole();
  if (!together && call.plan.problem.batch) {
    const Results results = results_of(call.plan.problem, dx, dtype);
    if (const int failed = run_convolution(call, dtype, weight_dtype, dy, weight, true, results, stream)) return failed;
  }
  return run_gradient(call, dtype, weight_dtype, x, weight, dy, together ? dx : nullptr, dweight, stream);
}

}  // extern "C"
