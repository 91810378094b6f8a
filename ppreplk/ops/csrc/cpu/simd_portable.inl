// SIMD primitives: 4 lanes of whatever the compiler has for 16-byte vectors. Included inside
// a namespace.

constexpr int kLanes = 4;
constexpr int kRegisters = 16;

typedef float Vec __attribute__((vector_size(16)));
typedef float UnalignedVec __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(16)));
typedef uint32_t UintVec __attribute__((vector_size(16)));
typedef uint16_t ShortVec __attribute__((vector_size(8)));

PPREPLK_INLINE float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

PPREPLK_INLINE uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

PPREPLK_INLINE float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7fff;
  if (magnitude >= 0x7c00) {  // infinity and NaN
    return bits_to_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  }
  // Moving the fields into place leaves the exponent 112 too small, for normal and for
  // denormal numbers alike: a multiplication by 2^112 is exact and normalizes both.
  const float value = bits_to_float(magnitude << 13) * 0x1p112f;
  return bits_to_float(sign | float_to_bits(value));
}

// Rounds to nearest, ties to even.
PPREPLK_INLINE uint16_t float_to_half(float value) {
  const uint32_t bits = float_to_bits(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;   // NaN
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // rounds to 65536 or more
  if (magnitude < 0x38800000) {
    // Denormal half: adding 0.5 lets the float addition round to the last place of a half.
    const float shifted = bits_to_float(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (float_to_bits(shifted) - float_to_bits(0.5f)));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | (rounded - (112u << 23)) >> 13);
}

PPREPLK_INLINE Vec load(const Half* p) {
  Vec v;
  for (int i = 0; i < kLanes; ++i) v[i] = half_to_float(p[i].bits);
  return v;
}

PPREPLK_INLINE void store(Half* p, Vec v) {
  for (int i = 0; i < kLanes; ++i) p[i].bits = float_to_half(v[i]);
}

PPREPLK_INLINE Vec load_partial(const float* p, int count) {
  Vec v{};
  for (int i = 0; i < count; ++i) v[i] = p[i];
  return v;
}

PPREPLK_INLINE void store_partial(float* p, Vec v, int count) {
  for (int i = 0; i < count; ++i) p[i] = v[i];
}
