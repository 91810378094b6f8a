// Sixteen float32 numbers at a time, in C++ for any processor. Included inside a namespace.

struct Vec {
  float lanes[16];
};

template <class Operation>
PPREPLK_INLINE Vec each(Operation operation) {
  Vec result;
  for (int lane = 0; lane < 16; ++lane) result.lanes[lane] = operation(lane);
  return result;
}

PPREPLK_INLINE Vec load(const float* from) {
  Vec result;
  std::memcpy(result.lanes, from, sizeof result.lanes);
  return result;
}

PPREPLK_INLINE void store(float* to, const Vec& v) { std::memcpy(to, v.lanes, sizeof v.lanes); }

PPREPLK_INLINE Vec add(const Vec& a, const Vec& b) {
  return each([&](int lane) { return a.lanes[lane] + b.lanes[lane]; });
}

PPREPLK_INLINE Vec subtract(const Vec& a, const Vec& b) {
  return each([&](int lane) { return a.lanes[lane] - b.lanes[lane]; });
}

PPREPLK_INLINE Vec widened(const uint16_t* from) {
  return each([&](int lane) { return channels_last::widen(from[lane]); });
}

// Rounds to nearest, ties to even; takes numbers below float32's normal ones for zero, as the instruction does.
PPREPLK_INLINE uint16_t rounded(float value) {
  return channels_last::narrow(is_denormal(value) ? value * 0.0f : value);
}

PPREPLK_INLINE void store_narrow(uint16_t* to, const Vec& low, const Vec& high) {
  for (int lane = 0; lane < 16; ++lane) {
    to[lane] = rounded(low.lanes[lane]);
    to[lane + 16] = rounded(high.lanes[lane]);
  }
}

// Two rows as bfloat16, their numbers in turn. Leaves in the rows what rounding took away.
PPREPLK_INLINE void store_in_turn(char* to, Vec& even, Vec& odd) {
  uint16_t numbers[32];
  for (int lane = 0; lane < 16; ++lane) {
    numbers[2 * lane] = rounded(even.lanes[lane]);
    numbers[2 * lane + 1] = rounded(odd.lanes[lane]);
    even.lanes[lane] -= channels_last::widen(numbers[2 * lane]);
    odd.lanes[lane] -= channels_last::widen(numbers[2 * lane + 1]);
  }
  std::memcpy(to, numbers, sizeof numbers);
}

// 16 lines of 16 numbers of 32 bits; a line begins `stride` bytes after the one before.
PPREPLK_INLINE void transpose(const char* from, int64_t from_stride, char* to, int64_t to_stride) {
  uint32_t numbers[16][16];
  for (int i = 0; i < 16; ++i) {
    uint32_t line[16];
    std::memcpy(line, from + i * from_stride, sizeof line);
    for (int j = 0; j < 16; ++j) numbers[j][i] = line[j];
  }
  for (int i = 0; i < 16; ++i) std::memcpy(to + i * to_stride, numbers[i], sizeof numbers[i]);
}

PPREPLK_INLINE Vec relu(const Vec& v) {
  return each([&](int lane) { return v.lanes[lane] < 0.0f ? 0.0f : v.lanes[lane]; });
}

PPREPLK_INLINE Vec relu6(const Vec& v) {
  return each([&](int lane) { return v.lanes[lane] > 6.0f ? 6.0f : v.lanes[lane] < 0.0f ? 0.0f : v.lanes[lane]; });
}

PPREPLK_INLINE Vec gelu(const Vec& v, const GeluTable& table) {
  return each([&](int lane) {
    const float x = v.lanes[lane], place = __builtin_fabsf(x) * GeluTable::kScale;
    const float bounded = place < GeluTable::kPieces - 0.5f ? place : GeluTable::kPieces - 0.5f;
    const int piece = static_cast<int>(bounded);
    const float s = bounded - static_cast<float>(piece) - 0.5f;
    float sum = table.coefficients[4][piece];
    for (int power = 3; power >= 0; --power) sum = sum * s + table.coefficients[power][piece];
    return (x < 0.0f ? 0.0f : x) - sum;
  });
}
