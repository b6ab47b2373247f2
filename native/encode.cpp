// SPDX-License-Identifier: Apache-2.0
// Amplitude encoding of whole rows into memory.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine.hpp"
#include "pool.hpp"

namespace qdp {
namespace {

template <class T, class S>
void encode_row(const S* in, bool complex_, int64_t columns, int64_t size, bool normalize, T* out) {
  const int64_t n = complex_ ? 2 * columns : columns;
  double factor = 1, before = 1;
  if (normalize) {
    double sum = 0;
    for (int64_t k = 0; k < n; ++k) sum += double(in[k]) * double(in[k]);
    if (!(sum > 1e-280 && sum < 1e280)) {  // squares out of range: scale by a power of two first
      double largest = 0;
      for (int64_t k = 0; k < n; ++k) largest = std::max(largest, std::abs(double(in[k])));
      int exponent;
      std::frexp(largest, &exponent);
      before = std::ldexp(1.0, -std::clamp(exponent, -1000, 1000));
      sum = 0;
      for (int64_t k = 0; k < n; ++k) {
        const double x = double(in[k]) * before;
        sum += x * x;
      }
    }
    factor = 1 / std::sqrt(sum);
  }
  if (complex_) {
    for (int64_t k = 0; k < n; ++k) out[k] = T(double(in[k]) * before * factor);
  } else {
    for (int64_t k = 0; k < n; ++k) {
      out[2 * k] = T(double(in[k]) * before * factor);
      out[2 * k + 1] = 0;
    }
  }
  std::memset(out + 2 * columns, 0, size_t(2 * (size - columns)) * sizeof(T));
}

}  // namespace

template <class T>
void encode_amplitude(const void* features, Element element, int64_t rows, int64_t columns,
                      int n_qubits, bool normalize, T* states) {
  const int64_t size = int64_t(1) << n_qubits;
  const bool complex_ = element == Element::complex64 || element == Element::complex128;
  const bool wide = element == Element::float64 || element == Element::complex128;
  const int64_t numbers = columns * (complex_ ? 2 : 1);
  const int64_t chunk = std::max<int64_t>(1, (int64_t(1) << 16) / size);
  run_parts(int((rows + chunk - 1) / chunk), thread_count(), [&](int part, int) {
    for (int64_t row = part * chunk; row < std::min(rows, (part + 1) * chunk); ++row) {
      T* out = states + row * 2 * size;
      if (wide) {
        encode_row(static_cast<const double*>(features) + row * numbers, complex_, columns, size,
                   normalize, out);
      } else {
        encode_row(static_cast<const float*>(features) + row * numbers, complex_, columns, size,
                   normalize, out);
      }
    }
  });
}
template void encode_amplitude(const void*, Element, int64_t, int64_t, int, bool, float*);
template void encode_amplitude(const void*, Element, int64_t, int64_t, int, bool, double*);

}  // namespace qdp
