// Direct convolution with small kernels: tiles of the map in shared memory, strips of a column in registers.
#include "kernels.h"
#include "transforms.h"

namespace ppreplk {
namespace cuda {
namespace {

constexpr int kStrip = 8;     // outputs of a thread, one above the other
constexpr int kThreads = 256;  // of a forward block
constexpr int kMaxTileNumbers = 5120;  // in the tiles of a block

// A block holds `planes` tiles of rows * columns outputs, of as many planes or places. Rows are whole strips.
struct Tiling {
  int planes, rows, columns, strips;
  int across, count;  // tiles in a row of tiles; tiles of a channel
  int pitch, plane;   // numbers from row to row, and from tile to tile, of an input with its border
  int groups;         // of `planes` tiles of a channel
  Divisor by_pitch, by_tile, by_columns, by_strips, by_across, by_tiles;
};

Tiling make_tiling(const Problem& p, int threads) {
  Tiling t{};
  t.columns = p.width;
  if (p.width > 64) {  // even parts, of at most 64
    const int parts = (p.width + 63) / 64;
    t.columns = (p.width + parts - 1) / parts;
  }
  t.pitch = t.columns + p.kernel - 1;
  // Even parts here too, as many strips as there are threads for, and room in shared memory.
  const int strips = (p.height + kStrip - 1) / kStrip;
  const int room = (kMaxTileNumbers / t.pitch - (p.kernel - 1)) / kStrip;
  const int most = std::max(1, std::min({strips, threads / t.columns, room}));
  const int parts = (strips + most - 1) / most;
  t.strips = (strips + parts - 1) / parts;
  t.rows = t.strips * kStrip;
  t.across = (p.width + t.columns - 1) / t.columns;
  const int tiles = t.across * ((p.height + t.rows - 1) / t.rows);
  t.count = static_cast<int>(std::min<int64_t>(int64_t{p.batch} * tiles, INT32_MAX));
  t.plane = t.pitch * (t.rows + p.kernel - 1);
  t.planes = std::max(1, std::min({threads / (t.columns * t.strips), t.count, kMaxTileNumbers / t.plane}));
  t.groups = static_cast<int>(ceil_div(t.count, t.planes));
  t.by_pitch = make_divisor(t.pitch), t.by_tile = make_divisor(t.plane);
  t.by_columns = make_divisor(t.columns), t.by_strips = make_divisor(t.strips);
  t.by_across = make_divisor(t.across), t.by_tiles = make_divisor(tiles);
  return t;
}

struct Place {
  int64_t plane;  // or -1
  int row, column;
};
PPREPLK_DEVICE Place place_of(const Tiling& t, const Problem& p, int index, int channel) {
  if (index >= t.count) return {-1, 0, 0};
  const int image = index / t.by_tiles.divisor, tile = index % t.by_tiles.divisor;
  const int down = t.by_across.quotient(tile);
  return {(int64_t{image} * p.channels + channel) * (int64_t{p.height} * p.width), down * t.rows,
          (tile - down * t.across) * t.columns};
}

// Tiles with a border on all sides, as floats; outside the map, and from `rows` and `columns` of a tile on, zeros.
PPREPLK_DEVICE void load_tiles(const Tiling& t, const Problem& p, const Place* places, const void* data, int dtype,
                               int border, int rows, int columns, float* tiles) {
  for (int i = threadIdx.x; i < t.planes * t.plane; i += blockDim.x) {
    const int which = t.by_tile.quotient(i), rest = i - which * t.plane;
    const int row = t.by_pitch.quotient(rest), column = rest - row * t.pitch;
    const Place& place = places[which];
    const int y = place.row + row - border, x = place.column + column - border;
    const bool inside = place.plane >= 0 && row < rows && column < columns && static_cast<unsigned>(y) < static_cast<unsigned>(p.height) &&
                        static_cast<unsigned>(x) < static_cast<unsigned>(p.width);
    tiles[i] = inside ? load_number(data, dtype, place.plane + y * p.width + x) : 0.0f;
  }
}

// The strip of a thread: its tile, and where it is in it.
struct Strip {
  int which, row, column;
};
PPREPLK_DEVICE Strip strip_of(const Tiling& t, int item) {
  const int line = t.by_columns.quotient(item), which = t.by_strips.quotient(line);
  return {which, (line - which * t.strips) * kStrip, item - line * t.columns};
}

struct ForwardTask {
  Problem problem;
  Tiling tiling;
  const void *x, *weight;
  int dtype, weight_dtype, flipped, chunks, groups_per_block;
  Results y;
};

// Weights in shared memory are columns of the kernel, a multiple of four numbers long.
__host__ __device__ constexpr int padded(int kernel) { return (kernel + 3) / 4 * 4; }

template <int K>
__global__ void __launch_bounds__(kThreads) forward(ForwardTask task) {
  PPREPLK_SHARED(shared);
  const Tiling& t = task.tiling;
  const Problem& p = task.problem;
  float* weight = reinterpret_cast<float*>(shared);
  float* tiles = weight + K * padded(K);
  Place* places = reinterpret_cast<Place*>(tiles + (t.planes * t.plane + 1) / 2 * 2);
  const int channel = blockIdx.x / task.chunks, first = blockIdx.x % task.chunks * task.groups_per_block;
  for (int i = threadIdx.x; i < K * padded(K); i += blockDim.x) {
    const int column = i / padded(K), row = i % padded(K);
    const int tap = task.flipped ? (K - 1 - row) * K + K - 1 - column : row * K + column;
    weight[i] = row < K ? load_number(task.weight, task.weight_dtype, int64_t{channel} * (K * K) + tap) : 0.0f;
  }
  const float bias = task.y.bias_of(channel);
  for (int group = first; group < min(first + task.groups_per_block, t.groups); ++group) {
    if (threadIdx.x < t.planes) places[threadIdx.x] = place_of(t, p, group * t.planes + threadIdx.x, channel);
    __syncthreads();
    load_tiles(t, p, places, task.x, task.dtype, K / 2, INT32_MAX, INT32_MAX, tiles);
    __syncthreads();
    for (int item = threadIdx.x; item < t.planes * t.strips * t.columns; item += blockDim.x) {
      const Strip strip = strip_of(t, item);
      const float* in = tiles + strip.which * t.plane + strip.row * t.pitch + strip.column;
      float sums[kStrip] = {};
      for (int column = 0; column < K; ++column) {
        float taps[padded(K)], x[kStrip + K - 1];
        PPREPLK_UNROLL
        for (int i = 0; i < padded(K); i += 4) {
          const float4 four = *reinterpret_cast<const float4*>(weight + column * padded(K) + i);
          taps[i] = four.x, taps[i + 1] = four.y, taps[i + 2] = four.z, taps[i + 3] = four.w;
        }
        PPREPLK_UNROLL
        for (int i = 0; i < kStrip + K - 1; ++i) x[i] = in[i * t.pitch + column];
        PPREPLK_UNROLL
        for (int row = 0; row < K; ++row) {
          PPREPLK_UNROLL
          for (int i = 0; i < kStrip; ++i) sums[i] += taps[row] * x[i + row];
        }
      }
      const Place& place = places[strip.which];
      const int x = place.column + strip.column, y = place.row + strip.row;
      if (place.plane < 0 || x >= p.width) continue;
      PPREPLK_UNROLL
      for (int i = 0; i < kStrip; ++i) {
        if (y + i < p.height) task.y.store(place.plane + (y + i) * p.width + x, sums[i], bias);
      }
    }
    __syncthreads();
  }
}

struct GradientTask {
  Problem problem;
  Tiling tiling;
  const void *x, *dy;
  int dtype, chunks, groups_per_block;
  float* partial;  // [chunks][channels][K][K]
};

// Warps for every column of the kernel.
__host__ __device__ constexpr int warps(int kernel) { return kernel == 1 ? 8 : kernel == 3 ? 4 : kernel <= 7 ? 2 : 1; }

template <int K>
__global__ void __launch_bounds__(32 * K * warps(K)) gradient(GradientTask task) {
  PPREPLK_SHARED(shared);
  constexpr int kSlots = 32 * warps(K);
  const Tiling& t = task.tiling;
  const Problem& p = task.problem;
  float* x_tiles = reinterpret_cast<float*>(shared);
  float* dy_tiles = x_tiles + (t.planes * t.plane + 1) / 2 * 2;
  Place* places = reinterpret_cast<Place*>(dy_tiles + (t.planes * t.plane + 1) / 2 * 2);
  const int channel = blockIdx.x / task.chunks, chunk = blockIdx.x % task.chunks;
  const int first = chunk * task.groups_per_block;
  const int column = threadIdx.x / kSlots, slot = threadIdx.x % kSlots;
  float sums[K] = {};
  for (int group = first; group < min(first + task.groups_per_block, t.groups); ++group) {
    if (threadIdx.x < t.planes) places[threadIdx.x] = place_of(t, p, group * t.planes + threadIdx.x, channel);
    __syncthreads();
    load_tiles(t, p, places, task.x, task.dtype, K / 2, INT32_MAX, INT32_MAX, x_tiles);
    load_tiles(t, p, places, task.dy, task.dtype, 0, t.rows, t.columns, dy_tiles);
    __syncthreads();
    for (int item = slot; item < t.planes * t.strips * t.columns; item += kSlots) {
      const Strip strip = strip_of(t, item);
      const int at = strip.which * t.plane + strip.row * t.pitch + strip.column;
      float x[kStrip + K - 1], dy[kStrip];
      PPREPLK_UNROLL
      for (int i = 0; i < kStrip + K - 1; ++i) x[i] = x_tiles[at + i * t.pitch + column];
      PPREPLK_UNROLL
      for (int i = 0; i < kStrip; ++i) dy[i] = dy_tiles[at + i * t.pitch];
      PPREPLK_UNROLL
      for (int row = 0; row < K; ++row) {
        PPREPLK_UNROLL
        for (int i = 0; i < kStrip; ++i) sums[row] += dy[i] * x[i + row];
      }
    }
    __syncthreads();
  }
  // The sums of all threads of a tap, in the order of the threads.
  float* all = reinterpret_cast<float*>(shared);
  PPREPLK_UNROLL
  for (int row = 0; row < K; ++row) all[(row * K + column) * (kSlots + 1) + slot] = sums[row];
  __syncthreads();
  for (int tap = threadIdx.x; tap < K * K; tap += blockDim.x) {
    float sum = 0.0f;
    for (int i = 0; i < kSlots; ++i) sum += all[tap * (kSlots + 1) + i];
    task.partial[(int64_t{chunk} * p.channels + channel) * (K * K) + tap] = sum;
  }
}

size_t shared_bytes(const Tiling& t, int arrays, int weights) {
  return sizeof(float) * (weights + arrays * ((t.planes * t.plane + 1) / 2 * 2)) + sizeof(Place) * t.planes;
}

template <class Visit>
int with_kernel(int kernel, Visit visit) {
  switch (kernel) {
    case 1: return visit(Constant<1>{});
    case 3: return visit(Constant<3>{});
    case 5: return visit(Constant<5>{});
    case 7: return visit(Constant<7>{});
    case 9: return visit(Constant<9>{});
    case 11: return visit(Constant<11>{});
  }
  return PPREPLK_CUDA_INVALID_ARGUMENT;
}

// Groups of a block, and blocks of a channel.
int groups_per_block(const Problem& p, const Tiling& t) {
  return static_cast<int>(std::max<int64_t>(1, int64_t{t.groups} * p.channels / kManyBlocks));
}
int chunks_of(const Problem& p, const Tiling& t) {
  return static_cast<int>(ceil_div(t.groups, groups_per_block(p, t)));
}

int gradient_threads(int kernel) { return 32 * kernel * warps(kernel); }

}  // namespace

int direct_forward(const Plan& plan, const Forward& in) {
  const Problem& p = plan.problem;
  ForwardTask task{};
  task.problem = p, task.tiling = make_tiling(p, kThreads);
  task.x = in.x, task.dtype = in.dtype, task.weight = in.weight, task.weight_dtype = in.weight_dtype;
  task.flipped = in.flipped, task.y = in.y;
  // Loading the weights of a channel takes little; a few groups for that are enough.
  task.groups_per_block = std::min(8, groups_per_block(p, task.tiling));
  task.chunks = static_cast<int>(ceil_div(task.tiling.groups, task.groups_per_block));
  return with_kernel(p.kernel, [&](auto k_) {
    constexpr int K = decltype(k_)::value;
    const size_t bytes = shared_bytes(task.tiling, 1, K * padded(K));
    return launch(forward<K>, dim3(static_cast<unsigned>(p.channels * task.chunks)), kThreads, bytes, in.stream, task);
  });
}

Partial direct_partial(const Plan& plan) {
  const Problem& p = plan.problem;
  return {nullptr, chunks_of(p, make_tiling(p, kThreads)), p.kernel, p.kernel};
}

int direct_gradient(const Plan& plan, const Gradient& in) {
  const Problem& p = plan.problem;
  GradientTask task{};
  task.problem = p, task.tiling = make_tiling(p, kThreads);
  task.x = in.x, task.dy = in.dy, task.dtype = in.dtype, task.partial = in.partial.data;
  task.groups_per_block = groups_per_block(p, task.tiling);
  task.chunks = in.partial.parts;
  return with_kernel(p.kernel, [&](auto k_) {
    constexpr int K = decltype(k_)::value;
    const size_t reduction = sizeof(float) * K * K * (32 * warps(K) + 1);
    const size_t bytes = std::max(shared_bytes(task.tiling, 2, 0), reduction);
    return launch(gradient<K>, dim3(static_cast<unsigned>(p.channels * task.chunks)), gradient_threads(K), bytes,
                  in.stream, task);
  });
}

}  // namespace cuda
}  // namespace ppreplk
