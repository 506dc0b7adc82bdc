// Batched forwards of a population on CPUs, bf16 in and out, fp32 sums: scaled bases, cores and
// low-rank noise. Formulas, shapes and tolerances: kernels/shared_basis.py, kernels/core.py,
// kernels/low_rank.py.
//
// Plain C interface over pointers: nothing of Python's or torch's headers is needed, so it compiles
// in a second. Rows go to OpenMP threads of the runtime that torch has loaded. A row's result does
// not depend on the other rows or on the number of threads.

#include "directions.h"

extern "C" {

struct SharedBasis {
  Directions shared;
  const float *core;       // [slices][rank][rank], or null
  const float *scale_a;    // [members + 1][slices][rank], or null
  const float *scale_b;    // likewise
  const int8_t *noise_left;  // [pairs][slices][noise_rank][rank], or null
  const int8_t *noise_right; // likewise
  const int32_t *pair;       // [members + 1]
  const float *coefficient;  // [members + 1][slices]
  int64_t noise_rank;
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

inline void times_core(float *out, const float *in, const float *core, int64_t rank) {
  for (int64_t j = 0; j < rank; ++j) out[j] = 0;
  for (int64_t r = 0; r < rank; ++r)
    for (int64_t j = 0; j < rank; ++j) out[j] += in[r] * core[r * rank + j];
}

// What the member does between the two shared products, on the hidden numbers of one row.
void apply_member(float *hidden, float *scratch, int32_t member, const SharedBasis &layer) {
  const int64_t rank = layer.shared.rank, slices = layer.shared.num_slices;
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

// y += sum_k inner[k] left[k]; left rows are `stride` apart.
inline void add_outer(uint16_t *y, const float *inner, const int8_t *left, int64_t rank,
                      int64_t stride, int64_t width) {
#if HAS_BF16_DOT
  for (int64_t o = 0; o < width; o += 16) {
    const __mmask16 mask = width - o >= 16 ? 0xffff : (1u << (width - o)) - 1;
    __m512 sum = widen(_mm256_maskz_loadu_epi16(mask, y + o));
    for (int64_t k = 0; k < rank; ++k) {
      const __m512 values = load_integers(left + k * stride + o, mask);
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
  const Directions &shared = layer->shared;
#pragma omp parallel for schedule(static) if (num_rows >= kParallelRows)
  for (int64_t first = 0; first < num_rows; first += kRows) {
    RowBlock rows(first, num_rows, y, y_stride, x, x_stride, member);
    if (!rows.any) continue;
    float hidden[kRows * shared.count()], scratch[shared.rank];
    project(hidden, rows, shared);
    for (int r = 0; r < kRows; ++r)
      if (rows.is_used[r]) apply_member(hidden + r * shared.count(), scratch, rows.member[r], *layer);
    expand(rows, hidden, shared, NoNoise());
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
