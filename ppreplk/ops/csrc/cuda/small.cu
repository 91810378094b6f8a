// Maps of at most 8x8, with kernels that cover most of them: every output row is the sum of input rows times Toeplitz
// matrices of a kernel row, in the registers of one thread. Kernel rows are 2 * W - 1 taps, the middle one in the
// middle, with zeros where the kernel has none.
#include "kernels.h"
#include "transforms.h"

namespace ppreplk {
namespace cuda {
namespace {

constexpr int kMaxImages = 32;  // of a forward group: the threads of a warp

// Numbers of a row of taps in shared memory.
__host__ __device__ constexpr int padded(int width) { return (2 * width - 1 + 3) / 4 * 4; }

struct ForwardTask {
  Problem problem;
  const void *x, *weight;
  int dtype, weight_dtype, flipped;
  int images, groups, groups_per_block, chunks;  // images of a group, groups of a channel
  Divisor by_pixels, by_images;
  Results y;
};

// A thread computes an output row of an image. Maps in shared memory are [pixel][image].
template <int W>
__global__ void __launch_bounds__(kMaxImages* kMaxSmallExtent) forward(ForwardTask task) {
  PPREPLK_SHARED(shared);
  const Problem& p = task.problem;
  const int height = p.height, pad = p.kernel / 2, pixels = height * W, pitch = task.images + 1;
  float* weight = reinterpret_cast<float*>(shared);  // [2 * height - 1][padded(W)]
  float* x = weight + (2 * height - 1) * padded(W);
  float* y = x + pixels * pitch;
  const int channel = blockIdx.x / task.chunks, first = blockIdx.x % task.chunks * task.groups_per_block;
  for (int i = threadIdx.x; i < (2 * height - 1) * padded(W); i += blockDim.x) {
    int row = i / padded(W) - (height - 1) + pad, column = i % padded(W) - (W - 1) + pad;
    const bool inside = i % padded(W) < 2 * W - 1 && row >= 0 && row < p.kernel && column >= 0 && column < p.kernel;
    if (task.flipped) row = p.kernel - 1 - row, column = p.kernel - 1 - column;
    const int64_t at = int64_t{channel} * (p.kernel * p.kernel) + row * p.kernel + column;
    weight[i] = inside ? load_number(task.weight, task.weight_dtype, at) : 0.0f;
  }
  const float bias = task.y.bias_of(channel);
  const int row = task.by_images.quotient(threadIdx.x), image = threadIdx.x - row * task.images;
  for (int group = first; group < min(first + task.groups_per_block, task.groups); ++group) {
    const int first_image = group * task.images, images = min(task.images, p.batch - first_image);
    for (int i = threadIdx.x; i < task.images * pixels; i += blockDim.x) {
      const int which = task.by_pixels.quotient(i), pixel = i - which * pixels;
      const int64_t at = (int64_t{first_image + which} * p.channels + channel) * pixels + pixel;
      x[pixel * pitch + which] = which < images ? load_number(task.x, task.dtype, at) : 0.0f;
    }
    __syncthreads();
    float sums[W] = {};
    for (int from = 0; from < height; ++from) {
      float numbers[W], taps[padded(W)];
      const float* line = weight + (from - row + height - 1) * padded(W);
      PPREPLK_UNROLL
      for (int i = 0; i < padded(W); i += 4) {
        const float4 four = *reinterpret_cast<const float4*>(line + i);
        taps[i] = four.x, taps[i + 1] = four.y, taps[i + 2] = four.z, taps[i + 3] = four.w;
      }
      PPREPLK_UNROLL
      for (int i = 0; i < W; ++i) numbers[i] = x[(from * W + i) * pitch + image];
      PPREPLK_UNROLL
      for (int i = 0; i < W; ++i) {
        PPREPLK_UNROLL
        for (int out = 0; out < W; ++out) sums[out] += taps[i - out + W - 1] * numbers[i];
      }
    }
    PPREPLK_UNROLL
    for (int i = 0; i < W; ++i) y[(row * W + i) * pitch + image] = sums[i];
    __syncthreads();
    for (int i = threadIdx.x; i < images * pixels; i += blockDim.x) {
      const int which = task.by_pixels.quotient(i), pixel = i - which * pixels;
      const int64_t at = (int64_t{first_image + which} * p.channels + channel) * pixels + pixel;
      task.y.store(at, y[pixel * pitch + which], bias);
    }
  }
}

struct GradientTask {
  Problem problem;
  const void *x, *dy;
  int dtype;
  int slots, images, groups, groups_per_block, chunks;
  Divisor by_pixels, by_pairs, by_height;
  Partial partial;
};

// A thread multiplies an input row with an output row, of every `slots`-th image, for all taps that join them. Maps in
// shared memory are [image][row][pitch].
template <int W>
__global__ void __launch_bounds__(256) gradient(GradientTask task) {
  PPREPLK_SHARED(shared);
  constexpr int kPitch = W % 2 ? W : W + 1, kTaps = 2 * W - 1;
  const Problem& p = task.problem;
  const int height = p.height, pixels = height * W, pairs = height * height;
  float* x = reinterpret_cast<float*>(shared);
  float* dy = x + task.images * height * kPitch;
  const int channel = blockIdx.x / task.chunks, chunk = blockIdx.x % task.chunks;
  const int first = chunk * task.groups_per_block;
  const int slot = task.by_pairs.quotient(threadIdx.x), pair = threadIdx.x - slot * pairs;
  const int from = task.by_height.quotient(pair), to = pair - from * height;
  float sums[kTaps] = {};
  for (int group = first; group < min(first + task.groups_per_block, task.groups); ++group) {
    const int first_image = group * task.images, images = min(task.images, p.batch - first_image);
    for (int i = threadIdx.x; i < images * pixels; i += blockDim.x) {
      const int which = task.by_pixels.quotient(i), pixel = i - which * pixels;
      const int row = pixel / W, column = pixel % W;
      const int64_t at = (int64_t{first_image + which} * p.channels + channel) * pixels + pixel;
      const int to_shared = (which * height + row) * kPitch + column;
      x[to_shared] = load_number(task.x, task.dtype, at);
      dy[to_shared] = load_number(task.dy, task.dtype, at);
    }
    __syncthreads();
    for (int image = slot; image < images; image += task.slots) {
      float in[W], out[W];
      PPREPLK_UNROLL
      for (int i = 0; i < W; ++i) {
        in[i] = x[(image * height + from) * kPitch + i];
        out[i] = dy[(image * height + to) * kPitch + i];
      }
      PPREPLK_UNROLL
      for (int i = 0; i < W; ++i) {
        PPREPLK_UNROLL
        for (int j = 0; j < W; ++j) sums[i - j + W - 1] += in[i] * out[j];
      }
    }
    __syncthreads();
  }
  // The sums of all threads of a tap, in the order of the threads.
  float* all = x;
  PPREPLK_UNROLL
  for (int i = 0; i < kTaps; ++i) all[threadIdx.x * kTaps + i] = sums[i];
  __syncthreads();
  const int pad_rows = task.partial.rows / 2, pad_columns = task.partial.columns / 2;
  const int taps = task.partial.rows * task.partial.columns;
  for (int i = threadIdx.x; i < taps; i += blockDim.x) {
    const int row = i / task.partial.columns - pad_rows, column = i % task.partial.columns - pad_columns;
    float sum = 0.0f;
    for (int which = 0; which < task.slots; ++which) {
      for (int line = max(0, row); line < min(height, height + row); ++line) {
        sum += all[(which * pairs + line * height + line - row) * kTaps + column + W - 1];
      }
    }
    task.partial.data[(int64_t{chunk} * p.channels + channel) * taps + i] = sum;
  }
}

template <class Visit>
int with_width(int width, Visit visit) {
  switch (width) {
    case 1: return visit(Constant<1>{});
    case 2: return visit(Constant<2>{});
    case 3: return visit(Constant<3>{});
    case 4: return visit(Constant<4>{});
    case 5: return visit(Constant<5>{});
    case 6: return visit(Constant<6>{});
    case 7: return visit(Constant<7>{});
    case 8: return visit(Constant<8>{});
  }
  return PPREPLK_CUDA_INVALID_ARGUMENT;
}

constexpr int kGradientImages = 32;  // of a group

int gradient_groups(const Problem& p) { return static_cast<int>(ceil_div(p.batch, kGradientImages)); }
int gradient_groups_per_block(const Problem& p) {
  return static_cast<int>(std::max<int64_t>(1, int64_t{gradient_groups(p)} * p.channels / kManyBlocks));
}

}  // namespace

int small_forward(const Plan& plan, const Forward& in) {
  const Problem& p = plan.problem;
  ForwardTask task{};
  task.problem = p;
  task.x = in.x, task.dtype = in.dtype, task.weight = in.weight, task.weight_dtype = in.weight_dtype;
  task.flipped = in.flipped, task.y = in.y;
  task.images = 1;
  while (task.images < std::min(p.batch, kMaxImages)) task.images *= 2;
  task.groups = static_cast<int>(ceil_div(p.batch, task.images));
  task.groups_per_block =
      static_cast<int>(std::min<int64_t>(8, std::max<int64_t>(1, int64_t{task.groups} * p.channels / kManyBlocks)));
  task.chunks = static_cast<int>(ceil_div(task.groups, task.groups_per_block));
  task.by_pixels = make_divisor(p.height * p.width), task.by_images = make_divisor(task.images);
  return with_width(p.width, [&](auto w_) {
    constexpr int W = decltype(w_)::value;
    const int floats = (2 * p.height - 1) * padded(W) + 2 * p.height * W * (task.images + 1);
    return launch(forward<W>, dim3(static_cast<unsigned>(p.channels * task.chunks)), task.images * p.height,
                  sizeof(float) * floats, in.stream, task);
  });
}

Partial small_partial(const Plan& plan) {
  const Problem& p = plan.problem;
  const int chunks = static_cast<int>(ceil_div(gradient_groups(p), gradient_groups_per_block(p)));
  return {nullptr, chunks, plan.height.kernel, plan.width.kernel};
}

int small_gradient(const Plan& plan, const Gradient& in) {
  const Problem& p = plan.problem;
  GradientTask task{};
  task.problem = p;
  task.x = in.x, task.dy = in.dy, task.dtype = in.dtype, task.partial = in.partial;
  const int pairs = p.height * p.height;
  task.images = std::min(p.batch, kGradientImages);
  task.slots = std::min(std::max(1, 256 / pairs), task.images);
  task.groups = gradient_groups(p), task.groups_per_block = gradient_groups_per_block(p);
  task.chunks = in.partial.parts;
  task.by_pixels = make_divisor(p.height * p.width);
  task.by_pairs = make_divisor(pairs), task.by_height = make_divisor(p.height);
  return with_width(p.width, [&](auto w_) {
    constexpr int W = decltype(w_)::value;
    const int maps = 2 * task.images * p.height * (W % 2 ? W : W + 1), sums = task.slots * pairs * (2 * W - 1);
    return launch(gradient<W>, dim3(static_cast<unsigned>(p.channels * task.chunks)), task.slots * pairs,
                  sizeof(float) * std::max(maps, sums), in.stream, task);
  });
}

}  // namespace cuda
}  // namespace ppreplk
