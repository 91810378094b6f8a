// Packing, and sharing the work out over threads.
#include "float_products.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "float_kernels.h"
#include "openmp.h"
#include "pieces.h"
#include "processor.h"

namespace ppreplk {
namespace avx512 {
namespace {

constexpr int64_t kMaxDepth = 1024;        // of a piece of a panel, which then takes 128 KB
constexpr int64_t kRowsBytes = 400 << 10;  // of the rows that a thread multiplies by a panel: both stay in L2
constexpr int64_t kHiddenBytes = 4 << 20;  // of the hidden layer that exists at a time
constexpr int64_t kMinBlocks = 7, kMinRows = 7;  // blocks, and rows of a block, if there are few rows
constexpr int64_t kPadding = 16;  // numbers behind each row of the hidden layer, lest rows meet in the same cache lines

struct Header {
  int64_t magic = 0x7876612d6b6c72;  // "rlk-avx"
  int64_t version = 1;
  int64_t bytes = 0, in = 0, out = 0;
  char room[24] = {};
};
static_assert(sizeof(Header) == 64, "the panels behind it are aligned");

void check(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(std::string("convolution: ") + message);
}

int64_t panels_of(int64_t out) { return (out + kColumns - 1) / kColumns; }

struct Rows {
  const float* data;
  int64_t stride;
};

// The product of rows and packed weights.
struct Product {
  Product(Rows x, int64_t rows, int64_t in, int64_t out, const void* packed, const Epilogue& epilogue, float* y,
          int64_t y_stride)
      : x(x),
        rows(rows),
        in(in),
        out(out),
        weights(reinterpret_cast<const float*>(static_cast<const char*>(packed) + sizeof(Header))),
        epilogue(epilogue),
        y(y),
        y_stride(y_stride) {}

  // Few rows are cut into more blocks than they need: meanwhile the next weights arrive.
  int64_t blocks() const {
    return std::max((rows + kRows - 1) / kRows, std::min(kMinBlocks, (rows + kMinRows - 1) / kMinRows));
  }
  int64_t panels() const { return panels_of(out); }
  // Blocks have the same number of rows, or one less.
  int64_t row(int64_t block) const { return share(rows, block, blocks()); }
  const float* panel(int64_t number) const { return weights + number * in * kColumns; }

  Rows x;
  int64_t rows, in, out;
  const float* weights;  // [panels, in, kColumns]
  Epilogue epilogue;     // its residual has the stride of y
  float* y;
  int64_t y_stride;
};

// What one thread computes.
struct Task {
  int64_t block0, block1, panel0, panel1;
};

// The last panel, if it is not full, by way of a tile in full size.
void multiply_partly(Tile tile, int64_t rows, int64_t columns) {
  float sums[kRows * kColumns] = {}, residual[kRows * kColumns] = {}, bias[kColumns] = {};
  const int64_t bytes = columns * int64_t{sizeof(float)};
  float* const y = tile.y;
  for (int64_t row = 0; row < rows; ++row) {
    if (!tile.first) std::memcpy(sums + row * kColumns, y + row * tile.y_stride, bytes);
    if (tile.last && tile.residual) {
      std::memcpy(residual + row * kColumns, tile.residual + row * tile.y_stride, bytes);
    }
  }
  std::memcpy(bias, tile.bias, bytes);
  const int64_t stride = tile.y_stride;
  tile.y = sums;
  tile.y_stride = kColumns;
  tile.bias = bias;
  if (tile.residual) tile.residual = residual;
  multiply(tile, rows);
  for (int64_t row = 0; row < rows; ++row) std::memcpy(y + row * stride, sums + row * kColumns, bytes);
}

void multiply(const Product& product, const Task& task) {
  const int64_t depth = piece_of(product.in, kMaxDepth);
  const int64_t chunk = std::max<int64_t>(1, kRowsBytes / (kRows * depth * int64_t{sizeof(float)}));
  for (int64_t block0 = task.block0; block0 < task.block1; block0 += chunk) {
    const int64_t block1 = std::min(block0 + chunk, task.block1), blocks = block1 - block0;
    for (int64_t from = 0; from < product.in; from += depth) {
      const int64_t to = std::min(from + depth, product.in);
      const int64_t lines = (to - from) * kColumns * int64_t{sizeof(float)} / 64;
      for (int64_t panel = task.panel0; panel < task.panel1; ++panel) {
        const float* next = panel + 1 < task.panel1 ? product.panel(panel + 1) + from * kColumns
                            : to < product.in       ? product.panel(task.panel0) + to * kColumns
                                                    : nullptr;
        for (int64_t block = block0; block < block1; ++block) {
          const int64_t row = product.row(block), rows = product.row(block + 1) - row, column = panel * kColumns;
          const int64_t line = share(lines, block - block0, blocks);
          const Epilogue& epilogue = product.epilogue;
          const int64_t later = share(lines, block - block0 + 1, blocks);
          const Tile tile{product.x.data + row * product.x.stride + from,
                          product.x.stride,
                          product.panel(panel) + from * kColumns,
                          to - from,
                          product.y + row * product.y_stride + column,
                          product.y_stride,
                          from == 0,
                          to == product.in,
                          epilogue.bias + column,
                          epilogue.residual ? epilogue.residual + row * product.y_stride + column : nullptr,
                          epilogue.activation,
                          next ? reinterpret_cast<const char*>(next) + line * 64 : nullptr,
                          next ? later - line : 0};
          const int64_t columns = std::min<int64_t>(kColumns, product.out - column);
          if (columns < kColumns) {
            multiply_partly(tile, rows, columns);
          } else {
            multiply(tile, rows);
          }
        }
      }
    }
  }
}

// How threads share out a product: a grid of ranges of rows and of columns.
struct Grid {
  int64_t by_rows, by_columns;

  Task task(const Product& product, int64_t thread) const {
    const int64_t row = thread / by_columns, column = thread % by_columns;
    return {share(product.blocks(), row, by_rows), share(product.blocks(), row + 1, by_rows),
            share(product.panels(), column, by_columns), share(product.panels(), column + 1, by_columns)};
  }
};

// The grid with the fewest tiles for the thread that has most; of equal ones, that with the most ranges of rows, since
// what a thread reads then is mostly what it has written itself, one layer before.
Grid grid_for(const Product& product, int64_t threads) {
  Grid best{1, 1};
  int64_t best_tiles = product.blocks() * product.panels();
  for (int64_t by_rows = 1; by_rows <= std::min(threads, product.blocks()); ++by_rows) {
    const int64_t by_columns = std::min(threads / by_rows, product.panels());
    const int64_t tiles =
        ((product.blocks() + by_rows - 1) / by_rows) * ((product.panels() + by_columns - 1) / by_columns);
    if (tiles <= best_tiles) {
      best = {by_rows, by_columns};
      best_tiles = tiles;
    }
  }
  return best;
}

void run(const Product& product, int threads) {
  const Grid grid = grid_for(product, threads);
#pragma omp parallel num_threads(threads)
  {
    const int64_t team = omp_get_num_threads(), tasks = grid.by_rows * grid.by_columns;
    for (int64_t task = omp_get_thread_num(); task < tasks; task += team) multiply(product, grid.task(product, task));
  }
}

}  // namespace

bool available() {
  static const bool found = has_avx512();
  return found;
}

int64_t packed_bytes(int64_t in, int64_t out) {
  return int64_t{sizeof(Header)} + panels_of(out) * in * kColumns * int64_t{sizeof(float)};
}

void pack(const float* weight, int64_t in, int64_t out, void* packed) {
  Header header;
  header.bytes = packed_bytes(in, out);
  header.in = in;
  header.out = out;
  std::memset(packed, 0, header.bytes);
  std::memcpy(packed, &header, sizeof header);
  auto* const panels = reinterpret_cast<float*>(static_cast<char*>(packed) + sizeof header);
  for (int64_t panel = 0; panel < panels_of(out); ++panel) {
    const float* from = weight + panel * kColumns * in;
    float* const to = panels + panel * kColumns * in;
    const int64_t columns = std::min<int64_t>(kColumns, out - panel * kColumns);
    for (int64_t k = 0; k < in; ++k) {
      for (int64_t column = 0; column < columns; ++column) to[k * kColumns + column] = from[column * in + k];
    }
  }
}

bool is_packed(const void* packed, int64_t bytes) {
  int64_t magic = 0;
  if (bytes >= int64_t{sizeof(Header)}) std::memcpy(&magic, packed, sizeof magic);
  return magic == Header().magic;
}

void check_packed(const void* packed, int64_t bytes, int64_t in, int64_t out) {
  check(is_packed(packed, bytes), "these are no packed weights");
  Header header;
  std::memcpy(&header, packed, sizeof header);
  check(header.version == Header().version, "the weights were packed by another version");
  check(header.in == in && header.out == out, "the weights were packed for another layer");
  check(header.bytes == bytes && bytes == packed_bytes(in, out), "packed weights of another size");
  check(available(), "the weights were packed for another processor");
}

void pointwise(const float* x, int64_t rows, int64_t in, int64_t out, const void* packed, const Epilogue& epilogue,
               float* y, int threads) {
  if (rows == 0) return;
  run({{x, in}, rows, in, out, packed, epilogue, y, out}, threads);
}

void feed_forward(const float* x, int64_t rows, int64_t channels, int64_t hidden, const void* packed1,
                  const float* bias1, const void* packed2, const float* bias2, float* y, int threads) {
  const int64_t stride = hidden + kPadding, row_bytes = stride * int64_t{sizeof(float)};
  const Epilogue inner{bias1, nullptr, Activation::gelu};
  const auto expand = [&](int64_t from, int64_t count, float* between) {
    return Product({x + from * channels, channels}, count, channels, hidden, packed1, inner, between, stride);
  };
  const auto reduce = [&](int64_t from, int64_t count, const float* between) {
    return Product({between, stride}, count, hidden, channels, packed2, {bias2, x + from * channels, Activation::none},
                   y + from * channels, channels);
  };
  const int64_t most = piece_of(rows, std::max<int64_t>(1, kHiddenBytes / row_bytes));
  auto* const between = reinterpret_cast<float*>(Scratch(most * row_bytes).take(most * row_bytes));
  for (int64_t from = 0; from < rows; from += most) {
    const int64_t count = std::min(most, rows - from);
    run(expand(from, count, between), threads);
    run(reduce(from, count, between), threads);
  }
}

}  // namespace avx512
}  // namespace ppreplk
