// SPDX-License-Identifier: Apache-2.0
#include "program.hpp"

#include <algorithm>
#include <stdexcept>

namespace qdp {
namespace {

// A growing set of independent vectors over GF(2), kept reduced.
struct Span {
  std::vector<uint32_t> rows;  // reduced, each with its own pivot
  uint32_t reduce(uint32_t v) const {
    for (uint32_t row : rows) v = std::min(v, v ^ row);
    return v;
  }
  bool add(uint32_t v) {
    v = reduce(v);
    if (!v) return false;
    const uint32_t pivot = 1u << (31 - __builtin_clz(v));
    for (uint32_t& row : rows)
      if (row & pivot) row ^= v;
    rows.push_back(v);
    return true;
  }
  uint32_t pivots() const {
    uint32_t mask = 0;
    for (uint32_t row : rows) mask |= 1u << (31 - __builtin_clz(row));
    return mask;
  }
};

// Vectors u_j with z_i . u_j = [i = j] for the rows z of an invertible matrix over GF(2).
std::vector<uint32_t> dual_basis(std::vector<uint32_t> z, int n) {
  std::vector<uint32_t> inverse(n);
  for (int i = 0; i < n; ++i) inverse[i] = 1u << i;
  for (int column = 0; column < n; ++column) {
    int pivot = column;
    while (!(z[pivot] >> column & 1)) ++pivot;
    std::swap(z[pivot], z[column]);
    std::swap(inverse[pivot], inverse[column]);
    for (int i = 0; i < n; ++i) {
      if (i != column && (z[i] >> column & 1)) {
        z[i] ^= z[column];
        inverse[i] ^= inverse[column];
      }
    }
  }
  // inverse * z = 1, so column j of the inverse is the vector dual to row j of z.
  std::vector<uint32_t> dual(n, 0);
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j)
      if (inverse[i] >> j & 1) dual[j] |= 1u << i;
  return dual;
}

bool mixes_planes(const Rotation& r) { return (r.turns & 1) == 0; }

SweepPlan plan_sweep(const std::vector<Rotation>& all, std::vector<int> rotations,
                     const std::vector<int>& pass_bits, int n_line_bits, int lane_bits) {
  SweepPlan plan;
  Sweep& sweep = plan.sweep;
  sweep.bits = int(rotations.size());
  sweep.n_passes = int(pass_bits.size());
  std::copy(pass_bits.begin(), pass_bits.end(), sweep.pass_bits);
  sweep.plane_bit = 1u << n_line_bits;
  Span span;
  for (int j = 0; j < sweep.bits; ++j) {
    const Rotation& r = all[rotations[j]];
    span.add(r.x >> lane_bits);
    if (mixes_planes(r)) sweep.imaginary |= 1u << j;
  }
  const uint32_t pivots = span.pivots();
  std::vector<std::pair<uint32_t, uint32_t>> blocks;  // signs, first line
  for (uint32_t line = 0; line < sweep.plane_bit; ++line) {
    if (line & pivots) continue;
    uint32_t signs = 0;
    for (int j = 0; j < sweep.bits; ++j)
      signs |= uint32_t(parity(line & (all[rotations[j]].z >> lane_bits))) << j;
    blocks.emplace_back(signs, line);
  }
  // In sweeps of one pass blocks that turn the same way follow one another.
  if (sweep.n_passes == 1) std::sort(blocks.begin(), blocks.end());
  for (const auto& [signs, line] : blocks) {
    plan.sign.push_back(signs);
    plan.base.push_back(line);
  }
  const uint32_t size = 1u << sweep.bits;
  plan.offset.assign(size, 0);
  plan.negative.assign(size, 1);
  bool any_negative = false;
  for (uint32_t local = 0; local < size; ++local) {
    uint32_t offset = parity(local & sweep.imaginary) ? sweep.plane_bit : 0;
    int sign = 0;
    for (int j = 0; j < sweep.bits; ++j) {
      if (!(local >> j & 1)) continue;
      const Rotation& a = all[rotations[j]];
      offset ^= a.x >> lane_bits;
      for (int k = j + 1; k < sweep.bits; ++k) {
        if (!(local >> k & 1)) continue;
        const Rotation& b = all[rotations[k]];
        sign ^= parity(b.x & a.z) ^ (mixes_planes(a) && mixes_planes(b));
      }
    }
    plan.offset[local] = offset;
    if (sign) {
      plan.negative[local] = -1;
      any_negative = true;
    }
  }
  if (!any_negative) plan.negative.clear();
  plan.rotations = std::move(rotations);
  return plan;
}

void point_into(SweepPlan& plan) {
  plan.sweep.n_blocks = int64_t(plan.base.size());
  plan.sweep.base = plan.base.data();
  plan.sweep.sign = plan.sign.data();
  plan.sweep.offset = plan.offset.data();
  plan.sweep.negative = plan.negative.empty() ? nullptr : plan.negative.data();
}

// Cuts commuting rotations into sweeps of independent X masks, with passes of even size.
std::vector<SweepPlan> plan_sweeps(const std::vector<Rotation>& all, std::vector<int> rotations,
                                   int n_line_bits, int lane_bits, int max_pass_bits) {
  std::vector<SweepPlan> plans;
  while (!rotations.empty()) {
    Span span;
    std::vector<int> taken, left;
    for (int index : rotations)
      (span.add(all[index].x >> lane_bits) ? taken : left).push_back(index);
    rotations = std::move(left);
    const int m = int(taken.size());
    const int n_passes = (m + max_pass_bits - 1) / max_pass_bits;
    std::vector<int> sizes;
    for (int p = 0; p < n_passes; ++p) sizes.push_back((m + n_passes - 1 - p) / n_passes);
    size_t at = 0;
    for (int p = 0; p < n_passes;) {
      std::vector<int> bits, members;
      int total = 0;
      while (p < n_passes && total + sizes[p] <= kMaxSweepBits) {
        bits.push_back(sizes[p]);
        total += sizes[p++];
      }
      for (int i = 0; i < total; ++i) members.push_back(taken[at++]);
      plans.push_back(plan_sweep(all, members, bits, n_line_bits, lane_bits));
    }
  }
  // The widest last: the backward walk takes its gradients and undoes it in one go.
  std::stable_sort(plans.begin(), plans.end(), [](const SweepPlan& a, const SweepPlan& b) {
    return a.sweep.bits < b.sweep.bits;
  });
  return plans;
}

// Sample layout: rotations with X masks in the lanes, as many to a walk as its cosets allow.
std::vector<LanePlan> plan_lane_sweeps(const std::vector<Rotation>& all, std::vector<int> rotations,
                                       int n_line_bits, int lane_bits) {
  std::vector<LanePlan> plans;
  const uint32_t lane_mask = (1u << lane_bits) - 1;
  while (!rotations.empty()) {
    LanePlan plan;
    Span span;
    std::vector<uint32_t> axes;
    std::vector<int> left;
    for (int index : rotations) {
      const uint32_t line = all[index].x >> lane_bits;
      const bool inside = span.reduce(line) == 0;
      if (int(plan.rotations.size()) == kMaxLaneRotations ||
          (!inside && int(axes.size()) == kLaneBits)) {
        left.push_back(index);
        continue;
      }
      if (!inside) {
        span.add(line);
        axes.push_back(line);
      }
      plan.rotations.push_back(index);
    }
    rotations = std::move(left);
    // Full cosets keep the processor busy while one rotation waits for the one before it.
    for (int bit = 0; bit < n_line_bits && int(axes.size()) < kLaneBits; ++bit)
      if (span.add(1u << bit)) axes.push_back(1u << bit);
    const uint32_t size = 1u << axes.size();
    for (uint32_t e = 0; e < size; ++e)
      for (size_t j = 0; j < axes.size(); ++j)
        if (e >> j & 1) plan.sweep.offset[e] ^= axes[j];
    const uint32_t pivots = span.pivots();
    for (uint32_t line = 0; line < (1u << n_line_bits); ++line)
      if (!(line & pivots)) plan.base.push_back(line);
    for (int index : plan.rotations) {
      const Rotation& r = all[index];
      LaneRotation turn{0, r.x & lane_mask, r.z >> lane_bits, 0, r.turns};
      for (uint32_t e = 0; e < size; ++e) {
        if (plan.sweep.offset[e] == r.x >> lane_bits) turn.partner = e;
        turn.signs |= uint32_t(parity(plan.sweep.offset[e] & turn.z)) << e;
      }
      plan.turns.push_back(turn);
    }
    plan.sweep.n_rotations = int(plan.rotations.size());
    plan.sweep.n_blocks = int64_t(plan.base.size());
    plans.push_back(std::move(plan));
  }
  return plans;
}

std::vector<Tree> plan_trees(const std::vector<Rotation>& all, const std::vector<int>& words,
                             int n_line_bits, int lane_bits) {
  std::vector<Tree> trees;
  std::vector<int> left;
  for (int index : words)
    if (all[index].source != Source::constant) left.push_back(index);
  while (!left.empty()) {
    Tree tree;
    Span span;
    std::vector<uint32_t> masks;
    std::map<uint32_t, int> axis_of;
    std::vector<int> later;
    for (int index : left) {
      const uint32_t z = all[index].z >> lane_bits;
      const auto known = axis_of.find(z);
      if (z == 0) {
        tree.words.emplace_back(index, n_line_bits);
      } else if (known != axis_of.end()) {
        tree.words.emplace_back(index, known->second);
      } else if (span.add(z)) {
        axis_of[z] = int(masks.size());
        tree.words.emplace_back(index, int(masks.size()));
        masks.push_back(z);
      } else {
        later.push_back(index);
      }
    }
    for (int bit = 0; bit < n_line_bits && int(masks.size()) < n_line_bits; ++bit)
      if (span.add(1u << bit)) masks.push_back(1u << bit);
    tree.axis = dual_basis(masks, n_line_bits);
    tree.axis.push_back(0);
    trees.push_back(std::move(tree));
    left = std::move(later);
  }
  return trees;
}

constexpr size_t kFewestTableWords = 3;  // fewer cost less one at a time

// Takes out of `words` what is better applied as tables.
std::vector<RowTable> plan_row_tables(const std::vector<Rotation>& all, std::vector<int>& words,
                                      int n_line_bits) {
  std::vector<RowTable> tables;
  while (words.size() >= kFewestTableWords) {
    RowTable table;
    Span span;
    std::vector<uint32_t> masks;
    std::vector<int> left;
    for (int index : words) {
      if (span.add(all[index].z)) {
        masks.push_back(all[index].z);
        table.words.push_back(index);
      } else {
        left.push_back(index);
      }
    }
    if (table.words.size() < kFewestTableWords) break;
    for (int bit = 0; bit < n_line_bits; ++bit)
      if (span.add(1u << bit)) masks.push_back(1u << bit);
    const std::vector<uint32_t> axes = dual_basis(masks, n_line_bits);
    table.line.assign(size_t(1) << n_line_bits, 0);
    for (int j = 0; j < n_line_bits; ++j)
      for (uint32_t i = 0; i < (1u << j); ++i) table.line[1u << j | i] = table.line[i] ^ axes[j];
    tables.push_back(std::move(table));
    words = std::move(left);
  }
  return tables;
}

ScheduledStep plan_step(const std::vector<Rotation>& rotations, const Step& step,
                        const Layout& layout, int n_qubits) {
  ScheduledStep out;
  out.kind = step.kind;
  out.item = step.item;
  const int n_line_bits = n_qubits - layout.lane_bits;
  const uint32_t lane_mask = (1u << layout.lane_bits) - 1;
  for (int index : step.rotations)
    if (rotations[index].source != Source::constant) out.has_gradient = true;
  if (step.kind == StepKind::rotations) {
    std::vector<int> shared, per_row, across;
    out.keeps_real = true;
    for (int index : step.rotations) {
      const Rotation& r = rotations[index];
      if (mixes_planes(r)) out.keeps_real = false;
      if (r.x & lane_mask) {
        across.push_back(index);
      } else {
        (layout.varies(r) ? per_row : shared).push_back(index);
      }
    }
    out.sweeps = plan_sweeps(rotations, shared, n_line_bits, layout.lane_bits,
                             layout.max_pass_bits);
    out.row_sweeps = plan_sweeps(rotations, per_row, n_line_bits, layout.lane_bits,
                                 layout.max_pass_bits);
    out.lane_sweeps = plan_lane_sweeps(rotations, across, n_line_bits, layout.lane_bits);
  } else if (step.kind == StepKind::diagonal) {
    for (int index : step.rotations)
      (layout.varies(rotations[index]) ? out.singles : out.table_words).push_back(index);
    out.row_tables = plan_row_tables(rotations, out.singles, n_line_bits);
    out.trees = plan_trees(rotations, step.rotations, n_line_bits, layout.lane_bits);
  }
  return out;
}

std::vector<double> group_table(const ObservableGroup& g, int n_qubits) {
  const size_t size = size_t(1) << n_qubits;
  bool imaginary = false;
  for (const auto& c : g.c) imaginary |= c.imag() != 0;
  std::vector<double> table(imaginary ? 2 * size : size, 0.0);
  // Few words: signs directly. Many: one Walsh-Hadamard transform.
  const bool few = g.z.size() <= size_t(n_qubits);
  for (int part = 0; part < (imaginary ? 2 : 1); ++part) {
    double* out = table.data() + part * size;
    for (size_t i = 0; i < g.z.size(); ++i) {
      const double c = part ? g.c[i].imag() : g.c[i].real();
      if (few) {
        for (size_t b = 0; b < size; ++b) out[b] += parity(g.z[i] & uint32_t(b)) ? -c : c;
      } else {
        out[g.z[i]] += c;
      }
    }
    if (few) continue;
    for (size_t h = 1; h < size; h *= 2) {
      for (size_t i = 0; i < size; i += 2 * h) {
        for (size_t j = i; j < i + h; ++j) {
          const double p = out[j], q = out[j + h];
          out[j] = p + q;
          out[j + h] = p - q;
        }
      }
    }
  }
  return table;
}

}  // namespace

bool Program::only_rotations() const {
  for (const Step& step : steps)
    if (step.kind != StepKind::rotations && step.kind != StepKind::diagonal) return false;
  return true;
}

const Schedule& Program::schedule(const Layout& layout) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::unique_ptr<Schedule>& slot = schedules_[layout.key()];
  if (slot) return *slot;
  auto schedule = std::make_unique<Schedule>();
  schedule->layout = layout;
  schedule->place.lane_bits = layout.lane_bits;
  const Placement& place = schedule->place;
  const uint32_t mask = uint32_t((uint64_t(1) << n_qubits) - 1);
  for (Rotation r : rotations) {
    r.x = place(r.x);
    r.z = place.word(r.z) & mask;
    schedule->rotations.push_back(r);
  }
  for (ObservableGroup g : groups) {
    g.mask = place(g.mask);
    for (uint32_t& z : g.z) z = place.word(z) & mask;
    schedule->group_tables.push_back(group_table(g, n_qubits));
    schedule->groups.push_back(std::move(g));
  }
  schedule->steps.reserve(steps.size());
  for (const Step& step : steps)
    schedule->steps.push_back(plan_step(schedule->rotations, step, layout, n_qubits));
  for (ScheduledStep& step : schedule->steps) {
    for (SweepPlan& plan : step.sweeps) point_into(plan);
    for (SweepPlan& plan : step.row_sweeps) point_into(plan);
    for (LanePlan& plan : step.lane_sweeps) {
      plan.sweep.base = plan.base.data();
      plan.sweep.rotations = plan.turns.data();
    }
  }
  slot = std::move(schedule);
  return *slot;
}

}  // namespace qdp
