// Sixteen float32 numbers at a time, with AVX-512. Included inside a namespace, where <immintrin.h>, gelu.h and
// PPREPLK_INLINE are known.

typedef __m512 Vec;
constexpr __mmask16 kAllLanes = 0xffff;  // GCC 12 warns about its own unmasked intrinsics

PPREPLK_INLINE Vec load(const float* from) { return _mm512_loadu_ps(from); }
PPREPLK_INLINE void store(float* to, Vec v) { _mm512_storeu_ps(to, v); }

// The second operand is the result if one of them is NaN.
PPREPLK_INLINE Vec relu(Vec v) { return _mm512_maskz_max_ps(kAllLanes, _mm512_setzero_ps(), v); }
PPREPLK_INLINE Vec relu6(Vec v) { return _mm512_maskz_min_ps(kAllLanes, _mm512_set1_ps(6.0f), relu(v)); }

PPREPLK_INLINE Vec gelu(Vec v, const GeluTable& table) {
  const __m512 size = _mm512_castsi512_ps(
      _mm512_maskz_and_epi32(kAllLanes, _mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff)));
  const __m512 place = _mm512_maskz_min_ps(kAllLanes, size * _mm512_set1_ps(GeluTable::kScale),
                                           _mm512_set1_ps(GeluTable::kPieces - 0.5f));
  const __m512i piece = _mm512_maskz_cvttps_epi32(kAllLanes, place);
  const __m512 s = place - _mm512_maskz_cvtepi32_ps(kAllLanes, piece) - _mm512_set1_ps(0.5f);
  const auto coefficient = [&](int power) {
    const float* values = table.coefficients[power];
    return _mm512_permutex2var_ps(_mm512_load_ps(values), piece, _mm512_load_ps(values + 16));
  };
  __m512 sum = coefficient(4);
  for (int power = 3; power >= 0; --power) sum = _mm512_fmadd_ps(sum, s, coefficient(power));
  return relu(v) - sum;
}
