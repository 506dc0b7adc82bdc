// Batched forwards of a population on CPUs, bf16 in and out, fp32 sums. Formulas, shapes and
// tolerances: kernels/shared_basis.py, kernels/core.py, kernels/low_rank.py.
//
// Plain C interface over pointers: nothing of Python's or torch's headers is needed, so it compiles
// in a second. Rows go to OpenMP threads of the runtime that torch has loaded. A row's result does
// not depend on the other rows or on the number of threads.

#include <cstdint>
#include <cstring>

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define HAS_BF16_DOT 1
#else
#define HAS_BF16_DOT 0
#endif

namespace {

constexpr int kRows = 4;       // rows that share each load of a direction
constexpr int kDirections = 4; // directions that share each load of a row (sum_each needs 4 x 4)
constexpr int kLanes = 16;     // outputs in one block of the packed left directions
constexpr int kMaxSlices = 8;
constexpr long kParallelRows = 8; // fewer rows are not worth waking threads for

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

// Bits of bf16(v) at index v mod 64, for -32 <= v < 32: turns 32 integers into bf16 in one step.
struct IntegerTable {
  uint16_t bits[64];
  IntegerTable() {
    for (int i = 0; i < 64; ++i) bits[i] = to_bf16(float(i < 32 ? i : i - 64));
  }
};
const IntegerTable kIntegers;
#endif

} // namespace

extern "C" {

struct SharedBasis {
  const uint16_t *right;   // [slices * rank][in_features]
  const uint16_t *left;    // packed by es_pack_left
  const float *core;       // [slices][rank][rank], or null
  const float *scale_a;    // [members + 1][slices][rank], or null
  const float *scale_b;    // likewise
  const int8_t *noise_left;  // [pairs][slices][noise_rank][rank], or null
  const int8_t *noise_right; // likewise
  const int32_t *pair;       // [members + 1]
  const float *coefficient;  // [members + 1][slices]
  int64_t in_features, rank, noise_rank, num_slices;
  int64_t widths[kMaxSlices];
};

struct LowRank {
  const int8_t *right;      // [pairs][slices][rank][in_features]
  const int8_t *left;       // [pairs][rank][out_features]
  const int32_t *pair;      // [members + 1]
  const float *coefficient; // [members + 1][slices]
  int64_t in_features, out_features, rank, num_slices;
  int64_t widths[kMaxSlices];
};

// Elements of the packed left directions: per slice ceil(width / 16) blocks of
// [ceil(rank / 2)][16 outputs][2 directions], zeros beyond the edges.
int64_t es_packed_size(const int64_t *widths, int64_t num_slices, int64_t rank) {
  int64_t blocks = 0;
  for (int64_t s = 0; s < num_slices; ++s) blocks += (widths[s] + kLanes - 1) / kLanes;
  return blocks * ((rank + 1) / 2) * kLanes * 2;
}

void es_pack_left(uint16_t *packed, const uint16_t *left, const int64_t *widths,
                  int64_t num_slices, int64_t rank) {
  const int64_t halves = (rank + 1) / 2;
  std::memset(packed, 0, es_packed_size(widths, num_slices, rank) * sizeof(uint16_t));
  for (int64_t s = 0; s < num_slices; ++s) {
    for (int64_t o = 0; o < widths[s]; ++o)
      for (int64_t r = 0; r < rank; ++r)
        packed[((o / kLanes) * halves + r / 2) * kLanes * 2 + (o % kLanes) * 2 + r % 2] =
            left[o * rank + r];
    packed += ((widths[s] + kLanes - 1) / kLanes) * halves * kLanes * 2;
    left += widths[s] * rank;
  }
}
}

namespace {

// hidden[row][q] = x[row] . right[q] for all directions of all slices.
void project(float *hidden, const uint16_t *const *x, const SharedBasis &layer) {
  const int64_t in = layer.in_features, directions = layer.num_slices * layer.rank;
#if HAS_BF16_DOT
  for (int64_t q = 0; q < directions; q += kDirections) {
    const int64_t here = directions - q < kDirections ? directions - q : kDirections;
    const uint16_t *right[kDirections];
    for (int d = 0; d < kDirections; ++d)
      right[d] = layer.right + (q + (d < here ? d : 0)) * in;
    __m512 sum[kRows][kDirections];
    for (int r = 0; r < kRows; ++r)
      for (int d = 0; d < kDirections; ++d) sum[r][d] = _mm512_setzero_ps();
    for (int64_t i = 0; i < in; i += 32) {
      const __mmask32 mask = in - i >= 32 ? ~__mmask32(0) : (__mmask32(1) << (in - i)) - 1;
      __m512bh rows[kRows];
      for (int r = 0; r < kRows; ++r) rows[r] = load_bf16(x[r] + i, mask);
      for (int d = 0; d < kDirections; ++d) {
        const __m512bh direction = load_bf16(right[d] + i, mask);
        for (int r = 0; r < kRows; ++r)
          sum[r][d] = _mm512_dpbf16_ps(sum[r][d], rows[r], direction);
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
        sum += from_bf16(x[r][i]) * from_bf16(layer.right[q * in + i]);
      hidden[r * directions + q] = sum;
    }
#endif
}

inline void times_core(float *out, const float *in, const float *core, int64_t rank) {
  for (int64_t j = 0; j < rank; ++j) out[j] = 0;
  for (int64_t r = 0; r < rank; ++r)
    for (int64_t j = 0; j < rank; ++j) out[j] += in[r] * core[r * rank + j];
}

// What the member does between the two shared products, on the hidden numbers of one row.
void apply_member(float *hidden, float *scratch, int32_t member, const SharedBasis &layer) {
  const int64_t rank = layer.rank, slices = layer.num_slices;
  for (int64_t s = 0; s < slices; ++s, hidden += rank) {
    const int64_t row = (int64_t(member) * slices + s) * rank;
    if (layer.scale_a != nullptr)
      for (int64_t r = 0; r < rank; ++r) hidden[r] *= layer.scale_a[row + r];
    if (layer.core == nullptr) continue;
    std::memcpy(scratch, hidden, rank * sizeof(float));
    times_core(hidden, scratch, layer.core + s * rank * rank, rank);
    if (layer.scale_b != nullptr)
      for (int64_t r = 0; r < rank; ++r) hidden[r] *= layer.scale_b[row + r];
    if (layer.noise_left == nullptr) continue;
    const int64_t noise =
        (int64_t(layer.pair[member]) * slices + s) * layer.noise_rank * rank;
    for (int64_t k = 0; k < layer.noise_rank; ++k) {
      const int8_t *right = layer.noise_right + noise + k * rank;
      const int8_t *left = layer.noise_left + noise + k * rank;
      float inner = 0;
      for (int64_t r = 0; r < rank; ++r) inner += scratch[r] * float(right[r]);
      inner *= layer.coefficient[int64_t(member) * slices + s];
      for (int64_t r = 0; r < rank; ++r) hidden[r] += inner * float(left[r]);
    }
  }
}

// y[row] += hidden[row] U^T, slice by slice; rows without `is_used` are left alone.
void expand(uint16_t *const *y, const float *hidden, uint32_t *halves_of_rows,
            const bool *is_used, const SharedBasis &layer) {
  const int64_t rank = layer.rank, halves = (rank + 1) / 2;
  const int64_t directions = layer.num_slices * rank;
  const uint16_t *left = layer.left;
  int64_t start = 0;
  for (int64_t s = 0; s < layer.num_slices; ++s) {
    for (int r = 0; r < kRows; ++r) // the hidden numbers as pairs of bf16
      for (int64_t h = 0; h < halves; ++h) {
        const float *from = hidden + r * directions + s * rank + 2 * h;
        const uint32_t second = 2 * h + 1 < rank ? to_bf16(from[1]) : 0;
        halves_of_rows[r * halves + h] = to_bf16(from[0]) | second << 16;
      }
    const int64_t width = layer.widths[s];
#if HAS_BF16_DOT
    for (int64_t o = 0; o < width; o += 2 * kLanes) {
      const int64_t remaining = width - o;
      const __mmask16 low = remaining >= 16 ? 0xffff : (1u << remaining) - 1;
      const __mmask16 high = remaining >= 32 ? 0xffff : remaining <= 16 ? 0 : (1u << (remaining - 16)) - 1;
      const uint16_t *first = left + (o / kLanes) * halves * kLanes * 2;
      const uint16_t *second = high ? first + halves * kLanes * 2 : first;
      __m512 sum[kRows][2];
      for (int r = 0; r < kRows; ++r) {
        uint16_t *out = y[r] + start + o;
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
      for (int r = 0; r < kRows; ++r) {
        if (!is_used[r]) continue;
        uint16_t *out = y[r] + start + o;
        _mm256_mask_storeu_epi16(out, low, narrow(sum[r][0]));
        _mm256_mask_storeu_epi16(out + 16, high, narrow(sum[r][1]));
      }
    }
#else
    for (int64_t o = 0; o < width; o += kLanes) {
      const int64_t here = width - o < kLanes ? width - o : kLanes;
      const uint16_t *block = left + (o / kLanes) * halves * kLanes * 2;
      for (int r = 0; r < kRows; ++r) {
        if (!is_used[r]) continue;
        float sum[kLanes] = {0};
        for (int64_t h = 0; h < halves; ++h) {
          const float a = from_bf16(uint16_t(halves_of_rows[r * halves + h]));
          const float b = from_bf16(uint16_t(halves_of_rows[r * halves + h] >> 16));
          for (int l = 0; l < kLanes; ++l)
            sum[l] += a * from_bf16(block[h * 32 + 2 * l]) + b * from_bf16(block[h * 32 + 2 * l + 1]);
        }
        uint16_t *out = y[r] + start + o;
        for (int64_t l = 0; l < here; ++l) out[l] = to_bf16(from_bf16(out[l]) + sum[l]);
      }
    }
#endif
    left += ((width + kLanes - 1) / kLanes) * halves * kLanes * 2;
    start += width;
  }
}

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

// y += sum_k inner[k] left[k]; left rows are `stride` apart.
inline void add_outer(uint16_t *y, const float *inner, const int8_t *left, int64_t rank,
                      int64_t stride, int64_t width) {
#if HAS_BF16_DOT
  for (int64_t o = 0; o < width; o += 16) {
    const __mmask16 mask = width - o >= 16 ? 0xffff : (1u << (width - o)) - 1;
    __m512 sum = widen(_mm256_maskz_loadu_epi16(mask, y + o));
    for (int64_t k = 0; k < rank; ++k) {
      const __m128i bytes = _mm_maskz_loadu_epi8(mask, left + k * stride + o);
      const __m512 values = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
      sum = _mm512_fmadd_ps(_mm512_set1_ps(inner[k]), values, sum);
    }
    _mm256_mask_storeu_epi16(y + o, mask, narrow(sum));
  }
#else
  for (int64_t o = 0; o < width; ++o) {
    float sum = from_bf16(y[o]);
    for (int64_t k = 0; k < rank; ++k) sum += inner[k] * float(left[k * stride + o]);
    y[o] = to_bf16(sum);
  }
#endif
}

} // namespace

extern "C" {

int es_has_bf16_dot() { return HAS_BF16_DOT; }

void es_add_shared_basis(const SharedBasis *layer, uint16_t *y, const uint16_t *x,
                         const int32_t *member, int64_t num_rows, int64_t y_stride,
                         int64_t x_stride) {
  const int64_t directions = layer->num_slices * layer->rank;
  const int64_t halves = (layer->rank + 1) / 2;
#pragma omp parallel for schedule(static) if (num_rows >= kParallelRows)
  for (int64_t first = 0; first < num_rows; first += kRows) {
    const uint16_t *rows_x[kRows];
    uint16_t *rows_y[kRows];
    bool is_used[kRows], any = false;
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = first + r < num_rows ? first + r : first;
      rows_x[r] = x + row * x_stride;
      rows_y[r] = y + row * y_stride;
      is_used[r] = first + r < num_rows && member[row] >= 0;
      any = any || is_used[r];
    }
    if (!any) continue;
    float hidden[kRows * directions], scratch[layer->rank];
    uint32_t halves_of_rows[kRows * halves];
    project(hidden, rows_x, *layer);
    for (int r = 0; r < kRows; ++r)
      if (is_used[r]) apply_member(hidden + r * directions, scratch, member[first + r], *layer);
    expand(rows_y, hidden, halves_of_rows, is_used, *layer);
  }
}

void es_add_low_rank(const LowRank *layer, uint16_t *y, const uint16_t *x, const int32_t *member,
                     int64_t num_rows, int64_t y_stride, int64_t x_stride) {
  const int64_t in = layer->in_features, out = layer->out_features;
  const int64_t rank = layer->rank, slices = layer->num_slices;
#pragma omp parallel for schedule(static) if (num_rows >= kParallelRows)
  for (int64_t row = 0; row < num_rows; ++row) {
    if (member[row] < 0) continue;
    const int64_t pair = layer->pair[member[row]];
    const uint16_t *from = x + row * x_stride;
    uint16_t *to = y + row * y_stride;
    const int8_t *left = layer->left + pair * rank * out;
    float inner[rank];
    for (int64_t s = 0; s < slices; ++s) {
      const float coefficient = layer->coefficient[int64_t(member[row]) * slices + s];
      const int8_t *right = layer->right + (pair * slices + s) * rank * in;
      for (int64_t k = 0; k < rank; ++k) inner[k] = coefficient * dot(from, right + k * in, in);
      add_outer(to, inner, left, rank, out, layer->widths[s]);
      to += layer->widths[s];
      left += layer->widths[s];
    }
  }
}
}
