// SPDX-License-Identifier: Apache-2.0
// The walk through a program in normal form (src/qdp/program.py) on a GPU, for one element type,
// REAL (float or double). Which operations, tiles and launches there are is decided in
// backends/cuda.py, and so is everything about memory.
//
// Letters: an *item* is one state to run: a row, times its evaluation (shifted angles) or its slot
// (observable to differentiate). b is the address of an amplitude, l its place in a *tile*: the
// addresses base ^ span(basis) that one block holds in shared memory. A state that fits into it is
// one tile with l = b, and its whole circuit and gradient are one launch of `run`. Larger ones lie in
// global memory and go through `pass`, a launch for as many operations as stay inside a tile.
// A word (x, z) is the operator P|b> = i^turns (-1)^popcount(z & b) |b ^ x>.
#include "phases.h"

typedef REAL Real;
struct __attribute__((aligned(2 * sizeof(Real)))) Complex {
  Real re, im;
};

enum Kind { kRotations, kDiagonal, kTable, kDense, kPermutation };
// kFactors and kPhases: numbers of which an encoding's states are worked out as rows are loaded.
enum Element { kZero, kFloat32, kFloat64, kComplex64, kComplex128, kIndex, kFactors, kPhases };

// Commuting rotations with independent X masks (count of them, up to 3, in registers), commuting Z
// words (count), or item `item` of its kind.
struct Op {
  unsigned kind, count, first, item;
  unsigned pivots[4];   // bits of l that are zero in the first amplitude of each coset, ascending
  unsigned offsets[8];  // from there to the others
};

// `x` and `z` act on l, `base_z` on base. Bit j of `flips` is the parity of z at offset j.
struct Word {
  unsigned x, z, base_z, turns, rotation, flips, has_gradient, unused;
};

struct Dense {
  unsigned matrix, n_bits, control_mask, control_value;  // matrix: number of its first entry
  unsigned bits[28];                                     // most significant of the matrix first
};

struct Rotation {
  double scale, offset;
  long long source, index;  // source 0: constant, 1: parameter, 2: input
};

// Words of one observable with one X mask: D(b) = sum of c (-1)^(z.b), from a table where >= 0.
struct Group {
  long long observable, mask, first, count, table;
};

// Everything a launch is told; addresses are kept as numbers, 0 where there is nothing. A `..._element`
// says what numbers lie at the address of the same name.
struct Call {
  long long n_qubits;
  long long tile_bits;
  long long free_mask;       // bits of an address that are free in `base`
  long long basis;           // unsigned [tile_bits]; 0: the unit vectors
  long long rows;
  long long n_slots;
  long long n_items;
  long long n_parts;         // blocks an item
  long long ops;             // Op [n_ops]
  long long n_ops;
  long long words;           // Word
  long long denses;          // Dense
  long long matrices;        // double pairs
  long long sources;         // unsigned [permutations][2^n]
  long long turns;           // unsigned char [permutations][2^n]
  long long tables;          // double pairs [tables][2^n]
  long long rotations;       // Rotation [n_rotations]
  long long n_rotations;
  long long parameters;
  long long parameter_element;
  long long parameter_stride;
  long long inputs;
  long long input_element;
  long long input_stride;
  long long features;        // angles of an encoding; they may be inputs behind `n_own` others
  long long feature_element;
  long long feature_stride;
  long long n_features;
  long long n_own;
  long long pairs;           // unsigned [n_pairs][2]: features whose distances are multiplied
  long long n_pairs;
  double centre;             // distances of features are taken from here
  long long shifts;          // double [evaluations][n_rotations]
  long long coefficients;    // Complex (cos, sin) [sets][n_rotations]
  long long n_sets;
  long long set_row_stride;  // sets from row to row
  long long set_stride;      // sets from evaluation to evaluation
  long long element;
  long long states;          // [rows][columns] of `element`; kFactors: double pairs [rows][n][2],
                             // states of qubits; kPhases: double [rows][1 + n + n(n-1)/2], radians
                             // of the whole, of qubits, and of pairs of qubits that are both 1
  long long columns;
  long long one_state;       // all rows start in the first of `states`
  long long normalize;
  double tolerance;          // where positive, rows whose norm is further from 1 become NaN
  long long refused;         // unsigned long long: 1 once a row was met whose norm won't do
  long long norm_parts;      // double [items][n_parts]
  double spread;             // 2^(-n/2)
  long long repeats;         // of kPhases: how often they turn the state, transformed in between
  long long closes;          // whether another transform comes last
  long long first_bit;       // of a tile's, from which on `walsh` transforms
  long long finishes;        // whether its last bits are among them
  long long turns_next;      // and whether phases come then
  long long waves;           // double pairs [2][3]: what 1, cos(rate x) and sin(rate x) are times
  double rate;               // in the amplitudes of a qubit with feature x
  long long psi;             // Complex [items][2^n]
  long long lambda;          // Complex [items][2^n]
  long long scratch;         // Complex [items][2^n]
  long long inverse;
  long long gradient;        // whether to differentiate
  long long groups;          // Group [n_groups]
  long long n_groups;
  long long group_z;         // unsigned
  long long group_c;         // double pairs
  long long group_tables;    // double pairs [tables][2^n]
  long long n_observables;
  long long contracted;      // cotangents weigh the observables, in one slot
  long long cotangents;      // [rows][n_observables]
  long long cotangent_element;
  long long measures;        // whether `run` takes the values
  long long values;          // Real [evaluations][rows][n_observables]
  long long parts;           // double [items][targets][n_parts]
  long long n_targets;
  long long sums;            // double [items][targets]: d value / d angle, or values
  long long state_gradient;  // Complex [items][2^n]
  long long final_states;    // Complex [items][2^n]
  long long phases;          // Rotation [n_phases]: angles of the global phase
  long long n_phases;
  long long first_terms;     // long long [n_outputs + 1]
  long long terms;           // long long [terms]: rotations or evaluations
  long long scales;          // double [terms]
  long long factors;         // long long [terms]: a feature whose distance multiplies, or -1
  long long n_outputs;
  long long term_stride;     // from sum to sum of consecutive terms, rows and slots
  long long row_stride;
  long long slot_stride;
  long long term_begin;      // terms of this launch; those before are in `totals`
  long long term_end;
  long long totals;          // double [rows][n_slots][n_outputs]
  long long outputs;         // Real [rows][n_slots][n_outputs], or as the kernel says
  long long read_bits;       // unsigned [n_read]: bits of the outcome, most significant first
  long long n_read;
  long long other_mask;      // bits of the address that are summed over
  long long other;           // [other_rows][columns]
  long long other_element;
  long long other_rows;
};

template <class Pointed>
DEVICE Pointed* at(long long address) {
  return reinterpret_cast<Pointed*>(address);
}

constexpr unsigned kWarps = 16;  // of a block, at most
constexpr int kPending = 16;     // sums that wait for their reduction

// ---- numbers and addresses ----------------------------------------------------------------------

DEVICE Complex product(Complex a, Complex b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
DEVICE Complex turned(Complex a, unsigned quarters) {
  switch (quarters & 3) {
    case 0: return a;
    case 1: return {-a.im, a.re};
    case 2: return {-a.re, -a.im};
    default: return {a.im, -a.re};
  }
}

// Puts the bits of `number`, lowest first, to the places that are set in `mask`.
DEVICE unsigned deposited(unsigned long long number, unsigned mask) {
  unsigned result = 0;
  for (; mask; mask &= mask - 1, number >>= 1)
    if (number & 1) result |= mask & (0u - mask);
  return result;
}

DEVICE unsigned address_of(const Call* call, unsigned base, unsigned l) {
  if (!call->basis) return l;
  unsigned b = base;
  const unsigned* basis = at<const unsigned>(call->basis);
  for (int j = 0; l; ++j, l >>= 1)
    if (l & 1) b ^= basis[j];
  return b;
}

struct Item {
  long long number, row, slot, evaluation;
};
DEVICE Item item_of(const Call* call, long long number) {
  const long long rest = number / call->n_slots;
  return {number, rest % call->rows, number % call->n_slots, rest / call->rows};
}

DEVICE const Complex* coefficients_of(const Call* call, const Item& item) {
  const long long set = item.evaluation * call->set_stride + item.row * call->set_row_stride;
  return at<const Complex>(call->coefficients) + set * call->n_rotations;
}

// ---- sums over a block --------------------------------------------------------------------------

// Sums that wait: `partial` [kPending][kWarps] is in shared memory and zero where nothing waits.
struct Pending {
  double* partial;
  double* out;      // where sum number `target` goes: out[target * stride]
  long long stride;
  int count;
  int target[kPending];
};

DEVICE void clear(Pending& pending) {
  PHASE for (unsigned i = threadIdx.x; i < kPending * kWarps; i += blockDim.x)
    pending.partial[i] = 0;
  pending.count = 0;
}

DEVICE void flush(Pending& pending) {
  const int count = pending.count;
  PHASE {
    if (int(threadIdx.x) < count) {
      double* partial = pending.partial + threadIdx.x * kWarps;
      double sum = 0;
      for (unsigned warp = 0; warp < kWarps; ++warp) {
        sum += partial[warp];
        partial[warp] = 0;
      }
      pending.out[pending.target[threadIdx.x] * pending.stride] = sum;
    }
  }
  pending.count = 0;
}

// Makes room for sums of `count` targets; returns the number of the first.
DEVICE int reserve(Pending& pending, int count) {
  if (pending.count + count > kPending) flush(pending);
  pending.count += count;
  return pending.count - count;
}

DEVICE void add(Pending& pending, int number, double value) {
  warp_add(pending.partial + number * int(kWarps) + threadIdx.x / 32, value);
}

// ---- loading ------------------------------------------------------------------------------------

// Number `place` of an array of float, double or pairs of them.
DEVICE void number_at(long long address, long long element, long long place, double* re,
                      double* im) {
  *im = 0;
  switch (element) {
    case kFloat32: *re = at<const float>(address)[place]; break;
    case kFloat64: *re = at<const double>(address)[place]; break;
    case kComplex64:
      *re = at<const float>(address)[2 * place];
      *im = at<const float>(address)[2 * place + 1];
      break;
    default:
      *re = at<const double>(address)[2 * place];
      *im = at<const double>(address)[2 * place + 1];
  }
}
DEVICE double real_at(long long address, long long element, long long place) {
  return element == kFloat32 ? at<const float>(address)[place] : at<const double>(address)[place];
}

DEVICE double distance_of(const Call* call, long long row, long long feature) {
  return call->centre -
         real_at(call->features, call->feature_element, row * call->feature_stride + feature);
}

// Amplitude b of a product of states of qubits; qubit 0 is the most significant bit of b.
DEVICE void product_of_factors(const Call* call, long long row, unsigned b, double* re,
                               double* im) {
  const int n = int(call->n_qubits);
  const double* factor = at<const double>(call->states) + 4 * row * n;
  *re = 1;
  for (int qubit = 0; qubit < n; ++qubit, factor += 4) {
    const double* own = factor + 2 * (b >> (n - 1 - qubit) & 1);
    const double before = *re;
    *re = before * own[0] - *im * own[1];
    *im = before * own[1] + *im * own[0];
  }
}

// The phase of amplitude b: of its bits that are 1 and of pairs of them, in lexicographic order.
DEVICE double phase_at(const Call* call, long long row, unsigned b) {
  const int n = int(call->n_qubits);
  const double* numbers = at<const double>(call->states) + row * (1 + n * (n + 1) / 2);
  const double* pairs = numbers + 1 + n;
  double phase = numbers[0];
  for (int qubit = 0; qubit < n; pairs += n - 1 - qubit, ++qubit) {
    if (!(b >> (n - 1 - qubit) & 1)) continue;
    phase += numbers[1 + qubit];
    for (int later = qubit + 1; later < n; ++later)
      if (b >> (n - 1 - later) & 1) phase += pairs[later - qubit - 1];
  }
  return phase;
}

DEVICE void element_of(const Call* call, long long row, unsigned b, double* re, double* im) {
  *re = *im = 0;
  if (call->one_state) row = 0;
  if (call->element == kZero) {
    *re = b == 0;
  } else if (call->element == kIndex) {
    const long long index = at<const long long>(call->states)[row];
    *re = index < 0 || index >> call->n_qubits ? nan("") : index == b;
  } else if (call->element == kFactors) {
    product_of_factors(call, row, b, re, im);
  } else if (call->element == kPhases) {
    const double phase = phase_at(call, row, b);
    *re = call->spread * cos(phase);
    *im = call->spread * sin(phase);
  } else if (b < call->columns) {
    number_at(call->states, call->element, row * call->columns + b, re, im);
  }
}

// What a row of that squared norm is multiplied with; NaN makes a row that can't be used visible in
// every result of it.
DEVICE double factor_of(const Call* call, double norm2) {
  if (!call->normalize) {
    const double norm = sqrt(norm2);
    return norm > 1 - call->tolerance && norm < 1 + call->tolerance ? 1 : nan("");
  }
  return norm2 > 0 && norm2 <= 1.7e308 ? 1 / sqrt(norm2) : nan("");
}

// Tells of a row that the host has to look at: one that can't be used, or whose squares may have
// lost digits.
DEVICE void check(const Call* call, double norm2, double factor) {
  const bool fits = call->normalize ? norm2 > 1e-30 && norm2 < 1e30 : factor == 1;
  if (call->refused && !fits && threadIdx.x == 0) *at<unsigned long long>(call->refused) = 1;
}

// A thread's part of the sum of squares of columns [begin, end) of a row.
DEVICE double squares_of(const Call* call, long long row, long long begin, long long end) {
  double sum = 0;
  for (long long b = begin + threadIdx.x; b < end; b += blockDim.x) {
    double re, im;
    element_of(call, row, unsigned(b), &re, &im);
    sum += re * re + im * im;
  }
  return sum;
}

DEVICE Complex loaded(const Call* call, long long row, unsigned b, double factor) {
  double re, im;
  element_of(call, row, b, &re, &im);
  return {Real(re * factor), Real(im * factor)};
}

// The Walsh-Hadamard transform of a tile over K bits of l, from `bit` on.
template <int K>
DEVICE void transform_bits(Complex* psi, unsigned size, int bit) {
  PHASE for (unsigned coset = threadIdx.x; coset < size >> K; coset += blockDim.x) {
    const unsigned low = (1u << bit) - 1;
    const unsigned l = (coset & ~low) << K | (coset & low);
    Complex v[1 << K];
    UNROLL for (unsigned j = 0; j < 1u << K; ++j) v[j] = psi[l | j << bit];
    UNROLL for (int k = 0; k < K; ++k) {
      UNROLL for (int j = 0; j < 1 << K; ++j) {
        const int partner = j | 1 << k;
        if (j == partner) continue;
        const Complex a = v[j], b = v[partner];
        v[j] = {a.re + b.re, a.im + b.im};
        v[partner] = {a.re - b.re, a.im - b.im};
      }
    }
    UNROLL for (unsigned j = 0; j < 1u << K; ++j) psi[l | j << bit] = v[j];
  }
}

DEVICE void transform(Complex* psi, unsigned size, int first_bit, int n_bits) {
  int bit = first_bit;
  for (; bit + 3 <= n_bits; bit += 3) transform_bits<3>(psi, size, bit);
  for (; bit < n_bits; ++bit) transform_bits<1>(psi, size, bit);
}

// Amplitude b after a transform over all bits: turned by the next round's phases, or spread.
DEVICE Complex finished(const Call* call, long long row, unsigned b, Complex a, bool turns) {
  if (turns) return product(a, loaded(call, row, b, 1));
  return {Real(a.re * call->spread), Real(a.im * call->spread)};
}

// ---- operations on a tile -----------------------------------------------------------------------

template <int K>
DEVICE unsigned first_of(const Op& op, unsigned coset) {
  UNROLL for (int k = 0; k < K; ++k) {
    const unsigned low = (1u << op.pivots[k]) - 1;
    coset = (coset & ~low) << 1 | (coset & low);
  }
  return coset;
}

DEVICE unsigned negative(const Word& word, unsigned l, unsigned base) {
  return parity(word.z & l) ^ parity(word.base_z & base);
}

// cos - i sin P for rotation k of a coset of 2^K amplitudes; `sine` has the sign of the direction.
template <int K>
DEVICE void turn(Complex* v, int k, const Word& word, Real cosine, Real sine, unsigned first) {
  const unsigned quarters = word.turns + 3;
  UNROLL for (int j = 0; j < 1 << K; ++j) {
    const int partner = j | 1 << k;
    if (j == partner) continue;
    const Complex a = v[j], b = v[partner];
    const Real from_b = (first ^ word.flips >> partner) & 1 ? -sine : sine;
    const Real from_a = (first ^ word.flips >> j) & 1 ? -sine : sine;
    const Complex turned_a = turned(a, quarters), turned_b = turned(b, quarters);
    v[j] = {cosine * a.re + from_b * turned_b.re, cosine * a.im + from_b * turned_b.im};
    v[partner] = {cosine * b.re + from_a * turned_a.re, cosine * b.im + from_a * turned_a.im};
  }
}

template <int K>
DEVICE void rotate(const Op& op, const Word* words, const Complex* coefficients, Complex* psi,
                   unsigned size, unsigned base, bool inverse) {
  PHASE for (unsigned coset = threadIdx.x; coset < size >> K; coset += blockDim.x) {
    const unsigned l = first_of<K>(op, coset);
    Complex v[1 << K];
    UNROLL for (int j = 0; j < 1 << K; ++j) v[j] = psi[l ^ op.offsets[j]];
    UNROLL for (int k = 0; k < K; ++k) {
      const Word& word = words[op.first + k];
      const Complex c = coefficients[word.rotation];
      turn<K>(v, k, word, c.re, inverse ? -c.im : c.im, negative(word, l, base));
    }
    UNROLL for (int j = 0; j < 1 << K; ++j) psi[l ^ op.offsets[j]] = v[j];
  }
}

// Im <lambda|i^turns psi> of one amplitude.
DEVICE double slope(Complex lambda, Complex psi, unsigned turns) {
  const double re = double(lambda.re) * psi.re + double(lambda.im) * psi.im;
  const double im = double(lambda.re) * psi.im - double(lambda.im) * psi.re;
  const double part = turns & 1 ? re : im;
  return turns & 2 ? -part : part;
}

template <int K>
DEVICE void rotate_back(const Op& op, const Word* words, const Complex* coefficients, Complex* psi,
                        Complex* lambda, unsigned size, unsigned base, Pending& pending) {
  const int number = reserve(pending, K);
  for (int k = 0; k < K; ++k) pending.target[number + k] = int(words[op.first + k].rotation);
  PHASE {
    double sums[K] = {};
    for (unsigned coset = threadIdx.x; coset < size >> K; coset += blockDim.x) {
      const unsigned l = first_of<K>(op, coset);
      Complex v[1 << K], w[1 << K];
      UNROLL for (int j = 0; j < 1 << K; ++j) {
        v[j] = psi[l ^ op.offsets[j]];
        w[j] = lambda[l ^ op.offsets[j]];
      }
      UNROLL for (int k = 0; k < K; ++k) {
        const Word& word = words[op.first + k];
        const Complex c = coefficients[word.rotation];
        const unsigned first = negative(word, l, base);
        if (word.has_gradient) {
          UNROLL for (int j = 0; j < 1 << K; ++j) {
            const int partner = j ^ 1 << k;
            const double part = slope(w[j], v[partner], word.turns);
            sums[k] += (first ^ word.flips >> partner) & 1 ? -part : part;
          }
        }
        turn<K>(v, k, word, c.re, -c.im, first);
        turn<K>(w, k, word, c.re, -c.im, first);
      }
      UNROLL for (int j = 0; j < 1 << K; ++j) {
        psi[l ^ op.offsets[j]] = v[j];
        lambda[l ^ op.offsets[j]] = w[j];
      }
    }
    UNROLL for (int k = 0; k < K; ++k) add(pending, number + k, sums[k]);
  }
}

DEVICE Complex diagonal_at(const Op& op, const Word* words, const Complex* coefficients, unsigned l,
                           unsigned base, bool inverse) {
  Complex factor = {1, 0};
  for (unsigned e = 0; e < op.count; ++e) {
    const Word& word = words[op.first + e];
    const Complex c = coefficients[word.rotation];
    const bool positive = negative(word, l, base) != unsigned(inverse);
    factor = product(factor, {c.re, positive ? c.im : -c.im});
  }
  return factor;
}

DEVICE void add_diagonal_slopes(const Op& op, const Word* words, const Complex* psi,
                                const Complex* lambda, unsigned size, unsigned base,
                                Pending& pending) {
  for (unsigned begin = 0; begin < op.count; begin += 4) {
    const int count = op.count - begin < 4 ? int(op.count - begin) : 4;
    const int number = reserve(pending, count);
    const Word* own = words + op.first + begin;
    for (int e = 0; e < count; ++e) pending.target[number + e] = int(own[e].rotation);
    PHASE {
      double sums[4] = {};
      for (unsigned l = threadIdx.x; l < size; l += blockDim.x) {
        const double part = slope(lambda[l], psi[l], 0);
        for (int e = 0; e < count; ++e) sums[e] += negative(own[e], l, base) ? -part : part;
      }
      for (int e = 0; e < count; ++e) add(pending, number + e, sums[e]);
    }
  }
}

DEVICE Complex table_at(const Call* call, const Op& op, unsigned b, bool inverse) {
  const double* table = at<const double>(call->tables) + ((2 * (long long)op.item) << call->n_qubits);
  return {Real(table[2 * (size_t)b]), Real(inverse ? -table[2 * (size_t)b + 1] : table[2 * (size_t)b + 1])};
}

// Amplitude b of M psi, or of its adjoint.
DEVICE Complex dense_at(const Call* call, const Op& op, unsigned b, const Complex* psi,
                        bool inverse) {
  const Dense& dense = at<const Dense>(call->denses)[op.item];
  if ((b & dense.control_mask) != dense.control_value) return psi[b];
  const double* matrix = at<const double>(call->matrices) + 2 * (size_t)dense.matrix;
  const int k = int(dense.n_bits);
  unsigned row = 0, rest = b;
  for (int i = 0; i < k; ++i) {
    row = row << 1 | (b >> dense.bits[i] & 1);
    rest &= ~(1u << dense.bits[i]);
  }
  double re = 0, im = 0;
  for (unsigned column = 0; column < 1u << k; ++column) {
    unsigned from = rest;
    for (int i = 0; i < k; ++i) from |= (column >> (k - 1 - i) & 1) << dense.bits[i];
    const size_t entry = inverse ? (size_t(column) << k) + row : (size_t(row) << k) + column;
    const double m_re = matrix[2 * entry], m_im = inverse ? -matrix[2 * entry + 1] : matrix[2 * entry + 1];
    re += m_re * psi[from].re - m_im * psi[from].im;
    im += m_re * psi[from].im + m_im * psi[from].re;
  }
  return {Real(re), Real(im)};
}

// What amplitude b turns into, for a dense matrix or a permutation, both out of place.
DEVICE void move(const Call* call, const Op& op, unsigned b, const Complex* from, Complex* to,
                 bool inverse) {
  if (op.kind == kDense) {
    to[b] = dense_at(call, op, b, from, inverse);
    return;
  }
  const size_t place = (size_t(op.item) << call->n_qubits) + b;
  const unsigned source = at<const unsigned>(call->sources)[place];
  const unsigned turns = at<const unsigned char>(call->turns)[place];
  if (inverse)
    to[source] = turned(from[b], 4 - turns);
  else
    to[b] = turned(from[source], turns);
}

DEVICE void move_in_place(const Call* call, const Op& op, Complex* psi, Complex* scratch,
                          unsigned size, bool inverse) {
  PHASE for (unsigned l = threadIdx.x; l < size; l += blockDim.x) scratch[l] = psi[l];
  PHASE for (unsigned l = threadIdx.x; l < size; l += blockDim.x)
    move(call, op, l, scratch, psi, inverse);
}

DEVICE void apply(const Call* call, const Op& op, const Complex* coefficients, Complex* psi,
                  Complex* scratch, unsigned size, unsigned base, bool inverse) {
  const Word* words = at<const Word>(call->words);
  switch (op.kind) {
    case kRotations:
      if (op.count == 1)
        rotate<1>(op, words, coefficients, psi, size, base, inverse);
      else if (op.count == 2)
        rotate<2>(op, words, coefficients, psi, size, base, inverse);
      else
        rotate<3>(op, words, coefficients, psi, size, base, inverse);
      break;
    case kDiagonal:
      PHASE for (unsigned l = threadIdx.x; l < size; l += blockDim.x) psi[l] =
          product(psi[l], diagonal_at(op, words, coefficients, l, base, inverse));
      break;
    case kTable:
      PHASE for (unsigned l = threadIdx.x; l < size; l += blockDim.x) psi[l] =
          product(psi[l], table_at(call, op, address_of(call, base, l), inverse));
      break;
    default:
      move_in_place(call, op, psi, scratch, size, inverse);
  }
}

// Undoes an operation on psi and lambda, and adds d value / d angle of its rotations.
DEVICE void apply_back(const Call* call, const Op& op, const Complex* coefficients, Complex* psi,
                       Complex* lambda, Complex* scratch, unsigned size, unsigned base,
                       Pending& pending) {
  const Word* words = at<const Word>(call->words);
  if (op.kind == kRotations) {
    if (op.count == 1)
      rotate_back<1>(op, words, coefficients, psi, lambda, size, base, pending);
    else if (op.count == 2)
      rotate_back<2>(op, words, coefficients, psi, lambda, size, base, pending);
    else
      rotate_back<3>(op, words, coefficients, psi, lambda, size, base, pending);
    return;
  }
  if (op.kind == kDiagonal) add_diagonal_slopes(op, words, psi, lambda, size, base, pending);
  apply(call, op, coefficients, psi, scratch, size, base, true);
  apply(call, op, coefficients, lambda, scratch, size, base, true);
}

// ---- observables: psi is a whole state ----------------------------------------------------------

DEVICE void observed(const Call* call, const Group& group, unsigned b, double* re, double* im) {
  if (group.table >= 0) {
    const double* table = at<const double>(call->group_tables);
    const size_t place = (size_t(group.table) << call->n_qubits) + b;
    *re = table[2 * place];
    *im = table[2 * place + 1];
    return;
  }
  *re = *im = 0;
  for (long long i = group.first; i < group.first + group.count; ++i) {
    const bool minus = parity(at<const unsigned>(call->group_z)[i] & b);
    const double c_re = at<const double>(call->group_c)[2 * i];
    const double c_im = at<const double>(call->group_c)[2 * i + 1];
    *re += minus ? -c_re : c_re;
    *im += minus ? -c_im : c_im;
  }
}

// Adds the value of observable k over addresses [begin, end) to the pending sums.
DEVICE void measure(const Call* call, const Complex* psi, long long k, unsigned long long begin,
                    unsigned long long end, Pending& pending, int target) {
  const int number = reserve(pending, 1);
  pending.target[number] = target;
  PHASE {
    double sum = 0;
    for (long long g = 0; g < call->n_groups; ++g) {
      const Group& group = at<const Group>(call->groups)[g];
      if (group.observable != k) continue;
      for (unsigned long long b = begin + threadIdx.x; b < end; b += blockDim.x) {
        const Complex from = psi[b], to = psi[b ^ (unsigned long long)group.mask];
        double re, im;
        observed(call, group, unsigned(b), &re, &im);
        sum += re * (double(to.re) * from.re + double(to.im) * from.im) -
               im * (double(to.re) * from.im - double(to.im) * from.re);
      }
    }
    add(pending, number, sum);
  }
}

// Amplitude b of O psi: of the slot's observable, or of all of them by their cotangents.
DEVICE Complex pulled_at(const Call* call, const Item& item, const Complex* psi, unsigned b) {
  double re = 0, im = 0;
  for (long long g = 0; g < call->n_groups; ++g) {
    const Group& group = at<const Group>(call->groups)[g];
    if (!call->contracted && group.observable != item.slot) continue;
    const double weight =
        call->contracted
            ? real_at(call->cotangents, call->cotangent_element,
                      item.row * call->n_observables + group.observable)
            : 1.0;
    const unsigned from = b ^ unsigned(group.mask);
    double c_re, c_im;
    observed(call, group, from, &c_re, &c_im);
    re += weight * (c_re * psi[from].re - c_im * psi[from].im);
    im += weight * (c_re * psi[from].im + c_im * psi[from].re);
  }
  return {Real(re), Real(im)};
}

// ---- kernels ------------------------------------------------------------------------------------

// Cosine and sine of half of each angle, a thread each; grid over sets and rotations.
KERNEL(angles) {
  PHASE {
    const long long number = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (number < call->n_sets * call->n_rotations) {
      const long long set = number / call->n_rotations, r = number % call->n_rotations;
      const long long evaluation = call->set_stride ? set / call->set_stride : 0;
      const long long row = call->set_row_stride ? set % call->rows : 0;
      const Rotation& rotation = at<const Rotation>(call->rotations)[r];
      double angle = rotation.offset;
      if (rotation.source == 1)
        angle += rotation.scale *
                 real_at(call->parameters, call->parameter_element,
                         row * call->parameter_stride + rotation.index);
      if (rotation.source == 2)
        angle += rotation.scale *
                 real_at(call->inputs, call->input_element,
                         row * call->input_stride + rotation.index);
      if (call->shifts)
        angle += at<const double>(call->shifts)[evaluation * call->n_rotations + r];
      at<Complex>(call->coefficients)[number] = {Real(cos(angle / 2)), Real(sin(angle / 2))};
    }
  }
}

// One block an item: the whole circuit, what is measured, and the way back, in shared memory:
// pending sums, psi, and lambda if there is a gradient.
KERNEL(run) {
  SHARED_BYTES(memory);
  const unsigned size = 1u << call->n_qubits;
  Complex* psi = reinterpret_cast<Complex*>(memory + sizeof(double) * kPending * kWarps);
  Complex* lambda = psi + size;
  const Item item = item_of(call, blockIdx.x);
  const long long whole = item.number << call->n_qubits;
  Complex* scratch = at<Complex>(call->scratch) + (call->scratch ? whole : 0);
  const Complex* coefficients = coefficients_of(call, item);
  const Op* ops = at<const Op>(call->ops);
  double* sums = at<double>(call->sums) + (call->sums ? item.number * call->n_targets : 0);
  Pending pending;
  pending.partial = reinterpret_cast<double*>(memory);
  pending.stride = 1;
  clear(pending);
  const bool weighs = call->normalize || call->tolerance > 0;
  if (weighs) {
    PHASE warp_add(pending.partial + threadIdx.x / 32,
                   squares_of(call, item.row, 0, call->columns));
  }
  PHASE {
    double factor = 1;
    if (weighs) {
      double norm2 = 0;
      for (unsigned warp = 0; warp < kWarps; ++warp) norm2 += pending.partial[warp];
      factor = factor_of(call, norm2);
      check(call, norm2, factor);
    }
    for (unsigned l = threadIdx.x; l < size; l += blockDim.x)
      psi[l] = loaded(call, item.row, l, factor);
  }
  for (long long round = 1; round < call->repeats + call->closes; ++round) {
    transform(psi, size, 0, int(call->n_qubits));
    PHASE for (unsigned l = threadIdx.x; l < size; l += blockDim.x) psi[l] =
        finished(call, item.row, l, psi[l], round < call->repeats);
  }
  clear(pending);
  for (long long i = 0; i < call->n_ops; ++i)
    apply(call, ops[i], coefficients, psi, scratch, size, 0, false);
  if (call->final_states) {
    PHASE for (unsigned l = threadIdx.x; l < size; l += blockDim.x)
      at<Complex>(call->final_states)[whole + l] = psi[l];
  }
  if (call->measures) {
    pending.out = sums + call->n_rotations;
    const bool all = call->contracted || !call->gradient;
    for (long long k = all ? 0 : item.slot; k < (all ? call->n_observables : item.slot + 1); ++k)
      measure(call, psi, k, 0, size, pending, int(k));
    flush(pending);
    PHASE {
      const long long state = item.evaluation * call->rows + item.row;
      for (long long k = threadIdx.x; k < call->n_observables; k += blockDim.x)
        if (call->values && (all || k == item.slot))
          at<Real>(call->values)[state * call->n_observables + k] = Real(pending.out[k]);
    }
  }
  if (!call->gradient) return;
  PHASE for (unsigned l = threadIdx.x; l < size; l += blockDim.x) lambda[l] =
      pulled_at(call, item, psi, l);
  pending.out = sums;
  for (long long i = call->n_ops - 1; i >= 0; --i)
    apply_back(call, ops[i], coefficients, psi, lambda, scratch, size, 0, pending);
  flush(pending);
  if (call->state_gradient) {
    PHASE for (unsigned l = threadIdx.x; l < size; l += blockDim.x)
      at<Complex>(call->state_gradient)[whole + l] = {2 * lambda[l].re, 2 * lambda[l].im};
  }
}

// One block a tile of an item whose state is in global memory: some operations, forward or back.
KERNEL(pass) {
  SHARED_BYTES(memory);
  const unsigned size = 1u << call->tile_bits;
  Complex* psi = reinterpret_cast<Complex*>(memory + sizeof(double) * kPending * kWarps);
  Complex* lambda = psi + size;
  const long long tile = blockIdx.x % call->n_parts;
  const Item item = item_of(call, blockIdx.x / call->n_parts);
  const unsigned base = deposited(tile, unsigned(call->free_mask));
  const Complex* coefficients = coefficients_of(call, item);
  const Op* ops = at<const Op>(call->ops);
  Complex* all_psi = at<Complex>(call->psi) + (item.number << call->n_qubits);
  Complex* all_lambda =
      at<Complex>(call->lambda) + (call->gradient ? item.number << call->n_qubits : 0);
  PHASE for (unsigned l = threadIdx.x; l < size; l += blockDim.x) {
    const unsigned b = address_of(call, base, l);
    psi[l] = all_psi[b];
    if (call->gradient) lambda[l] = all_lambda[b];
  }
  if (call->gradient) {
    Pending pending;
    pending.partial = reinterpret_cast<double*>(memory);
    pending.out = at<double>(call->parts) + item.number * call->n_targets * call->n_parts + tile;
    pending.stride = call->n_parts;
    clear(pending);
    for (long long i = call->n_ops - 1; i >= 0; --i)
      apply_back(call, ops[i], coefficients, psi, lambda, nullptr, size, base, pending);
    flush(pending);
  } else {
    for (long long i = 0; i < call->n_ops; ++i)
      apply(call, ops[i], coefficients, psi, nullptr, size, base, false);
  }
  PHASE for (unsigned l = threadIdx.x; l < size; l += blockDim.x) {
    const unsigned b = address_of(call, base, l);
    all_psi[b] = psi[l];
    if (call->gradient) all_lambda[b] = lambda[l];
  }
}

// The share of a whole state, or of `length` numbers, that a block of an item takes.
struct Share {
  Item item;
  long long part;
  unsigned long long begin, end;
};
DEVICE Share share_of(const Call* call, long long length) {
  const long long part = blockIdx.x % call->n_parts;
  return {item_of(call, blockIdx.x / call->n_parts), part,
          (unsigned long long)(length * part / call->n_parts),
          (unsigned long long)(length * (part + 1) / call->n_parts)};
}

// Sums of squares of the rows, [items][n_parts].
KERNEL(norms) {
  SHARED_BYTES(memory);
  const Share share = share_of(call, call->columns);
  Pending pending;
  pending.partial = reinterpret_cast<double*>(memory);
  pending.out = at<double>(call->norm_parts) + blockIdx.x;
  pending.stride = 1;
  clear(pending);
  const int number = reserve(pending, 1);
  pending.target[number] = 0;
  PHASE add(pending, number,
            squares_of(call, share.item.row, (long long)share.begin, (long long)share.end));
  flush(pending);
}

// Rows, padded and normalised, into states in global memory.
KERNEL(load) {
  const Share share = share_of(call, 1ll << call->n_qubits);
  PHASE {
    double factor = 1;
    if (call->norm_parts) {
      double norm2 = 0;
      for (long long part = 0; part < call->n_parts; ++part)
        norm2 += at<const double>(call->norm_parts)[share.item.number * call->n_parts + part];
      factor = factor_of(call, norm2);
      check(call, norm2, factor);
    }
    Complex* psi = at<Complex>(call->psi) + (share.item.number << call->n_qubits);
    for (unsigned long long b = share.begin + threadIdx.x; b < share.end; b += blockDim.x)
      psi[b] = loaded(call, share.item.row, unsigned(b), factor);
  }
}

// One block a tile: states in global memory, transformed over some of their bits.
KERNEL(walsh) {
  SHARED_BYTES(memory);
  const unsigned size = 1u << call->tile_bits;
  Complex* psi = reinterpret_cast<Complex*>(memory);
  const Item item = item_of(call, blockIdx.x / call->n_parts);
  const unsigned base = deposited(blockIdx.x % call->n_parts, unsigned(call->free_mask));
  Complex* all_psi = at<Complex>(call->psi) + (item.number << call->n_qubits);
  PHASE for (unsigned l = threadIdx.x; l < size; l += blockDim.x) psi[l] =
      all_psi[address_of(call, base, l)];
  transform(psi, size, int(call->first_bit), int(call->tile_bits));
  PHASE for (unsigned l = threadIdx.x; l < size; l += blockDim.x) {
    const unsigned b = address_of(call, base, l);
    all_psi[b] = call->finishes ? finished(call, item.row, b, psi[l], call->turns_next) : psi[l];
  }
}

// One dense matrix or permutation, from psi to scratch.
KERNEL(gather) {
  const Share share = share_of(call, 1ll << call->n_qubits);
  const long long whole = share.item.number << call->n_qubits;
  PHASE for (unsigned long long b = share.begin + threadIdx.x; b < share.end; b += blockDim.x)
    move(call, at<const Op>(call->ops)[0], unsigned(b), at<const Complex>(call->psi) + whole,
         at<Complex>(call->scratch) + whole, call->inverse);
}

// Parts of the values of states in global memory: [items][observables][n_parts].
KERNEL(observe) {
  SHARED_BYTES(memory);
  const Share share = share_of(call, 1ll << call->n_qubits);
  const Complex* psi = at<const Complex>(call->psi) + (share.item.number << call->n_qubits);
  Pending pending;
  pending.partial = reinterpret_cast<double*>(memory);
  pending.out = at<double>(call->parts) + share.item.number * call->n_targets * call->n_parts +
                share.part;
  pending.stride = call->n_parts;
  clear(pending);
  for (long long k = 0; k < call->n_observables; ++k)
    measure(call, psi, k, share.begin, share.end, pending, int(k));
  flush(pending);
}

// lambda = O psi.
KERNEL(pull) {
  const Share share = share_of(call, 1ll << call->n_qubits);
  const long long whole = share.item.number << call->n_qubits;
  PHASE for (unsigned long long b = share.begin + threadIdx.x; b < share.end; b += blockDim.x)
    at<Complex>(call->lambda)[whole + (long long)b] = pulled_at(
        call, share.item, at<const Complex>(call->psi) + whole, unsigned(b));
}

// sums = parts added up, a thread a target.
KERNEL(gather_parts) {
  PHASE {
    const long long number = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (number < call->n_items * call->n_targets) {
      const double* parts = at<const double>(call->parts) + number * call->n_parts;
      double sum = 0;
      for (long long part = 0; part < call->n_parts; ++part) sum += parts[part];
      at<double>(call->sums)[number] = sum;
    }
  }
}

// Values of states in global memory, from their sums.
KERNEL(store_values) {
  PHASE {
    const long long number = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const long long state = number / call->n_observables, k = number % call->n_observables;
    if (state * call->n_slots < call->n_items) {
      const double sum = at<const double>(call->sums)[state * call->n_slots * call->n_targets + k];
      at<Real>(call->values)[number] = Real(sum);
    }
  }
}

// outputs = sums of scale * sums[term] over the terms of each output, times the distance of a
// feature where a term has one; a thread an output.
KERNEL(accumulate) {
  PHASE {
    const long long number = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (number < call->rows * call->n_slots * call->n_outputs) {
      const long long item = number / call->n_outputs, output = number % call->n_outputs;
      const long long row = item / call->n_slots, slot = item % call->n_slots;
      const double* sums =
          at<const double>(call->sums) + row * call->row_stride + slot * call->slot_stride;
      const long long* first = at<const long long>(call->first_terms) + output;
      double sum = call->term_begin ? at<const double>(call->totals)[number] : 0;
      for (long long i = first[0]; i < first[1]; ++i) {
        const long long term = at<const long long>(call->terms)[i];
        if (term < call->term_begin || term >= call->term_end) continue;
        const long long factor = at<const long long>(call->factors)[i];
        const double scale = at<const double>(call->scales)[i];
        sum += (factor < 0 ? scale : scale * distance_of(call, row, factor)) *
               sums[(term - call->term_begin) * call->term_stride];
      }
      if (call->totals) at<double>(call->totals)[number] = sum;
      if (call->outputs) at<Real>(call->outputs)[number] = Real(sum);
    }
  }
}

// outputs double [rows][n_outputs] = what a circuit reads after an encoding by angles: own inputs,
// features, products of their distances; a thread an output.
KERNEL(columns) {
  PHASE {
    const long long number = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (number < call->rows * call->n_outputs) {
      const long long row = number / call->n_outputs, column = number % call->n_outputs;
      const long long feature = column - call->n_own, pair = feature - call->n_features;
      double value;
      if (feature < 0) {
        value = real_at(call->inputs, call->input_element, row * call->input_stride + column);
      } else if (pair < 0) {
        value = real_at(call->features, call->feature_element,
                        row * call->feature_stride + feature);
      } else {
        const unsigned* both = at<const unsigned>(call->pairs) + 2 * pair;
        value = distance_of(call, row, both[0]) * distance_of(call, row, both[1]);
      }
      at<double>(call->outputs)[number] = value;
    }
  }
}

// outputs = numbers of kFactors, from features; a thread a qubit. Those beyond the features are 0.
KERNEL(make_factors) {
  PHASE {
    const long long number = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (number < call->rows * call->n_qubits) {
      const long long row = number / call->n_qubits, qubit = number % call->n_qubits;
      double* factor = at<double>(call->outputs) + 4 * number;
      if (qubit < call->n_features) {
        const double* waves = at<const double>(call->waves);
        const double angle = call->rate * real_at(call->features, call->feature_element,
                                                  row * call->feature_stride + qubit);
        const double cosine = cos(angle), sine = sin(angle);
        for (int i = 0; i < 4; ++i) {
          const double* wave = waves + 6 * (i / 2) + i % 2;
          factor[i] = wave[0] + wave[2] * cosine + wave[4] * sine;
        }
      } else {
        for (int i = 0; i < 4; ++i) factor[i] = i == 0;
      }
    }
  }
}

// outputs double [rows][n_outputs] = numbers of kPhases: sums of scale * input; a thread a number.
KERNEL(make_phases) {
  PHASE {
    const long long number = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (number < call->rows * call->n_outputs) {
      const long long row = number / call->n_outputs;
      const long long* first =
          at<const long long>(call->first_terms) + number % call->n_outputs;
      double sum = 0;
      for (long long i = first[0]; i < first[1]; ++i)
        sum += at<const double>(call->scales)[i] *
               real_at(call->inputs, call->input_element,
                       row * call->input_stride + at<const long long>(call->terms)[i]);
      at<double>(call->outputs)[number] = sum;
    }
  }
}

// outputs Real [columns] = sums over rows of sums, here Real [rows][columns]: a block a column.
KERNEL(sum_rows) {
  SHARED_BYTES(memory);
  double* partial = reinterpret_cast<double*>(memory);
  PHASE for (unsigned i = threadIdx.x; i < kWarps; i += blockDim.x) partial[i] = 0;
  PHASE {
    double sum = 0;
    for (long long row = threadIdx.x; row < call->rows; row += blockDim.x)
      sum += at<const Real>(call->sums)[row * call->columns + blockIdx.x];
    warp_add(partial + threadIdx.x / 32, sum);
  }
  PHASE if (threadIdx.x == 0) {
    double sum = 0;
    for (unsigned warp = 0; warp < kWarps; ++warp) sum += partial[warp];
    at<Real>(call->outputs)[blockIdx.x] = Real(sum);
  }
}

// Turns states by their global phase, a block an item.
KERNEL(turn_states) {
  PHASE {
    const Item item = item_of(call, blockIdx.x);
    double angle = 0;
    for (long long i = 0; i < call->n_phases; ++i) {
      const Rotation& phase = at<const Rotation>(call->phases)[i];
      angle += phase.offset;
      if (phase.source == 1)
        angle += phase.scale * real_at(call->parameters, call->parameter_element,
                                       item.row * call->parameter_stride + phase.index);
      if (phase.source == 2)
        angle += phase.scale * real_at(call->inputs, call->input_element,
                                       item.row * call->input_stride + phase.index);
    }
    const Complex factor = {Real(cos(angle)), Real(sin(angle))};
    Complex* psi = at<Complex>(call->final_states) + (item.number << call->n_qubits);
    for (unsigned long long b = threadIdx.x; b < 1ull << call->n_qubits; b += blockDim.x)
      psi[b] = product(psi[b], factor);
  }
}

// outputs [items][columns] = derivatives by the rows that were loaded, a block an item: pairs of Real
// where the rows are complex, else Real. A normalised row has none along itself.
KERNEL(pull_back) {
  SHARED_BYTES(memory);
  const Item item = item_of(call, blockIdx.x);
  const Complex* slope = at<const Complex>(call->state_gradient) + (item.number << call->n_qubits);
  const bool is_complex = call->element == kComplex64 || call->element == kComplex128;
  double* partial = reinterpret_cast<double*>(memory);
  PHASE for (unsigned i = threadIdx.x; i < 2 * kWarps; i += blockDim.x) partial[i] = 0;
  PHASE {
    double norm2 = 0, along = 0;
    for (long long b = threadIdx.x; b < call->columns; b += blockDim.x) {
      double re, im;
      element_of(call, item.row, unsigned(b), &re, &im);
      norm2 += re * re + im * im;
      along += re * slope[b].re + im * slope[b].im;
    }
    warp_add(partial + threadIdx.x / 32, norm2);
    warp_add(partial + kWarps + threadIdx.x / 32, along);
  }
  PHASE {
    double norm2 = 0, along = 0, factor = 1;
    for (unsigned warp = 0; warp < kWarps; ++warp) {
      norm2 += partial[warp];
      along += partial[kWarps + warp];
    }
    if (call->normalize) factor = factor_of(call, norm2);
    for (long long b = threadIdx.x; b < call->columns; b += blockDim.x) {
      double re, im;
      element_of(call, item.row, unsigned(b), &re, &im);
      const double share = call->normalize ? along / norm2 : 0;
      const double slope_re = (slope[b].re - share * re) * factor;
      const double slope_im = (slope[b].im - share * im) * factor;
      const long long place = item.number * call->columns + b;
      if (is_complex)
        at<Complex>(call->outputs)[place] = {Real(slope_re), Real(slope_im)};
      else
        at<Real>(call->outputs)[place] = Real(slope_re);
    }
  }
}

// state_gradient = 2 lambda.
KERNEL(doubled) {
  const Share share = share_of(call, 1ll << call->n_qubits);
  const long long whole = share.item.number << call->n_qubits;
  PHASE for (unsigned long long b = share.begin + threadIdx.x; b < share.end; b += blockDim.x) {
    const Complex lambda = at<const Complex>(call->lambda)[whole + (long long)b];
    at<Complex>(call->state_gradient)[whole + (long long)b] = {2 * lambda.re, 2 * lambda.im};
  }
}

// Marginal probabilities of states in global memory, [items][2^n_read]: a block an outcome.
KERNEL(marginals) {
  SHARED_BYTES(memory);
  const long long outcome = blockIdx.x & ((1ll << call->n_read) - 1);
  const Complex* psi =
      at<const Complex>(call->psi) + ((long long)(blockIdx.x >> call->n_read) << call->n_qubits);
  unsigned base = 0;
  for (long long i = 0; i < call->n_read; ++i)
    base |= unsigned(outcome >> (call->n_read - 1 - i) & 1)
            << at<const unsigned>(call->read_bits)[i];
  double* partial = reinterpret_cast<double*>(memory);
  PHASE for (unsigned i = threadIdx.x; i < kWarps; i += blockDim.x) partial[i] = 0;
  PHASE {
    double sum = 0;
    const unsigned long long others = 1ull << (call->n_qubits - call->n_read);
    for (unsigned long long i = threadIdx.x; i < others; i += blockDim.x) {
      const Complex a = psi[base | deposited(i, unsigned(call->other_mask))];
      sum += double(a.re) * a.re + double(a.im) * a.im;
    }
    warp_add(partial + threadIdx.x / 32, sum);
  }
  PHASE if (threadIdx.x == 0) {
    double sum = 0;
    for (unsigned warp = 0; warp < kWarps; ++warp) sum += partial[warp];
    at<Real>(call->outputs)[blockIdx.x] = Real(sum);
  }
}

// |<a|b>|^2 of all pairs of rows of states and other: a block a pair.
KERNEL(overlaps) {
  SHARED_BYTES(memory);
  const long long left = blockIdx.x / call->other_rows * call->columns;
  const long long right = blockIdx.x % call->other_rows * call->columns;
  double* partial = reinterpret_cast<double*>(memory);
  PHASE for (unsigned i = threadIdx.x; i < 4 * kWarps; i += blockDim.x) partial[i] = 0;
  PHASE {
    double sums[4] = {};
    for (long long i = threadIdx.x; i < call->columns; i += blockDim.x) {
      double a_re, a_im, b_re, b_im;
      number_at(call->states, call->element, left + i, &a_re, &a_im);
      number_at(call->other, call->other_element, right + i, &b_re, &b_im);
      sums[0] += a_re * b_re + a_im * b_im;
      sums[1] += a_re * b_im - a_im * b_re;
      sums[2] += a_re * a_re + a_im * a_im;
      sums[3] += b_re * b_re + b_im * b_im;
    }
    for (unsigned k = 0; k < 4; ++k) warp_add(partial + k * kWarps + threadIdx.x / 32, sums[k]);
  }
  PHASE if (threadIdx.x == 0) {
    double sums[4] = {};
    for (unsigned k = 0; k < 4; ++k)
      for (unsigned warp = 0; warp < kWarps; ++warp) sums[k] += partial[k * kWarps + warp];
    const double factor =
        call->tolerance > 0 ? factor_of(call, sums[2]) * factor_of(call, sums[3]) : 1;
    at<Real>(call->outputs)[blockIdx.x] =
        Real(factor * (sums[0] * sums[0] + sums[1] * sums[1]));
  }
}

#ifndef __CUDACC__
// Runs a kernel on the processor, blocks one after another; false if there is none of that name.
extern "C" bool emulate(const char* name, unsigned grid, unsigned block, unsigned shared_bytes,
                        bool reverse, const Call* call) {
  struct Named {
    const char* name;
    void (*kernel)(const Call*);
  };
  const Named kernels[] = {
      {"angles", angles},   {"run", run},         {"pass", pass},
      {"norms", norms},     {"load", load},       {"gather", gather},
      {"observe", observe}, {"pull", pull},       {"gather_parts", gather_parts},
      {"doubled", doubled}, {"overlaps", overlaps}, {"accumulate", accumulate},
      {"marginals", marginals}, {"store_values", store_values}, {"columns", columns},
      {"sum_rows", sum_rows}, {"turn_states", turn_states}, {"pull_back", pull_back},
      {"walsh", walsh},     {"make_factors", make_factors}, {"make_phases", make_phases},
  };
  for (const Named& one : kernels) {
    if (std::strcmp(one.name, name)) continue;
    backwards = reverse;
    gridDim.x = grid;
    blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x) {
      // Anew for each block: what one leaves behind no other may read.
      std::vector<double> memory(shared_bytes / sizeof(double) + 1, std::nan(""));
      shared_memory = reinterpret_cast<unsigned char*>(memory.data());
      one.kernel(call);
    }
    return true;
  }
  return false;
}
#endif
