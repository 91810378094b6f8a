// SIMD code that is the same for every instruction set, and the way between memory and
// lanes. Included inside a namespace, after one of simd_*.inl.

PPREPLK_INLINE Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
PPREPLK_INLINE void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }

PPREPLK_INLINE Vec load(const Bfloat16* p) {
  ShortVec bits;
  std::memcpy(&bits, p, sizeof bits);
  return (Vec)(__builtin_convertvector(bits, UintVec) << 16);
}

// Rounds to nearest, ties to even.
PPREPLK_INLINE void store(Bfloat16* p, Vec v) {
  const UintVec bits = (UintVec)v;
  const UintVec rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  const UintVec quiet = bits | 0x400000u;
  const ShortVec high = __builtin_convertvector((v == v ? rounded : quiet) >> 16, ShortVec);
  std::memcpy(p, &high, sizeof high);
}

// The first `count` lanes, 0 <= count < kLanes; the others are zero.
template <class T>
PPREPLK_INLINE Vec load_partial(const T* p, int count) {
  T values[kLanes] = {};
  std::memcpy(values, p, count * sizeof(T));
  return load(values);
}

template <class T>
PPREPLK_INLINE void store_partial(T* p, Vec v, int count) {
  T values[kLanes];
  store(values, v);
  std::memcpy(p, values, count * sizeof(T));
}

PPREPLK_INLINE Vec broadcast(float value) { return Vec{} + value; }

PPREPLK_INLINE float sum_of_lanes(Vec v) {
  float sum = 0.0f;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
}

// NaN stays NaN.
PPREPLK_INLINE Vec relu(Vec v) { return v < 0.0f ? Vec{} : v; }

// Exchanges, between a and b, the odd groups of Step lanes of a with the even groups of b.
template <int Step, int... Lane>
PPREPLK_INLINE void exchange_lanes(Vec& a, Vec& b, std::integer_sequence<int, Lane...>) {
#ifdef __clang__
  const Vec low = __builtin_shufflevector(a, b, (Lane / Step % 2 ? kLanes + Lane - Step : Lane)...);
  const Vec high = __builtin_shufflevector(a, b, (Lane / Step % 2 ? kLanes : Step) + Lane...);
#else
  const Vec low = __builtin_shuffle(a, b, IntVec{(Lane / Step % 2 ? kLanes + Lane - Step : Lane)...});
  const Vec high = __builtin_shuffle(a, b, IntVec{((Lane / Step % 2 ? kLanes : Step) + Lane)...});
#endif
  a = low;
  b = high;
}

// Transposes kLanes x kLanes: blocks of 1, then of 2, 4 ... lanes change places.
template <int Step = 1>
PPREPLK_INLINE void transpose(Vec* rows) {
  PPREPLK_UNROLL
  for (int i = 0; i < kLanes; ++i) {
    if (i / Step % 2 == 0) {
      exchange_lanes<Step>(rows[i], rows[i + Step], std::make_integer_sequence<int, kLanes>{});
    }
  }
  if constexpr (2 * Step < kLanes) transpose<2 * Step>(rows);
}
