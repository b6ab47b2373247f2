// SPDX-License-Identifier: Apache-2.0
// What the planner hands to the kernels: plain structs, no library types, so that the files compiled
// once per instruction set share no inline code with the rest.
//
// Letters: a *line* is one vector register of `lanes` numbers. In the batch layout a lane is a row of
// the batch and a line holds one amplitude of each; in the sample layout a line holds neighbouring
// amplitudes of one row. A state is two planes of lines, real parts then imaginary parts; the plane
// is one more address bit, `plane_bit`, above the line bits. Addresses are combined by XOR only.
#pragma once
#include <cstddef>
#include <cstdint>

namespace qdp {

constexpr int kMaxSweepBits = 8;  // 2^8 lines of 64 bytes: half of a 32 KiB first-level cache
constexpr int kMaxPassBits = 4;   // 2^4 lines in registers

// Commuting Pauli rotations with independent X masks, applied in one walk over the state.
//
// The walk visits cosets of the span of the X masks, 2^bits lines each. Bit j of a line's local index
// is rotation j. In these coordinates every rotation is the same real butterfly
//     p' = p - tau q,   q' = q + tau p
// on one of two independent sets of lines: set 0 holds, at local index l, the real plane when the
// parity of (l & imaginary) is even and the imaginary plane when it is odd; set 1 holds the others.
// Where rotations overlap, signs depend on pairs of local bits: `negative` folds them into the load
// and the store.
struct Sweep {
  int bits;
  int n_passes;
  int pass_bits[kMaxSweepBits];
  uint32_t imaginary;         // rotations whose Pauli word is real: they mix the two planes
  uint32_t plane_bit;         // address bit of the imaginary plane
  int64_t n_blocks;
  const uint32_t* base;       // [n_blocks] first line of each coset
  const uint32_t* sign;       // [n_blocks] bit j: rotation j turns the other way in this coset
  const uint32_t* offset;     // [2^bits] local index -> XOR on the line address, plane included
  const int8_t* negative;     // [2^bits] +1 or -1, or null when all are +1
};

template <class T>
struct SweepCall {
  const Sweep* sweep;
  const T* source;
  T* target;
  const T* coefficient;  // [bits] lines of tan (tangent form) or [bits][2] lines of cos, sin
  bool rows_form;        // cos and sin differ from lane to lane: the four-operation form
  bool inverse;
  int first_set, n_sets; // sets [first_set, n_sets); up to 1 when the state is real and stays so
  int64_t begin, end;    // blocks
  // Tangent form forward only: the source is real and a diagonal comes before the sweep; its table (cosines, then
  // sines, addressed as planes) multiplies the lines as they are read. Source and target differ.
  const T* load_table;
  bool load_per_line;
  // Gradient only:
  const T* psi;
  double* gradient;      // [bits] lines, added to: long sums are kept in double
  bool unapply;
};

template <class T>
struct DiagonalCall {
  const T* source;   // lines
  T* target;
  const T* table;    // cosines [n] then sines [n]; n counts amplitudes of one row
  int64_t table_stride;
  bool conjugate;
  bool real_source;  // the imaginary plane of the source is zero and not read
  int64_t n_lines;
  int64_t begin, end;
  uint32_t plane;    // lines from the real to the imaginary plane
  bool per_line;     // sample layout: the table runs along the lanes
};

// Im <lambda|Z_j|psi> for independent Z words j, taken together: along the axes dual to the words
// the sum for each word is a difference, so a tree of sums and differences gives all of them.
// In the same walk the diagonal itself is undone on lambda, and, behind the last step, lambda is
// made from psi by a diagonal observable.
template <class T>
struct DiagonalGradientCall {
  int n_bits;            // line bits, at least 3
  const uint32_t* axis;  // [n_bits + 1] dual vectors, then a zero
  const T* psi;          // before the diagonal
  bool real_psi;
  T* lambda;             // behind the diagonal on entry, before it on return
  bool real_only;        // with real_psi and a table: only the real plane of lambda is wanted
  uint32_t plane;
  const T* table;        // of the diagonal, as in DiagonalCall; null: lambda is before it already
  int64_t table_stride;
  bool per_line;
  const T* observable;   // lambda = weight * observable * psi behind the diagonal; or null
  uint32_t shift, lane_shift;  // the observable is read at line ^ shift (pending Pauli frame)
  const T* weight;       // one line, or null for 1
  double* value;         // one line: adds <psi|observable|psi>, not weighted
  double* gradient;      // [n_bits + 1] lines, one an axis and the sum over all, added to
  T* totals;             // 2^(n_bits - 3) lines of scratch
  int64_t begin, end;    // of 2^(n_bits - 3) Gray-code positions
};

// <psi'|observable|psi'> for psi' = diagonal * rotation * psi, nothing written: the end of a shifted
// evaluation.
template <class T>
struct MeasureCall {
  const T* psi;
  bool real_psi;
  uint32_t plane;
  const T* table;        // as in DiagonalCall
  int64_t table_stride;
  bool per_line;
  const T* observable;   // real, as above
  uint32_t shift, lane_shift;
  T factor;
  bool rotated;          // mask is not zero and touches no lanes
  uint32_t mask, z, lane_z;
  int phase;
  const T* cosine;       // one line each
  const T* sine;
  int64_t begin, end;    // lines
  double* value;         // one line, added to
};

// Sum over the Pauli words of one X mask of an observable: D = sum of c (-1)^(z.x), a table.
template <class T>
struct ObservableCall {
  const T* psi;
  T* lambda;           // null: the value only
  bool accumulate;     // lambda += rather than =
  bool real_psi;
  uint32_t mask;       // X mask on lines
  uint32_t lane_mask;  // X mask on lanes (sample layout)
  uint32_t shift;      // the table is read at line ^ shift (pending Pauli frame)
  uint32_t lane_shift;
  T factor;            // +1 or -1 (pending Pauli frame)
  const T* real_table;
  const T* imaginary_table;  // null: zero
  const T* weight;     // one line: the cotangents of the rows; null: 1
  bool per_line;
  uint32_t plane;
  int64_t begin, end;
  double* value;       // one line, added to (not weighted)
};

// Commuting rotations whose X masks reach into the lanes (sample layout), in one walk over cosets of
// 2^2 lines; a partner lies in line `partner` of the coset and in lane ^ lane_mask.
constexpr int kLaneBits = 2;
constexpr int kMaxLaneRotations = 16;

struct LaneRotation {
  uint32_t partner, lane_mask;
  uint32_t z;          // line part of the word's Z mask
  uint32_t signs;      // bit e: parity of z and the offset of line e of the coset
  int turns;           // P|x> = i^turns (-1)^(z.x) |x ^ mask>
};

struct LaneSweep {
  int n_rotations;
  int64_t n_blocks;
  const uint32_t* base;      // [n_blocks]
  uint32_t offset[1 << kLaneBits];
  const LaneRotation* rotations;
};

template <class T>
struct LaneCall {
  const LaneSweep* sweep;
  const T* source;
  T* target;
  bool real_source;
  bool inverse;
  // [n_rotations][2] lines: cosine, and sine with the lane signs of the source; in tangent form the
  // cosine is left out and the tangent stands for the sine
  const T* coefficient;
  bool tangent;
  uint32_t plane;
  int64_t begin, end;    // blocks
  // gradient: lambda is source and target
  const T* psi;
  bool real_psi;
  const T* lane_signs;   // [n_rotations] lines
  double* gradient;      // [n_rotations] lines, added to
  bool unapply;
};

// One Pauli rotation out of place, cos - i sin P.
template <class T>
struct RotationCall {
  const T* source;
  T* target;
  uint32_t mask, lane_mask;
  uint32_t z, lane_z;
  int phase;           // P|x> = i^phase (-1)^(z.x) |x ^ mask>
  const T* cosine;     // one line
  const T* sine;       // one line
  bool real_source;    // with an imaginary word (odd phase) the target is real too: one plane
  uint32_t plane;
  int64_t begin, end;  // lines
  // gradient form: target null, adds Im <lambda|P|psi> with psi = source
  const T* lambda;
  double* gradient;
};

// A complex matrix on the 2^k lines base[i] ^ offset[.] of each coset (batch layout).
template <class T>
struct DenseCall {
  const T* source;
  T* target;
  const T* matrix;         // [size][size] pairs
  int64_t size;
  const uint32_t* offset;  // [size]
  const uint32_t* base;
  int64_t begin, end;      // bases
  uint32_t plane;
  T* scratch;              // 2 * size lines
};

// Rows that start as products of single-qubit states (batch layout).
template <class T>
struct ProductCall {
  const T* factors;      // [n_bits][4] lines, the lowest bit first: |0> re, im, |1> re, im
  bool real;             // the imaginary parts are zero, and that plane is not written
  int n_bits;
  const uint32_t* line;  // [2^n_bits] line of each amplitude
  T* target;
  uint32_t plane;
};

// Rows that start as encode_phases in engine.hpp says (batch layout).
template <class T>
struct PhaseCall {
  const T* cosines;      // lines of the phases: the constant, one a qubit, one a pair of qubits
  const T* sines;
  int n_bits, repeats;
  bool closes;
  T scale;               // of a round of Hadamards
  const uint32_t* line;  // [2^n_bits] line of each amplitude
  T* target;
  uint32_t plane;
  T* products;           // 2^n_bits lines of scratch
  T* table;              // 2 * 2^n_bits lines of scratch, if there is more than one round
};

constexpr int kMultiplyAddChains = 12;

template <class T>
struct KernelTable {
  int lanes;
  void (*sweep)(const SweepCall<T>&);
  void (*sweep_gradient)(const SweepCall<T>&);
  void (*diagonal)(const DiagonalCall<T>&);
  void (*diagonal_gradient)(const DiagonalGradientCall<T>&);
  void (*diagonal_totals)(const DiagonalGradientCall<T>&);
  void (*observable)(const ObservableCall<T>&);
  void (*measure)(const MeasureCall<T>&);
  void (*lane_sweep)(const LaneCall<T>&);
  void (*lane_gradient)(const LaneCall<T>&);
  void (*rotate)(const RotationCall<T>&);
  void (*rotate_gradient)(const RotationCall<T>&);
  // sine and cosine of n angles, |angle| < 1e5 in double; scaled by factor
  void (*sincos)(const double* angles, int64_t n, double factor, T* cosines, T* sines);
  // Walsh-Hadamard transform in place over 2^bits doubles
  void (*walsh)(double* values, int bits);
  // Lays `lanes` rows of n numbers into lines line[0..n), adding the squares at even and odd places
  // to two lines; and back.
  void (*load)(const T* const* rows, int64_t n, const uint32_t* line, T* target,
               double* squares);
  void (*store)(const T* source, int64_t n, const uint32_t* line, const T* factor, T* const* rows,
                int n_rows);
  void (*product)(const ProductCall<T>&);
  void (*phases)(const PhaseCall<T>&);
  // out[slot[t]] = sum of factor[t] * gradient[place[t]] over the n terms, lines all of them; a slot
  // without a term is zero, `sums` is as many lines of scratch
  void (*collect)(const double* gradient, const int32_t* place, const double* factor,
                  const int32_t* slot, int64_t n, int64_t n_slots, double* sums, T* out);
  void (*dense)(const DenseCall<T>&);
  // rounds x kMultiplyAddChains multiply-adds on registers, to measure what the processor can do
  double (*multiply_add)(int64_t rounds);
  // a = b + factor c over n lines, to measure how fast memory is
  void (*triad)(const T* b, const T* c, T* a, int64_t n, bool streaming);
  // out = c a + d b, n numbers each
  void (*combine)(const T* a, const T* b, T c, T d, int64_t n, T* out);
  // complex products of n numbers with n others (step 1) or with one (step 0), to another place
  void (*multiply_tables)(const double* a_re, const double* a_im, const double* b_re,
                          const double* b_im, int64_t step, int64_t n, double* re, double* im);
  void (*interleave)(const double* re, const double* im, double factor, int64_t n, T* out);
  double (*squares)(const T* values, int64_t n);  // their sum
  // sums[r][c] (= where first, else +=) sum over k of rows[k][r] * columns[k][c], for a tile of
  // overlap_rows rows and overlap_lines lines of columns
  int overlap_rows, overlap_lines;
  void (*overlap)(const T* rows, const T* columns, int64_t n, double* sums, bool first);
};

template <class T>
struct InstructionSet {
  const KernelTable<T>* tables;  // widest first
  int n_tables;
};

}  // namespace qdp
