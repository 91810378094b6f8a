// Convolution by two-dimensional Fourier transforms in shared memory. Two planes of one channel are the real and the
// imaginary part of one array: the kernel is real, so its product with the transform keeps them apart.
//
// A transform of length A * B takes two passes, with A and then B numbers in the registers of a thread, in place:
// number B * i + j goes to k * B + j in the first pass and k * B + q in the second, where it is frequency k + A * q. The
// frequencies stay in that order, and the inverse transform takes the passes backwards. For those, the real and
// imaginary parts are exchanged, which makes the forward transform the inverse one.
//
// Passes over rows and columns are separated by barriers. The last pass over columns, the product and the first inverse
// pass are one. Rows and columns outside the map are neither read, nor written, nor transformed.
#pragma once

#include "plan.h"
#include "transforms.h"

namespace ppreplk {
namespace cuda {

// Lengths A * B, with Pairs arrays in a block; Threads are those of a convolution. A gradient of the weight has a
// thread for every B numbers. Blocks: how many a multiprocessor should hold, which bounds the registers.
template <int A_, int B_, int Pairs, int Threads, int Blocks>
struct Shape {
  static constexpr int A = A_, B = B_, kPairs = Pairs, kThreads = Threads, kBlocks = Blocks;
  static constexpr int L = A * B, kPitch = pitch_of(L), kArray = L * kPitch;
  static constexpr int kItems = L * A * Pairs;
  static constexpr int kMaxThreads = Threads > kItems ? Threads : kItems;
};

template <class Visit>
int with_shape(int length, Visit visit) {
  switch (length) {
    case 16: return visit(Shape<4, 4, 4, 256, 4>{});
    case 24: return visit(Shape<4, 6, 2, 192, 5>{});
    case 28: return visit(Shape<4, 7, 2, 224, 4>{});
    case 32: return visit(Shape<4, 8, 2, 256, 3>{});
    case 40: return visit(Shape<5, 8, 1, 224, 4>{});
    case 42: return visit(Shape<6, 7, 1, 256, 4>{});
    case 48: return visit(Shape<6, 8, 1, 288, 3>{});
    case 56: return visit(Shape<7, 8, 1, 224, 4>{});
    case 64: return visit(Shape<8, 8, 1, 256, 3>{});
    case 72: return visit(Shape<8, 9, 1, 288, 3>{});
    case 80: return visit(Shape<8, 10, 1, 320, 2>{});
    case 96: return visit(Shape<8, 12, 1, 384, 2>{});
    case 112: return visit(Shape<8, 14, 1, 448, 1>{});
    case 128: return visit(Shape<8, 16, 1, 512, 1>{});
  }
  return PPREPLK_CUDA_INVALID_ARGUMENT;
}

// One tile of one plane.
struct Unit {
  int64_t plane;  // where the plane begins, or -1 for nothing
  int row, column;
};

// Which numbers of an array are those of a unit: array row r is plane row `unit.row + start_row + r`, for r below
// end_row. Only the array rows first_row to first_row + rows can be numbers of a plane.
struct View {
  int start_row, start_column, end_row, end_column, first_row, rows;
  Divisor by_rows;
};

// The units of a batch.
struct Units {
  int count, channels;
  int64_t plane;  // numbers in a plane
  Divisor by_columns;
  int tiles, tile_rows, tile_columns;

  PPREPLK_DEVICE Unit unit(int index, int channel) const {
    if (index >= count) return {-1, 0, 0};
    const int image = tiles == 1 ? index : index / tiles;
    const int tile = index - image * tiles;
    const int row = by_columns.quotient(tile);
    return {(int64_t{image} * channels + channel) * plane, row * tile_rows, by_columns.remainder(tile) * tile_columns};
  }
};

// The shared memory of a block, and the passes over it. Every pass must be followed by a barrier.
template <class S>
struct Block {
  static constexpr int A = S::A, B = S::B, L = S::L;
  static constexpr size_t kBytes = sizeof(Complex) * (S::kPairs * S::kArray + L) + sizeof(Unit) * 4 * S::kPairs;

  Complex* numbers;  // [pair][row][pitch]
  Complex* roots;
  Unit* units;  // [2][pair][2]: of this group, and of the next

  PPREPLK_DEVICE explicit Block(unsigned char* shared)
      : numbers(reinterpret_cast<Complex*>(shared)),
        roots(numbers + S::kPairs * S::kArray),
        units(reinterpret_cast<Unit*>(roots + L)) {
    for (int i = threadIdx.x; i < L; i += blockDim.x) roots[i] = kRoots<L>.values[i];
  }

  PPREPLK_DEVICE Unit* units_of(int group) const { return units + group % 2 * 2 * S::kPairs; }
  PPREPLK_DEVICE void choose_units(const Units& all, int channel, int group) const {
    const int i = threadIdx.x;
    if (i < 2 * S::kPairs) units_of(group)[i] = all.unit(group * 2 * S::kPairs + i, channel);
  }

  template <int N>
  PPREPLK_DEVICE void rotate_by(Complex (&v)[N], int j) const {
    each<1, N>([&](auto k_) {
      constexpr int k = decltype(k_)::value;
      v[k] = times(v[k], roots[j * k]);
    });
  }

  template <int N, class Read>
  PPREPLK_DEVICE static void read_row(Complex (&v)[N], const Unit& unit, const Planes& planes, const View& view, int row,
                                      int column, float Complex::*part, Read read) {
    const int plane_row = unit.row + view.start_row + row;
    const int first = unit.column + view.start_column + column;
    const bool inside = unit.plane >= 0 && row < view.end_row && plane_row >= 0 && plane_row < planes.height;
    const int64_t at = unit.plane + int64_t{planes.step} * (plane_row * planes.width + first);
    each<0, N>([&](auto i_) {
      constexpr int i = decltype(i_)::value;
      const bool here = inside && column + B * i < view.end_column && first + B * i >= 0 && first + B * i < planes.width;
      v[i].*part = here ? read(at + planes.step * (B * i)) : 0.0f;
    });
  }

  // The first pass over rows, from memory.
  PPREPLK_DEVICE void load_rows(const Planes& planes, const View& view, const Unit* pairs) const {
    for (int item = threadIdx.x; item < S::kPairs * view.rows * B; item += blockDim.x) {
      const int j = item % B, line = item / B;
      const int pair = S::kPairs == 1 ? 0 : view.by_rows.quotient(line);
      const int row = view.first_row + line - pair * view.rows;
      Complex v[A];
      const auto read_both = [&](auto read) {
        read_row(v, pairs[2 * pair], planes, view, row, j, &Complex::re, read);
        read_row(v, pairs[2 * pair + 1], planes, view, row, j, &Complex::im, read);
      };
      const void* data = planes.data;
      if (planes.dtype == PPREPLK_CUDA_FLOAT32) {
        read_both([=](int64_t at) { return load_number(data, PPREPLK_CUDA_FLOAT32, at); });
      } else if (planes.dtype == PPREPLK_CUDA_FLOAT16) {
        read_both([=](int64_t at) { return load_number(data, PPREPLK_CUDA_FLOAT16, at); });
      } else {
        read_both([=](int64_t at) { return load_number(data, PPREPLK_CUDA_BFLOAT16, at); });
      }
      transform(v);
      rotate_by(v, j);
      Complex* out = numbers + pair * S::kArray + row * S::kPitch + j;
      each<0, A>([&](auto k_) { out[decltype(k_)::value * B] = v[decltype(k_)::value]; });
    }
  }

  // The second pass over rows, or the first inverse one.
  template <bool Inverse>
  PPREPLK_DEVICE void middle_rows(const View& view) const {
    const int lines = S::kPairs * A;
    for (int item = threadIdx.x; item < lines * view.rows; item += blockDim.x) {
      const int line = view.by_rows.quotient(item);
      const int row = view.first_row + item - line * view.rows;
      const int k = line % A;
      Complex* at = numbers + line / A * S::kArray + row * S::kPitch + k * B;
      Complex v[B];
      each<0, B>([&](auto q_) { v[decltype(q_)::value] = at[decltype(q_)::value]; });
      transform(v);
      if constexpr (Inverse) rotate_by(v, k);
      each<0, B>([&](auto q_) { at[decltype(q_)::value] = v[decltype(q_)::value]; });
    }
  }

  // The first pass over columns. The rows outside the view are zero.
  PPREPLK_DEVICE void first_columns(const View& view) const {
    for (int item = threadIdx.x; item < S::kPairs * B * L; item += blockDim.x) {
      const int column = item % L, j = item / L % B, pair = item / (L * B);
      Complex* at = numbers + pair * S::kArray + j * S::kPitch + column;
      Complex v[A];
      each<0, A>([&](auto i_) {
        constexpr int i = decltype(i_)::value;
        const bool inside = static_cast<unsigned>(B * i + j - view.first_row) < static_cast<unsigned>(view.rows);
        v[i] = inside ? at[B * i * S::kPitch] : Complex{0.0f, 0.0f};
      });
      transform(v);
      rotate_by(v, j);
      each<0, A>([&](auto k_) { at[decltype(k_)::value * B * S::kPitch] = v[decltype(k_)::value]; });
    }
  }

  // The item of the passes in the middle of the columns: B rows of one column.
  struct Item {
    int pair, k, column;
    Complex* at;
  };
  PPREPLK_DEVICE Item middle_item(int item) const {
    const int column = item % L, k = item / L % A, pair = item / (L * A);
    return {pair, k, column, numbers + pair * S::kArray + k * B * S::kPitch + column};
  }
  PPREPLK_DEVICE static void load_item(const Item& item, Complex (&v)[B]) {
    each<0, B>([&](auto q_) { v[decltype(q_)::value] = item.at[decltype(q_)::value * S::kPitch]; });
    transform(v);
  }
  // Where a number of an item is in an array of spectra.
  PPREPLK_DEVICE static int64_t spectrum_at(const Item& item, int64_t spectrum, int q) {
    return spectrum * (L * L) + (item.k * B + q) * L + item.column;
  }
  PPREPLK_DEVICE void invert_item(const Item& item, Complex (&v)[B]) const {
    each<0, B>([&](auto q_) { v[decltype(q_)::value] = exchanged(v[decltype(q_)::value]); });
    transform(v);
    rotate_by(v, item.k);
    each<0, B>([&](auto q_) { item.at[decltype(q_)::value * S::kPitch] = v[decltype(q_)::value]; });
  }

  // The last inverse pass over columns. Only the rows of the view are wanted.
  PPREPLK_DEVICE void last_columns(const View& view) const {
    for (int item = threadIdx.x; item < S::kPairs * B * L; item += blockDim.x) {
      const int column = item % L, j = item / L % B, pair = item / (L * B);
      Complex* at = numbers + pair * S::kArray + j * S::kPitch + column;
      Complex v[A];
      each<0, A>([&](auto k_) { v[decltype(k_)::value] = at[decltype(k_)::value * B * S::kPitch]; });
      transform(v);
      each<0, A>([&](auto i_) {
        constexpr int i = decltype(i_)::value;
        const bool inside = static_cast<unsigned>(B * i + j - view.first_row) < static_cast<unsigned>(view.rows);
        if (inside) at[B * i * S::kPitch] = v[i];
      });
    }
  }

  // The last inverse pass over rows, to memory.
  PPREPLK_DEVICE void store_rows(const Results& results, const View& view, const Unit* pairs, int channel) const {
    const float bias = results.bias_of(channel);
    for (int item = threadIdx.x; item < S::kPairs * view.rows * B; item += blockDim.x) {
      const int j = item % B, line = item / B;
      const int pair = S::kPairs == 1 ? 0 : view.by_rows.quotient(line);
      const int row = view.first_row + line - pair * view.rows;
      const Complex* at = numbers + pair * S::kArray + row * S::kPitch + j;
      Complex v[A];
      each<0, A>([&](auto k_) { v[decltype(k_)::value] = at[decltype(k_)::value * B]; });
      transform(v);
      each<0, 2>([&](auto part_) {
        constexpr int part = decltype(part_)::value;
        const Unit unit = pairs[2 * pair + part];
        const int plane_row = unit.row + view.start_row + row;
        const int first = unit.column + view.start_column + j;
        if (unit.plane < 0 || row >= view.end_row || plane_row < 0 || plane_row >= results.height) return;
        const int64_t out = unit.plane + plane_row * results.width + first;
        each<0, A>([&](auto i_) {
          constexpr int i = decltype(i_)::value;
          if (j + B * i < view.end_column && first + B * i >= 0 && first + B * i < results.width) {
            // Real and imaginary parts are still exchanged.
            results.store(out + B * i, part == 0 ? v[i].im : v[i].re, bias);
          }
        });
      });
    }
  }

  // Everything up to load_item, for a group.
  PPREPLK_DEVICE void forward_passes(const Planes& planes, const View& view, const Unit* pairs) const {
    load_rows(planes, view, pairs);
    __syncthreads();
    middle_rows<false>(view);
    __syncthreads();
    first_columns(view);
    __syncthreads();
  }

  // Everything after invert_item but the last barrier.
  PPREPLK_DEVICE void inverse_passes(const Results& results, const View& view, const Unit* pairs, int channel) const {
    __syncthreads();
    last_columns(view);
    __syncthreads();
    middle_rows<true>(view);
    __syncthreads();
    store_rows(results, view, pairs, channel);
  }
};

// Spectra of the kernels for convolve(): conjugate, and divided by L^2, which the two transforms multiply by.
struct SpectraTask {
  Planes weight;
  View view;
  int64_t plane, first;  // numbers in a plane; where the first is read, which is its end if it is read backwards
  int channels;
  Complex* spectra;  // [channels][L][L]
};

template <class S>
__global__ void __launch_bounds__(S::kThreads) weight_spectra(SpectraTask task) {
  PPREPLK_SHARED(shared);
  const Block<S> block(shared);
  const int first_channel = blockIdx.x * S::kPairs;
  if (threadIdx.x < 2 * S::kPairs) {
    const int channel = first_channel + threadIdx.x / 2;
    const bool real = threadIdx.x % 2 == 0 && channel < task.channels;
    block.units[threadIdx.x] = {real ? channel * task.plane + task.first : -1, 0, 0};
  }
  __syncthreads();
  block.forward_passes(task.weight, task.view, block.units);
  constexpr float kScale = 1.0f / (S::L * S::L);
  for (int i = threadIdx.x; i < S::kItems; i += blockDim.x) {
    const auto item = block.middle_item(i);
    if (first_channel + item.pair >= task.channels) continue;
    Complex v[S::B];
    block.load_item(item, v);
    each<0, S::B>([&](auto q_) {
      constexpr int q = decltype(q_)::value;
      task.spectra[block.spectrum_at(item, first_channel + item.pair, q)] = {v[q].re * kScale, -v[q].im * kScale};
    });
  }
}

// y = x correlated with the kernel. A block takes `groups_per_block` groups of S::kPairs pairs of units of a channel.
struct ConvolveTask {
  Planes x;
  Results y;
  View in, out;
  Units units;
  const Complex* spectra;
  int groups, groups_per_block, chunks;
};

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks) convolve(ConvolveTask task) {
  PPREPLK_SHARED(shared);
  const Block<S> block(shared);
  const int channel = blockIdx.x / task.chunks;
  const int first = blockIdx.x % task.chunks * task.groups_per_block;
  const int end = min(first + task.groups_per_block, task.groups);
  block.choose_units(task.units, channel, first);
  __syncthreads();
  for (int group = first; group < end; ++group) {
    const Unit* pairs = block.units_of(group);
    block.forward_passes(task.x, task.in, pairs);
    for (int i = threadIdx.x; i < S::kItems; i += blockDim.x) {
      const auto item = block.middle_item(i);
      Complex v[S::B];
      block.load_item(item, v);
      each<0, S::B>([&](auto q_) {
        constexpr int q = decltype(q_)::value;
        v[q] = times(v[q], task.spectra[block.spectrum_at(item, channel, q)]);
      });
      block.invert_item(item, v);
    }
    block.inverse_passes(task.y, task.out, pairs, channel);
    block.choose_units(task.units, channel, group + 1);
    __syncthreads();
  }
}

// The gradient of the weight: transforms of x times the conjugate of those of dy, summed in registers, and inverted
// once. Of the sum over pairs only the real part is wanted. The gradient of the input, if dx.data is not null, is dy's
// transform times the kernel's, for whole plans only.
struct GradientsTask {
  Planes x, dy;
  Results dx, partial;  // partial: [chunks * S::kPairs][channels] planes of sums
  View in, out, lags;   // where x, dy and the taps of a window lie
  Units units;
  const Complex* spectra;
  int groups, groups_per_block, chunks, window_rows, window_columns, windows_across;
};

template <class S>
__global__ void __launch_bounds__(S::kItems) weight_gradient(GradientsTask task) {
  PPREPLK_SHARED(shared);
  const Block<S> block(shared);
  const int channel = blockIdx.x / task.chunks, chunk = blockIdx.x % task.chunks;
  const int first = chunk * task.groups_per_block;
  const int end = min(first + task.groups_per_block, task.groups);
  const int window_row = blockIdx.y / task.windows_across * task.window_rows;
  const int window_column = blockIdx.y % task.windows_across * task.window_columns;
  task.in.start_row += window_row, task.in.start_column += window_column;
  block.choose_units(task.units, channel, first);
  const auto item = block.middle_item(threadIdx.x);
  Complex sum[S::B] = {};
  __syncthreads();
  for (int group = first; group < end; ++group) {
    const Unit* pairs = block.units_of(group);
    Complex x[S::B], v[S::B];
    block.forward_passes(task.x, task.in, pairs);
    block.load_item(item, x);
    __syncthreads();
    block.forward_passes(task.dy, task.out, pairs);
    block.load_item(item, v);
    each<0, S::B>([&](auto q_) {
      constexpr int q = decltype(q_)::value;
      sum[q] = sum[q] + times_conjugate(x[q], v[q]);
    });
    if (task.dx.data) {
      each<0, S::B>([&](auto q_) {
        constexpr int q = decltype(q_)::value;
        v[q] = times_conjugate(v[q], task.spectra[block.spectrum_at(item, channel, q)]);
      });
      block.invert_item(item, v);
      block.inverse_passes(task.dx, task.in, pairs, channel);
    }
    block.choose_units(task.units, channel, group + 1);
    __syncthreads();
  }
  if (threadIdx.x < 2 * S::kPairs) {
    const int64_t part = int64_t{chunk} * S::kPairs + threadIdx.x / 2;
    const int64_t plane = (part * task.units.channels + channel) * task.partial.height * task.partial.width;
    block.units[threadIdx.x] = {threadIdx.x % 2 == 0 ? plane : -1, window_row, window_column};
  }
  constexpr float kScale = 1.0f / (S::L * S::L);
  each<0, S::B>([&](auto q_) {
    constexpr int q = decltype(q_)::value;
    sum[q] = {sum[q].re * kScale, sum[q].im * kScale};
  });
  block.invert_item(item, sum);
  block.inverse_passes(task.partial, task.lags, block.units, channel);
}

}  // namespace cuda
}  // namespace ppreplk
