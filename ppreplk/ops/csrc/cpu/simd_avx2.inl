// SIMD primitives: 8 lanes, AVX2, FMA and F16C. Included inside a namespace.

constexpr int kLanes = 8;
constexpr int kRegisters = 16;

typedef float Vec __attribute__((vector_size(32)));
typedef float UnalignedVec __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(32)));
typedef uint32_t UintVec __attribute__((vector_size(32)));
typedef uint16_t ShortVec __attribute__((vector_size(16)));

PPREPLK_INLINE Vec load(const Half* p) {
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

PPREPLK_INLINE void store(Half* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}

PPREPLK_INLINE __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

PPREPLK_INLINE Vec load_partial(const float* p, int count) { return (Vec)_mm256_maskload_ps(p, first_lanes(count)); }

PPREPLK_INLINE void store_partial(float* p, Vec v, int count) { _mm256_maskstore_ps(p, first_lanes(count), (__m256)v); }
