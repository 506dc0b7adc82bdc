// Batched forward of a perturbed LoRA on CPUs (formula, shapes, tolerance: kernels/lora.py): the
// shared products with the mean's factors, each with a member's own low-rank noise beside it.
// Interface and threads as in population.cpp.

#include "directions.h"

extern "C" {

struct Lora {
  Directions mean;          // right: A of every slice; left: B
  const int8_t *down_left;  // noise of A: [pairs][slices][noise_rank][rank]
  const int8_t *down_right; // [pairs][slices][noise_rank][in_features]
  const int8_t *up_left;    // noise of B: [pairs][noise_rank][out_features]
  const int8_t *up_right;   // [pairs][slices][noise_rank][rank]
  const int32_t *pair;      // [members + 1]
  const float *coefficient; // [members + 1][slices][A, B]
  int64_t out_features, noise_rank;
};
}

namespace {

// One row between the shared products: hidden += cA aA (bA . x), inner = cB (bB . hidden).
void apply_member(float *hidden, float *inner, const uint16_t *x, int32_t member,
                  const Lora &layer) {
  const int64_t in = layer.mean.in_features, rank = layer.mean.rank;
  const int64_t slices = layer.mean.num_slices, noise_rank = layer.noise_rank;
  const float *coefficient = layer.coefficient + int64_t(member) * slices * 2;
  int64_t factor = int64_t(layer.pair[member]) * slices * noise_rank;
  for (int64_t s = 0; s < slices; ++s, hidden += rank, inner += noise_rank, coefficient += 2) {
    for (int64_t k = 0; k < noise_rank; ++k) {
      const int8_t *left = layer.down_left + (factor + k) * rank;
      const float size = coefficient[0] * dot(x, layer.down_right + (factor + k) * in, in);
      for (int64_t r = 0; r < rank; ++r) hidden[r] += size * float(left[r]);
    }
    for (int64_t k = 0; k < noise_rank; ++k) {
      const int8_t *right = layer.up_right + (factor + k) * rank;
      float sum = 0;
      for (int64_t r = 0; r < rank; ++r) sum += hidden[r] * float(right[r]);
      inner[k] = coefficient[1] * sum;
    }
    factor += noise_rank;
  }
}

// The noise of B: adds sum_k inner[k] aB[k] of each row's pair.
struct UpNoise {
  const int8_t *left[kRows];
  const float *inner; // [rows][slices][noise_rank]
  int64_t num_slices, noise_rank, out_features;

#if HAS_BF16_DOT
  void add_to(__m512 (&sum)[kRows][2], int64_t slice, int64_t column, __mmask16 low,
              __mmask16 high) const {
    for (int64_t k = 0; k < noise_rank; ++k)
      for (int r = 0; r < kRows; ++r) {
        const int8_t *from = left[r] + k * out_features + column;
        const __m512 size = _mm512_set1_ps(inner[(r * num_slices + slice) * noise_rank + k]);
        sum[r][0] = _mm512_fmadd_ps(size, load_integers(from, low), sum[r][0]);
        sum[r][1] = _mm512_fmadd_ps(size, load_integers(from + kLanes, high), sum[r][1]);
      }
  }
#else
  void add_to(float (&sum)[kLanes], int row, int64_t slice, int64_t column, int64_t here) const {
    for (int64_t k = 0; k < noise_rank; ++k) {
      const int8_t *from = left[row] + k * out_features + column;
      const float size = inner[(row * num_slices + slice) * noise_rank + k];
      for (int64_t l = 0; l < here; ++l) sum[l] += size * float(from[l]);
    }
  }
#endif
};

} // namespace

extern "C" void es_add_lora(const Lora *layer, uint16_t *y, const uint16_t *x,
                            const int32_t *member, int64_t num_rows, int64_t y_stride,
                            int64_t x_stride) {
  const Directions &mean = layer->mean;
  const int64_t inner_of_row = mean.num_slices * layer->noise_rank;
#pragma omp parallel for schedule(static) if (num_rows >= kParallelRows)
  for (int64_t first = 0; first < num_rows; first += kRows) {
    RowBlock rows(first, num_rows, y, y_stride, x, x_stride, member);
    if (!rows.any) continue;
    float hidden[kRows * mean.count()], inner[kRows * inner_of_row];
    UpNoise noise{{}, inner, mean.num_slices, layer->noise_rank, layer->out_features};
    project(hidden, rows, mean);
    for (int r = 0; r < kRows; ++r) {
      // The vectors of a row that is not used are computed, too; only its store is left out.
      const int64_t pair = rows.is_used[r] ? layer->pair[rows.member[r]] : 0;
      noise.left[r] = layer->up_left + pair * layer->noise_rank * layer->out_features;
      if (rows.is_used[r])
        apply_member(hidden + r * mean.count(), inner + r * inner_of_row, rows.x[r],
                     rows.member[r], *layer);
      else
        std::memset(inner + r * inner_of_row, 0, inner_of_row * sizeof(float));
    }
    expand(rows, hidden, mean, noise);
  }
}
