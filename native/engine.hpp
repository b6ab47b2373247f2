// SPDX-License-Identifier: Apache-2.0
// Runs a program over a batch. Pointers are to C-contiguous host memory, checked by the caller;
// outputs that are not wanted are null. rows = N, observables = O, parameters = P, inputs = F.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "program.hpp"

namespace qdp {

enum class Element { none = 0, float32 = 1, float64 = 2, complex64 = 3, complex128 = 4 };
enum class LayoutChoice { automatic = 0, batch = 1, sample = 2 };

// A row that is no state: not finite, nothing but zeros, or of another norm than 1.
struct RowRefused : std::runtime_error {
  explicit RowRefused(int64_t row) : std::runtime_error("row " + std::to_string(row)) {}
};

// One shifted evaluation: rotations of the program and what is added to their angles.
using ShiftedAngles = std::vector<std::pair<int, double>>;

template <class T>
struct Request {
  int64_t rows = 0;
  const double* parameters = nullptr;  // [P] or [N][P]
  bool parameters_per_row = false;
  const double* inputs = nullptr;  // [N][F]
  Element element = Element::none;
  const void* states = nullptr;  // [N][columns]
  int64_t columns = 0;
  bool normalize = false;
  // Above zero: rows that are not finite or all zero are refused, and where nothing normalises them,
  // rows whose norm is further from 1.
  double norm_tolerance = 0;
  const int64_t* indices = nullptr;  // [N] basis states to start in
  // Or states that are made as rows are loaded: products of single-qubit states, [N][n][2] complex,
  // or phases, [N][1 + n + n(n-1)/2], see encode_product and encode_phases.
  const double* factors = nullptr;
  const double* phases = nullptr;
  int repeats = 1;
  bool closes = false;
  LayoutChoice layout = LayoutChoice::automatic;

  T* values = nullptr;              // [N][O]
  const T* cotangents = nullptr;    // [N][O]: contracts the observables, O becomes 1 below
  T* parameter_gradient = nullptr;  // [N][O][P]
  T* input_gradient = nullptr;      // [N][O][F]
  T* state_gradient = nullptr;      // [N][O][2^n] complex
  T* final_states = nullptr;        // [N][2^n] complex
  T* probabilities = nullptr;       // [N][2^k]
  std::vector<int> probability_bits;  // address bits of the wires kept, most significant first

  std::vector<ShiftedAngles> shifts;
  T* shifted_values = nullptr;  // [n_shifts][N][O]
};

// Throws RowRefused if the request has a tolerance.
template <class T>
void run(const Program& program, const Request<T>& request);

// Rows of real or complex features to states [N][2^n] complex. Returns the first row whose norm is
// zero or not finite, or, without `normalize`, not 1 to within `tolerance`; -1 if there is none. The
// state of such a row means nothing.
template <class T>
int64_t encode_amplitude(const void* features, Element element, int64_t rows, int64_t columns,
                         int n_qubits, bool normalize, double tolerance, T* states);

// States of single qubits, [N][n][2] complex, qubit 0 first, to their product [N][2^n] complex.
template <class T>
void encode_product(const double* factors, int64_t rows, int n_qubits, T* states);

// `repeats` rounds of Hadamards on |0> and the phase c + sum l_j b_j + sum_{i<j} q_ij b_i b_j, and
// Hadamards once more if `closes`. Coefficients are [N][1 + n + n(n-1)/2]: c, l_0 .., q_01, q_02 ..
template <class T>
void encode_phases(const double* coefficients, int64_t rows, int n_qubits, int repeats, bool closes,
                   T* states);

// Indices of basis states, [N], each below 2^n.
template <class T>
void encode_basis(const int64_t* indices, int64_t rows, int n_qubits, T* states);

// The sum of squares of each row of [rows][columns], in double precision; NaN or infinite if a
// number in it is, or if the squares overflow. A row's sum depends on nothing but the row.
void row_sums_of_squares(const void* array, Element element, int64_t rows, int64_t columns,
                         double* sums);

// out[i][j] = |<left_i|right_j>|^2, rows of `depth` numbers; complex ones in pairs. Half the work where
// `left` and `right` are the same pointer.
template <class T>
void overlaps(const T* left, int64_t left_rows, const T* right, int64_t right_rows, int64_t depth,
              bool is_complex, T* out);

}  // namespace qdp
