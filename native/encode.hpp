// SPDX-License-Identifier: Apache-2.0
// Encoders of one row at a time, each with its own scratch: one thread uses one.
#pragma once
#include <complex>
#include <cstdint>
#include <vector>

namespace qdp {

constexpr double kSincosLimit = 1e4;  // beyond, the vector routine's range reduction loses digits

// Phases of a row: a constant, one a qubit, one a pair of qubits in the order (0, 1), (0, 2) ...
inline int64_t n_phases(int n_qubits) { return 1 + n_qubits + int64_t(n_qubits) * (n_qubits - 1) / 2; }
// Where the pairs of qubit q with later ones begin among the pairs.
inline int64_t first_pair(int q, int n_qubits) { return int64_t(q) * (2 * n_qubits - q - 1) / 2; }

// Single-qubit states [n][2] complex, qubit 0 first, to their product [2^n] complex.
template <class T>
class ProductEncoder {
 public:
  explicit ProductEncoder(int n_qubits);
  void write(const double* factors, bool stream, T* out);

 private:
  int n_low_, n_high_;
  std::vector<std::complex<double>> low_, high_;
  std::vector<T> plain_, turned_;  // the low table, and i times it
};

// Phases of a row to its state [2^n] complex, as encode_phases in engine.hpp says.
template <class T>
class PhaseEncoder {
 public:
  PhaseEncoder(int n_qubits, int repeats, bool closes);
  void write(const double* coefficients, bool stream, T* out);

 private:
  int n_qubits_, repeats_;
  bool closes_;
  std::vector<double> memory_, turns_;  // turns: cosines, then sines of the phases
};

}  // namespace qdp
