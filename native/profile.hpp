// SPDX-License-Identifier: Apache-2.0
// How long each kernel runs, and what it computes and moves meanwhile. Off, it costs nothing: the
// engine takes its kernels from one table, and profiling hands it another that wraps them.
#pragma once
#include <string>
#include <vector>

#include "plan.hpp"

namespace qdp {

struct KernelRate {
  std::string kernel;
  int64_t calls;
  double seconds;  // summed over threads
  double flops;    // real additions and multiplications
  double bytes;    // of lines and tables read and written, each time they are
};

// From here on runs are profiled, until `stop_profile`. Not meant for runs at the same time.
void start_profile();
std::vector<KernelRate> stop_profile();

// `kernels`, or its profiled sibling while profiling is on.
template <class T>
const KernelTable<T>* profiled(const KernelTable<T>* kernels);

}  // namespace qdp
