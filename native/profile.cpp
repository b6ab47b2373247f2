// SPDX-License-Identifier: Apache-2.0
#include "profile.hpp"

#include <atomic>
#include <chrono>
#include <cmath>

#include "isa.hpp"

namespace qdp {
namespace {

enum Kernel {
  kSweep, kSweepGradient, kDiagonal, kDiagonalGradient, kObservable, kMeasure, kLaneSweep,
  kLaneGradient, kRotate, kRotateGradient, kLoad, kStore, kProduct, kPhases, kDense, kKernels
};
const char* const kNames[kKernels] = {
    "sweep", "sweep_gradient", "diagonal", "diagonal_gradient", "observable", "measure",
    "lane_sweep", "lane_gradient", "rotate", "rotate_gradient", "load", "store", "product",
    "phases", "dense"};

struct Counter {
  std::atomic<int64_t> calls{0}, nanoseconds{0}, flops{0}, bytes{0};
};
Counter counters[kKernels];
std::atomic<bool> profiling{false};

struct Work {
  double flops, bytes;  // of one lane
};

// Letters: n lines walked, b rotations of a sweep.
template <class T>
Work work_of(const SweepCall<T>& call) {
  const double n = double(call.end - call.begin) * (call.n_sets - call.first_set) *
                   double(1 << call.sweep->bits);
  const double each = call.rows_form ? 3 : 2;
  return {(each * call.sweep->bits + (call.load_table ? 1 : 0)) * n, 2 * n};
}
template <class T>
Work gradient_work_of(const SweepCall<T>& call) {
  const double n = double(call.end - call.begin) * (call.n_sets - call.first_set) *
                   double(1 << call.sweep->bits);
  const double each = 2 + (call.unapply ? (call.rows_form ? 3 : 2) : 0);
  return {each * call.sweep->bits * n, (call.unapply ? 3 : 2) * n};
}
template <class T>
double planes(const T& call) {
  return call.real_psi ? 1 : 2;
}
template <class T>
Work work_of(const DiagonalCall<T>& call) {
  const double n = double(call.end - call.begin);
  return {(call.real_source ? 2 : 6) * n, (call.real_source ? 3 : 4) * n};
}
template <class T>
Work work_of(const DiagonalGradientCall<T>& call) {
  const double n = 8 * double(call.end - call.begin);
  const double undo = call.observable ? 12 + 2 * planes(call) : call.table ? 6 : 0;
  return {(undo + 2 * planes(call) - 1 + 2) * n, (planes(call) + (call.observable ? 2 : call.table ? 4 : 2)) * n};
}
template <class T>
Work work_of(const ObservableCall<T>& call) {
  const double n = double(call.end - call.begin);
  return {4 * planes(call) * n, (2 * planes(call) + (call.lambda ? 2 : 0)) * n};
}
template <class T>
Work work_of(const MeasureCall<T>& call) {
  const double n = double(call.end - call.begin);
  return {(10 + (call.rotated ? 3 * planes(call) : 0)) * n, planes(call) * n};
}
template <class T>
Work work_of(const LaneCall<T>& call) {
  const double n = double(call.end - call.begin) * (1 << kLaneBits);
  return {(call.tangent ? 4.0 : 6.0) * call.sweep->n_rotations * n, (call.real_source ? 3 : 4) * n};
}
template <class T>
Work gradient_work_of(const LaneCall<T>& call) {
  const double n = double(call.end - call.begin) * (1 << kLaneBits);
  const double undo = call.unapply ? (call.tangent ? 4 : 6) : 0;
  return {(2 * planes(call) + undo) * call.sweep->n_rotations * n,
          (planes(call) + (call.unapply ? 4 : 2)) * n};
}
template <class T>
Work work_of(const RotationCall<T>& call) {
  const double n = double(call.end - call.begin);
  return {(call.real_source ? 3 : 6) * n, (call.real_source ? 2 : 4) * n};
}
template <class T>
Work gradient_work_of(const RotationCall<T>& call) {
  const double n = double(call.end - call.begin);
  return {4 * n, (call.real_source ? 3 : 4) * n};
}
template <class T>
Work work_of(const DenseCall<T>& call) {
  const double n = double(call.end - call.begin) * double(call.size);
  return {8 * double(call.size) * n, 4 * n};
}

template <class T>
Work work_of(const ProductCall<T>& call) {
  const double n = std::exp2(call.n_bits + 1);
  return {(call.real ? 1 : 6) * n, (call.real ? 1.5 : 3) * n};
}
// Twice a table by doubling, then sums and a product a round.
template <class T>
Work work_of(const PhaseCall<T>& call) {
  const double n = std::exp2(call.n_bits);
  const double transforms = call.repeats - 1 + (call.closes ? 1 : 0);
  return {(12 + 2 * call.n_bits * transforms + 6 * (call.repeats - 1)) * n,
          (8 + 8 * transforms) * n};
}

template <class F>
void count(Kernel kernel, int lanes, size_t item, Work work, F run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  const auto spent = std::chrono::steady_clock::now() - start;
  Counter& counter = counters[kernel];
  counter.calls += 1;
  counter.nanoseconds += std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count();
  counter.flops += int64_t(work.flops * lanes);
  counter.bytes += int64_t(work.bytes * lanes * double(item));
}

// The wrappers of one table; WIDTH tells the tables of an instruction set apart.
template <class T, int WIDTH>
struct Wrapped {
  static const KernelTable<T>* base;
  static KernelTable<T> table;

#define QDP_WRAP(FUNCTION, CALL, KERNEL, WORK)                                                    \
  static void FUNCTION(const CALL<T>& call) {                                                     \
    count(KERNEL, base->lanes, sizeof(T), WORK(call), [&] { base->FUNCTION(call); });             \
  }
  QDP_WRAP(sweep, SweepCall, kSweep, work_of)
  QDP_WRAP(sweep_gradient, SweepCall, kSweepGradient, gradient_work_of)
  QDP_WRAP(diagonal, DiagonalCall, kDiagonal, work_of)
  QDP_WRAP(diagonal_gradient, DiagonalGradientCall, kDiagonalGradient, work_of)
  QDP_WRAP(observable, ObservableCall, kObservable, work_of)
  QDP_WRAP(measure, MeasureCall, kMeasure, work_of)
  QDP_WRAP(lane_sweep, LaneCall, kLaneSweep, work_of)
  QDP_WRAP(lane_gradient, LaneCall, kLaneGradient, gradient_work_of)
  QDP_WRAP(rotate, RotationCall, kRotate, work_of)
  QDP_WRAP(rotate_gradient, RotationCall, kRotateGradient, gradient_work_of)
  QDP_WRAP(dense, DenseCall, kDense, work_of)
  QDP_WRAP(product, ProductCall, kProduct, work_of)
  QDP_WRAP(phases, PhaseCall, kPhases, work_of)
#undef QDP_WRAP
  static void load(const T* const* rows, int64_t n, const uint32_t* line, T* target,
                   double* squares) {
    count(kLoad, base->lanes, sizeof(T), {2 * double(n), 2 * double(n)},
          [&] { base->load(rows, n, line, target, squares); });
  }
  static void store(const T* source, int64_t n, const uint32_t* line, const T* factor,
                    T* const* rows, int n_rows) {
    count(kStore, base->lanes, sizeof(T), {double(n), 2 * double(n)},
          [&] { base->store(source, n, line, factor, rows, n_rows); });
  }

  static const KernelTable<T>* around(const KernelTable<T>* kernels) {
    base = kernels;
    table = *kernels;
    table.sweep = sweep;
    table.sweep_gradient = sweep_gradient;
    table.diagonal = diagonal;
    table.diagonal_gradient = diagonal_gradient;
    table.observable = observable;
    table.measure = measure;
    table.lane_sweep = lane_sweep;
    table.lane_gradient = lane_gradient;
    table.rotate = rotate;
    table.rotate_gradient = rotate_gradient;
    table.dense = dense;
    table.load = load;
    table.store = store;
    table.product = product;
    table.phases = phases;
    return &table;
  }
};
template <class T, int WIDTH>
const KernelTable<T>* Wrapped<T, WIDTH>::base = nullptr;
template <class T, int WIDTH>
KernelTable<T> Wrapped<T, WIDTH>::table;

}  // namespace

void start_profile() {
  for (Counter& counter : counters)
    counter.calls = counter.nanoseconds = counter.flops = counter.bytes = 0;
  profiling = true;
}

std::vector<KernelRate> stop_profile() {
  profiling = false;
  std::vector<KernelRate> rates;
  for (int k = 0; k < kKernels; ++k) {
    const Counter& counter = counters[k];
    if (counter.calls == 0) continue;
    rates.push_back({kNames[k], counter.calls, 1e-9 * double(counter.nanoseconds),
                     double(counter.flops), double(counter.bytes)});
  }
  return rates;
}

template <class T>
const KernelTable<T>* profiled(const KernelTable<T>* kernels) {
  if (!profiling) return kernels;
  const bool widest = kernels == &isa().kernels<T>().tables[0];
  return widest ? Wrapped<T, 0>::around(kernels) : Wrapped<T, 1>::around(kernels);
}
template const KernelTable<double>* profiled(const KernelTable<double>*);
template const KernelTable<float>* profiled(const KernelTable<float>*);

}  // namespace qdp
