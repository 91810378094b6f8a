// The lanes of ../avx512/float_lanes.inl as bfloat16, with AVX-512 BF16. Included inside a namespace, after that.

PPREPLK_INLINE Vec add(Vec a, Vec b) { return a + b; }
PPREPLK_INLINE Vec subtract(Vec a, Vec b) { return a - b; }

PPREPLK_INLINE Vec widened(const uint16_t* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAllLanes, _mm512_maskz_cvtepu16_epi32(kAllLanes, bits), 16));
}

PPREPLK_INLINE void store_narrow(uint16_t* to, Vec low, Vec high) {
  _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

// Two rows as bfloat16, their numbers in turn. Leaves in the rows what rounding took away.
PPREPLK_INLINE void store_in_turn(char* to, Vec& even, Vec& odd) {
  const __m512i order =
      _mm512_setr_epi32(0x100000, 0x110001, 0x120002, 0x130003, 0x140004, 0x150005, 0x160006, 0x170007, 0x180008,
                        0x190009, 0x1a000a, 0x1b000b, 0x1c000c, 0x1d000d, 0x1e000e, 0x1f000f);
  const __m512i pairs = _mm512_maskz_permutexvar_epi16(0xffffffff, order, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
  _mm512_storeu_si512(to, pairs);
  even = even - _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAllLanes, pairs, 16));
  odd = odd - _mm512_castsi512_ps(_mm512_maskz_and_epi32(kAllLanes, pairs, _mm512_set1_epi32(0xffff0000)));
}

// 16 lines of 16 numbers of 32 bits; a line begins `stride` bytes after the one before.
PPREPLK_INLINE void transpose(const char* from, int64_t from_stride, char* to, int64_t to_stride) {
  constexpr __mmask8 kHalf = 0xff;
  __m512i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(from + i * from_stride);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_maskz_unpacklo_epi32(kAllLanes, a[i], a[i + 1]);
    b[i + 1] = _mm512_maskz_unpackhi_epi32(kAllLanes, a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_maskz_unpacklo_epi64(kHalf, b[i], b[i + 2]);
    a[i + 1] = _mm512_maskz_unpackhi_epi64(kHalf, b[i], b[i + 2]);
    a[i + 2] = _mm512_maskz_unpacklo_epi64(kHalf, b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_maskz_unpackhi_epi64(kHalf, b[i + 1], b[i + 3]);
  }
  // Now a[4 * g + j] holds columns j, j + 4, j + 8 and j + 12 of lines 4 * g to 4 * g + 3.
  for (int j = 0; j < 4; ++j) {
    const __m512i even0 = _mm512_maskz_shuffle_i32x4(kAllLanes, a[j], a[j + 4], 0x88);
    const __m512i even1 = _mm512_maskz_shuffle_i32x4(kAllLanes, a[j + 8], a[j + 12], 0x88);
    const __m512i odd0 = _mm512_maskz_shuffle_i32x4(kAllLanes, a[j], a[j + 4], 0xdd);
    const __m512i odd1 = _mm512_maskz_shuffle_i32x4(kAllLanes, a[j + 8], a[j + 12], 0xdd);
    b[j] = _mm512_maskz_shuffle_i32x4(kAllLanes, even0, even1, 0x88);
    b[j + 4] = _mm512_maskz_shuffle_i32x4(kAllLanes, odd0, odd1, 0x88);
    b[j + 8] = _mm512_maskz_shuffle_i32x4(kAllLanes, even0, even1, 0xdd);
    b[j + 12] = _mm512_maskz_shuffle_i32x4(kAllLanes, odd0, odd1, 0xdd);
  }
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * to_stride, b[i]);
}
