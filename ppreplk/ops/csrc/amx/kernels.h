// The kernels of one backend, and how the work is described to them.
#pragma once

#include <cstdint>

#include "products.h"

namespace ppreplk {
namespace amx {

// Numbers are handled in blocks of 32 channels: two tiles of 16 rows of 64 bytes.
constexpr int64_t kBlock = 32, kTileBytes = 1024, kPairBytes = 2 * kTileBytes;
constexpr int64_t kSums = 32 * kBlock;  // of a pair of row tiles and a block of columns

constexpr int64_t blocks_of(int64_t channels) { return (channels + kBlock - 1) / kBlock; }
constexpr int parts_of(Terms terms) { return terms == Terms::bf16 ? 1 : terms == Terms::bf16x3 ? 2 : 3; }

// How rows are cut into tiles: as evenly as possible, in pairs, since a tile with fewer rows is faster.
struct Rows {
  explicit Rows(int64_t rows) : pairs((rows + 31) / 32), height((rows + 2 * pairs - 1) / (2 * pairs)) {}
  int64_t pairs, height;
};

// Where the rows of a product end up.
struct Output {
  void* y;      // [rows][stride], or null:
  char* tiles;  // split, as the input of another product
  int64_t tile_depth;  // blocks of channels of a pair there; they begin with the part's column0 and pair0
  Epilogue epilogue;
  bool transposed = false;  // y is [output channels][rows], without an epilogue
};

// A part of a product: some pairs of row tiles times some blocks of columns, over some blocks of depth.
struct Part {
  int64_t rows, height;       // all rows; those of a tile
  int64_t pair0, pair1;       // pairs of row tiles
  int64_t column0, column1;   // blocks of 32 output channels
  int64_t depth;              // blocks of 32 input channels
  const char* tiles;          // of pair0 and the first block of depth: [pairs][tile_depth][parts][2][1 KB]
  int64_t tile_depth;         // blocks of depth of a pair there
  const char* weights;        // of column 0 and the first block of depth: [columns][panel][parts][2][1 KB]
  int64_t panel;              // blocks of depth of the whole matrix
  float* sums;                // between parts of the depth: [columns][pairs][4][1 KB], of column0 and pair0; or null
  bool first, last;           // of those parts
  int64_t out;                // output channels
  Output output;
};

// Blocks of something: [from, to).
struct Range {
  int64_t from, to;
  int64_t size() const { return to - from; }
};

// The second operand of a product, as it lies in memory: float32.
struct Operand {
  const float* data;
  int64_t depth, columns;
  bool depth_first;  // [depth][columns], else [columns][depth]
};

struct Kernels {
  void (*configure)(int64_t height);  // before the others, on each thread
  void (*release)();
  // Rows of `x` into tiles. `from` and `to` count tiles, not pairs.
  void (*split)(Terms terms, const void* x, int64_t rows, int64_t channels, int64_t height, int64_t from, int64_t to,
                char* tiles);
  // The same of the columns of x, [depth][channels], over some blocks of the depth: [pairs][blocks][parts][2][1 KB].
  // For bf16x3.
  void (*split_columns)(const float* x, int64_t depth, int64_t channels, Range blocks, int64_t height, Range tiles,
                        char* to);
  // Some blocks of columns of a second operand, over some blocks of its depth: [columns][blocks][parts][2][1 KB]. For
  // bf16x3.
  void (*split_panels)(const Operand& operand, Range blocks, Range columns, char* to);
  void (*multiply)(Terms terms, const Part& part);
};

const Kernels& hardware_kernels();
const Kernels& emulated_kernels();
const Kernels& emulated_plain_kernels();

}  // namespace amx
}  // namespace ppreplk
