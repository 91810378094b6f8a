// The kernels over tiles (tiles_*.inl) and lanes (lanes_*.inl). Included inside a namespace, after one of each.

struct Pair {
  Vec low, high;  // channels 0 to 15 and 16 to 31 of a block
};

template <bool NARROW>
PPREPLK_INLINE Pair load_block(const void* x, int64_t at, int64_t count) {
  if (NARROW) {
    const auto* from = static_cast<const uint16_t*>(x) + at;
    if (count >= kBlock) return {widened(from), widened(from + 16)};
    uint16_t values[kBlock] = {};
    std::memcpy(values, from, count * sizeof *from);
    return {widened(values), widened(values + 16)};
  }
  const auto* from = static_cast<const float*>(x) + at;
  if (count >= kBlock) return {load(from), load(from + 16)};
  float values[kBlock] = {};
  std::memcpy(values, from, count * sizeof *from);
  return {load(values), load(values + 16)};
}

template <bool NARROW>
PPREPLK_INLINE void store_block(void* y, int64_t at, int64_t count, const Pair& v) {
  if (NARROW) {
    auto* to = static_cast<uint16_t*>(y) + at;
    if (count >= kBlock) return store_narrow(to, v.low, v.high);
    uint16_t values[kBlock];
    store_narrow(values, v.low, v.high);
    std::memcpy(to, values, count * sizeof *to);
    return;
  }
  auto* to = static_cast<float*>(y) + at;
  if (count >= kBlock) return store(to, v.low), store(to + 16, v.high);
  float values[kBlock];
  store(values, v.low);
  store(values + 16, v.high);
  std::memcpy(to, values, count * sizeof *to);
}

// A block of a row as bfloat16 numbers that add up to it, into one line of a tile for each part.
template <int PARTS>
PPREPLK_INLINE void split_block(Pair v, char* to) {
  for (int part = 0; part < PARTS; ++part, to += kPairBytes) {
    auto* line = reinterpret_cast<uint16_t*>(to);
    store_narrow(line, v.low, v.high);
    if (part + 1 < PARTS) {
      v.low = subtract(v.low, widened(line));
      v.high = subtract(v.high, widened(line + 16));
    }
  }
}

template <int PARTS>
void split_rows(const void* x, int64_t rows, int64_t channels, int64_t height, int64_t from, int64_t to, char* tiles) {
  const int64_t depth = blocks_of(channels);
  for (int64_t tile = from; tile < to; ++tile) {
    for (int64_t line = 0; line < height; ++line) {
      const int64_t row = tile * height + line;
      char* out = tiles + (tile - from / 2 * 2) / 2 * depth * PARTS * kPairBytes + tile % 2 * kTileBytes + line * 64;
      for (int64_t block = 0; block < depth; ++block, out += PARTS * kPairBytes) {
        if (row >= rows) {
          for (int part = 0; part < PARTS; ++part) std::memset(out + part * kPairBytes, 0, 64);
        } else if (PARTS == 1 && (block + 1) * kBlock <= channels) {
          std::memcpy(out, static_cast<const uint16_t*>(x) + row * channels + block * kBlock, 64);
        } else {
          const int64_t count = channels - block * kBlock;
          split_block<PARTS>(load_block<PARTS == 1>(x, row * channels + block * kBlock, count), out);
        }
      }
    }
  }
}

// 16 numbers of a row of which `count` are there.
PPREPLK_INLINE Vec load_some(const float* from, int64_t count) {
  if (count >= 16) return load(from);
  float values[16] = {};
  if (count > 0) std::memcpy(values, from, count * sizeof *from);
  return load(values);
}

// 16 columns of up to 32 rows, as a tile of a second operand: neighbouring rows in turn. A line for each part.
template <int PARTS>
PPREPLK_INLINE void interleave(const float* from, int64_t stride, int64_t rows, int64_t count, char* to) {
  for (int64_t row = 0; row < kBlock; row += 2, to += 64) {
    Vec even = load_some(from + row * stride, row < rows ? count : 0);
    Vec odd = load_some(from + (row + 1) * stride, row + 1 < rows ? count : 0);
    for (int part = 0; part < PARTS; ++part) store_in_turn(to + part * kPairBytes, even, odd);
  }
}

// In both operands a number of 32 bits is a pair of neighbours along the depth. What one has as a line, the other has as
// a column.
template <int PARTS>
PPREPLK_INLINE void transpose_tiles(char* tile) {
  for (int part = 0; part < PARTS; ++part, tile += kPairBytes) transpose(tile, 64, tile, 64);
}

template <int PARTS>
void split_columns(const float* x, int64_t depth, int64_t channels, Range blocks, int64_t height, Range tiles,
                   char* to) {
  for (int64_t block = blocks.from; block < blocks.to; ++block) {
    const float* from = x + block * kBlock * channels;
    for (int64_t tile = tiles.from; tile < tiles.to; ++tile) {
      const int64_t pair = (tile - tiles.from / 2 * 2) / 2, column = tile * height;
      char* out = to + (pair * blocks.size() + block - blocks.from) * PARTS * kPairBytes + tile % 2 * kTileBytes;
      interleave<PARTS>(from + column, channels, depth - block * kBlock, channels - column, out);
      transpose_tiles<PARTS>(out);
    }
  }
}

// Where a tile of a panel begins: `at` counts its 16 columns from the first one of all panels.
template <int PARTS>
char* panel_tile(char* panels, int64_t at, int64_t block, int64_t blocks) {
  return panels + (at / kBlock * blocks + block) * PARTS * kPairBytes + at % kBlock / 16 * kTileBytes;
}

// Rows are the columns of the product: 16 of them at a time from end to end, which memory delivers fastest.
template <int PARTS>
void split_rows_to_panels(const Operand& operand, Range blocks, Range columns, char* to) {
  const int64_t depth = operand.depth, begin = columns.from * kBlock;
  for (int64_t first = begin; first < columns.to * kBlock; first += 16) {
    for (int64_t block = blocks.from; block < blocks.to; ++block) {
      char* out = panel_tile<PARTS>(to, first - begin, block - blocks.from, blocks.size());
      for (int64_t line = 0; line < 16; ++line) {
        const int64_t count = first + line < operand.columns ? depth - block * kBlock : 0;
        split_block<PARTS>(load_block<false>(operand.data, (first + line) * depth + block * kBlock, count),
                           out + line * 64);
      }
      transpose_tiles<PARTS>(out);
    }
  }
}

template <int PARTS>
void split_panels(const Operand& operand, Range blocks, Range columns, char* to) {
  if (!operand.depth_first) return split_rows_to_panels<PARTS>(operand, blocks, columns, to);
  const int64_t begin = columns.from * kBlock;
  for (int64_t block = blocks.from; block < blocks.to; ++block) {
    const float* from = operand.data + block * kBlock * operand.columns;
    for (int64_t first = begin; first < columns.to * kBlock; first += 16) {
      interleave<PARTS>(from + first, operand.columns, operand.depth - block * kBlock, operand.columns - first,
                        panel_tile<PARTS>(to, first - begin, block - blocks.from, blocks.size()));
    }
  }
}

PPREPLK_INLINE Pair activated(const Pair& v, Activation activation) {
  switch (activation) {
    case Activation::none: return v;
    case Activation::relu: return {relu(v.low), relu(v.high)};
    case Activation::gelu: {
      const GeluTable& table = gelu_table();
      return {gelu(v.low, table), gelu(v.high, table)};
    }
    case Activation::relu6: return {relu6(v.low), relu6(v.high)};
  }
  return v;
}

// The sums of a pair of row tiles times a block of columns: [2 * height][32] -> the output.
template <int PARTS, bool RESIDUAL, bool TILES, Activation ACTIVATION>
void finish(const float* sums, const Part& part, int64_t pair, int64_t column) {
  constexpr bool kNarrow = PARTS == 1;
  const Output& output = part.output;
  const int64_t count = part.out - column * kBlock;  // of columns
  const Pair bias = load_block<false>(output.epilogue.bias, column * kBlock, output.epilogue.bias ? count : 0);
  for (int64_t line = 0; line < 2 * part.height; ++line) {
    const int64_t row = 2 * pair * part.height + line;
    if (row >= part.rows) return;
    Pair v{add(load(sums + line * kBlock), bias.low), add(load(sums + line * kBlock + 16), bias.high)};
    const int64_t at = row * part.out + column * kBlock;
    if (RESIDUAL) {
      const Pair residual = load_block<kNarrow>(output.epilogue.residual, at, count);
      v = {add(v.low, residual.low), add(v.high, residual.high)};
    }
    v = activated(v, ACTIVATION);
    if (TILES) {
      const int64_t block = (pair - part.pair0) * output.tile_depth + column - part.column0;
      split_block<PARTS>(v, output.tiles + block * PARTS * kPairBytes + line / part.height * kTileBytes +
                                line % part.height * 64);
    } else {
      store_block<kNarrow>(output.y, at, count, v);
    }
  }
}

template <int PARTS, bool RESIDUAL, bool TILES>
void finish(const float* sums, const Part& part, int64_t pair, int64_t column) {
  switch (part.output.epilogue.activation) {
    case Activation::none: return finish<PARTS, RESIDUAL, TILES, Activation::none>(sums, part, pair, column);
    case Activation::relu: return finish<PARTS, RESIDUAL, TILES, Activation::relu>(sums, part, pair, column);
    case Activation::gelu: return finish<PARTS, RESIDUAL, TILES, Activation::gelu>(sums, part, pair, column);
    case Activation::relu6: return finish<PARTS, RESIDUAL, TILES, Activation::relu6>(sums, part, pair, column);
  }
}

// The same into y[output channels][rows], as they are.
void finish_transposed(const float* sums, const Part& part, int64_t pair, int64_t column) {
  auto* y = static_cast<float*>(part.output.y);
  const int64_t row0 = 2 * pair * part.height, lines = std::min(2 * part.height, part.rows - row0);
  const int64_t columns = std::min(kBlock, part.out - column * kBlock);
  alignas(64) float block[16][16];
  for (int64_t line = 0; line < lines; line += 16) {
    for (int64_t first = 0; first < columns; first += 16) {
      transpose(reinterpret_cast<const char*>(sums + line * kBlock + first), kBlock * sizeof *sums,
                reinterpret_cast<char*>(block), sizeof block[0]);
      for (int64_t i = 0; i < std::min<int64_t>(16, columns - first); ++i) {
        std::memcpy(y + (column * kBlock + first + i) * part.rows + row0 + line, block[i],
                    std::min<int64_t>(16, lines - line) * sizeof *y);
      }
    }
  }
}

template <int PARTS>
void finish(const float* sums, const Part& part, int64_t pair, int64_t column) {
  if (part.output.transposed) return finish_transposed(sums, part, pair, column);
  if (part.output.tiles) return finish<PARTS, false, true>(sums, part, pair, column);
  if (part.output.epilogue.residual) return finish<PARTS, true, false>(sums, part, pair, column);
  finish<PARTS, false, false>(sums, part, pair, column);
}

// Tiles 0 to 3 are sums of two row tiles times two column tiles, 4 and 5 hold rows, 6 and 7 weights.
PPREPLK_INLINE void load_rows(const char* from) {
  load_tile<4>(from, 64);
  load_tile<5>(from + kTileBytes, 64);
}

PPREPLK_INLINE void load_weights(const char* from) {
  load_tile<6>(from, 64);
  load_tile<7>(from + kTileBytes, 64);
}

PPREPLK_INLINE void multiply_tiles() {
  multiply_tile<0, 4, 6>();
  multiply_tile<1, 4, 7>();
  multiply_tile<2, 5, 6>();
  multiply_tile<3, 5, 7>();
}

// One block of depth. The smaller products come first, as far as the loads allow.
template <Terms TERMS>
PPREPLK_INLINE void multiply_block(const char* rows, const char* weights) {
  const auto part = [](const char* from, int number) { return from + number * kPairBytes; };
  if (TERMS == Terms::bf16) {
    load_rows(rows), load_weights(weights), multiply_tiles();
  } else if (TERMS == Terms::bf16x3) {
    load_rows(rows), load_weights(part(weights, 1)), multiply_tiles();
    load_weights(weights), multiply_tiles();
    load_rows(part(rows, 1)), multiply_tiles();
  } else {
    load_rows(rows), load_weights(part(weights, 2)), multiply_tiles();
    load_weights(part(weights, 1)), multiply_tiles();
    load_rows(part(rows, 1)), multiply_tiles();
    load_weights(weights), multiply_tiles();
    load_rows(part(rows, 2)), multiply_tiles();
    load_rows(rows), multiply_tiles();
  }
}

template <Terms TERMS>
void multiply(const Part& part) {
  constexpr int kParts = parts_of(TERMS);
  constexpr int64_t kStep = kParts * kPairBytes;
  const int64_t pairs = part.pair1 - part.pair0;
  constexpr int64_t kSumLines = kSums * sizeof(float) / 64;
  const int64_t sum_lines = (kSumLines + part.depth - 1) / part.depth;  // of the next sums, fetched at each block
  alignas(64) float buffer[kSums];
  for (int64_t column = part.column0; column < part.column1; ++column) {
    const char* panel = part.weights + column * part.panel * kStep;
    const char* next = panel + (column + 1 < part.column1 ? part.panel * kStep : 0);
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const char* rows = part.tiles + pair * part.tile_depth * kStep;
      float* sums = part.sums ? part.sums + ((column - part.column0) * pairs + pair) * kSums : nullptr;
      if (part.first) {
        zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
      } else {
        load_tile<0>(sums, 64), load_tile<1>(sums + 256, 64);
        load_tile<2>(sums + 512, 64), load_tile<3>(sums + 768, 64);
      }
      // The lines of the next panel that are fetched meanwhile.
      const int64_t line0 = kStep / 64 * pair / pairs, line1 = kStep / 64 * (pair + 1) / pairs;
      const char* coming = part.first || !sums ? nullptr : reinterpret_cast<const char*>(sums + kSums);
      for (int64_t block = 0; block < part.depth; ++block) {
        for (int64_t line = line0; line < line1; ++line) __builtin_prefetch(next + block * kStep + line * 64, 0, 2);
        if (coming) {
          const int64_t end = std::min((block + 1) * sum_lines, kSumLines);
          for (int64_t line = block * sum_lines; line < end; ++line) __builtin_prefetch(coming + line * 64, 1, 2);
        }
        multiply_block<TERMS>(rows + block * kStep, panel + block * kStep);
      }
      if (part.last) {
        float* below = buffer + part.height * kBlock;
        store_tile<0>(buffer, 128), store_tile<1>(buffer + 16, 128);
        store_tile<2>(below, 128), store_tile<3>(below + 16, 128);
        finish<kParts>(buffer, part, part.pair0 + pair, column);
      } else {
        store_tile<0>(sums, 64), store_tile<1>(sums + 256, 64);
        store_tile<2>(sums + 512, 64), store_tile<3>(sums + 768, 64);
      }
    }
  }
}

void configure(int64_t height) {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.bytes[tile] = 64;
    config.rows[tile] = static_cast<uint8_t>(tile < 6 ? height : 16);
  }
  load_config(config);
}

void split(Terms terms, const void* x, int64_t rows, int64_t channels, int64_t height, int64_t from, int64_t to,
           char* tiles) {
  switch (terms) {
    case Terms::bf16: return split_rows<1>(x, rows, channels, height, from, to, tiles);
    case Terms::bf16x3: return split_rows<2>(x, rows, channels, height, from, to, tiles);
    case Terms::bf16x6: return split_rows<3>(x, rows, channels, height, from, to, tiles);
  }
}

void multiply(Terms terms, const Part& part) {
  switch (terms) {
    case Terms::bf16: return multiply<Terms::bf16>(part);
    case Terms::bf16x3: return multiply<Terms::bf16x3>(part);
    case Terms::bf16x6: return multiply<Terms::bf16x6>(part);
  }
}

const Kernels kKernels{configure, release_tiles, split, split_columns<2>, split_panels<2>, multiply};
