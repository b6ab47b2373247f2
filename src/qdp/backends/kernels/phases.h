// SPDX-License-Identifier: Apache-2.0
// How a kernel is written once and run on two machines: by the GPU, and as plain C++ on the processor,
// where tests and sanitizers can see it.
//
// A kernel is a sequence of PHASEs. On the GPU a phase begins with a barrier; as plain C++ it is a
// loop over the threads of the block. So nothing may depend on threadIdx between phases, and what a
// thread keeps from one phase to the next lies in shared memory. The loop can also run backwards: a
// result that depends on the order of threads inside a phase is a race.
#pragma once
#ifdef __CUDACC__
#define DEVICE static __device__ __forceinline__
// What a kernel is told comes by value, in constant memory: a launch copies nothing by itself.
#define KERNEL(name)                                                                            \
  DEVICE void name##_body(const Call* call);                                                    \
  extern "C" __global__ void __launch_bounds__(512) name(const __grid_constant__ Call call) {   \
    name##_body(&call);                                                                         \
  }                                                                                             \
  DEVICE void name##_body(const Call* call)
#define PHASE for (bool once_ = (__syncthreads(), true); once_; once_ = false)
#define SHARED_BYTES(name) extern __shared__ __align__(16) unsigned char name[]
#define UNROLL _Pragma("unroll")

// Adds the values of a warp's threads to a number that belongs to the warp. All of them must call.
DEVICE void warp_add(double* place, double value) {
  for (int distance = 16; distance; distance /= 2)
    value += __shfl_down_sync(0xffffffffu, value, distance);
  if (threadIdx.x % 32 == 0) *place += value;
}
DEVICE unsigned parity(unsigned bits) { return __popc(bits) & 1; }
#else
#include <cmath>
#include <cstring>
#include <vector>
using std::cos;
using std::nan;
using std::sin;
using std::sqrt;
struct Index {
  unsigned x;
};
static thread_local Index threadIdx, blockIdx, blockDim, gridDim;
static thread_local bool backwards;
static thread_local unsigned char* shared_memory;
#define KERNEL(name) static void name(const Call* call)
#define DEVICE static inline
#define PHASE                                                                               \
  for (unsigned turn_ = 0; turn_ < blockDim.x &&                                            \
                           (threadIdx.x = backwards ? blockDim.x - 1 - turn_ : turn_, true); \
       ++turn_)
#define SHARED_BYTES(name) unsigned char* name = shared_memory
#define UNROLL
DEVICE void warp_add(double* place, double value) { *place += value; }
DEVICE unsigned parity(unsigned bits) { return unsigned(__builtin_parity(bits)); }
#endif
