// Packing, and sharing the work out over threads.
#include "products.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "bfloat16.h"
#include "dispatch.h"
#include "openmp.h"
#include "sharing.h"

namespace ppreplk {
namespace amx {
namespace {

struct Header {
  int64_t magic = 0x786d612d6b6c72;  // "rlk-amx"
  int64_t version = 1;
  int64_t bytes = 0, in = 0, out = 0;
  Terms terms = Terms::bf16;
  char room[20] = {};
};
static_assert(sizeof(Header) == 64, "the tiles behind it are aligned");

const char* tiles_of(const void* packed) { return static_cast<const char*>(packed) + sizeof(Header); }

// Packed weights are checked by whoever has them as bytes.
Terms terms_of(const void* packed) {
  Header header;
  std::memcpy(&header, packed, sizeof header);
  return header.terms;
}

Matrix matrix_of(const void* packed, int64_t in, int64_t out) {
  return {terms_of(packed), in, out, tiles_of(packed)};
}

void pointwise_by_rows(const Kernels& kernels, const void* x, int64_t rows, const Rows& cut, const Matrix& matrix,
                       const Output& output, int threads) {
  const int64_t chunk = chunk_of(cut, matrix, threads), chunk_bytes = chunk * matrix.depth * matrix.step;
  char* const tiles = Scratch(threads * chunk_bytes).take(threads * chunk_bytes);
#pragma omp parallel num_threads(threads)
  {
    const int64_t me = omp_get_thread_num(), team = omp_get_num_threads();
    kernels.configure(cut.height);
    multiply_rows(kernels, x, rows, cut, matrix, output, me, team, chunk, tiles + me * chunk_bytes);
    kernels.release();
  }
}

void pointwise_by_columns(const Kernels& kernels, const void* x, int64_t rows, const Rows& cut, const Matrix& matrix,
                          const Output& output, int threads) {
  const int64_t tile_bytes = cut.pairs * matrix.depth * matrix.step;
  const int64_t slice = piece_of(matrix.depth, kSliceBytes / (cut.pairs * matrix.step));
  const int64_t column_sums = slice < matrix.depth ? cut.pairs * kSums : 0;
  const int64_t sum_bytes = column_sums * matrix.columns * int64_t{sizeof(float)};
  Scratch scratch(tile_bytes + sum_bytes);
  char* const tiles = scratch.take(tile_bytes);
  auto* const sums = reinterpret_cast<float*>(scratch.take(sum_bytes));
#pragma omp parallel num_threads(threads)
  {
    const int64_t me = omp_get_thread_num(), team = omp_get_num_threads();
    kernels.configure(cut.height);
    split_shared(kernels, x, rows, cut, matrix, me, team, tiles);
#pragma omp barrier
    for (int64_t from = 0; from < matrix.depth; from += slice) {
      Part part = part_of(matrix, rows, cut, tiles, output);
      part.column0 = share(matrix.columns, me, team);
      part.column1 = share(matrix.columns, me + 1, team);
      part.sums = sums + part.column0 * column_sums;
      limit_depth(part, from, std::min(from + slice, matrix.depth), matrix.step);
      kernels.multiply(matrix.terms, part);
    }
    kernels.release();
  }
}

void feed_forward_by_rows(const Kernels& kernels, const void* x, int64_t rows, const Rows& cut, const Matrix& first,
                          const Matrix& second, Output inner, const Output& output, int threads) {
  const int64_t x_bytes = first.depth * first.step, hidden_bytes = second.depth * second.step;
  const int64_t chunk = piece_of((cut.pairs + threads - 1) / threads, kChunkBytes / (x_bytes + hidden_bytes));
  const int64_t bytes = chunk * (x_bytes + hidden_bytes);
  char* const tiles = Scratch(threads * bytes).take(threads * bytes);
#pragma omp parallel num_threads(threads) firstprivate(inner)
  {
    const int64_t me = omp_get_thread_num(), team = omp_get_num_threads(), end = share(cut.pairs, me + 1, team);
    char* const mine = tiles + me * bytes;
    inner.tiles = mine + chunk * x_bytes;
    inner.tile_depth = second.depth;
    kernels.configure(cut.height);
    for (int64_t pair = share(cut.pairs, me, team); pair < end; pair += chunk) {
      Part expand = part_of(first, rows, cut, mine, inner);
      Part reduce = part_of(second, rows, cut, inner.tiles, output);
      expand.pair0 = reduce.pair0 = pair;
      expand.pair1 = reduce.pair1 = std::min(pair + chunk, end);
      kernels.split(first.terms, x, rows, first.in, cut.height, 2 * expand.pair0, 2 * expand.pair1, mine);
      kernels.multiply(first.terms, expand);
      kernels.multiply(second.terms, reduce);
    }
    kernels.release();
  }
}

// Slices of the hidden layer, one after the other: all threads compute a slice, then add its part of all outputs. Slices
// lie in two buffers in turn, so that one barrier for each is enough.
void feed_forward_by_columns(const Kernels& kernels, const void* x, int64_t rows, const Rows& cut, const Matrix& first,
                             const Matrix& second, Output inner, const Output& output, int threads) {
  const int64_t tile_bytes = cut.pairs * first.depth * first.step;
  const int64_t slice = piece_of(second.depth, kSliceBytes / (cut.pairs * second.step));
  const int64_t slice_bytes = cut.pairs * slice * second.step, column_sums = cut.pairs * kSums;
  const int64_t sum_bytes = column_sums * second.columns * int64_t{sizeof(float)};
  Scratch scratch(tile_bytes + 2 * slice_bytes + sum_bytes);
  char* const tiles = scratch.take(tile_bytes);
  char* const hidden[2] = {scratch.take(slice_bytes), scratch.take(slice_bytes)};
  auto* const sums = reinterpret_cast<float*>(scratch.take(sum_bytes));
#pragma omp parallel num_threads(threads) firstprivate(inner)
  {
    const int64_t me = omp_get_thread_num(), team = omp_get_num_threads();
    kernels.configure(cut.height);
    split_shared(kernels, x, rows, cut, first, me, team, tiles);
#pragma omp barrier
    for (int64_t from = 0, turn = 0; from < second.depth; from += slice, turn = 1 - turn) {
      const int64_t to = std::min(from + slice, second.depth);
      Part expand = part_of(first, rows, cut, tiles, inner);
      expand.column0 = from + share(to - from, me, team);
      expand.column1 = from + share(to - from, me + 1, team);
      expand.output.tile_depth = to - from;
      expand.output.tiles = hidden[turn] + (expand.column0 - from) * second.step;
      kernels.multiply(first.terms, expand);
#pragma omp barrier
      Part reduce = part_of(second, rows, cut, hidden[turn] - from * second.step, output);
      reduce.column0 = share(second.columns, me, team);
      reduce.column1 = share(second.columns, me + 1, team);
      reduce.sums = sums + reduce.column0 * column_sums;
      limit_depth(reduce, from, to, second.step);
      reduce.tile_depth = to - from;
      kernels.multiply(second.terms, reduce);
    }
    kernels.release();
  }
}

}  // namespace

int64_t packed_bytes(int64_t in, int64_t out, Terms terms) {
  return int64_t{sizeof(Header)} + blocks_of(out) * blocks_of(in) * step_of(terms);
}

void pack(const float* weight, int64_t in, int64_t out, Terms terms, void* packed) {
  Header header;
  header.bytes = packed_bytes(in, out, terms);
  header.in = in;
  header.out = out;
  header.terms = terms;
  std::memset(packed, 0, header.bytes);
  std::memcpy(packed, &header, sizeof header);
  char* const tiles = static_cast<char*>(packed) + sizeof header;
  const int parts = parts_of(terms);
  for (int64_t column = 0; column < out; ++column) {
    for (int64_t k = 0; k < in; ++k) {
      float rest = weight[column * in + k];
      char* place = tiles + (column / kBlock * blocks_of(in) + k / kBlock) * step_of(terms) +
                    column % kBlock / 16 * kTileBytes + k % kBlock / 2 * 64 + column % 16 * 4 + k % 2 * 2;
      for (int part = 0; part < parts; ++part, place += kPairBytes) {
        const uint16_t bits = channels_last::narrow(rest);
        std::memcpy(place, &bits, sizeof bits);
        rest -= channels_last::widen(bits);
      }
    }
  }
}

bool is_packed(const void* packed, int64_t bytes) {
  int64_t magic = 0;
  if (bytes >= int64_t{sizeof(Header)}) std::memcpy(&magic, packed, sizeof magic);
  return magic == Header().magic;
}

Terms check_packed(const void* packed, int64_t bytes, int64_t in, int64_t out) {
  const auto check = [](bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(std::string("convolution: ") + message);
  };
  check(is_packed(packed, bytes), "these are no packed weights");
  Header header;
  std::memcpy(&header, packed, sizeof header);
  const Terms terms = header.terms;
  check(header.version == Header().version, "the weights were packed by another version");
  check(header.in == in && header.out == out, "the weights were packed for another layer");
  check(terms == Terms::bf16 || terms == Terms::bf16x3 || terms == Terms::bf16x6,
        "the packed weights have a broken header");
  check(header.bytes == bytes && bytes == packed_bytes(in, out, terms), "packed weights of another size");
  check(backend() != Backend::none, "the weights were packed for another processor");
  return terms;
}

void pointwise(const void* x, int64_t rows, int64_t in, int64_t out, const void* packed, const Epilogue& epilogue,
               void* y, int threads) {
  if (rows == 0) return;
  const Rows cut(rows);
  const Matrix matrix = matrix_of(packed, in, out);
  const Output output{y, nullptr, 0, epilogue};
  (shares_rows(cut, threads) ? pointwise_by_rows : pointwise_by_columns)(kernels(), x, rows, cut, matrix, output,
                                                                         threads);
}

void feed_forward(const void* x, int64_t rows, int64_t channels, int64_t hidden, const void* packed1,
                  const float* bias1, const void* packed2, const float* bias2, void* y, int threads) {
  if (rows == 0) return;
  const Rows cut(rows);
  const Matrix first = matrix_of(packed1, channels, hidden);
  const Matrix second = matrix_of(packed2, hidden, channels);
  const Output inner{nullptr, nullptr, 0, {bias1, nullptr, Activation::gelu}};
  const Output output{y, nullptr, 0, {bias2, x, Activation::none}};
  (shares_rows(cut, threads) ? feed_forward_by_rows : feed_forward_by_columns)(kernels(), x, rows, cut, first, second,
                                                                               inner, output, threads);
}

}  // namespace amx
}  // namespace ppreplk
