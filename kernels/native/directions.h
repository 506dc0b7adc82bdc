// Products with directions that all members share, for four rows at once: h = x V before a form's
// own small matrices, y += h U^T behind them, rounded once.

#pragma once

#include "bf16.h"

namespace {

constexpr int kRows = 4;       // rows that share each load of a direction
constexpr int kDirections = 4; // directions that share each load of a row (sum_each needs 4 x 4)
constexpr int kLanes = 16;     // outputs in one block of the packed left directions
constexpr int kMaxSlices = 8;
constexpr long kParallelRows = 8; // fewer rows are not worth waking threads for

struct Directions {
  const uint16_t *right; // [slices * rank][in_features]
  const uint16_t *left;  // packed by es_pack_left
  int64_t in_features, rank, num_slices;
  int64_t widths[kMaxSlices];
  int64_t count() const { return num_slices * rank; }
  int64_t halves() const { return (rank + 1) / 2; }
};

// Consecutive rows; what is left of the last four repeats the first one, unused.
struct RowBlock {
  const uint16_t *x[kRows];
  uint16_t *y[kRows];
  int32_t member[kRows];
  bool is_used[kRows], any = false;

  RowBlock(int64_t first, int64_t num_rows, uint16_t *y_rows, int64_t y_stride,
           const uint16_t *x_rows, int64_t x_stride, const int32_t *members) {
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = first + r < num_rows ? first + r : first;
      x[r] = x_rows + row * x_stride;
      y[r] = y_rows + row * y_stride;
      member[r] = members[row];
      is_used[r] = first + r < num_rows && member[r] >= 0;
      any = any || is_used[r];
    }
  }
};

#if HAS_BF16_DOT
// Sums of 16 vectors in 45 steps instead of 16 reductions; vector 4 l + b ends up at 4 b + l.
inline __m512 sum_each(const __m512 (&v)[kRows][kDirections]) {
  __m512 quarter[4];
  for (int i = 0; i < 4; ++i) {
    __m512 half[2];
    for (int j = 0; j < 2; ++j) {
      const __m512 a = v[i][2 * j], b = v[i][2 * j + 1];
      half[j] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
    }
    quarter[i] = _mm512_add_ps(_mm512_shuffle_f32x4(half[0], half[1], 0x88),
                               _mm512_shuffle_f32x4(half[0], half[1], 0xDD));
  }
  const __m512 low = _mm512_add_ps(_mm512_unpacklo_ps(quarter[0], quarter[1]),
                                   _mm512_unpackhi_ps(quarter[0], quarter[1]));
  const __m512 high = _mm512_add_ps(_mm512_unpacklo_ps(quarter[2], quarter[3]),
                                    _mm512_unpackhi_ps(quarter[2], quarter[3]));
  return _mm512_add_ps(_mm512_shuffle_ps(low, high, 0x44), _mm512_shuffle_ps(low, high, 0xEE));
}
#endif

// hidden[row][q] = x[row] . right[q] for all directions of all slices.
inline void project(float *hidden, const RowBlock &rows, const Directions &shared) {
  const int64_t in = shared.in_features, directions = shared.count();
#if HAS_BF16_DOT
  for (int64_t q = 0; q < directions; q += kDirections) {
    const int64_t here = directions - q < kDirections ? directions - q : kDirections;
    const uint16_t *right[kDirections];
    for (int d = 0; d < kDirections; ++d)
      right[d] = shared.right + (q + (d < here ? d : 0)) * in;
    __m512 sum[kRows][kDirections];
    for (int r = 0; r < kRows; ++r)
      for (int d = 0; d < kDirections; ++d) sum[r][d] = _mm512_setzero_ps();
    for (int64_t i = 0; i < in; i += 32) {
      const __mmask32 mask = in - i >= 32 ? ~__mmask32(0) : (__mmask32(1) << (in - i)) - 1;
      __m512bh x[kRows];
      for (int r = 0; r < kRows; ++r) x[r] = load_bf16(rows.x[r] + i, mask);
      for (int d = 0; d < kDirections; ++d) {
        const __m512bh direction = load_bf16(right[d] + i, mask);
        for (int r = 0; r < kRows; ++r) sum[r][d] = _mm512_dpbf16_ps(sum[r][d], x[r], direction);
      }
    }
    float sums[kRows * kDirections];
    _mm512_storeu_ps(sums, sum_each(sum));
    for (int r = 0; r < kRows; ++r)
      for (int d = 0; d < here; ++d) hidden[r * directions + q + d] = sums[kRows * d + r];
  }
#else
  for (int64_t q = 0; q < directions; ++q)
    for (int r = 0; r < kRows; ++r) {
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < in; ++i)
        sum += from_bf16(rows.x[r][i]) * from_bf16(shared.right[q * in + i]);
      hidden[r * directions + q] = sum;
    }
#endif
}

// What a form without noise on U adds beside h U^T.
struct NoNoise {
#if HAS_BF16_DOT
  void add_to(__m512 (&)[kRows][2], int64_t, int64_t, __mmask16, __mmask16) const {}
#else
  void add_to(float (&)[kLanes], int, int64_t, int64_t, int64_t) const {}
#endif
};

// y[row] += hidden[row] U^T + noise, slice by slice; rows without `is_used` are left alone.
template <class Noise>
void expand(RowBlock &rows, const float *hidden, const Directions &shared, const Noise &noise) {
  const int64_t rank = shared.rank, halves = shared.halves(), directions = shared.count();
  const uint16_t *left = shared.left;
  uint32_t halves_of_rows[kRows * halves]; // the hidden numbers as pairs of bf16
  int64_t start = 0;
  for (int64_t s = 0; s < shared.num_slices; ++s) {
    for (int r = 0; r < kRows; ++r)
      for (int64_t h = 0; h < halves; ++h) {
        const float *from = hidden + r * directions + s * rank + 2 * h;
        const uint32_t second = 2 * h + 1 < rank ? to_bf16(from[1]) : 0;
        halves_of_rows[r * halves + h] = to_bf16(from[0]) | second << 16;
      }
    const int64_t width = shared.widths[s];
#if HAS_BF16_DOT
    for (int64_t o = 0; o < width; o += 2 * kLanes) {
      const int64_t remaining = width - o;
      const __mmask16 low = remaining >= 16 ? 0xffff : (1u << remaining) - 1;
      const __mmask16 high = remaining >= 32 ? 0xffff : remaining <= 16 ? 0 : (1u << (remaining - 16)) - 1;
      const uint16_t *first = left + (o / kLanes) * halves * kLanes * 2;
      const uint16_t *second = high ? first + halves * kLanes * 2 : first;
      __m512 sum[kRows][2];
      for (int r = 0; r < kRows; ++r) {
        uint16_t *out = rows.y[r] + start + o;
        sum[r][0] = widen(_mm256_maskz_loadu_epi16(low, out));
        sum[r][1] = widen(_mm256_maskz_loadu_epi16(high, out + 16));
      }
      for (int64_t h = 0; h < halves; ++h) {
        const __m512bh u0 = (__m512bh)_mm512_loadu_si512(first + h * 32);
        const __m512bh u1 = (__m512bh)_mm512_loadu_si512(second + h * 32);
        for (int r = 0; r < kRows; ++r) {
          const __m512bh pair = (__m512bh)_mm512_set1_epi32(int(halves_of_rows[r * halves + h]));
          sum[r][0] = _mm512_dpbf16_ps(sum[r][0], u0, pair);
          sum[r][1] = _mm512_dpbf16_ps(sum[r][1], u1, pair);
        }
      }
      noise.add_to(sum, s, start + o, low, high);
      for (int r = 0; r < kRows; ++r) {
        if (!rows.is_used[r]) continue;
        uint16_t *out = rows.y[r] + start + o;
        _mm256_mask_storeu_epi16(out, low, narrow(sum[r][0]));
        _mm256_mask_storeu_epi16(out + 16, high, narrow(sum[r][1]));
      }
    }
#else
    for (int64_t o = 0; o < width; o += kLanes) {
      const int64_t here = width - o < kLanes ? width - o : kLanes;
      const uint16_t *block = left + (o / kLanes) * halves * kLanes * 2;
      for (int r = 0; r < kRows; ++r) {
        if (!rows.is_used[r]) continue;
        float sum[kLanes] = {0};
        for (int64_t h = 0; h < halves; ++h) {
          const float a = from_bf16(uint16_t(halves_of_rows[r * halves + h]));
          const float b = from_bf16(uint16_t(halves_of_rows[r * halves + h] >> 16));
          for (int l = 0; l < kLanes; ++l)
            sum[l] += a * from_bf16(block[h * 32 + 2 * l]) + b * from_bf16(block[h * 32 + 2 * l + 1]);
        }
        noise.add_to(sum, r, s, start + o, here);
        uint16_t *out = rows.y[r] + start + o;
        for (int64_t l = 0; l < here; ++l) out[l] = to_bf16(from_bf16(out[l]) + sum[l]);
      }
    }
#endif
    left += ((width + kLanes - 1) / kLanes) * halves * kLanes * 2;
    start += width;
  }
}

} // namespace
