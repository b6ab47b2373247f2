// SPDX-License-Identifier: Apache-2.0
// What stands in for libcuda.so.1 in tests/test_cuda_driver.py: two GPUs of host memory, on which
// everything happens at once. It knows the functions that cuda.core and CudaDevice call, refuses calls
// without a context, and runs kernels as plain C++ from the library that QDP_FAKE_KERNELS names, %c being
// the first letter of the precision. QDP_FAKE_FAIL=cuLaunchKernel:700 lets a function return that status.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace {
using Address = unsigned long long;
enum { kOutOfMemory = 2, kInvalidValue = 1, kNoContext = 201, kNotSupported = 801 };

struct Kernel {
  std::string name;
  char precision;
};
struct Memory {
  size_t bytes;
  int device;
};

long contexts[2];
std::vector<void*> current;
std::map<Address, Memory> memory, pinned;
std::map<std::string, int> counts;
size_t used = 0;
long handles = 1000;

// Counts a call; not zero where it is to fail.
int called(const char* name, bool in_context = true) {
  ++counts[name];
  const char* fail = std::getenv("QDP_FAKE_FAIL");
  const size_t length = std::strlen(name);
  if (fail && !std::strncmp(fail, name, length) && fail[length] == ':')
    return std::atoi(fail + length + 1);
  return in_context && current.empty() ? kNoContext : 0;
}
int device() { return current.back() == &contexts[1]; }

// The piece that an address lies in, or none.
const Memory* piece_at(const std::map<Address, Memory>& pieces, Address address) {
  auto found = pieces.upper_bound(address);
  if (found == pieces.begin()) return nullptr;
  --found;
  return address < found->first + found->second.bytes ? &found->second : nullptr;
}
int pointer_attribute(int which, void* value, Address address) {
  const Memory* piece = piece_at(memory, address);
  switch (which) {
    case 2:  // memory type: device or host
      return *static_cast<unsigned*>(value) = piece ? 2 : piece_at(pinned, address) ? 1 : 0, 0;
    case 8: *static_cast<unsigned*>(value) = 0; return 0;  // managed
    case 9: *static_cast<int*>(value) = piece ? piece->device : 0; return 0;
    default: return kNotSupported;
  }
}
int missing() {
  std::fprintf(stderr, "a function was called that the fake driver lacks\n");
  return kNotSupported;
}
}  // namespace

extern "C" {
int fake_count(const char* name) { return counts[name]; }
int fake_allocated() { return int(memory.size()); }
Address fake_allocate(size_t bytes, int on) {
  const Address address = Address(std::calloc(1, bytes));
  memory[address] = {bytes, on};
  return address;
}

int cuInit(unsigned) { return called("cuInit", false); }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGetCount(int* count) { return *count = 2, 0; }
int cuDeviceGet(int* found, int ordinal) { return *found = ordinal, 0; }
int cuDeviceGetUuid(void* uuid, int ordinal) { return std::memset(uuid, ordinal, 16), 0; }
int cuDeviceGetAttribute(int* value, int which, int) {
  // Compute capability 9.0, and shared memory of a block with opt-in.
  *value = which == 75 ? 9 : which == 76 ? 0 : which == 97 ? 232448 : 1;
  return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int on) { return *context = &contexts[on], 0; }
int cuDevicePrimaryCtxRelease(int) { return 0; }
int cuCtxGetCurrent(void** context) {
  return *context = current.empty() ? nullptr : current.back(), 0;
}
int cuCtxSetCurrent(void* context) {
  if (!current.empty()) current.pop_back();
  if (context) current.push_back(context);
  return 0;
}
int cuCtxPushCurrent(void* context) { return current.push_back(context), 0; }
int cuCtxPopCurrent(void** context) {
  if (current.empty()) return kNoContext;
  return *context = current.back(), current.pop_back(), 0;
}
int cuCtxGetDevice(int* found) { return current.empty() ? kNoContext : (*found = device(), 0); }
int cuCtxGetStreamPriorityRange(int* least, int* greatest) { return *least = 0, *greatest = -5, 0; }

int cuStreamCreateWithPriority(void** stream, unsigned, int) {
  return *stream = reinterpret_cast<void*>(handles += 8), called("cuStreamCreate");
}
int cuStreamDestroy(void*) { return 0; }
int cuStreamGetCtx(void*, void** context) { return *context = &contexts[0], 0; }
int cuStreamIsCapturing(void*, int* capturing) { return *capturing = 0, 0; }
int cuStreamSynchronize(void*) { return called("cuStreamSynchronize"); }
int cuStreamWaitEvent(void*, void* event, unsigned) {
  return event ? called("cuStreamWaitEvent") : int(kInvalidValue);
}
int cuEventCreate(void** event, unsigned) {
  return *event = reinterpret_cast<void*>(handles += 8), called("cuEventCreate");
}
int cuEventRecord(void*, void*) { return called("cuEventRecord"); }
int cuEventDestroy(void*) { return called("cuEventDestroy"); }

int cuMemGetMemPool(void** pool, void*, int) { return *pool = contexts, 0; }
int cuDeviceGetMemPool(void** pool, int) { return *pool = contexts, 0; }
int cuMemPoolGetAttribute(void*, int which, void* value) {
  return *static_cast<Address*>(value) = which == 5 || which == 7 ? used : 0, 0;
}
int cuMemPoolSetAttribute(void*, int, void*) { return 0; }
int cuMemAllocFromPoolAsync(Address* address, size_t bytes, void*, void*) {
  if (int status = called("cuMemAllocFromPoolAsync")) return status;
  *address = Address(std::malloc(bytes));
  std::memset(reinterpret_cast<void*>(*address), 255, bytes);
  memory[*address] = {bytes, device()};
  used += bytes;
  return 0;
}
int cuMemFreeAsync(Address address, void*) {
  if (!memory.count(address)) return kInvalidValue;
  used -= memory[address].bytes;
  memory.erase(address);
  std::free(reinterpret_cast<void*>(address));
  return called("cuMemFreeAsync", false);
}
int cuMemGetInfo(size_t* free, size_t* total) {
  return *free = size_t(1) << 30, *total = size_t(1) << 31, called("cuMemGetInfo");
}
int cuMemHostAlloc(void** host, size_t bytes, unsigned) {
  pinned[Address(*host = std::malloc(bytes))] = {bytes, 0};
  return called("cuMemHostAlloc");
}
int cuMemFreeHost(void* host) {
  if (!pinned.erase(Address(host))) return kInvalidValue;
  return std::free(host), called("cuMemFreeHost");
}
int cuMemcpyHtoDAsync(Address to, const void* from, size_t bytes, void*) {
  return std::memcpy(reinterpret_cast<void*>(to), from, bytes), called("cuMemcpyHtoDAsync");
}
int cuMemcpyDtoHAsync(void* to, Address from, size_t bytes, void*) {
  return std::memcpy(to, reinterpret_cast<void*>(from), bytes), called("cuMemcpyDtoHAsync");
}
int cuMemcpyDtoDAsync(Address to, Address from, size_t bytes, void*) {
  std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
  return called("cuMemcpyDtoDAsync");
}
int cuPointerGetAttribute(void* value, int which, Address address) {
  if (!piece_at(memory, address) && !piece_at(pinned, address)) return kInvalidValue;
  return pointer_attribute(which, value, address);
}
int cuPointerGetAttributes(unsigned count, int* which, void** values, Address address) {
  for (unsigned i = 0; i < count; ++i)
    if (int status = pointer_attribute(which[i], values[i], address)) return status;
  return 0;
}

int cuLibraryLoadData(void** library, const void* code, void*, void*, unsigned, void*, void*,
                      unsigned) {
  // The first letter of the "cubin" is that of the precision.
  *library = reinterpret_cast<void*>(long(*static_cast<const char*>(code)));
  return called("cuLibraryLoadData", false);
}
int cuLibraryUnload(void*) { return 0; }
int cuLibraryGetKernel(void** kernel, void* library, const char* name) {
  *kernel = new Kernel{name, char(reinterpret_cast<long>(library))};
  return called("cuLibraryGetKernel", false);
}
int cuKernelSetAttribute(int which, int value, void*, int) {
  return which == 8 && value == 232448 ? 0 : int(kInvalidValue);
}
int cuLaunchKernel(void* function, unsigned grid, unsigned y, unsigned z, unsigned block,
                   unsigned block_y, unsigned block_z, unsigned shared, void*, void** arguments,
                   void** extra) {
  if (int status = called("cuLaunchKernel")) return status;
  if (y != 1 || z != 1 || block_y != 1 || block_z != 1 || extra) return kInvalidValue;
  const Kernel* kernel = static_cast<Kernel*>(function);
  char path[4096];
  std::snprintf(path, sizeof path, std::getenv("QDP_FAKE_KERNELS"), kernel->precision);
  using Emulate = bool (*)(const char*, unsigned, unsigned, unsigned, bool, const void*);
  const auto emulate = reinterpret_cast<Emulate>(dlsym(dlopen(path, RTLD_NOW), "emulate"));
  const bool found = emulate(kernel->name.c_str(), grid, block, shared, false, arguments[0]);
  return found ? 0 : int(kNotSupported);
}
int cuGetErrorString(int status, const char** text) {
  return *text = status == kOutOfMemory ? "out of memory" : "it was not to be", 0;
}
int cuGetErrorName(int status, const char** text) {
  return *text = status == kOutOfMemory ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_FAKE", 0;
}
int cuGetProcAddress_v2(const char* name, void** function, int, unsigned long, int* status) {
  *function = dlsym(dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD), name);
  if (!*function) *function = reinterpret_cast<void*>(missing);
  if (status) *status = 0;
  return 0;
}
}
