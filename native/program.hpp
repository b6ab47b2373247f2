// SPDX-License-Identifier: Apache-2.0
// A circuit in normal form (src/qdp/program.py) and its schedules: which rotations share a walk over
// the state, with all addresses and signs worked out. Holds structure only, no angles.
#pragma once
#include <complex>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "plan.hpp"

namespace qdp {

enum class Source { constant = 0, parameter = 1, input = 2 };

// exp(-i angle/2 P) with P|b> = i^popcount(x & z) (-1)^popcount(z & b) |b ^ x>.
struct Rotation {
  uint32_t x, z;
  Source source;
  int index;
  double scale, offset;  // angle = scale * value + offset
  int turns;             // popcount(x & z) mod 4 of the word as given, see Placement
};

enum class StepKind { rotations = 0, diagonal = 1, dense = 2, permutation = 3, table = 4 };

struct Step {
  StepKind kind;
  std::vector<int> rotations;  // all commute
  int item = 0;                // index of the dense matrix, permutation or table
};

struct Dense {
  std::vector<std::complex<double>> matrix;
  std::vector<int> bits;  // address bit of each target, most significant of the matrix first
  uint32_t control_mask, control_value;
};

// out[b] = i^phase[b] in[source[b]]
struct Permutation {
  std::vector<uint32_t> source;
  std::vector<uint8_t> phase;
};

// The words of one observable with one X mask: sum of c (-1)^(z.b) at b, then b -> b ^ mask.
struct ObservableGroup {
  int observable;
  uint32_t mask;
  std::vector<uint32_t> z;
  std::vector<std::complex<double>> c;
};

struct SweepPlan {
  Sweep sweep{};
  std::vector<int> rotations;
  std::vector<uint32_t> base, sign, offset;
  std::vector<int8_t> negative;
};

struct LanePlan {
  LaneSweep sweep{};
  std::vector<int> rotations;
  std::vector<uint32_t> base;
  std::vector<LaneRotation> turns;
};

// Inner products of Z words taken in one walk: word -> axis, or n_line_bits for the plain sum.
struct Tree {
  std::vector<uint32_t> axis;
  std::vector<std::pair<int, int>> words;
};

// Z words with an angle per row, applied together: their phases in every row are the product of one
// factor a word, a table in lines that doubles along the axes dual to the words.
struct RowTable {
  std::vector<int> words;      // rotation of axis j
  std::vector<uint32_t> line;  // [2^n] coordinates along the axes -> line
};

struct ScheduledStep {
  StepKind kind;
  int item = 0;
  std::vector<SweepPlan> sweeps;      // one angle for the whole batch
  std::vector<SweepPlan> row_sweeps;  // an angle per row
  std::vector<LanePlan> lane_sweeps;  // sample layout: rotations that cross lanes
  std::vector<int> singles;           // Z words with an angle per row: one at a time,
  std::vector<RowTable> row_tables;   // and many together
  std::vector<int> table_words;       // diagonal: rotations in the shared table
  std::vector<Tree> trees;
  bool keeps_real = false;
  bool has_gradient = false;
  bool has_row_phases() const { return !singles.empty() || !row_tables.empty(); }
};

struct Layout {
  int lane_bits;           // 0: lanes are rows; else the low address bits run along the lanes
  int max_pass_bits;
  bool parameters_per_row;
  bool inputs_per_row;
  bool varies(const Rotation& rotation) const {
    if (lane_bits) return false;
    return (rotation.source == Source::parameter && parameters_per_row) ||
           (rotation.source == Source::input && inputs_per_row);
  }
  auto key() const {
    return std::make_pair(lane_bits * 8 + max_pass_bits,
                          int(parameters_per_row) * 2 + int(inputs_per_row));
  }
};

// Where amplitude b of a state lies: address place(b). The high line bits are folded into the low
// six, which choose the cache set, so that lines a power of two apart do not evict each other. The
// map is linear over GF(2) and its own inverse, so words move along with it.
struct Placement {
  int lane_bits = 0;
  static uint32_t fold(uint32_t line) {
    return line ^ (line >> 6 & 63) ^ (line >> 12 & 63) ^ (line >> 18 & 63) ^ (line >> 24 & 63);
  }
  uint32_t operator()(uint32_t b) const {
    return fold(b >> lane_bits) << lane_bits | (b & ((1u << lane_bits) - 1));
  }
  // The word z' with z'.place(b) = z.b.
  uint32_t word(uint32_t z) const {
    const uint32_t low = (z >> lane_bits & 63) << lane_bits;
    return z ^ low << 6 ^ low << 12 ^ low << 18 ^ low << 24;
  }
};

// All masks below are in placed coordinates.
struct Schedule {
  Layout layout;
  Placement place;
  std::vector<Rotation> rotations;
  std::vector<ObservableGroup> groups;
  std::vector<ScheduledStep> steps;
  // [group] over all 2^n addresses, real parts then imaginary parts; the latter absent when zero
  std::vector<std::vector<double>> group_tables;
};

class Program {
 public:
  int n_qubits = 0, n_parameters = 0, n_inputs = 0, n_observables = 0;
  std::vector<Rotation> rotations;
  std::vector<Step> steps;
  std::vector<Dense> denses;
  std::vector<Permutation> permutations;
  std::vector<std::vector<std::complex<double>>> tables;
  std::vector<ObservableGroup> groups;
  double phase_constant = 0;  // global phase: constant + sum of scale * value
  std::vector<Rotation> phases;

  // True when only Pauli rotations occur: then a rotation by pi may be left in the Pauli frame.
  bool only_rotations() const;
  const Schedule& schedule(const Layout& layout) const;

 private:
  mutable std::mutex mutex_;
  mutable std::map<std::pair<int, int>, std::unique_ptr<Schedule>> schedules_;
};

inline int parity(uint32_t v) { return __builtin_parity(v); }

}  // namespace qdp
