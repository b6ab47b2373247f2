// SPDX-License-Identifier: Apache-2.0
// The walk through a program: forward, adjoint and shifted runs of one unit of work, which is a tile
// of rows (batch layout: a lane is a row) or one row (sample layout: lanes are amplitudes).
//
// Tangent form leaves the cosines out, so a stored state is the true one divided by a known scale:
// psi_true = a * psi, lambda_true = c * lambda. A rotation by more than pi/2 is cut to the nearest
// Pauli, which moves into the *frame*: P|..> with X part `frame_x` and Z part `frame_z` stands to
// the left of all that is stored; it turns the signs of later rotations and observables.
#include "engine.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "encode.hpp"
#include "isa.hpp"
#include "memory.hpp"
#include "pool.hpp"
#include "profile.hpp"

namespace qdp {

namespace {

// A dense operation ready to run, and its inverse.
template <class T>
struct DensePlan {
  int64_t size = 0;
  Aligned<T> matrix, inverse;
  std::vector<uint32_t> offset, base;
};

constexpr int kMaxLanes = 16;  // floats in the widest register
constexpr double kQuarterTurn = 0.78539816339744830962;
// From here on a tile of rows falls out of the second-level cache and one row at a time is faster.
template <class T>
constexpr int kSampleQubits = sizeof(T) == 8 ? 14 : 15;
// One row is split over the threads from this many lines on; below, waking them costs more.
constexpr int kSplitLineBits = 12;
constexpr double kStepNanoseconds = 0.004;  // a rotation of one amplitude, a byte of its real part
constexpr double kRowNanoseconds = 25;      // a walk through a row's tile, however small
constexpr int64_t kPartAmplitudes = 256;  // of a row of the tiles that a thread takes at once
constexpr size_t kTileBytes = size_t(512) << 10;        // of one state before lines are narrowed
constexpr size_t kShiftTableBytes = size_t(128) << 20;
constexpr size_t kCheckpointBytes = size_t(48) << 20;   // a thread; beyond, states are recomputed
constexpr double kFoldBelow = 1.0 / (1 << 20);

// Everything that depends on the angles but not on the states.
template <class T>
struct Coefficients {
  std::vector<double> angle;               // [R] with the frame's sign, before reduction
  std::vector<Aligned<T>> sweep_lines;     // per sweep in order of the schedule
  std::vector<bool> sweep_rows_form;
  std::vector<std::vector<Aligned<T>>> lane_lines;  // [step][lane sweep]: see LaneCall
  std::vector<std::vector<bool>> lane_tangent;
  std::vector<Aligned<T>> tables;          // per step, cosines then sines
  std::vector<double> fold, cosines;       // per step
  std::vector<double> scale;               // a after each step
  std::vector<int> frame_sign;             // [R] +1 or -1
  uint32_t frame_x = 0, frame_z = 0;
};

template <class T>
class Runner {
 public:
  Runner(const Program& program, const Request<T>& request) : program_(program), request_(request) {
    n_ = program.n_qubits;
    choose_layout();
    schedule_ = &program_.schedule(layout_);
    rotations_ = &schedule_->rotations;
    n_line_bits_ = n_ - layout_.lane_bits;
    n_lines_ = int64_t(1) << n_line_bits_;
    lane_mask_ = (1u << layout_.lane_bits) - 1;
    state_size_ = size_t(2 * n_lines_) * lanes_;
    n_steps_ = int(schedule_->steps.size());
    first_sweeps_.push_back(0);
    for (const ScheduledStep& step : schedule_->steps)
      first_sweeps_.push_back(first_sweeps_.back() + int(step.sweeps.size()));
    may_flip_ = program_.only_rotations() && !request_.final_states && !request_.probabilities;
    wants_gradient_ =
        request_.parameter_gradient || request_.input_gradient || request_.state_gradient;
    step_of_.resize(rotations_->size(), -1);
    for (int i = 0; i < n_steps_; ++i)
      for (int index : program_.steps[i].rotations) step_of_[index] = i;
    build_line_map();
    convert_tables();
    plan_checkpoints();
    if (wants_gradient_) plan_gradients();
  }

  void run() {
    const bool per_row_angles =
        layout_.lane_bits && (request_.parameters_per_row || program_.n_inputs > 0);
    if (!per_row_angles) {
      prepare(shared_, request_.parameters, request_.inputs);
      prepare_shifts();
    }
    const int64_t rows_per_unit = layout_.lane_bits ? 1 : lanes_;
    const int64_t n_units = (request_.rows + rows_per_unit - 1) / rows_per_unit;
    const int threads = std::min(threads_, threads_for(estimated_nanoseconds()));
    const bool split_state =
        layout_.lane_bits && n_units < threads && n_line_bits_ >= kSplitLineBits;
    n_parts_ = split_state ? threads : 1;
    const int n_workers = split_state ? 1 : int(std::min<int64_t>(threads, n_units));
    std::vector<Unit> units(n_workers > 0 ? n_workers : 1);
    auto work = [&](int64_t number, int worker) {
      Unit& unit = units[worker];
      if (unit.buffers.empty()) allocate(unit);
      unit.row = number * rows_per_unit;
      unit.n_rows = int(std::min<int64_t>(rows_per_unit, request_.rows - unit.row));
      if (per_row_angles) {
        prepare(unit.own,
                request_.parameters_per_row
                    ? request_.parameters + unit.row * program_.n_parameters
                    : request_.parameters,
                request_.inputs ? request_.inputs + unit.row * program_.n_inputs : nullptr);
        unit.coefficients = &unit.own;
      } else {
        unit.coefficients = &shared_;
      }
      run_unit(unit);
    };
    if (split_state) {
      for (int64_t number = 0; number < n_units; ++number) work(number, 0);
    } else {
      // Small states are handed out by the dozen: taking one costs as much as a few gates on it.
      const int64_t together = std::max<int64_t>(
          1, std::min<int64_t>(n_units / (8 * threads), kPartAmplitudes >> n_));
      run_parts(int((n_units + together - 1) / together), threads, [&](int part, int worker) {
        const int64_t end = std::min(n_units, (part + 1) * together);
        for (int64_t number = part * together; number < end; ++number) work(number, worker);
      });
    }
  }

 private:
  // Apart by more than the lines that processors fetch together: each belongs to one thread.
  struct alignas(128) Unit {
    int64_t row = 0;
    int n_rows = 1;
    const Coefficients<T>* coefficients = nullptr;
    Coefficients<T> own;
    std::vector<Aligned<T>> buffers;  // states
    std::vector<T*> checkpoint;       // [n_steps + 1], after step i - 1; null when not kept
    std::vector<char> real;           // [n_steps + 1]
    Aligned<T> lambda, totals, dense, rows, row_lines, row_cosines, row_sines;
    Aligned<double> gradient, axis_sums, row_angles;
    Aligned<double> sums;             // [P + F] lines, and the same as numbers of the states' kind:
    Aligned<T> slot_lines;
    std::vector<double> factor, term_factor;
    Aligned<double> prepared_angles;  // of encodings that are worked out as rows are loaded
    Aligned<T> prepared, prepared_row, products, table, row_phases;
    int64_t encoded = -1;             // the row in prepared_row
    Aligned<T> converted;             // a row in another precision than its own
    std::unique_ptr<ProductEncoder<T>> product_encoder;
    std::unique_ptr<PhaseEncoder<T>> phase_encoder;
    double inverse_norm2[kMaxLanes];
    double inverse_norm[kMaxLanes];
    int used = 0;  // buffers in use
  };

  // What one thread would take, within a factor of two or three.
  double estimated_nanoseconds() const {
    const double slots = request_.cotangents ? 1 : program_.n_observables;
    const double passes =
        1 + (wants_gradient_ ? 2 * slots : 0) + 0.5 * double(request_.shifts.size());
    const int transforms = request_.phases ? request_.repeats - 1 + request_.closes : 0;
    const double loading = request_.factors ? 2 : request_.phases ? 6 + n_ * transforms : 0;
    const double steps = double(rotations_->size()) + 4.0 * program_.n_observables;
    const double amplitude = kStepNanoseconds * double(sizeof(T)) * std::exp2(n_);
    const double row = amplitude * (steps * passes + loading) + kRowNanoseconds * passes;
    return double(request_.rows) * row;
  }

  // ---- choices ----------------------------------------------------------------------------------

  void choose_layout() {
    const IsaEntry& entry = isa();
    const InstructionSet<T>& set = entry.kernels<T>();
    layout_.max_pass_bits = entry.max_pass_bits;
    layout_.parameters_per_row = request_.parameters_per_row;
    layout_.inputs_per_row = program_.n_inputs > 0;
    const int lanes = set.tables[0].lanes;
    int lane_bits = 0;
    while ((1 << lane_bits) < lanes) ++lane_bits;
    bool sample = false;
    if (request_.layout == LayoutChoice::sample) {
      if (n_ < lane_bits + 3)
        throw std::invalid_argument("the sample layout needs more qubits than that");
      sample = true;
    } else if (request_.layout == LayoutChoice::automatic) {
      const bool few_rows = n_ >= 9 && request_.rows * 2 <= lanes;
      sample = n_ >= lane_bits + 3 && (n_ >= kSampleQubits<T> || few_rows);
    }
    if (sample) {
      layout_.lane_bits = lane_bits;
      kernels_ = &set.tables[0];
    } else {
      layout_.lane_bits = 0;
      kernels_ = &set.tables[0];
      // Narrower lines when that keeps a tile's states in the second-level cache.
      const size_t tile = (size_t(2) << n_) * set.tables[0].lanes * sizeof(T);
      if (set.n_tables > 1 && tile > kTileBytes) kernels_ = &set.tables[1];
    }
    lanes_ = kernels_->lanes;
    kernels_ = profiled(kernels_);
  }

  // Which states the backward walk wants: behind a step of rotations, before a diagonal one.
  void plan_checkpoints() {
    keep_.assign(n_steps_ + 1, 0);
    earliest_ = n_steps_;
    ends_fused_ = can_end_fused();
    if (!request_.shifts.empty()) {
      for (const ShiftedAngles& angles : request_.shifts)
        keep_[angles.empty() ? n_steps_ : start_of(angles)] = 1;
      if (ends_fused_) keep_[n_steps_ - 1] = 1;
    } else if (request_.parameter_gradient || request_.input_gradient) {
      for (int i = n_steps_ - 1; i >= 0; --i) {
        const ScheduledStep& step = schedule_->steps[i];
        if (!step.has_gradient) continue;
        earliest_ = i;
        keep_[step.kind == StepKind::diagonal ? i : i + 1] = 1;
      }
    }
    size_t kept = 0;
    for (char keep : keep_) kept += keep;
    if (kept * state_size_ * sizeof(T) > kCheckpointBytes) {
      unapply_psi_ = true;
      ends_fused_ = false;
      std::fill(keep_.begin(), keep_.end(), 0);
    }
  }

  // The last step is one table and what is measured is diagonal: diagonal, observable and, going
  // back, the diagonal's inverse and gradients are then one walk.
  bool can_end_fused() const {
    if (n_steps_ == 0 || n_line_bits_ < 3 || request_.final_states || request_.probabilities)
      return false;
    const ScheduledStep& step = schedule_->steps[n_steps_ - 1];
    if (step.kind != StepKind::diagonal || step.table_words.empty() || step.has_row_phases())
      return false;
    for (int k = 0; k < program_.n_observables; ++k)
      if (diagonal_group(k) < 0) return false;
    if (!wants_gradient_) return program_.n_observables > 0;
    // Going back, the walk's tree is what does it, for one observable at a time.
    return (request_.parameter_gradient || request_.input_gradient) && step.has_gradient &&
           program_.n_observables > 0 && (!request_.cotangents || program_.n_observables == 1);
  }

  uint32_t place(int64_t b) const { return schedule_->place(uint32_t(b)); }

  void build_line_map() {
    const int64_t size = int64_t(1) << n_;
    if (layout_.lane_bits) return;
    line_map_.resize(2 * size);
    for (int64_t b = 0; b < size; ++b) {
      line_map_[2 * b] = place(b);
      line_map_[2 * b + 1] = place(b) + uint32_t(n_lines_);
    }
    real_line_map_.resize(size);
    for (int64_t b = 0; b < size; ++b) real_line_map_[b] = place(b);
  }

  void convert_tables() {
    if (request_.values || wants_gradient_ || request_.shifted_values) {
      for (const std::vector<double>& table : schedule_->group_tables) {
        Aligned<T> copy(table.size());
        std::copy(table.begin(), table.end(), copy.get());
        group_tables_.push_back(std::move(copy));
        group_complex_.push_back(table.size() > size_t(1) << n_);
      }
    }
    for (const auto& table : program_.tables) {
      Aligned<T> copy(2 * table.size());
      for (size_t i = 0; i < table.size(); ++i) {
        copy[place(i)] = T(table[i].real());
        copy[table.size() + place(i)] = T(table[i].imag());
      }
      constant_tables_.push_back(std::move(copy));
    }
    for (const Dense& dense : program_.denses) {
      const size_t size = size_t(1) << dense.bits.size();
      DensePlan<T> plan;
      plan.size = int64_t(size);
      plan.matrix.resize(2 * size * size);
      plan.inverse.resize(2 * size * size);
      for (size_t i = 0; i < size; ++i)
        for (size_t j = 0; j < size; ++j) {
          const std::complex<double> m = dense.matrix[i * size + j];
          plan.matrix[2 * (i * size + j)] = T(m.real());
          plan.matrix[2 * (i * size + j) + 1] = T(m.imag());
          plan.inverse[2 * (j * size + i)] = T(m.real());
          plan.inverse[2 * (j * size + i) + 1] = T(-m.imag());
        }
      uint32_t targets = 0;
      for (int bit : dense.bits) targets |= 1u << bit;
      for (size_t i = 0; i < size; ++i) {
        uint32_t offset = 0;
        for (size_t j = 0; j < dense.bits.size(); ++j)
          if (i >> (dense.bits.size() - 1 - j) & 1) offset |= 1u << dense.bits[j];
        plan.offset.push_back(place(offset));
      }
      for (uint32_t b = 0; b < (uint64_t(1) << n_); ++b)
        if (!(b & targets) && (b & dense.control_mask) == dense.control_value)
          plan.base.push_back(place(b));
      dense_scratch_ = std::max(dense_scratch_, size);
      dense_plans_.push_back(std::move(plan));
    }
  }

  void allocate(Unit& unit) {
    size_t n_buffers = 3;
    for (char keep : keep_) n_buffers += keep;
    unit.buffers.resize(n_buffers);
    unit.checkpoint.assign(n_steps_ + 1, nullptr);
    unit.real.assign(n_steps_ + 1, 0);
    unit.factor.assign(n_steps_ + 1, 0);
    unit.term_factor.assign(term_step_.size(), 0);
    unit.sums.resize(slots_.size() * lanes_);
    unit.slot_lines.resize(slots_.size() * lanes_);
    if (wants_gradient_) {
      unit.lambda.resize(state_size_);
      unit.gradient.resize(size_t(n_parts_) * (rotations_->size() + 1) * lanes_);
    }
    unit.axis_sums.resize(size_t(n_parts_) * (n_line_bits_ + 2) * lanes_);
    unit.totals.resize(size_t(n_lines_ / 8 + 1) * lanes_);
    unit.dense.resize(2 * dense_scratch_ * lanes_);
    unit.rows.resize(layout_.lane_bits ? 1 : size_t(lanes_) * 2 * size_t(n_lines_));
    if (!layout_.lane_bits) {
      const size_t n_rotations = rotations_->size();
      unit.row_lines.resize(2 * n_rotations * lanes_);
      unit.row_angles.resize(n_rotations * lanes_);
      unit.row_cosines.resize(n_rotations * lanes_);
      unit.row_sines.resize(n_rotations * lanes_);
    }
  }

  // ---- angles -----------------------------------------------------------------------------------

  // An angle brought within 2 pi of zero, exactly: subtracting multiples of a rounded pi would lose
  // digits of a large one. exp(-i angle/2 P) has period 4 pi.
  static double reduced(double angle) {
    const double half = angle / 2;
    if (std::abs(half) <= 4 * kQuarterTurn) return angle;
    return 2 * std::atan2(std::sin(half), std::cos(half));
  }

  static double angle_of(const Rotation& r, const double* parameters, const double* inputs) {
    switch (r.source) {
      case Source::parameter:
        return reduced(r.scale * parameters[r.index] + r.offset);
      case Source::input:
        return reduced(r.scale * inputs[r.index] + r.offset);
      default:
        return reduced(r.offset);
    }
  }

  // +-i turns out of P for the tangent form: with P|b> = i^y ..., y odd, the butterfly turns by
  // +tau for y = 1 and -tau for y = 3; with y even the plane decides and the sign is (-1)^(y/2).
  static double word_sign(const Rotation& r) {
    return r.turns < 2 ? 1 : -1;
  }

  T lane_sign(uint32_t z, int lane) const {
    return parity(z & lane_mask_ & uint32_t(lane)) ? T(-1) : T(1);
  }

  void prepare(Coefficients<T>& out, const double* parameters, const double* inputs) {
    const auto& rotations = *rotations_;
    out.angle.assign(rotations.size(), 0);
    out.frame_sign.assign(rotations.size(), 1);
    out.frame_x = out.frame_z = 0;
    out.fold.assign(n_steps_, 1);
    out.cosines.assign(n_steps_, 1);
    out.scale.assign(n_steps_ + 1, 1);
    out.tables.resize(n_steps_);
    out.sweep_lines.clear();
    out.sweep_rows_form.clear();
    out.lane_lines.clear();
    out.lane_lines.resize(n_steps_);
    out.lane_tangent.assign(n_steps_, {});
    double scale = 1;
    for (int i = 0; i < n_steps_; ++i) {
      const ScheduledStep& step = schedule_->steps[i];
      const auto signed_angle = [&](int index) {
        const Rotation& r = rotations[index];
        const int sign = parity(out.frame_x & r.z) ^ parity(out.frame_z & r.x) ? -1 : 1;
        out.frame_sign[index] = sign;
        out.angle[index] = sign * angle_of(r, parameters, inputs);
      };
      for (const SweepPlan& plan : step.row_sweeps) {
        for (int index : plan.rotations) {
          const Rotation& r = rotations[index];
          out.frame_sign[index] = parity(out.frame_x & r.z) ^ parity(out.frame_z & r.x) ? -1 : 1;
        }
      }
      const auto sign_of_row_angle = [&](int index) {
        const Rotation& r = rotations[index];
        out.frame_sign[index] = parity(out.frame_x & r.z) ^ parity(out.frame_z & r.x) ? -1 : 1;
      };
      for (int index : step.singles) sign_of_row_angle(index);
      for (const RowTable& table : step.row_tables)
        for (int index : table.words) sign_of_row_angle(index);
      if (step.kind == StepKind::diagonal) {
        for (int index : step.table_words) signed_angle(index);
        if (!step.table_words.empty()) {
          out.fold[i] = scale;
          scale = 1;
          fill_table(out.tables[i], step, out);
        }
      } else if (step.kind == StepKind::rotations) {
        if (scale < kFoldBelow) {
          out.fold[i] = scale;
          scale = 1;
        }
        uint32_t flip_x = 0, flip_z = 0;
        for (const SweepPlan& plan : step.sweeps) {
          for (int index : plan.rotations) signed_angle(index);
          const Halves halves = reduce(plan.rotations, out.angle, flip_x, flip_z);
          const bool rows_form = !halves.tangent;
          Aligned<T> lines(plan.rotations.size() * (rows_form ? 2 : 1) * lanes_);
          for (size_t j = 0; j < plan.rotations.size(); ++j) {
            const Rotation& r = rotations[plan.rotations[j]];
            const double half = halves.half[j];
            for (int lane = 0; lane < lanes_; ++lane) {
              const double turn = word_sign(r) * lane_sign(r.z, lane);
              if (rows_form) {
                lines[(2 * j) * lanes_ + lane] = T(std::cos(half));
                lines[(2 * j + 1) * lanes_ + lane] = T(turn * std::sin(half));
              } else {
                lines[j * lanes_ + lane] = T(turn * std::tan(half));
              }
            }
          }
          out.cosines[i] *= halves.product;
          out.sweep_lines.push_back(std::move(lines));
          out.sweep_rows_form.push_back(rows_form);
        }
        for (const LanePlan& plan : step.lane_sweeps) {
          for (int index : plan.rotations) signed_angle(index);
          const Halves halves = reduce(plan.rotations, out.angle, flip_x, flip_z);
          Aligned<T> lines(2 * plan.rotations.size() * lanes_);
          for (size_t j = 0; j < plan.rotations.size(); ++j) {
            const Rotation& r = rotations[plan.rotations[j]];
            const double half = halves.half[j];
            const double turn = halves.tangent ? std::tan(half) : std::sin(half);
            for (int lane = 0; lane < lanes_; ++lane) {
              lines[2 * j * lanes_ + lane] = T(std::cos(half));
              lines[(2 * j + 1) * lanes_ + lane] = T(turn) * partner_sign(r, lane);
            }
          }
          out.cosines[i] *= halves.product;
          out.lane_lines[i].push_back(std::move(lines));
          out.lane_tangent[i].push_back(halves.tangent);
        }
        scale *= out.cosines[i];
        // The flips of this step commute with its rotations; they act on what follows.
        out.frame_x ^= flip_x;
        out.frame_z ^= flip_z;
      }
      out.scale[i + 1] = scale;
    }
  }

  // Sign of the word at the partner of each lane.
  T partner_sign(const Rotation& r, int lane) const {
    return lane_sign(r.z, lane ^ int(r.x & lane_mask_));
  }

  // Half angles as the kernels take them. In tangent form each is within a quarter turn of zero;
  // what was cut off is a Pauli, added to the flips.
  struct Halves {
    std::vector<double> half;
    bool tangent = true;
    double product = 1;  // of the cosines that tangent form leaves out
  };

  Halves reduce(const std::vector<int>& members, const std::vector<double>& angle, uint32_t& flip_x,
                uint32_t& flip_z) const {
    Halves out;
    for (int index : members) {
      double half = angle[index] / 2;
      if (may_flip_) {
        half = std::remainder(half, 4 * kQuarterTurn);  // mod pi: the sign of a state is free
        if (std::abs(half) > kQuarterTurn) {
          half -= half > 0 ? 2 * kQuarterTurn : -2 * kQuarterTurn;
          flip_x ^= (*rotations_)[index].x;
          flip_z ^= (*rotations_)[index].z;
        }
      } else if (std::cos(half) < 0.7) {  // the state itself is wanted: no flips, no signs
        out.tangent = false;
      }
      out.half.push_back(half);
    }
    if (out.tangent)
      for (double half : out.half) out.product *= std::cos(half);
    return out;
  }

  void fill_table(Aligned<T>& table, const ScheduledStep& step, const Coefficients<T>& out) {
    const int64_t size = int64_t(1) << n_;
    Aligned<double> angles(size);
    std::memset(angles.get(), 0, size * sizeof(double));
    double largest = 0;
    for (int index : step.table_words) {
      angles[(*rotations_)[index].z] -= out.angle[index] / 2;
      largest += std::abs(out.angle[index]);
    }
    kernels_->walsh(angles.get(), n_);
    table.resize(2 * size);
    const double fold = out.fold[&step - schedule_->steps.data()];
    sincos(angles.get(), size, largest, fold, table.get(), table.get() + size);
  }

  void sincos(const double* angles, int64_t n, double largest, double factor, T* cosines,
              T* sines) const {
    if (largest < kSincosLimit) {
      kernels_->sincos(angles, n, factor, cosines, sines);
      return;
    }
    for (int64_t i = 0; i < n; ++i) {
      cosines[i] = T(std::cos(angles[i]) * factor);
      sines[i] = T(std::sin(angles[i]) * factor);
    }
  }

  // Angles of one tile that differ from row to row: cosine and sine lines per rotation.
  void prepare_rows(Unit& unit) {
    if (layout_.lane_bits || (!request_.parameters_per_row && program_.n_inputs == 0)) return;
    double largest = 0;
    int64_t n = 0;
    for (size_t index = 0; index < rotations_->size(); ++index) {
      const Rotation& r = (*rotations_)[index];
      if (!layout_.varies(r)) continue;
      for (int lane = 0; lane < lanes_; ++lane) {
        const int64_t row = unit.row + std::min(lane, unit.n_rows - 1);
        const double* parameters =
            request_.parameters + (request_.parameters_per_row ? row * program_.n_parameters : 0);
        const double* inputs =
            request_.inputs ? request_.inputs + row * program_.n_inputs : nullptr;
        const double half = unit.coefficients->frame_sign[index] *
                            angle_of(r, parameters, inputs) / 2;
        largest = std::max(largest, std::abs(half));
        unit.row_angles[n++] = half;
      }
    }
    sincos(unit.row_angles.get(), n, largest, 1.0, unit.row_cosines.get(), unit.row_sines.get());
    n = 0;
    for (size_t index = 0; index < rotations_->size(); ++index) {
      const Rotation& r = (*rotations_)[index];
      if (!layout_.varies(r)) continue;
      T* lines = unit.row_lines.get() + 2 * index * lanes_;
      for (int lane = 0; lane < lanes_; ++lane, ++n) {
        lines[lane] = unit.row_cosines[n];
        lines[lanes_ + lane] = unit.row_sines[n];
      }
    }
  }

  // ---- parts of a walk --------------------------------------------------------------------------

  // f(begin, end, part) over [0, n), split over the threads when one row fills the machine.
  template <class F>
  void over(int64_t n, F f) const {
    if (n_parts_ == 1 || n < 64) {
      f(int64_t(0), n, 0);
      return;
    }
    run_parts(n_parts_, n_parts_, [&](int part, int) {
      f(n * part / n_parts_, n * (part + 1) / n_parts_, part);
    });
  }

  // Runs f(begin, end, line) over all lines and adds the line it sums into: a number a row.
  template <class F>
  void add_values(double* sums, F f) const {
    const auto add = [&](const double* line) {
      for (int lane = 0; lane < lanes_; ++lane) sums[layout_.lane_bits ? 0 : lane] += line[lane];
    };
    if (n_parts_ == 1) {
      double line[kMaxLanes] = {};
      f(int64_t(0), n_lines_, line);
      add(line);
      return;
    }
    std::vector<double> parts(size_t(n_parts_) * kMaxLanes, 0.0);
    over(n_lines_, [&](int64_t begin, int64_t end, int part) {
      f(begin, end, parts.data() + part * kMaxLanes);
    });
    for (int part = 0; part < n_parts_; ++part) add(parts.data() + part * kMaxLanes);
  }

  double* gradient_line(Unit& unit, int part, int index) const {
    return unit.gradient.get() + (size_t(part) * (rotations_->size() + 1) + index) * lanes_;
  }

  // out += sign * line, with the signs of a Z mask over the lanes.
  void add_signed(double* out, const double* line, double sign, uint32_t z) const {
    if (z & lane_mask_) {
      for (int lane = 0; lane < lanes_; ++lane) out[lane] += sign * lane_sign(z, lane) * line[lane];
    } else {
      for (int lane = 0; lane < lanes_; ++lane) out[lane] += sign * line[lane];
    }
  }

  int first_sweep(int step) const { return first_sweeps_[step]; }

  SweepCall<T> shared_call(Unit& unit, const SweepPlan& plan, int number) const {
    SweepCall<T> call{};
    call.sweep = &plan.sweep;
    call.coefficient = unit.coefficients->sweep_lines[number].get();
    call.rows_form = unit.coefficients->sweep_rows_form[number];
    return call;
  }

  // Lines for a sweep whose angles differ from row to row, in the order of its bits.
  SweepCall<T> row_call(Unit& unit, const SweepPlan& plan, Aligned<T>& lines) const {
    SweepCall<T> call{};
    call.sweep = &plan.sweep;
    call.rows_form = true;
    lines.resize(2 * kMaxSweepBits * lanes_);
    for (size_t j = 0; j < plan.rotations.size(); ++j) {
      const int index = plan.rotations[j];
      const T sign = T(word_sign((*rotations_)[index]));
      const T* given = unit.row_lines.get() + 2 * size_t(index) * lanes_;
      for (int lane = 0; lane < lanes_; ++lane) {
        lines[2 * j * lanes_ + lane] = given[lane];
        lines[(2 * j + 1) * lanes_ + lane] = sign * given[lanes_ + lane];
      }
    }
    call.coefficient = lines.get();
    return call;
  }

  void apply_sweep(SweepCall<T> call, const T* source, T* target, bool inverse, int first_set,
                   int n_sets) const {
    call.source = source;
    call.target = target;
    call.inverse = inverse;
    call.first_set = first_set;
    call.n_sets = n_sets;
    over(call.sweep->n_blocks, [&](int64_t begin, int64_t end, int) {
      SweepCall<T> part = call;
      part.begin = begin;
      part.end = end;
      kernels_->sweep(part);
    });
  }

  void gradient_sweep(Unit& unit, SweepCall<T> call, const SweepPlan& plan, const T* psi, T* lambda,
                      bool unapply, int n_sets) const {
    call.source = lambda;
    call.target = lambda;
    call.inverse = true;
    call.first_set = 0;
    call.n_sets = n_sets;
    call.psi = psi;
    call.unapply = unapply;
    const int bits = plan.sweep.bits;
    over(plan.sweep.n_blocks, [&](int64_t begin, int64_t end, int part_index) {
      SweepCall<T> part = call;
      double sums[kMaxSweepBits * kMaxLanes];
      std::memset(sums, 0, size_t(bits) * lanes_ * sizeof(double));
      part.gradient = sums;
      part.begin = begin;
      part.end = end;
      kernels_->sweep_gradient(part);
      for (int j = 0; j < bits; ++j) {
        const int index = plan.rotations[j];
        const Rotation& r = (*rotations_)[index];
        add_signed(gradient_line(unit, part_index, index), sums + j * lanes_,
                   word_sign(r) * unit.coefficients->frame_sign[index], r.z);
      }
    });
  }

  LaneCall<T> lane_call(Unit& unit, int step, int number) const {
    LaneCall<T> call{};
    call.sweep = &schedule_->steps[step].lane_sweeps[number].sweep;
    call.coefficient = unit.coefficients->lane_lines[step][number].get();
    call.tangent = unit.coefficients->lane_tangent[step][number];
    call.plane = uint32_t(n_lines_);
    return call;
  }

  void apply_lanes(LaneCall<T> call, const T* source, T* target, bool inverse, bool real) const {
    call.source = source;
    call.target = target;
    call.inverse = inverse;
    call.real_source = real;
    over(call.sweep->n_blocks, [&](int64_t begin, int64_t end, int) {
      LaneCall<T> part = call;
      part.begin = begin;
      part.end = end;
      kernels_->lane_sweep(part);
    });
  }

  void gradient_lanes(Unit& unit, LaneCall<T> call, const LanePlan& plan, const T* psi, bool real,
                      T* lambda, bool unapply) const {
    const size_t n = plan.rotations.size();
    Aligned<T> signs(n * lanes_);
    for (size_t j = 0; j < n; ++j)
      for (int lane = 0; lane < lanes_; ++lane)
        signs[j * lanes_ + lane] = partner_sign((*rotations_)[plan.rotations[j]], lane);
    call.target = lambda;
    call.psi = psi;
    call.real_psi = real;
    call.lane_signs = signs.get();
    call.unapply = unapply;
    over(call.sweep->n_blocks, [&](int64_t begin, int64_t end, int part_index) {
      LaneCall<T> part = call;
      double sums[kMaxLaneRotations * kMaxLanes] = {};
      part.gradient = sums;
      part.begin = begin;
      part.end = end;
      kernels_->lane_gradient(part);
      for (size_t j = 0; j < n; ++j) {
        const int index = plan.rotations[j];
        add_signed(gradient_line(unit, part_index, index), sums + j * lanes_,
                   unit.coefficients->frame_sign[index], 0);
      }
    });
  }

  // One rotation by `angle`, or by its own angle; out of place allowed. Returns whether the result
  // is real.
  bool rotate(Unit& unit, int index, const T* source, T* target, bool inverse, bool real_source,
              const double* angle = nullptr) const {
    const Rotation& r = (*rotations_)[index];
    alignas(64) T c[kMaxLanes], s[kMaxLanes];
    const T turn = inverse ? T(-1) : T(1);
    if (!angle && layout_.varies(r)) {
      const T* given = unit.row_lines.get() + 2 * size_t(index) * lanes_;
      for (int lane = 0; lane < lanes_; ++lane) {
        c[lane] = given[lane];
        s[lane] = turn * given[lanes_ + lane];
      }
    } else {
      const double half = (angle ? *angle : unit.coefficients->angle[index]) / 2;
      for (int lane = 0; lane < lanes_; ++lane) {
        c[lane] = T(std::cos(half));
        s[lane] = turn * T(std::sin(half));
      }
    }
    RotationCall<T> call = rotation_call(r, source, real_source);
    call.target = target;
    call.cosine = c;
    call.sine = s;
    over(n_lines_, [&](int64_t begin, int64_t end, int) {
      RotationCall<T> part = call;
      part.begin = begin;
      part.end = end;
      kernels_->rotate(part);
    });
    return real_source && (r.turns & 1);
  }

  RotationCall<T> rotation_call(const Rotation& r, const T* source, bool real_source) const {
    RotationCall<T> call{};
    call.source = source;
    call.mask = r.x >> layout_.lane_bits;
    call.lane_mask = r.x & lane_mask_;
    call.z = r.z >> layout_.lane_bits;
    call.lane_z = r.z & lane_mask_;
    call.phase = r.turns;
    call.real_source = real_source;
    call.plane = uint32_t(n_lines_);
    return call;
  }

  void rotate_gradient(Unit& unit, int index, const T* psi, const T* lambda, bool real_psi) const {
    const Rotation& r = (*rotations_)[index];
    RotationCall<T> call = rotation_call(r, psi, real_psi);
    call.lambda = lambda;
    over(n_lines_, [&](int64_t begin, int64_t end, int part_index) {
      RotationCall<T> part = call;
      double sum[kMaxLanes] = {};
      part.gradient = sum;
      part.begin = begin;
      part.end = end;
      kernels_->rotate_gradient(part);
      add_signed(gradient_line(unit, part_index, index), sum,
                 unit.coefficients->frame_sign[index], 0);
    });
  }

  void diagonal(const T* source, T* target, const T* table, bool conjugate,
                bool real_source) const {
    DiagonalCall<T> call{};
    call.source = source;
    call.target = target;
    call.table = table;
    call.table_stride = int64_t(1) << n_;
    call.conjugate = conjugate;
    call.real_source = real_source;
    call.plane = uint32_t(n_lines_);
    call.per_line = layout_.lane_bits > 0;
    over(n_lines_, [&](int64_t begin, int64_t end, int) {
      DiagonalCall<T> part = call;
      part.begin = begin;
      part.end = end;
      kernels_->diagonal(part);
    });
  }

  // The words of one table, each with an angle per row.
  void row_phases(Unit& unit, const RowTable& table, const T* source, T* target, bool inverse,
                  bool real_source) const {
    unit.prepared.resize(size_t(4 * n_) * lanes_);
    unit.row_phases.resize(state_size_);
    const size_t n_words = table.words.size();
    for (size_t j = 0; j < size_t(n_); ++j) {
      T* factor = unit.prepared.get() + 4 * j * lanes_;  // |0> re, im, |1> re, im
      const T* given = j < n_words ? unit.row_lines.get() + 2 * size_t(table.words[j]) * lanes_
                                   : nullptr;
      for (int lane = 0; lane < lanes_; ++lane) {
        const T c = given ? given[lane] : T(1), s = given ? given[lanes_ + lane] : T(0);
        factor[lane] = factor[2 * lanes_ + lane] = c;
        factor[lanes_ + lane] = -s;
        factor[3 * lanes_ + lane] = s;
      }
    }
    ProductCall<T> product{};
    product.factors = unit.prepared.get();
    product.n_bits = n_;
    product.line = table.line.data();
    product.target = unit.row_phases.get();
    product.plane = uint32_t(n_lines_);
    kernels_->product(product);
    DiagonalCall<T> call{};
    call.source = source;
    call.target = target;
    call.table = unit.row_phases.get();
    call.table_stride = int64_t(state_size_ / 2);
    call.conjugate = inverse;
    call.real_source = real_source;
    call.plane = uint32_t(n_lines_);
    call.per_line = true;
    call.begin = 0;
    call.end = n_lines_;
    kernels_->diagonal(call);
  }

  DiagonalGradientCall<T> tree_call(const T* psi, bool real_psi, T* lambda) const {
    DiagonalGradientCall<T> call{};
    call.n_bits = n_line_bits_;
    call.psi = psi;
    call.real_psi = real_psi;
    call.lambda = lambda;
    call.plane = uint32_t(n_lines_);
    call.table_stride = amplitudes();
    call.per_line = layout_.lane_bits > 0;
    return call;
  }

  // Walks one tree and adds its words' gradients; the call says what else the walk does. Returns
  // the observable's value in `sums` if it is asked for.
  void tree_gradient(Unit& unit, const Tree& tree, DiagonalGradientCall<T> call,
                     double* sums = nullptr) const {
    if (n_line_bits_ < 3) {
      for (const auto& word : tree.words)
        rotate_gradient(unit, word.first, call.psi, call.lambda, call.real_psi);
      return;
    }
    const size_t n_axes = size_t(n_line_bits_ + 1), stride = (n_axes + 1) * lanes_;
    std::memset(unit.axis_sums.get(), 0, n_parts_ * stride * sizeof(double));
    call.axis = tree.axis.data();
    call.totals = unit.totals.get();
    over(n_lines_ / 8, [&](int64_t begin, int64_t end, int part_index) {
      DiagonalGradientCall<T> part = call;
      part.gradient = unit.axis_sums.get() + part_index * stride;
      part.value = part.gradient + n_axes * lanes_;
      part.begin = begin;
      part.end = end;
      kernels_->diagonal_gradient(part);
    });
    call.gradient = unit.axis_sums.get();
    kernels_->diagonal_totals(call);
    for (int part = 1; part < n_parts_; ++part)
      for (size_t k = 0; k < stride; ++k) unit.axis_sums[k] += unit.axis_sums[part * stride + k];
    for (int lane = 0; sums && lane < lanes_; ++lane)
      sums[layout_.lane_bits ? 0 : lane] += unit.axis_sums[n_axes * lanes_ + lane];
    for (const auto& word : tree.words) {
      const Rotation& r = (*rotations_)[word.first];
      const double* sum = unit.axis_sums.get() + size_t(word.second) * lanes_;
      add_signed(gradient_line(unit, 0, word.first), sum,
                 unit.coefficients->frame_sign[word.first], r.z);
    }
  }

  // Amplitude b of a state as numbers that lie together: a line of rows, or one.
  int64_t amplitudes() const { return int64_t(1) << n_; }
  int together() const { return layout_.lane_bits ? 1 : lanes_; }

  void dense(Unit& unit, const DensePlan<T>& plan, const T* source, T* target, bool inverse) const {
    const T* matrix = inverse ? plan.inverse.get() : plan.matrix.get();
    if (source != target) std::memcpy(target, source, state_size_ * sizeof(T));
    if (!layout_.lane_bits) {
      DenseCall<T> call{};
      call.source = target;
      call.target = target;
      call.matrix = matrix;
      call.size = plan.size;
      call.offset = plan.offset.data();
      call.base = plan.base.data();
      call.begin = 0;
      call.end = int64_t(plan.base.size());
      call.plane = uint32_t(n_lines_);
      call.scratch = unit.dense.get();
      kernels_->dense(call);
      return;
    }
    T* re = target;
    T* im = target + amplitudes();
    over(int64_t(plan.base.size()), [&](int64_t begin, int64_t end, int) {
      std::vector<T> in(2 * plan.size);
      for (int64_t k = begin; k < end; ++k) {
        const uint32_t base = plan.base[k];
        for (int64_t i = 0; i < plan.size; ++i) {
          in[2 * i] = re[base ^ plan.offset[i]];
          in[2 * i + 1] = im[base ^ plan.offset[i]];
        }
        const T* m = matrix;
        for (int64_t i = 0; i < plan.size; ++i) {
          T sum_re = 0, sum_im = 0;
          for (int64_t j = 0; j < plan.size; ++j, m += 2) {
            sum_re += m[0] * in[2 * j] - m[1] * in[2 * j + 1];
            sum_im += m[0] * in[2 * j + 1] + m[1] * in[2 * j];
          }
          re[base ^ plan.offset[i]] = sum_re;
          im[base ^ plan.offset[i]] = sum_im;
        }
      }
    });
  }

  // target may not be source.
  void permute(const Permutation& p, const T* source, T* target, bool inverse) const {
    const int width = together();
    const size_t plane = size_t(amplitudes()) * width;
    over(amplitudes(), [&](int64_t begin, int64_t end, int) {
      for (int64_t b = begin; b < end; ++b) {
        const size_t from = size_t(place(inverse ? b : p.source[b])) * width;
        const size_t to = size_t(place(inverse ? p.source[b] : b)) * width;
        const int phase = inverse ? (4 - p.phase[b]) & 3 : p.phase[b];
        for (int k = 0; k < width; ++k) {
          const T re = source[from + k], im = source[plane + from + k];
          target[to + k] = phase == 0 ? re : phase == 1 ? -im : phase == 2 ? -re : im;
          target[plane + to + k] = phase == 0 ? im : phase == 1 ? re : phase == 2 ? -im : -re;
        }
      }
    });
  }

  void multiply(const T* source, T* target, T factor, bool real) const {
    const size_t size = real ? state_size_ / 2 : state_size_;
    for (size_t i = 0; i < size; ++i) target[i] = source[i] * factor;
  }

  // Whether step i, a diagonal of a real state, can be left to the loads of the sweep behind it.
  bool joins_next(const Unit& unit, int i, bool real) const {
    const ScheduledStep& step = schedule_->steps[i];
    if (!real || step.kind != StepKind::diagonal || step.has_row_phases() ||
        step.table_words.empty() || i + 1 == n_steps_)
      return false;
    const ScheduledStep& next = schedule_->steps[i + 1];
    return next.kind == StepKind::rotations && !next.sweeps.empty() &&
           unit.coefficients->fold[i + 1] == 1 &&
           !unit.coefficients->sweep_rows_form[first_sweep(i + 1)];
  }

  // One step forward from source to target (which may be the same); returns whether still real.
  // `pending` is the table of a diagonal that joins this step; then source and target differ.
  bool forward_step(Unit& unit, int i, const T* source, T* target, bool real,
                    const T* pending = nullptr) {
    const ScheduledStep& step = schedule_->steps[i];
    const Coefficients<T>& coefficients = *unit.coefficients;
    const T* from = source;
    if (step.kind == StepKind::rotations) {
      if (coefficients.fold[i] != 1) {
        multiply(from, target, T(coefficients.fold[i]), real);
        from = target;
      }
      const bool stays = real && step.keeps_real && !pending;
      if (real && !stays && !pending && !(step.sweeps.empty() && step.row_sweeps.empty())) {
        std::memset(const_cast<T*>(from) + state_size_ / 2, 0, state_size_ / 2 * sizeof(T));
        real = false;
      }
      if (pending) real = false;
      int number = first_sweep(i);
      for (const SweepPlan& plan : step.sweeps) {
        SweepCall<T> call = shared_call(unit, plan, number++);
        call.load_table = from == target ? nullptr : pending;
        call.load_per_line = layout_.lane_bits > 0;
        apply_sweep(call, from, target, false, 0, stays ? 1 : 2);
        from = target;
      }
      for (const SweepPlan& plan : step.row_sweeps) {
        Aligned<T> lines;
        apply_sweep(row_call(unit, plan, lines), from, target, false, 0, stays ? 1 : 2);
        from = target;
      }
      for (size_t k = 0; k < step.lane_sweeps.size(); ++k) {
        apply_lanes(lane_call(unit, i, int(k)), from, target, false, real);
        real = real && step.keeps_real;
        from = target;
      }
      return real;
    }
    if (step.kind == StepKind::diagonal) {
      if (!step.table_words.empty()) {
        diagonal(from, target, coefficients.tables[i].get(), false, real);
        from = target;
        real = false;
      }
      for (const RowTable& table : step.row_tables) {
        row_phases(unit, table, from, target, false, real);
        from = target;
        real = false;
      }
      for (int index : step.singles) {
        rotate(unit, index, from, target, false, real);
        from = target;
        real = false;
      }
      return real;
    }
    if (real) std::memset(const_cast<T*>(from) + state_size_ / 2, 0, state_size_ / 2 * sizeof(T));
    other_step(unit, step, from, target, false);
    return false;
  }

  // Dense matrices, permutations and constant tables; in place allowed.
  void other_step(Unit& unit, const ScheduledStep& step, const T* source, T* target, bool inverse) {
    if (step.kind == StepKind::dense) {
      dense(unit, dense_plans_[step.item], source, target, inverse);
    } else if (step.kind == StepKind::table) {
      diagonal(source, target, constant_tables_[step.item].get(), inverse, false);
    } else {
      const Permutation& p = program_.permutations[step.item];
      if (source != target) {
        permute(p, source, target, inverse);
      } else {
        Aligned<T> copy(state_size_);
        std::memcpy(copy.get(), source, state_size_ * sizeof(T));
        permute(p, copy.get(), target, inverse);
      }
    }
  }

  // Undoes step i in place on a complex state, or on its real plane alone where rotations keep that
  // apart. The sweep `done` is left out.
  void backward_step(Unit& unit, int i, T* state, const void* done = nullptr,
                     bool real_only = false) {
    const ScheduledStep& step = schedule_->steps[i];
    const Coefficients<T>& coefficients = *unit.coefficients;
    if (step.kind == StepKind::rotations) {
      const int n_sets = real_only ? 1 : 2;
      int number = first_sweep(i);
      for (const SweepPlan& plan : step.sweeps) {
        if (&plan != done)
          apply_sweep(shared_call(unit, plan, number), state, state, true, 0, n_sets);
        ++number;
      }
      for (const SweepPlan& plan : step.row_sweeps) {
        Aligned<T> lines;
        if (&plan != done)
          apply_sweep(row_call(unit, plan, lines), state, state, true, 0, n_sets);
      }
      for (size_t k = 0; k < step.lane_sweeps.size(); ++k)
        if (&step.lane_sweeps[k] != done)
          apply_lanes(lane_call(unit, i, int(k)), state, state, true, false);
      if (coefficients.fold[i] != 1) multiply(state, state, T(coefficients.fold[i]), real_only);
    } else if (step.kind == StepKind::diagonal) {
      if (!step.table_words.empty())
        diagonal(state, state, coefficients.tables[i].get(), true, false);
      for (const RowTable& table : step.row_tables)
        row_phases(unit, table, state, state, true, false);
      for (int index : step.singles) rotate(unit, index, state, state, true, false);
    } else {
      other_step(unit, step, state, state, true);
    }
  }

  // ---- loading and storing ----------------------------------------------------------------------

  static bool is_complex(Element e) {
    return e == Element::complex64 || e == Element::complex128;
  }
  static size_t element_size(Element e) {
    return e == Element::float32 ? 4 : e == Element::complex128 ? 16 : 8;
  }
  static Element own_element(bool complex_) {
    if (sizeof(T) == 8) return complex_ ? Element::complex128 : Element::float64;
    return complex_ ? Element::complex64 : Element::float32;
  }

  // The numbers of one row in precision T, converted into `scratch` if they are of another.
  const T* row_numbers(int64_t row, T* scratch, double factor) const {
    const bool complex_ = is_complex(request_.element);
    const int64_t n = request_.columns * (complex_ ? 2 : 1);
    const char* bytes = static_cast<const char*>(request_.states) +
                        size_t(row) * request_.columns * element_size(request_.element);
    if (request_.element == own_element(complex_) && factor == 1)
      return reinterpret_cast<const T*>(bytes);
    const bool wide =
        request_.element == Element::float64 || request_.element == Element::complex128;
    for (int64_t k = 0; k < n; ++k) {
      const double value = wide ? reinterpret_cast<const double*>(bytes)[k]
                                : double(reinterpret_cast<const float*>(bytes)[k]);
      scratch[k] = T(value * factor);
    }
    return scratch;
  }

  // A power of two that brings a row of extreme norm near one.
  double rescue_factor(int64_t row) const {
    const bool complex_ = is_complex(request_.element);
    const int64_t n = request_.columns * (complex_ ? 2 : 1);
    const char* bytes = static_cast<const char*>(request_.states) +
                        size_t(row) * request_.columns * element_size(request_.element);
    const bool wide =
        request_.element == Element::float64 || request_.element == Element::complex128;
    double largest = 0;
    for (int64_t k = 0; k < n; ++k) {
      const double value = wide ? reinterpret_cast<const double*>(bytes)[k]
                                : double(reinterpret_cast<const float*>(bytes)[k]);
      if (request_.norm_tolerance > 0 && !std::isfinite(value)) throw RowRefused(row);
      largest = std::max(largest, std::abs(value));
    }
    if (request_.norm_tolerance > 0 && largest == 0) throw RowRefused(row);
    int exponent;
    std::frexp(largest, &exponent);
    return std::ldexp(1.0, -std::clamp(exponent, -1000, 1000));
  }

  // Fills the real plane, and the imaginary one for complex input; returns whether all is real.
  bool load(Unit& unit, T* state) {
    const bool complex_ = is_complex(request_.element);
    for (int lane = 0; lane < kMaxLanes; ++lane)
      unit.inverse_norm[lane] = unit.inverse_norm2[lane] = 1;
    const int n_lane_rows = layout_.lane_bits ? 1 : lanes_;
    if (request_.factors || request_.phases) {
      if (layout_.lane_bits) return load_encoded_row(unit, state);
      return request_.factors ? make_product(unit, state) : make_phases(unit, state);
    }
    if (!request_.states) {
      std::memset(state, 0, state_size_ / 2 * sizeof(T));
      for (int lane = 0; lane < n_lane_rows; ++lane) {
        const int64_t row = unit.row + std::min(lane, unit.n_rows - 1);
        const int64_t index = request_.indices ? request_.indices[row] : 0;
        state[size_t(place(index)) * together() + lane] = 1;
      }
      return true;
    }
    const int64_t n = request_.columns * (complex_ ? 2 : 1);
    if (request_.columns < amplitudes())
      std::memset(state, 0, (complex_ ? state_size_ : state_size_ / 2) * sizeof(T));
    double squares[2 * kMaxLanes];  // lines of squared real and imaginary parts
    double factors[kMaxLanes];
    std::fill(factors, factors + kMaxLanes, 1.0);
    const double small = sizeof(T) == 8 ? 1e-200 : 1e-25;
    bool real = !complex_;
    for (int attempt = 0; attempt < 2; ++attempt) {
      std::fill(squares, squares + 2 * kMaxLanes, 0.0);
      if (layout_.lane_bits) {
        if (request_.element != own_element(complex_) || factors[0] != 1)
          unit.converted.resize(size_t(n));
        load_row(row_numbers(unit.row, unit.converted.get(), factors[0]), request_.columns,
                 complex_, state, squares);
      } else {
        const T* rows[kMaxLanes];
        for (int lane = 0; lane < lanes_; ++lane) {
          const int64_t row = unit.row + std::min(lane, unit.n_rows - 1);
          rows[lane] = row_numbers(row, unit.rows.get() + size_t(lane) * n, factors[lane]);
        }
        kernels_->load(rows, n, complex_ ? line_map_.data() : real_line_map_.data(), state,
                       squares);
      }
      // Complex rows without imaginary parts run as real ones.
      double imaginary = 0;
      for (int lane = 0; lane < lanes_; ++lane) {
        if (complex_) imaginary += squares[lanes_ + lane];
        squares[lane] += squares[lanes_ + lane];
      }
      real = !complex_ || imaginary == 0;
      if (!request_.normalize) {
        if (request_.norm_tolerance > 0)
          for (int lane = 0; lane < n_lane_rows; ++lane)
            if (!(std::abs(std::sqrt(squares[lane]) - 1) < request_.norm_tolerance))
              throw RowRefused(unit.row + std::min(lane, unit.n_rows - 1));
        return real;
      }
      bool extreme = false;
      for (int lane = 0; lane < n_lane_rows; ++lane) {
        const int64_t row = unit.row + std::min(lane, unit.n_rows - 1);
        if (!(squares[lane] > small && squares[lane] < 1 / small)) {
          factors[lane] = rescue_factor(row);
          extreme = true;
        }
      }
      if (!extreme) break;
    }
    for (int lane = 0; lane < n_lane_rows; ++lane) {
      unit.inverse_norm2[lane] = 1 / squares[lane];
      unit.inverse_norm[lane] = 1 / std::sqrt(squares[lane]);
    }
    return real;
  }

  // A row's product of single-qubit states, a line an amplitude; returns whether it is real.
  bool make_product(Unit& unit, T* state) const {
    unit.prepared.resize(size_t(4 * n_) * lanes_);
    ProductCall<T> call{};
    call.real = true;
    for (int bit = 0; bit < n_; ++bit) {
      for (int lane = 0; lane < lanes_; ++lane) {
        const int64_t row = unit.row + std::min(lane, unit.n_rows - 1);
        const double* factor = request_.factors + 4 * (row * n_ + n_ - 1 - bit);
        for (int k = 0; k < 4; ++k)
          unit.prepared[size_t(4 * bit + k) * lanes_ + lane] = T(factor[k]);
        call.real = call.real && factor[1] == 0 && factor[3] == 0;
      }
    }
    call.factors = unit.prepared.get();
    call.n_bits = n_;
    call.line = real_line_map_.data();
    call.target = state;
    call.plane = uint32_t(n_lines_);
    kernels_->product(call);
    return call.real;
  }

  bool make_phases(Unit& unit, T* state) const {
    const int64_t n_angles = n_phases(n_), size = n_angles * lanes_;
    unit.prepared_angles.resize(size_t(size));
    unit.prepared.resize(size_t(2 * size));
    unit.products.resize(size_t(n_lines_) * lanes_);
    if (request_.repeats > 1) unit.table.resize(state_size_);
    double largest = 0;
    for (int lane = 0; lane < lanes_; ++lane) {
      const int64_t row = unit.row + std::min(lane, unit.n_rows - 1);
      for (int64_t k = 0; k < n_angles; ++k) {
        const double angle = request_.phases[row * n_angles + k];
        largest = std::max(largest, std::abs(angle));
        unit.prepared_angles[k * lanes_ + lane] = angle;
      }
    }
    sincos(unit.prepared_angles.get(), size, largest, 1.0, unit.prepared.get(),
           unit.prepared.get() + size);
    PhaseCall<T> call{};
    call.cosines = unit.prepared.get();
    call.sines = unit.prepared.get() + size;
    call.n_bits = n_;
    call.repeats = request_.repeats;
    call.closes = request_.closes;
    call.scale = T(std::exp2(-0.5 * n_));
    call.line = real_line_map_.data();
    call.target = state;
    call.plane = uint32_t(n_lines_);
    call.products = unit.products.get();
    call.table = unit.table.get();
    kernels_->phases(call);
    return false;
  }

  // Either of them in the sample layout, by the encoders of whole rows.
  bool load_encoded_row(Unit& unit, T* state) const {
    unit.prepared_row.resize(size_t(2 * amplitudes()));
    T* row = unit.prepared_row.get();
    if (unit.encoded != unit.row && request_.factors) {
      if (!unit.product_encoder) unit.product_encoder = std::make_unique<ProductEncoder<T>>(n_);
      unit.product_encoder->write(request_.factors + unit.row * 4 * n_, false, row);
    } else if (unit.encoded != unit.row) {
      if (!unit.phase_encoder)
        unit.phase_encoder =
            std::make_unique<PhaseEncoder<T>>(n_, request_.repeats, request_.closes);
      unit.phase_encoder->write(request_.phases + unit.row * n_phases(n_), false, row);
    }
    unit.encoded = unit.row;
    double squares[2 * kMaxLanes];
    load_row(row, amplitudes(), true, state, squares);
    return squares[lanes_] == 0;
  }

  // Numbers of one row to lines of neighbouring amplitudes, and the sums of their squares.
  void load_row(const T* row, int64_t columns, bool complex_, T* state, double* squares) const {
    double sums[16] = {}, imaginary[16] = {};
    T* im = state + amplitudes();
    const int64_t whole = columns & ~int64_t(lanes_ - 1);
    for (int64_t b = 0; b < whole; b += lanes_) {
      T* re_line = state + place(b);
      T* im_line = im + place(b);
      for (int k = 0; k < lanes_; ++k) {
        const T x = complex_ ? row[2 * (b + k)] : row[b + k];
        const T y = complex_ ? row[2 * (b + k) + 1] : T(0);
        re_line[k] = x;
        if (complex_) im_line[k] = y;
        sums[k] += double(x) * double(x);
        imaginary[k] += double(y) * double(y);
      }
    }
    for (int64_t b = whole; b < columns; ++b) {
      const T x = complex_ ? row[2 * b] : row[b], y = complex_ ? row[2 * b + 1] : T(0);
      state[place(b)] = x;
      if (complex_) im[place(b)] = y;
      sums[0] += double(x) * double(x);
      imaginary[0] += double(y) * double(y);
    }
    double sum = 0, imaginary_sum = 0;
    for (int k = 0; k < 16; ++k) {
      sum += sums[k];
      imaginary_sum += imaginary[k];
    }
    squares[0] = sum;
    squares[lanes_] = imaginary_sum;
  }

  // A state in the unit's layout to rows of complex numbers, each times its factor.
  void store(Unit& unit, const T* state, const T* factor, T* out, int64_t stride) const {
    if (!layout_.lane_bits) {
      T* rows[kMaxLanes];
      for (int lane = 0; lane < unit.n_rows; ++lane) rows[lane] = out + lane * stride;
      kernels_->store(state, 2 * amplitudes(), line_map_.data(), factor, rows, unit.n_rows);
      return;
    }
    const T* im = state + amplitudes();
    for (int64_t line = 0; line < amplitudes(); line += lanes_) {
      const int64_t from = place(line);
      for (int k = 0; k < lanes_; ++k) {
        out[2 * (line + k)] = state[from + k] * factor[0];
        out[2 * (line + k) + 1] = im[from + k] * factor[0];
      }
    }
  }

  // ---- values -----------------------------------------------------------------------------------

  // Adds the observable's value to `sums` (one number a lane) and, if lambda, sets or adds
  // weight * O psi.
  void observe(int observable, const Coefficients<T>& coefficients, const T* psi, bool real,
               T* lambda, bool& accumulate, const T* weight, double* sums) const {
    for (size_t g = 0; g < schedule_->groups.size(); ++g) {
      const ObservableGroup& group = schedule_->groups[g];
      if (group.observable != observable) continue;
      ObservableCall<T> call{};
      call.psi = psi;
      call.lambda = lambda;
      call.accumulate = accumulate;
      call.real_psi = real;
      call.mask = group.mask >> layout_.lane_bits;
      call.lane_mask = group.mask & lane_mask_;
      call.shift = coefficients.frame_x >> layout_.lane_bits;
      call.lane_shift = coefficients.frame_x & lane_mask_;
      call.factor = parity(coefficients.frame_z & group.mask) ? T(-1) : T(1);
      call.real_table = group_tables_[g].get();
      call.imaginary_table = group_complex_[g] ? group_tables_[g].get() + amplitudes() : nullptr;
      call.weight = weight;
      call.per_line = layout_.lane_bits > 0;
      call.plane = uint32_t(n_lines_);
      add_values(sums, [&](int64_t begin, int64_t end, double* value) {
        ObservableCall<T> part = call;
        part.begin = begin;
        part.end = end;
        part.value = value;
        kernels_->observable(part);
      });
      accumulate = true;
    }
  }

  // The one group of a diagonal observable with real coefficients, or -1.
  int diagonal_group(int observable) const {
    int found = -1;
    for (size_t g = 0; g < schedule_->groups.size(); ++g) {
      if (schedule_->groups[g].observable != observable) continue;
      if (found >= 0 || schedule_->groups[g].mask || group_complex_[g]) return -1;
      found = int(g);
    }
    return found;
  }

  struct Turn {  // a rotation by `angle` between psi and the last diagonal
    int rotation;
    double angle;
  };

  // Adds the observable's value to `sums`. With `ends_fused_`, psi is before the last diagonal,
  // whose table may be given.
  void value_of(Unit& unit, int observable, const T* psi, bool real, const T* table, double* sums,
                const Turn* turn = nullptr) const {
    const Coefficients<T>& coefficients = *unit.coefficients;
    if (!ends_fused_) {
      bool accumulate = false;
      observe(observable, coefficients, psi, real, nullptr, accumulate, nullptr, sums);
      return;
    }
    MeasureCall<T> call{};
    call.psi = psi;
    call.real_psi = real;
    call.plane = uint32_t(n_lines_);
    call.table = table ? table : coefficients.tables[n_steps_ - 1].get();
    call.table_stride = amplitudes();
    call.per_line = layout_.lane_bits > 0;
    call.observable = group_tables_[diagonal_group(observable)].get();
    call.shift = coefficients.frame_x >> layout_.lane_bits;
    call.lane_shift = coefficients.frame_x & lane_mask_;
    call.factor = 1;
    alignas(64) T c[kMaxLanes], s[kMaxLanes];
    if (turn) {
      const Rotation& r = (*rotations_)[turn->rotation];
      std::fill(c, c + lanes_, T(std::cos(turn->angle / 2)));
      std::fill(s, s + lanes_, T(std::sin(turn->angle / 2)));
      call.rotated = true;
      call.mask = r.x >> layout_.lane_bits;
      call.z = r.z >> layout_.lane_bits;
      call.lane_z = r.z & lane_mask_;
      call.phase = r.turns;
      call.cosine = c;
      call.sine = s;
    }
    add_values(sums, [&](int64_t begin, int64_t end, double* value) {
      MeasureCall<T> part = call;
      part.begin = begin;
      part.end = end;
      part.value = value;
      kernels_->measure(part);
    });
  }

  void write_values(const Unit& unit, const double* sums, double scale, T* out,
                    int64_t stride) const {
    for (int lane = 0; lane < unit.n_rows; ++lane)
      out[lane * stride] = T(scale * scale * sums[lane] * unit.inverse_norm2[lane]);
  }

  void marginals(Unit& unit, const T* psi, bool real, double scale) const {
    const size_t k = request_.probability_bits.size();
    const int64_t size = int64_t(1) << k;
    const int width = together();
    std::vector<double> sums(size_t(size) * width, 0.0);
    const T* im = psi + state_size_ / 2;
    for (int64_t b = 0; b < amplitudes(); ++b) {
      const size_t at = size_t(place(b)) * width;
      int64_t target = 0;
      for (int bit : request_.probability_bits) target = target << 1 | (b >> bit & 1);
      for (int lane = 0; lane < width; ++lane) {
        const double x = psi[at + lane], y = real ? T(0) : im[at + lane];
        sums[target * width + lane] += x * x + y * y;
      }
    }
    for (int lane = 0; lane < unit.n_rows; ++lane)
      for (int64_t t = 0; t < size; ++t)
        request_.probabilities[(unit.row + lane) * size + t] =
            T(scale * scale * double(sums[t * width + lane]) * double(unit.inverse_norm2[lane]));
  }

  void final_state(Unit& unit, T* psi, bool real, double scale) const {
    if (real) std::memset(psi + state_size_ / 2, 0, state_size_ / 2 * sizeof(T));
    alignas(64) T factor[kMaxLanes];
    for (int lane = 0; lane < lanes_; ++lane)
      factor[lane] = T(scale * double(unit.inverse_norm[layout_.lane_bits ? 0 : lane]));
    const int64_t stride = 2 * amplitudes();
    T* out = request_.final_states + unit.row * stride;
    store(unit, psi, factor, out, stride);
    for (int lane = 0; lane < unit.n_rows; ++lane) {
      double phase = program_.phase_constant;
      const int64_t row = unit.row + lane;
      for (const Rotation& r : program_.phases)
        phase += angle_of(
            r,
            request_.parameters +
                (request_.parameters_per_row ? row * program_.n_parameters : 0),
            request_.inputs ? request_.inputs + row * program_.n_inputs : nullptr);
      if (phase == 0) continue;
      const double c = std::cos(phase), s = std::sin(phase);
      T* state = out + lane * stride;
      for (int64_t b = 0; b < amplitudes(); ++b) {
        const double re = state[2 * b], im = state[2 * b + 1];
        state[2 * b] = T(c * re - s * im);
        state[2 * b + 1] = T(c * im + s * re);
      }
    }
  }

  // ---- one unit ---------------------------------------------------------------------------------

  T* fresh(Unit& unit) const {
    Aligned<T>& buffer = unit.buffers[unit.used++];
    buffer.resize(state_size_);
    return buffer.get();
  }

  void run_unit(Unit& unit) {
    prepare_rows(unit);
    const Coefficients<T>& coefficients = *unit.coefficients;
    unit.used = 0;
    T* psi = fresh(unit);
    T* spare = fresh(unit);
    bool real = load(unit, psi);
    // The last diagonal may be left to the walk that measures and turns back.
    const int n_forward = ends_fused_ ? n_steps_ - 1 : n_steps_;
    const T* pending = nullptr;
    for (int i = 0; i < n_forward; ++i) {
      if (!pending) {
        unit.real[i] = real;
        unit.checkpoint[i] = keep_[i] ? psi : nullptr;
      }
      if (!pending && !keep_[i + 1] && joins_next(unit, i, real)) {
        pending = coefficients.tables[i].get();
        continue;
      }
      const bool keep_source = keep_[pending ? i - 1 : i];
      T* target = keep_source ? fresh(unit) : pending ? spare : psi;
      if (target == spare) spare = psi;
      real = forward_step(unit, i, psi, target, real, pending);
      pending = nullptr;
      psi = target;
    }
    if (ends_fused_) {
      unit.real[n_forward] = real;
      unit.checkpoint[n_forward] = psi;
    }
    unit.real[n_steps_] = real;
    unit.checkpoint[n_steps_] = psi;
    const double scale = coefficients.scale[n_steps_];
    if (request_.probabilities) marginals(unit, psi, real, scale);
    if (request_.final_states) final_state(unit, psi, real, scale);
    const int n_observables = program_.n_observables;
    if (wants_gradient_) {
      if (request_.cotangents) {
        differentiate(unit, psi, -1, 0, 1);
      } else {
        for (int k = 0; k < n_observables; ++k) differentiate(unit, psi, k, k, n_observables);
      }
    } else if (request_.values) {
      for (int k = 0; k < n_observables; ++k) {
        double sums[kMaxLanes] = {};
        value_of(unit, k, psi, real, nullptr, sums);
        write_values(unit, sums, scale, request_.values + unit.row * n_observables + k,
                     n_observables);
      }
    }
    if (!request_.shifts.empty()) run_shifts(unit, spare);
  }

  // The backward walk for observable k, or for the contraction of all with the cotangents (k < 0);
  // writes column `slot` of `n_slots`.
  void differentiate(Unit& unit, T* final_psi, int k, int slot, int n_slots) {
    const Coefficients<T>& coefficients = *unit.coefficients;
    const int n_observables = program_.n_observables;
    const size_t n_rotations = rotations_->size();
    const double final_scale = coefficients.scale[n_steps_];
    T* lambda = unit.lambda.get();
    bool accumulate = false;
    const bool final_real = unit.real[n_steps_];
    if (final_real && !ends_fused_) {
      std::memset(lambda, 0, state_size_ * sizeof(T));
      accumulate = true;
    }
    const int first = k < 0 ? 0 : k, end = k < 0 ? n_observables : k + 1;
    alignas(64) T weight[kMaxLanes];
    for (int o = first; o < end; ++o) {
      for (int lane = 0; lane < lanes_; ++lane) {
        const int64_t row =
            unit.row + (layout_.lane_bits ? 0 : std::min(lane, unit.n_rows - 1));
        weight[lane] = k < 0 ? request_.cotangents[row * n_observables + o] : T(1);
      }
      if (ends_fused_) break;
      double sums[kMaxLanes] = {};
      observe(o, coefficients, final_psi, final_real, lambda, accumulate,
              k < 0 ? weight : nullptr, sums);
      if (request_.values)
        write_values(unit, sums, final_scale, request_.values + unit.row * n_observables + o,
                     n_observables);
    }
    if (!accumulate && !ends_fused_) std::memset(lambda, 0, state_size_ * sizeof(T));
    std::memset(unit.gradient.get(), 0, n_parts_ * (n_rotations + 1) * lanes_ * sizeof(double));
    std::vector<double>& factor = unit.factor;  // a * c where step i is differentiated
    T* psi = final_psi;
    T* own_psi = nullptr;
    if (unapply_psi_) {
      own_psi = fresh(unit);
      std::memcpy(own_psi, final_psi, state_size_ * sizeof(T));
      if (final_real) std::memset(own_psi + state_size_ / 2, 0, state_size_ / 2 * sizeof(T));
      psi = own_psi;
    }
    const int stop = request_.state_gradient ? 0 : earliest_;
    double c = final_scale, a = final_scale;
    bool real_only = false;  // psi is real from here back, and lambda's real plane all that counts
    for (int i = n_steps_ - 1; i >= stop; --i) {
      const ScheduledStep& step = schedule_->steps[i];
      const bool differentiate_here =
          step.has_gradient && (request_.parameter_gradient || request_.input_gradient);
      const bool go_on = i > stop || request_.state_gradient;
      const double step_factor = coefficients.cosines[i] / coefficients.fold[i];
      if (step.kind == StepKind::diagonal) {
        c *= step_factor;
        if (unapply_psi_) backward_step(unit, i, psi);
        a = unapply_psi_ ? a * step_factor : coefficients.scale[i];
        const T* at = unapply_psi_ ? psi : unit.checkpoint[i];
        const bool real = !unapply_psi_ && unit.real[i];
        // The first tree's walk also undoes the diagonal, when that is one table.
        const bool fused = differentiate_here && !step.has_row_phases() && n_line_bits_ >= 3;
        if (!fused) backward_step(unit, i, lambda);
        for (size_t t = 0; differentiate_here && t < step.trees.size(); ++t) {
          DiagonalGradientCall<T> call = tree_call(at, real, lambda);
          double sums[kMaxLanes] = {};
          const bool ends = t == 0 && i == n_steps_ - 1 && ends_fused_;
          if (fused && t == 0) {
            call.table = coefficients.tables[i].get();
            real_only = real && step.trees.size() == 1 && !layout_.lane_bits &&
                        !request_.state_gradient;
            call.real_only = real_only;
          }
          if (ends) {
            call.observable = group_tables_[diagonal_group(first)].get();
            call.shift = coefficients.frame_x >> layout_.lane_bits;
            call.lane_shift = coefficients.frame_x & lane_mask_;
            call.weight = k < 0 ? weight : nullptr;
          }
          tree_gradient(unit, step.trees[t], call, ends ? sums : nullptr);
          if (ends && request_.values)
            write_values(unit, sums, final_scale,
                         request_.values + unit.row * n_observables + first, n_observables);
        }
        factor[i] = a * c;
      } else {
        if (!unapply_psi_) a = coefficients.scale[i + 1];
        factor[i] = a * c;
        const void* done = nullptr;
        if (differentiate_here) {
          const T* at = unapply_psi_ ? psi : unit.checkpoint[i + 1];
          const bool real = !unapply_psi_ && unit.real[i + 1];
          done = gradients_of(unit, i, at, lambda, real, go_on);
        }
        if (go_on) backward_step(unit, i, lambda, done, real_only);
        c *= step_factor;
        if (unapply_psi_) {
          if (go_on) backward_step(unit, i, psi);
          a *= step_factor;
        }
      }
    }
    write_gradients(unit, factor, slot, n_slots);
    if (request_.state_gradient) {
      alignas(64) T scale[kMaxLanes];
      for (int lane = 0; lane < lanes_; ++lane)
        scale[lane] = T(2 * c * double(unit.inverse_norm[layout_.lane_bits ? 0 : lane]));
      const int64_t stride = 2 * amplitudes() * n_slots;
      store(unit, lambda, scale,
            request_.state_gradient + unit.row * stride + slot * 2 * amplitudes(), stride);
    }
    if (own_psi) --unit.used;
  }

  // Gradients of a step of rotations with psi and lambda both behind it. Returns the sweep that was
  // also undone on lambda, if any.
  const void* gradients_of(Unit& unit, int i, const T* psi, T* lambda, bool real, bool unapply) {
    const ScheduledStep& step = schedule_->steps[i];
    const bool both_planes = !real;
    const void* done = nullptr;
    for (size_t k = 0; k < step.lane_sweeps.size(); ++k) {
      const LanePlan& plan = step.lane_sweeps[k];
      const bool last = unapply && step.sweeps.empty() && step.row_sweeps.empty() &&
                        k + 1 == step.lane_sweeps.size();
      gradient_lanes(unit, lane_call(unit, i, int(k)), plan, psi, real, lambda, last);
      if (last) done = &plan;
    }
    int number = first_sweep(i);
    const size_t n_shared = step.sweeps.size(), n_all = n_shared + step.row_sweeps.size();
    for (size_t s = 0; s < n_all; ++s) {
      const SweepPlan& plan = s < n_shared ? step.sweeps[s] : step.row_sweeps[s - n_shared];
      Aligned<T> lines;
      const SweepCall<T> call =
          s < n_shared ? shared_call(unit, plan, number++) : row_call(unit, plan, lines);
      const bool last = s + 1 == n_all && unapply && both_planes;
      gradient_sweep(unit, call, plan, psi, lambda, last, both_planes ? 2 : 1);
      if (last) done = &plan;
    }
    return done;
  }

  // Which derivatives by rotations make up those by parameters and inputs.
  void plan_gradients() {
    const int P = program_.n_parameters;
    for (int i = 0; i < n_steps_; ++i) {
      if (!schedule_->steps[i].has_gradient) continue;
      for (int index : program_.steps[i].rotations) {
        const Rotation& r = (*rotations_)[index];
        if (r.source == Source::constant) continue;
        term_step_.push_back(i);
        term_scale_.push_back(r.scale);
        term_place_.push_back(index);
        term_slot_.push_back(r.source == Source::parameter ? r.index : P + r.index);
      }
    }
    for (int k = 0; k < P + program_.n_inputs; ++k) slots_.push_back(k);
  }

  void write_gradients(Unit& unit, const std::vector<double>& factor, int slot, int n_slots) {
    const int P = program_.n_parameters, F = program_.n_inputs;
    for (size_t t = 0; t < term_step_.size(); ++t)
      unit.term_factor[t] = term_scale_[t] * factor[term_step_[t]];
    double* gradient = unit.gradient.get();
    const size_t size = (rotations_->size() + 1) * lanes_;
    for (int part = 1; part < n_parts_; ++part)
      for (size_t k = 0; k < size; ++k) gradient[k] += gradient[part * size + k];
    kernels_->collect(gradient, term_place_.data(), unit.term_factor.data(), term_slot_.data(),
                      int64_t(term_step_.size()), P + F, unit.sums.get(), unit.slot_lines.get());
    const auto write = [&](int first, int n, T* out) {
      if (!out) return;
      out += (unit.row * n_slots + slot) * n;
      if (layout_.lane_bits) {  // the lanes are parts of one row
        const double* sums = unit.sums.get() + size_t(first) * lanes_;
        for (int k = 0; k < n; ++k) {
          double total = 0;
          for (int part = 0; part < lanes_; ++part) total += sums[size_t(k) * lanes_ + part];
          out[k] = T(total * unit.inverse_norm2[0]);
        }
        return;
      }
      alignas(64) T scale[kMaxLanes];
      T* rows[kMaxLanes];
      for (int lane = 0; lane < lanes_; ++lane) scale[lane] = T(unit.inverse_norm2[lane]);
      for (int row = 0; row < unit.n_rows; ++row) rows[row] = out + int64_t(row) * n_slots * n;
      kernels_->store(unit.slot_lines.get(), n, slots_.data() + first, scale, rows, unit.n_rows);
    };
    write(0, P, request_.parameter_gradient);
    write(P, F, request_.input_gradient);
  }

  // ---- shifted evaluations ----------------------------------------------------------------------

  // exp(-i (theta + d)/2 P) = exp(-i d/2 P) exp(-i theta/2 P): the shift is one more rotation behind
  // its step, so an evaluation starts from the state behind the first step that it changes. In a
  // diagonal step the shift goes into the table and the evaluation starts before it.
  bool shifts_table(int i) const {
    const ScheduledStep& step = schedule_->steps[i];
    return step.kind == StepKind::diagonal && !step.has_row_phases();
  }

  int step_of(int rotation) const { return step_of_[rotation]; }

  // Index of the checkpoint that an evaluation starts from.
  int start_of(const ShiftedAngles& angles) const {
    int first = n_steps_;
    for (const auto& angle : angles) first = std::min(first, step_of(angle.first));
    if (first == n_steps_) return ends_fused_ ? n_steps_ - 1 : n_steps_;
    return shifts_table(first) ? first : first + 1;
  }

  // The table of diagonal step i with the evaluation's shifts in it, or null if it has none.
  bool shifted_table(const Coefficients<T>& coefficients, int i, const ShiftedAngles& angles,
                     Aligned<T>& table) const {
    bool any = false;
    const int64_t size = amplitudes();
    for (const auto& [index, shift] : angles) {
      if (step_of(index) != i) continue;
      if (!any) {
        table.resize(2 * size);
        std::memcpy(table.get(), coefficients.tables[i].get(), 2 * size * sizeof(T));
        any = true;
      }
      const double half = coefficients.frame_sign[index] * shift / 2;
      const T c = T(std::cos(half));
      const T turns[2] = {T(-std::sin(half)), T(std::sin(half))};
      const uint32_t z = (*rotations_)[index].z;
      for (int64_t b = 0; b < size; ++b) {
        const T s = turns[parity(z & uint32_t(b))];
        const T re = table[b], im = table[size + b];
        table[b] = c * re - s * im;
        table[size + b] = c * im + s * re;
      }
    }
    return any;
  }

  // Tables that all units share, when they fit; [evaluation], for its first diagonal step.
  void prepare_shifts() {
    if (request_.shifts.empty()) return;
    shift_tables_.clear();
    const size_t bytes = request_.shifts.size() * 2 * size_t(amplitudes()) * sizeof(T);
    if (bytes > kShiftTableBytes) return;
    shift_tables_.resize(request_.shifts.size());
    run_parts(int(request_.shifts.size()), threads_, [&](int e, int) {
      const int start = start_of(request_.shifts[e]);
      if (start < n_steps_ && shifts_table(start))
        shifted_table(shared_, start, request_.shifts[e], shift_tables_[e]);
    });
  }

  void run_shifts(Unit& unit, T* work) {
    const Coefficients<T>& coefficients = *unit.coefficients;
    const int n_observables = program_.n_observables;
    T* spare = fresh(unit);
    Aligned<T> own_table;
    for (size_t e = 0; e < request_.shifts.size(); ++e) {
      const ShiftedAngles& angles = request_.shifts[e];
      const int start = start_of(angles);
      const T* psi = unit.checkpoint[start];
      bool real = unit.real[start];
      if (unapply_psi_) {  // no prefix was kept: run from the start
        real = load(unit, work);
        for (int i = 0; i < start; ++i) real = forward_step(unit, i, work, work, real);
        psi = work;
      }
      const int n_forward = ends_fused_ ? n_steps_ - 1 : n_steps_;
      const T* last_table = nullptr;
      Turn turn{-1, 0};
      const T* pending = nullptr;
      for (int i = start - 1; i < n_steps_; ++i) {
        const bool in_table = i >= start && i >= 0 && shifts_table(i);
        const T* table = nullptr;
        if (in_table) {
          if (i == start && !shift_tables_.empty()) {
            table = shift_tables_[e].get();
          } else if (shifted_table(coefficients, i, angles, own_table)) {
            table = own_table.get();
          }
        }
        if (i >= n_forward) {
          last_table = table;
          break;
        }
        if (i >= start) {
          if (!pending && joins_next(unit, i, real)) {
            pending = table ? table : coefficients.tables[i].get();
            continue;
          }
          T* target = psi == work && pending ? spare : work;
          if (table) {
            diagonal(psi, target, table, false, real);
            real = false;
          } else {
            real = forward_step(unit, i, psi, target, real, pending);
          }
          pending = nullptr;
          if (target == spare) std::swap(work, spare);
          psi = work;
        }
        if (in_table || i < 0) continue;
        for (const auto& [index, shift] : angles) {
          if (step_of(index) != i) continue;
          const double angle = coefficients.frame_sign[index] * shift;
          const Rotation& r = (*rotations_)[index];
          if (i + 1 == n_forward && ends_fused_ && angles.size() == 1 && (r.x & lane_mask_) == 0 &&
              r.x) {
            turn = {index, angle};  // left to the walk that measures
            continue;
          }
          real = rotate(unit, index, psi, work, false, real, &angle);
          psi = work;
        }
      }
      for (int k = 0; k < n_observables; ++k) {
        double sums[kMaxLanes] = {};
        value_of(unit, k, psi, real, last_table, sums, turn.rotation >= 0 ? &turn : nullptr);
        write_values(unit, sums, coefficients.scale[n_steps_],
                     request_.shifted_values +
                         (int64_t(e) * request_.rows + unit.row) * n_observables + k,
                     n_observables);
      }
    }
    --unit.used;
  }

  const Program& program_;
  const Request<T>& request_;
  const KernelTable<T>* kernels_ = nullptr;
  const Schedule* schedule_ = nullptr;
  const std::vector<Rotation>* rotations_ = nullptr;
  Layout layout_{};
  const int threads_ = thread_count();  // read once: it may be changed while this runs
  int n_ = 0, n_line_bits_ = 0, n_steps_ = 0, lanes_ = 0, n_parts_ = 1, earliest_ = 0;
  int64_t n_lines_ = 0;
  uint32_t lane_mask_ = 0;
  size_t state_size_ = 0, dense_scratch_ = 0;
  bool may_flip_ = false, wants_gradient_ = false, unapply_psi_ = false, ends_fused_ = false;
  std::vector<char> keep_;
  std::vector<int> step_of_, first_sweeps_;
  std::vector<int32_t> term_step_, term_place_, term_slot_;
  std::vector<double> term_scale_;
  std::vector<uint32_t> slots_;  // 0, 1, ...
  std::vector<Aligned<T>> shift_tables_;
  std::vector<uint32_t> line_map_, real_line_map_;
  std::vector<Aligned<T>> group_tables_, constant_tables_;
  std::vector<bool> group_complex_;
  std::vector<DensePlan<T>> dense_plans_;
  Coefficients<T> shared_;
};

}  // namespace

template <class T>
void run(const Program& program, const Request<T>& request) {
  if (request.rows == 0) return;
  Runner<T>(program, request).run();
}
template void run(const Program&, const Request<float>&);
template void run(const Program&, const Request<double>&);

}  // namespace qdp
