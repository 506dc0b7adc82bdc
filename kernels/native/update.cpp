// The update of kernels/descent.py in one pass over a weight: the sum over pairs, torch.optim.SGD's
// step and its addition to the fp32 weight, in the order in which torch rounds. Compiled without
// contraction, which would leave roundings out; the sum is of integers, exact in any form.

#include <cmath>
#include <cstdint>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t kRows = 8;     // rows that share each load of a right factor
constexpr int64_t kColumns = 16; // of one block of the packed right factors

// float64 in blocks of columns, [block][factor][column], the last one filled up with zeros.
void pack_right(double *packed, const int8_t *right, int64_t factors, int64_t columns) {
  const int64_t blocks = (columns + kColumns - 1) / kColumns;
#pragma omp parallel for schedule(static)
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t f = 0; f < factors; ++f)
      for (int64_t c = 0; c < kColumns; ++c) {
        const int64_t column = b * kColumns + c;
        packed[(b * factors + f) * kColumns + c] =
            column < columns ? double(right[f * columns + column]) : 0.0;
      }
}

// total[row][column] += sum_f weighted[f][row] * right[f][column] for a block of columns.
inline void sum_block(double *total, int64_t stride, const double *weighted, const double *right,
                      int64_t factors) {
#if defined(__AVX512F__)
  __m512d sum[kRows][2];
  for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_pd();
  for (int64_t f = 0; f < factors; ++f, weighted += kRows, right += kColumns) {
    const __m512d low = _mm512_loadu_pd(right), high = _mm512_loadu_pd(right + 8);
    for (int r = 0; r < kRows; ++r) {
      const __m512d weight = _mm512_set1_pd(weighted[r]);
      sum[r][0] = _mm512_fmadd_pd(weight, low, sum[r][0]);
      sum[r][1] = _mm512_fmadd_pd(weight, high, sum[r][1]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    _mm512_storeu_pd(total + r * stride, sum[r][0]);
    _mm512_storeu_pd(total + r * stride + 8, sum[r][1]);
  }
#else
  for (int r = 0; r < kRows; ++r) {
    double sum[kColumns] = {};
    for (int64_t f = 0; f < factors; ++f)
      for (int c = 0; c < kColumns; ++c) sum[c] += weighted[f * kRows + r] * right[f * kColumns + c];
    for (int c = 0; c < kColumns; ++c) total[r * stride + c] = sum[c];
  }
#endif
}

struct Step {
  double grid;                    // what brings the sum of integers to the gradient
  float decay, rate, scale, unit; // of the momentum; minus the learning rate; of step and weight
};

enum class Momentum { kNone, kFirst, kLater };

// One row; returns the sum of squares of the scaled step.
template <Momentum kind>
double step_row(float *weight, float *momentum, const double *total, int64_t columns,
                const Step &step) {
  double square = 0;
#pragma omp simd reduction(+ : square)
  for (int64_t c = 0; c < columns; ++c) {
    float gradient = float(-(total[c] * step.grid));
    if (kind == Momentum::kLater) gradient = momentum[c] * step.decay + gradient;
    if (kind != Momentum::kNone) momentum[c] = gradient;
    const float taken = (gradient * step.rate + 0.0f) * step.scale; // torch's step starts at +0
    square += double(taken) * double(taken);
    weight[c] += taken * step.unit;
  }
  return square;
}

} // namespace

extern "C" {

// Moves `weight` (rows, columns) and `momentum` (the same, or null) and returns the sum of squares
// of the scaled step, added up row by row. Factors are (pairs * rank, rows or columns).
double es_descend(float *weight, float *momentum, const int8_t *left, const int8_t *right,
                  const double *integers, int64_t num_pairs, int64_t rank, int64_t rows,
                  int64_t columns, double grid, int32_t is_first, float decay, float rate,
                  float scale, float unit) {
  const int64_t factors = num_pairs * rank, blocks = (columns + kColumns - 1) / kColumns;
  const int64_t stride = blocks * kColumns;
  const Step step{grid, decay, rate, scale, unit};
  std::vector<double> packed(stride * factors), squares(rows);
  pack_right(packed.data(), right, factors, columns);
#pragma omp parallel
  {
    std::vector<double> total(kRows * stride), weighted(kRows * factors);
#pragma omp for schedule(static)
    for (int64_t first = 0; first < rows; first += kRows) {
      const int64_t here = rows - first < kRows ? rows - first : kRows;
      for (int64_t f = 0; f < factors; ++f)
        for (int64_t r = 0; r < kRows; ++r)
          weighted[f * kRows + r] =
              r < here ? integers[f / rank] * double(left[f * rows + first + r]) : 0.0;
      for (int64_t b = 0; b < blocks; ++b)
        sum_block(total.data() + b * kColumns, stride, weighted.data(),
                  packed.data() + b * factors * kColumns, factors);
      for (int64_t r = 0; r < here; ++r) {
        const int64_t at = (first + r) * columns;
        const double *row = total.data() + r * stride;
        squares[first + r] =
            !momentum ? step_row<Momentum::kNone>(weight + at, nullptr, row, columns, step)
            : is_first
                ? step_row<Momentum::kFirst>(weight + at, momentum + at, row, columns, step)
                : step_row<Momentum::kLater>(weight + at, momentum + at, row, columns, step);
      }
    }
  }
  double square = 0;
  for (const double one : squares) square += one;
  return square;
}
}
