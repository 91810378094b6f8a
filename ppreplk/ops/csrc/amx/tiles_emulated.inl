// Tile registers in C++, as Intel documents the instructions. Included inside a namespace.

struct TileRegisters {
  TileConfig config;
  alignas(64) char data[8][16][64];
};

thread_local TileRegisters registers;

void load_config(const TileConfig& config) {
  registers.config = config;
  std::memset(registers.data, 0, sizeof registers.data);
}

void release_tiles() { load_config(TileConfig{}); }

template <int TILE>
void zero_tile() {
  std::memset(registers.data[TILE], 0, sizeof registers.data[TILE]);
}

template <int TILE>
void load_tile(const void* from, int64_t stride) {
  zero_tile<TILE>();
  for (int row = 0; row < registers.config.rows[TILE]; ++row) {
    std::memcpy(registers.data[TILE][row], static_cast<const char*>(from) + row * stride, registers.config.bytes[TILE]);
  }
}

template <int TILE>
void store_tile(void* to, int64_t stride) {
  for (int row = 0; row < registers.config.rows[TILE]; ++row) {
    std::memcpy(static_cast<char*>(to) + row * stride, registers.data[TILE][row], registers.config.bytes[TILE]);
  }
}

PPREPLK_INLINE float flushed(float value) { return is_denormal(value) ? __builtin_copysignf(0.0f, value) : value; }

// a * b + c with one rounding. The product of bfloat16 numbers is exact in float32, as long as it is in its range.
PPREPLK_INLINE float multiplied(float a, float b, float c) {
  const float product = a * b, size = __builtin_fabsf(product);
  return size > 1e-30f && size < 1e38f ? product + c : __builtin_fmaf(a, b, c);
}

// Rows hold pairs of neighbouring bfloat16 numbers. The products of the first ones of all pairs are summed, those of the
// second ones too, then both sums, then what was in the register. Each step rounds to nearest, ties to even, and takes
// denormal numbers for zero, before and after.
template <int SUMS, int ROWS, int WEIGHTS>
void multiply_tile() {
  const TileConfig& config = registers.config;
  const int depth = config.bytes[ROWS] / 4, columns = config.bytes[SUMS] / 4;
  float weights[16][32];
  for (int k = 0; k < depth; ++k) {
    uint16_t bits[32];
    std::memcpy(bits, registers.data[WEIGHTS][k], sizeof bits);
    for (int n = 0; n < 2 * columns; ++n) weights[k][n] = flushed(channels_last::widen(bits[n]));
  }
  for (int row = 0; row < config.rows[SUMS]; ++row) {
    float sums[32] = {};
    for (int k = 0; k < depth; ++k) {
      uint16_t pair[2];
      std::memcpy(pair, registers.data[ROWS][row] + 4 * k, sizeof pair);
      const float first = flushed(channels_last::widen(pair[0])), second = flushed(channels_last::widen(pair[1]));
      for (int n = 0; n < 2 * columns; ++n) sums[n] = flushed(multiplied(n % 2 ? second : first, weights[k][n], sums[n]));
    }
    float line[16] = {};
    std::memcpy(line, registers.data[SUMS][row], sizeof line);
    for (int n = 0; n < columns; ++n) {
      line[n] = flushed(flushed(line[n]) + flushed(sums[2 * n] + sums[2 * n + 1]));
    }
    std::memcpy(registers.data[SUMS][row], line, sizeof line);
  }
}
