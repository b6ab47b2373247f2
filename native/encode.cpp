// SPDX-License-Identifier: Apache-2.0
// Encoding of whole rows into memory: each row is worked out in the cache and written once.
//
// Letters: T what states are made of, n = 2^n_qubits amplitudes are `size`, L the low qubits of a
// product (the last ones), H the high ones.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <complex>
#include <cstring>
#include <memory>
#include <vector>

#include "encode.hpp"
#include "engine.hpp"
#include "isa.hpp"
#include "pool.hpp"
#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace qdp {
namespace {

using Complex = std::complex<double>;

// Numbers of a segment that is worked out in the first-level cache before it is written.
constexpr int64_t kSegment = 1024;
// Output beyond this many bytes doesn't stay in the caches: written past them, which saves reading
// every line before it is overwritten.
constexpr int64_t kPastCaches = int64_t(1) << 23;
// About what a thread needs for a byte of the states.
constexpr double kByteNanoseconds = 0.05;

template <class T>
int threads_for_states(int64_t rows, int64_t size) {
  return threads_for(kByteNanoseconds * double(rows) * double(size) * 2 * sizeof(T));
}

void write_past_caches(const void* source, void* target, int64_t bytes) {
#ifdef __SSE2__
  if (reinterpret_cast<uintptr_t>(target) % 16 == 0) {
    const char* from = static_cast<const char*>(source);
    char* to = static_cast<char*>(target);
    int64_t i = 0;
    for (; i + 16 <= bytes; i += 16) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
    }
    std::memcpy(to + i, from + i, size_t(bytes - i));
    return;
  }
#endif
  std::memcpy(target, source, size_t(bytes));
}

void finish_writing() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

// Calls encode(row, worker, out, stream) for all rows, worker < threads; `stream` says how to write.
// The caller has read the number of threads, once: it may be changed while this runs.
template <class T, class Encode>
void for_rows(int threads, int64_t rows, int64_t size, T* states, const Encode& encode) {
  const int64_t chunk = std::max<int64_t>(1, (int64_t(1) << 16) / size);
  const bool stream = rows * size * 2 * int64_t(sizeof(T)) > kPastCaches;
  run_parts(int((rows + chunk - 1) / chunk), threads, [&](int part, int worker) {
    for (int64_t row = part * chunk; row < std::min(rows, (part + 1) * chunk); ++row)
      encode(row, worker, states + row * 2 * size, stream);
    if (stream) finish_writing();
  });
}

// Writes n numbers at `out` through make(begin, count, target), a segment at a time.
template <class T, class Make>
void write_segments(int64_t n, bool stream, T* out, const Make& make) {
  if (!stream) return make(0, n, out);
  alignas(64) T segment[kSegment];
  for (int64_t i = 0; i < n; i += kSegment) {
    const int64_t count = std::min(kSegment, n - i);
    make(i, count, segment);
    write_past_caches(segment, out + i, count * int64_t(sizeof(T)));
  }
}

// The factors that make a row normal: two, since one alone might overflow. False: there are none.
template <class S>
bool row_scale(const S* in, int64_t n, double* factor, double* before) {
  double sum = isa().template kernels<S>().tables[0].squares(in, n);
  *before = 1;
  if (!(sum > 1e-280 && sum < 1e280)) {  // squares out of range: scale by a power of two first
    double largest = 0;
    for (int64_t k = 0; k < n; ++k) {
      if (!std::isfinite(in[k])) return false;
      largest = std::max(largest, std::abs(double(in[k])));
    }
    if (largest == 0) return false;
    int exponent;
    std::frexp(largest, &exponent);
    *before = std::ldexp(1.0, -std::clamp(exponent, -1000, 1000));
    sum = 0;
    for (int64_t k = 0; k < n; ++k) {
      const double x = double(in[k]) * *before;
      sum += x * x;
    }
  }
  *factor = 1 / std::sqrt(sum);
  return true;
}

template <class T, class S>
bool encode_row(const S* in, bool complex_, int64_t columns, int64_t size, bool normalize,
                double tolerance, bool stream, T* out) {
  const int64_t n = complex_ ? 2 * columns : columns;
  double factor = 1, before = 1;
  if (normalize) {
    if (!row_scale(in, n, &factor, &before)) return false;
  } else {
    const double sum = isa().template kernels<S>().tables[0].squares(in, n);
    if (!(std::abs(std::sqrt(sum) - 1) < tolerance)) return false;
  }
  write_segments(2 * columns, stream, out, [&](int64_t begin, int64_t count, T* target) {
    if (before != 1) {
      for (int64_t k = 0; k < count; ++k) {
        const int64_t place = begin + k;
        const bool zero = !complex_ && place % 2;
        target[k] = zero ? T(0) : T(double(in[complex_ ? place : place / 2]) * before * factor);
      }
    } else if (complex_) {
      for (int64_t k = 0; k < count; ++k) target[k] = T(double(in[begin + k]) * factor);
    } else {
      const S* from = in + begin / 2;
      for (int64_t k = 0; k < count / 2; ++k) {
        target[2 * k] = T(double(from[k]) * factor);
        target[2 * k + 1] = 0;
      }
    }
  });
  std::memset(out + 2 * columns, 0, size_t(2 * (size - columns)) * sizeof(T));
  return true;
}

// The product of n_qubits factors [n_qubits][2], 2^n_qubits numbers, by doubling from the last on.
void product_table(const Complex* factors, int n_qubits, Complex* table) {
  table[0] = 1;
  int64_t m = 1;
  for (int q = n_qubits - 1; q >= 0; --q, m *= 2) {
    const Complex zero = factors[2 * q], one = factors[2 * q + 1];
    for (int64_t i = 0; i < m; ++i) {
      const double re = table[i].real(), im = table[i].imag();
      table[m + i] = {re * one.real() - im * one.imag(), re * one.imag() + im * one.real()};
      table[i] = {re * zero.real() - im * zero.imag(), re * zero.imag() + im * zero.real()};
    }
  }
}

}  // namespace

template <class T>
int64_t encode_amplitude(const void* features, Element element, int64_t rows, int64_t columns,
                         int n_qubits, bool normalize, double tolerance, T* states) {
  const int64_t size = int64_t(1) << n_qubits;
  const bool complex_ = element == Element::complex64 || element == Element::complex128;
  const bool wide = element == Element::float64 || element == Element::complex128;
  const int64_t numbers = columns * (complex_ ? 2 : 1);
  std::atomic<int64_t> first_bad{rows};
  for_rows(threads_for_states<T>(rows, size), rows, size, states,
           [&](int64_t row, int, T* out, bool stream) {
    const bool good =
        wide ? encode_row(static_cast<const double*>(features) + row * numbers, complex_, columns,
                          size, normalize, tolerance, stream, out)
             : encode_row(static_cast<const float*>(features) + row * numbers, complex_, columns,
                          size, normalize, tolerance, stream, out);
    if (good) return;
    int64_t known = first_bad;
    while (row < known && !first_bad.compare_exchange_weak(known, row)) {
    }
  });
  return first_bad == rows ? -1 : int64_t(first_bad);
}

template <class T>
ProductEncoder<T>::ProductEncoder(int n_qubits)
    : n_low_(std::min(n_qubits, 8)), n_high_(n_qubits - n_low_), low_(size_t(1) << n_low_),
      high_(size_t(1) << n_high_), plain_(2 * low_.size()), turned_(2 * low_.size()) {}

template <class T>
void ProductEncoder<T>::write(const double* factors, bool stream, T* out) {
  const auto combine = isa().kernels<T>().tables[0].combine;
  const Complex* own = reinterpret_cast<const Complex*>(factors);
  product_table(own + 2 * n_high_, n_low_, low_.data());
  product_table(own, n_high_, high_.data());
  const int64_t low = int64_t(low_.size()), high = int64_t(high_.size());
  for (int64_t i = 0; i < low; ++i) {
    plain_[2 * i] = turned_[2 * i + 1] = T(low_[i].real());
    plain_[2 * i + 1] = T(low_[i].imag());
    turned_[2 * i] = -plain_[2 * i + 1];
  }
  for (int64_t h = 0; h < high; ++h) {
    const T re = T(high_[h].real()), im = T(high_[h].imag());
    write_segments(2 * low, stream, out + h * 2 * low,
                   [&](int64_t begin, int64_t count, T* target) {
                     combine(plain_.data() + begin, turned_.data() + begin, re, im, count, target);
                   });
  }
}

template <class T>
void encode_product(const double* factors, int64_t rows, int n_qubits, T* states) {
  const int64_t size = int64_t(1) << n_qubits;
  const int threads = threads_for_states<T>(rows, size);
  std::vector<std::unique_ptr<ProductEncoder<T>>> of_worker(threads);
  for_rows(threads, rows, size, states, [&](int64_t row, int worker, T* out, bool stream) {
    if (!of_worker[worker]) of_worker[worker] = std::make_unique<ProductEncoder<T>>(n_qubits);
    of_worker[worker]->write(factors + row * 4 * n_qubits, stream, out);
  });
}

template <class T>
PhaseEncoder<T>::PhaseEncoder(int n_qubits, int repeats, bool closes)
    : n_qubits_(n_qubits), repeats_(repeats), closes_(closes),
      memory_(size_t(repeats > 1 ? 6 : 3) << n_qubits), turns_(2 * n_phases(n_qubits)) {}

template <class T>
void PhaseEncoder<T>::write(const double* coefficients, bool stream, T* out) {
  const int64_t size = int64_t(1) << n_qubits_;
  const KernelTable<T>& kernels = isa().kernels<T>().tables[0];
  // Every Hadamard on all qubits brings a factor 2^(-n/2); the table D takes one in each round.
  const double scale = std::exp2(-0.5 * n_qubits_);
  double *d_re = memory_.data(), *d_im = d_re + size;
  double *p_re = d_im + size, *p_im = p_re + size / 2;
  const int64_t n_angles = n_phases(n_qubits_);
  double *c = turns_.data(), *s = c + n_angles;
  double largest = 0;
  for (int64_t k = 0; k < n_angles; ++k) largest = std::max(largest, std::abs(coefficients[k]));
  if (largest < kSincosLimit) {
    isa().kernels<double>().tables[0].sincos(coefficients, n_angles, 1.0, c, s);
  } else {
    for (int64_t k = 0; k < n_angles; ++k) {
      c[k] = std::cos(coefficients[k]);
      s[k] = std::sin(coefficients[k]);
    }
  }
  d_re[0] = scale * c[0];
  d_im[0] = scale * s[0];
  // D doubles with each qubit: where its bit is set, D gains the product P of the phases that this
  // bit has by itself and with the bits below it.
  int64_t m = 1;
  for (int q = n_qubits_ - 1; q >= 0; --q, m *= 2) {
    const int64_t pairs = n_qubits_ + first_pair(q, n_qubits_) - q;  // [later qubit]
    p_re[0] = c[1 + q];
    p_im[0] = s[1 + q];
    int64_t k = 1;
    for (int later = n_qubits_ - 1; later > q; --later, k *= 2)
      kernels.multiply_tables(p_re, p_im, c + pairs + later, s + pairs + later, 0, k, p_re + k,
                              p_im + k);
    kernels.multiply_tables(d_re, d_im, p_re, p_im, 1, m, d_re + m, d_im + m);
  }
  double *re = d_re, *im = d_im;
  for (int round = 1; round < repeats_; ++round) {
    // P is no longer needed: its place and more hold the state beside D.
    double *next_re = p_re, *next_im = p_re + size;
    double *other_re = next_im + size, *other_im = other_re + size;
    std::copy(re, re + size, other_re);
    std::copy(im, im + size, other_im);
    kernels.walsh(other_re, n_qubits_);
    kernels.walsh(other_im, n_qubits_);
    kernels.multiply_tables(other_re, other_im, d_re, d_im, 1, size, next_re, next_im);
    re = next_re;
    im = next_im;
  }
  if (closes_) {
    kernels.walsh(re, n_qubits_);
    kernels.walsh(im, n_qubits_);
  }
  write_segments(2 * size, stream, out, [&](int64_t begin, int64_t count, T* target) {
    kernels.interleave(re + begin / 2, im + begin / 2, closes_ ? scale : 1.0, count / 2, target);
  });
}

template <class T>
void encode_phases(const double* coefficients, int64_t rows, int n_qubits, int repeats, bool closes,
                   T* states) {
  const int64_t size = int64_t(1) << n_qubits;
  const int threads = threads_for_states<T>(2 * rows, size);  // sines and cosines as well
  std::vector<std::unique_ptr<PhaseEncoder<T>>> of_worker(threads);
  for_rows(threads, rows, size, states, [&](int64_t row, int worker, T* out, bool stream) {
    std::unique_ptr<PhaseEncoder<T>>& own = of_worker[worker];
    if (!own) own = std::make_unique<PhaseEncoder<T>>(n_qubits, repeats, closes);
    own->write(coefficients + row * n_phases(n_qubits), stream, out);
  });
}

template <class T>
void encode_basis(const int64_t* indices, int64_t rows, int n_qubits, T* states) {
  const int64_t size = int64_t(1) << n_qubits;
  for_rows(threads_for_states<T>(rows, size), rows, size, states,
           [&](int64_t row, int, T* out, bool) {
    std::memset(out, 0, size_t(2 * size) * sizeof(T));
    out[2 * indices[row]] = 1;
  });
}

#define QDP_INSTANTIATE(T)                                                                        \
  template class ProductEncoder<T>;                                                               \
  template class PhaseEncoder<T>;                                                                 \
  template int64_t encode_amplitude(const void*, Element, int64_t, int64_t, int, bool, double, T*); \
  template void encode_product(const double*, int64_t, int, T*);                                  \
  template void encode_phases(const double*, int64_t, int, int, bool, T*);                        \
  template void encode_basis(const int64_t*, int64_t, int, T*);
QDP_INSTANTIATE(float)
QDP_INSTANTIATE(double)

}  // namespace qdp
