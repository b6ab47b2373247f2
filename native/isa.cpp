// SPDX-License-Identifier: Apache-2.0
#include "isa.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <stdexcept>

#include "memory.hpp"
#include "pool.hpp"

namespace qdp {

#define QDP_DECLARE(ISA)                                          \
  namespace ISA {                                                 \
  extern const InstructionSet<double> instruction_set_double;     \
  extern const InstructionSet<float> instruction_set_float;       \
  }
#ifdef QDP_X86
QDP_DECLARE(v2)
QDP_DECLARE(avx2)
QDP_DECLARE(avx512)
namespace avx512 {
extern const InstructionSet<double> split_instruction_set_double;
extern const InstructionSet<float> split_instruction_set_float;
}
#else
QDP_DECLARE(base)
#endif

namespace {

// In the order of preference.
const std::vector<IsaEntry>& isa_entries() {
#ifdef QDP_X86
  static const bool wide = bool(__builtin_cpu_supports("x86-64-v4"));
  static const IsaEntry fused = {"avx512", &avx512::instruction_set_double,
                                 &avx512::instruction_set_float, 4, wide};
  static const IsaEntry split = {"avx512-split", &avx512::split_instruction_set_double,
                                 &avx512::split_instruction_set_float, 4, wide};
  static const bool amd = bool(__builtin_cpu_is("amd"));
  static const std::vector<IsaEntry> entries = {
      amd ? split : fused,
      amd ? fused : split,
      {"avx2", &avx2::instruction_set_double, &avx2::instruction_set_float, 3,
       bool(__builtin_cpu_supports("x86-64-v3"))},
      {"sse4", &v2::instruction_set_double, &v2::instruction_set_float, 3, true}};
#else
  static const std::vector<IsaEntry> entries = {
      {"base", &base::instruction_set_double, &base::instruction_set_float, 4, true}};
#endif
  return entries;
}

std::atomic<const IsaEntry*> chosen_isa{nullptr};

}  // namespace

const IsaEntry& isa() {
  if (!chosen_isa) {
    if (const char* name = std::getenv("QDP_ISA")) {
      set_instruction_set(name);
    } else {
      for (const IsaEntry& entry : isa_entries()) {
        if (entry.present) {
          chosen_isa = &entry;
          break;
        }
      }
    }
  }
  return *chosen_isa;
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const IsaEntry& entry : isa_entries())
    if (entry.present) names.emplace_back(entry.name);
  return names;
}

void set_instruction_set(const std::string& name) {
  std::string known;
  for (const IsaEntry& entry : isa_entries()) {
    if (!entry.present) continue;
    if (name == entry.name) {
      chosen_isa = &entry;
      return;
    }
    known += known.empty() ? entry.name : std::string(", ") + entry.name;
  }
  throw std::invalid_argument("expected an instruction set this processor has (" + known +
                              "), got '" + name + "'");
}


// Sum over the threads of what `once` does, in units a second, for at least `seconds`.
template <class F>
static double rate(int threads, double seconds, F once) {
  std::vector<double> rates(threads);
  run_parts(threads, threads, [&](int part, int) {
    const auto start = std::chrono::steady_clock::now();
    double done = 0, elapsed = 0;
    while (elapsed < seconds) {
      done += once(part);
      elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    rates[part] = done / elapsed;
  });
  double total = 0;
  for (double one : rates) total += one;
  return total;
}

double fma_rate(double seconds) {
  const KernelTable<double>& kernels = isa().doubles->tables[0];
  const int64_t rounds = 1 << 16;
  std::atomic<double> sink{0};  // so that nothing is optimised away
  return rate(thread_count(), seconds, [&](int) {
    sink = kernels.multiply_add(rounds);
    return double(rounds) * kMultiplyAddChains * kernels.lanes;
  });
}

double triad_rate(int64_t bytes, double seconds, bool streaming) {
  const KernelTable<double>& kernels = isa().doubles->tables[0];
  const int64_t lines = bytes / (3 * int64_t(sizeof(double)) * kernels.lanes);
  const size_t size = size_t(lines) * kernels.lanes;
  const int threads = thread_count();  // read once: it may be changed while this runs
  std::vector<Aligned<double>> arrays(threads);
  for (Aligned<double>& array : arrays) array.resize(3 * size);
  run_parts(threads, threads, [&](int part, int) {
    std::fill(arrays[part].get(), arrays[part].get() + 3 * size, 1.0);
  });
  const int64_t repeats = std::max<int64_t>(1, (int64_t(1) << 20) / std::max<int64_t>(1, bytes));
  return rate(threads, seconds, [&](int part) {
    double* a = arrays[part].get();
    for (int64_t i = 0; i < repeats; ++i)
      kernels.triad(a + size, a + 2 * size, a, lines, streaming);
    return double(repeats) * 3 * double(size) * sizeof(double);
  });
}

}  // namespace qdp
