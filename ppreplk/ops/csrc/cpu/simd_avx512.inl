// SIMD primitives: 16 lanes, AVX-512 F, BW, DQ and VL. Included inside a namespace.

constexpr int kLanes = 16;
constexpr int kRegisters = 32;

typedef float Vec __attribute__((vector_size(64)));
typedef float UnalignedVec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(64)));
typedef uint32_t UintVec __attribute__((vector_size(64)));
typedef uint16_t ShortVec __attribute__((vector_size(32)));

// The masked forms of the intrinsics, because GCC 12 warns about its own unmasked ones.
constexpr __mmask16 kAllLanes = 0xffff;

PPREPLK_INLINE Vec load(const Half* p) {
  return (Vec)_mm512_maskz_cvtph_ps(kAllLanes, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

PPREPLK_INLINE void store(Half* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtps_ph(kAllLanes, (__m512)v, _MM_FROUND_TO_NEAREST_INT));
}

PPREPLK_INLINE Vec load_partial(const float* p, int count) {
  return (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}

PPREPLK_INLINE void store_partial(float* p, Vec v, int count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), (__m512)v);
}
