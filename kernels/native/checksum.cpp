// Checksums of the rows of a weight for kernels/checksums.py: sums of products modulo 2^64.

#include <cstdint>

extern "C" {

// sums[row] = sum_c bits[row][c] * keys[c], bits zero-extended from 32.
void es_row_checksums(uint64_t *sums, const uint32_t *bits, const uint64_t *keys, int64_t rows,
                      int64_t columns) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    const uint32_t *from = bits + row * columns;
    uint64_t sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < columns; ++c) sum += uint64_t(from[c]) * keys[c];
    sums[row] = sum;
  }
}
}
