// SPDX-License-Identifier: Apache-2.0
// One look at every number of a batch: what the checks of values need, and no BLAS, whose threads
// would spin on the cores that the pool is about to use.
#include <algorithm>
#include <vector>

#include "engine.hpp"
#include "pool.hpp"

namespace qdp {
namespace {

// A row is summed in blocks of this many numbers, so that long rows have parts for all threads and
// the sum of a row depends on nothing but the row.
constexpr int64_t kBlock = 1 << 15;
// Numbers that are worth a part of their own.
constexpr int64_t kPart = 1 << 16;
// About what a thread needs for a number.
constexpr double kNumberNanoseconds = 0.25;

template <class S>
double sum_of_squares(const S* in, int64_t n) {
  constexpr int kSums = 16;
  double sums[kSums] = {};
  int64_t k = 0;
  for (; k + kSums <= n; k += kSums)
    for (int j = 0; j < kSums; ++j) sums[j] += double(in[k + j]) * double(in[k + j]);
  double total = 0;
  for (; k < n; ++k) total += double(in[k]) * double(in[k]);
  for (double sum : sums) total += sum;
  return total;
}

template <class S>
void sums_of_squares(const S* in, int64_t rows, int64_t numbers, double* sums) {
  const int64_t blocks = (numbers + kBlock - 1) / kBlock;
  const int64_t units = rows * blocks;
  const int64_t per_part = std::max<int64_t>(1, kPart / std::min(numbers, kBlock));
  std::vector<double> partial;
  if (blocks > 1) partial.resize(size_t(units));
  double* out = blocks > 1 ? partial.data() : sums;
  const int threads = threads_for(kNumberNanoseconds * double(rows) * double(numbers));
  run_parts(int((units + per_part - 1) / per_part), threads, [&](int part, int) {
    const int64_t last = std::min(units, (part + 1) * per_part);
    for (int64_t unit = part * per_part; unit < last; ++unit) {
      const int64_t row = unit / blocks, start = unit % blocks * kBlock;
      out[unit] = sum_of_squares(in + row * numbers + start, std::min(kBlock, numbers - start));
    }
  });
  if (blocks == 1) return;
  for (int64_t row = 0; row < rows; ++row) {
    sums[row] = 0;
    for (int64_t block = 0; block < blocks; ++block) sums[row] += partial[row * blocks + block];
  }
}

}  // namespace

void row_sums_of_squares(const void* array, Element element, int64_t rows, int64_t columns,
                         double* sums) {
  const bool complex_ = element == Element::complex64 || element == Element::complex128;
  const bool wide = element == Element::float64 || element == Element::complex128;
  const int64_t numbers = columns * (complex_ ? 2 : 1);
  if (rows == 0 || numbers == 0) {
    std::fill(sums, sums + rows, 0.0);
  } else if (wide) {
    sums_of_squares(static_cast<const double*>(array), rows, numbers, sums);
  } else {
    sums_of_squares(static_cast<const float*>(array), rows, numbers, sums);
  }
}

}  // namespace qdp
