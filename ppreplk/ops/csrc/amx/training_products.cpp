#include "training_products.h"

#include <algorithm>

#include "dispatch.h"
#include "openmp.h"
#include "sharing.h"

namespace ppreplk {
namespace amx {
namespace {

constexpr Terms kTerms = Terms::bf16x3;
constexpr int64_t kStep = step_of(kTerms);
constexpr int64_t kPieceBlocks = 16;   // of the depth: 512 numbers, for which sums are fetched and stored once
constexpr int64_t kGroupColumns = 4;   // split at a time: 512 bytes of a row, and 256 KB of such a piece

// Columns [from, to) of a matrix, over a piece of its depth, times all row tiles of that piece.
struct Group {
  Range columns, blocks;
};

// Splits the columns of a group into `mine`, and multiplies.
void multiply_group(const Kernels& kernels, const Operand& operand, Part part, const Group& group, char* mine) {
  kernels.split_panels(operand, group.blocks, group.columns, mine);
  part.column0 = group.columns.from;
  part.column1 = group.columns.to;
  part.depth = part.panel = group.blocks.size();
  part.weights = mine - group.columns.from * part.panel * kStep;
  part.first = group.blocks.from == 0;
  part.last = group.blocks.to == blocks_of(operand.depth);
  kernels.multiply(kTerms, part);
}

// All threads split the second operand, then each multiplies rows of its own.
void multiply_by_rows(const Kernels& kernels, const float* x, int64_t rows, const Rows& cut, const Operand& operand,
                      const Output& output, int threads) {
  Matrix matrix(kTerms, operand.depth, operand.columns, nullptr);
  const int64_t panel_bytes = matrix.depth * kStep, matrix_bytes = matrix.columns * panel_bytes;
  const int64_t chunk = chunk_of(cut, matrix, threads), chunk_bytes = chunk * matrix.depth * kStep;
  Scratch scratch(matrix_bytes + threads * chunk_bytes);
  char *const panels = scratch.take(matrix_bytes), *const tiles = scratch.take(threads * chunk_bytes);
  matrix.tiles = panels;
#pragma omp parallel num_threads(threads)
  {
    const int64_t me = omp_get_thread_num(), team = omp_get_num_threads();
    const Range columns{share(matrix.columns, me, team), share(matrix.columns, me + 1, team)};
    kernels.split_panels(operand, {0, matrix.depth}, columns, panels + columns.from * panel_bytes);
    kernels.configure(cut.height);
#pragma omp barrier
    multiply_rows(kernels, x, rows, cut, matrix, output, me, team, chunk, tiles + me * chunk_bytes);
    kernels.release();
  }
}

// All threads split the rows, then each splits and multiplies columns of its own: every number of the second operand is
// read once, and never stored as a whole.
void multiply_by_columns(const Kernels& kernels, const float* x, int64_t rows, const Rows& cut, const Operand& operand,
                         const Output& output, int threads) {
  const Matrix matrix(kTerms, operand.depth, operand.columns, nullptr);
  const int64_t tile_bytes = cut.pairs * matrix.depth * kStep;
  const int64_t piece = piece_of(matrix.depth, std::min(kPieceBlocks, kSliceBytes / (cut.pairs * kStep)));
  const int64_t column_bytes = cut.pairs * kSums * int64_t{sizeof(float)};  // sums, half of what stays in L2
  const int64_t group_columns = std::clamp<int64_t>(kSliceBytes / 2 / column_bytes, 1, kGroupColumns);
  const int64_t group_bytes = group_columns * piece * kStep, sum_bytes = group_columns * column_bytes;
  Scratch scratch(tile_bytes + threads * (group_bytes + sum_bytes));
  char *const tiles = scratch.take(tile_bytes), *const own = scratch.take(threads * (group_bytes + sum_bytes));
#pragma omp parallel num_threads(threads)
  {
    const int64_t me = omp_get_thread_num(), team = omp_get_num_threads(), end = share(matrix.columns, me + 1, team);
    char* const mine = own + me * (group_bytes + sum_bytes);
    split_shared(kernels, x, rows, cut, matrix, me, team, tiles);
    kernels.configure(cut.height);
#pragma omp barrier
    for (int64_t column = share(matrix.columns, me, team); column < end; column += group_columns) {
      const Range columns{column, std::min(column + group_columns, end)};
      for (int64_t from = 0; from < matrix.depth; from += piece) {
        Part part = part_of(matrix, rows, cut, tiles + from * kStep, output);
        part.sums = reinterpret_cast<float*>(mine + group_bytes);
        multiply_group(kernels, operand, part, {columns, {from, std::min(from + piece, matrix.depth)}}, mine);
      }
    }
    kernels.release();
  }
}

void multiply(const float* x, int64_t rows, const Operand& operand, float* y, int threads) {
  if (rows == 0) return;
  const Rows cut(rows);
  const Output output{y, nullptr, 0, {nullptr, nullptr, Activation::none}};
  (shares_rows(cut, threads) ? multiply_by_rows : multiply_by_columns)(kernels(), x, rows, cut, operand, output,
                                                                       threads);
}

}  // namespace

void forward(const float* x, int64_t rows, int64_t in, int64_t out, const float* weight, float* y, int threads) {
  multiply(x, rows, {weight, in, out, false}, y, threads);
}

void input_gradient(const float* dy, int64_t rows, int64_t in, int64_t out, const float* weight, float* dx,
                    int threads) {
  multiply(dy, rows, {weight, out, in, true}, dx, threads);
}

// The sum runs over the rows of x and dy. The narrower one is turned round into row tiles, piece by piece; of the wider
// one, which needs no turning, each thread splits columns of its own. Sums lie in memory between pieces. Tiles lie in
// two buffers in turn, so that one barrier for each piece is enough.
void weight_gradient(const float* x, const float* dy, int64_t rows, int64_t in, int64_t out, float* dweight,
                     int threads) {
  if (rows == 0) {
    std::fill_n(dweight, in * out, 0.0f);
    return;
  }
  const Kernels& kernels = amx::kernels();
  const bool turned = in < out;  // dweight[out][in] has the wider one's channels as rows
  const float* narrow = turned ? x : dy;
  const int64_t narrow_channels = turned ? in : out;
  const Operand wide{turned ? dy : x, rows, turned ? out : in, true};
  const Rows cut(narrow_channels);
  const Matrix matrix(kTerms, rows, wide.columns, nullptr);
  const Output output{dweight, nullptr, 0, {nullptr, nullptr, Activation::none}, turned};

  const int64_t piece = piece_of(matrix.depth, std::min(kPieceBlocks, kSliceBytes / (cut.pairs * kStep)));
  const int64_t tile_bytes = cut.pairs * piece * kStep, group_bytes = kGroupColumns * piece * kStep;
  const int64_t column_sums = piece < matrix.depth ? cut.pairs * kSums : 0;
  const int64_t sum_bytes = column_sums * matrix.columns * int64_t{sizeof(float)};
  Scratch scratch(2 * tile_bytes + threads * group_bytes + sum_bytes);
  char* const tiles[2] = {scratch.take(tile_bytes), scratch.take(tile_bytes)};
  char* const own = scratch.take(threads * group_bytes);
  auto* const sums = reinterpret_cast<float*>(scratch.take(sum_bytes));
#pragma omp parallel num_threads(threads)
  {
    const int64_t me = omp_get_thread_num(), team = omp_get_num_threads(), end = share(matrix.columns, me + 1, team);
    const Range split{share(2 * cut.pairs, me, team), share(2 * cut.pairs, me + 1, team)};
    kernels.configure(cut.height);
    for (int64_t from = 0, turn = 0; from < matrix.depth; from += piece, turn = 1 - turn) {
      const Range blocks{from, std::min(from + piece, matrix.depth)};
      kernels.split_columns(narrow, rows, narrow_channels, blocks, cut.height, split,
                            tiles[turn] + split.from / 2 * blocks.size() * kStep);
#pragma omp barrier
      for (int64_t column = share(matrix.columns, me, team); column < end; column += kGroupColumns) {
        Part part = part_of(matrix, narrow_channels, cut, tiles[turn], output);
        part.tile_depth = blocks.size();
        part.sums = column_sums ? sums + column * column_sums : nullptr;
        multiply_group(kernels, wide, part, {{column, std::min(column + kGroupColumns, end)}, blocks},
                       own + me * group_bytes);
      }
    }
    kernels.release();
  }
}

}  // namespace amx
}  // namespace ppreplk
