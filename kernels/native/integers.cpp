// Integers on CPUs: the noise factors of kernels/matrix_noise.py, and the place of a row's largest
// bf16. Both are exact.

#include <cstdint>

namespace {

constexpr int kLanes = 16; // Philox blocks made at once

// Philox 4x32-10 (Salmon et al. 2011) on kLanes consecutive blocks at once.
void philox_blocks(uint32_t words[4][kLanes], uint32_t block, uint32_t c1, uint32_t c2,
                   uint32_t c3, uint32_t k0, uint32_t k1) {
  for (int l = 0; l < kLanes; ++l) {
    words[0][l] = block + uint32_t(l);
    words[1][l] = c1;
    words[2][l] = c2;
    words[3][l] = c3;
  }
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
    for (int l = 0; l < kLanes; ++l) {
      const uint64_t first = uint64_t(0xD2511F53u) * words[0][l];
      const uint64_t second = uint64_t(0xCD9E8D57u) * words[2][l];
      words[0][l] = uint32_t(second >> 32) ^ words[1][l] ^ k0;
      words[1][l] = uint32_t(second);
      words[2][l] = uint32_t(first >> 32) ^ words[3][l] ^ k1;
      words[3][l] = uint32_t(first);
    }
}

// bf16 bits as integers in the numbers' order; -0 equals +0.
inline int16_t ordered(uint16_t bits) {
  const uint16_t same = bits == 0x8000u ? 0 : bits;
  return int16_t(same ^ (uint16_t(int16_t(same) >> 15) & 0x7fffu));
}

} // namespace

extern "C" {

// First index of each row's largest bf16, as argmax of the same numbers in fp32; no NaN among them.
void es_argmax(int64_t *index, const uint16_t *values, int64_t num_rows, int64_t width,
               int64_t stride) {
#pragma omp parallel for schedule(static) if (num_rows > 1)
  for (int64_t row = 0; row < num_rows; ++row) {
    const uint16_t *from = values + row * stride;
    int16_t largest = INT16_MIN;
    for (int64_t i = 0; i < width; ++i) {
      const int16_t key = ordered(from[i]);
      largest = key > largest ? key : largest;
    }
    int64_t found = 0;
    while (ordered(from[found]) != largest) ++found;
    index[row] = found;
  }
}

// Columns [first, stop) of the (rank, width) factors of every pair; kind 0 binomial, 1 +-1.
void es_fill_noise(int8_t *out, const int64_t *pairs, int64_t num_pairs, int64_t rank,
                   int64_t width, int64_t first, int64_t stop, int64_t pair_stride,
                   int64_t rank_stride, uint32_t parameter_word, uint32_t generation, uint32_t k0,
                   uint32_t k1, int32_t kind) {
  const int64_t elements = kind == 0 ? 4 : 128; // of one Philox block
  const int64_t blocks = (width + elements - 1) / elements;
#pragma omp parallel for schedule(static) collapse(2)
  for (int64_t n = 0; n < num_pairs; ++n)
    for (int64_t k = 0; k < rank; ++k) {
      int8_t *row = out + n * pair_stride + k * rank_stride - first;
      for (int64_t block = first / elements; block * elements < stop; block += kLanes) {
        uint32_t words[4][kLanes];
        philox_blocks(words, uint32_t(k * blocks + block), parameter_word, uint32_t(pairs[n]),
                      generation, k0, k1);
        const int64_t begin = block * elements;
        const int64_t end = begin + kLanes * elements;
        for (int64_t i = begin > first ? begin : first; i < (end < stop ? end : stop); ++i) {
          const int64_t lane = (i - begin) / elements, within = (i - begin) % elements;
          const int64_t word = kind == 0 ? within : within / 32;
          const uint32_t bits = words[word][lane];
          row[i] = kind == 0 ? int8_t(__builtin_popcount(bits) - 16)
                             : int8_t(2 * int((bits >> (within % 32)) & 1u) - 1);
        }
      }
    }
}
}
