// A weight as a checkpoint stores it (workers/checkpoints.py), in one pass over each group: scales
// that just cover the range, and codes rounded to nearest, ties to even, after a true division.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bf16.h"

namespace {

constexpr float kEpsilon = 0.0078125f; // of bf16: the scale of a group of zeros
constexpr int kZeroCode = 8;           // of 4 bits

// Largest magnitude, by the bits: NaN is above everything and so stays.
inline float largest_of(const float *values, int64_t count) {
  int32_t largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < count; ++i) {
    int32_t bits;
    std::memcpy(&bits, values + i, 4);
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  float found;
  std::memcpy(&found, &largest, 4);
  return found;
}

} // namespace

extern "C" {

// int8 codes (rows, columns) of `bits` bits, or, with 4 bits, two in a byte, the first in the lower
// half; bf16 scales (rows, groups).
void es_encode(uint8_t *codes, uint16_t *scales, const float *weight, int64_t rows,
               int64_t columns, int64_t groups, int64_t bits) {
  const int64_t width = columns / groups, code_bytes = bits == 8 ? columns : columns / 2;
  const float range = float((1 << bits) - 1) / 2, least = -float(1 << (bits - 1)),
              most = float((1 << (bits - 1)) - 1);
#pragma omp parallel
  {
    std::vector<int8_t> wide(bits == 8 ? 0 : size_t(columns));
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
      int8_t *out = bits == 8 ? reinterpret_cast<int8_t *>(codes + row * columns) : wide.data();
      for (int64_t g = 0; g < groups; ++g) {
        const float *from = weight + row * columns + g * width;
        int8_t *to = out + g * width;
        uint16_t stored = to_bf16(largest_of(from, width) / range);
        if (stored == 0) stored = to_bf16(kEpsilon);
        scales[row * groups + g] = stored;
        const float scale = from_bf16(stored);
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) {
          const float code = std::nearbyint(from[i] / scale);
          const float above = code > least ? code : least;
          to[i] = int8_t(int32_t(above < most ? above : most));
        }
      }
      if (bits == 8) continue;
      uint8_t *packed = codes + row * code_bytes;
      for (int64_t i = 0; i < code_bytes; ++i)
        packed[i] = uint8_t((out[2 * i] + kZeroCode) | (out[2 * i + 1] + kZeroCode) << 4);
    }
  }
}
}
