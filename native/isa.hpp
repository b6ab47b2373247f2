// SPDX-License-Identifier: Apache-2.0
// Which instruction set the kernels run with: the widest this processor has, or the one that
// QDP_ISA names.
#pragma once
#include <string>
#include <vector>

#include "plan.hpp"

namespace qdp {

struct IsaEntry {
  const char* name;
  const InstructionSet<double>* doubles;
  const InstructionSet<float>* floats;
  int max_pass_bits;  // 2^K lines and their operands must fit in the registers
  bool present;

  template <class T>
  const InstructionSet<T>& kernels() const {
    if constexpr (sizeof(T) == sizeof(double)) {
      return *doubles;
    } else {
      return *floats;
    }
  }
};

const IsaEntry& isa();

// Instruction sets compiled in and present on this processor, the best first. "avx512-split" is
// AVX-512 with the butterflies that suit AMD's processors.
std::vector<std::string> instruction_sets();
void set_instruction_set(const std::string& name);

// Fused multiply-adds a second, of doubles, that all threads reach together on registers alone.
double fma_rate(double seconds);

// Bytes a second that all threads move together in a = b + factor c, each over three arrays of
// `bytes` in all: two read, one written. With `streaming` stores go past the caches.
double triad_rate(int64_t bytes, double seconds, bool streaming);

}  // namespace qdp
