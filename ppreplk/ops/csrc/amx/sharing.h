// What products.cpp and training_products.cpp share: how work is divided among threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels.h"
#include "pieces.h"

namespace ppreplk {
namespace amx {

constexpr int64_t kChunkBytes = 768 << 10;   // of the split rows that a thread works on at a time: they stay in L2
constexpr int64_t kSliceBytes = 1000 << 10;  // the same of all rows, where threads share out the columns
constexpr int64_t kMinPairs = 8;             // for each thread, to share out rows

constexpr int64_t step_of(Terms terms) { return parts_of(terms) * kPairBytes; }

// The second operand of a product.
struct Matrix {
  Matrix(Terms terms, int64_t in, int64_t out, const char* tiles)
      : terms(terms),
        in(in),
        out(out),
        depth(blocks_of(in)),
        columns(blocks_of(out)),
        step(step_of(terms)),
        tiles(tiles) {}

  Terms terms;
  int64_t in, out, depth, columns, step;
  const char* tiles;  // of all columns and the whole depth
};

inline Part part_of(const Matrix& matrix, int64_t rows, const Rows& cut, const char* tiles, const Output& output) {
  Part part{};
  part.rows = rows;
  part.height = cut.height;
  part.pair1 = cut.pairs;
  part.column1 = matrix.columns;
  part.depth = part.tile_depth = part.panel = matrix.depth;
  part.tiles = tiles;
  part.weights = matrix.tiles;
  part.first = part.last = true;
  part.out = matrix.out;
  part.output = output;
  return part;
}

// The blocks [from, to) of the depth, of tiles that hold all of them.
inline void limit_depth(Part& part, int64_t from, int64_t to, int64_t step) {
  part.first = from == 0;
  part.last = to == part.panel;
  part.depth = to - from;
  part.tiles += from * step;
  part.weights += from * step;
}

inline bool shares_rows(const Rows& cut, int threads) { return cut.pairs >= kMinPairs * threads; }

// The pairs of row tiles that a thread splits and multiplies at a time, where threads share out the rows.
inline int64_t chunk_of(const Rows& cut, const Matrix& matrix, int threads) {
  return piece_of((cut.pairs + threads - 1) / threads, kChunkBytes / (matrix.depth * matrix.step));
}

// A thread's share of all rows, from chunk to chunk; `mine` has room for the tiles of one.
inline void multiply_rows(const Kernels& kernels, const void* x, int64_t rows, const Rows& cut, const Matrix& matrix,
                          const Output& output, int64_t me, int64_t team, int64_t chunk, char* mine) {
  const int64_t end = share(cut.pairs, me + 1, team);
  for (int64_t pair = share(cut.pairs, me, team); pair < end; pair += chunk) {
    Part part = part_of(matrix, rows, cut, mine, output);
    part.pair0 = pair;
    part.pair1 = std::min(pair + chunk, end);
    kernels.split(matrix.terms, x, rows, matrix.in, cut.height, 2 * part.pair0, 2 * part.pair1, mine);
    kernels.multiply(matrix.terms, part);
  }
}

// A thread's share of splitting all rows, where threads share out the columns.
inline void split_shared(const Kernels& kernels, const void* x, int64_t rows, const Rows& cut, const Matrix& matrix,
                         int64_t me, int64_t team, char* tiles) {
  const int64_t from = share(2 * cut.pairs, me, team), to = share(2 * cut.pairs, me + 1, team);
  kernels.split(matrix.terms, x, rows, matrix.in, cut.height, from, to,
                tiles + from / 2 * matrix.depth * matrix.step);
}

}  // namespace amx
}  // namespace ppreplk
