// SPDX-License-Identifier: Apache-2.0
#include "isa.hpp"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <stdexcept>

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
#else
QDP_DECLARE(base)
#endif

namespace {

const std::vector<IsaEntry>& isa_entries() {
#ifdef QDP_X86
  static const std::vector<IsaEntry> entries = {
      {"avx512", &avx512::instruction_set_double, &avx512::instruction_set_float, 4,
       bool(__builtin_cpu_supports("x86-64-v4"))},
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


double fma_rate(double seconds) {
  const KernelTable<double>& kernels = isa().doubles->tables[0];
  const int threads = thread_count();
  std::vector<double> rates(threads);
  run_parts(threads, threads, [&](int part, int) {
    const auto start = std::chrono::steady_clock::now();
    const int64_t rounds = 1 << 16;
    int64_t done = 0;
    double elapsed = 0, sink = 0;
    while (elapsed < seconds) {
      sink += kernels.multiply_add(rounds);
      done += rounds;
      elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    rates[part] = double(done) * kMultiplyAddChains * kernels.lanes / elapsed + 0 * sink;
  });
  double total = 0;
  for (double rate : rates) total += rate;
  return total;
}

}  // namespace qdp
