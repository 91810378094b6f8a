// Dispatch of the depthwise convolution: instruction set, threads, blocks of channels, packed weights.
#include "depthwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "instruction_set.h"
#include "kernels.h"
#include "roots.h"
#include "target.h"
#include "tasks.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Loops over registers have to be unrolled, whatever the compiler's own limits.
#ifdef __clang__
#define PPREPLK_UNROLL _Pragma("clang loop unroll(full)")
#else
#define PPREPLK_UNROLL _Pragma("GCC unroll 64")
#endif
#define PPREPLK_INLINE [[gnu::always_inline]] inline

namespace ppreplk {
namespace {

// The kernels are compiled once for each instruction set, from the same source.

namespace portable {
#include "simd_portable.inl"
#include "kernels.inl"
}  // namespace portable

#if defined(__x86_64__)

PPREPLK_TARGET_BEGIN(PPREPLK_AVX2)
namespace avx2 {
#include "simd_avx2.inl"
#include "kernels.inl"
}  // namespace avx2
PPREPLK_TARGET_END
PPREPLK_TARGET_BEGIN(PPREPLK_AVX512)
namespace avx512 {
#include "simd_avx512.inl"
#include "kernels.inl"
}  // namespace avx512
PPREPLK_TARGET_END

#endif  // x86-64

// ---------------------------------------------------------------- instruction set

const Kernels& current_kernels() {
  switch (instruction_set()) {
#if defined(__x86_64__)
    case InstructionSet::avx512: return avx512::kKernels;
    case InstructionSet::avx2: return avx2::kKernels;
#endif
    default: return portable::kKernels;
  }
}

// ---------------------------------------------------------------- arguments

void check(bool condition, const char* message, int64_t value) {
  if (!condition) {
    throw std::invalid_argument(std::string("depthwise convolution: ") + message + ", not " + std::to_string(value));
  }
}

void check(const Problem& problem) {
  constexpr int64_t kMaxExtent = int64_t{1} << 20;
  check(problem.batch >= 0, "batch must not be negative", problem.batch);
  check(problem.channels >= 0, "channels must not be negative", problem.channels);
  check(problem.height > 0 && problem.height <= kMaxExtent, "height must be 1 to 2^20", problem.height);
  check(problem.width > 0 && problem.width <= kMaxExtent, "width must be 1 to 2^20", problem.width);
  check(problem.kernel > 0 && problem.kernel <= 127 && problem.kernel % 2 == 1, "kernel must be odd and at most 127",
        problem.kernel);
}

int64_t bytes_of(Dtype dtype) { return dtype == Dtype::float32 ? 4 : 2; }

// ---------------------------------------------------------------- threads

// Scratch memory that a thread keeps from call to call: fresh memory would be page-faulted
// every time, which takes longer than a small layer.
float* thread_scratch(int64_t floats) {
  constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* p) const { ::operator delete(p, kAlignment); }
  };
  thread_local std::unique_ptr<float, Free> memory;
  thread_local int64_t size = 0;
  if (size < floats) {
    memory.reset();
    size = 0;
    memory.reset(static_cast<float*>(::operator new(floats * sizeof(float), kAlignment)));
    size = floats;
  }
  return memory.get();
}

// Calls body(task, scratch) for every task.
template <class Body>
void parallel_for(int threads, int64_t tasks, int64_t scratch_floats, Body body) {
  ppreplk::parallel_for(threads, tasks, [&](int64_t task) { body(task, thread_scratch(scratch_floats)); });
}

// ---------------------------------------------------------------- blocks of channels

// A problem as the kernels see it: so many blocks of channels, so many floats each.
struct Blocks {
  explicit Blocks(const Problem& problem)
      : kernels(current_kernels()),
        plan((check(problem), make_plan(problem))),
        problem(problem),
        count((problem.channels + kernels.lanes - 1) / kernels.lanes),
        packed_floats(kernels.packed_floats(plan)) {}

  int channels(int64_t block) const {
    return static_cast<int>(std::min<int64_t>(kernels.lanes, problem.channels - block * kernels.lanes));
  }

  template <class Pointer>
  View<Pointer> activations(Pointer data, Dtype dtype, Layout layout, int64_t image, int64_t block) const {
    using Byte = std::conditional_t<std::is_same_v<Pointer, void*>, char, const char>;
    const int64_t pixels = problem.height * problem.width;
    const int64_t channel = block * kernels.lanes;
    const int64_t first = image * problem.channels * pixels + (layout == Layout::nchw ? channel * pixels : channel);
    if (data) data = static_cast<Byte*>(data) + first * bytes_of(dtype);
    return {data,
            dtype,
            layout,
            layout == Layout::nchw ? pixels : problem.channels,
            static_cast<int>(problem.width),
            channels(block)};
  }

  template <class Pointer>
  View<Pointer> weights(Pointer data, int64_t block) const {
    using Float = std::conditional_t<std::is_same_v<Pointer, void*>, float, const float>;
    const int64_t taps = problem.kernel * problem.kernel;
    if (data) data = static_cast<Float*>(data) + block * kernels.lanes * taps;
    return {data, Dtype::float32, Layout::nchw, taps, static_cast<int>(problem.kernel), channels(block)};
  }

  const Kernels& kernels;
  const Plan plan;
  const Problem problem;
  const int64_t count;
  const int64_t packed_floats;
};

Epilogue epilogue_of(const Blocks& blocks, int64_t block, const float* bias, bool relu) {
  return {1.0f, bias ? bias + block * blocks.kernels.lanes : nullptr, relu};
}

// ---------------------------------------------------------------- packed weights

// The header of packed weights: everything that their layout depends on.
struct Header {
  explicit Header(const Blocks& blocks)
      : algorithm(static_cast<int32_t>(blocks.plan.algorithm)),
        lanes(blocks.kernels.lanes),
        channels(static_cast<int32_t>(blocks.problem.channels)),
        height(static_cast<int32_t>(blocks.problem.height)),
        width(static_cast<int32_t>(blocks.problem.width)),
        kernel(static_cast<int32_t>(blocks.problem.kernel)),
        lengths{blocks.plan.height.length, blocks.plan.width.length} {}

  int32_t magic = 0x6b6c7070;  // "pplk"
  int32_t version = 1;
  int32_t algorithm, lanes, channels, height, width, kernel;
  int32_t lengths[2];
  int32_t reserved[6] = {};
};
static_assert(sizeof(Header) == 64, "packed weights begin one cache line after the header");
constexpr int64_t kHeaderFloats = sizeof(Header) / sizeof(float);

int64_t packed_size(const Blocks& blocks) { return kHeaderFloats + blocks.count * blocks.packed_floats; }

bool fits(const Blocks& blocks, const float* packed, int64_t floats) {
  const Header expected(blocks);
  return packed && floats == packed_size(blocks) && std::memcmp(packed, &expected, sizeof expected) == 0;
}

}  // namespace

// ---------------------------------------------------------------- public functions

int64_t packed_floats(const Problem& problem) { return packed_size(Blocks(problem)); }

void pack(const Problem& problem, const float* weight, float* packed, int threads) {
  const Blocks blocks(problem);
  const Header header(blocks);
  std::memcpy(packed, &header, sizeof header);
  parallel_for(threads, blocks.count, blocks.kernels.scratch_floats(blocks.plan, false),
               [&](int64_t block, float* scratch) {
                 blocks.kernels.pack(blocks.plan, blocks.weights<const void*>(weight, block),
                                     packed + kHeaderFloats + block * blocks.packed_floats, scratch);
               });
}

bool packed_fits(const Problem& problem, const float* packed, int64_t floats) {
  return fits(Blocks(problem), packed, floats);
}

void forward_packed(const Problem& problem, Dtype dtype, Layout layout, const void* x, const float* packed,
                    const float* bias, bool relu, void* y, int threads) {
  const Blocks blocks(problem);
  if (!fits(blocks, packed, packed_size(blocks))) {
    throw std::invalid_argument(
        "depthwise convolution: the weights were packed for another problem or instruction set");
  }
  // All images of a block follow one another, so that its packed weights stay in the cache.
  const int64_t tiles = blocks.plan.tiles(), parts = problem.batch * tiles;
  parallel_for(threads, blocks.count * parts, blocks.kernels.scratch_floats(blocks.plan, false),
               [&](int64_t task, float* scratch) {
                 const int64_t block = task / parts, image = task % parts / tiles;
                 blocks.kernels.forward(blocks.plan, static_cast<int>(task % tiles),
                                        blocks.activations(x, dtype, layout, image, block),
                                        packed + kHeaderFloats + block * blocks.packed_floats,
                                        blocks.activations(y, dtype, layout, image, block),
                                        epilogue_of(blocks, block, bias, relu), scratch);
               });
}

void forward(const Problem& problem, Dtype dtype, Layout layout, const void* x, const float* weight, const float* bias,
             bool relu, void* y, int threads) {
  const Blocks blocks(problem);
  if (problem.batch * blocks.count == 0) return;
  // A task packs a block of weights and uses it for several images: for all of them, unless
  // there would be too few tasks to keep the threads busy.
  const int64_t wanted = (4 * int64_t{threads} + blocks.count - 1) / blocks.count;
  const int64_t groups = std::clamp<int64_t>(wanted, 1, problem.batch);
  parallel_for(threads, blocks.count * groups, blocks.packed_floats + blocks.kernels.scratch_floats(blocks.plan, false),
               [&](int64_t task, float* scratch) {
                 const int64_t block = task / groups, group = task % groups;
                 float* packed = scratch;
                 scratch += blocks.packed_floats;
                 blocks.kernels.pack(blocks.plan, blocks.weights<const void*>(weight, block), packed, scratch);
                 const int64_t end = (group + 1) * problem.batch / groups;
                 for (int64_t image = group * problem.batch / groups; image < end; ++image) {
                   for (int tile = 0; tile < blocks.plan.tiles(); ++tile) {
                     blocks.kernels.forward(blocks.plan, tile, blocks.activations(x, dtype, layout, image, block),
                                            packed, blocks.activations(y, dtype, layout, image, block),
                                            epilogue_of(blocks, block, bias, relu), scratch);
                   }
                 }
               });
}

void backward(const Problem& problem, Dtype dtype, Layout layout, const void* x, const float* weight, const void* dy,
              void* dx, float* dweight, int threads) {
  const Blocks blocks(problem);
  const int64_t weights = problem.channels * problem.kernel * problem.kernel;
  if (problem.batch == 0 && dweight) std::fill_n(dweight, weights, 0.0f);
  if (problem.batch * blocks.count == 0) return;
  // A task computes the gradients of a block over a group of images. The groups depend on the
  // problem alone, and their sums are added in order, so that the number of threads does not
  // change the result.
  constexpr int64_t kTasksWanted = 16, kMinImages = 4;
  const int64_t groups = std::max<int64_t>(1, std::min(kTasksWanted / blocks.count, problem.batch / kMinImages));
  std::vector<float> partial((groups - 1) * (dweight ? weights : 0));
  const int64_t image_bytes = problem.channels * problem.height * problem.width * bytes_of(dtype);
  parallel_for(threads, blocks.count * groups, blocks.kernels.scratch_floats(blocks.plan, true),
               [&](int64_t task_index, float* scratch) {
                 const int64_t block = task_index / groups, group = task_index % groups;
                 const int64_t first = group * problem.batch / groups;
                 const int64_t end = (group + 1) * problem.batch / groups;
                 float* sum = group == 0 || !dweight ? dweight : partial.data() + (group - 1) * weights;
                 const BackwardTask task{blocks.activations(x, dtype, layout, first, block),
                                         blocks.activations(dy, dtype, layout, first, block),
                                         blocks.weights<const void*>(weight, block),
                                         blocks.activations(dx, dtype, layout, first, block),
                                         blocks.weights<void*>(sum, block),
                                         static_cast<int>(end - first),
                                         image_bytes};
                 blocks.kernels.backward(blocks.plan, task, scratch);
               });
  for (size_t i = 0; i < partial.size(); ++i) dweight[i % weights] += partial[i];
}

}  // namespace ppreplk
