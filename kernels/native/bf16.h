// bf16 numbers and small integers as the forwards multiply them: one vector at a time with AVX-512
// BF16, plain loops elsewhere. Sums are fp32.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define HAS_BF16_DOT 1
#else
#define HAS_BF16_DOT 0
#endif

namespace {

inline float from_bf16(uint16_t bits) {
  uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

inline uint16_t to_bf16(float value) { // nearest even, as torch rounds
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40u);
  return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#if HAS_BF16_DOT
inline __m512 widen(__m256i bf16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
}

inline __m256i narrow(__m512 fp32) { return (__m256i)_mm512_cvtneps_pbh(fp32); }

inline __m512bh load_bf16(const uint16_t *from, __mmask32 mask) {
  return (__m512bh)_mm512_maskz_loadu_epi16(mask, from);
}

inline __m512 load_integers(const int8_t *from, __mmask16 mask) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, from)));
}

// Bits of bf16(v) at index v mod 64, for -32 <= v < 32: turns 32 integers into bf16 in one step.
struct IntegerTable {
  uint16_t bits[64];
  IntegerTable() {
    for (int i = 0; i < 64; ++i) bits[i] = to_bf16(float(i < 32 ? i : i - 64));
  }
};
const IntegerTable kIntegers;
#endif

// x . right, with integers in [-32, 31].
inline float dot(const uint16_t *x, const int8_t *right, int64_t in) {
#if HAS_BF16_DOT
  const __m512i low = _mm512_loadu_si512(kIntegers.bits);
  const __m512i high = _mm512_loadu_si512(kIntegers.bits + 32);
  __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  int part = 0;
  for (int64_t i = 0; i < in; i += 32, part ^= 1) {
    const __mmask32 mask = in - i >= 32 ? ~__mmask32(0) : (__mmask32(1) << (in - i)) - 1;
    const __m512i index = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, right + i));
    const __m512bh integers = (__m512bh)_mm512_permutex2var_epi16(low, index, high);
    sum[part] = _mm512_dpbf16_ps(sum[part], load_bf16(x + i, mask), integers);
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
#else
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < in; ++i) sum += from_bf16(x[i]) * float(right[i]);
  return sum;
#endif
}

} // namespace
